"""What a manifest says besides the node: versions, commit, machine, peak memory."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

_RECORDED = (
    *("longrope", "torch", "transformers", "tokenizers", "safetensors", "numpy", "accelerate"),
    *("deepspeed", "datasets", "lm-eval", "snakemake"),
)


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
        "git": {
            "commit": _git("rev-parse", "HEAD"),
            "dirty": bool(_git("status", "--porcelain", "-uno")),
        },
        "machine": platform.machine(),
        "host": platform.node(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "device": _device(),
        "peak_memory_mb": round(peak_kib / 1024, 1),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    try:
        # Of the code, wherever the job runs.
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _device() -> str:
    """Name the device without importing torch into a stage that did not."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return "cpu"
    return str(torch.cuda.get_device_name())
