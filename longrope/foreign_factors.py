"""Factors in files of several formats: our own, the public code's CSV, a Hugging Face config.

What a file does not say is asked of the caller; what a format cannot say is returned in words.
To add a format, write its reader and its writer and their row in FORMATS.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from longrope import hyper_parameters
from longrope.errors import UserError
from longrope.factors import FactorTable, RopeFactors, first_fall
from longrope.methods import su_attention_scale

Fields = dict[str, Any]
"""Some of the fields of RopeFactors."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the caller says of a file; used where the file does not say it itself."""

    original_length: int | None = None
    target_length: int | None = None
    """of a table of several lengths, which one is meant"""
    num_start_tokens: int | None = None
    attention_scale: float | None = None
    short: bool = False
    """of a Hugging Face config, the set that is used up to the original length"""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The factors of a file, and what is to be said of them."""

    factors: RopeFactors
    format_name: str
    """a key of FORMATS"""
    notes: tuple[str, ...]
    """sentences: what was left out or assumed, and factors that fall"""


Reader = Callable[[Path, str, Told], tuple[Fields, list[str]]]
Writer = Callable[[RopeFactors, RopeFactors | None], tuple[str, list[str]]]

OPTIONS = {
    "original_length": "--original-length",
    "target_length": "--target-length",
    "num_start_tokens": "--start-tokens",
    "attention_scale": "--attention-scale",
}
"""Field -> option of the command line, in the order in which they are asked for."""
DEFAULTS = {"num_start_tokens": 0, "attention_scale": 1.0}
SUFFIXES = {".csv": "csv", ".txt": "csv", ".json": "longrope"}


def read(path: Path, format_name: str | None = None, told: Told | None = None) -> Loaded:
    """Read the factors of a file, in a format of FORMATS or the one that its contents tell.

    Raises:
        UserError: if the file is missing, is not of that format, or leaves out what nobody told.
    """
    told = told or Told()
    text = _text(path)
    name = format_name or _guess(path, text)
    said, notes = FORMATS[name].read(path, text, told)
    fields, more = _complete(path, said, told)
    foreign = {"method": "longrope", "provenance": {"converted_from": path.name}}
    factors = _checked(path, foreign | fields)
    return Loaded(
        factors=factors, format_name=name, notes=(*notes, *more, *_falls(path, factors.factors))
    )


def write(
    path: Path, factors: RopeFactors, format_name: str, short: RopeFactors | None = None
) -> list[str]:
    """Write factors, over a file that is there; return in words what the format cannot hold.

    A Hugging Face config also holds a short set, which is used up to the original length.

    Raises:
        UserError: if the format has no place for these factors, or the file cannot be written.
    """
    if short is not None and format_name != "huggingface":
        raise UserError(f"{path}: only huggingface holds a short set; leave out --short.")
    try:
        text, lost = FORMATS[format_name].write(factors, short)
        path.write_text(text, encoding="utf-8")
    except ValueError as error:
        raise UserError(f"{path}: {error}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None
    return lost


def format_of(path: Path) -> str:
    """Return the format that a file to be written has by its suffix.

    Raises:
        UserError: if the suffix says nothing.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: the suffix tells no format; give --to, one of {_names()}.")
    return SUFFIXES[path.suffix]


# What all formats share ---------------------------------------------------------------------------


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text; give a file of factors.") from None


def _names() -> str:
    return ", ".join(FORMATS)


def _guess(path: Path, text: str) -> str:
    if path.suffix != ".json" and not text.lstrip().startswith("{"):
        return "csv"
    content = _object(path, text)
    if content.keys() >= hyper_parameters.REQUIRED:
        raise UserError(
            f"{path} holds settings of a search and no factors; `longrope factors convert` makes them the "
            "search block of a configuration."
        )
    if content.keys() & {"factors", "entries"}:
        return "longrope"
    if content.keys() & {"rope_parameters", "rope_scaling", "long_factor"}:
        return "huggingface"
    raise UserError(f"{path} holds no factors in a known format ({_names()}); give another file.")


