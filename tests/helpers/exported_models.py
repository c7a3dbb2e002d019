"""Folders of tiny models with a tokenizer, and factors for them, to be exported."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from characters import character_tokenizer
from tiny_models import ORIGINAL_LENGTH, build
from transformers import PreTrainedModel

import longrope
from longrope import FactorTable, RopeFactors

TARGET_LENGTH = 256
SHARED_SCALE = 1.25
"""attention scale of the long set; that of the short one is 1"""


def write_model(folder: Path, architecture: str = "llama", **changes: Any) -> PreTrainedModel:
    """Write a tiny model with a token per character; return it."""
    model = build(architecture, **changes)
    model.save_pretrained(folder)
    character_tokenizer(count=97).save(str(folder / "tokenizer.json"))
    return model


def table_for(model: PreTrainedModel, **changes: Any) -> FactorTable:
    """Return a table of a short and a long set, the latter with changes."""
    geometry = longrope.geometry(model)
    long = longrope.closed_form("ntk", geometry, TARGET_LENGTH).model_copy(
        update={"attention_scale": SHARED_SCALE, "method": "longrope", **changes}
    )
    short = long.model_copy(
        update={
            "factors": tuple(np.linspace(1.0, 1.5, geometry.num_pairs).tolist()),
            "attention_scale": 1.0,
            "num_start_tokens": 0,
            "target_length": ORIGINAL_LENGTH,
        }
    )
    return FactorTable(entries=(short, long))


def formula_scale() -> float:
    """Return the attention scale that transformers derives: sqrt(1 + ln 4 / ln 64) = sqrt(4 / 3)."""
    return math.sqrt(4 / 3)


def loaded(folder: Path) -> Any:
    """Return a model as a user of transformers loads it."""
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    return loader.from_pretrained(folder, trust_remote_code=False).eval()


def single(factors: RopeFactors) -> FactorTable:
    """Return a table of one entry."""
    return FactorTable(entries=(factors,))
