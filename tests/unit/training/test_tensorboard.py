"""Curves for TensorBoard, read back by its own reader; without the package they are refused."""

import importlib.util

import numpy as np
import pytest
import watched_trainings
from killing import Interrupt
from small_trainings import SETTINGS, write_tokens
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from longrope.errors import UserError
from longrope.training.recording import Recorder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")
LOOKED_AT = [0, 4, 6]
"""steps at which `test_watching` measures perplexity"""


def trained(folder, *more):
    """Train in a folder, watched; return what was recorded, looked at and logged."""
    tokens = folder / "tokens"
    if not tokens.exists():
        write_tokens(tokens)
    recorder = Recorder(folder, tokens_per_step=4 * 64, curves=folder / "curves")
    watch = watched_trainings.watch(tokens)
    _, log = watched_trainings.trained(tokens, folder / "work", recorder, watch, *more)
    return recorder.measured, watch.entries, log


def read(folder):
    """Return step and value of every point by tag, as TensorBoard shows them."""
    reader = EventAccumulator(str(folder / "curves"))
    reader.Reload()
    return {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def near(entries, key):
    # its numbers have 32 bits
    return [(entry["step"], float(np.float32(entry[key]))) for entry in entries]


def test_its_curves_are_those_of_the_files(tmp_path):
    measured, watched, log = trained(tmp_path)
    curves = read(tmp_path)
    for key in ("loss", "learning_rate", "grad_norm"):
        assert curves.pop(f"train/{key}") == near(log, key)
    for key in ("seconds", "tokens_per_second", "resident_memory_mb", "peak_memory_so_far_mb"):
        assert curves.pop(f"measured/{key}") == near(measured, key)
    for length in (64, 256):
        seen = [entry for entry in watched if entry["length"] == length]
        assert [entry["step"] for entry in seen] == LOOKED_AT
        assert curves.pop(f"watched/perplexity_{length}") == near(seen, "perplexity")
    assert curves == {}
    assert len(log) == len(measured) == SETTINGS["num_steps"]


def test_curves_of_a_resumed_training_have_every_step_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, Interrupt(6))
    # the checkpoint is of step 4, and step 5 is done again
    measured, _, log = trained(tmp_path)
    curves = read(tmp_path)
    assert curves["train/loss"] == near(log, "loss")
    assert curves["measured/seconds"] == near(measured, "seconds")
    assert [step for step, _ in curves["watched/perplexity_64"]] == LOOKED_AT
    assert len(list((tmp_path / "curves").iterdir())) == 2


def test_without_the_package_they_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec

    def without(name, *args):
        return None if name == "tensorboard" else find_spec(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(UserError, match=r"needs the package tensorboard, .* 'longrope.train.'"):
        trained(tmp_path)
    assert not (tmp_path / "work").exists()
