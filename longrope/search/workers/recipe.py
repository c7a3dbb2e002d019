"""The recipe of a worker: small, so that it can be sent to another process or host."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from longrope.search.workers.units import Worker


@dataclass(frozen=True)
class Scorer:
    """The recipe of a model that scores; small, so that it can be sent to another process or host."""

    folder: Path
    """with config.json and safetensors; every worker reads it"""
    dtype: str
    full_attention: bool
    chunk_length: int
    threads: int = 1
    """of arithmetic in each worker; last digits depend on it"""
    rope_scaling: str = "refuse"

    def set_up(self) -> None:
        """Set the threads of a dedicated worker process."""
        import torch

        torch.set_num_threads(self.threads)

    def open(self) -> Worker:
        """Return a worker in this process, on the first GPU that it sees, if any."""
        from longrope.models.score_context import load_for_scoring
        from longrope.search.workers.model import ModelWorker

        load = partial(
            load_for_scoring,
            self.folder,
            dtype=self.dtype,
            full_attention=self.full_attention,
            rope_scaling=self.rope_scaling,
        )
        return ModelWorker(load, chunk_length=self.chunk_length)
