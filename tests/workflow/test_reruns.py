"""Only the stale reruns: what each change computes again, and what it does not, on the real workflow."""

import json
import os
import re
import shutil
import subprocess
import time

import pytest
import workflow_runs
from workflow_runs import ROOT, change, computed, longrope, names, planned, run, score_lines

pytestmark = pytest.mark.workflow

PERPLEXITY = {
    "evaluate/random-llama-perplexity-base-none",
    "evaluate/random-llama-perplexity-base-yarn",
    "evaluate/random-llama-perplexity-base-longrope",
    "evaluate/random-llama-perplexity-tuned-longrope",
}
PASSKEY = {
    "evaluate/random-llama-passkey-base-none",
    "evaluate/random-llama-passkey-tuned-longrope",
}
TOKENS = {f"tokenize/random-llama-words-{split}" for split in ("train", "validation", "test")}
SECOND = "search/random-llama-ft256-512"
EXTENSION = {
    "search/random-llama-256",
    "finetune/random-llama-256",
    SECOND,
    "readjust/random-llama-ft256",
}
TUNED = {node for node in PERPLEXITY | PASSKEY if "tuned" in node}


@pytest.fixture
def clone(tmp_path):
    """A copy of the rules and the library, to be edited."""
    return workflow_runs.clone(tmp_path)


def edit_code(clone, module, old, new):
    """Replace text in a module of a clone."""
    path = clone / "longrope" / module
    text = path.read_text()
    assert old in text, f"{module} no longer has {old!r}"
    path.write_text(text.replace(old, new, 1))


def tables_planned(folder, name="small.yaml", code=ROOT):
    """Return the rules of tables and figures that a run would start."""
    done = run(folder, name, "-n", code=code)
    return set(re.findall(r"^(?:local)?rule ((?:tabulate|plot)_\w+):", done.stdout, re.M))


# Nothing changed ----------------------------------------------------------------------------------


def test_a_store_copied_elsewhere_is_finished_there_too(finished):
    # the folder is a copy, without Snakemake's own memory, of the one that was computed
    assert planned(finished) == set()
    assert set(names(finished).values()) == set(computed(finished))


def test_nothing_is_computed_for_another_clone_of_the_code(finished, clone):
    assert planned(finished, code=clone) == set()


def test_nothing_is_computed_after_every_file_was_touched(finished):
    for path in sorted(finished.rglob("*")):
        if path.is_file():
            os.utime(path)
    assert planned(finished) == set()


def test_nothing_is_computed_after_snakemakes_own_memory_is_lost(finished):
    run(finished)
    shutil.rmtree(finished / ".snakemake")
    assert planned(finished) == set()


def test_a_second_run_finds_nothing_to_do(finished):
    run(finished)
    before = computed(finished)
    done = run(finished)
    assert "Nothing to be done" in done.stdout + done.stderr
    assert computed(finished) == before


# Settings -----------------------------------------------------------------------------------------


def test_an_unrelated_key_computes_nothing_and_makes_no_table(finished):
    run(finished)
    name = change(finished, "edited.yaml", lambda s: s["corpora"]["words"].update(licence="mine"))
    assert planned(finished, name) == set()
    assert tables_planned(finished, name) == set()


@pytest.mark.parametrize(
    "edit",
    [
        {"chunk_length": 64},
        {"micro_batch_size": 1},
        {"hardware": "cpu"},
        {"evaluations_per_job": 3},
    ],
    ids=lambda edit: next(iter(edit)),
)
def test_how_the_work_is_cut_computes_nothing(finished, edit):
    name = change(finished, "edited.yaml", lambda s: s.update(edit))
    assert planned(finished, name) == set()


@pytest.mark.parametrize("options", [("--cores", 1), ("--profile", ROOT / "slurm")], ids=str)
def test_the_number_of_cores_and_the_profile_compute_nothing(finished, options):
    assert planned(finished, "small.yaml", *options) == set()


def test_another_budget_reaches_the_searches_and_what_follows_but_no_tokens(finished):
    name = change(
        finished, "edited.yaml", lambda s: s["search"]["algorithm"].update(num_iterations=3)
    )
    searched_base = {node for node in PERPLEXITY if "base-longrope" in node}
    assert planned(finished, name) == EXTENSION | TUNED | searched_base


