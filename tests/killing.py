"""Ends of trainings: by a signal to their own process, and by an interrupt."""

import os
import signal
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler


def kill_at(step: int, rank: int = 0) -> None:
    """Let one process end itself by SIGKILL after a step of any training, from now on."""
    real = CallbackHandler.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any) -> Any:
        if state.global_step == step and os.environ.get("RANK", "0") == str(rank):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, args, state, control)

    CallbackHandler.on_step_end = on_step_end


class Interrupt(TrainerCallback):
    """Ends one training after a step, before its checkpoint is written."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == self._step:
            raise KeyboardInterrupt
