"""Measured cost of each node of a plan beside its estimate; imports no torch."""

from pathlib import Path
from typing import Any

import pandas as pd

from longrope.cost.estimate import MIB, Estimate, estimate
from longrope.cost.shapes import Shape
from longrope.plan.nodes import KINDS, Node
from longrope.reports import lineage
from longrope.reports.products import Product
from longrope.reports.records import PerplexityRow, Scores
from longrope.reports.results import Results, nodes_of, read_history, read_json
from longrope.reports.tables import to_markdown
from longrope.settings.hardware import Machine, read_machine

COST_COLUMNS = (
    *("kind", "label", "seconds", "estimated_seconds", "peak_memory_mb", "estimated_memory_mb"),
    *("scored_tokens", "estimated_tokens", "device", "node"),
)
STAGE_COLUMNS = ("kind", "nodes", "seconds", "estimated_seconds", "ratio")


def cost_table(results: Results) -> pd.DataFrame:
    """Return the cost of each node, in the order of the stages, beside its estimate for the plan's machine.

    Estimates are missing without a machine, for kinds that have none, and if the plan does not tell
    the model's shape.
    """
    plan, store = results.plan, results.store
    shape, machine = Shape.of(plan.shape), _machine(results)
    rows = [
        _measured(store / node.key, node) | _estimated(node, shape, machine)
        for kind in KINDS
        for node in nodes_of(plan, kind)
    ]
    table = pd.DataFrame(rows, columns=list(COST_COLUMNS))
    floats = ("seconds", "estimated_seconds", "peak_memory_mb", "estimated_memory_mb")
    counts = ("scored_tokens", "estimated_tokens")
    return table.astype(dict.fromkeys(floats, "float") | dict.fromkeys(counts, "Int64"))


def _machine(results: Results) -> Machine | None:
    name = results.plan.hardware
    return read_machine(name, results.hardware) if name and results.hardware else None


def _measured(folder: Path, node: Node) -> dict[str, Any]:
    manifest = read_json(folder / "manifest.json")
    return {
        "kind": node.kind,
        "label": node.label,
        "seconds": manifest["seconds"],
        "peak_memory_mb": manifest.get("peak_memory_mb"),
        "scored_tokens": scored_tokens(folder, node),
        "device": manifest.get("device") or "",
        "node": node.key,
    }


def _estimated(node: Node, shape: Shape | None, machine: Machine | None) -> dict[str, Any]:
    cost = estimate(node, shape, machine) if shape and machine else Estimate()
    return {
        "estimated_seconds": cost.seconds,
        "estimated_memory_mb": cost.host_bytes and cost.host_bytes / MIB,
        "estimated_tokens": cost.tokens,
    }


def scored_tokens(folder: Path, node: Node) -> int | None:
    """Return the tokens a node scored, or None for a kind of node that does not count them."""
    if node.kind in ("search", "readjust"):
        histories = [read_history(path) for path in sorted(folder.glob("history*.jsonl"))]
        return sum(int(history[-1]["scored_tokens"]) for history in histories if history)
    if node.task == "perplexity":
        scores: Scores[PerplexityRow] = read_json(folder / "scores.json")
        return sum(
            int(document["tokens"]) for row in scores["rows"] for document in row["documents"]
        )
    return None


def stage_table(costs: pd.DataFrame) -> pd.DataFrame:
    """Return the seconds of each stage, measured and estimated, and their ratio.

    Only nodes with an estimate are summed, so that the two sums are of the same nodes.
    """
    known = costs[costs["estimated_seconds"].notna()]
    sums = known.groupby("kind", sort=False)[["seconds", "estimated_seconds"]].sum()
    sums["nodes"] = known.groupby("kind", sort=False).size()
    sums["ratio"] = sums["estimated_seconds"] / sums["seconds"]
    return sums.reset_index()[list(STAGE_COLUMNS)]


def note(product: Product, results: Results, costs: pd.DataFrame) -> str:
    """Return the text above the cost table: that above every table, and the sums by stage, if any."""
    above, sums = lineage.note(product, results, costs), stage_table(costs)
    if sums.empty:
        return above
    machine = results.plan.hardware
    said = f"Estimates are for the machine `{machine}` of the table of hardware."
    return f"{above}\n\n{said}\n\n{to_markdown(sums)}".rstrip("\n")
