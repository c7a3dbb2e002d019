"""Ends of trainings: by a signal to their own process, and by an interrupt."""

import os
import signal
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler


def kill() -> None:
    """End this process as a machine that runs out of memory does."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    """Make a mistake."""
    raise RuntimeError("a mistake in one process of two")


def end_at(rank: int, step: int, end: Callable[[], None]) -> None:
    """Let one process end itself after a step of any training, from now on."""
    real = CallbackHandler.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any) -> Any:
        if state.global_step == step and os.environ.get("RANK", "0") == str(rank):
            end()
        return real(self, args, state, control)

    CallbackHandler.on_step_end = on_step_end


class Interrupt(TrainerCallback):
    """Ends one training after a step, before its checkpoint is written."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == self._step:
            raise KeyboardInterrupt
