"""What losses on some documents say about the losses on the others: a normal distribution.

Documents differ in how hard they are and in how much a change of the factors matters to them, and alike
for all candidates of a search. Letters of shapes: N candidates, D documents, m of them scored.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Losses = NDArray[np.float64]

ROWS_PER_DOCUMENT = 4
"""candidates that a covariance is learned from, at least, for each document"""
SWEEPS = 50
"""of expectation-maximisation"""
RIDGE = 1e-4
"""of the mean variance, added to each: documents alike to all digits would say too much of each other"""
FLOOR = 1e-9
"""nats per token that differences between documents are uncertain by at least"""
FLAT = 1e6
"""how much wider than differences between documents the losses lie of which nothing is known"""


@dataclass(frozen=True)
class Spread:
    """The losses by document of a candidate that is not scored yet, distributed normally."""

    mean: Losses
    """shape (D,), nats per token"""
    covariance: Losses
    """shape (D, D)"""
    freedom: int
    """degrees of freedom of the covariance"""

    def foresee(self, known: Losses, scored: Sequence[int]) -> tuple[Losses, float]:
        """Return the losses on all documents that are expected, given those on some.

        Args:
            known: shape (N, m), finite.
            scored: positions of the m documents.

        Returns:
            Shape (N, D), as known or expected, and the standard deviation of a row's mean.
        """
        others, slopes, rest = self.given(scored)
        found = np.empty((len(known), len(self.mean)))
        found[:, list(scored)] = known
        found[:, others] = self.mean[others] + (known - self.mean[list(scored)]) @ slopes.T
        return found, max(math.sqrt(max(0.0, float(rest.sum()))) / len(self.mean), FLOOR)

    def telling_order(self) -> list[int]:
        """Return the documents, next always the one after which the mean over all is least uncertain."""
        order: list[int] = []
        left = list(range(len(self.mean)))
        while left:
            order.append(min(left, key=lambda one: float(self.given([*order, one])[2].sum())))
            left.remove(order[-1])
        return order

    def given(self, scored: Sequence[int]) -> tuple[list[int], Losses, Losses]:
        """Return the other documents, their slopes by the scored ones, their covariance given these."""
        others = [one for one in range(len(self.mean)) if one not in scored]
        across = self.covariance[np.ix_(scored, others)]
        slopes = np.linalg.solve(self.covariance[np.ix_(scored, scored)], across).T
        return others, np.asarray(slopes), self.covariance[np.ix_(others, others)] - slopes @ across


def learned(field: Losses) -> Spread | None:
    """Return the spread of candidates that were scored before; None of too few of them.

    Those who were not scored on all documents were stopped for what they came to on some. To leave them
    out, or to take what was foreseen of them for what they are, would make documents look more alike than
    they are. So mean and covariance are the likeliest ones given all that was scored, by
    expectation-maximisation (Dempster, Laird and Rubin 1977), begun at those of the rows that are whole.

    Args:
        field: shape (N, D), NaN where a candidate was not scored; inf in one that failed, which is left out.
    """
    field = field[~np.isinf(field).any(axis=1)]
    num_rows, num_documents = field.shape
    whole = field[np.isfinite(field).all(axis=1)]
    if num_rows < ROWS_PER_DOCUMENT * num_documents or len(whole) <= num_documents:
        return None
    spread = _moments(whole, 0.0, len(whole) - 1)
    for _ in range(SWEEPS if len(whole) < num_rows else 0):
        spread = _expected(spread, field)
    return spread


def _expected(spread: Spread, field: Losses) -> Spread:
    """Return the moments of rows of which what is missing is distributed as a spread says."""
    filled = field.copy()
    left = np.zeros_like(spread.covariance)
    missing = np.isnan(field)
    for pattern in np.unique(missing, axis=0):
        rows = (missing == pattern).all(axis=1)
        scored = np.flatnonzero(~pattern).tolist()
        filled[rows] = spread.foresee(field[np.ix_(rows, scored)], scored)[0]
        others, _, rest = spread.given(scored)
        left[np.ix_(others, others)] += rows.sum() * rest
    return _moments(filled, left, spread.freedom)


def _moments(rows: Losses, left: Losses | float, freedom: int) -> Spread:
    """Return the spread of rows, shape (any, D), with a summed covariance of what is missing in them.

    Its degrees of freedom are those of the rows that are whole, for some documents may have no others.
    """
    num_documents = rows.shape[1]
    centred = rows - rows.mean(axis=0)
    covariance = (centred.T @ centred + left) / (len(rows) - 1)
    least = RIDGE * covariance.trace() / num_documents + FLOOR**2
    return Spread(rows.mean(axis=0), covariance + least * np.eye(num_documents), freedom)


def exchangeable(rivals: Losses, known: Losses) -> Spread | None:
    """Return the spread if no document says more than another; None if too few losses are known.

    What is foreseen of a candidate then is its mean difference, so far, to the mean rival. What is left of
    losses without the means of rows and columns is what documents do to a candidate; a difference has
    twice its variance, for the last that is kept is uncertain too.

    Args:
        rivals: shape (R, D), losses of candidates scored on all documents.
        known: shape (N, m), losses on any m documents of those that run; looked at if R is below 2.
    """
    rivals = rivals[np.isfinite(rivals).all(axis=1)]
    layout = rivals if len(rivals) > 1 else known
    freedom = (layout.shape[0] - 1) * (layout.shape[1] - 1)
    if freedom < 1:
        return None
    rest = layout - layout.mean(axis=1, keepdims=True) - layout.mean(axis=0) + layout.mean()
    variance = max(2 * float((rest**2).sum()) / freedom, FLOOR**2)
    num_documents = rivals.shape[1]
    mean = rivals.mean(axis=0) if len(rivals) else np.zeros(num_documents)
    return Spread(mean, variance * (np.eye(num_documents) + FLAT), freedom)
