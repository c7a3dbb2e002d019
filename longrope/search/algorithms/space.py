"""The search space of Ding et al. 2024 (arXiv:2402.13753), table 4: factors on a grid, and start tokens.

An individual holds whole grid levels, so equality is exact: factor i is 1 + grid * level i. Levels never
fall from one pair to the next, in every individual, by construction. Below a critical pair, if there is
one, factors are derived from its factor and not searched (`longrope.rope.critical`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longrope.rope.critical import ntk_below

Levels = NDArray[np.int64]


@dataclass(frozen=True)
class Individual:
    """One point of the space."""

    levels: tuple[int, ...]
    """grid steps above 1 of each searched pair, non-decreasing"""
    num_start_tokens: int
    critical_pair: int = 0
    """first searched pair"""
    attention_level: int = 0
    """steps above the lowest attention scale; 0 where it is not searched"""


@dataclass(frozen=True, kw_only=True)
class AttentionGrid:
    """The attention scales a search may take."""

    low: float
    high: float
    step: float
    start: float
    """value of the seeds, before rounding"""

    @property
    def top(self) -> int:
        """The highest level."""
        return int((self.high - self.low) / self.step + 1e-9)

    def scale(self, level: int) -> float:
        """Return the attention scale at a level."""
        return round(self.low + self.step * level, 10)

    def nearest(self, scale: float) -> int:
        """Return the level of the nearest attention scale."""
        return min(max(round((scale - self.low) / self.step), 0), self.top)

    @property
    def unit(self) -> float:
        """Change of the attention scale for a curve's variable of 1: a quarter of the range."""
        return (self.high - self.low) / 4


