"""Units to workers: in this process, by fake workers in processes, and by processes with a model."""

import logging
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import workflow_files
import workflow_runs
from fake_workers import FACTORS, fake_scorer, marks, threads_of, unit
from hypothesis import given
from hypothesis import strategies as st
from repository import HELPERS
from search_stage import searched, write_inputs
from searches import HIGH, LOW, PROBLEM, Scripted, make

from longrope.cli import main as cli
from longrope.cost.estimate import requirements
from longrope.cost.shapes import Shape
from longrope.errors import UserError
from longrope.plan import build as planning
from longrope.runtime import Input, Runtime, Workers
from longrope.search.algorithms.algorithm import Candidate
from longrope.search.driver import search
from longrope.search.objective import Objective
from longrope.search.workers import processes
from longrope.search.workers.dispatch import ATTEMPTS, dispatch
from longrope.search.workers.pools import InProcess, open_pool
from longrope.search.workers.processes import Process, opened, visible_devices
from longrope.search.workers.units import Score, Text
from longrope.settings import loading as configuration
from longrope.settings.hardware import read_machine
from longrope.settings.nodes import ScoringUse
from longrope.store.score_memory import ScoreMemory

# Units to places ----------------------------------------------------------------------------------


class LostError(Exception):
    """What a place says of a worker that is gone."""


class FakePlace:
    """Scores at once, or loses its worker as often as it is told to."""

    def __init__(self, num_losses=0, error=LostError):
        self.started = []
        self.num_losses = num_losses
        self.error = error

    def start(self, unit):
        self.started.append(unit.text.key["number"])
        future = Future()
        if len(self.started) <= self.num_losses:
            future.set_exception(self.error("gone"))
        else:
            future.set_result(Score(unit.text.key["number"], 1))
        return future

    def loss(self, error):
        return "was lost" if isinstance(error, LostError) else None


@given(st.lists(st.integers(2, 9)), st.integers(1, 4))
def test_every_unit_is_scored_once_however_many_workers(lengths, num_places):
    places = [FakePlace() for _ in range(num_places)]
    units = [unit(number, length=length) for number, length in enumerate(lengths)]
    scores = list(dispatch(units, places))
    assert sorted(scores) == [(number, Score(number, 1)) for number in range(len(lengths))]
    assert sorted(n for place in places for n in place.started) == list(range(len(lengths)))


def test_the_longest_come_first_and_equal_ones_in_the_order_asked():
    place = FakePlace()
    units = [unit(number, length=length) for number, length in enumerate([5, 9, 5, 7, 9])]
    list(dispatch(units, [place]))
    assert place.started == [1, 4, 3, 0, 2]


def test_a_lost_unit_is_given_away_again_at_once(caplog):
    place = FakePlace(num_losses=ATTEMPTS - 1)
    units = [unit(0, length=9), unit(1, length=2)]
    with caplog.at_level(logging.WARNING):
        assert sorted(dispatch(units, [place])) == [(0, Score(0, 1)), (1, Score(1, 1))]
    assert place.started == [0, 0, 0, 1]
    assert "number 0, does score" in caplog.text and "a worker was lost" in caplog.text


def test_a_unit_that_loses_every_worker_is_named_in_the_end():
    place = FakePlace(num_losses=ATTEMPTS)
    with pytest.raises(UserError, match=r"number 7, .* 3 workers were lost, the last one was lost"):
        list(dispatch([unit(7)], [place]))
    assert len(place.started) == ATTEMPTS == 3


def test_an_error_of_the_computation_is_not_tried_again():
    place = FakePlace(num_losses=1, error=ZeroDivisionError)
    with pytest.raises(ZeroDivisionError, match="gone"):
        list(dispatch([unit(0)], [place]))
    assert len(place.started) == 1


# The parent remembers -----------------------------------------------------------------------------


class StoppingPool:
    """Ends in the middle, as a killed search does; the last unit comes first."""

    def __init__(self, num_scores):
        self.num_scores = num_scores
        self.asked = []

    def scores(self, units):
        self.asked += [unit.text.key["number"] for unit in units]
        for position in reversed(range(len(units))):
            if self.num_scores == 0:
                raise KeyboardInterrupt
            self.num_scores -= 1
            yield position, Score(float(units[position].text.key["number"]), 1)


def objective_of(pool, folder, num_texts):
    texts = [unit(number).text for number in range(num_texts)]
    return Objective(pool, ScoreMemory(folder, {}), texts)


def test_what_was_scored_before_a_kill_is_not_asked_for_again(tmp_path):
    def scores(pool):
        objective = objective_of(pool, tmp_path, 5)
        return objective.scores([objective.unit(FACTORS, number) for number in range(5)])

    with pytest.raises(KeyboardInterrupt):
        scores(StoppingPool(2))
    second = StoppingPool(99)
    assert [score.loss for score in scores(second)] == [0, 1, 2, 3, 4]
    assert second.asked == [0, 1, 2]


