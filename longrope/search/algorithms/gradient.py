"""Descent along the gradient of the loss by the three variables of a ramp, one document a step.

Those leave the fast pairs alone, whose angles are thousands of radians and whose gradient is noise.

Steps are Adam's (Kingma and Ba 2015, arXiv:1412.6980), shrunk linearly, because the gradient of one
document is noisy.
"""

from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np

from longrope.rope.critical import with_derived
from longrope.search.algorithms.algorithm import Candidate
from longrope.search.algorithms.curves import Curve, Vector
from longrope.search.algorithms.problem import Problem
from longrope.search.algorithms.ramping import Points, Ramping
from longrope.search.algorithms.script import Rows, Script
from longrope.search.algorithms.space import Individual
from longrope.settings.algorithms import GradientSettings

LAST_STEP = 0.1
"""the last step's size over the first one's"""


@dataclass
class Adam:
    """Adam's memory of the gradient, with the rates of its averages; K variables."""

    num_variables: int
    first_rate: float = 0.8
    second_rate: float = 0.95
    _count: int = 0
    _first: Vector = field(init=False)
    _second: Vector = field(init=False)

    def __post_init__(self) -> None:
        self._first = np.zeros(self.num_variables)
        self._second = np.zeros(self.num_variables)

    def direction(self, gradient: Vector) -> Vector:
        """Return the step against a gradient of shape (K,), about 1 in every variable."""
        self._count += 1
        self._first += (1 - self.first_rate) * (gradient - self._first)
        self._second += (1 - self.second_rate) * (gradient**2 - self._second)
        mean = self._first / (1 - self.first_rate**self._count)
        square = self._second / (1 - self.second_rate**self._count)
        return np.asarray(-mean / (np.sqrt(square) + 1e-8))


class Gradient(Ramping):
    """A path of steps against the gradient, by a ramp's three variables."""

    def __init__(
        self, problem: Problem, settings: GradientSettings, num_documents: int, seed: int
    ) -> None:
        self._num_steps = settings.num_steps
        self._step = settings.step
        super().__init__(problem, settings, num_documents, seed)

    def _script(self) -> Script:
        start, point = yield from self.begin()
        path = yield from self._descend(self.ramp, start, point)
        average, last = self.ends(self.ramp, path, start)
        return (yield from self.finish([("average", average), ("last", last)], start))

    def _descend(self, curve: Curve, start: Individual, begin: Vector) -> Points:
        """Descend on a curve by shrinking steps; return every point but the first."""
        point = np.zeros(self.num_variables(curve))
        point[: curve.num_variables] = begin
        adam = Adam(len(point))
        path: list[Vector] = []
        for number in range(self._num_steps):
            slope = yield from self._slope(curve, point, start)
            shrunk = 1 - (1 - LAST_STEP) * number / self._num_steps
            point = point + self._step * shrunk * adam.direction(slope)
            path.append(point)
        return path

    def _slope(
        self, curve: Curve, point: Vector, start: Individual
    ) -> Generator[list[Candidate], Rows, Vector]:
        """Return the loss's derivatives by the variables, shape (K,); 0 where it is not finite.

        Rounding and projection are taken to change nothing.
        """
        individual = self.on(curve, point, start)
        drawn = self.draw(self.batch_documents)
        (row,) = yield [Candidate(individual, "gradient", drawn, gradient=True)]
        mean = np.mean([loss.gradient or () for loss in row], axis=0)
        *by_pair, by_scale = np.nan_to_num(mean, posinf=0.0, neginf=0.0)
        pairs = curve.derivatives(point[: curve.num_variables])
        slopes = pairs.T @ with_derived(np.array(by_pair), individual.critical_pair)
        if (grid := self.space.attention) is None:
            return np.asarray(slopes)
        # d ln a = unit / a for a variable's d
        return np.append(slopes, by_scale * grid.unit / grid.scale(individual.attention_level))


make = Gradient
