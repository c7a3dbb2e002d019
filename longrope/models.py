"""Loading of pretrained models and tokenizers: local files and safetensors only, no code of theirs.

To support another architecture, check that it embeds, normalises and projects its hidden states as
the others do (no multipliers around them, see `longrope.scoring`), add its name to ARCHITECTURES
and a tiny configuration of it to the tests.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from longrope.errors import UserError
from longrope.methods import Geometry

ARCHITECTURES = ("gpt_neox", "llama", "mistral", "phi3", "qwen2", "qwen3")
"""transformers' `model_type` of every supported architecture"""


def load_model(folder: Path, *, dtype: str, full_attention: bool = False) -> PreTrainedModel:
    """Return a model in evaluation mode, on the CPU, with gradients left on.

    Args:
        folder: holds config.json and *.safetensors.
        dtype: name of a torch dtype, such as `float32` or `bfloat16`.
        full_attention: switch a sliding window off, so that every token sees all before it.

    Raises:
        UserError: if files are missing, or the architecture, its position embedding or its sliding
            window is not supported; the sentence says what to do.
    """
    config = load_config(folder, full_attention=full_attention)
    model: PreTrainedModel = _read_weights(folder, config, getattr(torch, dtype)).eval()
    return model


def load_config(folder: Path, *, full_attention: bool) -> Any:
    """Return the configuration of a model, without weights; errors are those of `load_model`."""
    config = _read_config(folder)
    _require_safetensors(folder)
    _require_plain_rope(config, folder)
    _settle_window(config, folder, full_attention=full_attention)
    return config


def load_geometry(folder: Path, original_length: int, *, full_attention: bool) -> Geometry:
    """Return the geometry of a model's rotary embedding without reading weights.

    Arguments and errors are those of `load_model` and `geometry`, but that no weights are checked.
    """
    config = load_config(folder, full_attention=full_attention)
    loader: Any = AutoModelForCausalLM
    with torch.device("meta"):
        return geometry(loader.from_config(config), original_length)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model folder.

    Raises:
        UserError: if the folder holds none that transformers can load without running code.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"no tokenizer could be loaded from {folder} ({reason}); put the model's "
            "tokenizer.json and tokenizer_config.json there."
        ) from None
    return tokenizer


def geometry(model: PreTrainedModel, original_length: int) -> Geometry:
    """Return the geometry of a model's rotary embedding, partial rotary dimensions included.

    Args:
        model: as `load_model` returns it; an installed LongRopeRotary changes nothing.
        original_length: context window of the pretrained model, tokens.

    Raises:
        UserError: if the model has not one rotary embedding for all its layers.
    """
    rotary: Any = getattr(model.base_model, "rotary_emb", None)
    if not isinstance(getattr(rotary, "inv_freq", None), torch.Tensor):
        raise UserError(
            f"{type(model).__name__} does not have one rotary embedding for all layers; choose a "
            f"model of type {', '.join(ARCHITECTURES)}."
        )
    parameters = model.config.rope_parameters
    return Geometry(
        num_pairs=rotary.inv_freq.numel(),
        rope_theta=float(parameters["rope_theta"]),
        original_length=original_length,
        partial_rotary_factor=float(parameters.get("partial_rotary_factor") or 1.0),
    )


def pick_device() -> torch.device:
    """Return the first CUDA device, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _read_config(folder: Path) -> Any:
    """Return the configuration of a model whose architecture is supported."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json; give the folder of a transformers model.")
    try:
        raw, _ = PreTrainedConfig.get_config_dict(folder, local_files_only=True)
        if raw.get("model_type") in ARCHITECTURES:
            return AutoConfig.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}/config.json is not valid ({reason}); fetch it again.") from None
    if "auto_map" in raw:
        raise UserError(
            f"{folder} needs code of its own (auto_map in config.json), which is never run; choose "
            f"a model of type {', '.join(ARCHITECTURES)}."
        )
    raise UserError(
        f"{folder} is of type {raw.get('model_type')!r}, which is not supported; choose a model of "
        f"type {', '.join(ARCHITECTURES)}."
    )


def _require_safetensors(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder} has no *.safetensors; convert the weights, because pickled ones (*.bin, "
            "*.pt) can run code and are never loaded."
        )


def _read_weights(folder: Path, config: Any, dtype: torch.dtype) -> Any:
    """Return the model of a configuration with all its weights from safetensors."""
    loader: Any = AutoModelForCausalLM
    try:
        model, loading = loader.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder} could not be read ({reason}); fetch the model again.") from None
    # transformers fills missing weights with random numbers and only logs it
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise UserError(f"{folder} lacks weights ({missing}); fetch the complete model.")
    return model


def _require_plain_rope(config: Any, folder: Path) -> None:
    kind = config.rope_parameters.get("rope_type", "default")
    if kind != "default":
        raise UserError(
            f"{folder} was extended before (rope_type {kind!r} in config.json), and extending it "
            "again is not supported; start from the model it was extended from."
        )


def _settle_window(config: Any, folder: Path, *, full_attention: bool) -> None:
    """Refuse a sliding window, or switch it off before the layers that read it are built."""
    layer_types = getattr(config, "layer_types", None) or []
    window = getattr(config, "sliding_window", None)
    # Qwen configurations carry a window that only layers of the type sliding_attention use
    is_windowed = "sliding_attention" in layer_types if layer_types else window is not None
    if is_windowed and not full_attention:
        raise UserError(
            f"{folder} attends within a sliding window of {window} tokens; set full_attention: "
            "true to switch the window off, or choose a model without one."
        )
    if full_attention:
        config.sliding_window = None
        if layer_types:
            config.layer_types = ["full_attention"] * len(layer_types)
