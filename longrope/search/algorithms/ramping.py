"""CMA-ES on curves of few variables, few documents a generation, and a fair selection at the end.

Each generation is scored on documents drawn at random, the same for all its individuals: what makes a
document hard is then common to all and cancels in their ranks. An individual is what remains of a sample
after isotonic projection, bounds and the grid. The selection's cost counts like any other.
Source: Hansen 2016 (arXiv:1604.00772) for CMA-ES, by the package `cmaes`.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from cmaes import CMA

from longrope.search.algorithms.algorithm import Candidate
from longrope.search.algorithms.curves import (
    RAMPS,
    Curve,
    Ramp,
    Vector,
    log_turns,
    ramp_point,
)
from longrope.search.algorithms.problem import Problem
from longrope.search.algorithms.script import Rows, Script, Scripted, means
from longrope.search.algorithms.space import Individual
from longrope.settings.algorithms import RampSettings

Points: TypeAlias = Generator[list[Candidate], Rows, list[Vector]]
"""a part of a script that returns the points of a curve it passed"""
Start: TypeAlias = Generator[list[Candidate], Rows, tuple[Individual, Vector]]
"""a part of a script that returns an individual, and a point of a ramp"""

WORST = 1e6
"""stands for a loss that is not finite: CMA-ES ranks its samples and averages no loss"""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Budget of CMA-ES on one curve."""

    generation_size: int
    """individuals per generation"""
    num_generations: int
    step: float
    """first standard deviation of a variable"""


def spread(choices: Sequence[int], count: int) -> tuple[int, ...]:
    """Return at most `count` of some choices, evenly spread in their order, the first among them."""
    indices = np.linspace(0, len(choices) - 1, min(count, len(choices))).round().astype(int)
    return tuple(choices[index] for index in indices)


class Evolving(Scripted):
    """Base class: moves on a curve by CMA-ES, and selects at the end."""

    batch_documents: int

    def evolve(
        self, curve: Curve, budget: Budget, start: Individual, point: Vector | None = None
    ) -> Points:
        """Run CMA-ES on a curve, from a point or the zero, and return its mean after every generation."""
        mean = np.zeros(self.num_variables(curve))
        if point is not None:
            mean[: curve.num_variables] = point
        strategy = CMA(
            mean=mean,
            sigma=budget.step,
            population_size=budget.generation_size,
            seed=int(self.generator.integers(2**31)),
        )
        path: list[Vector] = []
        for _ in range(budget.num_generations):
            samples = [strategy.ask() for _ in range(budget.generation_size)]
            drawn = self.draw(self.batch_documents)
            rows = yield [
                Candidate(self.on(curve, sample, start), "cma", drawn) for sample in samples
            ]
            losses = [min(mean, WORST) for mean in means(rows)]
            strategy.tell(list(zip(samples, losses, strict=True)))
            path.append(strategy.mean.copy())
        return path

    def ends(self, curve: Curve, path: list[Vector], start: Individual) -> list[Individual]:
        """Return where a path of means ends: the average of its later half, and the last mean."""
        late = path[len(path) // 2 :]
        return [self.on(curve, point, start) for point in (np.mean(late, 0), path[-1])]

    def finish(self, finalists: Sequence[tuple[str, Individual]], start: Individual) -> Script:
        """Choose start tokens for the finalists, best first, and select; `start` competes."""
        first = finalists[0][1]
        chosen = yield from self.start_tokens(first, self.batch_documents)
        number = chosen.individual.num_start_tokens
        choices: dict[Individual, str] = {}
        for origin, individual in finalists:
            choices.setdefault(replace(individual, num_start_tokens=number), f"selection:{origin}")
        choices.setdefault(first, "selection:start_tokens")
        choices.setdefault(start, "selection:start")
        return (yield from self.selection(choices))


class Ramping(Evolving):
    """Base class: starts from the best preset ramp."""

    def __init__(
        self, problem: Problem, settings: RampSettings, num_documents: int, seed: int
    ) -> None:
        """Begin; preset ramps compete with the other seeds."""
        turns = log_turns(problem.geometry, np.array(problem.base), problem.source_length)
        self.ramp = Ramp(turns, problem.scale)
        starts = {f"ramp-{fast:g}-{slow:g}": ramp_point(fast, slow) for fast, slow in RAMPS}
        ramps = {
            name: problem.space.nearest(np.exp(self.ramp.log_factors(point)).tolist())
            for name, point in starts.items()
        }
        self.batch_documents = settings.batch_documents
        self._starts = {ramps[name]: point for name, point in starts.items()}
        self._start_documents = settings.start_documents
        choices = spread(problem.space.start_tokens, settings.start_token_choices)
        space = replace(problem.space, start_tokens=choices)
        super().__init__(space, {**problem.seeds, **ramps}, num_documents, seed)

    def begin(self) -> Start:
        """Return the best seed, and the point of the best ramp."""
        losses = yield from self.compare_seeds(self._start_documents)
        return self.best.individual, self._starts[min(self._starts, key=losses.__getitem__)]
