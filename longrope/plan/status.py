"""Status of each node of a plan in a store: finished, running, stale (and why), or missing."""

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypedDict

from longrope import reading
from longrope.plan.history import Difference, differences
from longrope.plan.nodes import Node, Plan, Spec
from longrope.store import gc
from longrope.store.identity import canonical

STATES = ("done", "running", "stale", "missing")


class Manifest(TypedDict, total=False):
    """Content of manifest.json, as far as the status of a node goes."""

    node: Spec
    files: Mapping[str, Mapping[str, int | str]]
    """name -> size and sha256"""
    seconds: float


@dataclass(frozen=True)
class NodeStatus:
    """Status of one node in a store."""

    state: str
    """one of STATES"""
    manifest: Manifest = field(default_factory=Manifest)
    """of the finished node; of a stale one, of the newest finished node with its kind and label"""
    differences: list[Difference] = field(default_factory=list)
    """between a stale node and that one"""

    @cached_property
    def size(self) -> int:
        """Bytes of the files that the manifest lists."""
        return sum(int(entry["size"]) for entry in self.manifest.get("files", {}).values())


def survey(plan: Plan, store: Path) -> dict[str, NodeStatus]:
    """Return the status of every node by its directory; each folder of the store is listed once."""
    earlier = _Earlier(store)
    held = gc.held(store)
    return {node.key: _node_status(node, store, earlier, held) for node in plan}


def _node_status(node: Node, store: Path, earlier: "_Earlier", held: set[str]) -> NodeStatus:
    if reading.is_file(store / node.key / "DONE"):
        return NodeStatus("done", _manifest(store / node.key))
    if node.key in held:
        return NodeStatus("running")
    before = earlier.newest(node)
    if before is None:
        return NodeStatus("missing")
    manifest = _manifest(before)
    if not manifest:
        return NodeStatus("stale")
    # As the plan file holds it: tuples are lists there.
    now = json.loads(canonical(node.to_json()))
    return NodeStatus("stale", manifest, differences(now, manifest["node"]))


class _Earlier:
    """Finished nodes of a store by kind and label."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._kinds: dict[str, Mapping[str, list[Path]]] = {}

    def newest(self, node: Node) -> Path | None:
        """Return the finished node of the same kind and label whose manifest is the newest."""
        if node.kind not in self._kinds:
            self._kinds[node.kind] = self._by_label(self._store / node.kind)
        manifests = [
            path / "manifest.json"
            for path in self._kinds[node.kind].get(node.label, [])
            if all(reading.is_file(path / mark) for mark in ("DONE", "manifest.json"))
        ]
        return max(manifests, key=os.path.getmtime).parent if manifests else None

    def _by_label(self, folder: Path) -> Mapping[str, list[Path]]:
        labels: defaultdict[str, list[Path]] = defaultdict(list)
        for path in reading.entries(folder):
            labels[path.name.rpartition("-")[0]].append(path)
        return labels


def _manifest(directory: Path) -> Manifest:
    """Return a manifest, empty if it is damaged, which `longrope verify` reports."""
    try:
        manifest: Manifest = json.loads(reading.read_text(directory / "manifest.json"))
        whole = isinstance(manifest["node"], dict) and isinstance(manifest["files"], dict)
    except (*reading.ABSENT, ValueError, KeyError, TypeError):
        return {}
    return manifest if whole else {}
