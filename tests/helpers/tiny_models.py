"""Tiny random models of every supported architecture."""

from typing import Any, cast

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

ORIGINAL_LENGTH = 64

COMMON: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": ORIGINAL_LENGTH,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    # larger than the default, or a random model's predictions hardly depend on positions
    "initializer_range": 0.2,
}

# keys of an architecture whose own defaults are too large, or leave a quirk untested
SPECIAL: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "sliding_window": None},
    "phi3": {"num_key_value_heads": 2, "original_max_position_embeddings": ORIGINAL_LENGTH},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    # a quarter of 32 dimensions: 4 rotary pairs instead of 16
    "gpt_neox": {"num_attention_heads": 2, "rotary_pct": 0.25},
}


def build(architecture: str, **changes: Any) -> PreTrainedModel:
    """Return a random two-layer model in evaluation mode, the same one every time."""
    options = COMMON | SPECIAL.get(architecture, {}) | changes
    config = CONFIG_MAPPING[architecture](**options)
    torch.manual_seed(0)
    # not by `from_config`, which divides the weights once a training under ZeRO 3 ran in this process
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    model.eval()
    return cast(PreTrainedModel, model)
