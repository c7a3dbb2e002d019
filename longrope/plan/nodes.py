"""Nodes, and the plan that holds them: values without behaviour beyond their identity.

A node is `{kind, settings, inputs, raw, code}`, and `versions` where a configuration asks for them. Its
digest is the sha256 of that as canonical JSON, and its directory is `results/{kind}/{label}-{digest12}`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypedDict

from longrope import reading
from longrope.settings.nodes import (
    NODE_SETTINGS,
    EvaluateNode,
    NodeRuntime,
    NodeSettings,
    parse_node,
)
from longrope.store.atomic import write_text
from longrope.store.identity import DIGEST_CHARACTERS, canonical, digest

KINDS = tuple(NODE_SETTINGS)
"""in the order of the stages"""
UNHASHED_INPUTS = frozenset({"watched"})
"""roles of inputs that are used for monitoring only, and excluded from the digest"""


class Spec(TypedDict, total=False):
    """Entry of a node in a plan file, or `node` in a manifest, which lacks keys that are newer than it."""

    kind: str
    label: str
    digest: str
    settings: Mapping[str, object]
    runtime: Mapping[str, object]
    inputs: Mapping[str, str]
    """role -> directory of a node inside the store"""
    raw: Mapping[str, "RawSpec"]
    code: str
    modules: Sequence[str]
    parts: Mapping[str, str]
    versions: Mapping[str, str]


class RawSpec(TypedDict, total=False):
    """A `Raw` in a `Spec`."""

    path: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Raw:
    """Files that no node makes, identified by their contents."""

    path: str
    """the folder the names are relative to, as the user gave it"""
    files: Mapping[str, str]
    """name -> sha256"""


@dataclass(frozen=True)
class Node:
    """One unit of work whose output is addressed by what made it."""

    kind: str
    label: str
    settings: NodeSettings
    inputs: Mapping[str, "Node"] = field(default_factory=dict)
    raw: Mapping[str, Raw] = field(default_factory=dict)
    code: str = ""
    modules: tuple[str, ...] = ()
    """modules whose code counts, besides the stage's own"""
    parts: Mapping[str, str] = field(default_factory=dict)
    """module -> hash, of all modules behind `code`; to name changed ones, outside the digest"""
    versions: Mapping[str, str] = field(default_factory=dict)
    """package -> installed version, of those that a configuration makes part of the identity"""
    runtime: NodeRuntime = field(default_factory=NodeRuntime)
    """outside the digest"""

    @cached_property
    def digest(self) -> str:
        """The sha256 over all that determines this node's output."""
        components = {
            "kind": self.kind,
            "settings": self.settings.identity(),
            "inputs": {
                r: node.digest for r, node in self.inputs.items() if r not in UNHASHED_INPUTS
            },
            "raw": {role: dict(raw.files) for role, raw in self.raw.items()},
            "code": self.code,
        }
        return digest(components | ({"versions": self.versions} if self.versions else {}))

    @property
    def name(self) -> str:
        """Directory name: label and first digits of the digest."""
        return f"{self.label}-{self.digest[:DIGEST_CHARACTERS]}"

    @cached_property
    def seed(self) -> int | None:
        """Seed of its random choices, or else of those behind its inputs; None if nothing was drawn."""
        seeds = [getattr(self.settings, "seed", None)]
        seeds += [node.seed for node in self.inputs.values()]
        return next((seed for seed in seeds if seed is not None), None)

    @property
    def task(self) -> str | None:
        """Name of the task of an evaluation."""
        return self.settings.task.name if isinstance(self.settings, EvaluateNode) else None

    @property
    def key(self) -> str:
        """Path of the node's directory inside the store."""
        return f"{self.kind}/{self.name}"

    def to_json(self) -> Spec:
        """Return the entry of a plan file by which a job computes this node."""
        return {
            "kind": self.kind,
            "label": self.label,
            "digest": self.digest,
            "settings": self.settings.identity(),
            "runtime": self.runtime.identity(),
            "inputs": {role: node.key for role, node in self.inputs.items()},
            "raw": {r: {"path": raw.path, "files": dict(raw.files)} for r, raw in self.raw.items()},
            "code": self.code,
            "modules": list(self.modules),
            "parts": dict(self.parts),
            "versions": dict(self.versions),
        }


