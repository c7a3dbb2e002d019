"""Reading a configuration file, and explaining in one sentence what is wrong with it."""

import difflib
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from longrope.errors import UserError
from longrope.settings.config import Config


def load(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        UserError: naming the file and the first wrong key, with a suggestion for a misspelt one.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"configuration {path} does not exist; give a YAML file.") from None
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise UserError(f"configuration {path} is not valid YAML: {where}.") from None
    return parse(raw, source=str(path))


def parse(raw: object, *, source: str) -> Config:
    """Return the checked settings of a mapping read from `source`; raises as `load` does."""
    if not isinstance(raw, dict):
        raise UserError(f"{source} must be a mapping of settings, got {type(raw).__name__}.")
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error)}") from None


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
    "union_tag_invalid": "should have a kind out of {expected_tags}",
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
        tag = ".kind" if first["type"] == "union_tag_not_found" else ""
        return f"key {key}{tag} is missing; add it (see config/README.md)."
    if first["type"] == "value_error":
        return f"{key}: ".removeprefix(": ") + first["msg"].removeprefix("Value error, ") + "."
    shown = "" if isinstance(first["input"], dict | list) else f", got {first['input']!r}"
    return f"{key} {_wording(first)}{shown}."


def _wording(problem: ErrorDetails) -> str:
    for start, wording in _WORDINGS.items():
        if problem["type"].startswith(start):
            return wording.format(**problem.get("ctx", {}))
    return problem["msg"].removeprefix("Input ")


def _visible(location: tuple[int | str, ...]) -> list[str]:
    """Return a location without the names pydantic adds for the members of a union."""
    parts = [str(part) for part in location]
    if parts[:1] == ["corpora"] and parts[2:3] == ["source"]:
        del parts[3:4]
    return [part for part in parts if not part.startswith(("literal[", "constrained-"))]


def _suggestion(key: str) -> str:
    near = difflib.get_close_matches(key, _known_keys(Config), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else "see config/README.md for the known keys"


def _known_keys(model: type[BaseModel]) -> set[str]:
    """Return every key of a model and of the models inside it."""
    inner = model.model_json_schema().get("$defs", {}).values()
    return set(model.model_fields).union(*(schema.get("properties", {}) for schema in inner))
