"""Loading of pretrained models and tokenizers: local files and safetensors only, no remote code."""

from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from longrope.architectures import ARCHITECTURES
from longrope.data.model_config import check_config, pretrained_length
from longrope.data.model_weights import check_weights
from longrope.data.special_ids import named_tokens
from longrope.data.tokenizers import load_encoder
from longrope.errors import UserError
from longrope.rope.methods import Geometry
from longrope.settings.nodes import ModelUse

RUN_KEYS = (
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("output_attentions", "output_hidden_states", "return_dict", "use_return_dict"),
)
"""keys of config.json on how to run a model, not what it is; they are ignored"""


_LOADING_ERRORS = (
    *(OSError, ValueError, ImportError, RuntimeError),
    *(AssertionError, TypeError, SafetensorError),
)
"""errors of transformers for files that do not fit each other"""


def load_model(
    folder: Path | str, *, dtype: str, full_attention: bool = False, rope_scaling: str = "refuse"
) -> PreTrainedModel:
    """Return a model in evaluation mode, on the CPU, with gradients left on.

    Args:
        folder: holds config.json and *.safetensors.
        dtype: name of a torch dtype, such as `float32` or `bfloat16`.
        full_attention: switch a sliding window off, so that every token sees all before it.
        rope_scaling: `drop` to leave out a linear, dynamic or yarn block of config.json.

    Raises:
        UserError: if files are missing or cut off, weights are quantised or do not fit config.json, or the
            architecture, its position embedding or its sliding window is not supported; the sentence
            says what to do.
    """
    folder = Path(folder)
    changes: dict[str, Any] = {"full_attention": full_attention, "rope_scaling": rope_scaling}
    content = check_config(folder, **changes)
    config = _configuration(folder, content, **changes)
    check_weights(folder, content)
    model: PreTrainedModel = _read_weights(folder, config, getattr(torch, dtype)).eval()
    return model


def load_config(folder: Path, *, full_attention: bool, rope_scaling: str = "refuse") -> Any:
    """Return the configuration of a model, without weights; arguments and errors as of `load_model`."""
    changes: dict[str, Any] = {"full_attention": full_attention, "rope_scaling": rope_scaling}
    return _configuration(folder, check_config(folder, **changes), **changes)


def _configuration(
    folder: Path, content: dict[str, Any], *, full_attention: bool, rope_scaling: str
) -> Any:
    """Return the configuration that a checked config.json describes."""
    content = {key: value for key, value in content.items() if key not in RUN_KEYS}
    if rope_scaling == "drop":
        content = _without_rope_scaling(content)
    try:
        config = CONFIG_MAPPING[content["model_type"]].from_dict(content)
    except (
        Exception
    ) as error:  # transformers validates by types of its own, its libraries' among them
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}/config.json is not valid ({reason}); fetch it again.") from None
    if full_attention:
        _switch_window_off(config)
    return config


class ConfigChanges(TypedDict):
    """Changes of a model's configuration, as arguments of `load_model`."""

    full_attention: bool
    rope_scaling: str


def config_changes(use: ModelUse) -> ConfigChanges:
    """Return the changes of a model's configuration that the settings of a stage ask for."""
    return {"full_attention": use.full_attention, "rope_scaling": use.rope_scaling}


def load_geometry(
    folder: Path, original_length: int, *, full_attention: bool, rope_scaling: str = "refuse"
) -> Geometry:
    """Return the geometry of a model's rotary embedding without reading weights.

    Arguments and errors are those of `load_model` and `geometry`, but that no weights are checked.
    """
    config = load_config(folder, full_attention=full_attention, rope_scaling=rope_scaling)
    loader: Any = AutoModelForCausalLM
    with torch.device("meta"):
        return geometry(loader.from_config(config), original_length)


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model folder as transformers wraps it; its ids are those of `load_encoder`.

    AutoTokenizer may build another one from the same folder, which treats a first space or a special
    token's text differently.

    Raises:
        UserError: if the folder has no tokenizer.json that can be read.
    """
    folder = Path(folder)
    named = {f"{role}_token": text for role, (text, _) in named_tokens(folder).items()}
    tokenizer: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerBase = tokenizer(
        tokenizer_object=load_encoder(folder), split_special_tokens=True, **named
    )
    return wrapped


def geometry(model: PreTrainedModel, original_length: int | None = None) -> Geometry:
    """Return the geometry of a model's rotary embedding, partial rotary dimensions included.

    Args:
        model: as `load_model` returns it; an installed LongRopeRotary changes nothing.
        original_length: context window of the pretrained model, tokens; None: that of its config.

    Raises:
        UserError: if the model has not one rotary embedding for all its layers, or its config lacks its
            window.
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
        original_length=original_length or _window(model),
        partial_rotary_factor=float(parameters.get("partial_rotary_factor") or 1.0),
        hidden_size=int(model.config.hidden_size),
    )


def _window(model: PreTrainedModel) -> int:
    pretrained = pretrained_length(model.config.to_dict())
    if pretrained is None:
        raise UserError(
            "the model's config does not tell max_position_embeddings; give original_length."
        )
    return pretrained[1]


def pick_device() -> torch.device:
    """Return the first CUDA device, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
    except _LOADING_ERRORS as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder} could not be read ({reason}); fetch the model again.") from None
    # transformers fills missing weights with random numbers and only logs it
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise UserError(f"{folder} lacks weights ({missing}); fetch the complete model.")
    return model


def _without_rope_scaling(content: dict[str, Any]) -> dict[str, Any]:
    """Return a config.json whose position embedding is plain RoPE of the same base and dimensions."""
    plain = {"rope_type": "default"}
    for key in ("rope_scaling", "rope_parameters"):
        block = content.get(key) or {}
        for name in ("rope_theta", "partial_rotary_factor"):
            if name in block:
                plain[name] = block[name]
    rest = {name: value for name, value in content.items() if name != "rope_scaling"}
    return rest | {"rope_parameters": plain}


def _switch_window_off(config: Any) -> None:
    """Switch a sliding window off before the layers that read it are built."""
    config.sliding_window = None
    layer_types = getattr(config, "layer_types", None) or []
    if layer_types:
        config.layer_types = ["full_attention"] * len(layer_types)
