"""Pools that score the units of a search: this process, a process per GPU, or workers of Dask.

Workers only compute; the process that asks is the one that remembers scores and writes files. No choice made
here changes a score, so the order in which units come back is free.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from longrope.models.score_context import model_folder
from longrope.runtime import Input, Runtime
from longrope.search.workers.recipe import Scorer
from longrope.search.workers.units import Score, Unit, Worker
from longrope.settings.nodes import ScoringUse


class Pool(Protocol):
    """One or more workers that hold the same model."""

    def scores(self, units: Sequence[Unit]) -> Iterator[tuple[int, Score]]:
        """Yield position and score of every unit, as they come.

        Raises:
            UserError: naming the unit, if every worker that was given it died or took too long.
        """


@contextmanager
def open_pool(settings: ScoringUse, model: Input, runtime: Runtime) -> Iterator[Pool]:
    """Open the workers of a stage, which load its model at their first unit."""
    workers = runtime.workers
    scorer = Scorer(
        folder=model_folder(model).absolute(),
        dtype=settings.dtype,
        full_attention=settings.full_attention,
        rope_scaling=settings.rope_scaling,
        chunk_length=runtime.options.chunk_length,
        threads=workers.threads,
    )
    if workers.scheduler is None and workers.count == 1 and workers.timeout is None:
        yield InProcess(scorer.open())
        return
    # Imported here: the libraries of the other are not loaded.
    if workers.scheduler is None:
        from longrope.search.workers import processes

        opened: AbstractContextManager[Pool] = processes.opened(scorer, workers)
    else:
        from longrope.search.workers import cluster

        opened = cluster.opened(scorer, workers)
    with opened as pool:
        yield pool


class InProcess:
    """One worker, in this process."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def scores(self, units: Sequence[Unit]) -> Iterator[tuple[int, Score]]:
        """Score units one after the other."""
        for position, unit in enumerate(units):
            yield position, self.worker.score(unit)
