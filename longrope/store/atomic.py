"""Files that are whole or absent, whoever else reads or writes them at the same time."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one step; its folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a scratch path beside `path` that takes its place when the block ends without an error."""
    # Processes of several hosts may share a number. A node never holds names that begin with an
    # underscore, so what a kill leaves in a work folder does not become output.
    scratch = path.with_name(f"_{path.name}.{uuid.uuid4().hex}")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
