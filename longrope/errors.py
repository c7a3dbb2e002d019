"""UserError, and its wording of errors of the operating system and of pydantic."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

M = TypeVar("M", bound=BaseModel)


class UserError(Exception):
    """A mistake the user can correct: one sentence naming the thing, what was expected, what to do."""


@contextlib.contextmanager
def refusals_explained() -> Iterator[None]:
    """Raise UserError where the operating system refuses a file: permission, disk, server, limits.

    Such a file is not damaged and must not be treated as if it were. Missing files and lost connections
    pass unchanged, as do errors that libraries raise without an errno.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        unnamed = error.filename is None
        if error.errno is None or (unnamed and isinstance(error, ConnectionError | TimeoutError)):
            raise
        raise UserError(
            f"{_file_name(error)} could not be used ({error.strerror}), which does not mean that it "
            "is damaged: it was left as it is; correct what the system complains of, such as its owner "
            "and mode or the disk, and run again."
        ) from error


def _file_name(error: OSError) -> str:
    return "a file" if error.filename is None else str(error.filename)


def suggestion(name: str, known: Iterable[str], otherwise: str) -> str:
    """Ask whether a known name was meant that `name` begins or resembles, or else return `otherwise`."""
    names = sorted(known)
    begun = [other for other in names if other.startswith(name)]
    near = difflib.get_close_matches(name, begun, n=1, cutoff=0)
    near = near or difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else otherwise


# Validation by pydantic models ---------------------------------------------------------------------


WORDINGS = {
    "bool": "should be true or false",
    "dict": "should be a mapping of keys",
    "float": "should be a number",
    "int": "should be a whole number",
    "json_invalid": "is not JSON: {error}",
    "list": "should be a list",
    "model": "should be a mapping of keys",
    "string_pattern": "should match {pattern}",
    "string": "should be text",
    "too_short": "should have at least {min_length} entry",
    "union_tag_invalid": "should have a {key} out of {expected_tags}",
}
"""prefix of a pydantic error type -> wording, where pydantic's reads badly"""


def validated(model: type[M], content: object, *, source: str, see: str = "") -> M:
    """Validate content, such as that of a YAML file, against a model.

    Args:
        model: of the content; its keys are suggested for misspelt ones.
        content: mappings, lists and scalars.
        source: where the content comes from, for the message.
        see: where the keys are described, such as a file.

    Raises:
        UserError: naming the source and the first wrong key.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{source}: {explain(error, model, see)}") from None


def explain(error: ValidationError, model: type[BaseModel], see: str = "") -> str:
    """Describe the first problem in one sentence: key, mistake and remedy; arguments of `validated`."""
    # A misspelt required key is also missing: naming the misspelling helps more, so it goes first.
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    location = _visible(first["loc"], model)
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        otherwise = f"see {see} for the known keys" if see else "remove it"
        return f"unknown key {key} ({suggestion(location[-1], _keys(model), otherwise)})."
    if first["type"] in ("missing", "union_tag_not_found"):
        discriminator = first.get("ctx", {}).get("discriminator", "").strip("'")
        tag = f".{discriminator}" if discriminator else ""
        return f"key {key}{tag} is missing; add it" + f" (see {see})" * bool(see) + "."
    if first["type"] == "value_error":
        return f"{key}: ".removeprefix(": ") + first["msg"].removeprefix("Value error, ") + "."
    if not key:  # the input is the whole file
        return f"it {_wording(first)}."
    shown = "" if isinstance(first["input"], dict | list) else f", got {first['input']!r}"
    return f"{key} {_wording(first)}{shown}."


def _wording(problem: ErrorDetails) -> str:
    for start, wording in WORDINGS.items():
        if problem["type"].startswith(start):
            context = problem.get("ctx", {})
            key = str(context.get("discriminator", "")).strip("'")
            return wording.format(key=key, **context)
    return problem["msg"].removeprefix("Input ")


def _visible(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """Return a location without the names that pydantic adds for the members of a union."""
    parts = [str(part) for part in location]
    members = {key: _members(schema) for key, schema in _properties(model)}
    shown = [
        part
        for before, part in zip(["", *parts], parts, strict=False)
        if part not in members.get(before, ())
    ]
    return [part for part in shown if not part.startswith(("literal[", "constrained-"))]


def _members(schema: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the members of a tagged union by tag; empty for any other schema."""
    members: Mapping[str, str] = schema.get("discriminator", {}).get("mapping", {})
    return members


def _keys(model: type[BaseModel]) -> set[str]:
    """Return every key of a model and of the models inside it."""
    return {key for key, _ in _properties(model)}


def _properties(model: type[BaseModel]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every key of a model and of the models inside it, with its schema."""
    schema = model.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        yield from part.get("properties", {}).items()
