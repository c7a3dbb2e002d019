"""Garbage collection of a store: the only place that deletes results.

A directory is first renamed into `.trash`, under the claim of its node, and deleted there: a kill at any
moment leaves a whole node or something in the trash, and no running job loses its output. Names that
the store does not give are never touched.
"""

import json
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrope import reading
from longrope.errors import UserError
from longrope.store import commit
from longrope.store.identity import DIGEST_CHARACTERS, digest

DAY = 86400.0
"""Seconds for which the plan file of a job that may still be queued is kept."""

_NODE = re.compile(rf".+-[0-9a-f]{{{DIGEST_CHARACTERS}}}")
_WORK = re.compile(rf"({_NODE.pattern})(\.lock(?:\.[0-9a-f]{{32}})?)?")
_JOB_PLAN = re.compile(rf"[0-9a-f]{{{DIGEST_CHARACTERS}}}")
_MEMORY = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Live:
    """Nodes, plans and score memories in use."""

    keys: frozenset[str]
    """nodes, by their directories inside the store"""
    identities: frozenset[str]
    """digests of those nodes and of the raw files they read, which score memories refer to"""
    plans: frozenset[str]
    """names of plan files that jobs read"""

    @classmethod
    def of(cls, plans: Iterable[str], held: Iterable[str]) -> "Live":
        """Collect what plans, given as the texts of their files, and running jobs need."""
        keys, identities, names = set(held), set(), set()
        for text in plans:
            nodes: dict[str, Any] = json.loads(text)["nodes"]
            keys |= nodes.keys()
            identities |= {node["digest"] for node in nodes.values()}
            identities |= {
                digest(raw["files"]) for node in nodes.values() for raw in node["raw"].values()
            }
            names.add(digest(text)[:DIGEST_CHARACTERS])
        return cls(frozenset(keys), frozenset(identities), frozenset(names))


@dataclass(frozen=True)
class Dead:
    """Paths that nothing needs."""

    nodes: Mapping[str, list[Path]]
    """by key: finished and half-finished directories and left-over claims"""
    memories: list[Path]
    """score memories of dead models or tokens"""
    curves: list[Path]
    """folders of curves of dead nodes"""
    reports: list[Path]
    """folders of tables and figures of dead plans"""
    plans: list[Path]
    """plan files that no job reads"""
    trash: list[Path]
    """directories set aside earlier"""

    @property
    def paths(self) -> list[Path]:
        """Everything, in the order of its deletion."""
        nodes = [path for paths in self.nodes.values() for path in paths]
        return [*nodes, *self.memories, *self.curves, *self.reports, *self.plans, *self.trash]


# Running jobs -------------------------------------------------------------------------------------


def held(store: Path) -> set[str]:
    """Return the nodes that a job computes or waits for, by the signs of life in their claims."""
    now = time.time()
    return {
        key
        for key, paths in _work(store).items()
        if any(_is_claim(path) and _is_fresh(path, now) for path in paths)
    }


def _is_claim(path: Path) -> bool:
    match = _WORK.fullmatch(path.name)
    return match is not None and match[2] is not None


def _is_fresh(claim: Path, now: float) -> bool:
    """Return whether a claim's owner gave a sign of life lately; see `commit.claimed`."""
    try:
        signs = [token.stat().st_mtime for token in claim.iterdir()]
    except reading.ABSENT:  # released meanwhile
        return False
    return any(now - sign <= 5 * commit.HEARTBEAT for sign in signs)


def plans_of(store: Path, keys: Collection[str]) -> Iterator[str]:
    """Yield the text of every plan file with any of some nodes: jobs need its other nodes too."""
    for path in reading.entries(store / "plans", "*.json") if keys else []:
        text = plan_text(path)
        if any(key in text for key in keys):
            yield text


def plan_text(path: Path) -> str:
    """Return a plan file's text, or an empty plan's if the file is gone or not a plan."""
    try:
        text = reading.read_text(path)
        return text if "nodes" in json.loads(text) else '{"nodes": {}}'
    except (*reading.ABSENT, ValueError, TypeError):
        return '{"nodes": {}}'


# Dead paths ---------------------------------------------------------------------------------------


def dead(store: Path, kinds: Iterable[str], live: Live) -> Dead:
    """Collect the paths that nothing needs; while a job is running, all plan files and reports stay."""
    busy = bool(held(store))
    return Dead(
        nodes=_dead_nodes(store, kinds, live),
        memories=_dead_memories(store, live),
        curves=_dead_curves(store, live),
        reports=[] if busy else _dead_reports(store, live),
        plans=[] if busy else _dead_plans(store, live),
        trash=_trash(store),
    )


def _dead_nodes(store: Path, kinds: Iterable[str], live: Live) -> dict[str, list[Path]]:
    nodes = _work(store)
    for kind in kinds:
        for path in _directories(store / kind):
            if _NODE.fullmatch(path.name):
                nodes[f"{kind}/{path.name}"].append(path)
    return {key: sorted(nodes[key]) for key in sorted(nodes.keys() - live.keys)}


