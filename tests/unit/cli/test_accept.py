"""`accept`: changed code stands for older code, so that finished nodes are not made again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import command_line
import pytest
from command_line import STORE, finish, planned
from repository import ROOT

from longrope.cli.accept import known_code
from longrope.cli.common import SCORING
from longrope.plan import build as plan
from longrope.plan.history import code_name
from longrope.settings import loading as configuration
from longrope.store.code import CodeIndex


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that may be edited; the nodes of a configuration are all there."""
    folder = tmp_path / "copy" / "longrope"
    shutil.copytree(ROOT / "longrope", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "accepted.json").unlink()
    (folder.parent / "config").mkdir()
    shutil.copy(ROOT / "config" / "hardware.yaml", folder.parent / "config")
    monkeypatch.chdir(command_line.write_files(tmp_path / "work"))
    finish(*planned())
    return folder


def longrope(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line of the copy."""
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    command = [sys.executable, "-m", "longrope", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def change(package: Path, *modules: str) -> None:
    """Edit modules of the copy in a way that alters no result, each time another one."""
    for module in modules:
        path = package / f"{module}.py"
        path.write_text(f"{path.read_text()}\n_EDIT_{path.stat().st_size} = True\n")


def last_line(package: Path) -> str:
    """Return how many nodes the copy finds finished."""
    done = longrope(package, "plan", "config.yaml")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def old_code(kind: str) -> str:
    """Return the identity that the finished nodes of a kind have."""
    (manifest,) = {path.read_text() for path in STORE.glob(f"{kind}/*/manifest.json")}
    return str(json.loads(manifest)["node"]["code"])


def test_after_accept_nothing_is_stale_and_the_printed_command_does_it(package):
    assert last_line(package) == "4 of 4 nodes done, 0 stale, 0 missing"
    change(package, "stages/search")
    assert last_line(package) == "3 of 4 nodes done, 1 stale, 0 missing"
    lines = longrope(package, "plan", "config.yaml").stdout.splitlines()
    (hint,) = (line.partition(": longrope ")[2] for line in lines if "longrope accept" in line)
    assert "      code changed: longrope.stages.search" in lines
    done = longrope(package, *hint.split())
    assert (done.returncode, done.stderr) == (0, "")
    old, computed = (
        old_code("search"),
        CodeIndex(package).computed(known_code()["search.evolution"]),
    )
    assert done.stdout == (
        f"search.evolution: the code {computed} now stands for {old}\n"
        f"review and commit {package / 'accepted.json'}\n"
    )
    assert last_line(package) == "4 of 4 nodes done, 0 stale, 0 missing"


def test_a_job_takes_accepted_code_for_what_it_was_planned_for(package):
    change(package, "stages/search")
    Path("plan.json").write_text(planned().to_json())
    (node,) = planned().of("search")
    command = ["run", node.key, "--plan", "plan.json"]
    assert "changed since it was planned" in longrope(package, *command).stderr
    longrope(package, "accept", "search.evolution", node.code)
    done = longrope(package, *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert "verified, not computed again" in done.stdout


def test_all_accepts_every_kind_that_one_change_touched(package):
    change(package, "rope/factors", "models/scoring")
    assert last_line(package) == "2 of 4 nodes done, 2 stale, 0 missing"
    done = longrope(package, "accept", "--all", "config.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    names = [line.partition(":")[0] for line in done.stdout.splitlines()[:-1]]
    assert names == ["search.evolution", "evaluate.perplexity"]
    assert last_line(package) == "4 of 4 nodes done, 0 stale, 0 missing"


def test_the_code_of_scoring_is_accepted_alone(package):
    before = CodeIndex(package).identity(SCORING)
    change(package, "models/scoring")
    done = longrope(package, "accept", "scoring", before)
    assert (done.returncode, done.stderr) == (0, "")
    assert CodeIndex(package).identity(SCORING) == before
    assert last_line(package) == "2 of 4 nodes done, 2 stale, 0 missing"


def test_all_goes_on_to_nodes_that_were_stale_by_what_they_read(package):
    change(package, "data/token_store")
    assert last_line(package) == "0 of 4 nodes done, 4 stale, 0 missing"
    assert longrope(package, "accept", "--all", "config.yaml").returncode == 0
    assert last_line(package) == "4 of 4 nodes done, 0 stale, 0 missing"


def test_all_accepts_no_node_that_differs_otherwise_too(package):
    change(package, "stages/search")
    command_line.edit("split: train}}", "split: train}, population_size: 12, num_parents: 6}")
    done = longrope(package, "accept", "--all", "config.yaml")
    assert done.returncode == 1
    assert "no stale node of config.yaml differs by its code alone" in done.stderr
    assert not (package / "accepted.json").exists()


def test_code_accepted_twice_stands_for_the_first(package):
    first = old_code("search")
    for _ in range(2):
        before = CodeIndex(package).computed(known_code()["search.evolution"])
        change(package, "stages/search")
        assert longrope(package, "accept", "search.evolution", before).returncode == 0
        assert CodeIndex(package).identity(known_code()["search.evolution"]) == first
    assert last_line(package) == "4 of 4 nodes done, 0 stale, 0 missing"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["serach.evolution", "0" * 16],
            "accept knows no code of 'serach.evolution': did you mean search.evolution?",
        ),
        (["evaluate.paskey", "0" * 16], "did you mean evaluate.passkey?"),
        (
            ["x", "0" * 16],
            "accept knows no code of 'x': it is one of fetch, fetch.multiple_choice_items, tok",
        ),
        (["search.evolution", "0" * 15], f"16 hexadecimal digits, got '{'0' * 15}'."),
        (["search.evolution", "G" * 16], f"16 hexadecimal digits, got '{'G' * 16}'."),
        (
            ["search.evolution", "NOW"],
            "the code of search.evolution already is NOW: there is nothing to accept.",
        ),
        ([], "accept needs a KIND and an OLD code identity, or --all CONFIG."),
        (["search"], "accept needs a KIND and an OLD"),
        (["search", "0" * 16, "--all", "config.yaml"], "accept needs a KIND and an OLD"),
        (["--all", "config.yaml"], "no stale node of config.yaml differs by its code alone"),
        (["--all", "none.yaml"], "configuration none.yaml does not exist"),
    ],
)
def test_a_mistake_is_refused_in_one_sentence_and_nothing_is_written(package, arguments, reason):
    now = CodeIndex(package).identity(known_code()["search.evolution"])
    done = longrope(package, "accept", *(a.replace("NOW", now) for a in arguments))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("longrope: error: ")
    assert done.stderr.count("\n") == 1
    assert reason.replace("NOW", now) in done.stderr
    assert not (package / "accepted.json").exists()


def test_a_broken_file_of_accepted_code_is_named_by_every_verb(package):
    (package / "accepted.json").write_text("{")
    for arguments in (["plan", "config.yaml"], ["accept", "search.evolution", "0" * 16]):
        done = longrope(package, *arguments)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert f"{package / 'accepted.json'} is not JSON" in done.stderr


@pytest.mark.parametrize("config", ["config.yaml", "llama2-7b.yaml"])
def test_the_code_of_every_node_can_be_accepted_by_its_name(config):
    for node in plan.build(configuration.load(ROOT / "config" / config), ROOT):
        modules = [f"longrope.stages.{node.kind}", *node.modules]
        assert known_code()[code_name(node.to_json())] == modules
