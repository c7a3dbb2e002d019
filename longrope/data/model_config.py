"""Checks of a pretrained model's config.json, without torch."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from longrope import reading
from longrope.architectures import ARCHITECTURES
from longrope.errors import UserError

SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size"),
    *("num_hidden_layers", "num_attention_heads"),
)
"""required keys: transformers would assume those of some model of 7B instead"""
OTHER_SIZES = ("num_key_value_heads", "head_dim", "max_position_embeddings")
"""keys that may be absent or null"""
THETAS = ("rope_theta", "rotary_emb_base")
PARTS = ("partial_rotary_factor", "rotary_pct")
"""keys of the rotary base and share; GPT-NeoX has the second"""
DROPPED_ROPE_TYPES = ("dynamic", "linear", "yarn")
"""blocks that users add to an unchanged checkpoint; the others come with weights trained under them"""
QUANTISERS = ("quantization_config", "compression_config", "quantization")
"""keys of config.json that describe how weights were quantised; MLX writes the last"""
QUANTISER_FILES = ("quantize_config.json", "quant_config.json")
"""files in which older GPTQ and AWQ tools describe it"""

Config = Mapping[str, Any]


def check_config(
    folder: Path, *, full_attention: bool = False, rope_scaling: str = "refuse"
) -> dict[str, Any]:
    """Return config.json of a model that can be extended under these settings of `model`.

    Raises:
        UserError: as `read_config`, `require_plain_rope` and `require_full_attention` do.
    """
    config = read_config(folder)
    require_plain_rope(folder, config, rope_scaling)
    require_full_attention(folder, config, full_attention=full_attention)
    return config


def require_extensible(name: str, config: Config) -> None:
    """Refuse a model in memory that cannot be extended, as `check_config` refuses files.

    Args:
        name: of the model, for the message.
        config: of the model, as a mapping.
    """
    _require_architecture(name, config)
    require_plain_rope(name, config, "refuse")
    require_full_attention(name, config, full_attention=False)


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a model whose architecture is supported and whose weights are plain.

    Raises:
        UserError: if the folder holds no model, an adapter, quantised weights or another architecture.
    """
    _require_model(folder)
    config = _read_json(folder / "config.json")
    _require_unquantised(folder, config)
    _require_architecture(folder, config)
    for key in (*SIZES, *OTHER_SIZES):
        if key in SIZES or config.get(key) is not None:
            _require_size(folder, key, config.get(key))
    _require_rotary(folder, config)
    return config


def require_plain_rope(folder: Path | str, config: Config, rope_scaling: str) -> None:
    """Refuse a model that was extended before, unless its rope block may be dropped, and is.

    Args:
        folder: of the model.
        config: its config.json.
        rope_scaling: `refuse` or `drop`, as model.rope_scaling.
    """
    kind = rope_type(config)
    if kind == "default":
        return
    if kind not in DROPPED_ROPE_TYPES:
        raise UserError(
            f"{folder} was extended before (rope_type {kind!r} in config.json), and extending it "
            "again is not supported; start from the model it was extended from."
        )
    if rope_scaling != "drop":
        raise UserError(
            f"{folder} was extended before (rope_type {kind!r} in config.json); start from the model it "
            "was extended from, or, if its weights were never trained under that block, set "
            "model.rope_scaling: drop (--rope-scaling drop)."
        )


def require_full_attention(folder: Path | str, config: Config, *, full_attention: bool) -> None:
    """Refuse a model that attends within a sliding window, unless the window is switched off."""
    window = sliding_window(config)
    if window is not None and not full_attention:
        raise UserError(
            f"{folder} attends within a sliding window of {window} tokens; set full_attention: true "
            "(--full-attention) to switch the window off, or choose a model without one."
        )


def rope_type(config: Config) -> str:
    """Return the type of position embedding that a config.json asks for, `default` for plain RoPE."""
    block = rope_block(config)
    return str(block.get("rope_type") or block.get("type") or "default")


def rope_block(config: Config) -> Config:
    """Return the rope block of config.json; as in transformers, rope_scaling takes precedence."""
    block = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return block if isinstance(block, Mapping) else {}


def sliding_window(config: Config) -> int | None:
    """Return the window that some layer attends within, None if all layers see all tokens before them."""
    kind = ARCHITECTURES.get(config["model_type"])
    window = kind.window if kind else None
    if window is None or (window.by_layer and not _windowed(config)):
        return None
    length = config.get("sliding_window", window.default)
    return length if isinstance(length, int) else None


def pretrained_length(config: Config) -> tuple[str, int] | None:
    """Return the key of config.json that gives the pretraining window, and the window; None if none does."""
    block = rope_block(config)
    windows = {
        "sliding_window": sliding_window(config),
        "original_max_position_embeddings": block.get("original_max_position_embeddings")
        or config.get("original_max_position_embeddings"),
        "max_position_embeddings": config.get("max_position_embeddings"),
    }
    lengths = {key: value for key, value in windows.items() if isinstance(value, int)}
    if "original_max_position_embeddings" in lengths:
        lengths.pop("max_position_embeddings", None)
    return min(lengths.items(), key=lambda item: item[1]) if lengths else None


