"""Ticks of logarithmic axes: a reader who interpolates between two labels is not far off."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope.reports.ticks import log_ticks, minor_log_ticks, tick_label

lows = st.floats(1e-3, 1e6)
ratios = st.floats(1.01, 1e4)


def read_by_eye(value: float, low: float, high: float) -> float:
    """Return what a reader sees who takes the axis between two labels for an even one."""
    ticks = log_ticks(low, high)
    below = max(tick for tick in ticks if tick <= value)
    above = min(tick for tick in ticks if tick > value)
    share = math.log(value / below) / math.log(above / below)
    return below + share * (above - below)


@pytest.mark.parametrize(("low", "high"), [(3, 3000), (5, 8), (1, 1200), (6, 70)])
def test_where_6_25_stands_nobody_reads_3_3(low: float, high: float) -> None:
    # between 5 and 10 at the worst: 5 + 5 log2(1.25) = 6.61
    assert read_by_eye(6.25, low, high) == pytest.approx(6.25, abs=0.37)


@given(low=lows, ratio=ratios)
def test_every_value_on_an_axis_of_four_decades_has_a_label_near(low: float, ratio: float) -> None:
    high = low * ratio
    ticks = log_ticks(low, high)
    assert all(low <= tick <= high for tick in ticks) and ticks == sorted(set(ticks))
    assert all(after / before <= 2.5 + 1e-9 for before, after in pairwise([low, *ticks, high]))
    assert len(ticks) >= 2 or ratio < 2.5


@given(low=lows, ratio=st.floats(2.51, 1e12), gap=st.sampled_from([0.065, 0.12]))
def test_labels_are_as_far_apart_as_they_must_be(low: float, ratio: float, gap: float) -> None:
    ticks = log_ticks(low, low * ratio, gap)
    closest = min((math.log(b / a) for a, b in pairwise(ticks)), default=math.inf)
    assert closest >= (gap - 1e-9) * math.log(ratio)


def test_labels_are_plain_round_numbers() -> None:
    assert log_ticks(0.9, 4.9) == [1, 1.2, 1.5, 2, 2.5, 3, 4]
    assert log_ticks(0.28, 9) == [0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7]
    assert log_ticks(8, 3000) == [10, 20, 50, 100, 200, 500, 1000, 2000]
    assert log_ticks(6.02, 7.15) == [6.2, 6.4, 6.6, 6.8, 7.0]
    assert log_ticks(2, 5e6, 0.12) == [10, 100, 1000, 1e4, 1e5, 1e6]
    assert minor_log_ticks(0.28, 2.9) == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 2]
    assert minor_log_ticks(6, 7) == []
    assert [tick_label(value) for value in (0.3, 10.0, 2000.0)] == ["0.3", "10", "2,000"]
