"""The terminal of `make demo`: a line for each job, the time that is left, the end of a failed job's log."""

import importlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import workflow_files
from workflow_runs import ROOT, change, command, environment

from longrope.cost.estimate import PRODUCT_SECONDS
from longrope.plan.nodes import Node, Plan
from longrope.settings.nodes import TokenizeNode

LOGGERS = ROOT / "workflow" / "loggers"


@pytest.fixture
def watch(monkeypatch):
    """Return the module of a run's state."""
    monkeypatch.syspath_prepend(str(LOGGERS))
    return importlib.import_module("snakemake_logger_plugin_lines.watch")


def node(kind, label, *inputs):
    settings = TokenizeNode(column=label, max_documents=None)
    return Node(kind, label, settings, inputs={str(i): node for i, node in enumerate(inputs)})


def run_of(watch, tmp_path, *nodes, slots=2, tables=0):
    """Return the state of a run of nodes, each estimated at 10 s, and some tables."""
    kinds = [node.kind for node in nodes]
    stats = {f"{kind}_it": kinds.count(kind) for kind in kinds} | {"all": 1, "total": 99}
    state = watch.Watch(stats | {"tabulate_a": tables}, slots, began=0.0)
    plan = Plan("e", {node.label: node for node in nodes})
    state.expect(plan, tmp_path, {node.key: 10.0 for node in nodes})
    return state


def start(state, number, node, now):
    state.start(number, f"{node.kind}_it", [f"results/{node.key}/DONE"], now)


# Time left ----------------------------------------------------------------------------------------


def test_the_time_left_is_that_of_all_jobs_at_once_or_of_the_longest_chain(watch, tmp_path):
    wide = [node("search", f"s{number}") for number in range(6)]
    assert run_of(watch, tmp_path, *wide).seconds_left(0) == 6 * 10 / 2
    first = node("tokenize", "t")
    second = node("search", "s", first)
    chain = [first, second, node("finetune", "f", second)]
    assert run_of(watch, tmp_path, *chain).seconds_left(0) == 30
    assert run_of(watch, tmp_path, *chain, slots=1, tables=4).seconds_left(0) == (
        30 + 4 * PRODUCT_SECONDS
    )


def test_a_kind_is_as_fast_as_its_jobs_were_and_others_as_all_jobs(watch, tmp_path):
    jobs = [node("search", "a"), node("search", "b"), node("evaluate", "e")]
    state = run_of(watch, tmp_path, *jobs, slots=1)
    start(state, 1, jobs[0], 100)
    assert state.seconds_left(104) == 30 - 4, "a running job has its estimate less what has passed"
    assert state.finish(1, 105) == ("search a", 5)
    # half of the estimate, for the kind and, as nothing else ended, for the other
    assert state.seconds_left(105) == 5 + 5
    start(state, 2, jobs[2], 105)
    assert state.seconds_left(165) == 5, "one that takes longer has none left"
    state.finish(2, 135)
    assert state.seconds_left(135) == 5


def test_nodes_that_are_there_or_not_asked_for_take_no_time(watch, tmp_path):
    jobs = [node("search", "a"), node("search", "b")]
    (tmp_path / jobs[0].key).mkdir(parents=True)
    (tmp_path / jobs[0].key / "DONE").touch()
    assert run_of(watch, tmp_path, *jobs, slots=1).seconds_left(0) == 10
    state = watch.Watch({"search_it": 1, "total": 1}, 1, began=0.0)
    state.expect(Plan("e", {"x": node("evaluate", "e")}), tmp_path, {})
    assert state.seconds_left(0) == 0


def test_a_model_of_unknown_shape_has_no_time_left(watch, tmp_path):
    state = watch.Watch({"search_it": 1, "total": 1}, 1, began=0.0)
    state.expect(Plan("e", {"a": node("search", "a")}), tmp_path, None)
    assert state.seconds_left(0) is None


def test_a_job_of_several_nodes_ends_all_of_them(watch, tmp_path):
    jobs = [node("evaluate", label) for label in "abc"]
    state = run_of(watch, tmp_path, *jobs, slots=1)
    state.start(1, "evaluate_batch_0", [f"r/{each.key}/DONE" for each in jobs], 0)
    assert state.seconds_left(12) == 30 - 12
    assert state.finish(1, 15) == ("evaluate a and 2 more", 15)
    assert state.seconds_left(15) == 0


