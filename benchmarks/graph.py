"""Time and memory of planning, and of a `snakemake -n` that finds nothing to do, by number of nodes.

    python benchmarks/graph.py [--nodes 50 500 5000] [--rounds 3]

Nothing is computed: every node is marked as done beforehand. Times are CPU seconds, which other work on
the machine disturbs less than wall seconds; the last column compares with an empty Snakefile in this run.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import pandas as pd
import yaml

from longrope.plan import build as plan
from longrope.plan.nodes import Plan
from longrope.settings import loading as configuration

ROOT = Path(__file__).resolve().parents[1]
SMALLEST = 30
"""nodes of the experiment without the searches that are added to reach a number of nodes"""


def main() -> None:
    """Print one row per number of nodes, one for the demo and one for an empty Snakefile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[50, 500, 5000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    empty = no_op(write_empty(), options.rounds)
    rows = [{"nodes": 0, "what": "empty Snakefile", **empty}]
    for config in [ROOT / "config" / "config.yaml", *map(write_config, options.nodes)]:
        rows.append(measured(config, options.rounds))
    table = pd.DataFrame(rows)
    table["over empty"] = table["snakemake -n, s"] / empty["snakemake -n, s"]
    print(table.round(2).to_markdown(index=False))


def measured(config: Path, rounds: int) -> dict[str, object]:
    """Return the cost of planning one configuration and of running it when all is done."""
    folder = ROOT if config.is_relative_to(ROOT) else config.parent
    began = time.process_time()
    planned = plan.build(configuration.load(config), folder)
    text = planned.to_json()
    seconds = time.process_time() - began
    tracemalloc.start()
    plan.build(configuration.load(config), folder).to_json()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    work = finished(config, planned)
    return {
        "nodes": len(planned.nodes),
        "what": config.stem,
        "plan.build, s": seconds,
        "plan, MB": peak / 1e6,
        "plan file, MB": len(text) / 1e6,
        **no_op(work, rounds),
    }


def write_empty() -> Path:
    """Return a folder with a Snakefile whose one output is there."""
    folder = Path(tempfile.mkdtemp())
    (folder / "Snakefile").write_text('rule all:\n    output: "made"\n')
    (folder / "made").touch()
    return folder


def write_config(num_nodes: int) -> Path:
    """Write a configuration of about so many nodes: one search per length, and what follows."""
    folder = Path(tempfile.mkdtemp())
    settings = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    settings["experiment"] = f"nodes-{num_nodes}"
    settings["model"]["path"] = str(ROOT / "resources" / "tiny-llama")
    for corpus in settings["corpora"].values():
        corpus["source"]["catalogue"] = str(ROOT / "resources" / "corpora.yaml")
    lengths = range(2049, 2049 + max(0, num_nodes - SMALLEST))
    settings["evaluate"]["untuned_lengths"] = list(lengths)
    path = folder / f"{num_nodes}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def finished(config: Path, planned: Plan) -> Path:
    """Return a folder in which Snakemake finds every node, table and figure of a plan."""
    folder = Path(tempfile.mkdtemp())
    (folder / "config.yaml").write_text(config.read_text())
    for name in ("resources", "config"):
        (folder / name).symlink_to(ROOT / name)
    for node in planned:
        done = folder / "results" / node.key / "DONE"
        done.parent.mkdir(parents=True)
        done.touch()
    _, _, said = snakemake(folder, "--summary")
    for line in said.splitlines():
        if line.startswith("results/"):
            path = folder / line.split("\t")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return folder


def command(folder: Path, *arguments: str) -> list[str]:
    """Return the call of Snakemake in a folder, on its own Snakefile or else the project's."""
    custom = folder / "Snakefile"
    snakefile = custom if custom.is_file() else ROOT / "Snakefile"
    config = [] if custom.is_file() else ["--configfile", str(folder / "config.yaml")]
    where = ["-s", str(snakefile), "-d", str(folder)]
    return [sys.executable, "-m", "snakemake", *where, *config, "--cores", "1", *arguments]


def snakemake(folder: Path, *arguments: str) -> tuple[float, float, str]:
    """Run Snakemake and return its CPU seconds, its peak memory in MB and what it said."""
    process = subprocess.Popen(
        command(folder, *arguments),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, said


def no_op(folder: Path, rounds: int) -> dict[str, object]:
    """Return the median cost of a dry run that must find nothing to do."""
    runs = [snakemake(folder, "-n") for _ in range(rounds)]
    for _, _, said in runs:
        assert "Nothing to be done" in said, said[-2000:]
    return {
        "snakemake -n, s": statistics.median(run[0] for run in runs),
        "snakemake, MB": statistics.median(run[1] for run in runs),
    }


if __name__ == "__main__":
    main()
