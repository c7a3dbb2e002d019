"""Curves for TensorBoard, read back by its own reader; without the package they are refused."""

import importlib.util

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training import SETTINGS, encode, mix, write_tokens
from tiny_models import build

from longrope.corpora import TokenStore
from longrope.errors import UserError
from longrope.training import train
from longrope.training_data import Chunks

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")


def trained(folder, curves):
    """Train in a folder and return the log."""
    rows = Chunks(TokenStore(write_tokens(folder / "tokens")), encode, mix())
    work = folder / "work"
    return train(build("llama"), rows, SETTINGS, work=work, micro_batch_size=2, curves=curves).log


def test_its_curves_are_those_of_the_log(tmp_path):
    log = trained(tmp_path, tmp_path / "curves")
    reader = EventAccumulator(str(tmp_path / "curves"))
    reader.Reload()
    for tag in ("loss", "learning_rate", "grad_norm"):
        read = [(event.step, event.value) for event in reader.Scalars(f"train/{tag}")]
        # its numbers have 32 bits
        assert read == [(entry["step"], pytest.approx(entry[tag], rel=1e-6)) for entry in log]
    assert len(log) == SETTINGS["num_steps"]


def test_without_the_package_they_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    found = importlib.util.find_spec

    def without(name, *args):
        return None if name == "tensorboard" else found(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(UserError, match=r"needs the package tensorboard, .* 'longrope.train.'"):
        trained(tmp_path, tmp_path / "curves")
    assert not list(tmp_path.rglob("checkpoint-*"))
