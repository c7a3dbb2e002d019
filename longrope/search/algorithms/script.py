"""An algorithm written as one generator: it yields candidates and is sent their losses."""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from scipy.optimize import isotonic_regression

from longrope.search.algorithms.algorithm import Best, Candidate, Loss
from longrope.search.algorithms.curves import Curve, Vector
from longrope.search.algorithms.space import Individual, Space

Rows: TypeAlias = Sequence[Sequence[Loss]]
"""losses by candidate and document"""
Script: TypeAlias = Generator[list[Candidate], Rows, Best]
Comparison: TypeAlias = Generator[list[Candidate], Rows, dict[Individual, float]]
"""a part of a script that returns mean losses"""


def means(rows: Rows) -> list[float]:
    """Return the mean loss of each candidate; inf where it is not finite."""
    averages = [float(np.mean([loss.value for loss in row])) for row in rows]
    return [mean if math.isfinite(mean) else math.inf for mean in averages]


class Scripted:
    """Runs a script by ask and tell; a subclass defines `_script`."""

    def __init__(
        self, space: Space, seeds: Mapping[str, Individual], num_documents: int, seed: int
    ) -> None:
        self.space = space
        self.seeds = seeds
        self.documents = tuple(range(num_documents))
        self.generator = np.random.default_rng(seed)
        self.iteration = 0
        self._sound: dict[Individual, str] = {}
        self._best = Best(next(iter(seeds.values())), math.inf)
        self._running = self._script()
        self._asked: list[Candidate] | None = next(self._running)

    def _script(self) -> Script:
        raise NotImplementedError

    @property
    def finished(self) -> bool:
        """Whether the script has returned."""
        return self._asked is None

    @property
    def best(self) -> Best:
        """The best of the last iteration that compared candidates on the same documents."""
        return self._best

    def ask(self) -> list[Candidate]:
        """Return the candidates that the script yielded last."""
        assert self._asked is not None, "asked after the end"
        return self._asked

    def tell(self, candidates: Sequence[Candidate], losses: Rows) -> None:
        """Send the losses to the script and run it to its next yield."""
        if len(losses) != len(candidates):
            raise ValueError(
                f"{len(candidates)} candidates, and their losses are shorter or longer"
            )
        for candidate, mean in zip(candidates, means(losses), strict=True):
            if math.isfinite(mean):
                self._sound[candidate.individual] = candidate.origin
        self.iteration += 1
        try:
            self._asked = self._running.send(losses)
        except StopIteration as end:
            self._asked = None
            self._best = end.value

    # Shared by scripts ----------------------------------------------------------------------------

    def draw(self, count: int) -> tuple[int, ...]:
        """Return some documents at random."""
        chosen = self.generator.choice(len(self.documents), min(count, len(self.documents)), False)
        return tuple(int(document) for document in np.sort(chosen))

    def num_variables(self, curve: Curve) -> int:
        """Return the variables of a curve, and one for the attention scale where it is searched."""
        return curve.num_variables + (self.space.attention is not None)

    def on(self, curve: Curve, point: Vector, start: Individual) -> Individual:
        """Return the individual at a point of a curve: projected, clipped and rounded.

        It has the start tokens of `start`, and its attention scale, moved by the point's last variable.
        """
        logs = curve.log_factors(point[: curve.num_variables])
        # pairs before a critical one follow it, whatever the curve says of them
        searched = slice(self.space.critical_pairs[-1], None)
        logs[searched] = isotonic_regression(logs[searched]).x
        nearest = self.space.nearest(np.exp(logs).tolist(), start.num_start_tokens)
        if (grid := self.space.attention) is None:
            return nearest
        moved = grid.scale(start.attention_level) + grid.unit * float(point[-1])
        return replace(nearest, attention_level=grid.nearest(moved))

    def compare(self, choices: Mapping[Individual, str], documents: tuple[int, ...]) -> Comparison:
        """Ask for some individuals, with origins, on the same documents; return their mean losses."""
        rows = yield [Candidate(i, origin, documents) for i, origin in choices.items()]
        losses = dict(zip(choices, means(rows), strict=True))
        best = min(losses, key=losses.__getitem__)
        self._best = Best(best, losses[best])
        return losses

    def pick(self, choices: Mapping[Individual, str], documents: tuple[int, ...]) -> Script:
        """Return the best of some individuals on the same documents."""
        yield from self.compare(choices, documents)
        return self._best

    def compare_seeds(self, count: int) -> Comparison:
        """Return the seeds' mean losses on some documents; the best of them is `best`."""
        choices: dict[Individual, str] = {}
        for name, individual in self.seeds.items():
            choices.setdefault(individual, f"seed:{name}")
        return (yield from self.compare(choices, self.draw(count)))

    def start_tokens(self, individual: Individual, count: int) -> Script:
        """Return an individual with the number of start tokens that suits it best."""
        choices = {individual: "start_tokens"}
        for number in self.space.start_tokens:
            choices.setdefault(replace(individual, num_start_tokens=number), "start_tokens")
        if len(choices) == 1:
            return Best(individual, self._best.loss)
        return (yield from self.pick(choices, self.draw(count)))

    def selection(self, choices: Mapping[Individual, str]) -> Script:
        """Return the best of some individuals on all documents; if all fail, the best of all sound ones."""
        best = yield from self.pick(choices, self.documents)
        if math.isfinite(best.loss) or not self._sound:
            return best
        return (yield from self.pick(self._sound, self.documents))