def _work(store: Path) -> defaultdict[str, list[Path]]:
    """Return work directories and claims by the key of their node."""
    paths: defaultdict[str, list[Path]] = defaultdict(list)
    for kind in _directories(store / ".work"):
        for path in _directories(kind):
            match = _WORK.fullmatch(path.name)
            if match is not None:
                paths[f"{kind.name}/{match[1]}"].append(path)
    return paths


def _directories(folder: Path) -> list[Path]:
    entries = reading.entries(folder)
    return [path for path in entries if reading.is_folder(path) and not path.is_symlink()]


def _dead_memories(store: Path, live: Live) -> list[Path]:
    return sorted(path for path in _memories(store) if _refers_to(path) - live.identities)


def _memories(store: Path) -> list[Path]:
    return [path for path in _directories(store / ".scores") if _MEMORY.fullmatch(path.name)]


def silent_memories(store: Path) -> list[Path]:
    """Return the score memories without a readable context, which are never deleted."""
    return [path for path in _memories(store) if not _refers_to(path)]


def _refers_to(memory: Path) -> set[str]:
    """Return the digests of nodes and files in a score memory's context."""
    try:
        context = json.loads(reading.read_text(memory / "context.json"))
        return {value for value in context.values() if _SHA256.fullmatch(str(value))}
    except (*reading.ABSENT, ValueError, AttributeError):
        return set()


def _dead_curves(store: Path, live: Live) -> list[Path]:
    """Return curves of dead nodes; they are named like a node's directory, but lie outside it."""
    names = {key.rpartition("/")[2] for key in live.keys}
    curves = _directories(store / ".tensorboard")
    return sorted(path for path in curves if _NODE.fullmatch(path.name) and path.name not in names)


def _dead_reports(store: Path, live: Live) -> list[Path]:
    """Return reports of plans that are not live, not the last of their experiment and not linked to.

    A report's plan stands in its folder since its run began; a report without it is kept.
    """
    stays = {*live.plans, *_last_plans(store)}
    linked = _link_targets(store)
    return [
        folder
        for folder in _directories(store / "reports")
        if _NODE.fullmatch(folder.name)
        and (name := _plan_name(folder / "plan.json"))
        and name not in stays
        and not any(target.is_relative_to(folder.resolve()) for target in linked)
        and _age(folder) > DAY
    ]


def _last_plans(store: Path) -> set[str]:
    """Return the names that the last plans of all experiments have as plans of jobs."""
    files = reading.entries(store / "plans", "*.json")
    return {_plan_name(path) for path in files if not is_job_plan(path)}


def _plan_name(path: Path) -> str:
    """Return the name that a plan has as a plan of jobs, or "" if the file is gone or not a plan."""
    text = plan_text(path)
    return digest(text)[:DIGEST_CHARACTERS] if json.loads(text)["nodes"] else ""


def _link_targets(store: Path) -> list[Path]:
    """Return the targets of the links named after experiments."""
    links = [link for part in ("tables", "figures") for link in reading.entries(store / part)]
    return [link.resolve() for link in links if link.is_symlink()]


def _age(folder: Path) -> float:
    """Return the seconds since a file in a folder was last written."""
    return time.time() - max(path.lstat().st_mtime for path in reading.files_below(folder))


def _dead_plans(store: Path, live: Live) -> list[Path]:
    oldest = time.time() - DAY
    return [
        path
        for path in reading.entries(store / "plans", "*.json")
        if is_job_plan(path) and path.stem not in live.plans and path.stat().st_mtime < oldest
    ]


def is_job_plan(path: Path) -> bool:
    """Return whether a plan file is that of jobs, named by its digest, not an experiment's last."""
    if not _JOB_PLAN.fullmatch(path.stem):
        return False
    return bool(json.loads(plan_text(path)).get("experiment") != path.stem)


def _trash(store: Path) -> list[Path]:
    return reading.entries(store / ".trash")


def size(path: Path) -> int:
    """Return the bytes of a file or of all files in a directory; links count as links."""
    if path.is_symlink() or not reading.is_folder(path):
        return path.lstat().st_size
    return sum(entry.lstat().st_size for entry in reading.files_below(path))


# Deletion -----------------------------------------------------------------------------------------


def delete(store: Path, dead: Dead) -> None:
    """Delete dead paths, by way of the trash.

    Raises:
        UserError: if the system refuses; the next call finds the rest again.
    """
    try:
        for key, paths in dead.nodes.items():
            _discard(store, key, paths)
        for folder in (*dead.memories, *dead.curves, *dead.reports):
            commit.to_trash(store, folder)
        for plan in dead.plans:
            plan.unlink(missing_ok=True)
        for path in _trash(store):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except OSError as error:
        raise UserError(
            f"the system does not let gc delete: {error}; run it as the owner."
        ) from error


def _discard(store: Path, key: str, paths: Iterable[Path]) -> None:
    """Move a node's directories to the trash, holding its claim."""
    lock = store / ".work" / f"{key}.lock"
    with commit.claimed(lock):
        for path in paths:
            if path != lock and not (_is_claim(path) and _is_fresh(path, time.time())):
                commit.to_trash(store, path)
