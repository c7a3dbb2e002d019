"""benchmarks/finetune.py on the smallest sizes; what it measures is not judged."""

import importlib.util
import json
import math
import subprocess
import sys

import pandas as pd
import pytest
from repository import ROOT

SMALL = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
COLUMNS = ["tokens", "training", "tokens/s", "memory", "speed ratio", "memory ratio"]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")


@pytest.fixture
def benchmark(monkeypatch):
    """The module, with a model of one small layer."""
    path = ROOT / "benchmarks" / "finetune.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_finetuning", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # so small a model may need no more than the process already holds, and ratios of nothing
    monkeypatch.setattr(module, "held", lambda: 1.0)
    for name, value in SMALL.items():
        monkeypatch.setitem(module.SHAPE, name, value)
    return module


def cells(line):
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_it_trains_in_every_way_and_prints_a_row_of_each(benchmark, monkeypatch, capsys):
    started = []

    def in_this_process(command, **_):
        started.append(command)
        measured = benchmark.measure(command[3], *map(int, command[4:]))
        return subprocess.CompletedProcess(
            command, 0, stdout=f"said before\n{json.dumps(measured)}\n"
        )

    monkeypatch.setattr(benchmark.subprocess, "run", in_this_process)
    arguments = ["--lengths", "16", "32", "--steps", "2", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["finetune.py", *arguments])
    benchmark.main()
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    table = pd.DataFrame(map(cells, printed[2:]), columns=cells(printed[0]))
    assert list(table.columns) == COLUMNS
    ways = ["plain", "tiled", "tiles", "whole"]
    assert table["training"].tolist() == ways * 2
    assert table["tokens"].tolist() == ["16"] * 4 + ["32"] * 4
    assert all(float(speed) > 0 for speed in table["tokens/s"])
    assert all(math.isfinite(float(value)) for value in table["memory"])
    assert table["speed ratio"][0] == table["memory ratio"][0] == "1"
    assert [command[2:4] for command in started] == [["--one", way] for way in ways] * 2
