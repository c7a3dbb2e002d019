"""Workers of a Dask scheduler, on as many nodes as it has.

Dask replaces a worker that died and gives its unit to another one. A worker that hangs is restarted from
here, for which it needs its nanny, as `dask worker` starts one.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from distributed import Client, KilledWorker, WorkerPlugin, get_worker
from distributed.comm.core import CommClosedError

from longrope.errors import UserError
from longrope.runtime import Workers
from longrope.search.workers.dispatch import dispatch
from longrope.search.workers.recipe import Scorer
from longrope.search.workers.units import Score, Unit

LOGGER = logging.getLogger(__name__)

ALL_EVENTS = "all"
"""Dask's name for what happens to any worker"""
PATIENCE = 120
"""seconds to wait for a scheduler and its first worker, and for the successor of a hung one"""


class Holder(WorkerPlugin):
    """Keeps the worker of a search inside a worker of Dask."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def setup(self, worker: Any) -> None:
        """Make the worker; Dask calls this in every process, also in later ones."""
        del worker
        self._scorer.set_up()
        self.worker = self._scorer.open()


class Cluster:
    """A pool of Dask's workers."""

    def __init__(self, client: Any, plugin: str, timeout: float | None) -> None:
        self.client = client
        self._plugin = plugin
        self._timeout = timeout

    def scores(self, units: Sequence[Unit]) -> Iterator[tuple[int, Score]]:
        """Score units, as many at once as there are workers."""
        num_workers = max(1, len(self.client.nthreads()))
        with ThreadPoolExecutor(num_workers) as threads:
            place = ClusterPlace(self.client, self._plugin, self._timeout, threads)
            self.client.subscribe_topic(ALL_EVENTS, place.hear)
            try:
                yield from dispatch(units, [place] * num_workers)
            finally:
                self.client.unsubscribe_topic(ALL_EVENTS)
                # or a search that ends early would wait for what is being scored
                place.give_up()


@contextmanager
def opened(scorer: Scorer, workers: Workers) -> Iterator[Cluster]:
    """Open the pool of a scheduler's workers.

    Raises:
        UserError: if there is no scheduler, no worker comes, or one dies with the model half loaded.
    """
    assert workers.scheduler is not None
    plugin = f"longrope-{uuid4()}"
    with _connected(workers.scheduler) as client:
        try:
            _load(client, Holder(scorer), plugin)
            yield Cluster(client, plugin, workers.timeout)
        finally:
            client.unregister_worker_plugin(plugin)


def _load(client: Any, holder: Holder, plugin: str) -> None:
    try:
        client.register_plugin(holder, name=plugin)
    except CommClosedError:
        raise UserError(
            "a worker of Dask died while it loaded the model, most often for want of memory; its own"
            " output may say why. Start the search again when all workers are up."
        ) from None


@contextmanager
def _connected(scheduler: Path) -> Iterator[Any]:
    deadline = time.monotonic() + PATIENCE
    while not scheduler.is_file():
        if time.monotonic() > deadline:
            raise UserError(
                f"{scheduler} is not there; give --dask the file that"
                " `dask scheduler --scheduler-file` writes."
            )
        time.sleep(0.1)
    try:
        client = Client(  # type: ignore[no-untyped-call]
            scheduler_file=str(scheduler), timeout=PATIENCE, set_as_default=False
        )
    except OSError:
        raise UserError(f"the Dask scheduler of {scheduler} does not answer; start it.") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise UserError(
                f"the Dask scheduler of {scheduler} has no worker after {PATIENCE} s; start"
                " `dask worker --nthreads 1` with its --scheduler-file."
            ) from None
        yield client


class ClusterPlace:
    """Slot for units among Dask's workers; Dask chooses the worker."""

    def __init__(
        self, client: Any, plugin: str, timeout: float | None, threads: ThreadPoolExecutor
    ) -> None:
        self._client = client
        self._plugin = plugin
        self._timeout = timeout
        self._threads = threads
        self._begun: dict[str, tuple[Any, Unit]] = {}
        """future and unit, by the name that Dask gives a task"""

    def start(self, unit: Unit) -> "Future[Score]":
        """Begin to score a unit in a thread that waits for it."""
        return self._threads.submit(self._score, unit)

    def loss(self, error: BaseException) -> str | None:
        """Say that a worker hung; one that died was replaced by Dask."""
        took_longer = f"took longer than {self._timeout} s"
        return took_longer if isinstance(error, TimeoutError) else None

    def give_up(self) -> None:
        """Cancel the units in progress."""
        for future, _ in list(self._begun.values()):
            future.cancel(force=True)

    def hear(self, event: tuple[float, Any]) -> None:
        """Log the units of a lost worker; Dask reassigns them."""
        _, message = event
        if isinstance(message, dict) and message.get("action") == "remove-worker":
            for name in message["processing-tasks"] & self._begun.keys():
                LOGGER.warning("%s: Dask lost the worker that had it", self._begun[name][1])

    def _score(self, unit: Unit) -> Score:
        future = self._client.submit(_score, self._plugin, unit, pure=False)
        self._begun[future.key] = future, unit
        try:
            return self._awaited(future)
        except KilledWorker as error:
            raise UserError(
                f"{unit} could not be scored: all workers that tried it died, the last one at"
                f" {error.last_worker.address}; give workers more memory."
            ) from None
        finally:
            self._begun.pop(future.key, None)

    def _awaited(self, future: Any) -> Score:
        """Return the score; TimeoutError if one worker has had the unit longer than the limit.

        A unit may wait where another worker was lost, so it is late when it has been seen with the same
        worker twice, a limit apart.
        """
        seen: str | None = None
        while True:
            try:
                score: Score = future.result(timeout=self._timeout)
                return score
            except TimeoutError:
                processing = self._client.processing().items()
                now = next((name for name, keys in processing if future.key in keys), None)
                if now is not None and now == seen:
                    future.cancel(force=True)
                    self._client.restart_workers([now], timeout=PATIENCE)
                    raise
                seen = now


def _score(plugin: str, unit: Unit) -> Score:
    holder = get_worker().plugins[plugin]
    assert isinstance(holder, Holder)
    return holder.worker.score(unit)
