"""Atomic writes: concurrent readers and writers see a whole file or none."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically; its folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a scratch path in the folder of `path` that replaces it if the block succeeds."""
    # Not the process id, which several hosts may share. A node never holds names that begin with an
    # underscore, so a scratch file left by a kill does not become output.
    scratch = path.with_name(f"_{path.name}.{uuid.uuid4().hex}")
    try:
        yield scratch
        scratch.replace(path)
    except OSError as error:
        # the user knows the file, not its scratch
        if error.filename == str(scratch):
            error.filename = str(path)
        raise
    finally:
        scratch.unlink(missing_ok=True)
