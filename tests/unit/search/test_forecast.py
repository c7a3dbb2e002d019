"""What losses on some documents say about the others."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope.search.algorithms.forecast import FLOOR, RIDGE, Spread, exchangeable, learned


def layout(deviation, num_rows, num_documents=4):
    """Return losses whose rows differ by noise over documents, and whose documents differ in hardness."""
    generator = np.random.default_rng(0)
    noise = generator.normal(0, deviation, (num_rows, num_documents))
    return noise + generator.normal(0, 5, num_documents)


def any_spread(seed, num_documents):
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(num_documents, num_documents + 2))
    return Spread(generator.normal(size=num_documents), root @ root.T, 100)


def test_a_loss_not_scored_is_foreseen_from_how_documents_go_together():
    spread = Spread(np.array([1.0, 5.0]), np.array([[4.0, 2.0], [2.0, 3.0]]), 9)
    foreseen, deviation = spread.foresee(np.array([[3.0], [1.0]]), [0])
    # 2 above the mean, of which half goes on: 2 / 4; of the variance 3 is 2 * 2 / 4 explained
    np.testing.assert_allclose(foreseen, [[3.0, 6.0], [1.0, 5.0]])
    assert deviation == pytest.approx(math.sqrt(3 - 1) / 2)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.data())
def test_what_is_left_uncertain_is_the_inverse_of_the_inverse_covariance_of_the_others(
    seed, num_documents, data
):
    spread = any_spread(seed, num_documents)
    scored = data.draw(st.lists(st.integers(0, num_documents - 1), unique=True, min_size=1))
    others = [one for one in range(num_documents) if one not in scored]
    _, deviation = spread.foresee(np.zeros((1, len(scored))), scored)
    precision = np.linalg.inv(spread.covariance)[np.ix_(others, others)]
    expected = math.sqrt(np.linalg.inv(precision).sum()) / num_documents if others else FLOOR
    assert deviation == pytest.approx(expected, rel=1e-4)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_documents_come_in_an_order_that_leaves_least_open_at_every_step(seed, num_documents):
    spread = any_spread(seed, num_documents)
    order = spread.telling_order()
    assert sorted(order) == list(range(num_documents))
    for place, chosen in enumerate(order):

        def left(one, before=order[:place]):
            return spread.foresee(np.zeros((1, len(before) + 1)), [*before, one])[1]

        assert left(chosen) == min(left(one) for one in order[place:])


def test_the_spread_is_learned_from_candidates_scored_before_but_not_from_failed_ones():
    field = layout(0.3, 16)
    failed = np.array([[1.0, np.inf, 1.0, 1.0]])
    spread = learned(np.concatenate([field, failed]))
    expected = np.cov(field.T)
    assert spread.freedom == 15
    np.testing.assert_allclose(spread.mean, field.mean(axis=0))
    ridge = RIDGE * np.diag(expected).mean() * np.eye(4)
    np.testing.assert_allclose(spread.covariance, expected + ridge, rtol=1e-9)
    assert learned(np.concatenate([field[1:], failed])) is None


def test_rows_with_gaps_tell_what_they_tell_whoever_left_the_gaps():
    # the second document is scored only where the first promised much: neither what is whole nor what is
    # foreseen of the others has the moments of all
    generator = np.random.default_rng(0)
    root = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.5, 0.2, 0.7]])
    whole = generator.normal(size=(20_000, 3)) @ root.T + [3.0, 5.0, 4.0]
    field = whole.copy()
    field[whole[:, 0] > 3.2, 1:] = np.nan
    field[(whole[:, 0] <= 3.2) & (whole[:, 1] > 5.1), 2] = np.nan
    spread = learned(field)
    np.testing.assert_allclose(spread.mean, [3.0, 5.0, 4.0], atol=0.05)
    np.testing.assert_allclose(spread.covariance, root @ root.T, atol=0.05)
    selected = np.cov(field[np.isfinite(field).all(axis=1)].T)
    assert np.abs(selected - root @ root.T).max() > 0.3


def test_documents_alike_to_all_digits_are_foreseen_too():
    field = np.arange(20.0)[:, None] + np.zeros(4)
    foreseen, deviation = learned(field).foresee(np.array([[3.0]]), [1])
    np.testing.assert_allclose(foreseen, [[3.0] * 4], rtol=1e-2)
    assert 0 < deviation < 0.1


def test_exchangeable_documents_go_on_as_they_began():
    rivals = np.array([[1.0, 7.0, 2.0, 9.0], [1.2, 7.0, 2.0, 9.0], [np.inf] * 4])
    foreseen, _ = exchangeable(rivals, rivals[:0]).foresee(np.array([[2.1, 4.0]]), [0, 2])
    # 1 and 2 above the mean rival, so 1.5 on the others
    np.testing.assert_allclose(foreseen, [[2.1, 8.5, 4.0, 10.5]], rtol=1e-4)


def test_a_difference_is_uncertain_by_the_documents_that_remain():
    # a difference of two has a variance of 2 * 0.09; 1 of 4 documents leaves 1 - 1/4 of it
    spread = exchangeable(layout(0.3, 5000), np.zeros((1, 1)))
    _, deviation = spread.foresee(np.zeros((1, 1)), [0])
    assert deviation == pytest.approx(0.3 * math.sqrt(2 * 3 / 4), rel=0.02)


@pytest.mark.parametrize("num_rivals", [0, 1])
def test_without_two_rivals_the_spread_is_that_of_the_candidates_that_run(num_rivals):
    # means of rows 1 and 3, of columns 1.5 and 2.5, of all 2: 0.5 and -0.5 are left, one degree of freedom
    rivals = np.ones((num_rivals, 4))
    spread = exchangeable(rivals, np.array([[1.0, 1.0], [2.0, 4.0]]))
    assert spread.freedom == 1
    _, deviation = spread.foresee(np.zeros((1, 2)), [0, 3])
    assert deviation == pytest.approx(math.sqrt(2 * 4 * 0.25) * math.sqrt(1 / 2 - 1 / 4), rel=1e-4)


def test_one_row_or_one_column_tells_nothing():
    assert exchangeable(np.ones((1, 5)), np.ones((1, 3))) is None
    assert exchangeable(np.ones((0, 5)), np.ones((4, 1))) is None
