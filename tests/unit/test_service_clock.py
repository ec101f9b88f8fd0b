"""Which clock a proposal is stamped with."""

from __future__ import annotations

import pytest

from cyoloctl.service import clock_correction_ms


@pytest.mark.parametrize(
    ("skews_ms", "correction_ms"),
    [
        ([], 0.0),
        ([900_000.0], 0.0),  # of two clocks nobody knows which is wrong
        ([-900_000.0, -900_010.0], -900_000.0),  # ours is far ahead
        ([900_000.0, 900_010.0], 900_000.0),  # ours is far behind
        ([900_000.0, 3.0], 0.0),  # a peer's is wrong, not ours
        ([1_900.0, 1_950.0], 0.0),  # within the tolerance
        ([-5_000.0, -6_000.0, 10.0], -2_500.0),
    ],
)
def test_clock_correction_of_known_skews_follows_the_majority(
    skews_ms: list[float], correction_ms: float
) -> None:
    assert clock_correction_ms(skews_ms) == pytest.approx(correction_ms)
