"""The score memory: append-only, shared by all stages, one file per writer.

A score is keyed by everything that determines it. Many processes on a shared file system never write to
the same file; a line torn by a kill is ignored, and its document scored again.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrope import reading
from longrope.store.atomic import write_text
from longrope.store.identity import digest


class ScoreMemory:
    """Scores of one context: a model, a token store, a precision and the scoring code."""

    def __init__(self, root: Path, context: Mapping[str, Any]) -> None:
        self._folder = root / digest(context)[:16]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Any] = {}
        for path in reading.entries(self._folder, "*.jsonl"):
            self._known.update(_complete_lines(path))
        writer = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.jsonl"
        self._path = self._folder / writer
        self._label(context)

    def _label(self, context: Mapping[str, Any]) -> None:
        """Record the context, by which `gc` keeps a memory as long as a node may use it."""
        label = self._folder / "context.json"
        if not reading.is_file(label):
            write_text(label, json.dumps(context, indent=1) + "\n")

    def get(self, key: Mapping[str, Any]) -> Any | None:
        """Return the value remembered for a key, or None."""
        return self._known.get(digest(key))

    def put(self, key: Mapping[str, Any], value: Any) -> None:
        """Remember a JSON value; it is on disk when this returns."""
        name = digest(key)
        line = json.dumps([name, value]) + "\n"
        with self._path.open("a") as stream:
            stream.write(line)
            stream.flush()
        self._known[name] = value


def _complete_lines(path: Path) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for line in reading.read_bytes(path).splitlines(keepends=True):
        if line.endswith(b"\n"):
            with contextlib.suppress(ValueError, TypeError):
                name, value = json.loads(line)
                known[name] = value
    return known
