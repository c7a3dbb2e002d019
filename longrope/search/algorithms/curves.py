"""Families of factor curves with few variables, for searches that cannot afford one per pair.

A curve gives the logarithm of every factor; what is searched is a point of its variables, all zero at the
start and of about unit size. Letters of shapes: P rotary pairs, K variables.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from longrope.rope.methods import Geometry

Vector = NDArray[np.float64]

WIDTH = 0.7
"""a ramp's width at the start, in units of ln(turns): from 0.7 turns to 1.4"""


RAMPS = ((1.4, 0.7), (32.0, 1.0), (64.0, 2.0))
"""full turns between which a search's first ramps rise"""


class Curve(Protocol):
    """A family of curves."""

    @property
    def num_variables(self) -> int:
        """K."""

    def log_factors(self, point: Vector) -> Vector:
        """Return ln(factor) of every pair, shape (P,), at a point of shape (K,)."""

    def derivatives(self, point: Vector) -> Vector:
        """Return d ln(factor) / d variable, shape (P, K)."""


@dataclass(frozen=True, eq=False)
class Ramp:
    """Fast pairs unscaled, slow pairs scaled alike, and a ramp between: YaRN's shape with free ends.

    Its three variables move the ramp's middle by half a ln(turns), stretch its width, and raise the
    slow pairs' factor over the scale. At the start the middle is where a pair turns once within the
    window the model knows: LongRoPE2's critical dimension.
    Sources: Peng et al. 2023 (arXiv:2309.00071), section 3.2; Shang et al. 2025 (arXiv:2502.20082).
    """

    log_turns: Vector
    """ln(full turns of each pair within the window the model knows), shape (P,), falling"""
    scale: float
    """target length over the length of that window"""

    @property
    def num_variables(self) -> int:
        """Middle, width, height."""
        return 3

    def log_factors(self, point: Vector) -> Vector:
        """Return ln(factor) of every pair; linear in ln(turns) on the ramp."""
        place, _, height = self._shape(point)
        return np.asarray(np.clip(place, 0.0, 1.0) * height)

    def derivatives(self, point: Vector) -> Vector:
        """Return d ln(factor) by middle, width and height; only pairs on the ramp know its ends."""
        place, width, height = self._shape(point)
        on_ramp = ((place > 0) & (place < 1)) * height
        by_middle, by_width = on_ramp * 0.5 / width, on_ramp * -0.7 * (place - 0.5)
        return np.stack([by_middle, by_width, 0.25 * np.clip(place, 0.0, 1.0) * (height > 0)], 1)

    def _shape(self, point: Vector) -> tuple[Vector, float, float]:
        """Return each pair's position on the ramp, 0 at its fast end to 1, its width and height."""
        middle, width = 0.5 * point[0], float(WIDTH * np.exp(0.7 * point[1]))
        height = max(float(np.log(self.scale) + 0.25 * point[2]), 0.0)
        return np.asarray(0.5 + (middle - self.log_turns) / width), width, height


@dataclass(frozen=True, eq=False)
class Knots:
    """A curve bent at knots spread evenly over the pairs, straight in between."""

    start: Vector
    """ln(factor) of the curve that is bent, shape (P,)"""
    num_knots: int

    @property
    def num_variables(self) -> int:
        """One per knot: its addition to ln(factor)."""
        return self.num_knots

    @property
    def basis(self) -> Vector:
        """Weight of each knot at each pair, shape (P, K); rows sum to 1."""
        places = np.linspace(0, self.num_knots - 1, len(self.start))
        return np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(self.num_knots)[None, :]))

    def log_factors(self, point: Vector) -> Vector:
        """Return the start plus the bend."""
        return self.start + self.basis @ point

    def derivatives(self, point: Vector) -> Vector:
        """Return each knot's addition, which does not depend on the point."""
        del point
        return self.basis


def ramp_point(fast: float, slow: float) -> Vector:
    """Return the point of a ramp that rises from `fast` full turns to `slow`, as high as the scale."""
    width = np.log(fast / slow) / WIDTH
    return np.array([np.log(fast * slow), np.log(width) / 0.7, 0.0])


def log_turns(geometry: Geometry, base: Vector, source_length: int) -> Vector:
    """Return ln(full turns) of each pair within `source_length` tokens, shape (P,).

    Args:
        geometry: of the pretrained model.
        base: factors that the model was tuned under, shape (P,); 1 if it was not.
        source_length: window that the model knows, tokens.
    """
    return np.asarray(np.log(source_length / (geometry.periods * base)))
