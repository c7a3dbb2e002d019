"""Tests of longrope.models.rotary: transformers' own embeddings as reference, and invariants."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ORIGINAL_LENGTH
from transformers import LlamaConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from longrope.models.loading import geometry
from longrope.models.rotary import LongRopeRotary, install
from longrope.rope.factors import FactorTable, RopeFactors
from longrope.rope.methods import METHODS, Geometry, closed_form, su_attention_scale

GEOMETRY = Geometry(num_pairs=8, rope_theta=10000.0, original_length=ORIGINAL_LENGTH)
POSITIONS = torch.arange(4 * ORIGINAL_LENGTH)[None]
LIKE = torch.zeros(1)


def make(target_length: int = 256, geometry_: Geometry = GEOMETRY, **changes: Any) -> RopeFactors:
    """Return factors that rise from 1 to 4, with an attention scale, with changes."""
    given_values: dict[str, Any] = {
        "factors": tuple(np.linspace(1.0, 4.0, geometry_.num_pairs)),
        "attention_scale": 1.2,
        "original_length": geometry_.original_length,
        "target_length": target_length,
        "method": "longrope",
    }
    return RopeFactors(**(given_values | changes))


def theirs(**rope_parameters: Any) -> LlamaRotaryEmbedding:
    """Return transformers' own embedding of GEOMETRY."""
    config = LlamaConfig(
        hidden_size=32,
        num_attention_heads=2,
        max_position_embeddings=ORIGINAL_LENGTH,
        rope_parameters={"rope_theta": GEOMETRY.rope_theta} | rope_parameters,
    )
    return LlamaRotaryEmbedding(config)


