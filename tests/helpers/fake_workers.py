"""Workers without a model, controlled by the key of each text. No pytest: processes import it."""

import contextlib
import os
import signal
import time
from pathlib import Path

import numpy as np

from longrope.rope.factors import RopeFactors
from longrope.search.workers.recipe import Scorer
from longrope.search.workers.units import Score, Text, Unit, Worker

FACTORS = RopeFactors(factors=(1.0, 2.0), original_length=64, target_length=128, method="longrope")
DIES_AT_START = "dies"
"""file in a fake's folder: whoever takes it dies before it has a worker"""


class FakeScorer(Scorer):
    """The recipe of a fake worker."""

    def set_up(self) -> None:
        """Note the threads in the place of torch, which a fake does not need, so that it starts quickly."""
        os.environ["FAKE_THREADS"] = str(self.threads)

    def open(self) -> Worker:
        with contextlib.suppress(FileNotFoundError):
            (self.folder / DIES_AT_START).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return FakeWorker(self.folder)


class FakeWorker:
    """Does what the key of a text says, and returns its number as a loss."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def score(self, unit: Unit) -> Score:
        key = unit.text.key
        first = self._leave_mark(str(key["number"]))
        what = key["does"] if first or not key["once"] else "score"
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "hang":
            time.sleep(1000)
        while what == "meet" and not (self._folder / str(key["number"] ^ 1)).is_file():
            time.sleep(0.01)
        if what == "raise":
            raise ZeroDivisionError("of a fake")
        time.sleep(key["seconds"])
        # a curve of the factors for searches, 0 for the plain ones
        worth = float(np.abs(np.log2(unit.factors.factors)).sum()) if unit.factors != FACTORS else 0
        return Score(float("nan") if what == "nan" else key["number"] + worth, 1)

    def _leave_mark(self, name: str) -> bool:
        """Return whether this is the first time that a worker is given a unit."""
        marks = self._folder / name
        first = not marks.is_file()
        with marks.open("a") as stream:
            values = [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "FAKE_THREADS")]
            stream.write(f"{os.getpid()} {values[0]} {values[1]}\n")
        return first


def fake_scorer(folder: Path, threads: int = 1) -> FakeScorer:
    return FakeScorer(folder, "float32", full_attention=False, chunk_length=1, threads=threads)


def unit(
    number: int, does: str = "score", *, once: bool = False, seconds: float = 0.0, length: int = 2
) -> Unit:
    key = {"number": number, "does": does, "once": once, "seconds": seconds}
    return Unit(FACTORS, Text(np.zeros(length, dtype=np.int64), key))


def marks(folder: Path, number: int) -> list[tuple[int, str]]:
    """Return process and visible devices of every worker that was given a unit, in order."""
    lines = (folder / str(number)).read_text().splitlines()
    return [(int(line.split()[0]), line.split()[1]) for line in lines]


def threads_of(folder: Path, number: int) -> set[str]:
    """Return the threads that the workers that were given a unit were set up with."""
    return {line.split()[2] for line in (folder / str(number)).read_text().splitlines()}
