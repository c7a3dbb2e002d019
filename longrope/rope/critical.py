"""LongRoPE2's critical pair: the pairs that are searched, and the curve of those below them.

Pairs from the critical one on are searched within scale and twice the scale. Those below, which
pretraining has seen turn often, follow an NTK curve that meets the critical pair's factor.
Source: Shang et al. 2025, LongRoPE2 (arXiv:2502.20082), algorithms 1 and 2.
"""

import numpy as np

from longrope.errors import UserError
from longrope.rope.methods import Factors, Geometry, critical_pair

LEAST_PERIODS = 10
"""full turns within the original length that make a pair count as well trained"""


def ntk_below(factor: float, pair: int) -> Factors:
    """Return factor^(i / pair) for i below `pair`, shape (pair,): 1 at pair 0, `factor` at `pair`.

    This raises the base such that the critical pair gets its factor.
    """
    return float(factor) ** (np.arange(pair) / max(pair, 1))


def with_derived(slopes: Factors, pair: int) -> Factors:
    """Return derivatives by ln(factor) of searched pairs; 0 below `pair`, where factors follow it.

    Args:
        slopes: derivatives by ln(factor) of every pair alone, shape (P,).
        pair: the critical pair.
    """
    from_below = slopes[:pair] @ np.arange(pair) / max(pair, 1)
    return np.concatenate([np.zeros(pair), [slopes[pair] + from_below], slopes[pair + 1 :]])


def critical_pairs(setting: str | int | None, geometry: Geometry) -> tuple[int, ...]:
    """Return the candidates for the first searched pair, ascending; seeds have the last.

    Args:
        setting: None for all pairs; an index; `theory` for the first pair that pretraining shows at
            most one turn; `search` for that and every pair before it down to the last one that it
            shows at least 10.
        geometry: of the model.

    Raises:
        UserError: if no pair is left to search.
    """
    if setting is None:
        return (0,)
    last = setting if isinstance(setting, int) else critical_pair(geometry)
    if last >= geometry.num_pairs:
        raise UserError(
            f"search.critical_dimension {setting} is pair {last} of a model whose last pair is "
            f"{geometry.num_pairs - 1}, which leaves none to search; give a smaller index."
        )
    if setting != "search":
        return (last,)
    turns = geometry.original_length / geometry.periods
    well_trained = int((turns >= LEAST_PERIODS).sum())
    return tuple(range(max(well_trained - 1, 0), last + 1))
