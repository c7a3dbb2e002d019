"""The evolution of the authors' public code (microsoft/LongRoPE, `dim_mono`, August 2024), to compare.

It differs from the published algorithm, and nothing here is recommended: one seed, YaRN's ramp mixed over
factors instead of frequencies; bound 1 + scale; no start tokens; a mutation that redraws one pair after the
other and starts over until the result is non-decreasing and new, so that p means little; a crossover that
stops at its first valid change and falls back to a mutation. Documents are the first of the corpus there;
here they are drawn by seed, as for all algorithms.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from longrope.rope.methods import yarn
from longrope.search.algorithms.algorithm import Candidate
from longrope.search.algorithms.evolution import Generations
from longrope.search.algorithms.problem import Problem
from longrope.search.algorithms.space import Individual, Space
from longrope.settings.algorithms import PublicEvolutionSettings

REDRAWN = 0.3
"""chance that a sweep changes a pair; a constant there"""
CROSSOVER_TRIES = 20
SWEEPS = 10_000
"""sweeps after which a mutation is given up; the public code has no limit"""

Levels = NDArray[np.int64]


class PublicEvolution(Generations):
    """One search: ask, score, tell, until `finished`."""

    def __init__(
        self,
        space: Space,
        start: Individual,
        settings: PublicEvolutionSettings,
        num_documents: int,
        seed: int,
    ) -> None:
        super().__init__(space, settings, num_documents, seed)
        self._start = start
        self._seen: set[tuple[int, ...]] = set()

    def ask(self) -> list[Candidate]:
        """Return the seed and its mutations, then mutations and crossovers of the parents."""
        made = self._first_generation() if self.iteration == 0 else self._children()
        return [
            Candidate(Individual(levels, self._start.num_start_tokens), origin, self.documents)
            for levels, origin in made
        ]

    def _first_generation(self) -> list[tuple[tuple[int, ...], str]]:
        start = self._start.levels
        self._seen.add(start)
        mutations = [self._mutation(start) for _ in range(self.settings.population_size - 1)]
        return [(start, "seed:mixed"), *((levels, "mutation") for levels in mutations)]

    def _children(self) -> list[tuple[tuple[int, ...], str]]:
        parents = [parent.individual.levels for parent in self.parents]
        draw = self._generator
        mutations = [
            self._mutation(parents[int(draw.integers(len(parents)))])
            for _ in range(self.settings.num_mutations)
        ]
        made = [(levels, "mutation") for levels in mutations]
        for _ in range(self.settings.num_crossovers):
            first, second = sorted(draw.choice(len(parents), 2, replace=False).tolist())
            crossed = self._crossover(parents[first], parents[second])
            made.append(
                (crossed, "crossover") if crossed else (self._mutation(parents[first]), "mutation")
            )
        return made

    def _mutation(self, parent: tuple[int, ...]) -> tuple[int, ...]:
        levels = np.array(parent)
        for _ in range(SWEEPS):
            if self._is_valid(levels):
                break
            self._sweep(levels)
        # As it is when valid; a mutation that is given up may have drifted beyond the bound.
        levels = np.minimum(np.maximum.accumulate(levels), self.space.top)
        self._seen.add(_key(levels))
        return _key(levels)

    def _sweep(self, levels: Levels) -> None:
        """Redraw pairs in turn between their neighbours, the upper bound included and one step more.

        The public code lists the values with a floating point range that ends one step above the next
        factor, which takes in that step about every second time.
        """
        last = len(levels) - 1
        for pair in np.flatnonzero(self._generator.random(len(levels)) < REDRAWN):
            low = levels[pair - 1] if pair else 0
            over = int(self._generator.random() < 0.5)
            high = levels[pair + 1] + over if pair < last else self.space.top
            if pair == 0:
                high = levels[1] - 1
            if high >= low:
                levels[pair] = self._generator.integers(low, high + 1)

    def _crossover(self, first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...] | None:
        if first == second:
            return None
        levels = np.array(first)
        for _ in range(CROSSOVER_TRIES):
            for pair in np.flatnonzero(self._generator.random(len(levels)) < REDRAWN):
                if self._generator.random() < 0.5:
                    levels[pair] = second[pair]
                if self._is_valid(levels):
                    self._seen.add(_key(levels))
                    return _key(levels)
        return None

    def _is_valid(self, levels: Levels) -> bool:
        return bool((np.diff(levels) >= 0).all()) and _key(levels) not in self._seen


def _key(levels: Levels) -> tuple[int, ...]:
    return tuple(int(level) for level in levels)


def mixed_seed(space: Space, ramp: Sequence[float], scale: float) -> Individual:
    """Return the public code's seed: 1 and the scale mixed linearly over factors by YaRN's ramp.

    Args:
        space: grid and bounds.
        ramp: shape (P,), 0 where a pair is not scaled, 1 where it is scaled fully.
        scale: target over original length.
    """
    return space.nearest([1 + (scale - 1) * float(part) for part in ramp])


def make(
    problem: Problem, settings: PublicEvolutionSettings, num_documents: int, seed: int
) -> PublicEvolution:
    """Return the algorithm of the public code on a problem: its own seed and bound."""
    space, scale = problem.space, problem.scale
    bounded = Space(
        num_pairs=space.num_pairs, max_factor=1 + scale, grid=space.grid, start_tokens=(0,)
    )
    # YaRN mixes frequencies: its ramp is what its factors say of them.
    unscaled = [0.0] * space.num_pairs
    ramp = (1 - 1 / yarn(problem.geometry, scale)) / (1 - 1 / scale) if scale > 1 else unscaled
    start = mixed_seed(bounded, list(ramp), scale)
    return PublicEvolution(bounded, start, settings, num_documents, seed)
