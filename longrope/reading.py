"""File access that distinguishes missing files from unreadable ones.

`Path.is_file`, `Path.exists` and `Path.glob` report some refusals of the system as absence, more of them
with each version of Python. Here only a path that leads nowhere is absent; everything else raises an
OSError that names the path.
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
    """Add the path to an OSError that has none, as of a read that fails midway."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def status(path: Path) -> os.stat_result | None:
    """Return the status of the file that a path leads to, or None if it leads nowhere."""
    try:
        return path.stat()
    except ABSENT:
        return None


def is_file(path: Path) -> bool:
    """Return whether a path leads to a regular file."""
    result = status(path)
    return result is not None and stat.S_ISREG(result.st_mode)


def is_folder(path: Path) -> bool:
    """Return whether a path leads to a directory."""
    result = status(path)
    return result is not None and stat.S_ISDIR(result.st_mode)


def read_bytes(path: Path) -> bytes:
    """Return the contents of a file."""
    with named(path):
        return path.read_bytes()


def read_text(path: Path) -> str:
    """Return the contents of a UTF-8 file."""
    return read_bytes(path).decode("utf-8")


def read_yaml(path: Path, name: str, advice: str) -> Any:
    """Parse a YAML file.

    Args:
        path: of the file.
        name: kind of file, for the message.
        advice: what to do if the file is absent.

    Raises:
        UserError: if the file is absent or not YAML.
    """
    # The C parser, where yaml has it, is ten times as fast; both are safe.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(read_text(path), Loader=loader)  # noqa: S506
    except ABSENT:
        raise UserError(f"{name} {path} does not exist; {advice}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise UserError(f"{name} {path} is not valid YAML: {where}.") from None


def entries(folder: Path, pattern: str = "*") -> list[Path]:
    """List the paths in a folder that match a pattern, sorted; none if the folder is absent."""
    try:
        with named(folder):
            names = os.listdir(folder)
    except ABSENT:
        return []
    return sorted(folder / name for name in names if fnmatchcase(name, pattern))


def files_below(folder: Path) -> Iterator[Path]:
    """Yield every path below a folder that is not a directory; links are not followed."""
    for parent, _, names in os.walk(folder, onerror=_raise):
        yield from (Path(parent, name) for name in names)


def _raise(error: OSError) -> None:
    raise error
