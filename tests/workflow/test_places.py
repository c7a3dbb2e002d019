"""Tables belong to a plan: no other run, no dry run and no time of a file changes what a run shows."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import workflow_files
import workflow_runs
from workflow_runs import ROOT, change, clone, environment, longrope, plan_file, run

from longrope.plan.nodes import Node, Plan
from longrope.reports import places
from longrope.settings.nodes import TokenizeNode

HARDWARE = ROOT / "config" / "hardware.yaml"


def without_yarn(settings):
    """Ask for one method less: another plan of the same experiment, all of whose nodes are there."""
    settings["evaluate"]["perplexity"]["methods"].remove("yarn")


def methods(folder):
    """Return the methods in the perplexity table under the experiment's name."""
    table = pd.read_csv(folder / "results" / "tables" / "small" / "perplexity.csv")
    return set(table["method"])


def succeed(done):
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def rules_run(said):
    return set(re.findall(r"^(?:local)?rule (\w+):", said, re.M))


def state(folder):
    """Return every file and link below a folder with what it holds."""
    return {
        path.relative_to(folder): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


# Identity -----------------------------------------------------------------------------------------


@pytest.fixture
def plan():
    return Plan("small", {"tokenize/a": Node("tokenize", "a", TokenizeNode())})


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_identity_of_tables_covers_plan_scripts_captions_and_hardware(plan, tmp_path):
    workflow, hardware = tmp_path / "workflow", tmp_path / "hardware.yaml"
    shutil.copytree(ROOT / "workflow", workflow)
    shutil.copy(HARDWARE, hardware)

    def name(of=plan):
        return places.report_name(of, workflow, hardware)

    names = [name(), name(Plan("small", plan.nodes, {"model": "a toy"}))]
    with (workflow / "scripts" / "tabulate.py").open("a") as file:
        file.write("\n# a comment\n")
    assert name() == names[0] == places.report_name(plan, ROOT / "workflow", HARDWARE)
    edit(workflow / "scripts" / "tabulate.py", "paths.markdown, note", "paths.csv, note")
    names.append(name())
    edit(workflow / "report" / "passkey_table.rst", "a", "A")
    names.append(name())
    hardware.write_text(hardware.read_text() + "# more\n")
    names.append(name())
    assert len(set(names)) == 5
    assert all(re.fullmatch(r"small-[0-9a-f]{12}", label) for label in names)


def test_a_script_that_changed_since_its_run_was_planned_refuses_to_write(tmp_path):
    folder = clone(tmp_path)
    workflow_files.write_experiment(folder)
    plan = plan_file(folder)
    name = places.report_name(
        Plan("small", {}), folder / "workflow", folder / "config" / "hardware.yaml"
    )
    command = [sys.executable, folder / "workflow/scripts/tabulate.py", "--plan", plan]
    command += ["--product", "provenance"]
    command += ["--report", folder / "results/reports" / name, "--csv", tmp_path / "a.csv"]
    done = subprocess.run(
        command, env=environment(folder), cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert (
        done.stderr.startswith("longrope: error: the scripts behind")
        and done.stderr.count("\n") == 1
    )
    assert not (tmp_path / "a.csv").exists()


# Links --------------------------------------------------------------------------------------------


def test_links_lead_to_a_plan_only_when_all_of_them_do(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Path("results")
    Path("plan.json").write_text(plan.to_json())

    def link(report):
        succeed(longrope(tmp_path, "names", "plan.json", "--report", store / "reports" / report))

    assert not places.links_lead_to(plan, store, "small-a")
    link("small-a")
    assert places.links_lead_to(plan, store, "small-a")
    assert os.readlink("results/tables/small") == "../reports/small-a/tables"
    assert not places.links_lead_to(plan, store, "small-b"), "an edited script's tables"
    assert not places.links_lead_to(Plan("small", {}), store, "small-a"), "another plan's nodes"
    link("small-b")
    assert os.readlink("results/figures/small") == "../reports/small-b/figures"
    assert not list(store.rglob(".small.*")) and not list((store / ".work" / "named").iterdir())


def test_a_folder_where_a_link_belongs_is_named_and_kept(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("plan.json").write_text(plan.to_json())
    Path("results/tables/small").mkdir(parents=True)
    Path("results/tables/small/own.csv").touch()
    done = longrope(tmp_path, "names", "plan.json", "--report", "results/reports/small-a")
    assert done.returncode == 1
    assert "results/tables/small is no link" in done.stderr and "Traceback" not in done.stderr
    assert Path("results/tables/small/own.csv").is_file()


def test_there_is_one_hook_for_the_start_since_snakemake_forgets_all_but_the_last():
    files = [ROOT / "Snakefile", *ROOT.glob("rules/*.smk")]
    assert sum(path.read_text().count("onstart:") for path in files) == 1


# Runs ---------------------------------------------------------------------------------------------


@pytest.mark.workflow
def test_a_dry_run_writes_nothing_below_results(finished):
    name = change(finished, "edited.yaml", without_yarn)
    before = state(finished / "results")
    succeed(run(finished, name, "-n"))
    after = state(finished / "results")
    # what is remembered of raw files cannot change a result: contents by path, size, time and inode
    memory = Path(".raw-files.json")
    assert {path for path in after if after[path] != before.get(path)} <= {memory}
    assert before.keys() <= after.keys()


@pytest.mark.workflow
def test_no_rule_reads_what_another_run_can_change(finished):
    said = succeed(run(finished, "small.yaml", "-n", "-p", "--forceall"))
    plans = set(re.findall(r"--plan (\S+)", said)) | set(re.findall(r"longrope names (\S+)", said))
    assert len(plans) == 1
    assert re.fullmatch(r"results/plans/[0-9a-f]{12}\.json", plans.pop())
    inputs = re.findall(r"^    input: (.+)$", said, re.M)
    shared = ("results/tables/", "results/figures/", "results/by-name/", "results/plans/")
    assert inputs and not [line for line in inputs if any(place in line for place in shared)]


@pytest.mark.workflow
def test_going_back_shows_the_tables_of_the_earlier_configuration_and_makes_only_links(finished):
    succeed(run(finished))
    assert "yarn" in methods(finished)
    name = change(finished, "edited.yaml", without_yarn)
    assert "tabulate_perplexity" in rules_run(succeed(run(finished, name)))
    assert "yarn" not in methods(finished)
    assert "rule" not in succeed(run(finished, name)), "nothing is to be done"
    assert rules_run(succeed(run(finished))) == {"name_results", "all"}
    assert "yarn" in methods(finished)
    last = (finished / "results" / "plans" / "small.json").read_text()
    assert last == plan_file(finished).read_text()


@pytest.mark.workflow
@pytest.mark.parametrize("how", ["dated in the future", "touched"])
def test_times_of_files_leave_no_table_of_another_plan(finished, how):
    name = change(finished, "edited.yaml", without_yarn)
    if how == "touched":
        succeed(run(finished, name, "--touch"))
    else:
        for path in (finished / "results").rglob("*"):
            os.utime(path, (time.time() + 1e7,) * 2, follow_symlinks=False)
    succeed(run(finished, name))
    assert "yarn" not in methods(finished)


@pytest.mark.workflow
def test_two_runs_of_one_experiment_at_the_same_time_write_tables_of_their_own(finished):
    name = change(finished, "edited.yaml", without_yarn)
    shutil.rmtree(finished / "results" / "reports")
    calls = [workflow_runs.command(finished, name=config) for config in ("small.yaml", name)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [subprocess.Popen(call, cwd=finished, env=environment(), **pipes) for call in calls]
    for process in running:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]
    tables = (finished / "results" / "reports").glob("*/tables/perplexity.csv")
    with_yarn = sorted("yarn" in set(pd.read_csv(table)["method"]) for table in tables)
    assert with_yarn == [False, True]


@pytest.mark.workflow
def test_a_configuration_without_perplexity_ends_well(finished):
    name = change(finished, "edited.yaml", lambda s: s["evaluate"].pop("perplexity"))
    said = succeed(run(finished, name))
    assert "tabulate_perplexity" not in rules_run(said)
    succeed(run(finished, name, "--report", finished / "report.html"))
    call = [sys.executable, ROOT / "workflow/scripts/print_results.py", "--config", name]
    shown = subprocess.run(call, cwd=finished, env=environment(), capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("edited.yaml evaluates no perplexity.")
    assert json.loads((finished / "results/by-name/small/plan.json").read_text())


@pytest.mark.workflow
def test_results_may_stand_in_any_folder_that_the_configuration_names(finished):
    name = change(finished, "edited.yaml", lambda s: s.update(results="other disk/store"))
    store = finished / "other disk" / "store"
    store.parent.mkdir()
    (finished / "results").rename(store)
    (passkey,) = store.glob("evaluate/random-llama-passkey-base-none-*")
    shutil.rmtree(passkey)
    shutil.rmtree(store / "reports")
    said = succeed(run(finished, name))
    assert "rule evaluate_task" in said and "rule search_factors" not in said
    assert (passkey / "DONE").is_file()
    assert (store / "tables" / "small" / "passkey.csv").is_file()
    assert not (finished / "results").exists()
    assert "Nothing to be done" in succeed(run(finished, name))
    call = [sys.executable, ROOT / "workflow/scripts/print_results.py", "--config", name]
    shown = subprocess.run(call, cwd=finished, env=environment(), capture_output=True, text=True)
    assert "Tables   other disk/store/tables/small\n" in shown.stdout
    store.rename(finished / "results")
