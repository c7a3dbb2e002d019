"""Tests of longrope.models.scoring: the model's own forward pass as the reference."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_models import ORIGINAL_LENGTH
from tolerances import REORDERED, TOKEN_LOSSES
from torch.nn import functional
from transformers import PreTrainedModel

from longrope.architectures import ARCHITECTURES
from longrope.models import scoring
from longrope.models.loading import geometry
from longrope.models.rotary import LongRopeRotary, install
from longrope.models.scoring import greedy_matches, hidden_states, token_nlls
from longrope.rope.factors import FactorTable, RopeFactors
from longrope.rope.methods import closed_form

WHOLE = 10_000
CHUNK_LENGTHS = [7, 64, WHOLE]


def some_factors(model: PreTrainedModel) -> RopeFactors:
    """Return factors that change every pair but the first, and start tokens."""
    model_geometry = geometry(model, ORIGINAL_LENGTH)
    return closed_form("ntk", model_geometry, 256).model_copy(
        update={"num_start_tokens": 9, "attention_scale": 1.1}
    )


def pretrained(model: PreTrainedModel) -> RopeFactors:
    """Return factors of 1."""
    return closed_form("none", geometry(model, ORIGINAL_LENGTH), ORIGINAL_LENGTH)


def reference_nlls(model: PreTrainedModel, tokens: torch.Tensor) -> NDArray[np.float32]:
    """Return losses from one ordinary forward pass of a model, (T - 1,)."""
    with torch.inference_mode():
        logits = model(tokens[None], use_cache=False).logits[0, :-1].float()
    return functional.cross_entropy(logits, tokens[1:], reduction="none").numpy()


@pytest.mark.parametrize("chunk_length", CHUNK_LENGTHS)
def test_the_mean_loss_is_the_models_own(
    model: PreTrainedModel, tokens: torch.Tensor, chunk_length: int
) -> None:
    with torch.inference_mode():
        loss = float(model(tokens[None], labels=tokens[None]).loss)
    ours = token_nlls(model, tokens, factors=pretrained(model), chunk_length=chunk_length)
    assert ours.mean(dtype=np.float64) == pytest.approx(loss, rel=REORDERED)


@pytest.mark.parametrize("chunk_length", CHUNK_LENGTHS)
def test_every_loss_is_the_models_own_under_the_same_factors(
    model: PreTrainedModel, tokens: torch.Tensor, chunk_length: int
) -> None:
    factors = some_factors(model)
    ours = token_nlls(model, tokens, factors=factors, chunk_length=chunk_length)
    install(model, geometry(model, ORIGINAL_LENGTH)).use(factors)
    assert ours.shape == (149,)
    assert ours.dtype == np.dtype(np.float32)
    np.testing.assert_allclose(ours, reference_nlls(model, tokens), **TOKEN_LOSSES)


def test_factors_change_the_losses(model: PreTrainedModel, tokens: torch.Tensor) -> None:
    # or the comparisons above would hold for a scorer that ignores them
    factors = some_factors(model)
    before = token_nlls(model, tokens, factors=pretrained(model), chunk_length=WHOLE)
    after = token_nlls(model, tokens, factors=factors, chunk_length=WHOLE)
    np.testing.assert_array_equal(before[:8], after[:8])
    assert np.abs(before - after).max() > 0.1


@pytest.mark.parametrize("chunk_length", [1, 2, 149, 150])
def test_chunks_of_extreme_lengths_change_nothing(
    llama: PreTrainedModel, tokens: torch.Tensor, chunk_length: int
) -> None:
    ours = token_nlls(llama, tokens, factors=pretrained(llama), chunk_length=chunk_length)
    np.testing.assert_allclose(ours, reference_nlls(llama, tokens), **TOKEN_LOSSES)


@pytest.mark.parametrize("chunk_length", CHUNK_LENGTHS)
def test_hidden_states_are_the_models_own(
    model: PreTrainedModel, tokens: torch.Tensor, chunk_length: int
) -> None:
    with torch.inference_mode():
        theirs = model.base_model(tokens[None]).last_hidden_state[0]
    ours = hidden_states(model, tokens, chunk_length=chunk_length)
    torch.testing.assert_close(ours, theirs, **TOKEN_LOSSES)


@pytest.mark.parametrize("chunk_length", CHUNK_LENGTHS)
def test_a_table_is_read_at_the_length_of_the_document_not_of_a_chunk(
    llama: PreTrainedModel, tokens: torch.Tensor, chunk_length: int
) -> None:
    long = some_factors(llama)
    short = pretrained(llama)
    expected = token_nlls(llama, tokens, factors=long, chunk_length=WHOLE)
    install(llama, geometry(llama, ORIGINAL_LENGTH)).use_table(FactorTable(entries=(short, long)))
    hidden = hidden_states(llama, tokens, chunk_length=chunk_length)
    with torch.inference_mode():
        logits = llama.get_output_embeddings()(hidden[:-1])  # type: ignore[no-untyped-call]
    losses = functional.cross_entropy(logits, tokens[1:], reduction="none").numpy()
    np.testing.assert_allclose(losses, expected, **TOKEN_LOSSES)


@pytest.mark.parametrize("head_rows", [1, 64, 1000])
def test_the_rows_per_head_call_change_nothing(
    llama: PreTrainedModel,
    tokens: torch.Tensor,
    head_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "HEAD_ROWS", head_rows)
    ours = token_nlls(llama, tokens, factors=pretrained(llama), chunk_length=WHOLE)
    np.testing.assert_allclose(ours, reference_nlls(llama, tokens), **TOKEN_LOSSES)


def test_losses_in_bfloat16_are_not_rounded_to_bfloat16(
    llama: PreTrainedModel, tokens: torch.Tensor
) -> None:
    llama.bfloat16()
    ours = token_nlls(llama, tokens, factors=pretrained(llama), chunk_length=WHOLE)
    rounded = torch.from_numpy(ours).bfloat16().float().numpy()
    assert (ours != rounded).mean() > 0.5
    # the logits have the same bits; a logarithm of a sum of 97 exponentials is left to float32
    np.testing.assert_allclose(ours, reference_nlls(llama, tokens), rtol=1e-6)


def test_chunks_in_bfloat16_agree_within_its_rounding(
    llama: PreTrainedModel, tokens: torch.Tensor
) -> None:
    exact = token_nlls(llama, tokens, factors=pretrained(llama), chunk_length=WHOLE)
    llama.bfloat16()
    whole, chunked = (
        token_nlls(llama, tokens, factors=pretrained(llama), chunk_length=length)
        for length in (WHOLE, 7)
    )
    assert abs(chunked - exact).mean() < 1.5 * abs(whole - exact).mean()


@pytest.mark.parametrize("chunk_length", CHUNK_LENGTHS)
def test_greedy_matches_are_those_of_the_models_logits(
    model: PreTrainedModel, tokens: torch.Tensor, chunk_length: int
) -> None:
    with torch.inference_mode():
        guesses = model(tokens[None]).logits[0].argmax(-1)
    document = tokens.clone()
    # one answer token is what the model would write; the tokens after it then see another past
    document[-1] = guesses[-2]
    matches = greedy_matches(
        model, document, factors=pretrained(model), chunk_length=chunk_length, num_last=12
    )
    expected = document[-12:] == guesses[-13:-1]
    np.testing.assert_array_equal(matches, expected.numpy())
    assert matches[-1]


def test_a_text_that_the_model_writes_itself_matches_throughout(
    llama: PreTrainedModel, tokens: torch.Tensor
) -> None:
    factors = some_factors(llama)
    install(llama, geometry(llama, ORIGINAL_LENGTH)).use(factors)
    written = llama.generate(  # type: ignore[operator]
        tokens[None, :80], max_new_tokens=20, do_sample=False
    )[0]
    options: dict[str, Any] = {"factors": factors, "chunk_length": 32, "num_last": 20}
    assert greedy_matches(llama, written, **options).all()
    written[-5] = (written[-5] + 1) % 97
    assert not greedy_matches(llama, written, **options)[-5]


def test_scoring_leaves_the_attention_of_the_model_as_it_was(
    llama: PreTrainedModel, tokens: torch.Tensor
) -> None:
    llama.set_attn_implementation("eager")
    token_nlls(llama, tokens, factors=pretrained(llama), chunk_length=64)
    assert llama.config._attn_implementation == "eager"


def test_a_failure_inside_a_layer_leaves_the_attention_as_it_was(
    llama: PreTrainedModel, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_run_layer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        token_nlls(llama, tokens, factors=pretrained(llama), chunk_length=64)
    assert llama.config._attn_implementation == "sdpa"


def test_a_cache_that_a_layer_ignores_is_noticed(
    model: PreTrainedModel, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    architectures = {
        name: replace(kind, cache_keyword="past_keys") for name, kind in ARCHITECTURES.items()
    }
    monkeypatch.setattr(scoring, "ARCHITECTURES", architectures)
    with pytest.raises(AssertionError, match="did not use its cache"):
        hidden_states(model, tokens, chunk_length=64)


def test_a_whole_document_needs_no_cache(
    llama: PreTrainedModel, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "LayerCache", None)
    hidden_states(llama, tokens, chunk_length=len(tokens))


def test_the_rotary_module_is_installed_once(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    token_nlls(llama, tokens, factors=pretrained(llama), chunk_length=64)
    rotary = llama.base_model.rotary_emb
    assert isinstance(rotary, LongRopeRotary)
    token_nlls(llama, tokens, factors=some_factors(llama), chunk_length=64)
    assert llama.base_model.rotary_emb is rotary


def test_later_tokens_do_not_change_earlier_losses(
    model: PreTrainedModel, tokens: torch.Tensor
) -> None:
    changed = tokens.clone()
    changed[100:] = (changed[100:] + 1) % 97
    before, after = (
        token_nlls(model, document, factors=some_factors(model), chunk_length=32)
        for document in (tokens, changed)
    )
    np.testing.assert_array_equal(before[:99], after[:99])
    assert (before[99:] != after[99:]).any()


def test_two_equal_runs_are_bit_identical(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    first, second = (
        token_nlls(llama, tokens, factors=some_factors(llama), chunk_length=32) for _ in range(2)
    )
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("num_queries", [1, 5, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_block_causal_attention_agrees_with_a_mask(num_queries: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query = torch.randn(1, 4, num_queries, 16, dtype=dtype)
    key, value = torch.randn(2, 1, 2, 12, 16, dtype=dtype)
    mask = torch.ones(num_queries, 12, dtype=torch.bool).tril(12 - num_queries)
    expected = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True
    )
    output, _ = scoring.block_causal_attention(None, query, key, value, None, scaling=0.3)
    # Scores are below 6, sums of 16 products: 16 * 6 * 2**-24 = 6e-6 if all round one way, which is the
    # relative error of a weight; outputs are below 3. In bfloat16 each side rounds by 3 * 2**-9 = 6e-3.
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(output.transpose(1, 2), expected, rtol=0, atol=tolerance)


def test_a_model_in_training_mode_is_refused(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="training mode"):
        token_nlls(llama.train(), tokens, factors=pretrained(llama), chunk_length=64)


def test_a_chunk_length_of_zero_is_refused(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="chunk_length must be positive, got 0"):
        token_nlls(llama, tokens, factors=pretrained(llama), chunk_length=0)


def test_a_single_token_cannot_be_scored(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="at least 2 tokens, got 1"):
        token_nlls(llama, tokens[:1], factors=pretrained(llama), chunk_length=64)


@pytest.mark.parametrize("num_last", [0, 150])
def test_an_answer_outside_the_document_is_refused(
    llama: PreTrainedModel, tokens: torch.Tensor, num_last: int
) -> None:
    with pytest.raises(ValueError, match=rf"must lie in 1\.\.149, got {num_last}"):
        greedy_matches(llama, tokens, factors=pretrained(llama), chunk_length=64, num_last=num_last)


def test_factors_of_another_model_are_refused(llama: PreTrainedModel, tokens: torch.Tensor) -> None:
    factors = pretrained(llama).model_copy(update={"factors": (1.0,)})
    with pytest.raises(ValueError, match="8 rotary pairs, got 1 factors"):
        token_nlls(llama, tokens, factors=factors, chunk_length=64)
