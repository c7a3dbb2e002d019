"""Deferred SIGTERM: a training saves its state before it ends.

Slurm sends it before a time limit and at `scancel`, torchrun passes it on to its processes.
"""

import signal
from types import FrameType
from typing import Any, Self

import torch
from torch import distributed

EXIT_CODE = 128 + signal.SIGTERM


class Termination:
    """Records SIGTERM instead of ending the process, while it is entered."""

    def __init__(self) -> None:
        self.requested = False
        """whether this process was told to end"""
        self._previous: Any = signal.SIG_DFL

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGTERM, self._record)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def requested_of_any(self, device: torch.device) -> bool:
        """Return whether any process of the job was told to end.

        All of them have to call it at the same place of the training, and get the same answer: the signal
        reaches them at different moments, and a checkpoint is written together.

        Args:
            device: where processes exchange tensors.
        """
        if not distributed.is_initialized():
            return self.requested
        requests = torch.tensor([int(self.requested)], device=device)
        distributed.all_reduce(requests)
        return bool(requests.item())
