"""Loading of a configuration file, with overrides."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from longrope import reading
from longrope.errors import UserError
from longrope.settings.checking import check
from longrope.settings.config import Config


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a configuration file; arguments of `read_mapping`.

    Raises:
        UserError: naming the file and the first wrong key, with a suggestion for a misspelt one.
    """
    source = f"{path} with --config" if overrides else str(path)
    return parse(read_mapping(path, overrides), source=source)


def read_mapping(path: Path, overrides: Sequence[str] = ()) -> dict[str, object]:
    """Read a configuration file without checking its settings.

    Args:
        path: of the YAML file.
        overrides: `key=value`, laid over the file as Snakemake lays its --config over it.

    Raises:
        UserError: if the file is no mapping of settings, or an override is not of the form.
    """
    raw = reading.read_yaml(path, "configuration", "give a YAML file")
    return _merged(_mapping(raw, str(path)), parse_overrides(overrides))


def _mapping(raw: object, source: str) -> dict[str, object]:
    if not isinstance(raw, dict):
        raise UserError(f"{source} must be a mapping of settings, got {type(raw).__name__}.")
    return raw


def parse(raw: object, *, source: str) -> Config:
    """Return the checked settings of a mapping read from `source`; raises as `load` does."""
    checked = check(_mapping(raw, source))
    if checked.config is None or checked.mistakes:
        first, number = checked.mistakes[0], len(checked.mistakes)
        more = f" It is the first of {number} mistakes; `longrope check CONFIG` lists all of them."
        raise UserError(f"{source}: {first}{more * (number > 1)}")
    return checked.config


# Overrides ----------------------------------------------------------------------------------------


_KEY = re.compile(r"[a-zA-Z_][\w-]*\w")


def parse_overrides(entries: Sequence[str]) -> dict[str, object]:
    """Return the settings of `key=value` texts; a value is read as Snakemake reads it.

    It is an integer, a number, True or False, or else YAML, such as `search={num_documents: 2}`, whose
    scalars are texts: the settings read them.

    Raises:
        UserError: if a text is not of that form.
    """
    settings: dict[str, object] = {}
    for entry in entries:
        key, sign, value = entry.partition("=")
        if not sign or not _KEY.fullmatch(key):
            raise UserError(f"--config takes settings as key=value, got {entry!r}.")
        settings = _merged(settings, {key: _value(value.strip("'\""))})
    return settings


def _value(text: str) -> object:
    if not text:
        return None
    readers: tuple[Callable[[str], object], ...] = (int, float, _TRUTH.__getitem__, _yaml)
    for read in readers:
        try:
            return read(text)
        except (ValueError, KeyError, yaml.YAMLError):
            continue
    return text


_TRUTH = {"True": True, "False": False}


def _yaml(text: str) -> object:
    return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506  # makes texts, lists and mappings only


def _merged(settings: object, over: Mapping[str, object]) -> dict[str, object]:
    """Merge overrides into settings, mapping by mapping."""
    result = dict(settings) if isinstance(settings, Mapping) else {}
    for key, value in over.items():
        result[key] = _merged(result.get(key), value) if isinstance(value, Mapping) else value
    return result
