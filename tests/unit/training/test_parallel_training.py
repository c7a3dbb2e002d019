"""Training over processes: pieces of rows, tiles, and runs of two processes against one."""

import json
import os
import re
import shlex
import shutil
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import parallel_runs
import pytest
import torch
import workflow_files
import workflow_runs
import yaml
from hypothesis import given
from hypothesis import strategies as st
from parallel_runs import Rows, case, torchrun
from small_trainings import write_tokens
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from token_stores import write_store
from tolerances import REORDERED, REORDERED_NORM
from torch.utils.checkpoint import checkpoint

from longrope.cli.ranks import Ranks
from longrope.errors import UserError
from longrope.plan import build as plan
from longrope.settings import loading as configuration
from longrope.settings.training import ParallelSettings, check_division
from longrope.training.parallel import Layout, MicroBatchSampler, RowShards
from longrope.training.tiling import activations_in_main_memory, return_summed_loss

SCRIPT = Path(parallel_runs.__file__)
GROUPED = ["mistral", "phi3", "qwen2", "qwen3"]
"""architectures besides llama, of 4 query and 2 key-value heads in these tests"""
APART = {"zero_stage": 2, "sequence_parallel": 1}
"""each process has rows of its own"""
DIVIDED = {"mixed": True, "micro_batch_size": 2} | APART
"""rows of pieces on two processes"""
MOVED = ["optimizer", "all"]
"""what may wait in main memory"""
AUTOCAST = {"num_steps": 6, "dtype": "bfloat16"}
ROOT = SCRIPT.parents[2]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")


# Who works on what --------------------------------------------------------------------------------

TOLERANCES = {"loss": REORDERED, "grad_norm": REORDERED_NORM, "learning_rate": 1e-12}


@given(
    groups=st.integers(1, 4),
    size=st.integers(1, 3),
    micro=st.integers(1, 3),
    more=st.integers(1, 3),
)
def test_every_optimizer_step_takes_the_rows_that_one_process_takes(groups, size, micro, more):
    batch = groups * micro * more
    layouts = [Layout(groups * size, rank, size) for rank in range(groups * size)]
    assert all(layout.accumulation(batch, micro) == more for layout in layouts)
    places = [list(MicroBatchSampler(layout, 3 * batch, micro)) for layout in layouts]
    for step in range(3):
        by_process = [list(chain(*rows[step * more : (step + 1) * more])) for rows in places]
        taken = sorted(chain(*by_process[::size]))
        assert taken == list(range(step * batch, (step + 1) * batch))
        # those of a group work on the same rows
        assert all(
            by_process[rank] == by_process[rank - rank % size] for rank in range(len(layouts))
        )


def test_the_pieces_of_a_row_make_the_row_and_every_token_but_the_last_has_its_target():
    rows = Rows(12, 1)
    shards = [RowShards(rows, Layout(3, rank, 3))[0] for rank in range(3)]
    whole = {name: torch.cat([piece[name] for piece in shards]) for name in shards[0]}
    tokens = rows[0]["input_ids"]
    assert torch.equal(whole["input_ids"], tokens)
    assert whole["position_ids"].tolist() == list(range(12))
    assert whole["targets"].tolist() == [*tokens[1:].tolist(), -100]


def test_what_cannot_be_divided_among_the_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="sequence_parallel 3 must divide the number of processes"):
        Layout.of(ParallelSettings(sequence_parallel=3), 1023, {})
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2}
    with pytest.raises(UserError, match=r"must divide the 1022 text length; .*parallel to 2\."):
        Layout.of(ParallelSettings(sequence_parallel=4), 1022, heads)
    with pytest.raises(UserError, match=r"must divide the 2 key-value heads; .*parallel to 2\."):
        check_division(4, 1024, heads)
    with pytest.raises(UserError, match=r"num_key_value_heads, which a gpt_neox .*parallel to 1"):
        check_division(2, 1024, {"num_attention_heads": 8, "model_type": "gpt_neox"})
    check_division(1, 1024, {"num_attention_heads": 8, "model_type": "gpt_neox"})
    with pytest.raises(UserError, match="times 2 devices of 2 processes must divide"):
        Layout.of(ParallelSettings(sequence_parallel=2), 1024, heads).accumulation(6, 2)


