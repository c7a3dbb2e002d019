"""Accepted code: a reviewed file that maps identities of code to older ones they stand for.

After a change that alters no result, such as a renamed variable, the new code may stand for the old:
digests go back to what they were, and nothing is computed again. The file lies in the package and is
committed with the change. To take an acceptance back, remove its entry.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrope import reading
from longrope.errors import UserError
from longrope.store.atomic import write_text

NAME = "accepted.json"
IDENTITY = re.compile(r"[0-9a-f]{16}")

Accepted = dict[str, dict[str, str]]
"""identity of the present code -> `stands_for`, the older identity, and `of`, the name of the code"""


def read(package: Path) -> Accepted:
    """Return the accepted code of a package; empty if the file is missing or empty.

    Raises:
        UserError: if the file is not in the format of `write`.
    """
    path = package / NAME
    try:
        entries = json.loads(reading.read_text(path).strip() or "{}")
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); restore it from git.") from None
    wrong = _wrong(entries)
    if wrong is not None:
        raise UserError(
            f"{path}: {wrong} should map a code identity of 16 hexadecimal digits to "
            "{stands_for: another, of: a kind of node}; restore it from git."
        )
    return dict(entries)


def _wrong(entries: Any) -> str | None:
    """Name the first malformed entry, or return None."""
    if not isinstance(entries, dict):
        return "it"
    for computed, entry in entries.items():
        texts = isinstance(entry, dict) and entry.keys() == {"stands_for", "of"}
        if not texts or not isinstance(entry["of"], str):
            return f"entry {computed!r}"
        if not all(IDENTITY.fullmatch(str(name)) for name in (computed, entry["stands_for"])):
            return f"entry {computed!r}"
    return None


def write(package: Path, entries: Mapping[str, Mapping[str, str]]) -> Path:
    """Write the file atomically, keys sorted; return its path.

    Raises:
        UserError: if the package cannot be written, as when it is installed for all users.
    """
    path = package / NAME
    try:
        write_text(path, json.dumps(entries, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}); use your own checkout.") from None
    return path