def test_an_added_method_computes_one_evaluation(finished):
    name = change(
        finished, "edited.yaml", lambda s: s["evaluate"]["perplexity"]["methods"].append("linear")
    )
    assert planned(finished, name) == {"evaluate/random-llama-perplexity-base-linear"}


def test_an_added_target_length_computes_its_search_and_what_reads_it(finished):
    name = change(finished, "edited.yaml", lambda s: s["extension"].append({"target_length": 600}))
    # the table of factors by length gets one more entry, and all tuned evaluations read the table
    expected = {"search/random-llama-ft256-600", "readjust/random-llama-ft256"} | TUNED
    assert planned(finished, name) == expected


def test_going_back_computes_nothing(finished):
    name = change(finished, "edited.yaml", lambda s: s.update(seed=1))
    assert planned(finished, name) == EXTENSION | PERPLEXITY_OF_SEED | PASSKEY
    assert planned(finished) == set()


PERPLEXITY_OF_SEED = {node for node in PERPLEXITY if "longrope" in node}
"""closed forms depend on no seed"""


def scores_of_yarn(folder, name):
    """Compute one evaluation and return all remembered scores."""
    key = names(folder, name)["evaluate/random-llama-perplexity-base-yarn"]
    done = run(folder, name, f"results/{key}/DONE")
    assert done.returncode == 0, done.stderr[-2000:]
    return set(score_lines(folder / "results"))


def test_an_added_length_scores_only_that_length(finished):
    known = set(score_lines(finished / "results"))

    def edit(settings):
        settings["evaluate"]["perplexity"]["lengths"]["words"].insert(1, 200)

    name = change(finished, "edited.yaml", edit)
    assert planned(finished, name) == PERPLEXITY
    assert len(scores_of_yarn(finished, name) - known) == 2, "two documents at one length"
    assert planned(finished) == set()


def test_an_added_corpus_scores_only_that_corpus(finished):
    known = set(score_lines(finished / "results"))

    def edit(settings):
        source = {"kind": "local", "files": {"test": ["train.txt"]}}
        settings["corpora"]["more"] = {"source": source}
        perplexity = settings["evaluate"]["perplexity"]
        perplexity["corpora"]["more"] = {"corpus": "more", "split": "test"}
        perplexity["lengths"]["more"] = [128]
        perplexity["num_documents"]["more"] = 1

    name = change(finished, "edited.yaml", edit)
    assert planned(finished, name) == PERPLEXITY | {"tokenize/random-llama-more-test"}
    assert len(scores_of_yarn(finished, name) - known) == 1, "one document of one corpus"


def test_two_experiments_share_the_nodes_of_a_store(finished):
    name = change(finished, "other.yaml", lambda s: s.update(experiment="other"))
    assert planned(finished, name) == set()
    before = computed(finished)
    done = run(finished, name)
    assert done.returncode == 0, done.stderr[-2000:]
    assert computed(finished) == before
    tables = finished / "results" / "tables"
    same = [tables / experiment / "perplexity.csv" for experiment in ("small", "other")]
    assert same[0].read_bytes() == same[1].read_bytes()


def test_versions_count_once_a_setting_says_so(finished):
    name = change(finished, "edited.yaml", lambda s: s.update(identity_versions=["torch"]))
    assert planned(finished, name) == TOKENS | EXTENSION | PERPLEXITY | PASSKEY
    done = run(finished, change(finished, "x.yaml", lambda s: s.update(identity_versions=["tosh"])))
    assert done.returncode == 1
    assert "identity_versions: package 'tosh' is not installed" in done.stdout + done.stderr


def test_one_job_computes_several_evaluations_of_the_same_inputs(finished):
    keys = names(finished)
    same = [f"evaluate/random-llama-perplexity-base-{method}" for method in ("none", "yarn")]
    original = {}
    for name in same:
        folder = finished / "results" / keys[name]
        original[name] = (folder / "scores.json").read_bytes()
        shutil.rmtree(folder)
    batched = change(finished, "edited.yaml", lambda s: s.update(evaluations_per_job=2))
    done = run(finished, batched, *(f"results/{keys[name]}/DONE" for name in same))
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.findall(r"rule evaluate_batch_\d+:", done.stdout + done.stderr)) == 1
    rewritten = {n: (finished / "results" / keys[n] / "scores.json").read_bytes() for n in same}
    assert rewritten == original


