"""Checks of a pretrained model's weights: its safetensors headers against config.json.

Reads headers only, a few kilobytes a file. The names and shapes are those that transformers gives the
supported architectures. None stands for a size that config.json does not determine.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrope import reading
from longrope.architectures import ARCHITECTURES, Architecture, Width
from longrope.errors import UserError

Size = int | None
TensorShape = tuple[Size, ...]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = ("BF16", "F16", "F32", "F64")
"""safetensors' names of the types that weights may have"""
HEAD = "lm_head.weight"
BUFFERS = re.compile(r"rotary_emb\.inv_freq$|attention\.(masked_)?bias$")
"""names that older versions of transformers saved although they are computed"""
_HEADER_LIMIT = 100_000_000
"""bytes; the format's own limit"""


@dataclass(frozen=True)
class Tensor:
    """Entry of a tensor in a safetensors header."""

    dtype: str
    shape: tuple[int, ...]


def check_weights(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse weights that are missing, cut off, quantised, or not those of the configuration.

    Args:
        folder: of the model.
        config: its config.json, as `longrope.data.model_config.read_config` returns it.

    Raises:
        UserError: naming the file or the tensor.
    """
    kind = _architecture(config)
    saved = {_full_name(name, kind): tensor for name, tensor in read_headers(folder).items()}
    expected = expected_shapes(config)
    _require_layers(folder, config, saved, kind.prefix)
    if config.get("tie_word_embeddings"):
        _untie(expected, saved)
    _require_no_quantised(folder, saved)
    _require_all(folder, expected, saved)
    for name, shape in expected.items():
        _require_shape(folder, name, shape, saved[name].shape)
    _require_no_more(folder, expected, saved)


# Saved tensors --------------------------------------------------------------------------------------


def read_headers(folder: Path) -> dict[str, Tensor]:
    """Return the header entries of the weights that transformers would load, by name of the tensor.

    Raises:
        UserError: if there are no safetensors, shards are missing, or a file is cut off.
    """
    return {
        name: tensor for path in weight_files(folder) for name, tensor in _read_header(path).items()
    }


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers would load; raises as `read_headers` does."""
    if reading.is_file(folder / SINGLE):
        return [folder / SINGLE]
    if reading.is_file(folder / INDEX):
        return _shards(folder)
    others = [path.name for path in reading.entries(folder, "*.safetensors")]
    if others:
        raise UserError(
            f"{folder} has {others[0]}, but neither {SINGLE} nor {INDEX}; fetch the complete model, or "
            "save it with transformers' save_pretrained."
        )
    raise UserError(
        f"{folder} has no *.safetensors; convert the weights, because pickled ones (*.bin, "
        "*.pt) can run code and are never loaded."
    )


def _shards(folder: Path) -> list[Path]:
    path = folder / INDEX
    try:
        names = sorted(set(json.loads(reading.read_text(path))["weight_map"].values()))
        files = [folder / name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path} is not an index of safetensors files; fetch it again.") from None
    foreign = [
        name for name in names if Path(name).name != name or Path(name).suffix != ".safetensors"
    ]
    if foreign or not files:
        raise UserError(
            f"{path} must name *.safetensors files beside it, got {foreign[:1]}; fetch it again."
        )
    missing = [file.name for file in files if not reading.is_file(file)]
    if missing:
        raise UserError(
            f"{folder} lacks {missing[0]}, {len(missing)} of the {len(files)} files that {INDEX} names; "
            "fetch the complete model."
        )
    return files


def _read_header(path: Path) -> dict[str, Tensor]:
    """Return the header of a safetensors file after checking the file's size against it.

    Eight bytes of length, little-endian, then the header in JSON, then the tensors without gaps.
    """
    with reading.named(path), path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        text = file.read(length) if length <= _HEADER_LIMIT else b""
        size = path.stat().st_size
    if start == b"version ":
        raise UserError(f"{path} is a pointer of Git LFS, not the weights; run git lfs pull there.")
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        ends = [entry["data_offsets"][1] for entry in header.values()]
        tensors = {n: Tensor(e["dtype"], tuple(e["shape"])) for n, e in header.items()}
        whole = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise UserError(
            f"{path} is cut off or no safetensors file ({size:,} bytes); fetch the model again."
        ) from None
    if size != whole:
        raise UserError(
            f"{path} has {size:,} bytes where its header asks for {whole:,}; fetch the model again."
        )
    return tensors


# Expected tensors -----------------------------------------------------------------------------------


def expected_shapes(config: Mapping[str, Any]) -> dict[str, TensorShape]:
    """Return name and shape of every tensor of a model, as transformers builds it from a config.json."""
    kind = _architecture(config)
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    shapes: dict[str, TensorShape] = {f"{kind.prefix}{kind.embedding}.weight": (vocabulary, hidden)}
    layer = dict(_layer_shapes(config))
    for index in range(config["num_hidden_layers"]):
        shapes |= {f"{kind.prefix}layers.{index}.{name}": shape for name, shape in layer.items()}
    shapes |= _norm_shapes(kind, f"{kind.prefix}{kind.final_norm}", hidden)
    return shapes | {HEAD: (vocabulary, hidden)}


def _layer_shapes(config: Mapping[str, Any]) -> Iterator[tuple[str, TensorShape]]:
    """Yield name and shape of every tensor of one decoder layer."""
    kind, widths = _architecture(config), _widths(config)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        yield from _norm_shapes(kind, norm, widths["hidden"]).items()
    for matrix in kind.matrices:
        rows = _sum(widths[part] for part in matrix.rows)
        yield f"{matrix.name}.weight", (rows, widths[matrix.columns])
        if config.get(matrix.bias_key, matrix.bias):
            yield f"{matrix.name}.bias", (rows,)
    for norm in kind.head_norms:
        yield from _norm_shapes(kind, norm, _head_width(config)).items()


def _norm_shapes(kind: Architecture, name: str, width: Size) -> dict[str, TensorShape]:
    parts = ("weight", "bias") if kind.norm_bias else ("weight",)
    return {f"{name}.{part}": (width,) for part in parts}


def _widths(config: Mapping[str, Any]) -> dict[Width, Size]:
    heads, width = config["num_attention_heads"], _head_width(config)
    derived = "num_key_value_heads" in config or _architecture(config).key_heads_derived
    key_heads = config.get("num_key_value_heads") or (heads if derived else None)
    return {
        "hidden": config["hidden_size"],
        "inner": config["intermediate_size"],
        "queries": _times(heads, width),
        "keys": _times(key_heads, width),
    }


def _head_width(config: Mapping[str, Any]) -> Size:
    if config.get("head_dim"):
        return int(config["head_dim"])
    if not _architecture(config).head_dim_derived:
        return None
    return int(config["hidden_size"]) // int(config["num_attention_heads"])


def _architecture(config: Mapping[str, Any]) -> Architecture:
    return ARCHITECTURES[config["model_type"]]


def _times(count: Size, width: Size) -> Size:
    return None if count is None or width is None else count * width


def _sum(sizes: Iterable[Size]) -> Size:
    """Return the sum of sizes; None if one of them is."""
    listed = list(sizes)
    return None if None in listed else sum(size or 0 for size in listed)


# Comparison -----------------------------------------------------------------------------------------


def _full_name(name: str, kind: Architecture) -> str:
    """Return a tensor's name in the whole model; a model saved without its head has no prefix."""
    if name in (HEAD, kind.old_head):
        return HEAD
    return name if name.startswith(kind.prefix) else kind.prefix + name


def _untie(expected: dict[str, TensorShape], saved: Mapping[str, Tensor]) -> None:
    """Expect only the saved one of a tied embedding and head; either stands for both."""
    embedding = next(iter(expected))
    if HEAD not in saved:
        del expected[HEAD]
    elif embedding not in saved:
        del expected[embedding]


def _require_layers(
    folder: Path, config: Mapping[str, Any], saved: Mapping[str, Tensor], prefix: str
) -> None:
    """Refuse more layers than config.json states, which transformers silently omits."""
    num_layers = config["num_hidden_layers"]
    numbers = re.compile(re.escape(prefix) + r"layers\.(\d+)\.")
    num_saved = 1 + max((int(m[1]) for name in saved if (m := numbers.match(name))), default=-1)
    if num_saved > num_layers:
        raise UserError(
            f"{folder} holds weights of {num_saved} layers where config.json says num_hidden_layers: "
            f"{num_layers}; correct config.json, or remove the other layers' weights."
        )


def _require_no_quantised(folder: Path, saved: Mapping[str, Tensor]) -> None:
    quantised = [
        name for name, t in saved.items() if t.dtype not in FLOATS and not BUFFERS.search(name)
    ]
    if quantised:
        raise UserError(
            f"{folder} holds quantised weights ({quantised[0]} is {saved[quantised[0]].dtype}), which "
            "cannot be extended; give the folder of the unquantised model."
        )


def _require_all(
    folder: Path, expected: Mapping[str, TensorShape], saved: Mapping[str, Tensor]
) -> None:
    missing = [name for name in expected if name not in saved]
    if missing:
        raise UserError(
            f"{folder} lacks weights ({', '.join(missing[:3])}) that its config.json asks for; fetch the "
            "complete model, or correct config.json."
        )


def _require_shape(folder: Path, name: str, shape: TensorShape, saved: tuple[int, ...]) -> None:
    same = len(shape) == len(saved) and all(
        size is None or size == other for size, other in zip(shape, saved, strict=True)
    )
    if not same:
        asked = ", ".join("any" if size is None else str(size) for size in shape)
        raise UserError(
            f"{folder}: {name} has shape ({', '.join(map(str, saved))}) where config.json asks for "
            f"({asked}); correct config.json, or fetch the model that it belongs to."
        )


def _require_no_more(
    folder: Path, expected: Mapping[str, TensorShape], saved: Mapping[str, Tensor]
) -> None:
    """Refuse weights that transformers would silently omit, such as biases."""
    more = [name for name in saved if name not in expected and not BUFFERS.search(name)]
    if more:
        raise UserError(
            f"{folder} holds weights that its config.json has no place for ({', '.join(more[:3])}); "
            "correct config.json, or remove them."
        )
