"""Models, machines and jobs whose cost is known."""

from dataclasses import dataclass
from typing import Any

from node_settings import node_settings
from repository import ROOT

from longrope.cost.shapes import Shape
from longrope.settings.hardware import Machine, read_machine
from longrope.settings.nodes import NodeRuntime, NodeSettings

K = 1024


LLAMA2 = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
}


FINETUNE = {"num_steps": 400, "batch_size": 32, "text_length": 128 * K, "dtype": "bfloat16"}


@dataclass(frozen=True)
class Planned:
    """A node, as far as its cost goes."""

    kind: str
    settings: NodeSettings
    runtime: NodeRuntime


def planned(kind: str, settings: dict[str, Any], runtime: dict[str, Any] | None = None) -> Planned:
    """Return a node of a kind with flat settings."""
    given = {"num_steps": 1} if kind == "finetune" else {}
    return Planned(
        kind,
        node_settings(kind, SOME.get(kind, given | settings)),
        NodeRuntime.model_validate(runtime or {}),
    )


SOME = {
    "fetch": {"source": "benchmarks", "items": "hub", "tasks": [], "truthfulqa": False},
    "tokenize": {},
}
"""settings of nodes that cost nothing that is known"""


def shape_of(model_config: dict[str, Any]) -> Shape:
    shape = Shape.of(model_config)
    assert shape is not None
    return shape


def machine(name: str) -> Machine:
    return read_machine(name, ROOT / "config/hardware.yaml")


LLAMA = shape_of(LLAMA2)
