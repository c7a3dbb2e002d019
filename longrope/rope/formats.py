"""Factors in files of several formats: our own, the public code's CSV, a Hugging Face config.

The caller states what a file omits; what a format cannot hold is returned in words.
To add a format, write its reader and its writer and their row in FORMATS.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from longrope.errors import UserError, validated
from longrope.rope import huggingface
from longrope.rope.factors import FactorTable, RopeFactors, first_fall
from longrope.rope.stated import Fields, StatedFacts

HYPER_PARAMETERS = frozenset(
    {
        *("evo_scale", "list_step", "population_size", "max_time_budget"),
        *("mutation_numbers", "crossover_size", "parents_size"),
    }
)
"""keys of a hyper-parameter file of the public code, which holds no factors"""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The factors of a file, with notes on them."""

    factors: RopeFactors
    format_name: str
    """a key of FORMATS"""
    notes: tuple[str, ...]
    """sentences: what was left out or assumed, and factors that fall"""


Reader = Callable[[Path, str, StatedFacts], tuple[Fields, list[str]]]
Writer = Callable[[RopeFactors, RopeFactors | None], tuple[str, list[str]]]

OPTIONS = {
    "original_length": "--original-length",
    "target_length": "--target-length",
    "num_start_tokens": "--start-tokens",
    "attention_scale": "--attention-scale",
    "rope_theta": "--theta",
    "partial_rotary_factor": "--partial-rotary-factor",
}
"""Field -> option of the command line, in the order in which they are asked for."""
DEFAULTS = {"num_start_tokens": 0, "attention_scale": 1.0}
OPTIONAL = ("rope_theta", "partial_rotary_factor")
"""fields that may stay unknown"""
SUFFIXES = {".csv": "csv", ".txt": "csv", ".json": "longrope"}


def read(path: Path, format_name: str | None = None, stated: StatedFacts | None = None) -> Loaded:
    """Read the factors of a file, in a format of FORMATS or the one that its contents suggest.

    Raises:
        UserError: if the file is missing, is not of that format, or omits a field that is not stated.
    """
    stated = stated or StatedFacts()
    text = _text(path)
    name = format_name or _guess(path, text)
    parsed, notes = FORMATS[name].read(path, text, stated)
    fields, more_notes = _complete(path, parsed, stated)
    foreign = {"method": "longrope", "provenance": {"converted_from": path.name}}
    factors = _checked(path, foreign | fields)
    return Loaded(
        factors=factors,
        format_name=name,
        notes=(*notes, *more_notes, *_falls(path, factors.factors)),
    )


def read_table(folder: Path, stated: StatedFacts | None = None) -> tuple[FactorTable, list[str]]:
    """Read both sets of a published model as a table, with notes; equal sets are one entry.

    Args:
        folder: of the model, or its config.json.
        stated: facts that the config omits.

    Raises:
        UserError: if there is no config with factors, or it omits a fact that is not stated.
    """
    path = folder / "config.json" if folder.is_dir() else folder
    stated = stated or StatedFacts()
    long = read(path, "huggingface", stated)
    short = read(path, "huggingface", replace(stated, short=True, target_length=None))
    origin = {"provenance": {"imported_from": path.resolve().parent.name}}
    near, far = (loaded.factors.model_copy(update=origin) for loaded in (short, long))
    notes = dict.fromkeys((*long.notes, *short.notes))
    notes.pop(f"{path}: {huggingface.LEFT_OUT}", None)
    alike = near.identity() == far.identity()
    return FactorTable(entries=(far,) if alike else (near, far)), [*notes]


def write(
    path: Path, factors: RopeFactors, format_name: str, short: RopeFactors | None = None
) -> list[str]:
    """Write factors, replacing an existing file; return in words what the format cannot hold.

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
    """Return the output format that a file's suffix implies.

    Raises:
        UserError: if the suffix implies none.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: the suffix tells no format; give --to, one of {_names()}.")
    return SUFFIXES[path.suffix]


