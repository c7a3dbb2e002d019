"""Content identity: one canonical text per value, and the sha256 of it."""

import hashlib
import json
from pathlib import Path

from longrope.reading import named

DIGEST_CHARACTERS = 12


def canonical(value: object) -> str:
    """Return the canonical JSON text of a value: keys sorted, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """Return the hexadecimal sha256 of a value's canonical text."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes."""
    with named(path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
