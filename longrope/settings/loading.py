"""Loading of a configuration file, with overrides."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from longrope import reading
from longrope.errors import UserError, validated
from longrope.settings.config import Config


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a configuration file.

    Args:
        path: of the YAML file.
        overrides: `key=value`, laid over the file as Snakemake lays its --config over it.

    Raises:
        UserError: naming the file and the first wrong key, with a suggestion for a misspelt one.
    """
    raw = reading.read_yaml(path, "configuration", "give a YAML file")
    if overrides and isinstance(raw, dict):
        raw = _merged(raw, parse_overrides(overrides))
        return parse(raw, source=f"{path} with --config")
    return parse(raw, source=str(path))


def parse(raw: object, *, source: str) -> Config:
    """Return the checked settings of a mapping read from `source`; raises as `load` does."""
    if not isinstance(raw, dict):
        raise UserError(f"{source} must be a mapping of settings, got {type(raw).__name__}.")
    return validated(Config, raw, source=source, see="config/README.md")


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
        settings = _merged(settings, {key: _value(value.strip("'\""))})
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


def _merged(settings: Any, over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge overrides into settings, mapping by mapping."""
    result = dict(settings) if isinstance(settings, Mapping) else {}
    for key, value in over.items():
        result[key] = _merged(result.get(key), value) if isinstance(value, Mapping) else value
    return result