# All formats --------------------------------------------------------------------------------------


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
    if content.keys() >= HYPER_PARAMETERS:
        raise UserError(
            f"{path} holds settings of a search and no factors; `longrope factors convert` makes them the "
            "search block of a configuration."
        )
    if content.keys() & {"factors", "entries"}:
        return "longrope"
    if content.keys() & {"rope_parameters", "rope_scaling", "long_factor"}:
        return "huggingface"
    raise UserError(f"{path} holds no factors in a known format ({_names()}); give another file.")


def _object(path: Path, text: str) -> dict[str, object]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object; name its format with --from ({_names()}).")
    return content


def _complete(path: Path, parsed: Fields, stated: StatedFacts) -> tuple[Fields, list[str]]:
    """Return all fields and notes: a parsed field precedes a stated one, which precedes a default."""
    fields, notes, assumed = dict(parsed), [], []
    for name, option in OPTIONS.items():
        value, words = getattr(stated, name), name.removeprefix("num_").replace("_", " ")
        if name in parsed and value not in (None, parsed[name]):
            notes.append(
                f"{path} says {words} {parsed[name]:.10g}; {option} {value:.10g} is not used"
            )
        elif name not in parsed and value is not None:
            fields[name] = value
        elif name not in parsed and name in DEFAULTS:
            fields[name] = DEFAULTS[name]
            assumed.append(f"{words} ({DEFAULTS[name]:g} is assumed)")
        elif name not in parsed and name not in OPTIONAL:
            raise UserError(f"{path} does not say its {words}; give {option}.")
    return fields, notes + [f"{path} does not say its {', '.join(assumed)}"] * bool(assumed)


def _checked(path: Path, fields: Fields) -> RopeFactors:
    return validated(RopeFactors, fields, source=str(path))


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


# Our format ---------------------------------------------------------------------------------------


def _read_longrope(path: Path, text: str, stated: StatedFacts) -> tuple[Fields, list[str]]:
    if "entries" in _object(path, text):
        chosen = _entry(path, FactorTable.parse(text, path), stated.target_length)
    else:
        chosen = RopeFactors.parse(text, path)
    return chosen.model_dump(exclude_none=True), []


def _entry(path: Path, table: FactorTable, target_length: int | None) -> RopeFactors:
    by_length = {entry.target_length: entry for entry in table.entries}
    if target_length not in by_length:
        lengths = ", ".join(map(str, by_length))
        raise UserError(f"{path} is a table; choose a length of {lengths} with --target-length.")
    return by_length[target_length]


def _longrope_text(factors: RopeFactors, short: RopeFactors | None) -> tuple[str, list[str]]:
    del short
    return factors.text(), []


# The CSV of the public code -----------------------------------------------------------------------


def _read_csv(path: Path, text: str, stated: StatedFacts) -> tuple[Fields, list[str]]:
    """Read one number a line, or one line per layer with all factors, which must be equal."""
    del stated
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
    lost += [
        f"{name.replace('_', ' ')} ({value:g})"
        for name in (*OPTIONAL, "hidden_size")
        if (value := getattr(factors, name)) is not None
    ]
    return "".join(f"{factor!r}\n" for factor in factors.factors), lost + factors.origin()


# Hugging Face -------------------------------------------------------------------------------------


def _read_config(path: Path, text: str, stated: StatedFacts) -> tuple[Fields, list[str]]:
    return huggingface.read_config(path, _object(path, text), stated)


@dataclass(frozen=True, kw_only=True)
class Format:
    """Reader and writer of one format."""

    read: Reader
    write: Writer


FORMATS = {
    "longrope": Format(read=_read_longrope, write=_longrope_text),
    "csv": Format(read=_read_csv, write=_csv_text),
    "huggingface": Format(read=_read_config, write=huggingface.block_text),
}
