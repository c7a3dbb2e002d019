"""Racing: score document by document, and drop whoever can no longer be among the best.

After each document a candidate is compared with the last of those that would be kept, on the documents
both were scored on. Documents are few and known, so only those not yet scored are uncertain: the mean
difference over all D documents, of which m are scored, has the standard error s sqrt(1/m - 1/D). The
candidate is dropped if, with differences distributed normally, it would catch up with a probability below
the stated error. s is that among the rivals, which are scored on all documents and close to each other, or,
without rivals, among those that run.
The racing of algorithms by paired tests is that of Maron and Moore 1994 (Hoeffding races).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from longrope.search.algorithm import Algorithm, Best, Candidate, Loss

Losses = NDArray[np.float64]

TIE = 1e-9
"""nats per token that a dropped candidate is behind at least, so that it is never taken for the last kept"""


class Raceable(Algorithm, Protocol):
    """An algorithm that needs to know only the best of what it asks for."""

    @property
    def kept(self) -> int:
        """How many of the candidates, with the rivals, decide what follows."""

    @property
    def rivals(self) -> Sequence[Sequence[float]]:
        """Losses by document of those told before that compete with the candidates."""


def limit(field: Losses, error: float, num_scored: int, num_documents: int) -> float:
    """Return the mean difference that two candidates make up with a probability of `error`.

    Args:
        field: shape (N, M), losses of N candidates or rivals on M documents, those of close rank. What
            is left of them without the means of rows and columns is what documents do to differences.
        error: the probability; 0 for never.
        num_scored: documents that the mean difference is known on.
        num_documents: all documents.

    Returns:
        Nats per token; inf if the field tells nothing of it.
    """
    field = field[np.isfinite(field).all(axis=1)]
    freedom = (field.shape[0] - 1) * (field.shape[1] - 1)
    if freedom < 1 or error == 0.0:
        return math.inf
    rest = field - field.mean(axis=1, keepdims=True) - field.mean(axis=0) + field.mean()
    # of a difference of two: twice the variance of one
    deviation = math.sqrt(2 * float((rest**2).sum()) / freedom)
    remaining = math.sqrt(1 / num_scored - 1 / num_documents)
    return float(student.ppf(1 - error, freedom)) * deviation * remaining


class Race:
    """One race. Letters of shapes: N candidates, R rivals, D documents."""

    def __init__(
        self, order: Sequence[int], num_candidates: int, rivals: Losses, kept: int
    ) -> None:
        """Start with nothing scored.

        Args:
            order: of the D documents, as positions.
            num_candidates: N.
            rivals: shape (R, D), their losses.
            kept: number of best candidates and rivals that must come out right.
        """
        self.running = list(range(num_candidates))
        self._order = list(order)
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
        self._losses[np.ix_(self.running, self.documents)] = rows
        self._num_scored += 1
        scored = self._order[: self._num_scored]
        known = self._losses[:, scored][self.running]
        behind = (known - self._line(self.running)[scored]).mean(axis=1)
        field = self._rivals if len(self._rivals) > 1 else known
        slow = behind > limit(field, error, len(scored), len(self._order))
        self.running = [index for index, drop in zip(self.running, slow, strict=True) if not drop]

    def completed(self) -> Losses:
        """Return all losses, shape (N, D); those not scored as the last kept one's plus the difference."""
        line = self._line(self.running)
        found = self._losses.copy()
        for row in found:
            behind = np.nanmean(row - line)
            missing = np.isnan(row)
            row[missing] = line[missing] + max(behind, TIE)
        return found

    def _line(self, running: list[int]) -> Losses:
        """Return the losses of the last that would be kept, by the documents scored so far."""
        field = np.concatenate([self._rivals, self._losses[running]])
        places = np.argsort(field[:, self._order[: self._num_scored]].mean(axis=1), kind="stable")
        line: Losses = field[places[min(self._kept, len(places)) - 1]]
        return line


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
            self._race = self._new_race(len(self._asked[0].documents))
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
            completed = self._race.completed().tolist()
            self._race = None
            self._algorithm.tell(self._asked, [[Loss(loss) for loss in row] for row in completed])

    def _new_race(self, num_documents: int) -> Race:
        rivals = np.array(self._algorithm.rivals, dtype=float).reshape(-1, num_documents)
        order = self._generator.permutation(num_documents).tolist()
        return Race(order, len(self._asked), rivals, self._algorithm.kept)


def _fair(candidates: Sequence[Candidate]) -> bool:
    """Return whether candidates can race: all on the same documents, more than one, for losses only."""
    first = candidates[0].documents if candidates else ()
    same = all(one.documents == first and not one.gradient for one in candidates)
    return same and len(first) > 1
