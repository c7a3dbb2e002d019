"""Ends of trainings: by a signal to their own process, and by an interrupt."""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler


def kill() -> None:
    """End this process as a machine that runs out of memory does."""
    os.kill(os.getpid(), signal.SIGKILL)


def terminate() -> None:
    """Send SIGTERM to this process, as Slurm does before a time limit."""
    os.kill(os.getpid(), signal.SIGTERM)


def terminate_launcher() -> None:
    """Send SIGTERM to torchrun, and wait until it has passed it on to this process.

    By a handler, not by `sigtimedwait`: any thread may take a signal that comes before the wait begins.
    """
    passed_on: list[int] = []
    handler: Any = signal.getsignal(signal.SIGTERM)

    def heard(number: int, frame: FrameType | None) -> None:
        passed_on.append(number)
        handler(number, frame)

    signal.signal(signal.SIGTERM, heard)
    os.kill(os.getppid(), signal.SIGTERM)
    deadline = time.monotonic() + 60
    while not passed_on and time.monotonic() < deadline:
        time.sleep(0.05)
    signal.signal(signal.SIGTERM, handler)
    assert passed_on, "torchrun passes the signal on"


def fail() -> None:
    """Raise an error."""
    raise RuntimeError("a mistake in one process of two")


def end_at(rank: int, step: int, end: Callable[[], None], *, event: str = "on_step_end") -> None:
    """Let one process end itself after a step of any training, from now on.

    Args:
        rank: of the process.
        step: so many are done.
        end: what ends it.
        event: `on_substep_end` comes after a micro-batch that is not the last of the next step.
    """
    real = getattr(CallbackHandler, event)

    def ending(self: Any, args: Any, state: Any, control: Any) -> Any:
        if state.global_step == step and os.environ.get("RANK", "0") == str(rank):
            end()
        return real(self, args, state, control)

    setattr(CallbackHandler, event, ending)


class Interrupt(TrainerCallback):
    """Ends one training after a step, before its checkpoint is written."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == self._step:
            raise KeyboardInterrupt
