"""Tests of the attention that a training uses, where a GPU and flash-attn seem to be there or not."""

import pytest
import torch
from tiny_models import build
from transformers import PreTrainedModel

from longrope.training import parallel


@pytest.mark.parametrize(
    ("on_gpu", "installed", "dtype", "expected"),
    [
        (True, True, "bfloat16", "flash_attention_2"),
        (True, True, "float32", "sdpa"),
        (True, False, "bfloat16", "sdpa"),
        (False, True, "bfloat16", "sdpa"),
    ],
)
def test_flash_attn_is_used_where_it_is_installed_and_can_work(
    monkeypatch, on_gpu, installed, dtype, expected
):
    model = build("llama")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    monkeypatch.setattr(parallel, "is_flash_attn_2_available", lambda: installed)

    def as_asked(model, requested, **_):
        """Take a name that is asked for as if its package were there."""
        return requested

    monkeypatch.setattr(PreTrainedModel, "_check_and_adjust_attn_implementation", as_asked)
    assert parallel.choose_attention(model, dtype=dtype) == expected
    # what the layers look at when they are called
    assert model.model.layers[0].self_attn.config._attn_implementation == expected
