"""Trainings that diverge or are told to end: what is kept, and what a next start makes of it."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import node_settings
import parallel_runs
import pytest
from parallel_runs import case, torchrun
from repository import HELPERS
from small_trainings import SETTINGS, TOKENIZER, mix, write_tokens
from tiny_models import build
from token_stores import write_store

from longrope.data.token_store import TokenStore
from longrope.errors import UserError
from longrope.training.rows import Chunks
from longrope.training.trainer import last_checkpoint, refuse_divergence, train

TESTS = HELPERS
STEEP = {"learning_rate": 1e30, "num_steps": 6}
"""steps 1 and 2 are finite: the warm-up begins at a rate of 0"""

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")


# Divergence ---------------------------------------------------------------------------------------


def training(folder, work, model, **changes):
    tokens = folder / "tokens"
    if not tokens.exists():
        write_tokens(tokens)
    rows = Chunks(TokenStore(tokens), TOKENIZER, mix())
    return train(
        model, rows, **node_settings.training(SETTINGS | changes), work=work, micro_batch_size=2
    )


def test_a_loss_that_is_no_number_ends_the_training_and_leaves_the_checkpoint_before(tmp_path):
    with pytest.raises(UserError) as refused:
        training(tmp_path, tmp_path / "work", build("llama"), **STEEP)
    sentence = str(refused.value)
    assert "diverged at step 3: loss nan, gradient norm nan" in sentence
    assert "the checkpoint of step 2 is kept; lower finetune.learning_rate" in sentence
    names = [path.name for path in (tmp_path / "work" / "_checkpoints").iterdir()]
    assert names == ["checkpoint-2"]


def test_a_gradient_that_is_not_finite_ends_the_training_though_its_loss_is(tmp_path):
    model, rows_seen = build("llama"), []

    def spoil(gradient):
        rows_seen.append(gradient)
        return gradient * math.inf if len(rows_seen) > 6 else gradient

    model.model.embed_tokens.weight.register_hook(
        spoil
    )  # once for each of two micro-batches a step
    with pytest.raises(
        UserError, match=r"at step 4: loss \d.*, gradient norm (nan|inf); .* step 2 "
    ):
        training(tmp_path, tmp_path / "work", model)


def test_a_training_that_diverges_before_its_first_checkpoint_says_that_there_is_none(tmp_path):
    with pytest.raises(UserError, match="nothing was committed and no checkpoint is there yet"):
        training(tmp_path, tmp_path / "work", build("llama"), **STEEP, checkpoint_steps=50)


def test_a_next_start_goes_on_at_the_checkpoint_that_was_kept(tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match="diverged at step 3"):
            training(tmp_path, tmp_path / "work", build("llama"), **STEEP)
    state = json.loads((tmp_path / "work/_checkpoints/checkpoint-2/trainer_state.json").read_text())
    assert [math.isfinite(entry["loss"]) for entry in state["log_history"]] == [True, True]


@pytest.mark.parametrize("norm", [math.nan, math.inf, -1.0])
def test_a_norm_that_is_not_finite_is_refused_in_every_way_it_is_told(norm):
    with pytest.raises(UserError, match="diverged at step 7"):
        refuse_divergence({"loss": 2.0, "grad_norm": norm}, step=7, saved_step=0)
    refuse_divergence({"loss": 2.0, "grad_norm": 0.0}, step=7, saved_step=0)


# SIGTERM ------------------------------------------------------------------------------------------


TERMINATED = """
    import sys
    sys.path.insert(0, {tests!r})
    import killing
    from longrope.cli import main as cli

    killing.end_at(0, {step}, killing.terminate, event={event!r})
    sys.exit(cli.main(["run", {key!r}, "--plan", {plan!r}, "--store", {store!r}]))
