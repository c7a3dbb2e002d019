"""Files that are whole or not there."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a text file that whoever else reads it, or writes it too, sees whole."""
    with written_whole(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a scratch file beside `path` that takes its place when the block ends without an error."""
    scratch = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
