"""Runs of the smallest experiment as users make them; one finished folder, copied for each test file."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import workflow_files
import yaml
from repository import ROOT

from longrope.plan import build as planning
from longrope.plan import nodes
from longrope.settings import loading as configuration

PARTS = ("longrope", "rules", "workflow", "config", "Snakefile", "profiles", "slurm")
"""what a clone needs to run"""


def environment(code: Path = ROOT) -> dict[str, str]:
    """Return the environment of a run: this interpreter's programs, and one clone's package, first."""
    first = {"PATH": Path(sys.executable).parent, "PYTHONPATH": code}
    paths = {name: [str(path), os.environ.get(name, "")] for name, path in first.items()}
    return os.environ | {name: os.pathsep.join(filter(None, both)) for name, both in paths.items()}


def command(
    folder: Path, *arguments: object, name: str = "small.yaml", code: Path = ROOT
) -> list[str]:
    """Return the call of Snakemake in a folder, with the rules and the library of one clone."""
    if importlib.util.find_spec("snakemake") is None:
        pytest.skip("needs snakemake")
    where = ["-s", code / "Snakefile", "-d", folder, "--configfile", folder / name]
    return [sys.executable, "-m", "snakemake", *map(str, [*where, "--cores", 2, *arguments])]


def run(
    folder: Path, name: str = "small.yaml", *arguments: object, code: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a folder on one of its configurations."""
    return subprocess.run(
        command(folder, *arguments, name=name, code=code),
        capture_output=True,
        text=True,
        env=environment(code),
        cwd=folder,
    )


def longrope(
    folder: Path, *arguments: object, code: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "longrope", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(code),
        cwd=folder,
    )


def computed(folder: Path) -> dict[str, int]:
    """Return the nodes that are there, with the time at which each was committed."""
    return {
        str(path.parent.relative_to(folder / "results")): path.stat().st_mtime_ns
        for path in (folder / "results").glob("*/*/manifest.json")
        if not path.parts[-3].startswith(".")
    }


def planned(
    folder: Path, name: str = "small.yaml", *arguments: object, code: Path = ROOT
) -> set[str]:
    """Return the nodes that a run would compute, `kind/label`, as a dry run says."""
    done = run(folder, name, "-n", *arguments, code=code)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    outputs = re.findall(r"^\s*output: results/(\w+)/(\S+)-[0-9a-f]{12}/DONE$", done.stdout, re.M)
    return {f"{kind}/{label}" for kind, label in outputs}


def names(folder: Path, name: str = "small.yaml") -> dict[str, str]:
    """Return the key of every node of a configuration, by human name."""
    plan = planning.build(configuration.load(folder / name), folder)
    return {human: node.key for human, node in plan.nodes.items()}


def plan_file(folder: Path, name: str = "small.yaml") -> Path:
    """Write the plan of a configuration as a run does for its jobs; return the file."""
    plan = planning.build(configuration.load(folder / name), folder)
    path = folder / "results" / "plans" / f"{plan.digest[:12]}.json"
    nodes.write_if_changed(plan, path)
    return path


def change(
    folder: Path, name: str, edit: Callable[[dict], object], base: Mapping | None = None
) -> str:
    """Write the smallest experiment's configuration after an edit; return the file's name."""
    settings = dict(base or workflow_files.settings())
    edit(settings)
    (folder / name).write_text(yaml.safe_dump(settings))
    return name


def score_lines(store: Path) -> list[str]:
    """Return every remembered score."""
    return [
        line for path in store.glob(".scores/*/*.jsonl") for line in path.read_text().splitlines()
    ]


def clone(folder: Path) -> Path:
    """Return a copy of the rules and the library, to be edited."""
    for part in PARTS:
        source = ROOT / part
        if source.is_symlink():
            (folder / part).symlink_to(os.readlink(source))
        elif source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / part, ignore=ignored)
        else:
            shutil.copy(source, folder / part)
    return folder


def finished_folder(shared: Path) -> Path:
    """Return the folder, with a space in its name, in which the smallest experiment has been run.

    Test processes share it: the first one makes it, the others wait.
    """
    folder = shared / "a run"
    mark = shared / "a run is finished"
    try:
        folder.mkdir()
    except FileExistsError:
        deadline = time.monotonic() + 600
        while not mark.exists():
            assert time.monotonic() < deadline, "the process that runs the experiment gave up"
            time.sleep(0.5)
        return folder
    workflow_files.write_experiment(folder)
    done = run(folder)
    mark.write_text(done.stdout + done.stderr)
    assert done.returncode == 0, mark.read_text()[-5000:]
    return folder
