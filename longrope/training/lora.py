"""Low-rank adapters on the linear layers of a model, merged into plain weights at the end.

Needs peft, which nothing else imports.

Sources: Hu et al. 2021, LoRA (arXiv:2106.09685), section 4.1; Chen et al. 2023, LongLoRA (arXiv:2309.12307),
section 3.3, for training norms and embeddings whole.
"""

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from longrope.errors import UserError
from longrope.settings.training import LoraSettings

BASE = ".base_layer"
"""name under which peft holds a layer that has an adapter"""
ADAPTER = "default"
"""peft's name of the one adapter"""


def add_adapters(model: PreTrainedModel, lora: LoraSettings, *, seed: int) -> None:
    """Put an adapter on every linear layer but the head, and let only those be trained.

    Args:
        model: whose layers are replaced in place; its outputs stay as they are.
        lora: rank, weight, and whether norms and embeddings are trained too.
        seed: of the adapters' random halves.

    Raises:
        UserError: if peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise UserError(
            "finetune.lora needs peft; pip install 'longrope[train]', or set finetune.lora to null."
        )
    from peft import LoraConfig, inject_adapter_in_model

    whole: Any = model
    head = whole.get_output_embeddings()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides it by the rank
        target_modules=[name for name, layer in layers.items() if layer is not head],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, whole, adapter_name=ADAPTER)
    if lora.norms_and_embeddings:
        for module in model.modules():
            if isinstance(module, nn.Embedding) or "norm" in type(module).__name__.lower():
                module.requires_grad_(True)


def merged(weights: Mapping[str, Tensor], lora: LoraSettings) -> dict[str, Tensor]:
    """Return plain weights with the adapters merged in.

    Args:
        weights: of the model with adapters, by name.
        lora: as for `add_adapters`.

    Returns:
        W + alpha / rank * B A for the weight W of each layer with an adapter (A, B), under the layer's name.
    """
    merged_weights = {}
    for name, values in weights.items():
        if f".{ADAPTER}." in name:
            continue
        layer, is_adapted, kind = name.partition(f"{BASE}.")
        if is_adapted and kind == "weight":
            inner, outer = (weights[f"{layer}.lora_{x}.{ADAPTER}.weight"] for x in "AB")
            values = values + lora.alpha / lora.rank * (outer @ inner)
        merged_weights[name.replace(BASE, "")] = values
    return merged_weights


def remove_adapters(model: PreTrainedModel) -> None:
    """Restore the original layers and discard the adapters."""
    bases = {name: layer for name, layer in model.named_modules() if name.endswith(BASE)}
    for name, layer in bases.items():
        model.set_submodule(name.removesuffix(BASE), layer)