@dataclass(frozen=True, kw_only=True)
class Space:
    """Bounds, grid and start tokens of one search."""

    num_pairs: int
    """P: number of rotary pairs"""
    max_factor: float
    """upper bound of every factor"""
    grid: float
    """step of a factor"""
    start_tokens: tuple[int, ...]
    """candidates for the number of start tokens"""
    min_factor: float = 1.0
    """lower bound of the searched factors"""
    critical_pairs: tuple[int, ...] = (0,)
    """candidates for the first searched pair, rising; `nearest` takes the last"""
    attention: AttentionGrid | None = None
    """None where the attention scale is not searched"""

    @property
    def top(self) -> int:
        """The highest level."""
        return int((self.max_factor - 1) / self.grid + 1e-9)

    @property
    def bottom(self) -> int:
        """The lowest level of a searched pair."""
        return min(math.ceil((self.min_factor - 1) / self.grid - 1e-9), self.top)

    @property
    def restricted(self) -> bool:
        """Whether closed forms lie outside: some pairs are derived, or a factor of 1 is too low."""
        return self.critical_pairs != (0,) or self.bottom > 0

    def factors(self, individual: Individual) -> NDArray[np.float64]:
        """Return the factors of an individual, shape (P,), rounded to the grid's own decimals."""
        searched = 1 + self.grid * np.array(individual.levels)
        derived = ntk_below(searched[0], individual.critical_pair)
        return np.round(np.concatenate([derived, searched]), 10)

    def attention_scale(self, individual: Individual) -> float | None:
        """Return an individual's attention scale, None where it is not searched."""
        return self.attention.scale(individual.attention_level) if self.attention else None

    def nearest(self, factors: Sequence[float], num_start_tokens: int = 0) -> Individual:
        """Return the individual nearest to some factors, rounded, clipped and made non-decreasing.

        Only those of searched pairs count.
        """
        critical = self.critical_pairs[-1]
        levels = np.rint((np.asarray(factors)[critical:] - 1) / self.grid)
        levels = np.maximum.accumulate(np.clip(levels, self.bottom, self.top))
        start = min(self.start_tokens, key=lambda choice: abs(choice - num_start_tokens))
        attention = self.attention.nearest(self.attention.start) if self.attention else 0
        return Individual(_tuple(levels), start, critical, attention)

    def draw(self, generator: np.random.Generator) -> Individual:
        """Return a random individual: first the critical pair and its factor, then those above it.

        It has no start tokens, if that is a choice, and the attention scale of the seeds.
        """
        critical = int(generator.choice(self.critical_pairs))
        lowest = int(generator.integers(self.bottom, self.top + 1))
        above = np.sort(generator.integers(lowest, self.top + 1, self.num_pairs - critical - 1))
        attention = self.attention.nearest(self.attention.start) if self.attention else 0
        return Individual((lowest, *_tuple(above)), min(self.start_tokens), critical, attention)

    def mutate(
        self, parent: Individual, probability: float, generator: np.random.Generator
    ) -> Individual:
        """Redraw each coordinate with a probability, the others staying as they are.

        A run of redrawn pairs is drawn uniformly between the kept neighbours at its ends and sorted, so
        that the result is non-decreasing whatever is drawn and `probability` means what it says.
        """
        critical, levels = parent.critical_pair, parent.levels
        if len(self.critical_pairs) > 1 and generator.random() < probability:
            critical = int(generator.choice(self.critical_pairs))
            levels = self._from_pair(parent, critical, generator)
        levels = self._redrawn(levels, probability, generator)
        start = parent.num_start_tokens
        if generator.random() < probability:
            start = int(generator.choice(self.start_tokens))
        attention = parent.attention_level
        if self.attention and generator.random() < probability:
            attention = int(generator.integers(0, self.attention.top + 1))
        return Individual(levels, start, critical, attention)

    def _from_pair(
        self, parent: Individual, critical: int, generator: np.random.Generator
    ) -> tuple[int, ...]:
        """Return the levels from another critical pair on; missing ones are drawn."""
        missing = max(parent.critical_pair - critical, 0)
        drawn = generator.integers(self.bottom, parent.levels[0] + 1, missing)
        inherited = parent.levels[max(critical - parent.critical_pair, 0) :]
        return (*_tuple(np.sort(drawn)), *inherited)

    def _redrawn(
        self, parent: tuple[int, ...], probability: float, generator: np.random.Generator
    ) -> tuple[int, ...]:
        redrawn = generator.random(len(parent)) < probability
        levels = list(parent)
        index = 0
        while index < len(levels):
            if not redrawn[index]:
                index += 1
                continue
            end = index
            while end < len(levels) and redrawn[end]:
                end += 1
            low = levels[index - 1] if index else self.bottom
            high = levels[end] if end < len(levels) else self.top
            levels[index:end] = np.sort(generator.integers(low, high + 1, end - index)).tolist()
            index = end
        return tuple(levels)

    def cross(
        self, first: Individual, second: Individual, generator: np.random.Generator
    ) -> Individual:
        """Take each level from either parent and sort; take each other coordinate from either.

        A pair that only one parent searches is taken from that one.
        """
        parents = (first, second)
        critical = first.critical_pair
        if len(self.critical_pairs) > 1:
            critical = parents[int(generator.integers(2))].critical_pair
        ours, theirs = (
            self._levels_from(critical, *parents),
            self._levels_from(critical, *parents[::-1]),
        )
        chosen = np.where(generator.random(self.num_pairs - critical) < 0.5, ours, theirs)
        start = parents[int(generator.integers(2))].num_start_tokens
        attention = first.attention_level
        if self.attention:
            attention = parents[int(generator.integers(2))].attention_level
        return Individual(_tuple(np.sort(chosen)), start, critical, attention)

    def _levels_from(self, critical: int, parent: Individual, other: Individual) -> Levels:
        """Return one parent's levels from a pair on, missing ones from the other."""
        missing = range(critical, parent.critical_pair)
        lent = [other.levels[pair - other.critical_pair] for pair in missing]
        return np.array([*lent, *parent.levels[max(critical - parent.critical_pair, 0) :]])


def _tuple(levels: Levels | NDArray[np.float64]) -> tuple[int, ...]:
    return tuple(int(level) for level in levels)
