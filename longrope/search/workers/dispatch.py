"""Dispatch of units to workers: longest first, repeated where a worker was lost."""

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Protocol

from longrope.errors import UserError
from longrope.search.workers.units import Score, Unit

ATTEMPTS = 3
"""times that a unit is given to a worker: one loss may be the machine's fault, three are the unit's"""

LOGGER = logging.getLogger(__name__)


class Place(Protocol):
    """Takes one unit at a time, and has a worker again after it lost one."""

    def start(self, unit: Unit) -> "Future[Score]":
        """Begin to score a unit; the future may raise what the worker raised."""

    def loss(self, error: BaseException) -> str | None:
        """Say what happened if an error means that the worker was lost, else return None."""


def dispatch(units: Sequence[Unit], places: Sequence[Place]) -> Iterator[tuple[int, Score]]:
    """Yield position and score of every unit, as they come.

    The longest come first, so that what is left at the end is short and no worker waits long for another.

    Raises:
        UserError: naming the unit, if it lost as many workers as there are attempts.
    """
    longest_first = sorted(range(len(units)), key=lambda at: -len(units[at].text.tokens))
    waiting, idle = deque(longest_first), deque(places)
    running: dict[Future[Score], tuple[Place, int]] = {}
    lost: Counter[int] = Counter()
    while waiting or running:
        while waiting and idle:
            place, position = idle.popleft(), waiting.popleft()
            running[place.start(units[position])] = place, position
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            place, position = running.pop(future)
            idle.append(place)
            error = future.exception()
            if error is None:
                yield position, future.result()
                continue
            reason = place.loss(error)
            if reason is None:
                raise error
            lost[position] += 1
            _report(units[position], reason, lost[position])
            waiting.appendleft(position)


def _report(unit: Unit, reason: str, count: int) -> None:
    """Log the loss of a worker; raise UserError if it was the last attempt."""
    if count == ATTEMPTS:
        raise UserError(
            f"{unit} could not be scored: {ATTEMPTS} workers were lost, the last one {reason}; give"
            " workers more memory, or more time by --worker-timeout."
        )
    LOGGER.warning("%s: a worker %s; another scores it, attempt %d", unit, reason, count + 1)
