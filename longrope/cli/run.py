"""`run`: compute nodes of a plan; called by the rules."""

import argparse
import importlib
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from longrope import reading
from longrope.cli.common import SCORING, STORE, add_store, read_plan
from longrope.cli.ranks import Ranks
from longrope.errors import UserError, refusals_explained
from longrope.runtime import Input, Runtime, Workers
from longrope.settings.nodes import NodeRuntime, parse_node
from longrope.store import commit
from longrope.store.code import CodeIndex
from longrope.store.files import RawFiles
from longrope.store.identity import digest
from longrope.store.provenance import facts

PACKAGES = Path("resources/packages")


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    run = verbs.add_parser("run", help="compute nodes of a plan, one after the other")
    run.add_argument("nodes", nargs="+", metavar="NODE", help="key, {kind}/{label}-{digest12}")
    run.add_argument("--plan", type=Path, required=True, help="plan file that has the nodes")
    add_store(run, STORE)
    add_workers(run)
    run.add_argument("--packages", type=Path, default=PACKAGES, help="downloaded archives")
    run.set_defaults(verb=_run)


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the options for workers; only the number of threads can change a result."""
    parser.add_argument(
        "--threads", type=int, default=1, help="of arithmetic; last digits depend on it"
    )
    parser.add_argument(
        "--workers", type=_positive(int), default=1, help="processes that score for a search"
    )
    parser.add_argument(
        "--worker-timeout",
        type=_positive(float),
        metavar="SECONDS",
        help="replace a worker that needs longer for one document; never, if not given",
    )
    parser.add_argument(
        "--dask",
        type=Path,
        metavar="SCHEDULER_FILE",
        help="let the workers of this Dask scheduler score, instead of processes",
    )


def _positive(number: type[int] | type[float]) -> Callable[[str], float]:
    def parsed(text: str) -> float:
        value = number(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not positive")
        return value

    return parsed


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
    """Compute one node and return the error that prevents it, so that the job's others go on."""
    try:
        with refusals_explained():
            compute(key, nodes, options)
    except UserError as error:
        return error
    return None


def compute(key: str, nodes: dict[str, Any], options: argparse.Namespace) -> None:
    """Compute one node unless it is finished.

    Args:
        key: `{kind}/{label}-{digest12}`.
        nodes: of the plan, by key, as a plan file holds them.
        options: `store`, `packages` and those of `add_workers`; `plan` for the sentence about a key that
            is not in it.
    """
    spec = nodes.get(key)
    if spec is None:
        raise UserError(f"{options.plan} has no node {key}; run snakemake again.")
    _check_code(key, spec)
    ranks = Ranks.of_job()
    # The first of several processes checks inputs for all.
    inputs = _inputs(options.store, nodes, spec, checked=ranks is not None and not ranks.leads)
    scoring = CodeIndex().identity(SCORING)
    workers = Workers(options.workers, options.threads, options.worker_timeout, options.dask)
    options_of_node = NodeRuntime.model_validate(spec["runtime"])
    runtime = Runtime(options.store, options.packages, options_of_node, scoring, workers)
    settings = parse_node(spec["kind"], spec["settings"])
    stage = importlib.import_module(f"longrope.stages.{spec['kind']}")

    noted: dict[str, object] = {}

    def fill(work: Path) -> None:
        noted.update(stage.run(settings, inputs, work, runtime) or {})

    if ranks is None:
        commit.run(options.store, key, spec, fill, lambda: {**facts(), **noted})
    else:
        ranks.compute(options.store, key, spec, fill)


def _check_code(key: str, spec: dict[str, Any]) -> None:
    """Refuse to compute a node that was planned with other code."""
    modules = [f"longrope.stages.{spec['kind']}", *spec["modules"]]
    try:
        code = CodeIndex().identity(modules)
    except ValueError:  # a module is gone
        code = None
    if code != spec["code"]:
        raise UserError(f"the code of {key} changed since it was planned; run snakemake again.")


def _inputs(
    store: Path, nodes: dict[str, Any], spec: dict[str, Any], *, checked: bool
) -> dict[str, Input]:
    """Return a node's inputs; raises UserError if they are not what was planned, unless checked before."""
    inputs = {
        role: Input(
            store / key if checked else commit.require_sound(store, key), nodes[key]["digest"]
        )
        for role, key in spec["inputs"].items()
    }
    known = RawFiles(store / ".raw-files.json")
    for role, raw in spec["raw"].items():
        if not checked:
            _check_raw(raw, known)
        inputs[role] = Input(Path(raw["path"]), digest(raw["files"]), tuple(raw["files"]))
    return inputs


def _check_raw(raw: dict[str, Any], known: RawFiles) -> None:
    for name, expected in raw["files"].items():
        path = Path(raw["path"]) / name
        if not reading.is_file(path) or known.digest(path) != expected:
            raise UserError(f"{path} changed since it was planned; run snakemake again.")
