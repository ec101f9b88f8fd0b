"""Moments at which a node's loops wake."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyoloctl.beat import until_beat


@pytest.mark.parametrize(
    ("now", "period_s", "left_s"),
    [
        (12.0, 0.5, 0.5),
        (12.1, 0.5, 0.4),
        (12.49, 0.5, 0.01),
        (12.1, 1.0, 0.9),
        (13.0, 2.0, 1.0),
        (0.0, 5.0, 5.0),
    ],
)
def test_a_beat_comes_when_the_clock_shows_a_multiple_of_the_period(
    now: float, period_s: float, left_s: float
) -> None:
    assert until_beat(now, period_s) == pytest.approx(left_s)


@given(st.floats(0, 1e9), st.sampled_from([0.01, 0.1, 0.2, 0.5, 1.0, 5.0]))
def test_a_beat_is_ahead_and_within_the_period(now: float, period_s: float) -> None:
    assert 0 < until_beat(now, period_s) <= period_s


@given(st.floats(0, 1e8))
def test_whoever_wakes_each_second_wakes_with_whoever_wakes_each_half(now: float) -> None:
    at = now + until_beat(now, 1.0)
    half = now + until_beat(now, 0.5)
    assert half == pytest.approx(at) or half + 0.5 == pytest.approx(at)
