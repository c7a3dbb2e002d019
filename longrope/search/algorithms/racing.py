"""Racing: score document by document, and stop where it is known enough whether a candidate will be kept.

After each document the losses on the others are foreseen, from what those of recent candidates say about
each other (`search.forecast`). A candidate is dropped if, with less than the stated error probability, its
mean over all documents will be below the expected one of the last that would be kept. It is kept early if it
will be above that one, and also if it will be below the best, with less than that probability: who leads is
scored on all documents. Documents come in the order in which they say most. While too few candidates are
scored, documents are taken to be exchangeable: what is tested then is the paired difference to the last that
would be kept.
Races that drop and keep early, among candidates of an evolution, are those of Heidrich-Meisner and Igel 2009
(Hoeffding and Bernstein races); the idea is that of Maron and Moore 1994.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from longrope.search.algorithms.algorithm import Algorithm, Best, Candidate, Loss
from longrope.search.algorithms.forecast import Losses, exchangeable, learned

TIE = 1e-9
"""nats per token that a dropped candidate is behind at least, so that it is never taken for the last kept"""
RECENT = 2
"""races that losses are foreseen from: the search moves on, and with it what documents have in common"""


Field: TypeAlias = dict[tuple[float, ...], Losses]
"""losses on all documents, as they were told: those that were scored, NaN elsewhere"""


class Raceable(Algorithm, Protocol):
    """An algorithm that needs to know only the best of what it asks for."""

    @property
    def kept(self) -> int:
        """How many of the candidates, with the rivals, decide what follows; 0 if every loss is wanted."""

    @property
    def rivals(self) -> Sequence[Sequence[float]]:
        """Losses by document of those told before that compete with the candidates."""


class Race:
    """One race. Letters of shapes: N candidates, R rivals, D documents."""

    def __init__(
        self, order: Sequence[int], num_candidates: int, rivals: Losses, kept: int, field: Losses
    ) -> None:
        """Start with nothing scored.

        Args:
            order: of the D documents, as positions, where nothing is known of them.
            num_candidates: N.
            rivals: shape (R, D), their losses.
            kept: number of best candidates and rivals that must come out right.
            field: shape (any number, D), losses of recent candidates on these documents, NaN where they were
                not scored.
        """
        self.running = list(range(num_candidates))
        self.scored = np.full((num_candidates, len(order)), np.nan)
        """losses of the candidates, shape (N, D); NaN where they were not scored"""
        self._spread = learned(field)
        self._order = self._spread.telling_order() if self._spread else list(order)
        self._foreseen = self.scored.copy()
        self._kept_early: list[int] = []
        self._rivals = rivals
        self._kept = kept
        self._num_scored = 0

    @property
    def documents(self) -> list[int]:
        """Positions of the documents scored after this stage."""
        return self._order[: self._num_scored + 1]

    @property
    def over(self) -> bool:
        """Whether all that still run are scored on all documents."""
        return self._num_scored == len(self._order) or not self.running

    def tell(self, rows: Sequence[Sequence[float]], error: float) -> None:
        """Take the losses, on `documents`, of those that run, and stop those of whom it is known enough."""
        documents = self.documents
        self.scored[np.ix_(self.running, documents)] = rows
        self._num_scored += 1
        failed = ~np.isfinite(self.scored[:, documents]).all(axis=1)
        failed &= np.isin(np.arange(len(failed)), self.running)
        self.scored[failed] = self._foreseen[failed] = np.inf
        self.running = [index for index in self.running if not failed[index]]
        if self.over:
            self._foreseen[self.running] = self.scored[self.running]
        else:
            self._stop(documents, error)

    def completed(self) -> Losses:
        """Return all losses, shape (N, D), as scored or foreseen.

        Whoever was dropped is behind the last that is kept; who was kept early is between it and the best.
        """
        found = self._foreseen.copy()
        best, line = self._line(found[self.running], 1), self._line(found[self._alive], self._kept)
        means = found.mean(axis=1)
        wanted = means.copy()
        wanted[self._kept_early] = np.clip(means[self._kept_early], best + TIE, line)
        dropped = [index for index in range(len(found)) if index not in self._alive]
        wanted[dropped] = np.maximum(means[dropped], line + TIE)
        moved = np.isfinite(wanted) & (wanted != means)
        found[moved] += (wanted[moved] - means[moved])[:, None]
        return found

    @property
    def _alive(self) -> list[int]:
        """Who runs or was kept early."""
        return self.running + self._kept_early

    def _stop(self, documents: list[int], error: float) -> None:
        """Foresee the losses of those that run; stop who is out, or in and not the best, but for `error`."""
        known = self.scored[np.ix_(self.running, documents)]
        spread = self._spread or exchangeable(self._rivals, known)
        if spread is None:
            return
        running = np.array(self.running)
        foreseen, deviation = spread.foresee(known, documents)
        self._foreseen[running] = foreseen

        def chances(kept: int) -> NDArray[np.float64]:
            ahead = self._line(self._foreseen[self._alive], kept) - foreseen.mean(axis=1)
            return np.asarray(student.cdf(ahead / deviation, spread.freedom))

        to_be_kept, to_lead = chances(self._kept), chances(1)
        out = to_be_kept < error
        kept = (to_be_kept > 1 - error) & (to_lead < error)
        self.running = running[~out & ~kept].tolist()
        self._kept_early += running[kept].tolist()

    def _line(self, losses: Losses, kept: int) -> float:
        """Return the mean loss of the last that is kept of rivals and candidates, shape (any, D)."""
        means = np.sort(np.concatenate([self._rivals, losses]).mean(axis=1))
        return float(means[min(kept, len(means)) - 1]) if len(means) else math.inf


class Raced:
    """Runs an algorithm and lets its candidates race."""

    def __init__(self, algorithm: Raceable, error: float, seed: int) -> None:
        """Wrap an algorithm.

        Args:
            algorithm: what asks for candidates.
            error: probability that a candidate is dropped at a stage although it would be kept.
            seed: of the order of documents.
        """
        self._algorithm = algorithm
        self._error = error
        self._generator = np.random.default_rng([seed, 1])
        self._race: Race | None = None
        self._asked: list[Candidate] = []
        self._recent: list[Field] = []
        self._rivals: Field = {}
        self._raced_on: tuple[int, ...] = ()

    @property
    def iteration(self) -> int:
        """Iterations of the algorithm that are told."""
        return self._algorithm.iteration

    @property
    def finished(self) -> bool:
        """Whether the algorithm has finished."""
        return self._algorithm.finished

    @property
    def remaining(self) -> int:
        """Candidates of the algorithm still to be told."""
        return self._algorithm.remaining

    @property
    def best(self) -> Best:
        """The best of the algorithm; nothing yet in its first race."""
        if self._algorithm.iteration == 0:
            return Best(self._asked[0].individual, float("inf"))
        return self._algorithm.best

    def ask(self) -> list[Candidate]:
        """Return those still in a race, on one document more; what cannot race, as it is."""
        if self._race is None:
            self._asked = self._algorithm.ask()
            if not self._algorithm.kept or not _fair(self._asked):
                return self._asked
            self._race = self._new_race(self._asked[0].documents)
        names = self._asked[0].documents
        documents = tuple(names[position] for position in self._race.documents)
        return [replace(self._asked[index], documents=documents) for index in self._race.running]

    def tell(self, candidates: Sequence[Candidate], losses: Sequence[Sequence[Loss]]) -> None:
        """Take the losses of what `ask` returned; tell the algorithm when a race is over."""
        if self._race is None:
            self._algorithm.tell(candidates, losses)
            return
        values = [[loss.value for loss in row] for row in losses]
        self._race.tell(values, self._error)
        if self._race.over:
            completed = [tuple(row) for row in self._race.completed().tolist()]
            field = dict(zip(completed, self._race.scored, strict=True))
            self._recent = [*self._recent[1 - RECENT :], field]
            self._race = None
            rows = [[Loss(loss) for loss in row] for row in completed]
            self._algorithm.tell(self._asked, rows)

    def _new_race(self, documents: tuple[int, ...]) -> Race:
        """Return a race; what earlier ones on other documents said is forgotten."""
        if documents != self._raced_on:
            self._recent, self._rivals, self._raced_on = [], {}, documents
        known = {
            told: row for field in (self._rivals, *self._recent) for told, row in field.items()
        }
        rivals = [tuple(row) for row in self._algorithm.rivals]
        self._rivals = {told: known.get(told, np.array(told)) for told in rivals}
        nothing = np.zeros((0, len(documents)))
        field = {
            told: row for field in (self._rivals, *self._recent) for told, row in field.items()
        }
        return Race(
            self._generator.permutation(len(documents)).tolist(),
            len(self._asked),
            np.concatenate([nothing, np.reshape(rivals, (-1, len(documents)))]),
            self._algorithm.kept,
            np.concatenate([nothing, np.reshape(list(field.values()), (-1, len(documents)))]),
        )


def _fair(candidates: Sequence[Candidate]) -> bool:
    """Return whether candidates can race: all on the same documents, more than one, for losses only."""
    first = candidates[0].documents if candidates else ()
    same = all(one.documents == first and not one.gradient for one in candidates)
    return same and len(first) > 1