def test_a_unit_that_is_asked_for_twice_at_once_is_scored_once(tmp_path):
    pool, positions = StoppingPool(99), []
    objective = objective_of(pool, tmp_path, 2)
    units = [objective.unit(FACTORS, number) for number in (0, 1, 0)]
    assert [score.loss for score in objective.scores(units, positions.append)] == [0, 1, 0]
    assert pool.asked == [0, 1] and len(positions) == 2


def test_only_the_counted_tokens_make_a_loss():
    text = Text(np.zeros(10, dtype=np.int64), {}, scored_from=8)
    assert text.num_scored == 2
    assert Score(3.0, text.num_scored).loss == 1.5
    assert Score(math.nan, 2).loss == Score(-math.inf, 2).loss == math.inf


# Fake workers in processes ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def pool(folder):
    with opened(fake_scorer(folder), Workers(2, timeout=2)) as pool:
        yield pool


def test_a_killed_worker_is_replaced_and_its_unit_scored_by_another(pool, folder, caplog):
    units = [unit(0, "die", once=True), unit(1), unit(2)]
    assert sorted(pool.scores(units)) == [(number, Score(number, 1)) for number in range(3)]
    first, second = (process for process, _ in marks(folder, 0))
    assert first != second
    # Its exit code is not known if it dies before the parent has heard that it began.
    assert "a worker died" in caplog.text


def test_a_hung_worker_is_replaced_and_its_unit_scored_by_another(pool, folder, caplog):
    assert list(pool.scores([unit(10, "hang", once=True)])) == [(0, Score(10, 1))]
    hung, second = (process for process, _ in marks(folder, 10))
    assert hung != second
    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)
    assert "a worker took longer than 2 s" in caplog.text


def test_a_unit_that_kills_every_worker_is_named_and_the_pool_goes_on(pool, folder):
    with pytest.raises(
        UserError, match=r"number 20, .* died( with exit code -9)?; give workers more"
    ):
        list(pool.scores([unit(20, "die")]))
    assert len(marks(folder, 20)) == ATTEMPTS
    assert list(pool.scores([unit(21)])) == [(0, Score(21, 1))]


def test_a_worker_killed_while_it_has_nothing_to_do_is_replaced(pool, folder):
    list(pool.scores([unit(30), unit(31)]))
    for worker in {process for number in (30, 31) for process, _ in marks(folder, number)}:
        os.kill(worker, signal.SIGKILL)
    scores = sorted(pool.scores([unit(32), unit(33)]))
    assert scores == [(0, Score(32, 1)), (1, Score(33, 1))]


def test_a_nan_of_a_worker_is_an_infinite_loss_and_remembered(pool, folder, tmp_path):
    objective = Objective(pool, ScoreMemory(tmp_path, {}), [unit(40, "nan").text])
    for _ in range(2):
        (score,) = objective.scores([objective.unit(FACTORS, 0)])
        assert score.loss == math.inf
    assert len(marks(folder, 40)) == 1


def test_a_worker_and_its_successor_see_one_device_and_have_the_threads_asked_for(folder):
    place = Process(fake_scorer(folder, threads=3), "GPU-7", timeout=None)
    try:
        with pytest.raises((processes.ProcessExpired, processes.BrokenProcessPool)):
            place.start(unit(50, "die", once=True)).result()
        assert place.start(unit(50)).result() == Score(50, 1)
    finally:
        place.stop()
    (first, device), (second, successors) = marks(folder, 50)
    assert first != second
    assert device == successors == "GPU-7"
    assert threads_of(folder, 50) == {"3"}


def test_devices_go_around_among_the_workers(folder, monkeypatch):
    given = []

    class Place:
        def __init__(self, scorer, device, timeout):
            given.append((device, timeout))

        def stop(self):
            given.append("stopped")

    monkeypatch.setattr(processes, "Process", Place)
    monkeypatch.setattr(processes, "visible_devices", lambda: ["3", "5"])
    with opened(fake_scorer(folder), Workers(3, timeout=9)):
        assert given == [("3", 9), ("5", 9), ("3", 9)]
    assert given[3:] == ["stopped"] * 3


