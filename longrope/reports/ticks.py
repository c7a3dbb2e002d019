"""Values at which a logarithmic axis is labelled, so that a reader who interpolates is not far off."""

import math
from itertools import pairwise

LADDERS = (
    (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 2.0, 5.0),
)
"""multiples of a power of ten, the closest first"""
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
EVEN = 2.5
"""A range this small looks nearly the same on both scales, and evenly spaced numbers serve it."""
EVEN_STEPS = 7
"""at most, from one end of such a range to the other"""


def log_ticks(low: float, high: float, gap: float = 0.065) -> list[float]:
    """Return round numbers from `low` to `high`, no two closer than labels may be.

    Args:
        low: positive end of the axis.
        high: its other end.
        gap: least distance of two labels, as a share of the axis.
    """
    if high <= EVEN * low:
        return _even(low, high)
    for ladder in LADDERS:
        if _closest(ladder) >= gap * math.log10(high / low):
            return _rungs(low, high, ladder)
    powers = _rungs(low, high, (1.0,))
    return powers[:: math.ceil(gap * math.log10(high / low))]


def minor_log_ticks(low: float, high: float) -> list[float]:
    """Return the multiples of powers of ten in a range, unlabelled: their spacing shows the scale."""
    few = EVEN * low < high < 1e9 * low
    return _rungs(low, high, tuple(map(float, range(1, 10)))) if few else []


def tick_label(value: float) -> str:
    """Return a plain number."""
    return f"{value:,.0f}" if 1000 <= value < 1e6 else f"{value:g}"


def _closest(ladder: tuple[float, ...]) -> float:
    """Return the least distance of two neighbours on a ladder, in powers of ten."""
    return min(math.log10(after / before) for before, after in pairwise((*ladder, 10.0)))


def _rungs(low: float, high: float, ladder: tuple[float, ...]) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # by a string, because 3 * 10**-1 is not 0.3
    rungs = [float(f"{step}e{decade}") for decade in decades for step in ladder]
    return [rung for rung in rungs if low <= rung <= high]


def _even(low: float, high: float) -> list[float]:
    """Return evenly spaced multiples of a round step."""
    if not low < high:
        return [low]
    rough = (high - low) / EVEN_STEPS
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(step for step in STEPS if step * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step), math.floor(high / step)
    ticks = [float(f"{number * step:.12g}") for number in range(first, last + 1)]
    return [tick for tick in ticks if low <= tick <= high]
