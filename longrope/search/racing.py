"""Racing: score document by document, and drop whoever can no longer be among the best.

After each document the losses on the others are foreseen, from what those of recent candidates say about
each other (`search.forecast`). A candidate is dropped if, with less than the stated error probability, its
mean over all documents will be below the expected one of the last that would be kept. Documents come in the
order in which they say most. While too few candidates are scored, documents are taken to be exchangeable:
what is tested then is the paired difference to the last that would be kept.
The racing of algorithms by paired tests is that of Maron and Moore 1994 (Hoeffding races).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from scipy.stats import t as student

from longrope.search.algorithm import Algorithm, Best, Candidate, Loss
from longrope.search.forecast import Losses, exchangeable, learned

TIE = 1e-9
"""nats per token that a dropped candidate is behind at least, so that it is never taken for the last kept"""
RECENT = 2
"""races that losses are foreseen from: the search moves on, and with it what documents have in common"""


class Raceable(Algorithm, Protocol):
    """An algorithm that needs to know only the best of what it asks for."""

    @property
    def kept(self) -> int:
        """How many of the candidates, with the rivals, decide what follows."""

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
            field: shape (any number, D), losses of recent candidates on these documents.
        """
        self.running = list(range(num_candidates))
        self._spread = learned(np.concatenate([rivals, field]))
        self._order = self._spread.telling_order() if self._spread else list(order)
        self._losses = np.full((num_candidates, len(order)), np.nan)
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
        """Take the losses, on `documents`, of those that run, and drop who cannot be kept."""
        scored = self.documents
        self._losses[np.ix_(self.running, scored)] = rows
        self._num_scored += 1
        failed = ~np.isfinite(self._losses[:, scored]).all(axis=1)
        self._losses[failed] = np.inf
        self.running = [index for index in self.running if not failed[index]]
        if not self.over:
            self._drop(scored, error)

    def completed(self) -> Losses:
        """Return all losses, shape (N, D); those not scored as foreseen, but behind the last kept one's."""
        found = self._losses.copy()
        line = self._line(found[self.running])
        dropped = [index for index in range(len(found)) if index not in self.running]
        if math.isfinite(line):
            short = np.maximum(0.0, line + TIE - found[dropped].mean(axis=1))
            found[dropped] += short[:, None]
        return found

    def _drop(self, scored: list[int], error: float) -> None:
        """Foresee the losses of those that run, and drop who would be kept with less than `error`."""
        known = self._losses[np.ix_(self.running, scored)]
        spread = self._spread or exchangeable(self._rivals, known)
        if spread is None:
            return
        foreseen, deviation = spread.foresee(known, scored)
        ahead = (self._line(foreseen) - foreseen.mean(axis=1)) / deviation
        slow = student.cdf(ahead, spread.freedom) < error
        running = np.array(self.running)
        self._losses[running[slow]] = foreseen[slow]
        self.running = running[~slow].tolist()

    def _line(self, losses: Losses) -> float:
        """Return the mean loss of the last of rivals and candidates, shape (any, D), that is kept."""
        means = np.sort(np.concatenate([self._rivals, losses]).mean(axis=1))
        return float(means[min(self._kept, len(means)) - 1]) if len(means) else math.inf


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
        self._recent: list[Losses] = []
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
            if not _fair(self._asked):
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
            completed = self._race.completed()
            self._race = None
            self._recent = [*self._recent[1 - RECENT :], completed]
            rows = [[Loss(loss) for loss in row] for row in completed.tolist()]
            self._algorithm.tell(self._asked, rows)

    def _new_race(self, documents: tuple[int, ...]) -> Race:
        """Return a race; what earlier ones on other documents said is forgotten."""
        if documents != self._raced_on:
            self._recent, self._raced_on = [], documents
        nothing = np.zeros((0, len(documents)))
        rivals = np.array(self._algorithm.rivals, dtype=float).reshape(-1, len(documents))
        order = self._generator.permutation(len(documents)).tolist()
        field = np.concatenate([nothing, *self._recent])
        return Race(order, len(self._asked), rivals, self._algorithm.kept, field)


def _fair(candidates: Sequence[Candidate]) -> bool:
    """Return whether candidates can race: all on the same documents, more than one, for losses only."""
    first = candidates[0].documents if candidates else ()
    same = all(one.documents == first and not one.gradient for one in candidates)
    return same and len(first) > 1