def assert_same(ours: Any, reference: Any) -> None:
    """Compare two pairs of cosines and sines up to the rounding of angles in float32."""
    for actual, expected in zip(ours, reference, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def test_angles_have_their_hand_computed_values() -> None:
    # base 100, two pairs: 1 and 0.1 radians a token; factors 2 and 5; token 3 turns by 1.5 and 0.06
    pairs = Geometry(num_pairs=2, rope_theta=100.0, original_length=64)
    rotary = LongRopeRotary(pairs)
    rotary.use(make(geometry_=pairs, factors=(2.0, 5.0), attention_scale=1.5))
    cos, sin = rotary(LIKE, torch.tensor([[3]]))
    angles = [1.5, 0.06, 1.5, 0.06]
    np.testing.assert_allclose(cos[0, 0], [1.5 * math.cos(a) for a in angles], rtol=1e-6)
    np.testing.assert_allclose(sin[0, 0], [1.5 * math.sin(a) for a in angles], rtol=1e-6)


def test_a_new_module_is_the_models_own_embedding_bit_by_bit(model: PreTrainedModel) -> None:
    original: Any = model.base_model.rotary_emb
    ours = LongRopeRotary(geometry(model, ORIGINAL_LENGTH))
    for mine, its in zip(ours(LIKE, POSITIONS), original(LIKE, POSITIONS), strict=True):
        assert torch.equal(mine, its)


def test_linear_agrees_with_transformers() -> None:
    ours = LongRopeRotary(GEOMETRY)
    ours.use(closed_form("linear", GEOMETRY, 4 * ORIGINAL_LENGTH))
    reference = theirs(rope_type="linear", factor=4.0)
    assert_same(ours(LIKE, POSITIONS), reference(LIKE, POSITIONS))


def test_yarn_agrees_with_transformers() -> None:
    ours = LongRopeRotary(GEOMETRY)
    ours.use(closed_form("yarn", GEOMETRY, 4 * ORIGINAL_LENGTH))
    reference = theirs(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=ORIGINAL_LENGTH
    )
    assert_same(ours(LIKE, POSITIONS), reference(LIKE, POSITIONS))


@pytest.mark.parametrize("length", [ORIGINAL_LENGTH, ORIGINAL_LENGTH + 1, 4 * ORIGINAL_LENGTH])
def test_a_table_of_two_agrees_with_the_longrope_of_transformers(length: int) -> None:
    scale = su_attention_scale(4.0, ORIGINAL_LENGTH)
    short = make(ORIGINAL_LENGTH, factors=(1.0,) * 7 + (1.5,), attention_scale=scale)
    long = make(4 * ORIGINAL_LENGTH, attention_scale=scale)
    ours = LongRopeRotary(GEOMETRY)
    ours.use_table(FactorTable(entries=(short, long)))
    reference = theirs(
        rope_type="longrope",
        factor=4.0,
        short_factor=list(short.factors),
        long_factor=list(long.factors),
        original_max_position_embeddings=ORIGINAL_LENGTH,
    )
    positions = POSITIONS[:, :length]
    assert_same(ours(LIKE, positions), reference(LIKE, positions))


@given(num_start_tokens=st.integers(0, 300))
def test_start_tokens_are_unscaled_and_the_others_are_not(num_start_tokens: int) -> None:
    mixed, original, scaled = (LongRopeRotary(GEOMETRY) for _ in range(3))
    mixed.use(make(num_start_tokens=num_start_tokens))
    scaled.use(make())
    triples = zip(*(rotary(LIKE, POSITIONS) for rotary in (mixed, original, scaled)), strict=True)
    for ours, early, late in triples:
        assert torch.equal(ours[:, :num_start_tokens], early[:, :num_start_tokens])
        assert torch.equal(ours[:, num_start_tokens:], late[:, num_start_tokens:])


def test_factors_of_one_are_the_pretrained_embedding_bit_by_bit() -> None:
    rotary = LongRopeRotary(GEOMETRY)
    before = rotary(LIKE, POSITIONS)
    rotary.use(make(factors=(1.0,) * 8, attention_scale=1.0))
    assert all(map(torch.equal, rotary(LIKE, POSITIONS), before))


@pytest.mark.parametrize("num_start_tokens", [0, 5])
def test_a_chunk_is_a_slice_of_the_whole(num_start_tokens: int) -> None:
    rotary = LongRopeRotary(GEOMETRY)
    rotary.use(make(num_start_tokens=num_start_tokens))
    for whole, part in zip(rotary(LIKE, POSITIONS), rotary(LIKE, POSITIONS[:, 3:40]), strict=True):
        assert torch.equal(whole[:, 3:40], part)


def test_a_table_is_read_at_the_longest_row_or_at_the_length_given() -> None:
    table = FactorTable(entries=(make(64, attention_scale=2.0), make(128, attention_scale=3.0)))
    rotary = LongRopeRotary(GEOMETRY)
    rotary.use_table(table)

    def scale_at(*last: int) -> float:
        positions = torch.tensor([[0, position] for position in last])
        return float(rotary(LIKE, positions)[0][0, 0, 0])

    assert [scale_at(63), scale_at(64), scale_at(63, 64), scale_at(999)] == [2, 3, 3, 3]
    assert rotary.embed(LIKE, torch.tensor([[0]]), length=100)[0][0, 0, 0] == 3


def test_each_row_keeps_its_own_positions() -> None:
    rotary = LongRopeRotary(GEOMETRY)
    rotary.use(make())
    rows = torch.stack([POSITIONS[0, :9], POSITIONS[0, 30:39]])
    both = rotary(LIKE, rows)[0]
    for row, result in zip(rows, both, strict=True):
        assert torch.equal(rotary(LIKE, row[None])[0][0], result)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_result_has_the_dtype_asked_for(dtype: torch.dtype) -> None:
    cos, sin = LongRopeRotary(GEOMETRY)(LIKE.to(dtype), POSITIONS)
    assert (cos.dtype, sin.dtype) == (dtype, dtype)
    assert cos.shape == sin.shape == (1, POSITIONS.shape[1], 16)


def test_casting_the_module_does_not_touch_its_frequencies() -> None:
    rotary = LongRopeRotary(GEOMETRY)
    rotary.use(make(num_start_tokens=2))
    before = rotary(LIKE, POSITIONS + 10_000)
    rotary.to(torch.bfloat16)
    assert all(map(torch.equal, rotary(LIKE, POSITIONS + 10_000), before))
    rotary.use(make())
    assert all(map(torch.equal, rotary(LIKE, POSITIONS + 10_000), before))


def test_installing_repairs_frequencies_that_a_cast_has_rounded(llama: PreTrainedModel) -> None:
    original: Any = copy.deepcopy(llama.base_model.rotary_emb)
    rotary = install(llama.bfloat16(), geometry(llama, ORIGINAL_LENGTH))
    assert torch.equal(rotary(LIKE, POSITIONS)[0], original(LIKE, POSITIONS)[0])


def test_float64_angles_agree_with_numpy_where_float32_is_off() -> None:
    positions = torch.tensor([[2_000_003]])
    frequencies = 10000.0 ** (-np.arange(8) / 8) / np.linspace(1.0, 4.0, 8)
    exact = 1.2 * np.cos(2_000_003 * frequencies)
    errors = {}
    for dtype in (torch.float32, torch.float64):
        rotary = LongRopeRotary(GEOMETRY, angle_dtype=dtype)
        rotary.use(make())
        cos = rotary(LIKE.double(), positions)[0][0, 0, :8]
        errors[dtype] = np.abs(cos.numpy() - exact).max()
    assert errors[torch.float64] < 1e-8
    assert errors[torch.float32] > 1e-3


def test_the_state_dict_stays_as_it_was(llama: PreTrainedModel) -> None:
    before = llama.state_dict().keys()
    rotary = install(llama, geometry(llama, ORIGINAL_LENGTH))
    rotary.use(make())
    assert llama.state_dict().keys() == before
    assert not list(rotary.parameters())


def test_installing_twice_keeps_the_module_and_its_factors(llama: PreTrainedModel) -> None:
    first = install(llama, geometry(llama, ORIGINAL_LENGTH))
    first.use(make())
    assert install(llama, geometry(llama, ORIGINAL_LENGTH)) is first
    assert first(LIKE, POSITIONS)[0][0, 0, 0] == pytest.approx(1.2)


def test_installing_for_another_original_length_starts_anew(llama: PreTrainedModel) -> None:
    first = install(llama, geometry(llama, ORIGINAL_LENGTH))
    second = install(llama, geometry(llama, 2 * ORIGINAL_LENGTH))
    assert second is not first
    assert llama.base_model.rotary_emb is second


def test_a_wrong_number_of_factors_is_refused_with_both_numbers() -> None:
    rotary = LongRopeRotary(GEOMETRY)
    wrong = make(factors=(1.0,) * 5)
    with pytest.raises(ValueError, match="8 rotary pairs, got 5 factors"):
        rotary.use(wrong)
    with pytest.raises(ValueError, match="8 rotary pairs, got 5 factors"):
        rotary.use_table(FactorTable(entries=(make(64), wrong)))


def test_a_geometry_of_another_model_is_refused_with_both_numbers(llama: PreTrainedModel) -> None:
    other = Geometry(num_pairs=5, rope_theta=10000.0, original_length=64)
    with pytest.raises(ValueError, match="8 rotary pairs, got a geometry of 5"):
        install(llama, other)


def test_the_model_computes_as_before_until_factors_are_set(
    model: PreTrainedModel, tokens: torch.Tensor
) -> None:
    with torch.inference_mode():
        before = model(tokens[None]).logits
        rotary = install(model, geometry(model, ORIGINAL_LENGTH))
        assert torch.equal(model(tokens[None]).logits, before)
        rotary.use(make(geometry_=rotary.geometry, num_start_tokens=len(tokens)))
        assert torch.equal(model(tokens[None]).logits, before)
        rotary.use(make(geometry_=rotary.geometry, num_start_tokens=len(tokens) - 1))
        assert not torch.equal(model(tokens[None]).logits[0, -1], before[0, -1])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_changes_the_model_except_none(
    name: str, llama: PreTrainedModel, tokens: torch.Tensor
) -> None:
    rotary = install(llama, geometry(llama, ORIGINAL_LENGTH))
    with torch.inference_mode():
        before = llama(tokens[None]).logits
        rotary.use(closed_form(name, rotary.geometry, 256))
        assert torch.equal(llama(tokens[None]).logits, before) == (name == "none")


def test_factors_set_in_inference_mode_still_allow_training(
    llama: PreTrainedModel, tokens: torch.Tensor
) -> None:
    rotary = install(llama, geometry(llama, ORIGINAL_LENGTH))
    with torch.inference_mode():
        rotary.use(make(num_start_tokens=4))
        llama(tokens[None])
    llama(tokens[None], labels=tokens[None]).loss.backward()
    assert all(parameter.grad is not None for parameter in llama.parameters())


@settings(max_examples=20)
@given(scale=st.floats(1.0, 8.0), offset=st.integers(0, 1000))
def test_attention_depends_on_distance_only(scale: float, offset: int) -> None:
    # the reason for rotary embeddings; start tokens are the stated exception
    rotary = LongRopeRotary(GEOMETRY, angle_dtype=torch.float64)
    rotary.use(make(factors=tuple(np.linspace(1.0, scale, 8))))
    like = LIKE.double()

    def products(first: int) -> torch.Tensor:
        cos, sin = (values[0] for values in rotary(like, torch.tensor([[first, first + 7]])))
        product: torch.Tensor = cos[0] * cos[1] + sin[0] * sin[1]
        return product

    torch.testing.assert_close(products(0), products(offset), rtol=0, atol=1e-9)
