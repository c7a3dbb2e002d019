"""Tests of the cost of training adapters: parameters against peft, bytes and FLOPs by hand."""

import pytest
from cost_cases import FINETUNE, LLAMA, machine, planned, shape_of
from tiny_models import build

from longrope.cost.estimate import CUDA_BYTES, estimate
from longrope.cost.shapes import Shape
from longrope.settings.training import LoraSettings
from longrope.training.lora import add_adapters

LORA = {"rank": 8, "alpha": 16.0, "norms_and_embeddings": True}
ADAPTERS = 32 * 8 * (7 * 4096 + 4 * 4096 + 3 * 11008)
"""of rank 8 on LLaMA2-7B: on the input and the output of 7 matrices a layer"""
MORE = 65 * 4096 + 32000 * 4096
"""its norms and its embedding"""
N = LLAMA.parameters + ADAPTERS


def gpu_bytes(settings, **parallel):
    """Return the bytes of an H100 under one row of 128 tokens, in which activations are next to nothing."""
    runtime = {"micro_batch_size": 1, "parallel": parallel}
    values = FINETUNE | {"text_length": 128} | settings
    estimated = estimate(planned("finetune", values, runtime), LLAMA, machine("h100-80"))
    return estimated.gpus, estimated.gpu_bytes - CUDA_BYTES


@pytest.mark.parametrize("whole", [True, False])
def test_trained_parameters_are_those_that_peft_lets_be_trained(whole):
    model = build("llama")
    shape = shape_of(model.config.to_dict())
    add_adapters(model, LoraSettings(rank=3, norms_and_embeddings=whole), seed=0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == shape.adapter_parameters(3) + whole * shape.norm_and_embedding_parameters


def test_a_7b_model_has_twenty_million_parameters_in_adapters_of_rank_8():
    assert LLAMA.adapter_parameters(8) == ADAPTERS == 19_988_480
    assert LLAMA.norm_and_embedding_parameters == MORE


@pytest.mark.parametrize(("whole", "trained"), [(True, ADAPTERS + MORE), (False, ADAPTERS)])
def test_frozen_weights_need_no_gradient_and_no_optimizer(whole, trained):
    gpus, held = gpu_bytes({"lora": LORA | {"norms_and_embeddings": whole}})
    assert gpus == 1
    assert held == pytest.approx(4 * N + 12 * trained, rel=0.01)
    assert gpu_bytes({})[0] > 1


@pytest.mark.parametrize(
    ("parallel", "bytes_of_each"),
    [
        ({"zero_stage": 2}, 4 * N + 16 * (ADAPTERS + MORE) / 2),
        ({"zero_stage": 3}, (4 * N + 16 * (ADAPTERS + MORE)) / 2),
        # gradients remain
        ({"zero_stage": 3, "offload": "optimizer"}, (4 * N + 4 * (ADAPTERS + MORE)) / 2),
        ({"zero_stage": 3, "offload": "all"}, 4 * (ADAPTERS + MORE) / 2),
    ],
)
def test_two_processes_divide_what_is_trained(parallel, bytes_of_each):
    gpus, held = gpu_bytes({"lora": LORA}, sequence_parallel=2, **parallel)
    assert gpus == 2
    # activations of 64 tokens: 33 MB checkpointed, 29 MB inside a layer, 25 MB of logits
    assert held == pytest.approx(bytes_of_each + 0.09e9, abs=0.03e9)


def test_the_gradients_of_frozen_matrices_are_not_computed():
    # widths 1: 7 weights, 3 tokens
    toy = Shape(1, 1, 1, 1, 1, 1, vocabulary=5, tied=True)
    whole = toy.training_flops(3, checkpointing=False)
    assert whole - toy.training_flops(3, checkpointing=False, frozen=True) == 2 * 7 * 3


def test_what_is_merged_takes_the_disk_of_a_model_without_adapters():
    estimated = estimate(planned("finetune", FINETUNE | {"lora": LORA}), LLAMA, machine("h100-80"))
    assert estimated.disk_bytes == 4 * LLAMA.parameters