@pytest.mark.parametrize(
    ("length", "query_heads", "groups", "expected"),
    [(1024, 32, 32, 16), (1024, 32, 8, 8), (1024, 12, 12, 4), (1022, 32, 32, 2), (1021, 32, 32, 1)],
)
def test_as_many_of_sixteen_processes_share_a_row_as_divide_it_and_all_heads(
    monkeypatch, length, query_heads, groups, expected
):
    monkeypatch.setenv("WORLD_SIZE", "16")
    heads = {"num_attention_heads": query_heads, "num_key_value_heads": groups}
    assert Layout.of(ParallelSettings(), length, heads).group_size == expected
    assert Layout.of(ParallelSettings(zero_stage=0), length, heads).group_size == 1
    lacking = heads | {"model_type": "gpt_neox"}
    assert Layout.of(ParallelSettings(), length, lacking).group_size == 1
    assert Layout.of(ParallelSettings(), 1024, {}).group_size == 16


def edited(folder, edit):
    """Return the plan of the smallest experiment after an edit of its settings."""
    workflow_files.write_experiment(folder)
    settings = workflow_files.settings()
    edit(settings)
    return plan.build(configuration.parse(settings, source="small.yaml"), folder)


@pytest.mark.parametrize(
    ("micro", "batch", "near"), [(3, 2, 2), (3, 64, 2), (7, 9, 3), (4, 96, None)]
)
def test_a_micro_batch_that_does_not_divide_the_batch_is_refused_before_anything_is_planned(
    tmp_path, micro, batch, near
):
    def edit(settings):
        settings["micro_batch_size"] = micro
        settings["extension"][0]["finetune"]["batch_size"] = batch

    if near is None:
        edited(tmp_path, edit)
        return
    sentence = (
        f"micro_batch_size {micro} must divide finetune.batch_size {batch}; set .* to {near}."
    )
    with pytest.raises(UserError, match=sentence):
        edited(tmp_path, edit)


def test_heads_that_cannot_be_divided_are_refused_before_anything_is_planned(tmp_path):
    workflow_files.write_experiment(tmp_path)
    settings = workflow_files.settings()
    settings["extension"][0]["finetune"]["parallel"] = {"sequence_parallel": 4}
    with pytest.raises(UserError, match="must divide the 2 key-value heads"):
        plan.build(configuration.parse(settings, source="small.yaml"), tmp_path)


def test_how_training_is_spread_is_in_no_digest_and_reaches_its_node(tmp_path):
    workflow_files.write_experiment(tmp_path)
    settings = workflow_files.settings()
    planned = []
    for parallel in ({}, {"zero_stage": 2, "sequence_parallel": 2, "tile_length": 64}):
        settings["extension"][0]["finetune"]["parallel"] = parallel
        planned.append(plan.build(configuration.parse(settings, source="small.yaml"), tmp_path))
    first, other = planned
    assert first.by_key.keys() == other.by_key.keys()
    (node,) = other.of("finetune")
    expected = ParallelSettings(zero_stage=2, sequence_parallel=2, tile_length=64)
    assert node.runtime.parallel == expected


def test_checkpoints_of_another_layout_are_not_looked_at():
    layouts = [
        Layout(2, 0, 2, 3),
        Layout(2, 0, 1, 3),
        Layout(4, 0, 2, 3),
        Layout(2, 0, 2, 2),
        Layout(),
    ]
    assert len({layout.name for layout in layouts}) == len(layouts)
    assert Layout(2, 1, 2, 3).name == Layout(2, 0, 2, 3).name


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"offload": "all", "zero_stage": 2}, "offload: all needs zero_stage 3"),
        ({"offload": "optimizer", "zero_stage": 0}, "needs zero_stage 2 or 3"),
        ({"sequence_parallel": 2, "zero_stage": 0}, "needs zero_stage 2 or 3"),
        ({"tiled_mlp": True}, "tiled_mlp needs tile_length"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        ParallelSettings.model_validate(settings)


# Tiles --------------------------------------------------------------------------------------------


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_tiles_change_neither_loss_nor_gradients_of_any_architecture(model):
    tokens = torch.randint(2, 97, (2, 50), generator=torch.Generator().manual_seed(3))
    model.train()
    expected = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    expected.backward()
    untiled = gradients(model)
    names = list(model.state_dict())
    model.zero_grad()
    return_summed_loss(model, tile_length=7, tiled_mlp=True)
    targets = torch.cat([tokens[:, 1:], torch.full((2, 1), -100)], dim=1)
    places = torch.arange(50).expand(2, -1)
    loss = model(input_ids=tokens, position_ids=places, targets=targets) / (2 * 49)
    loss.backward()
    # as for two processes, below: float32 products of 7 rows and of 50 add up in other orders
    assert loss.item() == pytest.approx(expected.item(), rel=REORDERED)
    assert list(model.state_dict()) == names
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, untiled[name], rtol=1e-4, atol=1e-6)


