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


def read_yaml(path: Path, name: str, advice: str) -> object:
    """Parse a YAML file.

    Args:
        path: of the file.
        name: kind of file, for the message.
        advice: what to do if the file is absent.

    Raises:
        UserError: if the file is absent or not YAML, or gives a key twice.
    """
    # The C parser, where yaml has it, is ten times as fast; both are safe.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = read_text(path)
        _require_single_keys(yaml.compose(text, Loader=loader), f"{name} {path}")
        return yaml.load(text, Loader=loader)  # noqa: S506
    except ABSENT:
        raise UserError(f"{name} {path} does not exist; {advice}.") from None
    # ValueError: UTF-8 that is none, and dates and numbers that are none
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = " ".join(str(error).split())
        raise UserError(f"{name} {path} is not valid YAML: {where}.") from None


def _require_single_keys(root: yaml.Node | None, source: str) -> None:
    """Refuse a mapping that gives a key twice, of which YAML's parsers take the last.

    Keys that a merge (`<<`) brings in are no second ones.
    """
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
            continue
        seen.add(id(node))  # an alias is the node itself, and may be inside it
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            waiting.append(value)
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise UserError(
                    f"{source} gives the key {key.value} twice, in lines {lines[key.value]} and {line}; "
                    "leave one of them out."
                )
            lines[key.value] = line


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
