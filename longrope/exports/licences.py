"""Licence of a model, as far as its folder states it."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from longrope import reading

KEYS = ("license", "license_name", "license_link")
"""of the front matter of a model card"""
FILES = re.compile(r"(licen[cs]e|notice|use_policy)", re.IGNORECASE)
"""beginning of the names of files with terms"""


@dataclass(frozen=True, kw_only=True)
class Licence:
    """Statements of a model folder on its licence."""

    stated: dict[str, str] = field(default_factory=dict)
    """entries of KEYS in the front matter of README.md"""
    files: tuple[str, ...] = ()
    """names of the files with terms"""


def read_licence(folder: Path) -> Licence:
    """Return what a folder states; an unreadable front matter states nothing."""
    return Licence(stated=_front_matter(folder), files=tuple(path.name for path in terms(folder)))


def terms(folder: Path) -> list[Path]:
    """Return the files with terms in a folder."""
    return [
        path for path in reading.entries(folder) if FILES.match(path.name) and reading.is_file(path)
    ]


def _front_matter(folder: Path) -> dict[str, str]:
    if not reading.is_file(folder / "README.md"):
        return {}
    lines = reading.read_bytes(folder / "README.md").decode("utf-8", "replace").split("\n")
    marks = [number for number, line in enumerate(lines) if line.rstrip() == "---"]
    if len(marks) < 2 or marks[0] != 0:
        return {}
    try:
        content = yaml.safe_load("\n".join(lines[1 : marks[1]]))
    except yaml.YAMLError:
        return {}
    entries = content if isinstance(content, dict) else {}
    return {key: str(entries[key]) for key in KEYS if isinstance(entries.get(key), str)}