class StandIns(TypedDict):
    """Descriptions of the model and the corpora that stand in for others."""

    model: str | None
    corpora: dict[str, str | None]


@dataclass(frozen=True)
class Plan:
    """The nodes of one experiment, in an order in which they can be computed."""

    experiment: str
    nodes: Mapping[str, Node]
    """human name (`search/tiny-llama-1024`) -> node"""
    stand_ins: StandIns = field(default_factory=lambda: StandIns(model=None, corpora={}))
    """labels of tables, not part of any digest"""
    hardware: str = ""
    """machine that jobs ask for, a name in the table of hardware"""
    shape: Mapping[str, object] = field(default_factory=dict)
    """shape of the model, by keys of its config.json; empty if it is not known"""
    evaluations_per_job: int = 1
    """evaluations with the same inputs that one job computes"""
    warnings: Sequence[str] = ()
    """sentences to print when planning; not part of a plan file"""

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    @cached_property
    def by_key(self) -> Mapping[str, Node]:
        """Directory inside the store -> node."""
        return {node.key: node for node in self}

    def of(self, kind: str) -> list[Node]:
        """Return the nodes of one kind."""
        return [node for node in self if node.kind == kind]

    def evaluation_batches(self) -> list[list[Node]]:
        """Return the evaluations in groups for one job each, with the same inputs, so that none waits."""
        alike: dict[frozenset[str], list[Node]] = {}
        for node in self.of("evaluate"):
            alike.setdefault(frozenset(source.key for source in node.inputs.values()), []).append(
                node
            )
        size = self.evaluations_per_job
        return [group[i : i + size] for group in alike.values() for i in range(0, len(group), size)]

    def to_json(self) -> str:
        """Return the whole plan as canonical JSON."""
        names = {name: node.key for name, node in self.nodes.items()}
        nodes = {node.key: node.to_json() for node in self}
        return canonical(
            {
                "experiment": self.experiment,
                "names": names,
                "nodes": nodes,
                "stand_ins": self.stand_ins,
                "hardware": self.hardware,
                "shape": self.shape,
                "evaluations_per_job": self.evaluations_per_job,
            }
        )

    @cached_property
    def digest(self) -> str:
        """Identity of the plan as a whole."""
        return digest(self.to_json())


def read(path: Path) -> Plan:
    """Read a plan file.

    Raises:
        ValueError: if the file is not a plan.
    """
    content = json.loads(path.read_text())
    made: dict[str, Node] = {}

    def node(key: str) -> Node:
        if key not in made:
            spec = content["nodes"][key]
            made[key] = Node(
                kind=spec["kind"],
                label=spec["label"],
                settings=parse_node(spec["kind"], spec["settings"]),
                inputs={role: node(source) for role, source in spec["inputs"].items()},
                raw={role: Raw(**raw) for role, raw in spec["raw"].items()},
                code=spec["code"],
                modules=tuple(spec["modules"]),
                parts=spec["parts"],
                versions=spec["versions"],
                runtime=NodeRuntime.model_validate(spec["runtime"]),
            )
        return made[key]

    nodes = {name: node(key) for name, key in content["names"].items()}
    others = ("experiment", "stand_ins", "hardware", "shape", "evaluations_per_job")
    return Plan(nodes=nodes, **{name: content[name] for name in others})


def write_if_changed(plan: Plan, path: Path) -> None:
    """Write the plan's JSON whole, unless the file already holds it."""
    text = plan.to_json()
    if reading.is_file(path) and reading.read_text(path) == text:
        return
    write_text(path, text)