def length_warning(config: Config, original_length: int) -> str | None:
    """Return a sentence about an original length that is not the window of the pretraining."""
    pretrained = pretrained_length(config)
    if pretrained is None or pretrained[1] == original_length:
        return None
    key, length = pretrained
    # Phi-3 counts only the tokens before each: 2,047 in its config.json are windows of 2,048.
    if key == "sliding_window" and original_length == length + 1:
        return None
    if key == "sliding_window" and original_length > length:
        return (
            f"original_length is {original_length}, but the model was pretrained within a sliding window "
            f"of {length} tokens (sliding_window in config.json): it never attended farther."
        )
    return (
        f"original_length is {original_length}, but config.json says {key}: {length}; factors are "
        f"searched as if the model was pretrained on {original_length} tokens."
    )


def _windowed(config: Config) -> bool:
    """Return whether a model whose layers differ has one that uses its window."""
    if not config.get("use_sliding_window"):
        return False
    layers = config.get("layer_types")
    if layers is not None:
        return "sliding_attention" in layers
    return bool(config["num_hidden_layers"] > config.get("max_window_layers", 28))


def _require_model(folder: Path) -> None:
    """Refuse a folder without config.json, and one that holds an adapter."""
    # Also next to a config.json: with peft installed, transformers would load the adapter's base instead.
    if reading.is_file(folder / "adapter_config.json"):
        base = _read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        raise UserError(
            f"{folder} holds an adapter of {base!r} (adapter_config.json) and no model; merge both with "
            "peft's merge_and_unload, save the result with save_pretrained and give that folder."
        )
    if reading.is_file(folder / "config.json"):
        return
    if reading.entries(folder, "*.gguf"):
        raise UserError(
            f"{folder} holds GGUF files, which cannot be extended; give the folder of the "
            "transformers model that they were made from."
        )
    raise UserError(
        f"{folder} has no config.json; give the folder of a transformers model, or a model of the hub "
        "with a pinned revision (model.hub, --revision)."
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(reading.read_text(path))
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not valid ({reason}); fetch it again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not valid (no mapping of keys); fetch it again.")
    return content


def _require_unquantised(folder: Path, config: Config) -> None:
    key = next((key for key in QUANTISERS if config.get(key)), None)
    if key is not None:
        block = config[key] if isinstance(config[key], Mapping) else {}
        method = block.get("quant_method") or ("MLX" if key == "quantization" else "some method")
        where = f"{key} in config.json"
    else:
        files = [name for name in QUANTISER_FILES if reading.is_file(folder / name)]
        if not files:
            return
        method, where = "GPTQ or AWQ", files[0]
    raise UserError(
        f"{folder} holds weights quantised by {method} ({where}), which cannot be extended; give the "
        "folder of the unquantised model."
    )


def _require_architecture(folder: Path | str, config: Config) -> None:
    if config.get("model_type") in ARCHITECTURES:
        return
    choice = f"choose a model of type {', '.join(ARCHITECTURES)}."
    if "auto_map" in config:
        raise UserError(
            f"{folder} needs code of its own (auto_map in config.json), which is never run; {choice}"
        )
    raise UserError(
        f"{folder} is of type {config.get('model_type')!r}, which is not supported; {choice}"
    )


def _require_size(folder: Path, key: str, size: object) -> None:
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise UserError(
            f"{folder}/config.json is not valid ({key} is {size!r}, not a positive whole number); "
            "fetch it again."
        )


def _require_rotary(folder: Path, config: Config) -> None:
    """Refuse a rotary base that is no number, and heads whose dimensions do not form pairs."""
    for key in THETAS:
        base = _rotary_value(config, key)
        if base is not None and not (_is_number(base) and base > 1):
            raise UserError(
                f"{folder}/config.json is not valid ({key} is {base!r}, not a number above 1); correct it."
            )
    kind = ARCHITECTURES[config["model_type"]]
    if config.get("head_dim") is None and not kind.head_dim_derived:
        return
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    share = next(
        (value for key in PARTS if (value := _rotary_value(config, key)) is not None), None
    )
    share = kind.partial_rotary_factor or 1.0 if share is None else share
    if not (_is_number(share) and 0 < share <= 1):
        raise UserError(
            f"{folder}/config.json is not valid (partial_rotary_factor is {share!r}, not a share of 1); "
            "correct it."
        )
    rotated = int(width * share)
    if rotated % 2 or rotated < 4:
        raise UserError(
            f"{folder}/config.json is not valid (of a head of {width} dimensions {rotated} are rotated, "
            "which is no even number from 4 on); correct head_dim, hidden_size or num_attention_heads."
        )


def _rotary_value(config: Config, key: str) -> Any:
    """Return a value of the rope block, or else of the top level; None if neither has it."""
    return rope_block(config).get(key, config.get(key))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
