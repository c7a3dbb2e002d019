"""The full-scale configurations resolve to whole graphs without network, torch, GPU or Slurm."""

import os
import re
import subprocess
import sys

import pytest
from repository import ROOT

pytestmark = pytest.mark.workflow

TO_2048K = {
    "fetch": 8,
    "tokenize": 6,
    "search": 6,
    "finetune": 2,
    "readjust": 1,
    "evaluate": 13,
}
TO_128K = TO_2048K | {"fetch": 6, "tokenize": 4, "search": 2, "finetune": 1}
JOBS = {
    "llama2-7b": TO_2048K,
    "mistral-7b": TO_2048K,
    "llama3-8b": TO_128K,
    "phi3-mini": TO_128K,
}
RULES = {
    "fetch": "fetch_files",
    "tokenize": "tokenize_corpus",
    "search": "search_factors",
    "finetune": "finetune_model",
    "readjust": "readjust_factors",
    "evaluate": "evaluate_task",
}
DRY_RUN = [sys.executable, "-m", "snakemake", "-n", "--profile", "slurm"]
NO_TORCH = "raise ImportError('torch must not be imported to plan')\n"


@pytest.mark.parametrize("name", JOBS)
def test_a_full_scale_dry_run_plans_every_job(name, tmp_path):
    for module in ("torch", "transformers"):
        (tmp_path / f"{module}.py").write_text(NO_TORCH)
    environment = dict(os.environ) | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*DRY_RUN, "--configfile", f"config/{name}.yaml"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-2000:]
    counts = dict(re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE))
    planned = {kind: int(counts[rule]) for kind, rule in RULES.items()}
    assert planned == JOBS[name]
