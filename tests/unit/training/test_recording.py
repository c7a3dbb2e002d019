"""What a training shows while it runs: lines so far, memory and time of each step, the bar."""

import json
import re
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import watched_trainings
from killing import Interrupt
from small_trainings import write_tokens
from transformers import TrainerCallback
from transformers.utils import logging

from longrope.training import recording
from longrope.training.recording import Recorder, read_whole_lines

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")
NAMES = ("log", "measured", "watched")
TOKENS = 4 * 64
"""of a step: rows times length"""


@pytest.fixture
def tokens(tmp_path):
    return write_tokens(tmp_path / "tokens")


def trained(tokens, work, *more):
    """Train, watched at steps 0, 4 and 6, with checkpoints at 2, 4 and 6; return all that is known."""
    work.mkdir(exist_ok=True)
    recorder, watch = Recorder(work, tokens_per_step=TOKENS), watched_trainings.watch(tokens)
    _, log = watched_trainings.trained(tokens, work, recorder, watch, *more)
    return recorder, watch, log


def lines(work):
    return {name: read_whole_lines(work / f"_{name}.jsonl") for name in NAMES}


class Reader(TrainerCallback):
    """Reads the files at the beginning of every step, as somebody does who follows a training."""

    def __init__(self, work):
        self.work = work
        self.read = []

    def on_step_begin(self, *_, **__):
        self.read.append({name: len(entries) for name, entries in lines(self.work).items()})


def test_all_that_is_known_of_earlier_steps_can_be_read_when_a_step_begins(tokens, tmp_path):
    reader = Reader(tmp_path / "work")
    recorder, watch, log = trained(tokens, reader.work, reader)
    watched = [2, 2, 2, 2, 4, 4]
    for step, (known, looks) in enumerate(zip(reader.read, watched, strict=True)):
        assert known == {"log": step, "measured": step, "watched": looks}
    end = lines(reader.work)
    assert end["measured"] == recorder.measured and end["watched"] == watch.entries
    assert [entry["loss"] for entry in end["log"]] == [entry["loss"] for entry in log]


def test_a_resumed_training_keeps_the_lines_of_the_steps_it_keeps(tokens, tmp_path):
    work = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        trained(tokens, work, Interrupt(6))
    before = lines(work)
    assert [entry["step"] for entry in before["measured"]] == [1, 2, 3, 4, 5, 6]
    marked = [json.dumps(entry | {"seconds": 1000.0}) + "\n" for entry in before["measured"]]
    (work / "_measured.jsonl").write_text("".join(marked) + '{"step": 7, "sec')  # torn by a kill
    recorder, _, _ = trained(tokens, work)
    after = lines(work)
    # the checkpoint is of step 4
    assert after["measured"] == recorder.measured
    assert [entry["step"] for entry in recorder.measured] == [1, 2, 3, 4, 5, 6]
    seconds = [entry["seconds"] for entry in recorder.measured]
    assert seconds[:4] == [1000.0] * 4 and max(seconds[4:]) < 1000
    whole = tmp_path / "whole"
    trained(tokens, whole)
    for name in ("log", "watched"):
        ends = [(folder / f"_{name}.jsonl").read_bytes() for folder in (work, whole)]
        assert ends[0] == ends[1], name


def test_a_training_that_begins_anew_leaves_no_line_of_the_one_before(tokens, tmp_path):
    for name in NAMES:
        (tmp_path / f"_{name}.jsonl").write_text('{"step": 1}\n')
    recorder = Recorder(tmp_path, tokens_per_step=TOKENS)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, log_history=[])
    recorder.on_train_begin(None, state)
    assert list(tmp_path.glob("_*.jsonl")) == []


def test_of_several_processes_only_the_first_leaves_lines(tmp_path):
    recorder = Recorder(tmp_path, tokens_per_step=TOKENS)
    state = SimpleNamespace(
        is_world_process_zero=False, global_step=1, log_history=[{"loss": 1.0, "step": 1}]
    )
    for event in ("on_train_begin", "on_step_begin", "on_step_end", "on_log", "on_train_end"):
        getattr(recorder, event)(None, state)
    assert list(tmp_path.iterdir()) == recorder.measured == []


# Measured -----------------------------------------------------------------------------------------


