"""Units to the workers of a Dask scheduler: one of this host, with two processes."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from distributed import Client
from fake_workers import DIES_AT_START, fake_scorer, marks, threads_of, unit
from repository import HELPERS
from search_stage import searched, write_inputs
from searches import HIGH, LOW, PROBLEM, Scripted

from longrope.errors import UserError
from longrope.runtime import Workers
from longrope.search.algorithms.algorithm import Candidate
from longrope.search.driver import search
from longrope.search.objective import Objective
from longrope.search.workers import cluster
from longrope.search.workers.units import Score
from longrope.store.score_memory import ScoreMemory

PATIENCE = 180
"""seconds for two workers to start on a loaded machine"""


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The file of a scheduler with two workers, as docs/cluster.md starts them."""
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"
    paths = [str(HELPERS), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        # results must not depend on what a worker was started with
        "OMP_NUM_THREADS": "2",
    }

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments, "--scheduler-file", file, "--no-dashboard"],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    started = [start("scheduler", "--host", "127.0.0.1", "--port", "0")]
    started += [start("worker", "--host", "127.0.0.1", "--nthreads", "1") for _ in range(2)]
    # a worker that is still to come would take what a test has for those that are there
    while not file.is_file():
        time.sleep(0.1)
    with Client(scheduler_file=str(file), timeout=PATIENCE, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
    yield file
    for process in reversed(started):
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def pool(scheduler, folder):
    with cluster.opened(
        fake_scorer(folder, threads=3), Workers(timeout=2, scheduler=scheduler)
    ) as pool:
        pool.client.wait_for_workers(2, timeout=PATIENCE)
        yield pool


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("longrope")]


def test_a_worker_that_dies_with_the_model_half_loaded_ends_in_a_sentence(scheduler, tmp_path):
    (tmp_path / DIES_AT_START).touch()
    given = fake_scorer(tmp_path), Workers(scheduler=scheduler)
    with pytest.raises(UserError, match="died while it loaded the model"), cluster.opened(*given):
        pass


def test_two_workers_share_the_units(pool, folder):
    scores = sorted(pool.scores([unit(number, seconds=0.2) for number in range(6)]))
    assert scores == [(number, Score(number, 1)) for number in range(6)]
    assert len({process for number in range(6) for process, _ in marks(folder, number)}) == 2
    assert {threads for number in range(6) for threads in threads_of(folder, number)} == {"3"}


def test_units_that_wait_for_each_other_are_scored_at_once(pool):
    scores = sorted(pool.scores([unit(50, "meet"), unit(51, "meet")]))
    assert scores == [(0, Score(50, 1)), (1, Score(51, 1))]


def test_a_killed_worker_is_replaced_and_its_unit_scored_again(pool, folder, caplog):
    scores = sorted(pool.scores([unit(10, "die", once=True), unit(11)]))
    assert scores == [(0, Score(10, 1)), (1, Score(11, 1))]
    first, second = (process for process, _ in marks(folder, 10))
    assert first != second
    (warning,) = warnings_of(caplog)
    assert warning.startswith("number 10, does die,")
    assert warning.endswith(": Dask lost the worker that had it")


def test_a_hung_worker_is_replaced_and_its_unit_scored_again(pool, folder, caplog):
    assert list(pool.scores([unit(20, "hang", once=True)])) == [(0, Score(20, 1))]
    hung, second = (process for process, _ in marks(folder, 20))
    assert hung != second
    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)
    (warning,) = warnings_of(caplog)
    assert "a worker took longer than 2 s" in warning


def test_a_unit_that_kills_every_worker_is_named(pool, folder):
    with pytest.raises(UserError, match=r"number 30, .* all workers that tried it died"):
        list(pool.scores([unit(30, "die")]))
    assert 1 < len(marks(folder, 30)) < 10


def test_a_nan_ranks_last_and_is_logged_once_with_candidate_and_document(pool, tmp_path, caplog):
    objective = Objective(pool, ScoreMemory(tmp_path, {}), [unit(60, "nan", once=True).text])
    script = Scripted([Candidate(LOW, "a", (0,))], [Candidate(HIGH, "b", (0,))])
    best = search(PROBLEM, script, objective, tmp_path / "history.jsonl", {})
    (warning,) = warnings_of(caplog)
    assert re.fullmatch("candidate 1 ranks last: its loss on number 60, .* is nan", warning)
    assert best.provenance["num_failed_candidates"] == 1


def test_an_error_of_the_computation_is_not_tried_again(pool, folder):
    with pytest.raises(ZeroDivisionError, match="of a fake"):
        list(pool.scores([unit(40, "raise")]))
    assert len(marks(folder, 40)) == 1


def test_a_model_in_dask_scores_to_the_same_bytes_as_in_this_process(scheduler, tmp_path):
    inputs = write_inputs(tmp_path)
    expected = searched(tmp_path / "here", inputs, Workers())
    assert searched(tmp_path / "dask", inputs, Workers(scheduler=scheduler)) == expected


def test_a_scheduler_file_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0.2)
    workers = Workers(scheduler=tmp_path / "scheduler.json")
    with (
        pytest.raises(UserError, match=r"scheduler\.json is not there; give --dask the file"),
        cluster.opened(fake_scorer(tmp_path), workers),
    ):
        pass


def test_a_scheduler_that_is_gone_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    file = tmp_path / "scheduler.json"
    file.write_text('{"address": "tcp://127.0.0.1:9"}')
    with (
        pytest.raises(UserError, match=r"the Dask scheduler of .* does not answer; start it"),
        cluster.opened(fake_scorer(tmp_path), Workers(scheduler=file)),
    ):
        pass


class Unmanned:
    """A client of a scheduler to which no worker came."""

    def __init__(self, **options):
        self.options = options

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def wait_for_workers(self, number, timeout):
        assert number == 1
        raise TimeoutError(timeout)


def test_a_scheduler_without_a_worker_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "Client", Unmanned)
    file = tmp_path / "scheduler.json"
    file.touch()
    with (
        pytest.raises(
            UserError, match=r"the Dask scheduler of .* has no worker after 120 s; start"
        ),
        cluster.opened(fake_scorer(tmp_path), Workers(scheduler=file)),
    ):
        pass
