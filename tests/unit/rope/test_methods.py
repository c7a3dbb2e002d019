"""Tests of longrope.rope.methods: hand-computed values, properties, transformers as reference."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from longrope.rope import methods
from longrope.rope.methods import METHODS, Factors, Geometry, closed_form
from longrope.search.algorithms.curves import Ramp, log_turns, ramp_point

GEOMETRY = Geometry(num_pairs=16, rope_theta=10000.0, original_length=256)

geometries = st.builds(
    Geometry,
    num_pairs=st.integers(2, 64),
    rope_theta=st.sampled_from([100.0, 10000.0, 500000.0, 1e6]),
    original_length=st.integers(64, 8192),
)
scales = st.floats(min_value=1.0, max_value=512.0)


def pretrained_frequencies(geometry: Geometry, rope_theta: float | None = None) -> Factors:
    """Return radians per token, (P,), written out independently of the package."""
    theta = rope_theta or geometry.rope_theta
    return np.array(
        [theta ** (-2 * i / (2 * geometry.num_pairs)) for i in range(geometry.num_pairs)]
    )


def reference(
    geometry: Geometry, rope_type: str, *, seq_len: int | None = None, **options: Any
) -> tuple[Factors, float]:
    """Return the factors and the attention scale behind transformers' frequencies."""
    config = LlamaConfig(
        hidden_size=4 * geometry.num_pairs,
        num_attention_heads=2,
        max_position_embeddings=geometry.original_length,
        rope_parameters={
            "rope_type": rope_type,
            "rope_theta": geometry.rope_theta,
            **options,
        },
    )
    frequencies, scale = ROPE_INIT_FUNCTIONS[rope_type](config, None, seq_len)
    return pretrained_frequencies(geometry) / frequencies.double().numpy(), scale


def test_periods_have_their_hand_computed_values() -> None:
    # two pairs of base 100: the second turns sqrt(100) = 10 times more slowly
    geometry = Geometry(num_pairs=2, rope_theta=100.0, original_length=64)
    np.testing.assert_allclose(geometry.periods, [2 * math.pi, 20 * math.pi])


def test_ntk_has_its_hand_computed_values() -> None:
    # scale 8 over 4 pairs: 8^0, 8^(1/3), 8^(2/3), 8
    geometry = Geometry(num_pairs=4, rope_theta=10000.0, original_length=64)
    np.testing.assert_allclose(methods.ntk(geometry, 8.0), [1, 2, 4, 8])


def test_dynamic_ntk_has_its_hand_computed_last_factor() -> None:
    # scale 4: 4 * 4 - (4 - 1) = 13
    assert methods.dynamic_ntk(GEOMETRY, 4.0)[-1] == pytest.approx(13.0)


def test_yarn_has_its_hand_computed_ends_and_middle() -> None:
    # 4 pairs of base 10^4 turn by 1, 0.1, 0.01, 0.001 radians a token; over 64 * 2 pi tokens these
    # are 64, 6.4, 0.64 and 0.064 turns: the first is above 32, the last two below 1. The ramp runs
    # from pair 0 (0.30 rounded down) to pair 2 (1.81 rounded up): pair 1 mixes half and half.
    geometry = Geometry(num_pairs=4, rope_theta=10000.0, original_length=402)
    np.testing.assert_allclose(methods.yarn(geometry, 4.0), [1, 1 / (0.5 / 4 + 0.5), 4, 4])


def test_attention_scales_have_their_hand_computed_values() -> None:
    # scale 4 over 16 tokens: sqrt(1 + ln 4 / ln 16) = sqrt(1.5)
    assert methods.su_attention_scale(4.0, 16) == pytest.approx(math.sqrt(1.5))
    assert methods.yarn_attention_scale(math.e) == pytest.approx(1.1)


@pytest.mark.parametrize("rule", ["yarn", "su"])
def test_without_extension_attention_is_not_scaled(rule: str) -> None:
    assert methods.attention_scale(rule, scale=1.0, original_length=64) == 1.0
    assert methods.attention_scale(rule, scale=0.5, original_length=64) == 1.0


def test_the_attention_scale_follows_its_rule() -> None:
    options: dict[str, Any] = {"scale": 8.0, "original_length": 64}
    assert methods.attention_scale("yarn", **options) == methods.yarn_attention_scale(8.0)
    assert methods.attention_scale("su", **options) == methods.su_attention_scale(8.0, 64)
    assert methods.attention_scale(1.25, **options) == 1.25


def test_an_unknown_attention_scale_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="must be yarn, su or a number, got 'yarm'"):
        methods.attention_scale("yarm", scale=2.0, original_length=64)


@pytest.mark.parametrize("name", METHODS)
@given(geometry=geometries, scale=scales)
def test_a_slower_pair_is_never_slowed_less(name: str, geometry: Geometry, scale: float) -> None:
    factors = METHODS[name](geometry, scale)
    assert factors.shape == (geometry.num_pairs,)
    assert (np.diff(factors) >= -1e-12).all()
    assert factors.min() >= 1 - 1e-12


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"none", "dynamic_ntk"}))
@given(geometry=geometries, scale=scales)
def test_no_factor_exceeds_the_scale(name: str, geometry: Geometry, scale: float) -> None:
    assert METHODS[name](geometry, scale).max() <= scale * (1 + 1e-12)


