"""Units of a search: the score of one text under some factors, wherever it is computed.

A unit says all that its score depends on but the model, so that any worker may score it, and another one
if that worker is lost.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from longrope.rope.factors import RopeFactors


@dataclass(frozen=True, eq=False)
class Text:
    """Tokens to score factors on, and which of them count."""

    tokens: NDArray[np.int64]
    """shape (T,), at least 2"""
    key: Mapping[str, Any]
    """identifies its tokens and the counted ones in the score memory; JSON"""
    scored_from: int = 1
    """first predicted token whose loss counts, at least 1"""

    @property
    def num_scored(self) -> int:
        """Tokens whose loss counts."""
        return len(self.tokens) - self.scored_from


@dataclass(frozen=True, eq=False)
class Unit:
    """One score: of factors on a text."""

    factors: RopeFactors
    text: Text
    gradient: bool = False
    """whether the gradient is wanted as well"""

    def __str__(self) -> str:
        """Describe the unit for a log."""
        return ", ".join(f"{name} {value}" for name, value in self.text.key.items())


@dataclass(frozen=True)
class Score:
    """Score of a unit. Sums, because the score memory holds sums."""

    nll: float
    """nats, summed over the tokens that count; may be NaN or infinite"""
    num_tokens: int
    """tokens that count"""
    gradient: tuple[float, ...] | None = None
    """d nll / d ln factor by rotary pair, then d nll / d ln attention scale, where it was wanted"""

    @property
    def loss(self) -> float:
        """Nats per token that counts; inf if it is not finite."""
        mean = self.nll / self.num_tokens
        return mean if math.isfinite(mean) else math.inf

    @property
    def mean_gradient(self) -> tuple[float, ...] | None:
        """Derivatives of the loss, where they were computed."""
        if self.gradient is None:
            return None
        return tuple(slope / self.num_tokens for slope in self.gradient)


class Worker(Protocol):
    """Scores units, one after the other."""

    def score(self, unit: Unit) -> Score:
        """Return the score of a unit; the same in every worker, whatever it scored before."""
