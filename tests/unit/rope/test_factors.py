"""Tests of longrope.rope.factors: refusals, files, and which entry of a table applies."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from longrope.errors import UserError
from longrope.rope.factors import FactorTable, RopeFactors

positive = st.floats(min_value=1e-6, max_value=1e6)


def make(target_length: int = 128, **changes: Any) -> RopeFactors:
    """Return valid factors of two pairs, with changes."""
    given_values: dict[str, Any] = {
        "factors": (1.0, 2.0),
        "original_length": 64,
        "target_length": target_length,
        "method": "longrope",
    }
    return RopeFactors(**(given_values | changes))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_factor_that_is_not_finite_and_positive_is_refused(bad: float) -> None:
    with pytest.raises(ValidationError, match="factor 1 must be finite and positive"):
        make(factors=(1.0, bad))


@pytest.mark.parametrize(
    "changes",
    [{"factors": ()}, {"num_start_tokens": -1}, {"attention_scale": 0.0}, {"original_length": 0}],
)
def test_meaningless_values_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        make(**changes)


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="attention_scal"):
        make(attention_scal=1.0)


def test_the_scale_is_target_over_original_length() -> None:
    assert make(256).scale == 4.0


def test_provenance_and_method_do_not_belong_to_the_identity() -> None:
    factors, other = make(), make(method="yarn", provenance={"seed": 3})
    assert factors.identity() == other.identity()


@pytest.mark.parametrize(
    "changes", [{"factors": (1.0, 3.0)}, {"num_start_tokens": 1}, {"attention_scale": 1.5}]
)
def test_whatever_changes_angles_changes_the_identity(changes: dict[str, Any]) -> None:
    assert make().identity() != make(**changes).identity()


@given(
    factors=st.lists(positive, min_size=1, max_size=8),
    num_start_tokens=st.integers(0, 1000),
    attention_scale=positive,
)
def test_factors_survive_a_file_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory,
    factors: list[float],
    num_start_tokens: int,
    attention_scale: float,
) -> None:
    path = tmp_path_factory.mktemp("factors") / "factors.json"
    written = make(
        factors=tuple(factors), num_start_tokens=num_start_tokens, attention_scale=attention_scale
    )
    written.save(path)
    assert RopeFactors.read(path) == written


def test_a_table_survives_a_file(tmp_path: Path) -> None:
    table = FactorTable(entries=(make(64), make(128, num_start_tokens=4)))
    table.save(tmp_path / "table.json")
    assert FactorTable.read(tmp_path / "table.json") == table


@pytest.mark.parametrize("kind", [RopeFactors, FactorTable])
@pytest.mark.parametrize("content", ["", "{}", "[1, 2]", None])
def test_a_file_of_something_else_is_refused_by_name(
    kind: type[RopeFactors | FactorTable], content: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"other\.json is not a factor") as refused:
        kind.read(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("lengths", [(128, 64), (64, 64)])
def test_a_table_out_of_order_is_refused(lengths: tuple[int, int]) -> None:
    with pytest.raises(ValidationError, match="must rise strictly"):
        FactorTable(entries=tuple(make(length) for length in lengths))


@pytest.mark.parametrize(
    ("length", "expected"), [(1, 64), (64, 64), (65, 128), (128, 128), (129, 256), (9999, 256)]
)
def test_the_smallest_entry_that_holds_the_sequence_applies(length: int, expected: int) -> None:
    table = FactorTable(entries=(make(64), make(128), make(256)))
    assert table.at(length).target_length == expected
