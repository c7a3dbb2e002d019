"""Nodes behind each table and figure, and the code and machines that made them, from their manifests."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from longrope import reading
from longrope.plan.nodes import KINDS, Node, Plan
from longrope.reports.products import PRODUCTS, Product
from longrope.reports.results import (
    Results,
    model_note,
    nodes_of,
    read_json,
    table_note,
)

COMMIT_CHARACTERS = 7
PACKAGES = ("longrope", "torch", "transformers", "lm-eval")
COLUMNS = (
    *("table", "kind", "label", "digest", "finished", "commit"),
    *PACKAGES,
    *("machine", "device", "host", "seconds"),
)
"""Of the provenance table."""
DIRTY = "+"
"""Ends a commit whose code had uncommitted changes."""
Row = Mapping[str, Any]
"""One node behind one table, by COLUMNS."""


# Which nodes ------------------------------------------------------------------------------------


def products_of(plan: Plan) -> list[Product]:
    """Return the products that the plan has nodes for."""
    return [made for made in PRODUCTS if any(map(made.reads, plan))]


def behind(plan: Plan, product: Product) -> list[Node]:
    """Return the nodes a product reads and all their ancestors, in the order of the stages."""
    reached: set[str] = set()
    waiting = [node for node in plan if product.reads(node)]
    while waiting:
        node = waiting.pop()
        if node.key not in reached:
            reached.add(node.key)
            waiting.extend(node.inputs.values())
    return [node for kind in KINDS for node in nodes_of(plan, kind) if node.key in reached]


def finished(plan: Plan, store: Path) -> set[str]:
    """Return the keys of the nodes that are done."""
    return {node.key for node in plan if reading.is_file(store / node.key / "DONE")}


# Origins ----------------------------------------------------------------------------------------


def made_by(folder: Path) -> dict[str, Any]:
    """Return the origin of a node by its manifest; unknown cells are empty.

    A node may have no manifest: one that nothing new needs can be deleted, and tables stay.
    """
    path = folder / "manifest.json"
    manifest = read_json(path) if reading.is_file(path) else {}
    versions, git = manifest.get("versions") or {}, manifest.get("git") or {}
    commit = (git.get("commit") or "")[:COMMIT_CHARACTERS]
    facts = {name: manifest.get(name) or "" for name in ("finished", "machine", "device", "host")}
    return {
        **facts,
        **{name: versions.get(name) or "" for name in PACKAGES},
        "commit": commit + DIRTY * bool(commit and git.get("dirty")),
        "seconds": manifest.get("seconds"),
    }


def rows_of(plan: Plan, store: Path, product: Product) -> list[Row]:
    """Return one row per node behind a product."""
    return [
        {
            "table": product.name,
            "kind": node.kind,
            "label": node.label,
            "digest": node.key.rpartition("-")[2],
            **made_by(store / node.key),
        }
        for node in behind(plan, product)
    ]


def provenance(plan: Plan, store: Path) -> list[tuple[Product, list[Row]]]:
    """Return every product of the plan with its rows."""
    return [(product, rows_of(plan, store, product)) for product in products_of(plan)]


def provenance_table(results: Results) -> pd.DataFrame:
    """Return one row per product and node behind it."""
    rows = [row for _, rows in provenance(results.plan, results.store) for row in rows]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"seconds": float})


# In a sentence ----------------------------------------------------------------------------------


def values_of(rows: Sequence[Row], column: str) -> "Counter[str]":
    """Count the nodes per value of a column, the most frequent first; "" is not recorded."""
    counts = Counter(str(row[column]) for row in rows)
    return Counter(dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))))


def is_mixed(rows: Sequence[Row], product: Product) -> bool:
    """Return whether the nodes record several commits or several versions of one package."""
    return any(len(values_of(rows, column).keys() - {""}) > 1 for column in product.watched)


def made_sentence(rows: Sequence[Row], product: Product, form: str = "") -> str:
    """Return a sentence on the commits and versions behind a product, "" if no manifest records any.

    `form` is the form shown of a product that has several.
    """
    recorded = {column: values_of(rows, column) for column in product.watched}
    recorded = {column: counts for column, counts in recorded.items() if any(counts)}
    if not recorded:
        return ""
    gloss = f"; {DIRTY} marks uncommitted changes" * any(map(_is_dirty, recorded.get("commit", ())))
    if all(len(counts) == 1 for counts in recorded.values()):
        return f"Made {_plainly(recorded)}{gloss}."
    phrases = "; ".join(_counted(column, counts) for column, counts in recorded.items())
    return f"Nodes behind this {form or product.form} were made {phrases}{gloss}."


def _is_dirty(commit: str) -> bool:
    return commit.endswith(DIRTY)


def _plainly(recorded: Mapping[str, "Counter[str]"]) -> str:
    """Return the one commit and the one version of each package."""
    values = {column: next(iter(counts)) for column, counts in recorded.items()}
    commit = [f"at commit {values.pop('commit')}"] if "commit" in values else []
    packages = ", ".join(f"{name} {version}" for name, version in values.items())
    return " ".join(commit + [f"with {packages}"] * bool(packages))


def _counted(column: str, counts: "Counter[str]") -> str:
    """Return the values of a column, each with its number of nodes where there are several."""
    recorded = [value for value in counts if value]
    listed = ", ".join(f"{value or 'not recorded'} ({_nodes(n)})" for value, n in counts.items())
    shown = listed if len(counts) > 1 else recorded[0]
    if column == "commit":
        return f"at {len(recorded)} commits: {shown}" if len(recorded) > 1 else f"at commit {shown}"
    several = f"with {len(recorded)} versions of {column}: {shown}"
    return several if len(recorded) > 1 else f"with {column} {shown}"


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def note(product: Product, results: Results, table: pd.DataFrame) -> str:
    """Return the note above a table: stand-in, tuning mix, and origin of its numbers."""
    del table
    rows = rows_of(results.plan, results.store, product)
    notes = (table_note(results.plan), made_sentence(rows, product, "table"))
    return " ".join(note for note in notes if note)


def provenance_note(product: Product, results: Results, table: pd.DataFrame) -> str:
    """Return the note above the table of provenance, whose rows hold the origins."""
    del product, table
    return model_note(results.plan)
