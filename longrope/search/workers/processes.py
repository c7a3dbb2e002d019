"""Workers that are processes of this host, one for each GPU; a lost one is replaced on the same GPU."""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from multiprocessing import connection

from pebble import ProcessExpired, ProcessPool

from longrope.errors import UserError
from longrope.runtime import Workers
from longrope.search.workers.dispatch import dispatch
from longrope.search.workers.recipe import Scorer
from longrope.search.workers.units import Score, Unit, Worker

_WORKER: ContextVar[Worker] = ContextVar("worker")
"""of a worker's process; pebble gives what it calls no other place to keep anything"""


class Processes:
    """A pool of processes."""

    def __init__(self, places: Sequence["Process"]) -> None:
        self._places = places

    def scores(self, units: Sequence[Unit]) -> Iterator[tuple[int, Score]]:
        """Score units, as many at once as there are processes."""
        yield from dispatch(units, self._places)


@contextmanager
def opened(scorer: Scorer, workers: Workers) -> Iterator[Processes]:
    """Open a pool of processes, and end them at exit in any state."""
    devices = visible_devices()
    with ExitStack() as stack:
        places = []
        for index in range(workers.count):
            device = devices[index % len(devices)] if devices else None
            places.append(Process(scorer, device, workers.timeout))
            stack.callback(places[-1].stop)
        yield Processes(places)


def visible_devices() -> list[str]:
    """Return the CUDA_VISIBLE_DEVICES name of each GPU of this process; none on a CPU."""
    import torch  # not above: processes that score fakes need it not

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(index) for index in range(count)]


class Process:
    """A process on one device, or its successor."""

    def __init__(self, scorer: Scorer, device: str | None, timeout: float | None) -> None:
        self._scorer = scorer
        self._device = device
        self._timeout = timeout
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPool:
        # A forked process could not use CUDA.
        return ProcessPool(
            max_workers=1,
            initializer=_become_worker,
            initargs=(self._scorer, self._device),
            context=multiprocessing.get_context("spawn"),
        )

    def start(self, unit: Unit) -> "Future[Score]":
        """Begin to score a unit; loading the model is part of the first one's time."""
        try:
            if not self._pool.active:
                self.stop()
                self._pool = self._new_pool()
            future: Future[Score] = self._pool.schedule(_score, (unit,), timeout=self._timeout)
        except OSError as error:
            raise UserError(
                f"worker processes cannot share locks here ({error}), for which Linux needs /dev/shm to be "
                "there and writable, with some room; see to that, or search with one worker."
            ) from error
        return future

    def loss(self, error: BaseException) -> str | None:
        """Say what happened to the process, None if it lives."""
        if isinstance(error, TimeoutError):
            return f"took longer than {self._timeout} s"
        if isinstance(error, ProcessExpired):
            return f"died with exit code {error.exitcode}"
        # pebble's word for a process that dies while it has nothing to do, as far as it has heard
        return "died" if isinstance(error, BrokenProcessPool) else None

    def stop(self) -> None:
        """End the process, also in the middle of a unit."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()


def _become_worker(scorer: Scorer, device: str | None) -> None:
    """Prepare a new process, before CUDA is asked for anything."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    scorer.set_up()
    _WORKER.set(scorer.open())


def _end_with_parent() -> None:
    """End this process when its parent is gone, or a hanging one would stay."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _score(unit: Unit) -> Score:
    return _WORKER.get().score(unit)
