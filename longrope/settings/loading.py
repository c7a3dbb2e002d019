"""Reading a configuration file, and explaining in one sentence what is wrong with it."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from longrope.errors import UserError
from longrope.settings.config import Config

M = TypeVar("M", bound=BaseModel)


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a configuration file.

    Args:
        path: of the YAML file.
        overrides: `key=value`, laid over the file as Snakemake lays its --config over it.

    Raises:
        UserError: naming the file and the first wrong key, with a suggestion for a misspelt one.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"configuration {path} does not exist; give a YAML file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise UserError(f"configuration {path} is not valid YAML: {where}.") from None
    if overrides and isinstance(raw, dict):
        raw = _laid_over(raw, parse_overrides(overrides))
        return parse(raw, source=f"{path} with --config")
    return parse(raw, source=str(path))


def parse(raw: object, *, source: str) -> Config:
    """Return the checked settings of a mapping read from `source`; raises as `load` does."""
    if not isinstance(raw, dict):
        raise UserError(f"{source} must be a mapping of settings, got {type(raw).__name__}.")
    return validated(Config, raw, source=source)


def validated(model: type[M], raw: object, *, source: str) -> M:
    """Return checked settings of some type.

    Raises:
        UserError: naming the source and the first wrong key.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error)}") from None


# Overrides ----------------------------------------------------------------------------------------


_KEY = re.compile(r"[a-zA-Z_][\w-]*\w")


def parse_overrides(entries: Sequence[str]) -> dict[str, Any]:
    """Return the settings of `key=value` texts; a value is read as Snakemake reads it.

    It is an integer, a number, True or False, or else YAML, such as `search={num_documents: 2}`, whose
    scalars are texts: the settings read them.

    Raises:
        UserError: if a text is not of that form.
    """
    settings: dict[str, Any] = {}
    for entry in entries:
        key, sign, value = entry.partition("=")
        if not sign or not _KEY.fullmatch(key):
            raise UserError(f"--config takes settings as key=value, got {entry!r}.")
        settings = _laid_over(settings, {key: _value(value.strip("'\""))})
    return settings


def _value(text: str) -> Any:
    if not text:
        return None
    readers: tuple[Callable[[str], Any], ...] = (int, float, _TRUTH.__getitem__, _yaml)
    for read in readers:
        try:
            return read(text)
        except (ValueError, KeyError, yaml.YAMLError):
            continue
    return text


_TRUTH = {"True": True, "False": False}


def _yaml(text: str) -> Any:
    return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506  # makes texts, lists and mappings only


def _laid_over(settings: Any, over: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings after those laid over them, mapping by mapping."""
    result = dict(settings) if isinstance(settings, Mapping) else {}
    for key, value in over.items():
        result[key] = _laid_over(result.get(key), value) if isinstance(value, Mapping) else value
    return result


# Explaining ---------------------------------------------------------------------------------------


_WORDINGS = {
    "bool": "should be true or false",
    "dict": "should be a mapping of keys",
    "float": "should be a number",
    "int": "should be a whole number",
    "list": "should be a list",
    "model": "should be a mapping of keys",
    "string_pattern": "should match {pattern}",
    "string": "should be text",
    "too_short": "should have at least {min_length} entry",
    "union_tag_invalid": "should have a {key} out of {expected_tags}",
}
"""Start of pydantic's error type -> our words, where its own read badly."""


def _explain(error: ValidationError) -> str:
    """Return one sentence on the first problem: the key, what is wrong, what to do."""
    # A misspelt required key is also missing: naming the misspelling helps more, so it goes first.
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    location = _visible(first["loc"])
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key} ({_suggestion(location[-1])})."
    if first["type"] in ("missing", "union_tag_not_found"):
        discriminator = first.get("ctx", {}).get("discriminator", "").strip("'")
        tag = f".{discriminator}" if discriminator else ""
        return f"key {key}{tag} is missing; add it (see config/README.md)."
    if first["type"] == "value_error":
        return f"{key}: ".removeprefix(": ") + first["msg"].removeprefix("Value error, ") + "."
    shown = "" if isinstance(first["input"], dict | list) else f", got {first['input']!r}"
    return f"{key} {_wording(first)}{shown}."


def _wording(problem: ErrorDetails) -> str:
    for start, wording in _WORDINGS.items():
        if problem["type"].startswith(start):
            context = problem.get("ctx", {})
            key = str(context.get("discriminator", "")).strip("'")
            return wording.format(key=key, **context)
    return problem["msg"].removeprefix("Input ")


def _visible(location: tuple[int | str, ...]) -> list[str]:
    """Return a location without the names pydantic adds for the members of a union."""
    parts = [str(part) for part in location]
    for key in ("source", "algorithm"):
        if key in parts:
            # the tag of the member follows
            del parts[parts.index(key) + 1 : parts.index(key) + 2]
    return [part for part in parts if not part.startswith(("literal[", "constrained-"))]


def _suggestion(key: str) -> str:
    near = difflib.get_close_matches(key, _known_keys(Config), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else "see config/README.md for the known keys"


def _known_keys(model: type[BaseModel]) -> set[str]:
    """Return every key of a model and of the models inside it."""
    inner = model.model_json_schema().get("$defs", {}).values()
    return set(model.model_fields).union(*(schema.get("properties", {}) for schema in inner))
