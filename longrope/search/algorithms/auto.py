"""CMA-ES on a ramp's three variables, then on knots that bend the best ramp."""

import numpy as np

from longrope.search.algorithms.curves import Knots
from longrope.search.algorithms.problem import Problem
from longrope.search.algorithms.ramping import Budget, Ramping
from longrope.search.algorithms.script import Script
from longrope.settings.algorithms import AutoSettings


class Auto(Ramping):
    """CMA-ES on a ramp's three variables, then on knots that bend the best ramp."""

    def __init__(
        self, problem: Problem, settings: AutoSettings, num_documents: int, seed: int
    ) -> None:
        ramps = Budget(
            generation_size=settings.ramp_generation_size,
            num_generations=settings.ramp_num_generations,
            step=settings.ramp_step,
        )
        knots = Budget(
            generation_size=settings.knot_generation_size,
            num_generations=settings.knot_num_generations,
            step=settings.knot_step,
        )
        self._budgets = (ramps, knots)
        self._num_knots = settings.num_knots
        super().__init__(problem, settings, num_documents, seed)

    def _script(self) -> Script:
        ramp_budget, knot_budget = self._budgets
        start, point = yield from self.begin()
        path = yield from self.evolve(self.ramp, ramp_budget, start, point)
        ramp = self.ends(self.ramp, path, start)[0]
        knots = Knots(np.log(self.space.factors(ramp)), self._num_knots)
        finalists = [("ramp", ramp)]
        if knot_budget.num_generations:
            path = yield from self.evolve(knots, knot_budget, ramp)
            finalists.insert(0, ("knots", self.ends(knots, path, ramp)[0]))
        return (yield from self.finish(finalists, start))


make = Auto
