"""One algorithm after the other: what the first finds is among the seeds of the second."""

from collections.abc import Callable, Sequence

from longrope.search.algorithms.algorithm import Best, Candidate, Loss
from longrope.search.algorithms.racing import Raceable
from longrope.search.algorithms.space import Individual


class Chain:
    """Runs an algorithm to its end, then the one that is made of what it found."""

    def __init__(self, first: Raceable, then: Callable[[Individual], Raceable]) -> None:
        self._running = first
        self._then: Callable[[Individual], Raceable] | None = then
        self._told = 0
        self._best = first.best

    @property
    def iteration(self) -> int:
        """Tells of both so far."""
        return self._told

    @property
    def finished(self) -> bool:
        """Whether the second has finished."""
        return self._then is None and self._running.finished

    @property
    def remaining(self) -> int:
        """Candidates still to be told; those of the second are not known while the first runs."""
        return self._running.remaining

    @property
    def kept(self) -> int:
        """What the running one says of a race."""
        return self._running.kept

    @property
    def rivals(self) -> Sequence[Sequence[float]]:
        """What the running one says of a race."""
        return self._running.rivals

    @property
    def best(self) -> Best:
        """The best of the running one; of the first until the second is told something."""
        return self._best

    def ask(self) -> list[Candidate]:
        """Return what the running one asks."""
        return self._running.ask()

    def tell(self, candidates: Sequence[Candidate], losses: Sequence[Sequence[Loss]]) -> None:
        """Tell the running one; when the first ends, the second begins."""
        self._running.tell(candidates, losses)
        self._told += 1
        self._best = self._running.best
        if self._running.finished and self._then is not None:
            self._running, self._then = self._then(self._best.individual), None
