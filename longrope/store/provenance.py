"""Entries of a manifest besides its node: versions, commit, machine, peak memory."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

_RECORDED = (
    *("longrope", "torch", "transformers", "tokenizers", "safetensors", "numpy", "accelerate"),
    *("deepspeed", "datasets", "lm-eval", "snakemake"),
)
UNKNOWN = "unknown"
"""Commit of code whose commit cannot be determined."""
_REDIRECTIONS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_NAMESPACE")
"""Variables that direct git to another repository than the folder's; hooks set them."""


def facts() -> dict[str, object]:
    """Return time, versions, commit, machine and peak memory of this process, for a manifest."""
    peak_kib = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: version for name in _RECORDED if (version := _version(name))},
        "git": commit_of(Path(__file__).parents[1]),
        "machine": platform.machine(),
        "host": platform.node(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "device": _device(),
        "peak_memory_mb": round(peak_kib / 1024, 1),
    }


def commit_of(package: Path) -> dict[str, object]:
    """Return the commit of the repository whose package this is, and whether files differ from it.

    `commit` is UNKNOWN, with a `reason`, where git refuses and where the repository around the package is
    another project's, whose commits do not describe this code.
    """
    try:
        root = Path(_git(package, "rev-parse", "--show-toplevel"))
        if root != package.resolve().parent or not _is_longrope(root):
            raise _NoCommitError(f"{package} lies in another project's repository, {root}")
        _git(package, "ls-files", "--error-unmatch", "--", "__init__.py")
        commit = _git(package, "rev-parse", "--verify", "HEAD")
        return {"commit": commit, "dirty": bool(_git(package, "status", "--porcelain", "-uno"))}
    except _NoCommitError as error:
        return {"commit": UNKNOWN, "dirty": False, "reason": str(error)}


class _NoCommitError(Exception):
    """The reason why no commit can be determined."""


def _is_longrope(root: Path) -> bool:
    """Return whether a repository's project has the name of this package."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return bool(project["name"] == "longrope")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _git(folder: Path, *arguments: str) -> str:
    """Return what git prints about the repository of a folder; raises _NoCommitError if it refuses."""
    environment = {name: os.environ[name] for name in os.environ if name not in _REDIRECTIONS}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            # git must not write: the repository may be somebody else's.
            env=environment | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
        )
    except OSError as error:
        raise _NoCommitError(f"git could not be started ({error.strerror})") from None
    if done.returncode != 0:
        messages = done.stderr.strip().splitlines() or [f"git ended with {done.returncode}"]
        raise _NoCommitError(messages[0].removeprefix("fatal: "))
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> str:
    """Name the device without importing torch into a stage that did not."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return "cpu"
    return str(torch.cuda.get_device_name())
