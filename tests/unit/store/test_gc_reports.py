"""`gc` deletes tables and figures of plans that nothing names, and no others."""

import os
import time
from pathlib import Path

import command_line
import pytest
from command_line import STORE, call, edit, finish, planned

from longrope.plan import nodes
from longrope.plan.nodes import Plan
from longrope.store import gc


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(command_line.write_files(tmp_path / "work"))
    finish(*planned())


def ran(plan: Plan, digest: str) -> Path:
    """Write the files of a run's start, and a table two days old; return the report's folder."""
    report = STORE / "reports" / f"{plan.experiment}-{digest * 12}"
    for path in (STORE / "plans" / f"{plan.experiment}.json", report / "plan.json"):
        nodes.write_if_changed(plan, path)
    (report / "tables").mkdir()
    (report / "tables" / "cost.csv").write_text("node")
    age(report)
    return report


def age(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 2 * gc.DAY,) * 2)


def two_runs() -> tuple[Path, Path]:
    """Run an experiment, change its settings and run it again; return both reports."""
    first = ran(planned(), "a")
    edit("lengths: {Own: [8]}", "lengths: {Own: [4]}")
    finish(*planned())
    return first, ran(planned(), "b")


def left() -> set[Path]:
    assert call("gc", "--delete") == 0
    return set((STORE / "reports").iterdir())


def test_the_report_of_an_earlier_plan_is_listed_and_deleted(capsys):
    first, last = two_runs()
    assert call("gc") == 0
    assert str(first) in capsys.readouterr().out
    assert first.is_dir(), "only listed"
    assert left() == {last}
    assert list((STORE / ".trash").iterdir()) == []


def test_the_report_of_a_pinned_plan_stays():
    first = ran(planned(), "a")
    assert call("pin", "config.yaml", "paper") == 0
    edit("lengths: {Own: [8]}", "lengths: {Own: [4]}")
    finish(*planned())
    last = ran(planned(), "b")
    assert left() == {first, last}


def test_the_last_report_of_every_experiment_stays_whichever_configuration_is_named():
    _, last = two_runs()
    edit("tiny\nmodel", "other\nmodel")
    other = ran(planned(), "c")
    assert call("gc", "config.yaml", "--delete") == 0
    assert set((STORE / "reports").iterdir()) == {last, other}


def test_a_report_that_links_lead_to_stays():
    first, last = two_runs()
    (STORE / "tables").mkdir()
    (STORE / "tables" / "tiny").symlink_to(f"../reports/{first.name}/tables")
    assert left() == {first, last}


def test_a_report_that_may_still_be_written_stays():
    first, last = two_runs()
    (first / "tables" / "cost.csv").touch()
    assert left() == {first, last}
    age(first)
    (node,) = (node for node in planned() if node.kind == "search")
    claim = STORE / ".work" / f"{node.key}.lock"
    claim.mkdir(parents=True)
    (claim / ("0" * 32)).touch()
    assert left() == {first, last}


@pytest.mark.parametrize("text", [None, "", "[]", "{}"])
def test_a_report_that_does_not_say_its_plan_stays(text):
    first, last = two_runs()
    (first / "plan.json").unlink()
    if text is not None:
        (first / "plan.json").write_text(text)
        age(first)
    assert left() == {first, last}


def test_a_folder_of_another_name_is_never_touched():
    first, last = two_runs()
    renamed = first.rename(STORE / "reports" / "for the paper")
    assert left() == {renamed, last}
