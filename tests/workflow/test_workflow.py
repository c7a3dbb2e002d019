"""The workflow as users run it, on the smallest experiment that reaches every kind of node but fetch."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from workflow_runs import change, computed, environment, names, plan_file, run, score_lines

pytestmark = pytest.mark.workflow


def table(folder, name):
    return pd.read_csv(folder / "results" / "tables" / "small" / f"{name}.csv")


def test_all_tables_and_figures_are_written(finished):
    results = finished / "results"
    names = {path.name for path in (results / "tables" / "small").iterdir()}
    assert {"perplexity.csv", "passkey.csv", "cost.csv", "provenance.csv", "perplexity.md"} <= names
    figures = {path.name for path in (results / "figures" / "small").iterdir()}
    expected = {
        "perplexity.svg",
        "factors.svg",
        "convergence.svg",
        "training.svg",
        "passkey.svg",
        "provenance.html",
    }
    assert expected <= figures


def test_every_method_and_length_has_a_perplexity_with_its_stand_in(finished):
    perplexity = table(finished, "perplexity")
    # three methods on the base model and the tuned one, at three lengths
    assert len(perplexity) == 12
    assert set(perplexity["stand_in"]) == {"random words"}
    assert (perplexity["ppl"] > 1).all()
    assert set(perplexity["protocol"]) == {"window"}
    cells = perplexity.set_index(["variant", "method", "length"])["ppl"]
    # inside the window no untuned method changes the model
    assert cells["base", "none", 128] == cells["base", "yarn", 128]
    assert cells["base", "none", 128] == cells["base", "longrope", 128]


def test_results_have_human_names(finished):
    link = finished / "results" / "by-name" / "small" / "search" / "random-llama-256"
    assert (link / "factors.json").is_file()
    assert "search" in str(link.resolve())


def test_a_second_run_computes_nothing(finished):
    before = computed(finished)
    done = run(finished)
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr
    assert computed(finished) == before


def test_a_cancelled_job_gives_its_claim_back(finished, tmp_path):
    keys = names(finished)
    store = tmp_path / "store"
    tokens = keys["tokenize/random-llama-words-validation"]
    shutil.copytree(finished / "results" / tokens, store / tokens)
    plan = plan_file(finished)
    key = keys["search/random-llama-256"]
    command = [sys.executable, "-m", "longrope", "run", key, "--plan", plan, "--store", store]
    process = subprocess.Popen(command, cwd=finished, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not score_lines(store) and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be cancelled"
        time.sleep(0.002)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert not list(store.glob(".work/search/*.lock"))
    assert not (store / key).exists()


def test_a_search_killed_in_the_middle_ends_with_the_same_bytes_and_scores_nothing_twice(
    finished, tmp_path
):
    plan = plan_file(finished)
    names = json.loads(plan.read_text())["names"]
    key = names["search/random-llama-256"]
    store = tmp_path / "store"
    tokens = names["tokenize/random-llama-words-validation"]
    shutil.copytree(finished / "results" / tokens, store / tokens)
    command = [sys.executable, "-m", "longrope", "run", key, "--plan", plan, "--store", store]
    process = subprocess.Popen(command, cwd=finished, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(score_lines(store)) < 5 and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (store / key / "manifest.json").exists()
    # the lock of the killed process must not be waited for
    for token in store.glob(".work/search/*.lock/*"):
        os.utime(token, (0, 0))
    subprocess.run(command, cwd=finished, check=True, capture_output=True)
    for file in ("factors.json", "history.jsonl"):
        assert (store / key / file).read_bytes() == (finished / "results" / key / file).read_bytes()
    score_keys = [json.loads(line)[0] for line in score_lines(store)]
    assert len(score_keys) == len(set(score_keys))
    history = (store / key / "history.jsonl").read_text().splitlines()
    # two documents a candidate, and perhaps the winner without its start tokens
    assert 2 * len(history) <= len(score_keys) <= 2 * len(history) + 2


def test_a_report_is_made_without_network(finished):
    done = run(finished, "small.yaml", "--report", finished / "report.html")
    assert done.returncode == 0, done.stderr[-2000:]
    page = (finished / "report.html").read_text()
    assert "random words" in page and "Perplexity" in page and "Provenance" in page


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda s: s.update(serach=s.pop("search")), "did you mean search"),
        (lambda s: s["search"].update(num_documents="many"), "search.num_documents should be"),
        (lambda s: s["model"].update(path="nowhere"), "has no config.json"),
        (
            lambda s: s["corpora"]["words"]["source"]["files"].update(train=["gone.txt"]),
            "gone.txt: there is no such file",
        ),
    ],
)
def test_a_mistake_in_the_configuration_ends_in_one_sentence(finished, edit, sentence):
    name = change(finished, "wrong.yaml", edit)
    before = computed(finished)
    done = run(finished, name)
    text = done.stdout + done.stderr
    assert done.returncode == 1
    assert sentence in text
    assert "Traceback" not in text
    assert computed(finished) == before


def test_documents_too_short_are_named_and_nothing_is_half_written(finished):
    def edit(settings):
        settings["evaluate"]["perplexity"]["lengths"]["words"] = [128, 100_000]

    name = change(finished, "short.yaml", edit)
    before = computed(finished)
    done = run(finished, name)
    assert done.returncode == 1
    assert "corpus words: no document has 100000 tokens" in done.stdout + done.stderr
    assert computed(finished) == before