def test_a_recipe_sets_the_threads_of_torch_and_takes_them_from_the_runtime(tmp_path, monkeypatch):
    asked = []

    @contextmanager
    def opened_with(scorer, workers):
        asked.append(scorer)
        yield

    monkeypatch.setattr(processes, "opened", opened_with)
    settings = ScoringUse(original_length=64, dtype="float32")
    runtime = Runtime(tmp_path, tmp_path, workers=Workers(2, threads=3))
    with open_pool(settings, Input(tmp_path, "model"), runtime):
        (scorer,) = asked
    before = torch.get_num_threads()
    scorer.set_up()
    try:
        assert torch.get_num_threads() == scorer.threads == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("visible", "count", "devices"),
    [(None, 0, []), (None, 2, ["0", "1"]), ("3,5", 2, ["3", "5"]), ("", 0, [])],
)
def test_devices_are_those_that_this_process_may_see(visible, count, devices, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_devices() == devices


def test_nothing_is_started_for_scores_that_nobody_asks_for(tmp_path):
    before = len(multiprocessing.active_children())
    with opened(fake_scorer(tmp_path), Workers(3)) as pool:
        assert list(pool.scores([])) == []
        assert len(multiprocessing.active_children()) == before


PARENT = """
import sys
from pathlib import Path
from fake_workers import fake_scorer, unit
from longrope.runtime import Input, Runtime, Workers
from longrope.search.workers.processes import opened

if __name__ == "__main__":
    with opened(fake_scorer(Path(sys.argv[1])), Workers(2)) as pool:
        list(pool.scores([unit(0, "hang"), unit(1, "hang")]))
"""


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_end_with_a_killed_parent_even_if_they_hang(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    paths = [str(HELPERS), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    parent = subprocess.Popen([sys.executable, script, tmp_path], env=environment)
    deadline = time.monotonic() + 60
    while not all((tmp_path / name).is_file() for name in "01") and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    workers = [process for number in (0, 1) for process, _ in marks(tmp_path, number)]
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


# The same result ----------------------------------------------------------------------------------


def searched_by(pool, folder):
    folder.mkdir()
    texts = [unit(number, seconds=0.002 * number, length=2 + number).text for number in range(3)]
    objective = Objective(pool, ScoreMemory(folder, {}), texts)
    best = search(PROBLEM, make("cma"), objective, folder / "history.jsonl", {})
    best.save(folder / "factors.json")
    return [(folder / name).read_bytes() for name in ("factors.json", "history.jsonl")]


def test_one_two_and_four_workers_write_the_same_bytes(tmp_path):
    marked = tmp_path / "marks"
    marked.mkdir()
    expected = searched_by(InProcess(fake_scorer(marked).open()), tmp_path / "0")
    assert len(set(map(len, expected))) == 2, "they hold something"
    for count in (2, 4):
        with opened(fake_scorer(marked), Workers(count)) as pool:
            assert searched_by(pool, tmp_path / str(count)) == expected
    used = {process for number in range(3) for process, _ in marks(marked, number)}
    assert len(used) == 1 + 2 + 4


def test_a_model_in_four_processes_scores_to_the_same_bytes_as_in_this_one(tmp_path):
    inputs = write_inputs(tmp_path)
    expected = searched(tmp_path / "here", inputs, Workers())
    assert searched(tmp_path / "processes", inputs, Workers(4)) == expected


def test_a_nan_ranks_last_and_is_logged_once_with_candidate_and_document(tmp_path, caplog):
    pool = InProcess(fake_scorer(tmp_path).open())
    objective = Objective(pool, ScoreMemory(tmp_path, {}), [unit(60, "nan", once=True).text])
    script = Scripted([Candidate(LOW, "a", (0,))], [Candidate(HIGH, "b", (0,))])
    best = search(PROBLEM, script, objective, tmp_path / "history.jsonl", {})
    (record,) = caplog.records
    assert re.fullmatch(
        "candidate 1 ranks last: its loss on number 60, .* is nan", record.getMessage()
    )
    assert best.provenance["num_failed_candidates"] == 1


# The command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--workers", "--worker-timeout"])
@pytest.mark.parametrize("value", ["0", "-1"])
def test_numbers_that_are_not_positive_are_refused(option, value, capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "search/a", "--plan", "plan.json", option, value])
    assert f"argument {option}: {value} is not positive" in capsys.readouterr().err


def test_threads_of_the_rules_are_workers_with_a_gpu_and_memory_each_and_a_resource_limits_them(
    tmp_path,
):
    workflow_files.write_experiment(tmp_path)
    threads = ["--set-threads", "search_factors=3"]
    limits = ["--set-resources", "readjust_factors:worker_timeout=90"]
    done = workflow_runs.run(tmp_path, "small.yaml", "-n", "-p", "--cores", "8", *threads, *limits)
    assert done.returncode == 0, done.stderr[-2000:]
    job, limited = (
        done.stdout.split(f"rule {rule}:")[1].split("\n\n")[0]
        for rule in ("search_factors", "readjust_factors")
    )
    assert "--threads 1 --workers 3 >" in job
    assert "--threads 1 --workers 1 --worker-timeout 90 >" in limited
    plan = planning.build(configuration.load(tmp_path / "small.yaml"), tmp_path)
    machine = read_machine(plan.hardware, workflow_runs.ROOT / "config/hardware.yaml")
    single = requirements(plan.of("search")[0], Shape.of(plan.shape), machine)
    assert f"mem_mb={3 * single.mem_mb}" in job
    assert single.gpus_per_node == 1 and "gres=gpu:3" in job