# Code ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("tasks/passkey.py", "\nimport ", "\n# a comment\nimport "),
        ("stages/search.py", '"""Search factors and write', '"""Other words: search and write'),
        ("models/scoring.py", "\n\n\ndef ", "\n\n\n\n\n\ndef "),
    ],
    ids=["comment", "docstring", "formatting"],
)
def test_an_edit_that_changes_no_syntax_computes_nothing(finished, clone, module, old, new):
    edit_code(clone, module, old, new)
    assert planned(finished, code=clone) == set()


def test_an_edit_of_the_passkey_task_computes_passkeys_and_the_tables_alone(finished, clone):
    run(finished)
    module = clone / "longrope" / "tasks" / "passkey.py"
    original = module.read_text()
    module.write_text(original + "\n\nEDITED = True\n")
    assert planned(finished, code=clone) == PASSKEY
    tables = tables_planned(finished, code=clone)
    assert {"tabulate_passkey", "plot_passkey", "tabulate_cost"} <= tables
    module.write_text(original)
    assert planned(finished, code=clone) == set()


def test_an_edit_of_the_scoring_computes_what_scores_and_what_follows(finished, clone):
    with (clone / "longrope" / "models" / "scoring.py").open("a") as file:
        file.write("\n\nEDITED = True\n")
    assert planned(finished, code=clone) == EXTENSION | PERPLEXITY | PASSKEY


def test_an_accepted_edit_computes_nothing(finished, clone):
    with (clone / "longrope" / "models" / "scoring.py").open("a") as file:
        file.write("\n\nEDITED = True\n")
    said = longrope(finished, "plan", "small.yaml", code=clone).stdout
    accepts = set(re.findall(r"longrope (accept \S+ [0-9a-f]{16})", said))
    assert accepts
    for words in accepts:
        done = longrope(finished, *words.split(), code=clone)
        assert done.returncode == 0, done.stderr
    assert planned(finished, code=clone) == set()


# Forced and damaged -------------------------------------------------------------------------------


