"""Execution context of a stage: inputs, store and workers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from longrope.settings.nodes import NodeRuntime


@dataclass(frozen=True)
class Input:
    """One input of a stage."""

    path: Path
    """folder of the node, or the folder that raw file names are relative to"""
    identity: str
    """digest of the node, or of the raw files' names and contents"""
    files: tuple[str, ...] = ()
    """names of raw files below `path`; empty for a node"""


@dataclass(frozen=True)
class Workers:
    """Workers that score the candidates of a search."""

    count: int = 1
    """processes on this host, one for each GPU; ignored with a scheduler"""
    threads: int = 1
    """for arithmetic in each worker; last digits depend on it, so it is the same for any count"""
    timeout: float | None = None
    """seconds after which a worker that has not scored its document is replaced; None: never"""
    scheduler: Path | None = None
    """scheduler file of a Dask cluster whose workers score instead"""


@dataclass(frozen=True)
class Runtime:
    """Choices that do not change results."""

    store: Path
    packages: Path
    """folder of downloaded archives"""
    options: NodeRuntime = field(default_factory=NodeRuntime)
    scoring_code: str = ""
    """identity of the scoring code; scores remembered from other code are not used"""
    workers: Workers = Workers()
    scratch: Path | None = None
    """folder for a task's temporary entries, whose names begin with an underscore; None: the system's"""


Facts = Mapping[str, object]
"""further entries of a node's manifest, such as the number of skipped rows"""
Inputs = Mapping[str, Input]
