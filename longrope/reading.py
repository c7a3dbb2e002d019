"""Reading that tells what is absent from what cannot be read.

`Path.is_file`, `Path.exists` and `Path.glob` take some refusals of the system for absence, more of them in
each version of Python. Here only a name that leads nowhere is absent; everything else raises an OSError
that names the path.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from longrope.errors import UserError

ABSENT = (FileNotFoundError, NotADirectoryError)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Add the path to an OSError that has none: a read that fails midway does not tell its file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def status(path: Path) -> os.stat_result | None:
    """Return the status of what a path leads to, or None if it leads nowhere."""
    try:
        return path.stat()
    except ABSENT:
        return None


def is_file(path: Path) -> bool:
    """Tell whether a path leads to a regular file."""
    found = status(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_folder(path: Path) -> bool:
    """Tell whether a path leads to a directory."""
    found = status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def read_bytes(path: Path) -> bytes:
    """Return the contents of a file."""
    with named(path):
        return path.read_bytes()


def read_text(path: Path) -> str:
    """Return the contents of a UTF-8 file."""
    return read_bytes(path).decode("utf-8")


def read_yaml(path: Path, name: str, advice: str) -> Any:
    """Return what a YAML file holds.

    Args:
        path: of the file.
        name: of the kind of file, for the sentence.
        advice: what to do where the file is absent.

    Raises:
        UserError: if the file is absent or no YAML.
    """
    # The parser in C, where yaml has it, is ten times as fast; both are safe.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(read_text(path), Loader=loader)  # noqa: S506
    except ABSENT:
        raise UserError(f"{name} {path} does not exist; {advice}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise UserError(f"{name} {path} is not valid YAML: {where}.") from None


def entries(folder: Path, pattern: str = "*") -> list[Path]:
    """Return what lies in a folder and matches a pattern, sorted; nothing for a folder that is absent."""
    try:
        with named(folder):
            names = os.listdir(folder)
    except ABSENT:
        return []
    return sorted(folder / name for name in names if fnmatchcase(name, pattern))


def files_below(folder: Path) -> Iterator[Path]:
    """Yield everything below a folder that is no directory; links are not followed."""
    for place, _, names in os.walk(folder, onerror=_raise):
        yield from (Path(place, name) for name in names)


def _raise(error: OSError) -> None:
    raise error