def step(recorder, number, work):
    """Let a step pass that does some work; return what was measured of it."""
    state = SimpleNamespace(is_world_process_zero=True, global_step=number, log_history=[])
    recorder.on_step_begin(None, state)
    work()
    recorder.on_step_end(None, state)
    return recorder.measured[-1]


def test_memory_that_a_step_gives_back_is_in_the_peak_and_not_in_what_is_held(tmp_path):
    blocks = []

    def pages():
        # 400 MB of touched pages; blocks of this size go back to the system
        return np.ones(50 * 2**20)

    recorder = Recorder(tmp_path, tokens_per_step=TOKENS)
    before = step(recorder, 1, lambda: None)
    passing = step(recorder, 2, lambda: pages().sum())
    holding = step(recorder, 3, lambda: blocks.append(pages()))
    held = psutil.Process().memory_info().rss / 2**20
    blocks.clear()
    given_back = step(recorder, 4, lambda: None)
    resident = [
        entry["resident_memory_mb"] - before["resident_memory_mb"]
        for entry in (passing, holding, given_back)
    ]
    assert resident == pytest.approx([0, 400, 0], abs=40)
    assert holding["resident_memory_mb"] == pytest.approx(held, abs=40)
    peaks = [entry["peak_memory_so_far_mb"] for entry in recorder.measured]
    assert peaks == sorted(peaks)
    assert passing["peak_memory_so_far_mb"] >= before["resident_memory_mb"] + 360


class Gpu:
    """Stands in for torch.cuda: counts the bytes that were alive at once since the last reset."""

    def __init__(self):
        self.peak = self.held = 0

    def is_available(self):
        return True

    def synchronize(self):
        pass

    def hold(self, megabytes):
        self.held += megabytes * 2**20
        self.peak = max(self.peak, self.held)

    def reset_peak_memory_stats(self):
        self.peak = self.held

    def max_memory_allocated(self):
        return self.peak


def test_the_peak_of_a_gpu_is_that_of_the_step_alone(tmp_path, monkeypatch):
    gpu = Gpu()
    monkeypatch.setattr(recording.torch, "cuda", gpu)

    def work(most):
        gpu.hold(most)
        gpu.hold(-most)

    gpu.hold(10)
    recorder = Recorder(tmp_path, tokens_per_step=TOKENS)
    measured = [step(recorder, number, lambda n=n: work(n)) for number, n in enumerate((5, 90, 20))]
    assert [entry["peak_gpu_memory_mb"] for entry in measured] == [15.0, 100.0, 30.0]


def test_speed_is_tokens_of_the_step_by_its_seconds(tmp_path, monkeypatch):
    times = iter([100.0, 104.0])
    monkeypatch.setattr(recording.time, "monotonic", lambda: next(times))
    measured = step(Recorder(tmp_path, tokens_per_step=TOKENS), 1, lambda: None)
    assert (measured["step"], measured["seconds"], measured["tokens_per_second"]) == (1, 4.0, 64.0)


# The bar ------------------------------------------------------------------------------------------


def bars(said):
    """Return the steps that a bar with the time left shows, as they were written."""
    shown = re.findall(r"finetune: +\d+%\|.*?\| (\d+)/6 \[\d\d:\d\d<(?:\d\d:\d\d|\?),", said)
    return [int(number) for number in shown]


@pytest.fixture
def _quiet():
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


@pytest.mark.usefixtures("_quiet")
def test_a_bar_with_the_time_left_is_written_to_stderr_though_it_is_no_terminal(
    tokens, tmp_path, capfd
):
    trained(tokens, tmp_path / "work")
    said = capfd.readouterr()
    shown = bars(said.err)
    assert (shown[0], shown[-1]) == (0, 6)
    # each loss once, above the bar
    assert said.out.count("'loss': ") == 6


def test_the_bar_of_a_resumed_training_begins_where_it_does(tokens, tmp_path, capfd):
    with pytest.raises(KeyboardInterrupt):
        trained(tokens, tmp_path / "work", Interrupt(6))
    capfd.readouterr()
    trained(tokens, tmp_path / "work")
    shown = bars(capfd.readouterr().err)
    assert (shown[0], shown[-1]) == (4, 6)
