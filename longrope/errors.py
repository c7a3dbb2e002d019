"""UserError, and its wording of errors of the operating system and of pydantic."""

import contextlib
import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise UserError(
                f"{_file_name(error)} cannot be a folder, since a file is in its way "
                f"({error.strerror}); give another path, or move the file."
            ) from error
        raise UserError(
            f"{_file_name(error)} could not be used ({error.strerror}), which does not mean that it "
            "is damaged: it was left as it is; correct what the system complains of, such as its owner "
            "and mode or the disk, and run again."
        ) from error


def _file_name(error: OSError) -> str:
    return "a file" if error.filename is None else str(error.filename)


def suggestion(name: str, known: Iterable[str], otherwise: str) -> str:
    """Ask whether a known name was meant that `name` begins or resembles, or else return `otherwise`."""
    near = nearest(name, known)
    return f"did you mean {near}?" if near else otherwise


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a known name that `name` begins or else resembles, or ""."""
    names = sorted(known)
    begun = [other for other in names if other.startswith(name)]
    near = difflib.get_close_matches(name, begun, n=1, cutoff=0)
    near = near or difflib.get_close_matches(name, names, n=1)
    return near[0] if near else ""


# Validation by pydantic models ---------------------------------------------------------------------


Schema = Mapping[str, Any]
UNKNOWN = "extra_forbidden"
ENTRY = "NAME"
"""part of a path that stands for any name or number"""
LONGEST_SHOWN = 80
"""characters of a value that a sentence repeats"""
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
    "too_long": "should have at most {max_length} entries",
    "too_short": "should have at least {min_length} entry",
    "tuple": "should be a list",
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


@dataclass(frozen=True)
class Mistake:
    """A problem with some content."""

    keys: tuple[int | str, ...]
    """path to it in the content"""
    sentence: str
    meant: str = ""
    """of an unknown key, the key of its section that it resembles"""


def explain(error: ValidationError, model: type[BaseModel], see: str = "") -> str:
    """Describe the first problem in one sentence: key, mistake and remedy; arguments of `validated`."""
    return mistakes(error, model.model_json_schema(), see)[0].sentence


def mistakes(error: ValidationError, schema: Schema, see: str = "") -> list[Mistake]:
    """Describe every problem, one sentence for each key.

    A misspelt required key is also missing: naming the misspelling helps more, so those go first, and the
    key that they stand for is not named again.

    Args:
        error: of a model.
        schema: of that model, as JSON.
        see: where the keys are described, such as a file.
    """
    grouped: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for problem in error.errors():
        grouped.setdefault(_visible(problem["loc"], schema), []).append(problem)
    unknown = {keys for keys, problems in grouped.items() if problems[0]["type"] == UNKNOWN}
    meant = {keys: nearest(str(keys[-1]), _section(keys, schema)) for keys in unknown}
    explained = {(*keys[:-1], name) for keys, name in meant.items()}
    return [
        Mistake(keys, _sentence(keys, grouped[keys], schema, see), meant.get(keys, ""))
        for keys in sorted(grouped, key=lambda keys: keys not in unknown)
        if grouped[keys][0]["type"] != "missing" or keys not in explained
    ]


def _sentence(
    keys: tuple[int | str, ...], problems: Sequence[ErrorDetails], schema: Schema, see: str
) -> str:
    first, key = problems[0], ".".join(map(str, keys))
    if first["type"] == UNKNOWN:
        return f"unknown key {key} ({_remedy(keys, schema, see)})."
    if first["type"] in ("missing", "union_tag_not_found"):
        discriminator = first.get("ctx", {}).get("discriminator", "").strip("'")
        tag = f".{discriminator}" if discriminator else ""
        return f"key {key}{tag} is missing; add it" + f" (see {see})" * bool(see) + "."
    if first["type"] == "value_error":
        holder = key if "[key]" not in first["loc"] else ".".join(map(str, keys[:-1]))
        return f"{holder}: ".removeprefix(": ") + first["msg"].removeprefix("Value error, ") + "."
    if not key:  # the input is the whole file
        return f"it {_wording(first)}."
    allowed = " or ".join(dict.fromkeys(map(_wording, problems))).replace(" or should be ", ", or ")
    return f"{key} {allowed}{_shown(first)}."


def _shown(problem: ErrorDetails) -> str:
    """Return the value that was read, unless it is large, and the allowed one that it resembles."""
    context = problem.get("ctx", {})
    value = context.get("tag", problem["input"])
    if problem["type"] == "too_short":
        return ""
    if isinstance(value, dict | list):
        return ", got a mapping" if isinstance(value, dict) else ", got a list"
    shown = repr(value) if len(repr(value)) < LONGEST_SHOWN else f"{repr(value)[:LONGEST_SHOWN]}..."
    allowed = re.findall("'([^']+)'", str(context.get("expected") or context.get("expected_tags")))
    near = suggestion(value, allowed, "") if isinstance(value, str) else ""
    return f", got {shown}" + f" ({near})" * bool(near)


def _wording(problem: ErrorDetails) -> str:
    for start, wording in WORDINGS.items():
        if problem["type"].startswith(start):
            context = problem.get("ctx", {})
            key = str(context.get("discriminator", "")).strip("'")
            return wording.format(key=key, **context)
    return problem["msg"].removeprefix("Input ")


def _visible(location: tuple[int | str, ...], schema: Schema) -> tuple[int | str, ...]:
    """Return a location without the names that pydantic adds for keys and the members of a union."""
    members: dict[object, Mapping[str, str]] = {
        key: _members(value) for _, keys in _sections(schema) for key, value in keys.items()
    }
    shown = [
        part
        for before, part in zip(["", *location], location, strict=False)
        if part not in members.get(before, ())
    ]
    added = ("literal[", "constrained-", "[key]", "function-")
    return tuple(part for part in shown if not str(part).startswith(added))


def _members(schema: Schema) -> Mapping[str, str]:
    """Return the members of a tagged union by tag; empty for any other schema."""
    members: Mapping[str, str] = schema.get("discriminator", {}).get("mapping", {})
    return members


def _section(keys: tuple[int | str, ...], schema: Schema) -> set[str]:
    """Return the keys that may stand where the last one does."""
    return {key for path, known in _sections(schema) if _leads(keys[:-1], path) for key in known}


def _remedy(keys: tuple[int | str, ...], schema: Schema, see: str) -> str:
    """Say what to do about an unknown key: the nearest of its section, its own section, or the nearest."""
    name, places = str(keys[-1]), defaultdict[str, list[tuple[str, ...]]](list)
    for path, known in _sections(schema):
        for key in known:
            places[key].append(path)
    meant = nearest(name, _section(keys, schema)) or nearest(name, places)
    if not meant:
        return f"see {see} for the known keys" if see else "remove it"
    if meant != name:
        return f"did you mean {meant}?"
    below = [path for path in places[name] if _leads(keys[:-1], path[: len(keys) - 1])]
    place = min(below or places[name], key=lambda path: len(path))
    return f"it belongs to {'.'.join(place) or 'the top level'}"


def _leads(keys: Sequence[int | str], path: Sequence[str]) -> bool:
    """Return whether keys lead to the section at a path, in which NAME is any entry."""
    return len(keys) == len(path) and all(
        part in (ENTRY, key) for key, part in zip(keys, path, strict=True)
    )


def _sections(
    schema: Schema, path: tuple[str, ...] = (), models: Schema | None = None
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Schema]]]:
    """Yield the path and the keys of every mapping with fixed keys; schemas do not contain themselves."""
    models = schema.get("$defs", {}) if models is None else models
    if "$ref" in schema:
        schema = models[str(schema["$ref"]).rpartition("/")[2]]
    if "properties" in schema:
        yield path, schema["properties"]
    for key, value in schema.get("properties", {}).items():
        yield from _sections(value, (*path, key), models)
    for member in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _sections(member, path, models)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            yield from _sections(schema[key], (*path, ENTRY), models)
