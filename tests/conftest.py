"""Fixtures of the whole suite: tiny random models, and a folder with finished results."""

import shutil
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch
import workflow_runs
from tiny_models import ARCHITECTURES, build
from transformers import PreTrainedModel

# No test is timed: another process may have the machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture
def build_model() -> Callable[..., PreTrainedModel]:
    """Return `build`, for tests that change a configuration."""
    return build


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """Return a fresh tiny model of each architecture in turn."""
    return build(request.param)


@pytest.fixture
def llama() -> PreTrainedModel:
    """Return a fresh tiny Llama, for tests that need no more than one architecture."""
    return build("llama")


@pytest.fixture
def tokens() -> torch.Tensor:
    """Return 150 random token ids, more than twice the tiny models' window."""
    return torch.randint(0, 97, (150,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy, elsewhere and without Snakemake's memory, of a folder with finished results."""
    base = tmp_path_factory.getbasetemp()
    # A test process beside others has a folder of its own inside the common one.
    shared = base.parent if base.name.startswith("popen-") else base
    source = workflow_runs.finished_folder(shared)
    copy = tmp_path_factory.mktemp("a copy") / "a run"
    shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns(".snakemake"))
    return copy