"""


def run_terminated(key, plan, store, step, event):
    script = TERMINATED.format(
        tests=str(TESTS), step=step, event=event, key=key, plan=str(plan), store=str(store)
    )
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def edited(plan, **settings):
    content = json.loads(plan.read_text())
    content["nodes"]["finetune/tiny-0"]["settings"]["training"] |= settings
    plan.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("step", "event", "saved"),
    [(3, "on_substep_end", 3), (2, "on_step_end", 2), (6, "on_step_end", 6)],
    ids=["in the middle of a step", "where a checkpoint is due", "after the last step"],
)
def test_a_terminated_training_saves_a_checkpoint_and_resumes_to_the_same_bits(
    tmp_path, step, event, saved
):
    key, plan = write_store(tmp_path, tmp_path / "told")
    store, work = tmp_path / "told", tmp_path / "told/.work" / key
    done = run_terminated(key, plan, store, step, event)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert last_checkpoint(work / "_checkpoints") == str(work / f"_checkpoints/checkpoint-{saved}")
    assert not (store / key).exists()
    assert not list(work.parent.glob("*.lock*")), "the claim is given back"
    shutil.copytree(tmp_path / "told", tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole/.work")
    for name in ("told", "whole"):
        command = [sys.executable, "-m", "longrope", "run", key, "--plan", plan]
        again = subprocess.run([*command, "--store", tmp_path / name], capture_output=True)
        assert again.returncode == 0, again.stderr.decode()[-3000:]
    for name in ("log.jsonl", "model/model.safetensors"):
        ends = [(tmp_path / place / key / name).read_bytes() for place in ("told", "whole")]
        assert ends[0] == ends[1], name


# Two processes ------------------------------------------------------------------------------------


APART = {"zero_stage": 2, "sequence_parallel": 1}
SHARED = {"zero_stage": 3, "sequence_parallel": 2}
DIVERGING = {"two stages": APART, "three stages": SHARED, "no stage": {"zero_stage": 0}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return what every run left behind, by name, and their folder."""
    folder = tmp_path_factory.mktemp("runs")
    steep = STEEP | {"refused": True}
    apart = case(folder / "apart", num_steps=6, **APART)
    shared = case(folder / "shared", num_steps=6, **SHARED)
    first = {name: case(folder / name, **steep, **more) for name, more in DIVERGING.items()}
    first["told"] = apart | {"terminate": [1, 3]}
    second = {"resumed": apart, "whole": apart | {"work": str(folder / "whole")}}
    # what was said to torchrun reaches all
    second["told all"] = shared | {"terminate launcher": [0, 3]}
    third = {"resumed all": shared, "whole all": shared | {"work": str(folder / "whole all")}}
    script, results, results_by_name = (
        Path(parallel_runs.__file__),
        folder / "results.json",
        {"said": []},
    )
    for more in (first, second, third):
        done = torchrun(script, json.dumps(list(more.values())), results)
        assert (done.returncode == 0) == (more is third), done.stderr[-5000:]
        results_by_name |= dict(zip(more, json.loads(results.read_text()), strict=False))
        results_by_name["said"].append(done.stderr)
    return results_by_name | {"folder": folder}


@pytest.mark.parametrize("name", DIVERGING)
def test_every_process_ends_a_training_that_diverges(runs, name):
    # DeepSpeed's norm can overflow a step before the loss is no number
    assert re.search("at step 3: loss .*, gradient norm (nan|inf);", runs[name]["refusal"])
    assert "the checkpoint of step 2 is kept" in runs[name]["refusal"]
    names = [path.name for path in (runs["folder"] / name).glob("_*/checkpoint-*")]
    assert names == ["checkpoint-2"]


@pytest.mark.parametrize(("number", "after"), [(0, ""), (1, " all")], ids=["one told", "torchrun"])
def test_two_processes_save_one_checkpoint_when_one_or_torchrun_is_told_to_end(runs, number, after):
    said = runs["said"][number]
    assert said.count("told to end; step 3 is saved") == 1, said[-3000:]
    resumed, whole = runs[f"resumed{after}"], runs[f"whole{after}"]
    assert resumed["log"] == whole["log"]
    assert resumed["weights"] == whole["weights"]
