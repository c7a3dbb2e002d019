"""The cost model against hand-computed values, against torch's counters and against measured memory."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cost_cases import FINETUNE, LLAMA, LLAMA2, ROOT, K, machine, planned, shape_of
from hypothesis import given
from hypothesis import strategies as st
from repository import HELPERS
from searches import PROBLEM, SMALL, FakeObjective, away_from_four, make
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from longrope.cost import estimate as cost
from longrope.cost.estimate import Requirements, estimate, requirements, together
from longrope.cost.shapes import HEAD_ROWS, Shape
from longrope.errors import UserError
from longrope.models import scoring
from longrope.models.loading import geometry, load_model
from longrope.plan import build as plan
from longrope.rope.methods import closed_form
from longrope.search.driver import search
from longrope.settings import loading as configuration
from longrope.settings.nodes import NodeRuntime
from longrope.settings.tasks import MULTIPLE_CHOICE_PROMPTS
from longrope.settings.training import ParallelSettings
from longrope.tasks import multiple_choice

TINY = ROOT / "resources/tiny-llama"
DAY = 86400
SEARCH = {
    "algorithm": "evolution",
    "population_size": 64,
    "num_mutations": 16,
    "num_crossovers": 16,
    "num_iterations": 40,
    "num_documents": 5,
    "target_length": 256 * K,
    "dtype": "bfloat16",
}
CMA = {
    "algorithm": {"name": "cma"},
    "num_documents": 5,
    "start_tokens": [0, 4, 8],
    "target_length": 256 * K,
    "dtype": "bfloat16",
}
PERPLEXITY = {
    "task": "perplexity",
    "method": "yarn",
    "protocol": "window",
    "lengths": {"a": [100, 300], "b": [200]},
    "num_documents": {"a": 10, "b": 3},
    "dtype": "bfloat16",
}
PASSKEY = {"task": "passkey", "lengths": [100, 300], "num_depths": 5, "num_trials": 2}
BENCHMARKS = {"task": "benchmarks", "tasks": {"mmlu": 5}, "max_items": 24, "max_length": 100}


def tiny_shape() -> Shape:
    return shape_of(AutoConfig.from_pretrained(TINY).to_dict())


# Hand-computed values -----------------------------------------------------------------------------


def test_llama2_7b_has_the_parameters_that_its_name_says():
    # 32 layers of 4 * 4096^2 + 3 * 4096 * 11008 + 2 * 4096; 2 * 32000 * 4096; the last norm
    assert LLAMA.parameters == 32 * 202_383_360 + 262_144_000 + 4096 == 6_738_415_616


def test_a_shape_without_key_value_heads_has_as_many_as_query_heads():
    config = {key: value for key, value in LLAMA2.items() if key != "num_key_value_heads"}
    assert shape_of(config) == LLAMA
    assert shape_of(config | {"head_dim": 256}).queries == 32 * 256


@pytest.mark.parametrize("key", ["num_hidden_layers", "vocab_size", "intermediate_size"])
def test_a_shape_that_lacks_a_size_is_unknown(key):
    assert Shape.of({name: value for name, value in LLAMA2.items() if name != key}) is None
    assert Shape.of({}) is None


def test_a_forward_pass_of_a_two_weight_model_has_its_hand_computed_flops():
    # widths 1: a layer has 4 attention and 3 MLP weights, and T = 3 has 6 pairs of 4 FLOPs
    toy = Shape(1, 1, 1, 1, 1, 1, vocabulary=5, tied=True)
    assert toy.forward_flops(3, 2) == 2 * 7 * 3 + 4 * 6 + 2 * 5 * 2
    assert toy.training_flops(3, checkpointing=False) == 3 * (42 + 24 + 30)
    assert toy.training_flops(3, checkpointing=True) == 3 * (42 + 24 + 30) + 42 + 24


@pytest.mark.parametrize(
    ("length", "days"),
    [(8, 0.06), (16, 0.15), (32, 0.36), (64, 1.0), (128, 3.1), (256, 10.7)],
)
def test_the_papers_search_takes_the_a100_days_of_its_own_arithmetic(length, days):
    # (64 + 40 * 32) candidates on 5 samples, 2 N L and causal attention at 156 TFLOP/s; there, N counts
    # the embedding, which is looked up
    job = planned("search", SEARCH | {"target_length": length * K})
    estimated_days = estimate(job, LLAMA, machine("a100-80")).seconds / DAY
    assert estimated_days == pytest.approx(days, rel=0.05)


def test_one_evaluation_at_2048k_takes_the_fifty_minutes_that_the_paper_reports():
    flops = 3 * LLAMA.forward_flops(2048 * K, 2048 * K)
    assert flops == pytest.approx(3.5e18, rel=0.02)
    assert flops / (8 * 156e12) / 60 == pytest.approx(49, rel=0.05)


def test_a_search_costs_its_budget_and_one_candidate_more():
    estimated = estimate(planned("search", SEARCH), LLAMA, machine("a100-80"))
    assert estimated.tokens == (64 + 40 * 32 + 1) * 5 * 256 * K


def test_cma_costs_few_documents_a_generation_and_all_at_the_end():
    def documents(**changes):
        settings = CMA | {"algorithm": {"name": "cma", **changes}}
        return estimate(planned("search", settings), LLAMA, machine("a100-80")).tokens / (256 * K)

    # three closed forms, 48 samples and three numbers of start tokens; a selection of four on all five,
    # and the result once more without start tokens
    assert documents() == 3 + 48 + 3 + 4 * 5 + 5
    assert documents(batch_documents=2) == 2 * (3 + 48 + 3) + 4 * 5 + 5
    assert documents(batch_documents=9) == 5 * (3 + 48 + 3) + 4 * 5 + 5
    assert documents(num_generations=2, generation_size=4) == 3 + 8 + 3 + 4 * 5 + 5


@pytest.mark.parametrize(
    ("name", "known"),
    [("evolution", 0), ("evolution-public", 0), ("cma", 12), ("gradient", 12), ("auto", 12)],
)
def test_the_estimate_of_a_search_is_what_its_driver_counts(name, known, tmp_path):
    settings = {"algorithm": {"name": name, **SMALL[name]}, "start_tokens": [0, 2, 8]}
    settings |= {"num_documents": 3, "target_length": 2048, "dtype": "float32"}
    objective = FakeObjective(away_from_four, lengths=[2048] * 3)
    factors = search(PROBLEM, make(name), objective, tmp_path / "history.jsonl", {})
    estimated = estimate(planned("search", settings), tiny_shape(), machine("cpu")).tokens
    # The driver does not count a document that is known when the selection asks for it, nor one of the
    # selection that is there twice, nor the best without start tokens where it has none.
    over = estimated - factors.provenance["scored_tokens"]
    without = 0 if factors.num_start_tokens else 3
    assert 0 <= over - without * 2048 <= known * 2048


def test_a_readjustment_searches_every_length_and_tries_the_attention_scales():
    settings = {key: value for key, value in SEARCH.items() if key != "target_length"}
    settings |= {"lengths": [4096, 8192], "num_attention_scales": 5}
    estimated = estimate(planned("readjust", settings), LLAMA, machine("a100-80"))
    assert estimated.tokens == (64 + 40 * 32 + 1 + 4) * 5 * (4096 + 8192)


def test_windowed_perplexity_passes_once_a_length_unless_no_factors_change():
    def tokens(**changes):
        return estimate(planned("evaluate", PERPLEXITY | changes), LLAMA, machine("cpu")).tokens

    assert tokens() == 10 * (100 + 300) + 3 * 200
    assert tokens(method="none") == 10 * 300 + 3 * 200
    assert tokens(lengths={"a": [], "b": [200]}) == 3 * 200


def test_sliding_perplexity_passes_once_a_window():
    sliding = PERPLEXITY | {"protocol": "sliding", "stride": 50, "max_tokens": 310}
    estimated = estimate(planned("evaluate", sliding), LLAMA, machine("cpu"))
    # a first window and one for every 50 of the 210, 10 and 110 tokens after it
    assert estimated.tokens == 10 * (6 * 100 + 2 * 300) + 3 * 4 * 200


def test_the_cost_of_sliding_over_whole_documents_is_not_known():
    sliding = PERPLEXITY | {"protocol": "sliding", "stride": 50, "max_tokens": None}
    estimated = estimate(planned("evaluate", sliding), LLAMA, machine("a100-80"))
    assert (estimated.tokens, estimated.seconds, estimated.gpus) == (None, None, 1)


def test_a_passkey_evaluation_passes_once_a_prompt_and_needs_no_head():
    estimated = estimate(planned("evaluate", PASSKEY | {"dtype": "float32"}), LLAMA, machine("cpu"))
    assert estimated.tokens == 10 * (100 + 300)
    assert estimated.flops == 10 * (LLAMA.layer_flops(100) + LLAMA.layer_flops(300))


def test_benchmarks_pass_once_an_answer_of_the_items_asked_for():
    def tokens(**changes):
        settings = BENCHMARKS | {"dtype": "float32"} | changes
        return estimate(planned("evaluate", settings), LLAMA, machine("cpu")).tokens

    assert tokens() == 24 * 4 * 100
    assert tokens(max_items=None) == 14042 * 4 * 100


def test_finetuning_writes_a_float32_model_and_costs_four_passes_on_gpus_and_three_without():
    on_gpu, on_cpu = (
        estimate(planned("finetune", FINETUNE), LLAMA, machine(name)) for name in ("a100-80", "cpu")
    )
    assert on_gpu.disk_bytes == 4 * LLAMA.parameters
    assert on_gpu.tokens == 400 * 32 * 128 * K
    assert on_gpu.flops / on_cpu.flops == pytest.approx(4 / 3, rel=0.01)


def test_a_2048k_document_fits_one_80_gb_gpu_and_not_one_of_40():
    # weights 12.6, hidden states 16 and one layer's keys and values 32 GiB
    job = planned("search", SEARCH | {"target_length": 2048 * K})
    estimated = estimate(job, LLAMA, machine("a100-80"))
    assert estimated.gpu_bytes / 2**30 == pytest.approx(12.6 + 16 + 32, rel=0.03)
    assert estimated.fits and estimated.gpus == 1
    assert not estimate(job, LLAMA, machine("a100-40")).fits


def test_training_takes_the_fewest_gpus_that_hold_weights_optimizer_and_activations():
    # 20 bytes a parameter: 135e9; of 128k tokens 32 residuals of 4096 float32: 69e9, logits 50e9, one
    # layer 26e9
    estimated = estimate(planned("finetune", FINETUNE), LLAMA, machine("a100-80"))
    assert estimated.gpu_bytes * estimated.gpus == pytest.approx(280e9 + 4 * 1.07e9, rel=0.01)
    assert (estimated.gpus, estimated.nodes, estimated.sharded) == (4, 1, True)
    assert estimate(planned("finetune", FINETUNE), LLAMA, machine("a100-40")).gpus == 16
    longer = planned("finetune", FINETUNE | {"text_length": 1024 * K})
    estimated = estimate(longer, LLAMA, machine("a100-80"))
    assert (estimated.gpus, estimated.nodes) == (32, 4)


def llama3(name, **changes):
    """Return the cost of the shipped fine-tuning of Llama-3-8B on another machine, after changes."""
    shipped = plan.build(configuration.load(ROOT / "config/llama3-8b.yaml"), ROOT)
    (node,) = shipped.of("finetune")
    parallel = node.runtime.parallel.model_copy(update=changes)
    runtime = node.runtime.model_copy(update={"parallel": parallel})
    job = replace(node, runtime=runtime)
    return estimate(job, shape_of(dict(shipped.shape)), machine(name))


def test_more_gpus_than_key_value_heads_share_rows_in_groups_of_that_many():
    # 8 key-value heads: of 16 GPUs 8 share a row, 16k tokens of it each, with logits of 2048 tokens
    automatic, explicit = llama3("a100-40"), llama3("a100-40", sequence_parallel=8)
    assert (automatic.gpus, automatic.nodes, automatic.fits) == (16, 2, True)
    assert automatic == explicit
    states = 20 * 8_030_261_248 / 16
    # 32 residuals; of one layer two norms, and in bfloat16 queries, output, keys, values, and MLP
    layer = 2 * 4096 * 10 + 2 * (2 * 4096 + 2 * 1024 + 4 * 14336)
    activations = 16 * K * (32 * 4096 * 4 + layer) + 2048 * 12 * 128256
    assert automatic.gpu_bytes == pytest.approx(states + activations + cost.CUDA_BYTES)


def test_gpus_are_as_many_on_each_node_and_divide_the_batch():
    runtime = {"chunk_length": 4096, "micro_batch_size": 1, "parallel": {"sequence_parallel": 5}}
    heads = {"num_attention_heads": 40, "num_key_value_heads": 40, "hidden_size": 5120}
    for batch, expected in ((32, (10, 2)), (9, (15, 3)), (1, (5, 1))):
        settings = FINETUNE | {"text_length": 40_000, "batch_size": batch}
        estimated = estimate(
            planned("finetune", settings, runtime), shape_of(LLAMA2 | heads), machine("a100-40")
        )
        assert (estimated.gpus, estimated.nodes) == expected


def test_a_model_whose_rows_cannot_be_shared_is_divided_by_rows_alone():
    shape = shape_of(LLAMA2 | {"model_type": "gpt_neox"})
    job = planned("finetune", FINETUNE | {"text_length": 16 * K})
    estimated = estimate(job, shape, machine("a100-80"))
    activations = LLAMA.activation_bytes(16 * K, "bfloat16", checkpointing=True)
    held = 20 * LLAMA.parameters / estimated.gpus + activations + cost.CUDA_BYTES
    assert estimated.gpu_bytes == pytest.approx(held)


def parallel(**changes):
    runtime = {"chunk_length": 4096, "micro_batch_size": 1, "parallel": changes}
    return estimate(planned("finetune", FINETUNE, runtime), LLAMA, machine("h100-80"))


def test_what_each_gpu_holds_follows_from_what_is_divided_and_what_is_moved():
    # activations of 16k tokens, an eighth of a row: 18.1e9; a parameter has 6.74e9 bytes to each of 1
    activations = LLAMA.activation_bytes(16 * K, "bfloat16", checkpointing=True)
    held = {
        "none": 20 * LLAMA.parameters / 8 + activations,
        "optimizer": 8 * LLAMA.parameters / 8 + activations,
        "all": 4 * LLAMA.parameters / 8 + activations,
    }
    for offload, expected in held.items():
        estimated = parallel(sequence_parallel=8, offload=offload)
        assert estimated.gpus == 8
        assert estimated.gpu_bytes == pytest.approx(expected + cost.CUDA_BYTES)
    whole, moved = parallel(sequence_parallel=8), parallel(sequence_parallel=8, offload="all")
    assert moved.host_bytes - whole.host_bytes == pytest.approx(16 * LLAMA.parameters)
    tiled = parallel(sequence_parallel=8, tile_length=1024, offload_activations=True)
    less = 12 * 32000 * 15 * K + 16 * K * 32 * 4096 * 4
    assert whole.gpu_bytes - tiled.gpu_bytes == pytest.approx(less)


def test_training_that_is_not_divided_never_fits_however_many_gpus_there_are():
    assert not parallel(zero_stage=0).fits
    assert not parallel(zero_stage=2, sequence_parallel=1).fits


def test_hours_of_gpus_add_up_whatever_their_number():
    few, many = (
        estimate(planned("finetune", FINETUNE), LLAMA, machine(name))
        for name in ("a100-80", "a100-40")
    )
    assert few.gpu_hours == pytest.approx(many.gpu_hours)
    assert few.seconds == pytest.approx(many.seconds * many.gpus / few.gpus)


def test_fetching_and_tokenizing_cost_nothing_that_is_known():
    for kind in ("fetch", "tokenize"):
        estimated = estimate(planned(kind, {}), LLAMA, machine("h100-80"))
        assert (estimated.flops, estimated.tokens, estimated.gpus, estimated.gpu_hours) == (
            None,
            None,
            0,
            None,
        )


# Constants kept twice -----------------------------------------------------------------------------


def test_constants_of_modules_with_torch_are_the_same_here():
    assert HEAD_ROWS == scoring.HEAD_ROWS
    assert MULTIPLE_CHOICE_PROMPTS.keys() == multiple_choice.TASKS.keys()


def test_the_cost_model_imports_no_torch():
    check = "import sys, longrope.cost.estimate, longrope.reports.costs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


# Measured FLOPs -----------------------------------------------------------------------------------


def count_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Count an attention as torch counts it on GPUs: all pairs, also where it is causal.

    torch has no formula for its operator of the CPU, and would count nothing.
    """
    return int(sdpa_flop(query, key, value))


ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: count_attention}


