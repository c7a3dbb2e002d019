"""Records of a running training: lines in its work folder, and curves for TensorBoard.

The first process appends to `_log.jsonl`, `_measured.jsonl` and `_watched.jsonl`, whose underscore keeps them
out of the node: they are the beginnings of the files that the stage writes at the end. A resumed training
goes on in them behind the step of its checkpoint.

Imported by name: what only looks at a training is no part of a tuned model's digest.
"""

import importlib.util
import json
import resource
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from longrope.errors import UserError
from longrope.store.atomic import write_text

KINDS = {"loss": "log", "perplexity": "watched"}
"""a key that an entry of the Trainer's history has -> the file it belongs to; others belong to none"""


class Recorder(TrainerCallback):
    """Measures every step and writes each entry as soon as it is known."""

    def __init__(self, folder: Path, *, tokens_per_step: int, curves: Path | None = None) -> None:
        """Write nothing yet.

        Args:
            folder: of the lines, the same at every attempt.
            tokens_per_step: of all rows of an optimizer step.
            curves: folder of curves for TensorBoard, None for none.

        Raises:
            UserError: if curves are asked for and tensorboard is not installed.
        """
        if curves is not None and importlib.util.find_spec("tensorboard") is None:
            raise UserError(
                "finetune.parallel.tensorboard needs the package tensorboard, which is not installed: "
                "`pip install 'longrope[train]'`, or set it false."
            )
        self.measured: list[dict[str, Any]] = []
        """an entry per step of the model, of whichever attempt made it; of the first process only"""
        self._folder = folder
        self._tokens = tokens_per_step
        self._curves = curves
        self._writer: Any = None
        self._shown = 0
        self._began = 0.0

    def on_train_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """Resume at the step where the training resumes."""
        if not state.is_world_process_zero:
            return
        done = read_whole_lines(self._path("measured"))
        self.measured = [entry for entry in done if entry["step"] <= state.global_step]
        lines: dict[str, list[dict[str, Any]]] = {"log": [], "watched": []}
        for entry in state.log_history:
            for key in KINDS.keys() & entry.keys():
                lines[KINDS[key]].append(entry)
        for name, entries in (lines | {"measured": self.measured}).items():
            begin(self._path(name), entries)
        self._shown = len(state.log_history)
        if self._curves is not None:
            self._writer = _writer(self._curves, state.global_step)

    def on_step_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """Write entries from before the first step, then start the clock."""
        self._show(state)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """Measure the step; the Trainer tells its loss afterwards."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.monotonic() - self._began
        if not state.is_world_process_zero:
            return
        speed = {
            "seconds": round(seconds, 3),
            "tokens_per_second": round(self._tokens / seconds, 1),
        }
        self.measured.append({"step": state.global_step} | speed | memory())
        self._add("measured", self.measured[-1])

    def on_log(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """Write the loss of a step, and the perplexity if it was measured."""
        self._show(state)
        if self._writer is not None:
            self._writer.flush()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Close the curves."""
        if self._writer is not None:
            self._writer.close()

    def _show(self, state: Any) -> None:
        """Write new entries of the Trainer's history."""
        if not state.is_world_process_zero:
            return
        for entry in state.log_history[self._shown :]:
            for key in KINDS.keys() & entry.keys():
                self._add(KINDS[key], entry)
        self._shown = len(state.log_history)

    def _add(self, name: str, entry: dict[str, Any]) -> None:
        with self._path(name).open("a") as file:
            file.write(line_of(entry))
        if self._writer is not None:
            for tag, value in points(name, entry):
                self._writer.add_scalar(tag, value, entry["step"])

    def _path(self, name: str) -> Path:
        return self._folder / f"_{name}.jsonl"


# Measurements -------------------------------------------------------------------------------------


def memory() -> dict[str, float]:
    """Return the memory of this process and of its GPU in MB of 2^20 bytes.

    A GPU's peak is since `torch.cuda.reset_peak_memory_stats`. Of main memory Linux tells the peak since the
    process started, and what it holds now.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    megabytes_by_name = {
        "resident_memory_mb": pages * resource.getpagesize() / 2**20,
        "peak_memory_so_far_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if torch.cuda.is_available():
        megabytes_by_name["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return {name: round(megabytes, 1) for name, megabytes in megabytes_by_name.items()}


# Lines --------------------------------------------------------------------------------------------


def line_of(entry: dict[str, Any]) -> str:
    """Return a line of a JSON-lines file, as the stage writes it."""
    return json.dumps(entry, sort_keys=True) + "\n"


def begin(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Overwrite a file with these lines; delete it if there are none."""
    text = "".join(map(line_of, entries))
    if text:
        write_text(path, text)
    else:
        path.unlink(missing_ok=True)


def read_whole_lines(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a file that may be missing, or torn at its end by a kill."""
    if not path.is_file():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


# Curves -------------------------------------------------------------------------------------------


def points(name: str, entry: dict[str, Any]) -> list[tuple[str, float]]:
    """Return the TensorBoard tags and values of one entry."""
    if name == "watched":
        values = {f"watched/perplexity_{entry['length']}": entry["perplexity"]}
    else:
        group = "train" if name == "log" else name
        values = {f"{group}/{key}": entry[key] for key in entry.keys() - {"step", "epoch"}}
    return [(tag, value) for tag, value in values.items() if value is not None]


def _writer(folder: Path, step: int) -> Any:
    """Return a writer of curves that go on behind a step."""
    from torch.utils.tensorboard import SummaryWriter

    # Entries of an earlier attempt from there on are left out; perplexity has a step 0.
    again = step + 1 if step else 0
    return SummaryWriter(str(folder), purge_step=again)
