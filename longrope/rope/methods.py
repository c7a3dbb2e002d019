"""Closed-form methods: each reduces to one factor per rotary pair.

To add one, write a function from geometry and scale to factors, and its row in METHODS.
Nothing here knows torch; P is the number of rotary pairs (rotary dimension / 2).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from longrope.rope.factors import RopeFactors

Factors = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Geometry of a model's rotary embedding."""

    num_pairs: int
    """P: rotary dimension / 2"""
    rope_theta: float
    """base of the rotary frequencies"""
    original_length: int
    """context window of the pretrained model, tokens"""
    partial_rotary_factor: float = 1.0
    """share of a head's dimensions that is rotated"""
    hidden_size: int | None = None
    """width of the model; None: not known"""

    @property
    def periods(self) -> Factors:
        """Tokens per full turn of each pair, shape (P,)."""
        return 2 * math.pi * self.rope_theta ** (np.arange(self.num_pairs) / self.num_pairs)


def critical_pair(geometry: Geometry) -> int:
    """Return the first pair that pretraining shows at most one full turn, from 0; P if all turn more.

    It is half of LongRoPE2's theoretical critical dimension, d_tcd = 2 ceil((d/2) log_theta(L / 2 pi)):
    pairs from it on must be scaled by at least target over original length, or meet unseen angles.

    Source: Shang et al. 2025, LongRoPE2 (arXiv:2502.20082).
    """
    turns = geometry.original_length / (2 * math.pi)
    pair = math.ceil(geometry.num_pairs * math.log(turns) / math.log(geometry.rope_theta))
    return min(max(pair, 0), geometry.num_pairs)


def unit_attention_scale(scale: float) -> float:
    """Return 1, whatever the scale."""
    del scale
    return 1.0


@dataclass(frozen=True)
class RopeMethod:
    """A closed form: factors and an attention scale from the scale, target over original length."""

    factors: Callable[[Geometry, float], Factors]
    """geometry, scale -> shape (P,)"""
    label: str
    """name in legends"""
    attention_scale: Callable[[float], float] = unit_attention_scale

    def __call__(self, geometry: Geometry, scale: float) -> Factors:
        """Return the factors at a scale, shape (P,)."""
        return self.factors(geometry, scale)


def none(geometry: Geometry, scale: float) -> Factors:
    """Return factors of 1: the pretrained embedding, whatever the scale."""
    del scale
    return np.ones(geometry.num_pairs)


def linear(geometry: Geometry, scale: float) -> Factors:
    """Return `scale` for every pair (position interpolation).

    Source: Chen et al. 2023 (arXiv:2306.15595), equation 4.
    """
    return np.full(geometry.num_pairs, float(scale))


def ntk(geometry: Geometry, scale: float) -> Factors:
    """Return scale^(i / (P - 1)): the base is raised so that the slowest pair is interpolated fully.

    Source: Peng et al. 2023, YaRN (arXiv:2309.00071), section 3.1 on NTK-aware interpolation.
    """
    return scale ** (np.arange(geometry.num_pairs) / (geometry.num_pairs - 1))


def dynamic_ntk(geometry: Geometry, scale: float) -> Factors:
    """Return NTK-aware factors of the base that transformers' `dynamic` rule uses at the target length.

    With its `factor` set to the scale and a sequence of scale * original tokens, the rule's base grows
    by scale * scale - (scale - 1) instead of by the scale.
    """
    return ntk(geometry, scale * scale - (scale - 1))


def yarn(
    geometry: Geometry, scale: float, *, beta_fast: float = 32.0, beta_slow: float = 1.0
) -> Factors:
    """Return YaRN's factors: fast pairs unscaled, slow pairs by `scale`, frequencies mixed between.

    Args:
        geometry: the model's rotary embedding.
        scale: target over original length.
        beta_fast: turns inside the original length above which a pair is not scaled.
        beta_slow: turns inside the original length below which a pair is scaled fully.

    Source: Peng et al. 2023, YaRN (arXiv:2309.00071), section 3.2; the ramp's ends are rounded to whole
    pairs as in transformers. Frequencies are mixed linearly, not factors.
    """

    def pair_with_turns(turns: float) -> float:
        ratio = geometry.original_length / (turns * 2 * math.pi)
        return geometry.num_pairs * math.log(ratio) / math.log(geometry.rope_theta)

    low = max(math.floor(pair_with_turns(beta_fast)), 0)
    high = min(math.ceil(pair_with_turns(beta_slow)), 2 * geometry.num_pairs - 1)
    high_end = high if high > low else low + 0.001
    ramp = np.clip((np.arange(geometry.num_pairs) - low) / (high_end - low), 0.0, 1.0)
    return 1.0 / (ramp / scale + (1.0 - ramp))


def ramp(geometry: Geometry, scale: float, *, fast: float, slow: float) -> Factors:
    """Return factors whose logarithm rises linearly in ln(turns): 1 above `fast` turns, `scale` below `slow`.

    Turns are full turns of a pair inside the original length. Unlike YaRN's, the ramp is of factors, not of
    frequencies, and its ends are not rounded to whole pairs.
    """
    turns = geometry.original_length / geometry.periods
    progress = np.log(fast / turns) / math.log(fast / slow)
    return np.asarray(scale ** np.clip(progress, 0.0, 1.0))


def yarn_attention_scale(scale: float) -> float:
    """Return 0.1 ln(scale) + 1, or 1 without extension (Peng et al. 2023, section 3.3)."""
    return 0.1 * math.log(scale) + 1.0 if scale > 1 else 1.0


def su_attention_scale(scale: float, original_length: float) -> float:
    """Return sqrt(1 + ln scale / ln original_length), transformers' default for `longrope`."""
    return math.sqrt(1 + math.log(scale) / math.log(original_length)) if scale > 1 else 1.0


def attention_scale(rule: str | float, *, scale: float, original_length: int) -> float:
    """Return the attention scale that a rule (`yarn`, `su` or a number) gives at a scale."""
    if rule == "yarn":
        return yarn_attention_scale(scale)
    if rule == "su":
        return su_attention_scale(scale, original_length)
    if isinstance(rule, str):
        raise ValueError(f"attention scale rule must be yarn, su or a number, got {rule!r}")
    return float(rule)


def closed_form(name: str, geometry: Geometry, target_length: int) -> RopeFactors:
    """Return a method's factors, with its attention scale, for a target length.

    Raises:
        ValueError: if `name` is not in METHODS.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    scale = max(1.0, target_length / geometry.original_length)
    return RopeFactors(
        factors=tuple(METHODS[name](geometry, scale).tolist()),
        attention_scale=METHODS[name].attention_scale(scale),
        original_length=geometry.original_length,
        target_length=target_length,
        rope_theta=geometry.rope_theta,
        partial_rotary_factor=geometry.partial_rotary_factor,
        hidden_size=geometry.hidden_size,
        method=name,
    )


METHODS: dict[str, RopeMethod] = {
    "none": RopeMethod(none, "no scaling"),
    "linear": RopeMethod(linear, "linear (PI)"),
    "ntk": RopeMethod(ntk, "NTK-aware"),
    "dynamic_ntk": RopeMethod(dynamic_ntk, "dynamic NTK"),
    "yarn": RopeMethod(yarn, "YaRN", yarn_attention_scale),
    # where the search `auto` starts: the pairs that turn about once, and nearly all
    "narrow_ramp": RopeMethod(partial(ramp, fast=1.4, slow=0.7), "narrow ramp"),
    "wide_ramp": RopeMethod(partial(ramp, fast=64.0, slow=2.0), "wide ramp"),
}