def test_a_forced_run_verifies_and_computes_nothing(finished):
    before = computed(finished)
    done = run(
        finished, "small.yaml", "--forcerun", "tokenize_corpus", "--until", "tokenize_corpus"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert computed(finished) == before
    log = (finished / "logs" / "tokenize").glob("*words-test*.log")
    assert "verified, not computed again" in next(log).read_text()


def damage(folder, how):
    if how == "truncated":
        path = folder / "tokens.bin"
        path.write_bytes(path.read_bytes()[:-2])
        return "tokens.bin is missing or has another size"
    if how == "one bit flipped":
        path = folder / "tokens.bin"
        data = bytearray(path.read_bytes())
        data[10] ^= 1
        path.write_bytes(bytes(data))
        return "tokens.bin has another checksum"
    (folder / "manifest.json").unlink()
    return "manifest.json is missing"


@pytest.mark.parametrize("how", ["truncated", "one bit flipped", "manifest deleted"])
def test_damage_is_found_named_set_aside_and_made_again(finished, how):
    keys = names(finished)
    folder = finished / "results" / keys["tokenize/random-llama-words-test"]
    before = computed(finished)
    sentence = damage(folder, how)
    victim = keys["evaluate/random-llama-perplexity-base-none"]
    # What a node was made of is looked at only when the node is made again.
    shutil.rmtree(finished / "results" / victim)
    target = f"results/{victim}/DONE"
    done = run(finished, "small.yaml", target)
    assert done.returncode != 0
    assert sentence in done.stdout + done.stderr
    aside = list((finished / "results" / ".trash").glob(f"{folder.name}.*"))
    assert len(aside) == 1
    shutil.rmtree(aside[0])
    healed = run(finished, "small.yaml", target)
    assert healed.returncode == 0, healed.stderr[-2000:]
    after = computed(finished)
    assert {node for node in after if after[node] != before.get(node)} == {
        victim,
        keys["tokenize/random-llama-words-test"],
    }


def test_a_missing_node_before_and_one_behind_a_finished_one_are_both_computed(finished):
    keys = names(finished)
    behind = "evaluate/random-llama-passkey-tuned-longrope"
    for name in (SECOND, behind):
        (finished / "results" / keys[name]).rename(finished / keys[name].replace("/", "-"))
    targets = [f"results/{keys[name]}/DONE" for name in (SECOND, behind)]
    assert planned(finished, "small.yaml", *targets) == {SECOND, behind}
    for name in (SECOND, behind):
        (finished / keys[name].replace("/", "-")).rename(finished / "results" / keys[name])


# Garbage ------------------------------------------------------------------------------------------


def test_gc_removes_what_no_configuration_and_no_pin_names(finished):
    configured = change(finished, "kept.yaml", lambda s: s["search"].update(num_documents=1))
    pinned = change(
        finished, "pinned.yaml", lambda s: s["search"]["algorithm"].update(num_parents=2)
    )
    dead = change(
        finished, "dead.yaml", lambda s: s["search"]["algorithm"].update(num_iterations=1)
    )
    for name in (configured, pinned, dead):
        key = names(finished, name)["search/random-llama-256"]
        done = run(finished, name, f"results/{key}/DONE")
        assert done.returncode == 0, done.stderr[-2000:]
    assert longrope(finished, "pin", pinned, "paper").returncode == 0
    before = set(computed(finished))
    dry = longrope(finished, "gc", "small.yaml", configured)
    assert dry.returncode == 0, dry.stderr
    assert set(computed(finished)) == before
    real = longrope(finished, "gc", "small.yaml", configured, "--delete")
    assert real.returncode == 0, real.stderr
    gone = before - set(computed(finished))
    assert names(finished, dead)["search/random-llama-256"] in gone
    assert all(key in dry.stdout for key in gone)
    for name in ("small.yaml", configured, pinned):
        assert "search/random-llama-256" not in planned(finished, name)
    assert "search/random-llama-256" in planned(finished, dead)
    assert planned(finished) == set()


# Two at once, and killed --------------------------------------------------------------------------


def test_two_runs_on_one_store_at_the_same_time_compute_each_node_once(finished, tmp_path):
    results = finished / "results"
    keys = names(finished)
    again = sorted({*PASSKEY, "evaluate/random-llama-perplexity-base-yarn", SECOND})
    for name in again:
        shutil.rmtree(results / keys[name])
    shutil.rmtree(results / ".scores")
    other = tmp_path / "other"
    files = shutil.ignore_patterns("results", ".snakemake", "logs")
    shutil.copytree(finished, other, ignore=files)
    (other / "results").symlink_to(results)
    change(other, "other.yaml", lambda s: s.update(experiment="other"))
    targets = [f"results/{keys[name]}/DONE" for name in again]
    calls = [
        workflow_runs.command(folder, *targets, name=name)
        for folder, name in ((finished, "small.yaml"), (other, "other.yaml"))
    ]
    environment = workflow_runs.environment()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [subprocess.Popen(call, cwd=finished, env=environment, **pipes) for call in calls]
    ended = [(process.communicate(timeout=300)[0], process.returncode) for process in running]
    for call, (said, code) in zip(calls, ended, strict=True):
        if code and "Unable to obtain modification time" in said:
            # Snakemake removes the mark of a node that it is about to make, which the other run looks at
            code = subprocess.run(call, cwd=finished, env=environment).returncode
        assert code == 0, said[-3000:]
    score_keys = [json.loads(line)[0] for line in score_lines(results)]
    assert score_keys
    assert len(score_keys) == len(set(score_keys))
    assert set(keys.values()) <= set(computed(finished))
    assert not list((results / ".trash").glob("*"))


def test_a_run_killed_while_its_job_lives_on_is_started_again_at_once(finished):
    results = finished / "results"
    keys = names(finished)
    searched = {n: (results / keys[SECOND] / n).read_bytes() for n in ("factors.json",)}
    shutil.rmtree(results / keys[SECOND])
    shutil.rmtree(results / ".scores", ignore_errors=True)
    call = workflow_runs.command(finished, f"results/{keys[SECOND]}/DONE")
    environment = workflow_runs.environment()
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen(call, cwd=finished, env=environment, **silent)
    deadline = time.monotonic() + 120
    while not score_lines(results) and time.monotonic() < deadline:
        assert first.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    first.kill()
    first.wait()
    assert not (results / keys[SECOND] / "manifest.json").exists()
    second = subprocess.run(call, cwd=finished, env=environment, capture_output=True, text=True)
    assert second.returncode == 0, second.stdout + second.stderr
    assert searched == {n: (results / keys[SECOND] / n).read_bytes() for n in searched}
    score_keys = [json.loads(line)[0] for line in score_lines(results)]
    assert len(score_keys) == len(set(score_keys))
