"""Ask/tell interface of the search algorithms, which never see the model.

A candidate names the documents it wants to be scored on, so that an algorithm may score few documents at
first. Deterministic for a seed and given losses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from longrope.search.algorithms.space import Individual


@dataclass(frozen=True)
class Candidate:
    """An individual to score, with its origin and its documents."""

    individual: Individual
    origin: str
    """`seed:yarn`, `mutation`, `crossover`, `cma`, `selection`"""
    documents: tuple[int, ...]
    """indices of search documents"""
    gradient: bool = False
    """whether the gradient of its losses is wanted as well"""


@dataclass(frozen=True)
class Loss:
    """Loss of a candidate on one document."""

    value: float
    """nats per predicted token; inf if it is not finite"""
    gradient: tuple[float, ...] | None = None
    """its derivatives by ln(factor) of every pair, then by ln(attention scale), where asked for"""


@dataclass(frozen=True)
class Best:
    """The individual an algorithm would return, and its mean loss over all search documents."""

    individual: Individual
    loss: float
    """nats per predicted token; inf if nothing finite was told"""


class Algorithm(Protocol):
    """Interface of one search: ask, score, tell, until `finished`."""

    @property
    def iteration(self) -> int:
        """Number of completed iterations."""

    @property
    def finished(self) -> bool:
        """Whether all candidates have been asked for."""

    @property
    def best(self) -> Best:
        """The best so far; final once finished."""

    def ask(self) -> list[Candidate]:
        """Return the candidates of this iteration."""

    def tell(self, candidates: Sequence[Candidate], losses: Sequence[Sequence[Loss]]) -> None:
        """Take the losses of the candidates that `ask` returned, by candidate and document."""