def _object(path: Path, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object; name its format with --from ({_names()}).")
    return content


def _complete(path: Path, said: Fields, told: Told) -> tuple[Fields, list[str]]:
    """Return all fields and what to say: the file's own win, what nobody says has a default."""
    fields, notes, assumed = dict(said), [], []
    for name, option in OPTIONS.items():
        value, words = getattr(told, name), name.removeprefix("num_").replace("_", " ")
        if name in said and value not in (None, said[name]):
            notes.append(f"{path} says {words} {said[name]:g}; {option} {value:g} is not used")
        elif name not in said and value is not None:
            fields[name] = value
        elif name not in said and name in DEFAULTS:
            fields[name] = DEFAULTS[name]
            assumed.append(f"{words} ({DEFAULTS[name]:g} is assumed)")
        elif name not in said:
            raise UserError(f"{path} does not say its {words}; give {option}.")
    return fields, notes + [f"{path} does not say its {', '.join(assumed)}"] * bool(assumed)


def _checked(path: Path, fields: Fields) -> RopeFactors:
    try:
        return RopeFactors.model_validate(fields)
    except ValidationError as error:
        raise UserError(f"{path}: {_first(error)}.") from None


def _first(error: ValidationError) -> str:
    """Return the first thing that is wrong, in one line."""
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: ".removeprefix(": ") + problem["msg"].removeprefix("Value error, ")


def _falls(path: Path, factors: tuple[float, ...]) -> list[str]:
    """Return a sentence on the first pair that is scaled less than the faster one before it."""
    pair = first_fall(factors)
    if pair is None:
        return []
    before, after = factors[pair - 1], factors[pair]
    return [
        f"{path}: the factors fall, first from {before:g} at pair {pair - 1} to {after:g} at pair "
        f"{pair}; they are kept as they are"
    ]


# Our own ------------------------------------------------------------------------------------------


def _read_own(path: Path, text: str, told: Told) -> tuple[Fields, list[str]]:
    try:
        if "entries" in _object(path, text):
            chosen = _entry(path, FactorTable.model_validate_json(text), told.target_length)
        else:
            chosen = RopeFactors.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{path} is not a factors file: {_first(error)}.") from None
    return chosen.model_dump(), []


def _entry(path: Path, table: FactorTable, target_length: int | None) -> RopeFactors:
    by_length = {entry.target_length: entry for entry in table.entries}
    if target_length not in by_length:
        lengths = ", ".join(map(str, by_length))
        raise UserError(f"{path} is a table; choose a length of {lengths} with --target-length.")
    return by_length[target_length]


def _own_text(factors: RopeFactors, short: RopeFactors | None) -> tuple[str, list[str]]:
    del short
    return json.dumps(factors.model_dump(), indent=1) + "\n", []


# The CSV of the public code -----------------------------------------------------------------------


def _read_csv(path: Path, text: str, told: Told) -> tuple[Fields, list[str]]:
    """Read one number a line, or one line per layer with all factors, which must be equal."""
    del told
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    rows = [_row(path, number, line) for number, line in lines]
    if not rows:
        raise UserError(f"{path} is empty; give a file with one factor a line.")
    if all(len(row) == 1 for row in rows):
        return {"factors": [row[0] for row in rows]}, []
    for (number, _), row in zip(lines, rows, strict=True):
        if row != rows[0]:
            raise UserError(
                f"{path}, line {number}: other factors than in the first line, and longrope has one "
                "set for all layers; give one factor a line."
            )
    return {"factors": rows[0]}, []


def _row(path: Path, number: int, line: str) -> list[float]:
    words = re.split(r"[,\s]+", line.strip(", \t\ufeff"))
    try:
        return [float(word) for word in words]
    except ValueError:
        raise UserError(
            f"{path}, line {number}: {line.strip()[:40]!r} is not made of numbers; give one factor a line."
        ) from None


def _csv_text(factors: RopeFactors, short: RopeFactors | None) -> tuple[str, list[str]]:
    del short
    lost = [f"lengths ({factors.original_length} to {factors.target_length})"]
    if factors.num_start_tokens:
        lost.append(f"start tokens ({factors.num_start_tokens})")
    if factors.attention_scale != 1:
        lost.append(f"attention scale ({factors.attention_scale:g})")
    return "".join(f"{factor!r}\n" for factor in factors.factors), lost + _origin(factors)


def _origin(factors: RopeFactors) -> list[str]:
    """Return what says where factors come from, and only our own format holds."""
    method = [] if factors.method == "longrope" else [f"method ({factors.method})"]
    return method + [f"provenance ({', '.join(factors.provenance)})"] * bool(factors.provenance)


# Hugging Face -------------------------------------------------------------------------------------


def _read_config(path: Path, text: str, told: Told) -> tuple[Fields, list[str]]:
    """Read a config.json or the block of type longrope in it.

    What it leaves out is what transformers takes: `_compute_longrope_parameters` of its
    modeling_rope_utils. There are no start tokens in such a model.
    """
    config = _object(path, text)
    block = _block(path, config)
    key = "original_max_position_embeddings"
    original = config.get(key) or block.get(key) or told.original_length
    if original is None:
        raise UserError(f"{path} does not say its original length; give --original-length.")
    fields, notes = _lengths(path, config.get("max_position_embeddings"), block, original, told)
    long, short = (_set(path, block, name) for name in ("long_factor", "short_factor"))
    if not told.short:
        left = [f"{path}: its short_factor is left out; --short-set reads it"]
        return fields | {"factors": long}, notes + left * any(factor != 1 for factor in short)
    return fields | {"factors": short, "target_length": original}, notes


def _block(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the block with the factors: a config's, or the file itself."""
    candidates = (config, config.get("rope_parameters"), config.get("rope_scaling"))
    blocks = [block for block in candidates if isinstance(block, dict) and "long_factor" in block]
    if not blocks:
        raise UserError(f"{path} has no block of rope_type longrope; give a config that has one.")
    kind = blocks[0].get("rope_type", blocks[0].get("type"))
    # "su" is what Phi-3's first configs called it
    if kind not in ("longrope", "su"):
        raise UserError(f"{path}: rope_type is {kind}; only longrope has a factor per pair.")
    return blocks[0]


def _lengths(
    path: Path, maximum: Any, block: dict[str, Any], original: Any, told: Told
) -> tuple[Fields, list[str]]:
    """Return all but the factors, as far as a config tells it."""
    fields = {"original_length": original, "num_start_tokens": told.num_start_tokens or 0}
    try:
        scale = block.get("factor") or (maximum or told.target_length or math.nan) / original
        if math.isnan(scale):
            return fields, []
        attention = block.get("attention_factor") or block.get("long_mscale")
        fields["attention_scale"] = attention or su_attention_scale(scale, original)
        fields["target_length"] = length = round(scale * original)
    except (TypeError, ValueError, ArithmeticError):
        raise UserError(f"{path}: its lengths and its factor must be positive numbers.") from None
    note = f"{path}: factor times original length, {length}, is used, not max_position_embeddings"
    return fields, [f"{note} ({maximum})"] * (maximum not in (None, length))


def _set(path: Path, block: dict[str, Any], key: str) -> list[float]:
    values = block.get(key)
    if not isinstance(values, list) or any(type(value) not in (int, float) for value in values):
        raise UserError(f"{path}: {key} must be a list of numbers; repair it.")
    return values


def _block_text(factors: RopeFactors, short: RopeFactors | None) -> tuple[str, list[str]]:
    if factors.scale <= 1:
        raise ValueError(
            f"factors for {factors.target_length} tokens, within the original "
            f"{factors.original_length}, are no long set; give them as --short"
        )
    near = short.factors if short else (1.0,) * len(factors.factors)
    if len(near) != len(factors.factors):
        raise ValueError(f"--short has {len(near)} factors, not {len(factors.factors)}")
    block = {
        "rope_type": "longrope",
        "short_factor": list(near),
        "long_factor": list(factors.factors),
        "factor": factors.scale,
        "attention_factor": factors.attention_scale,
        "original_max_position_embeddings": factors.original_length,
    }
    return json.dumps(block, indent=1) + "\n", _lost_in_block(factors, short)


def _lost_in_block(factors: RopeFactors, short: RopeFactors | None) -> list[str]:
    sets = [factors] if short is None else [factors, short]
    starts = [str(each.num_start_tokens) for each in sets if each.num_start_tokens]
    lost = [f"start tokens ({' and '.join(starts)})"] * bool(starts)
    near, far = sets[-1].attention_scale if short else 1.0, factors.attention_scale
    if near != far:
        words = f"an attention scale of {near:g} up to the original length"
        lost.append(f"{words} (it is {far:g} at all lengths)")
    return lost + _origin(factors)


@dataclass(frozen=True, kw_only=True)
class Format:
    """How one format is read and written."""

    read: Reader
    write: Writer


FORMATS = {
    "longrope": Format(read=_read_own, write=_own_text),
    "csv": Format(read=_read_csv, write=_csv_text),
    "huggingface": Format(read=_read_config, write=_block_text),
}
