"""Model folders of zeros in any supported architecture, written without torch."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from longrope.data.model_config import check_config
from longrope.data.model_weights import check_weights, expected_shapes
from longrope.errors import UserError

SIZES: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "max_position_embeddings": 8,
    "sliding_window": None,
}


def write_checkpoint(folder: Path, model_type: str, **changes: Any) -> dict[str, Any]:
    """Write config.json and one file of weights that fit it; return the config."""
    folder.mkdir(parents=True, exist_ok=True)
    config = SIZES | {"model_type": model_type} | changes
    (folder / "config.json").write_text(json.dumps(config))
    write_weights(folder / "model.safetensors", expected_shapes(config))
    return config


def write_weights(path: Path, shapes: Mapping[str, Any], dtype: str = "F16") -> None:
    """Write zeros of two bytes each in the safetensors format."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def refusal(folder: Path, **settings: object) -> str:
    """Return the sentence with which planning refuses a folder."""
    with pytest.raises(UserError) as caught:
        check_weights(folder, check_config(folder, **settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(folder: Path, **changes: object) -> None:
    """Change keys of a folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
