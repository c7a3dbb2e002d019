"""Digests of raw files, remembered by path, size, time and inode so that big ones are read once."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from longrope import reading
from longrope.store.atomic import write_text
from longrope.store.identity import file_digest

Known = dict[str, tuple[str, str]]
"""path -> its state when it was read, and the sha256 of its contents then"""

SAVE_SECONDS = 5.0
"""between two saves while many files are read"""


class RawFiles:
    """Digests of files; with a memory file, unchanged files are not read again.

    Processes share the memory file without a lock: each keeps the entries of the others. Two that save at
    the same instant may lose an entry, which costs one more read and nothing else.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known = _remembered(memory)
        self._read: Known = {}
        self._unsaved = False

    def digest(self, path: Path) -> str:
        """Return the sha256 of a file's bytes."""
        return self.digests([path])[0]

    def digests(self, paths: Sequence[Path]) -> list[str]:
        """Return the sha256 of each file's bytes; new ones are saved now and then, and at the end."""
        saved, digests = time.monotonic(), []
        for path in paths:
            digests.append(self._digest(path))
            # Not after each of thousands: the memory file holds all of them.
            if time.monotonic() - saved > SAVE_SECONDS:
                self._save()
                saved = time.monotonic()
        self._save()
        return digests

    def _digest(self, path: Path) -> str:
        state = path.stat()
        name = str(path.resolve())
        now = f"{state.st_size} {state.st_mtime_ns} {state.st_ino}"
        then, known = self._known.get(name, ("", ""))
        if then == now:
            return known
        self._read[name] = self._known[name] = (now, file_digest(path))
        self._unsaved = True
        return self._known[name][1]

    def _save(self) -> None:
        if self._memory is None or not self._unsaved:
            return
        self._unsaved = False
        self._known |= _remembered(self._memory) | self._read
        write_text(self._memory, json.dumps(self._known, indent=0, sort_keys=True))


def _remembered(memory: Path | None) -> Known:
    """Return the entries of a memory file; malformed ones are dropped, so their files are read again."""
    try:
        entries = json.loads(reading.read_text(memory)) if memory is not None else {}
    except (*reading.ABSENT, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {
        name: (entry[0], entry[1])
        for name, entry in entries.items()
        if isinstance(entry, list) and len(entry) == 2
    }
