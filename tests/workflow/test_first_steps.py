"""The README's commands for one's own model and texts, followed literally in a fresh copy."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import workflow_files
from workflow_runs import PARTS, ROOT, environment

from longrope.rope.factors import RopeFactors

NAME = "my-model-1024"


def commands() -> list[str]:
    """Return the commands of the section, but for the one that enters the environment."""
    text = (ROOT / "README.md").read_text()
    section = text.partition("## Your own model and corpus")[2].partition("\n## ")[0]
    block = re.findall(r"```\n(.*?)```", section, re.DOTALL)[0]
    lines = [line.partition("  #")[0].strip() for line in block.splitlines()]
    assert lines[0] == "source .venv/bin/activate"
    return lines[1:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Follow the commands where there are a random model and five texts."""
    pytest.importorskip("snakemake")
    folder = tmp_path_factory.mktemp("first steps")
    for name in PARTS:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / name)
    workflow_files.write_model(folder / "models" / "my-model")
    (folder / "texts").mkdir()
    for number in range(5):
        workflow_files.write_text(folder / "texts" / f"{number}.txt", 1500, number)
    bin_folder = Path(sys.executable).parent
    for command in commands():
        done = subprocess.run(
            ["bash", "-ec", command.replace("longrope ", f"{sys.executable} -m longrope ", 1)]
            if command.startswith("longrope")
            else ["bash", "-ec", command],
            cwd=folder,
            env=environment(folder) | {"PATH": f"{bin_folder}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return folder


def test_the_commands_are_one_to_write_one_to_check_and_one_to_run():
    assert [line.split()[:2] for line in commands()] == [
        ["longrope", "init"],
        ["longrope", "check"],
        ["snakemake", "--cores"],
    ]


def test_they_end_in_tables_of_every_length_and_method(folder):
    table = pd.read_csv(folder / "results" / "tables" / NAME / "perplexity.csv")
    assert set(table["length"]) == {128, 256, 512, 1024}
    assert {"none", "linear", "ntk", "yarn", "longrope"} <= set(table["method"])
    assert (table["ppl"] > 1).all()


def test_they_end_in_figures(folder):
    figures = folder / "results" / "figures" / NAME
    assert (figures / "perplexity.svg").stat().st_size > 1000


def test_they_end_in_a_file_of_factors_under_a_human_name(folder):
    (path,) = (folder / "results" / "by-name" / NAME).glob("search/*/factors.json")
    factors = RopeFactors.model_validate_json(path.read_text())
    assert (factors.original_length, factors.target_length) == (128, 1024)
