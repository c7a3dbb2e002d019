"""Fixtures of the whole suite: tiny random models, and a folder with finished results.

Imports no torch by itself: `make test-pythons` runs the tests that need none where there is none.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torchless
import workflow_runs

from longrope.architectures import ARCHITECTURES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# No test is timed: another process may have the machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.register_profile("brief", deadline=None, max_examples=15)
hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Skip a test that imports torch by itself where there is none."""
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if torchless.HAS_TORCH or error.name not in torchless.ABSENT:
            raise
        pytest.skip(f"needs {error.name}")


@pytest.fixture
def build_model() -> Callable[..., PreTrainedModel]:
    """Return `build`, for tests that change a configuration."""
    from tiny_models import build

    return build


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """Return a fresh tiny model of each architecture in turn."""
    from tiny_models import build

    return build(request.param)


@pytest.fixture
def llama() -> PreTrainedModel:
    """Return a fresh tiny Llama, for tests that need no more than one architecture."""
    from tiny_models import build

    return build("llama")


@pytest.fixture
def tokens() -> torch.Tensor:
    """Return 150 random token ids, more than twice the tiny models' window."""
    import torch

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