def test_a_job_that_failed_is_left_and_may_start_again(watch, tmp_path):
    job = node("search", "a")
    state = run_of(watch, tmp_path, job, slots=1)
    start(state, 1, job, 0)
    assert state.fail(1, 4) == ("search a", 4)
    assert (state.num_done, state.num_failed, state.seconds_left(4)) == (0, 1, 10)
    assert state.finish(7, 9) is None, "a rule that is not shown"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "10 s"), (44, "40 s"), (55, "1 min"), (200, "3 min"), (5399, "90 min"), (9000, "2.5 h")],
)
def test_a_time_is_told_as_roughly_as_it_is_known(watch, seconds, words):
    assert watch.about(seconds) == f"about {words}"


def test_the_end_of_a_log_has_the_last_state_of_each_bar(watch, tmp_path):
    lines = importlib.import_module("snakemake_logger_plugin_lines")
    log = tmp_path / "a.log"
    log.write_bytes(b"first\n" * 20 + b"bar: 1%\rbar: 2%\rbar: 3%\nlongrope: error: why\n\n")
    assert lines.last_lines(log).splitlines()[-2:] == ["  bar: 3%", "  longrope: error: why"]
    assert len(lines.last_lines(log).splitlines()) == lines.LINES
    assert "No such file" in lines.last_lines(tmp_path / "none.log")


# The whole ----------------------------------------------------------------------------------------


def watched(folder: Path, name: str) -> tuple[list[str], dict[str, str]]:
    """Return the call of Snakemake as `make demo` makes it, and its environment."""
    variables = environment()
    variables["PYTHONPATH"] = os.pathsep.join([str(LOGGERS), variables["PYTHONPATH"]])
    return command(folder, "--logger", "lines", name=name), variables


def test_make_demo_runs_snakemake_with_these_lines(tmp_path):
    (tmp_path / "ready").touch()
    call = ["make", "-n", "-o", "VENV/ready", "demo", "VENV=VENV"]
    shown = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    runs = re.findall(r"PYTHONPATH=\"(\S*?)\$.*\n?.*snakemake (.*?) --configfile", shown.stdout)
    assert runs == [(str(LOGGERS), "--cores all --logger lines")] * 2


@pytest.mark.workflow
def test_a_run_says_a_line_for_each_job_and_a_failed_one_shows_the_end_of_its_log(finished):
    def edit(settings):
        settings["evaluate"]["perplexity"]["lengths"]["words"] = [128, 100_000]
        settings["evaluate"]["perplexity"]["methods"] = ["none"]

    name = change(finished, "short.yaml", edit)
    (passkey,) = (finished / "results").glob("evaluate/random-llama-passkey-base-none-*")
    shutil.rmtree(passkey)
    call, variables = watched(finished, name)
    options = {"cwd": finished, "env": variables, "capture_output": True, "text": True}
    done = subprocess.run([*call, "--keep-going"], **options)
    said = done.stderr
    assert done.returncode == 1
    done_line = r"^\[ *\d+ of \d+\] evaluate random-llama-passkey-base-none done in [\d.]+ \w+"
    assert re.search(done_line, said, re.M), said
    assert re.search(
        r"running: .*evaluate random-llama-p.*; about \d+ \w+ left, until \d\d:\d\d$", said, re.M
    )
    assert re.search(r"evaluate random-llama-perplexity-base-none FAILED after", said)
    assert (
        "  longrope: error: perplexity documents of corpus words: no document has 100000 tokens"
        in said
    )
    (whole,) = re.findall(r"^the whole log of the run: (.*)$", said, re.M)
    assert "rule evaluate_task:" in Path(whole).read_text()
    for page in (
        "rule evaluate",
        "Error in rule",
        "RuleException",
        "Select jobs",
        "\r",
        "Traceback",
    ):
        assert page not in said
    assert re.search(r"^\d+ of \d+ jobs done in ", said, re.M)


@pytest.mark.workflow
def test_a_mistake_of_the_user_is_said_and_a_finished_run_says_so(finished):
    call, variables = watched(finished, "small.yaml")
    options = {"cwd": finished, "env": variables, "capture_output": True, "text": True}
    done = subprocess.run(call, **options)
    assert (done.returncode, "Nothing to be done" in done.stderr) == (0, True), done.stderr
    name = change(finished, "wrong.yaml", lambda s: s.update(serach=s.pop("search")))
    call, _ = watched(finished, name)
    done = subprocess.run(call, **options)
    assert done.returncode == 1
    assert "did you mean search" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.workflow
def test_ctrl_c_ends_the_run_and_its_jobs(tmp_path):
    workflow_files.write_experiment(tmp_path)
    call, variables = watched(tmp_path, "small.yaml")
    options = {"cwd": tmp_path, "env": variables, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(call, start_new_session=True, **options)
    said = ""
    while "running: " not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    os.killpg(process.pid, signal.SIGINT)
    said += process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert "Terminating processes on user request" in said and "jobs done in" in said
    assert not list((tmp_path / "results" / ".work").rglob("*.lock/*"))
