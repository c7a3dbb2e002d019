"""Models, machines and jobs whose cost is known."""

from dataclasses import dataclass, field
from typing import Any

from repository import ROOT

from longrope.cost.shapes import Shape
from longrope.settings.hardware import Machine, read_machine

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
class Job:
    """A node, as far as its cost goes."""

    kind: str
    settings: dict[str, Any]
    runtime: dict[str, Any] = field(
        default_factory=lambda: {"chunk_length": 4096, "micro_batch_size": 1}
    )


def shape_of(told: dict[str, Any]) -> Shape:
    shape = Shape.of(told)
    assert shape is not None
    return shape


def machine(name: str) -> Machine:
    return read_machine(name, ROOT / "config/hardware.yaml")


LLAMA = shape_of(LLAMA2)