def test_kept_hidden_states_go_to_main_memory_and_come_back_as_they_were():
    weight = torch.ones(8, 8, requires_grad=True)
    hidden = torch.arange(32.0).reshape(1, 4, 8).requires_grad_()
    with activations_in_main_memory(8):
        between = hidden * 1
        linear = torch.nn.functional.linear
        output = checkpoint(linear, between, weight, use_reentrant=False).sum()
    between.data.zero_()  # what was kept is a copy
    output.backward()
    assert torch.equal(weight.grad[0], torch.arange(32.0).reshape(4, 8).sum(0))


# Two processes ------------------------------------------------------------------------------------
#
# Parts of rows and sums over processes are added up in other orders, in float32 (2**-24 = 6e-8): measured,
# losses and norms differ by 2e-7 at most. 1e-5 is for processors whose products add up in orders of their
# own, and still finds a factor, a row or a piece that is wrong.


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return what every run left behind, by name."""
    folder = tmp_path_factory.mktemp("runs")
    compiled = folder / "compiled"
    long = {"length": 1024, "micro_batch_size": 2}
    tiles = {"tile_length": 100, "tiled_mlp": True, "offload_activations": True}
    text = str(write_tokens(folder / "tokens"))
    # 24 rows of 10 chunks: a third epoch begins after the checkpoint of step 4
    scaled = {"num_steps": 6, "scaled": True, "text": text}
    watched = scaled | {"watched": text}
    killed = case(folder / "killed", **watched)
    cases = {
        "shared": case(folder / "shared", **long),
        "tiled": case(folder / "tiled", **long, **tiles),
        "mixed": case(folder / "mixed", mixed=True, micro_batch_size=2, tile_length=10),
        "divided": case(folder / "divided", **DIVIDED, curves=str(folder / "curves")),
        **{name: case(folder / name, architecture=name) for name in GROUPED},
        **{name: case(folder / name, offload=name) for name in MOVED},
        "unwatched": case(folder / "unwatched", **scaled),
        "whole": case(folder / "whole", **watched),
        "autocast": case(folder / "autocast", **AUTOCAST),
        "travelling": case(folder / "travelling", **AUTOCAST, **APART),
        "killed": killed | {"kill": [1, 5]},
    }
    failing = case(folder / "failing") | {"fail": [1, 1]}
    results_by_name = {"said": []}
    results = folder / "results.json"
    for more in (cases, {"resumed": killed, "failing": failing}):
        texts = json.dumps(list(more.values())), results
        done = torchrun(SCRIPT, *texts, TORCH_EXTENSIONS_DIR=str(compiled))
        assert done.returncode != 0, "the last of the cases ends the job"
        results_by_name |= dict(zip(more, json.loads(results.read_text()), strict=False))
        results_by_name["said"].append(done.stderr)
    results_by_name["compiled"] = list(compiled.glob("*"))
    results_by_name["curves"] = folder / "curves"
    return results_by_name


@pytest.mark.parametrize("name", ["shared", "tiled"])
def test_two_processes_that_share_rows_have_the_losses_and_gradients_of_one(runs, name, tmp_path):
    alone = parallel_runs.compute(case(tmp_path, length=1024, micro_batch_size=2))
    assert len(alone["log"]) == len(runs[name]["log"]) == 3
    for single, two in zip(alone["log"], runs[name]["log"], strict=True):
        for key in ("loss", "grad_norm", "learning_rate"):
            assert two[key] == pytest.approx(single[key], rel=TOLERANCES[key]), key


@pytest.mark.parametrize("architecture", GROUPED)
def test_two_processes_share_the_heads_of_every_architecture_with_groups(
    runs, architecture, tmp_path
):
    alone = parallel_runs.compute(case(tmp_path, architecture=architecture))
    for single, two in zip(alone["log"], runs[architecture]["log"], strict=True):
        for key in ("loss", "grad_norm"):
            assert two[key] == pytest.approx(single[key], rel=TOLERANCES[key]), key


@pytest.mark.parametrize("name", ["mixed", "divided"])
def test_two_processes_have_the_losses_and_gradients_of_one_on_rows_of_short_pieces(
    runs, name, tmp_path
):
    alone = parallel_runs.compute(case(tmp_path, mixed=True, micro_batch_size=2))
    for single, two in zip(alone["log"], runs[name]["log"], strict=True):
        for key in ("loss", "grad_norm"):
            assert two[key] == pytest.approx(single[key], rel=TOLERANCES[key]), key


def test_two_groups_of_two_processes_have_the_losses_and_gradients_of_one(tmp_path):
    results = tmp_path / "results.json"
    # null: of four processes two share a row, for there are 2 key-value heads
    four = [case(tmp_path / "four")]
    done = torchrun(SCRIPT, json.dumps(four), results, processes=4)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list((tmp_path / "four").iterdir()) == [tmp_path / "four" / "_checkpoints-zero3-4x2"]
    (result,) = json.loads(results.read_text())
    alone = parallel_runs.compute(case(tmp_path))
    for single, two in zip(alone["log"], result["log"], strict=True):
        for key in ("loss", "grad_norm"):
            assert two[key] == pytest.approx(single[key], rel=TOLERANCES[key]), key


def test_of_several_processes_the_first_alone_writes_curves(runs):
    (written,) = runs["curves"].iterdir()
    reader = EventAccumulator(str(written))
    reader.Reload()
    losses = [(event.step, event.value) for event in reader.Scalars("train/loss")]
    log = runs["divided"]["log"]
    assert losses == [(entry["step"], float(np.float32(entry["loss"]))) for entry in log]


def test_two_processes_that_share_rows_resume_after_a_kill_to_the_same_bits(runs):
    resumed, whole = runs["resumed"], runs["whole"]
    assert resumed["weights"] == whole["weights"]
    keys = ("step", "loss", "grad_norm", "learning_rate")
    assert len(whole["log"]) == 6
    for again, two in zip(resumed["log"], whole["log"], strict=True):
        assert [again[key] for key in keys] == [two[key] for key in keys]


def test_divided_weights_are_watched_as_whole_ones_are_and_do_not_notice(runs, tmp_path):
    resumed, whole, unwatched = runs["resumed"], runs["whole"], runs["unwatched"]
    assert whole["weights"] == unwatched["weights"]
    assert resumed["watched"] == whole["watched"]
    tokens = write_tokens(tmp_path / "tokens")
    text = {"text": str(tokens), "watched": str(tokens)}
    alone = parallel_runs.compute(case(tmp_path, num_steps=6, scaled=True, **text))
    assert len(alone["watched"]) == 8  # two lengths at steps 0, 2, 4 and 6
    for single, two in zip(alone["watched"], whole["watched"], strict=True):
        assert two == single | {"perplexity": pytest.approx(single["perplexity"], rel=1e-4)}


def test_a_process_that_dies_ends_the_job_and_its_signal_is_shown(runs):
    assert "Signal 9 (SIGKILL)" in runs["said"][0]


def test_a_process_that_raises_ends_the_job_and_its_error_is_shown(runs):
    assert runs.keys().isdisjoint({"killed", "failing"})
    assert "RuntimeError: a mistake in one process of two" in runs["said"][1]
    assert "exitcode  : 1" in runs["said"][1]


@pytest.mark.parametrize("name", MOVED)
def test_two_processes_with_weights_or_optimizer_in_main_memory_have_the_losses_of_one(
    runs, name, tmp_path
):
    alone = parallel_runs.compute(case(tmp_path))
    for single, two in zip(alone["log"], runs[name]["log"], strict=True):
        for key in ("loss", "grad_norm"):
            assert two[key] == pytest.approx(single[key], rel=TOLERANCES[key]), key


def test_two_processes_under_autocast_have_the_losses_of_one_but_for_its_rounding(runs, tmp_path):
    alone = parallel_runs.compute(case(tmp_path, **AUTOCAST))
    # bfloat16 keeps 8 bits (2**-9 = 2e-3). Where rows are divided each product rounds other sums. Where they
    # are not, weights part by the last float32 bit from step 3 on, and one that bfloat16 then rounds the
    # other way moves the gradients of all.
    for name in ("autocast", "travelling"):
        for single, two in zip(alone["log"], runs[name]["log"], strict=True):
            assert two["loss"] == pytest.approx(single["loss"], rel=3e-3)
    # The first rate is 0, so steps 1 and 2 have the same weights: products of whole rows are rounded alike
    # and float32 sums of gradients differ in their order, by 1e-7; sent in bfloat16, by 1e-5.
    for single, two in zip(alone["log"][:2], runs["travelling"]["log"], strict=False):
        assert two["loss"] == pytest.approx(single["loss"], rel=1e-6)
        assert two["grad_norm"] == pytest.approx(single["grad_norm"], rel=2e-6)


def test_nothing_is_compiled_on_a_cpu(runs):
    assert runs["compiled"] == []


def test_a_node_is_computed_by_two_processes_and_killed_ones_resume_to_the_same_bits(tmp_path):
    key, plan = write_store(tmp_path, tmp_path / "whole")
    store = shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    nodes = [
        {"key": key, "plan": str(plan), "store": str(tmp_path / "whole"), "kill": None},
        {"key": key, "plan": str(plan), "store": str(store), "kill": [1, 5]},
    ]
    done = torchrun(SCRIPT, json.dumps(nodes), tmp_path / "unused")
    assert "Signal 9 (SIGKILL)" in done.stderr, done.stderr[-3000:]
    assert (store / ".work" / key).is_dir() and not (store / key).exists()
    for token in store.glob(".work/*/*.lock/*"):
        os.utime(token, (0, 0))  # or the claim of the killed would be respected for a minute
    done = torchrun("-m", "longrope", "run", key, key, "--plan", plan, "--store", store)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("verified, not computed again") == 1
    assert not list((store / ".work").glob("*/*"))
    resumed, whole = store / key, tmp_path / "whole" / key
    names = {path.name for path in resumed.iterdir()}
    assert names == {
        "DONE",
        "factors.json",
        "log.jsonl",
        "manifest.json",
        "measured.jsonl",
        "model",
    }
    for name in ("factors.json", "log.jsonl", "model/config.json", "model/model.safetensors"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name
    measured = (resumed / "measured.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in measured] == [1, 2, 3, 4, 5, 6]
    # one bar, of the first process, which begins at the checkpoint
    assert re.findall(r"finetune: +\d+%\|[^\r]*?\| (\d)/6 \[", done.stderr)[0] == "4"
    assert len(re.findall(r" 4/6 \[", done.stderr)) == 1


# The rule -----------------------------------------------------------------------------------------


SHAPE = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 96,
    "vocab_size": 400,
}


def shell_command(folder, group_size):
    """Return how Snakemake would start the fine-tuning of an experiment, and its resources."""
    settings = workflow_files.settings() | {"hardware": "h100-80"}
    settings["extension"][0]["finetune"]["parallel"] = {"sequence_parallel": group_size}
    settings["model"]["shape"] = SHAPE
    (folder / "small.yaml").write_text(yaml.safe_dump(settings))
    arguments = ("-n", "-p", "--until", "finetune_model")
    done = workflow_runs.run(folder, "small.yaml", *arguments)
    assert done.returncode == 0, done.stderr
    script = (done.stdout + done.stderr).split("rule finetune_model:")[1]
    resources = re.search(r"resources: (.*)", script)
    command = re.search(r"OMP_WAIT_POLICY=PASSIVE (.* run finetune/.*)", script)
    return shlex.split(command[1]), dict(pair.split("=") for pair in resources[1].split(", "))


def test_the_rule_starts_a_process_per_gpu_and_on_several_nodes_through_srun(tmp_path):
    workflow_files.write_experiment(tmp_path)
    words, resources = shell_command(tmp_path, 1)
    assert words[:4] == [sys.executable, "-m", "longrope", "run"]
    assert (resources["gres"], "mpi" in resources) == ("gpu:1", False)
    words, resources = shell_command(tmp_path, 4)
    torchrun = ["-m", "torch.distributed.run"]
    assert words[1:7] == [*torchrun, "--standalone", "--nproc-per-node=4", "-m", "longrope"]
    assert words[words.index("--threads") + 1] == "1"
    assert (resources["gres"], "mpi" in resources) == ("gpu:4", False)
    words, resources = shell_command(tmp_path, 16)
    # a core per process, of the two that the run is given
    places = ["--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=2"]
    assert words[:8] == ["srun", *places, "--kill-on-bad-exit=1", "bash", "-c"]
    # what each task of srun runs: bash sets "$0" and "$@" to the words behind its script
    script, *rest = words[words.index("-c") + 1 :]
    assert rest[:3] == [sys.executable, "--nproc-per-node=8", "-m"]
    recipe = (ROOT / "tests/slurm/several_nodes.smk").read_text()
    for word in script.split()[1:]:
        assert word in recipe
    expected = {"gres": "gpu:8", "nodes": "2", "tasks": "2", "tasks_per_gpu": "0", "mpi": "srun"}
    assert expected.items() <= resources.items()


def test_what_a_launcher_left_in_the_environment_is_not_followed(monkeypatch, capsys):
    for name, value in (("WORLD_SIZE", "8"), ("RANK", "3"), ("MASTER_ADDR", "gone")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert Ranks.of_job() is None
    assert not {"WORLD_SIZE", "RANK", "MASTER_ADDR"} & os.environ.keys()
    assert (
        "WORLD_SIZE, RANK, MASTER_ADDR of the environment not followed" in capsys.readouterr().err
    )
