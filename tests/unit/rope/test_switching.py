"""Which entry of a table a growing text runs under, by hand and against the table itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope.errors import UserError
from longrope.rope.factors import FactorTable, RopeFactors
from longrope.rope.methods import Geometry
from longrope.rope.switching import require_room, require_same_model, stretches

LENGTHS = (64, 80, 128)
GEOMETRY = Geometry(num_pairs=2, rope_theta=10_000.0, original_length=64, hidden_size=8)


def entry(length: int, **changes: object) -> RopeFactors:
    values = {"factors": (1.0, 2.0), "original_length": 64, "target_length": length, "method": "x"}
    return RopeFactors(**values | changes)


TABLE = FactorTable(entries=tuple(entry(length) for length in LENGTHS))


def divided(num_tokens: int, total: int, switch: str) -> list[tuple[int, int]]:
    parts = stretches(TABLE, num_tokens, total, switch)
    return [(part.factors.target_length, part.end) for part in parts]


def test_a_text_that_will_pass_an_entry_runs_under_the_next_from_the_start():
    assert divided(10, 64, "start") == [(64, 64)]
    assert divided(10, 65, "start") == [(80, 65)]


def test_a_full_entry_predicts_one_more_token_before_the_text_is_computed_again():
    assert divided(63, 100, "recompute") == [(64, 65), (80, 81), (128, 100)]
    assert divided(64, 65, "recompute") == [(64, 65)]
    assert divided(65, 66, "recompute") == [(80, 66)]


@given(st.integers(1, 127), st.data())
def test_each_token_is_predicted_under_the_entry_of_the_text_before_it(num_tokens, data):
    total = data.draw(st.integers(num_tokens + 1, 128))
    lengths = iter(range(num_tokens, total))
    for part in stretches(TABLE, num_tokens, total, "recompute"):
        for length in lengths:
            assert TABLE.at(length) == part.factors
            if length + 1 == part.end:
                break
    assert [*lengths] == []


def test_a_prompt_that_fills_the_longest_entry_is_refused():
    with pytest.raises(
        UserError, match=r"a\.txt has 128 tokens, but the longest factors are for 128"
    ):
        require_room(TABLE, 128, 1, "a.txt")
    with pytest.raises(UserError, match="ask for at most 8 new tokens"):
        require_room(TABLE, 120, 9, "a.txt")
    require_room(TABLE, 120, 8, "a.txt")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"factors": (1.0,)}, "with rotary pairs 1, but m has 2"),
        ({"rope_theta": 5e5}, r"with rope_theta 500000, but m has 10000"),
        ({"hidden_size": 16}, "with hidden_size 16, but m has 8"),
        ({"partial_rotary_factor": 0.25}, r"with partial_rotary_factor 0.25, but m has 1"),
    ],
)
def test_factors_of_another_model_are_refused_by_the_fact_that_differs(changes, sentence):
    table = FactorTable(entries=(entry(64), entry(80, **changes)))
    with pytest.raises(UserError, match="the factors for 80 tokens are of a model " + sentence):
        require_same_model(table, GEOMETRY, "m")


def test_factors_that_do_not_say_their_model_are_taken():
    require_same_model(TABLE, GEOMETRY, "m")
