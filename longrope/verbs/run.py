"""`run`: compute nodes of a plan; what the rules call."""

import argparse
import importlib
import os
import signal
from pathlib import Path
from typing import Any

from longrope.errors import UserError
from longrope.provenance import facts
from longrope.runtime import Input, Runtime
from longrope.store import commit
from longrope.store.code import CodeIndex
from longrope.store.files import RawFiles
from longrope.store.identity import digest
from longrope.verbs.common import add_store, read_plan

PACKAGES = Path("resources/packages")


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    run = verbs.add_parser("run", help="compute nodes of a plan, one after the other")
    run.add_argument("nodes", nargs="+", metavar="NODE", help="key, {kind}/{label}-{digest12}")
    run.add_argument("--plan", type=Path, required=True, help="plan file that has the nodes")
    add_store(run)
    run.add_argument(
        "--threads", type=int, default=1, help="of arithmetic; last digits depend on it"
    )
    run.add_argument("--packages", type=Path, default=PACKAGES, help="downloaded archives")
    run.set_defaults(verb=_run)


def prepare(threads: int) -> None:
    """Set up the process before anything is computed in it."""
    # A cancelled job ends by an exception, so that it gives its claim back and the next need not wait.
    signal.signal(signal.SIGTERM, _stop)
    # Before torch is imported, which reads it once.
    os.environ["OMP_NUM_THREADS"] = str(threads)


def _run(options: argparse.Namespace) -> None:
    prepare(options.threads)
    nodes = read_plan(options.plan)["nodes"]
    mistakes = [str(error) for key in options.nodes if (error := _attempt(key, nodes, options))]
    if mistakes:
        raise UserError(" ".join(mistakes))


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _attempt(key: str, nodes: dict[str, Any], options: argparse.Namespace) -> UserError | None:
    """Compute one node and return the mistake that prevents it: others of the job go on."""
    try:
        compute(key, nodes, options)
    except UserError as error:
        return error
    return None


def compute(key: str, nodes: dict[str, Any], options: argparse.Namespace) -> None:
    """Compute one node unless it is there.

    Args:
        key: `{kind}/{label}-{digest12}`.
        nodes: of the plan, by key, as a plan file holds them.
        options: `store` and `packages`, and `plan` for the sentence about a key that is not in it.
    """
    spec = nodes.get(key)
    if spec is None:
        raise UserError(f"{options.plan} has no node {key}; run snakemake again.")
    _check_code(key, spec)
    inputs = _inputs(options.store, nodes, spec)
    scoring = CodeIndex().identity(["longrope.scoring"])
    runtime = Runtime(options.store, options.packages, spec["runtime"], scoring)
    stage = importlib.import_module(f"longrope.stages.{spec['kind']}")

    def fill(work: Path) -> None:
        stage.run(spec["settings"], inputs, work, runtime)

    commit.run(options.store, key, spec, fill, facts)


def _check_code(key: str, spec: dict[str, Any]) -> None:
    """Refuse to write under a digest that another version of the code was planned for."""
    modules = [f"longrope.stages.{spec['kind']}", *spec["modules"]]
    try:
        code = CodeIndex().identity(modules)
    except ValueError:  # a module is gone
        code = None
    if code != spec["code"]:
        raise UserError(f"the code of {key} changed since it was planned; run snakemake again.")


def _inputs(store: Path, nodes: dict[str, Any], spec: dict[str, Any]) -> dict[str, Input]:
    inputs = {
        role: Input(commit.require_sound(store, key), nodes[key]["digest"])
        for role, key in spec["inputs"].items()
    }
    known = RawFiles(store / ".raw-files.json")
    for role, raw in spec["raw"].items():
        for name, expected in raw["files"].items():
            path = Path(raw["path"]) / name
            if not path.is_file() or known.digest(path) != expected:
                raise UserError(f"{path} changed since it was planned; run snakemake again.")
        inputs[role] = Input(Path(raw["path"]), digest(raw["files"]), tuple(raw["files"]))
    return inputs
