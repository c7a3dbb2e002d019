"""Settings of nodes from flat mappings, so that a test names what it is about and no more."""

from collections.abc import Mapping
from typing import Any

from longrope.settings.nodes import NODE_SETTINGS, NodeSettings, parse_node
from longrope.settings.training import TrainingSettings

INNER = {"search": "search", "readjust": "search", "finetune": "training", "evaluate": "task"}
"""kind -> the settings within its settings that a flat mapping may hold as well"""
ANY: dict[str, dict[str, Any]] = {
    "search": {
        **{"model": "m", "original_length": 64, "source_length": 64, "target_length": 128},
        "attention_scale": "yarn",
    },
    "readjust": {
        **{"model": "m", "original_length": 64, "source_length": 64, "lengths": [64]},
        "num_attention_scales": 1,
    },
    "finetune": {"original_length": 64},
    "evaluate": {"original_length": 64, "variant": "base", "method": "none", "seed": 0},
}
ANY_INNER: dict[str, dict[str, Any]] = {
    "finetune": {"num_steps": 1, "text_length": 128},
    "perplexity": {"lengths": {"words": [64]}, "num_documents": {"words": 1}},
    "passkey": {"lengths": [64]},
}
"""what a test that does not say it does not care for"""


def node_settings(kind: str, flat: Mapping[str, Any]) -> NodeSettings:
    """Return the settings of a node; a task is named under `task`, an algorithm under `algorithm`."""
    if kind not in INNER:
        return parse_node(kind, flat)
    outer = NODE_SETTINGS[kind].model_fields
    inner = {key: value for key, value in flat.items() if key not in outer}
    rest = {key: value for key, value in flat.items() if key in outer}
    if kind == "evaluate":
        inner["name"] = rest.pop("task")
    inner = ANY_INNER.get(inner.get("name", kind), {}) | inner
    return parse_node(kind, {**ANY[kind], **rest, INNER[kind]: inner})


def training(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return flat settings as arguments of `longrope.training.trainer.train`."""
    seedless = {key: value for key, value in settings.items() if key != "seed"}
    return {"settings": TrainingSettings.model_validate(seedless), "seed": settings["seed"]}
