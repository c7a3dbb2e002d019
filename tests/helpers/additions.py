"""A copy of the repository in which something is added as a row of CONTRIBUTING says."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import workflow_runs
from repository import HELPERS, ROOT

CAPTIONS = "workflow/report/"


class Addition:
    """A copy of rules, library and configurations, and the files of it that were changed."""

    def __init__(self, folder: Path) -> None:
        self.root = workflow_runs.clone(folder)
        self.changed: set[str] = set()

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text that stands once in a file."""
        text = (self.root / name).read_text()
        assert text.count(old) == 1, f"{name} has {text.count(old)} times {old!r}"
        self._write(name, text.replace(old, new))

    def append(self, name: str, text: str) -> None:
        """Add lines at the end of a file."""
        self._write(name, (self.root / name).read_text() + textwrap.dedent(text))

    def create(self, name: str, text: str) -> None:
        """Write a new file."""
        assert not (self.root / name).exists(), name
        self._write(name, textwrap.dedent(text))

    def _write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)
        self.changed.add(name)

    def takes(self, what: str) -> int:
        """Return how many files were changed, captions apart; CONTRIBUTING must state as many."""
        count = len([name for name in self.changed if not name.startswith(CAPTIONS)])
        assert stated_files(what) == count, f"CONTRIBUTING, {what}: {sorted(self.changed)}"
        return count

    def run(self, script: str) -> dict:
        """Run Python code with the copy; return what it printed last as JSON."""
        paths = os.pathsep.join([str(self.root), str(HELPERS)])
        done = subprocess.run(
            # without the working directory in the path, which has a package of its own
            [sys.executable, "-P", "-c", textwrap.dedent(script)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])


def stated_files(what: str) -> int:
    """Return the number of files that CONTRIBUTING's table states for adding something."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    cells = re.search(rf"^\| {re.escape(what)} \|.*$", text, re.M)
    assert cells, f"CONTRIBUTING has no row on {what}"
    return int(re.split(r" \| ", cells[0])[2].split()[0])
