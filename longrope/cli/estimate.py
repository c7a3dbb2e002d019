"""`estimate`: predicted cost of a configuration on a machine."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from longrope.cli.common import add_overrides, add_store, planned, say_warnings
from longrope.cli.listing import time_text
from longrope.cost.estimate import Estimate, estimate, start_seconds
from longrope.cost.shapes import Shape
from longrope.errors import UserError
from longrope.plan.nodes import Node, Plan
from longrope.reports.products import PRODUCTS
from longrope.settings.hardware import TABLE, read_machine

GIB = 2**30
NOTES = {
    "bound": "an upper bound: every prompt as long as max_length",
    "memory": "does not fit this machine",
    "sharded": "trained by several GPUs together, see docs/training.md",
    "unknown": "documents are scored whole; set max_tokens to know",
}


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser("estimate", help="print what a configuration costs on a machine")
    verb.add_argument("config", type=Path)
    verb.add_argument("--hardware", help="machine of the table; the configuration's if not given")
    verb.add_argument("--hardware-table", type=Path, default=TABLE, help="YAML file of machines")
    verb.add_argument("--json", action="store_true", help="print JSON, in base units")
    add_overrides(verb)
    add_store(verb)
    verb.set_defaults(verb=_estimate)


def _estimate(options: argparse.Namespace) -> None:
    plan = planned(options.config, options.store, options.overrides)
    say_warnings(plan)
    name = options.hardware or plan.hardware
    shape = _shape(plan, options.config)
    costs = _costs(plan, shape, name, options.hardware_table)
    if options.json:
        print(json.dumps(_as_json(plan, name, costs), indent=1))
        return
    print(f"{plan.experiment} on {name}, a model of {shape.parameters:,} parameters\n")
    print(table(costs))
    print(f"\n{_foot(plan, costs)}")


def totals(plan: Plan, source: Path, hardware_table: Path) -> str:
    """Return one line on what a plan costs on its machine; raises UserError as the verb does."""
    costs = [cost for _, cost in _costs(plan, _shape(plan, source), plan.hardware, hardware_table)]
    seconds = 3600 * sum(cost.gpu_hours or 0 for cost in costs)
    unit = "of one GPU" if any(cost.gpus for cost in costs) else "of one thread"
    return (
        f"{len(costs)} nodes: at most {time_text(seconds)} {unit} on {plan.hardware}, and about "
        f"{time_text(_overhead(plan))} to start the jobs"
    )


def _shape(plan: Plan, source: Path) -> Shape:
    shape = Shape.of(plan.shape)
    if shape is None:
        raise UserError(
            f"{source}: nothing tells the shape of the model before it is fetched; give "
            "model.shape (see config/README.md)."
        )
    return shape


def _costs(plan: Plan, shape: Shape, hardware: str, table: Path) -> list[tuple[Node, Estimate]]:
    machine = read_machine(hardware, table)
    return [(node, estimate(node, shape, machine)) for node in plan]


def table(costs: Sequence[tuple[Node, Estimate]]) -> str:
    """Return the aligned table of all nodes that compute, and their total."""
    on_gpu = any(cost.gpus for _, cost in costs)
    unit = "GPU-hours" if on_gpu else "CPU-hours"
    head = ("node", "tokens", "PFLOP", "GPU GiB", "host GiB", "GPUs", "hours", unit, "")
    rows = [_row(node, cost) for node, cost in costs if _computes(node)]
    flops = sum(cost.flops or 0 for _, cost in costs)
    hours = sum(cost.gpu_hours or 0 for _, cost in costs)
    total = ("total", "", _number(flops / 1e15), *("",) * 4, _number(hours), "")
    align = ("left", *("right",) * 7, "left")
    text: str = tabulate(
        [*rows, total], head, tablefmt="simple", disable_numparse=True, colalign=align
    )
    return text


def _computes(node: Node) -> bool:
    return node.kind not in ("fetch", "tokenize")


def _row(node: Node, cost: Estimate) -> tuple[str, ...]:
    return (
        f"{node.kind}/{node.label}",
        f"{cost.tokens:,}" if cost.tokens else "",
        _number(cost.flops, 1e15),
        _number(cost.gpu_bytes, GIB),
        _number(cost.host_bytes, GIB),
        str(cost.gpus or ""),
        _number(cost.seconds, 3600),
        _number(cost.gpu_hours),
        ", ".join(_marks(node, cost)),
    )


def _marks(node: Node, cost: Estimate) -> list[str]:
    """Return the names of the notes on a row."""
    said = {
        "bound": node.task == "benchmarks",
        "memory": not cost.fits,
        "sharded": cost.sharded,
        "unknown": cost.seconds is None,
    }
    return [name for name, holds in said.items() if holds]


def _number(value: float | None, unit: float = 1) -> str:
    """Return a value in a unit to three digits, without exponents."""
    if value is None:
        return ""
    scaled = value / unit
    return f"{scaled:,.0f}" if scaled >= 100 else f"{scaled:.3g}"


def _foot(plan: Plan, costs: Sequence[tuple[Node, Estimate]]) -> str:
    """Return the legend of columns and notes, and the limits of the table."""
    marks = {mark for node, cost in costs if _computes(node) for mark in _marks(node, cost)}
    lines = [f"{name}: {text}." for name, text in NOTES.items() if name in marks]
    others = sum(1 for node in plan if not _computes(node))
    lines.append(f"Not in the table: {others} nodes that fetch and tokenize.")
    lines.append(
        "Upper bounds of the computation, on one thread or on GPUs nobody shares; starting the jobs and "
        f"drawing the tables takes about {time_text(_overhead(plan))} of one core more; see docs/cost.md."
    )
    return "\n".join(lines)


def _overhead(plan: Plan) -> float:
    """Return seconds of one core."""
    drawn = [p for p in PRODUCTS for _ in p.forms if any(p.reads(node) for node in plan)]
    return start_seconds([node.kind for node in plan], len(drawn))


def _as_json(plan: Plan, hardware: str, costs: Sequence[tuple[Node, Estimate]]) -> dict[str, Any]:
    """Return the values of the table in base units: tokens, FLOP, bytes, seconds."""
    nodes = [
        {"node": node.key, **asdict(cost), "notes": _marks(node, cost)}
        for node, cost in costs
        if _computes(node)
    ]
    return {
        "experiment": plan.experiment,
        "hardware": hardware,
        "flops": sum(cost.flops or 0 for _, cost in costs),
        "device_seconds": 3600 * sum(cost.gpu_hours or 0 for _, cost in costs),
        "start_seconds": _overhead(plan),
        "nodes": nodes,
    }