def test_flops_of_scoring_the_tiny_model_are_those_that_torch_counts():
    model = load_model(TINY, dtype="float32")
    tokens = torch.randint(0, 4096, (2048,), generator=torch.Generator().manual_seed(0))
    factors = closed_form("none", geometry(model, 256), 256)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        # Only a chunk's attention to itself is causal; small chunks keep what is counted twice small.
        scoring.token_nlls(model, tokens, factors=factors, chunk_length=64)
    shape = tiny_shape()
    assert sum(p.numel() for p in model.parameters()) == shape.parameters
    assert shape.forward_flops(2048, 2047) == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert counter.get_total_flops() > shape.forward_flops(2048, 2047)


@pytest.mark.parametrize("heads", [32, 8])
def test_flops_of_two_layers_of_a_7b_model_are_those_that_torch_counts(heads):
    config = LlamaConfig(**LLAMA2 | {"num_hidden_layers": 2, "num_key_value_heads": heads})
    with torch.device("meta"):
        model = LlamaForCausalLM(config).eval()
        tokens = torch.zeros(32 * K, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        hidden = scoring.hidden_states(model, tokens, chunk_length=512)
        with torch.inference_mode():
            model.get_output_embeddings()(hidden)
    flops = shape_of(config.to_dict()).forward_flops(32 * K, 32 * K)
    assert flops == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_training_flops_are_those_that_torch_counts_with_and_without_checkpointing():
    small = {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 8}
    small |= {"num_hidden_layers": 2, "intermediate_size": 1376, "vocab_size": 1000}
    config = LlamaConfig(**small, attn_implementation="eager")
    model = LlamaForCausalLM(config).train()
    tokens = torch.zeros((1, 128), dtype=torch.long)
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        with FlopCounterMode(display=False) as counter:
            # All pairs are counted, but of so few tokens that they hardly matter.
            model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        flops = shape_of(config.to_dict()).training_flops(128, checkpointing=checkpointing)
        assert flops == pytest.approx(counter.get_total_flops(), rel=0.05)


# Measured memory ----------------------------------------------------------------------------------

MEASURE = """
import sys, tempfile, torch, transformers, accelerate
from pathlib import Path
import node_settings
from longrope.models.loading import geometry, load_model
from longrope.models.rotary import install
from longrope.models.scoring import token_nlls
from longrope.rope.methods import closed_form
from longrope.training import trainer

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return size
    def __getitem__(self, index):
        tokens = torch.randint(0, 4096, (length,))
        return {"input_ids": tokens, "labels": tokens}

what, length, size, dtype = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
model = load_model(Path("resources/tiny-llama"), dtype=dtype if what == "score" else "float32")
factors = closed_form("none", geometry(model, 256), 256)
install(model, geometry(model, 256)).use(factors)
# What torch sets up on first use is the process's, not the document's.
token_nlls(model, torch.zeros(64, dtype=torch.long), factors=factors, chunk_length=64)
loaded = status("VmRSS")
if what == "score":
    tokens = torch.randint(0, 4096, (length,))
    token_nlls(model, tokens, factors=factors, chunk_length=size)
else:
    settings = {
        "batch_size": size, "num_steps": 1, "learning_rate": 1e-4, "schedule": "linear",
        "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0, "adam_betas": (0.9, 0.95),
        "dtype": dtype, "checkpoint_steps": 9, "seed": 0,
    }
    with tempfile.TemporaryDirectory() as work:
        named = {"work": Path(work), "micro_batch_size": size}
        trainer.train(model, Rows(), **node_settings.training(settings), **named)
print(loaded, status("VmHWM") - loaded)
"""
# One arena, and every large block given back when it is freed: what is held is what is in use.
QUIET = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def measure(what: str, length: int, size: int, dtype: str) -> tuple[int, int]:
    """Return the bytes of a process with the model, and by how much its peak is above them."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, what, str(length), str(size), dtype],
        cwd=ROOT,
        env=os.environ | QUIET | {"PYTHONPATH": f"{HELPERS}:{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded, increment = done.stdout.splitlines()[-1].split()
    return int(loaded), int(increment)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(("length", "chunk"), [(16 * K, 2 * K), (8 * K, 8 * K)])
def test_memory_of_scoring_the_tiny_model_is_what_a_process_holds(length, chunk):
    loaded, increment = measure("score", length, chunk, "float32")
    num_bytes = tiny_shape().scoring_bytes(length, chunk, "float32")
    assert num_bytes == pytest.approx(increment, rel=0.25)
    # The constant holds for a CUDA build of torch; a CPU build takes 350 MiB less.
    smaller = 350 * 2**20 if torch.version.cuda is None else 0
    assert cost.PROCESS_BYTES["train"] - smaller == pytest.approx(loaded, rel=0.1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_of_training_the_tiny_model_is_what_a_process_holds(dtype):
    _, increment = measure("train", 2048, 4, dtype)
    shape = tiny_shape()
    num_bytes = shape.activation_bytes(4 * 2048, dtype, checkpointing=False)
    assert num_bytes + 12 * shape.parameters == pytest.approx(increment, rel=0.25)


# Properties ---------------------------------------------------------------------------------------

SHAPES = st.builds(
    lambda layers, heads, groups, width, intermediate, vocabulary: shape_of(
        {
            "num_hidden_layers": layers,
            "hidden_size": heads * groups * width,
            "num_attention_heads": heads * groups,
            "num_key_value_heads": heads,
            "intermediate_size": intermediate,
            "vocab_size": vocabulary,
        }
    ),
    *(st.integers(1, 80), st.integers(1, 16), st.integers(1, 8), st.sampled_from([64, 96, 128])),
    *(st.integers(128, 40_000), st.integers(100, 300_000)),
)
LENGTHS = st.integers(2, 4 * 1024 * K)


@given(SHAPES, LENGTHS, st.integers(1, 8192))
def test_longer_documents_cost_more_flops_a_token_and_no_less_memory(shape, length, chunk):
    once, twice = shape.forward_flops(length, length), shape.forward_flops(2 * length, 2 * length)
    assert 2 * once < twice < 4 * once
    short, long = (shape.scoring_bytes(n, chunk, "bfloat16") for n in (length, 2 * length))
    assert short < long


@given(SHAPES, LENGTHS)
def test_checkpointing_trades_flops_for_memory(shape, length):
    plain, again = (shape.training_flops(length, checkpointing=c) for c in (False, True))
    assert 1 < again / plain <= 4 / 3
    if shape.layers > 1:
        full, checkpointed = (
            shape.activation_bytes(length, "bfloat16", checkpointing=c) for c in (False, True)
        )
        assert checkpointed < full


@given(
    SHAPES,
    st.integers(1, 512).map(lambda thousands: thousands * K),
    st.sampled_from(["a100-40", "a100-80", "h200"]),
    *(st.integers(1, 4), st.integers(1, 24)),
)
def test_training_fits_the_gpus_asked_for_which_can_divide_it_and_not_half_of_them(
    shape, length, name, micro, more
):
    heads = math.gcd(shape.queries, shape.keys) // shape.head

    def can_divide(gpus):
        return more % (gpus // math.gcd(gpus, heads, length)) == 0

    settings = FINETUNE | {"text_length": length, "batch_size": micro * more}
    runtime = {"chunk_length": 4096, "micro_batch_size": micro}
    estimated = estimate(planned("finetune", settings, runtime), shape, machine(name))
    limit = 0.9 * machine(name).gpu_memory
    assert can_divide(estimated.gpus)
    assert estimated.fits == (estimated.gpu_bytes <= limit)
    if estimated.gpus % 2 == 0 and can_divide(estimated.gpus // 2):
        assert 2 * estimated.gpu_bytes - 2**30 > limit
    assert estimated.gpus % estimated.nodes == 0 and estimated.gpus // estimated.nodes <= 8


@given(SHAPES, LENGTHS, st.integers(1, 5))
def test_a_later_attempt_asks_for_more_and_the_first_for_more_than_estimated(
    shape, length, attempt
):
    job = planned("search", SEARCH | {"target_length": length})
    estimated = estimate(job, shape, machine("h100-80"))
    asked = [requirements(job, shape, machine("h100-80"), n) for n in (attempt, attempt + 1)]
    assert asked[0].mem_mb < asked[1].mem_mb
    assert asked[0].mem_mb * 2**20 > estimated.host_bytes
    minutes = [each.runtime_minutes for each in asked]
    assert minutes[0] < minutes[1] or minutes == [WEEK, WEEK]
    assert minutes[0] * 60 > estimated.seconds or minutes[0] == WEEK


WEEK = 7 * 24 * 60
"""minutes"""


# What jobs ask for --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["h100-80", "cpu"])
def test_fetching_and_tokenizing_never_ask_for_a_gpu(name):
    for shape in (LLAMA, None):
        assert requirements(planned("fetch", {}), shape, machine(name)) == Requirements(
            0, 1, 2000, 240
        )
        asked = requirements(planned("tokenize", {}), shape, machine(name), 2)
        assert asked == Requirements(0, 1, 8000, 480)


def test_a_tiny_job_asks_for_no_less_than_its_processes_and_ten_minutes():
    job = planned("evaluate", PASSKEY | {"dtype": "float32"})
    asked = requirements(job, tiny_shape(), machine("cpu"))
    # 1.5 * 770 MiB, somewhat for the model, and 500
    assert asked == Requirements(0, 1, pytest.approx(1655, abs=100), 10)


def test_a_7b_search_asks_for_one_gpu_and_its_weights_in_host_memory():
    asked = requirements(planned("search", SEARCH), LLAMA, machine("a100-80"))
    # 1.5 * (770 + 4096 + 12852.5 MiB) and 500; 10.7 days are cut to one week
    assert asked == Requirements(1, 1, 27077, WEEK)
    shorter = requirements(
        planned("search", SEARCH | {"target_length": 64 * K}), LLAMA, machine("a100-80")
    )
    assert shorter.runtime_minutes == pytest.approx(2 * 1.0 * 1440, rel=0.03)


def test_a_job_over_several_nodes_asks_for_whole_ones():
    job = planned("finetune", FINETUNE | {"text_length": 1024 * K})
    asked = requirements(job, LLAMA, machine("a100-80"))
    assert (asked.gpus_per_node, asked.nodes) == (8, 4)


def test_a_training_that_no_gpus_hold_asks_for_nothing_and_says_what_to_set():
    job = planned("finetune", FINETUNE | {"batch_size": 1})
    shared = ParallelSettings(sequence_parallel=8)
    eight = replace(job, runtime=NodeRuntime(parallel=shared))
    assert estimate(eight, LLAMA, machine("a100-40")).gpus == 8
    with pytest.raises(
        UserError, match=r"of 40 GB .* 131072 tokens .* set finetune\.parallel\.tile"
    ):
        requirements(eight, LLAMA, machine("a100-40"))
    tiled = shared.model_copy(update={"tile_length": 2048, "offload_activations": True})
    asked = requirements(
        replace(job, runtime=NodeRuntime(parallel=tiled)), LLAMA, machine("a100-40")
    )
    assert (asked.gpus_per_node, asked.nodes) == (8, 1)


def test_a_job_of_unknown_cost_asks_for_a_day_and_the_memory_of_a_7b_model():
    for kind, memory in (("search", 64_000), ("finetune", 256_000)):
        asked = requirements(planned(kind, {}), None, machine("h100-80"))
        assert asked == Requirements(1, 1, memory, 1440)
        assert requirements(planned(kind, {}), None, machine("cpu")) == Requirements(
            0, 1, 4000, 1440
        )
    sliding = PERPLEXITY | {"protocol": "sliding", "stride": 50, "max_tokens": None}
    asked = requirements(planned("evaluate", sliding), LLAMA, machine("h100-80"))
    assert asked == Requirements(1, 1, 64_000, 1440)


def test_a_job_of_several_nodes_asks_for_the_most_memory_and_all_their_time():
    parts = [Requirements(1, 1, 3000, 10), Requirements(0, 1, 5000, 25)]
    assert together(parts) == Requirements(1, 1, 5000, 35)


SHIPPED = (
    *("config", "llama2-7b", "llama3-8b", "mistral-7b", "phi3-mini"),
    *("llama3-8b-longrope2", "phi3-mini-longrope2"),
)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_node_of_a_shipped_configuration_has_its_cost(name):
    config = configuration.load(ROOT / f"config/{name}.yaml")
    planned = plan.build(config, ROOT)
    shape = shape_of(dict(planned.shape))
    for node in planned:
        estimated = estimate(node, shape, machine(planned.hardware))
        assert (estimated.seconds is None) == (node.kind in ("fetch", "tokenize"))
        assert estimated.fits
        asked = requirements(node, shape, machine(planned.hardware))
        assert asked.mem_mb >= 1500 and asked.runtime_minutes >= 10


def test_chunks_and_rows_at_once_change_memory_and_no_flops():
    job = planned("finetune", FINETUNE | {"text_length": 1024})
    larger = replace(job, runtime=NodeRuntime(micro_batch_size=8))
    smaller, greater = (estimate(j, LLAMA, machine("cpu")) for j in (job, larger))
    assert smaller.flops == greater.flops
    assert smaller.host_bytes < greater.host_bytes
