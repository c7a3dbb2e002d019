"""Factors to export, from a node of a store or a file, and what is known about their origin."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from longrope import reading
from longrope.errors import UserError
from longrope.rope.factors import FactorTable, RopeFactors
from longrope.rope.formats import read
from longrope.store import commit

NODE_FILES = ("factor_table.json", "factors.json")
"""files of factors in a node, the first of which is taken"""


@dataclass(frozen=True, kw_only=True)
class FactorSource:
    """A table of factors and its origin."""

    name: str
    """the node or file, as the user gave it"""
    table: FactorTable
    node: str = ""
    """key of the node that made it, `{kind}/{label}-{digest12}`; empty if none is known"""
    commit: str = ""
    """of the code that made the node; empty if it is not known"""
    stand_ins: tuple[str, ...] = ()
    """descriptions of the model and the corpora that stand in for others"""


def read_source(name: str, store: Path) -> FactorSource:
    """Read the factors of a node, by its key or its folder, or of a file.

    Raises:
        UserError: if there is no such node or file, it is damaged, or it holds no factors.
    """
    folder = next((p for p in (Path(name), store / name) if reading.is_folder(p)), None)
    path = Path(name) if folder is None else _file_of_node(folder)
    if not reading.is_file(path):
        raise UserError(
            f"{name} is neither a file of factors nor a node of {store}; give one, such as the path that "
            "longrope search prints."
        )
    manifest = read_manifest(path.resolve().parent)
    table = _table(path)
    if manifest is None:
        return FactorSource(name=name, table=table)
    place = path.resolve().parent
    key = f"{place.parent.name}/{place.name}"
    return FactorSource(
        name=name,
        table=table,
        node=key,
        commit=_commit(manifest),
        stand_ins=_stand_ins(place.parent.parent, key),
    )


def read_manifest(folder: Path) -> Mapping[str, object] | None:
    """Return the manifest of a node's folder, None if it is no node."""
    try:
        manifest = json.loads(reading.read_text(folder / "manifest.json"))
    except (*reading.ABSENT, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and "node" in manifest else None


def base_folder(model: Path) -> Path:
    """Return the folder of the base model of a fine-tuned one in its node; any other model's own folder."""
    place = model.resolve().parent
    node = (read_manifest(place) or {}).get("node")
    if not isinstance(node, dict):
        return model
    raw, inputs = node.get("raw", {}), node.get("inputs", {})
    if "tokenizer" in raw:
        base = Path(raw["tokenizer"]["path"])
    elif "tokenizer" in inputs:
        base = place.parent.parent / inputs["tokenizer"]
    else:
        return model
    return base if reading.is_folder(base) else model


def _file_of_node(folder: Path) -> Path:
    reason = commit.problem(folder)
    if reason is not None:
        raise UserError(
            f"{folder} is not a sound node ({reason}); give a finished one, or a file of factors."
        )
    names = [name for name in NODE_FILES if reading.is_file(folder / name)]
    if not names:
        raise UserError(f"{folder} holds no factors; give a node of kind search or readjust.")
    return folder / names[0]


def _table(path: Path) -> FactorTable:
    """Return the table in a file, or the single set of a file as one."""
    if path.suffix == ".json" and '"entries"' in reading.read_text(path):
        return FactorTable.read(path)
    factors: RopeFactors = read(path).factors
    return FactorTable(entries=(factors,))


def _commit(manifest: Mapping[str, object]) -> str:
    git = manifest.get("git")
    if not isinstance(git, dict):
        return ""
    commit_id = str(git.get("commit", ""))
    return f"{commit_id} with edits" if commit_id and git.get("dirty") else commit_id


def _stand_ins(store: Path, key: str) -> tuple[str, ...]:
    """Return the stand-ins that the plans with a node name, in their order."""
    names: dict[str, None] = {}
    for path in reading.entries(store / "plans", "*.json"):
        try:
            plan = json.loads(reading.read_text(path))
            if key in plan["nodes"]:
                stated = [plan["stand_ins"]["model"], *plan["stand_ins"]["corpora"].values()]
                names |= dict.fromkeys(text for text in stated if text)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return tuple(names)