@pytest.mark.parametrize("name", METHODS)
@given(geometry=geometries)
def test_without_extension_every_method_is_the_pretrained_embedding(
    name: str, geometry: Geometry
) -> None:
    closed = closed_form(name, geometry, geometry.original_length)
    np.testing.assert_allclose(closed.factors, 1.0, rtol=1e-12)
    assert (closed.attention_scale, closed.num_start_tokens) == (1.0, 0)


@pytest.mark.parametrize("name", METHODS)
def test_below_the_original_length_nothing_is_sped_up(name: str) -> None:
    assert min(closed_form(name, GEOMETRY, 100).factors) == pytest.approx(1.0)


@given(geometry=geometries, scale=st.integers(1, 64))
def test_linear_agrees_with_transformers(geometry: Geometry, scale: int) -> None:
    theirs, _ = reference(geometry, "linear", factor=float(scale))
    np.testing.assert_allclose(methods.linear(geometry, scale), theirs, rtol=1e-5)


@given(geometry=geometries, scale=scales)
def test_ntk_is_the_pretrained_embedding_of_a_raised_base(geometry: Geometry, scale: float) -> None:
    rotary_dim = 2 * geometry.num_pairs
    raised = geometry.rope_theta * scale ** (rotary_dim / (rotary_dim - 2))
    ratio = pretrained_frequencies(geometry) / pretrained_frequencies(geometry, raised)
    np.testing.assert_allclose(methods.ntk(geometry, scale), ratio, rtol=1e-9)


@given(geometry=geometries, scale=st.integers(2, 64))
def test_dynamic_ntk_agrees_with_transformers_at_the_target_length(
    geometry: Geometry, scale: int
) -> None:
    theirs, _ = reference(
        geometry, "dynamic", seq_len=scale * geometry.original_length, factor=float(scale)
    )
    np.testing.assert_allclose(methods.dynamic_ntk(geometry, scale), theirs, rtol=1e-5)


@given(geometry=geometries, scale=st.integers(2, 64))
def test_yarn_and_its_attention_scale_agree_with_transformers(
    geometry: Geometry, scale: int
) -> None:
    theirs, attention_scale = reference(
        geometry,
        "yarn",
        factor=float(scale),
        original_max_position_embeddings=geometry.original_length,
    )
    np.testing.assert_allclose(methods.yarn(geometry, scale), theirs, rtol=1e-5)
    ours = closed_form("yarn", geometry, scale * geometry.original_length).attention_scale
    assert ours == pytest.approx(attention_scale)


@given(scale=st.floats(min_value=0.5, max_value=512.0), original_length=st.integers(2, 8192))
def test_the_su_attention_scale_is_the_default_of_longrope_in_transformers(
    scale: float, original_length: int
) -> None:
    geometry = Geometry(num_pairs=2, rope_theta=10000.0, original_length=original_length)
    _, theirs = reference(
        geometry,
        "longrope",
        factor=scale,
        short_factor=[1.0, 1.0],
        long_factor=[1.0, 1.0],
        original_max_position_embeddings=original_length,
    )
    assert methods.su_attention_scale(scale, original_length) == pytest.approx(theirs)


@pytest.mark.parametrize("name", METHODS)
def test_a_closed_form_says_what_it_is_for(name: str) -> None:
    closed = closed_form(name, GEOMETRY, 1024)
    assert (closed.original_length, closed.target_length, closed.method) == (256, 1024, name)
    np.testing.assert_array_equal(closed.factors, METHODS[name](GEOMETRY, 4.0))


def test_only_yarn_scales_attention() -> None:
    scaled = {name for name in METHODS if closed_form(name, GEOMETRY, 1024).attention_scale != 1.0}
    assert scaled == {"yarn"}


@pytest.mark.parametrize(
    ("name", "fast", "slow"), [("narrow_ramp", 1.4, 0.7), ("wide_ramp", 64.0, 2.0)]
)
@given(geometry=geometries, scale=scales)
def test_a_ramp_is_the_curve_that_the_search_starts_from(
    name: str, fast: float, slow: float, geometry: Geometry, scale: float
) -> None:
    turns = log_turns(geometry, np.ones(geometry.num_pairs), geometry.original_length)
    start = Ramp(turns, scale).log_factors(ramp_point(fast, slow))
    np.testing.assert_allclose(METHODS[name](geometry, scale), np.exp(start), rtol=1e-9)


def test_a_narrow_ramp_scales_the_pairs_that_turn_less_than_once_fully() -> None:
    # 256 tokens are 40.7, 4.07, 0.41 and 0.04 turns; from 64 to 2 the first is at ln(64 / 40.7) / ln(32)
    geometry = Geometry(num_pairs=4, rope_theta=10_000.0, original_length=256)
    assert METHODS["narrow_ramp"](geometry, 4.0).tolist() == pytest.approx([1.0, 1.0, 4.0, 4.0])
    wide = METHODS["wide_ramp"](geometry, 4.0).tolist()
    expected = [
        4 ** (np.log(64 / 40.744) / np.log(32)),
        4 ** (np.log(64 / 4.0744) / np.log(32)),
        4,
        4,
    ]
    assert wide == pytest.approx(expected, rel=1e-4)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be one of none, linear, .*got 'yarm'"):
        closed_form("yarm", GEOMETRY, 1024)
