"""CMA-ES on knots that bend the best closed form."""

import numpy as np

from longrope.search.algorithms.curves import Knots
from longrope.search.algorithms.problem import Problem
from longrope.search.algorithms.ramping import Budget, Evolving
from longrope.search.algorithms.script import Script
from longrope.settings.algorithms import CmaSettings


class Cma(Evolving):
    """CMA-ES on knots that bend the best closed form."""

    def __init__(
        self, problem: Problem, settings: CmaSettings, num_documents: int, seed: int
    ) -> None:
        self.batch_documents = settings.batch_documents
        self._budget = Budget(
            generation_size=settings.generation_size,
            num_generations=settings.num_generations,
            step=settings.step,
        )
        self._num_knots = settings.num_knots
        super().__init__(problem.space, problem.seeds, num_documents, seed)

    def _script(self) -> Script:
        yield from self.compare_seeds(self.batch_documents)
        start = self.best.individual
        knots = Knots(np.log(self.space.factors(start)), self._num_knots)
        path = yield from self.evolve(knots, self._budget, start)
        average, last = self.ends(knots, path, start)
        return (yield from self.finish([("average", average), ("mean", last)], start))


make = Cma
