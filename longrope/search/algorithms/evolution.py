"""The evolution of Ding et al. 2024 (arXiv:2402.13753), algorithms 1 and 2, as ask and tell.

It sees no model: `ask` gives individuals to score, `tell` takes their losses. Every individual is valid and
new by construction. Deterministic for a seed and given losses; equal losses rank by order of asking.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from longrope.search.algorithms.algorithm import Best, Candidate, Loss
from longrope.search.algorithms.problem import Problem
from longrope.search.algorithms.space import Individual, Space
from longrope.settings.algorithms import EvolutionSettings

ATTEMPTS = 200
"""Tries at an individual not seen before; a space that small is exhausted for all purposes."""


@dataclass(frozen=True, order=True)
class ScoredCandidate:
    """A candidate's loss; sorts by loss, then by order of asking."""

    loss: float
    order: int
    individual: Individual


class Generations:
    """Base class: a first generation, iterations, and the best individuals as parents."""

    def __init__(
        self, space: Space, settings: EvolutionSettings, num_documents: int, seed: int
    ) -> None:
        self.space = space
        self.settings = settings
        self.documents = tuple(range(num_documents))
        self.iteration = 0
        self.parents: list[ScoredCandidate] = []
        self._generator = np.random.default_rng(seed)
        self._asked = 0

    @property
    def finished(self) -> bool:
        """Whether the first generation and all iterations have losses."""
        return self.iteration > self.settings.num_iterations

    @property
    def best(self) -> Best:
        """The best scored individual so far."""
        return Best(self.parents[0].individual, self.parents[0].loss)

    def tell(self, candidates: Sequence[Candidate], losses: Sequence[Sequence[Loss]]) -> None:
        """Take the losses of the candidates that `ask` returned; a loss that is not finite ranks last."""
        for candidate, row in zip(candidates, losses, strict=True):
            mean = float(np.mean([loss.value for loss in row]))
            ranked = mean if math.isfinite(mean) else math.inf
            self.parents.append(ScoredCandidate(ranked, self._asked, candidate.individual))
            self._asked += 1
        self.parents = sorted(self.parents)[: self.settings.num_parents]
        self.iteration += 1


class Evolution(Generations):
    """One search: ask, score, tell, until `finished`."""

    def __init__(
        self,
        problem: Problem,
        settings: EvolutionSettings,
        num_documents: int,
        seed: int,
    ) -> None:
        super().__init__(problem.space, settings, num_documents, seed)
        self._seeds = dict(problem.seeds)
        self._seen: set[Individual] = set()

    def ask(self) -> list[Candidate]:
        """Return the unseen individuals of this iteration."""
        return self._first_generation() if self.iteration == 0 else self._next_generation()

    def _first_generation(self) -> list[Candidate]:
        """The seeds, then random mutations of them in turn.

        In a restricted space the seeds are alike, so random individuals follow instead, as in LongRoPE2
        (Shang et al. 2025, arXiv:2502.20082, algorithm 1).
        """
        chosen = [
            Candidate(individual, f"seed:{name}", self.documents)
            for name, individual in self._seeds.items()
            if self._is_new(individual)
        ]
        names = list(self._seeds)
        missing = self.settings.population_size - len(chosen)

        def mutated(index: int) -> Individual:
            return self._mutation(self._seeds[names[index % len(names)]])

        def drawn(index: int) -> Individual:
            del index
            return self.space.draw(self._generator)

        if self.space.restricted:
            return chosen + self._new(missing, "random", drawn)
        return chosen + self._new(missing, "mutation", mutated)

    def _next_generation(self) -> list[Candidate]:
        """N1 mutations of random parents and N2 crossovers of two."""

        def mutated(index: int) -> Individual:
            del index
            return self._mutation(self._parent())

        def crossed(index: int) -> Individual:
            del index
            return self.space.cross(self._parent(), self._parent(), self._generator)

        mutations = self._new(self.settings.num_mutations, "mutation", mutated)
        return mutations + self._new(self.settings.num_crossovers, "crossover", crossed)

    def _parent(self) -> Individual:
        return self.parents[int(self._generator.integers(len(self.parents)))].individual

    def _mutation(self, parent: Individual) -> Individual:
        return self.space.mutate(parent, self.settings.mutation_probability, self._generator)

    def _new(self, count: int, origin: str, make: Callable[[int], Individual]) -> list[Candidate]:
        """Return up to `count` unseen individuals; parents too alike for a new child get a mutation."""
        unseen: list[Candidate] = []
        for index in range(max(0, count)):
            for attempt in range(ATTEMPTS):
                crossing_failed = attempt >= ATTEMPTS // 2 and origin == "crossover"
                individual = self._mutation(self._parent()) if crossing_failed else make(index)
                if self._is_new(individual):
                    unseen.append(Candidate(individual, origin, self.documents))
                    break
        return unseen

    def _is_new(self, individual: Individual) -> bool:
        if individual in self._seen:
            return False
        self._seen.add(individual)
        return True


make = Evolution
