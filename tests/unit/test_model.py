"""Majorities of voters."""

from __future__ import annotations

import pytest

from cyoloctl.model import majority


@pytest.mark.parametrize(
    ("voters", "needed"), [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)]
)
def test_majority_of_so_many_voters_is_more_than_half(voters: int, needed: int) -> None:
    assert majority(voters) == needed
    assert 2 * needed > voters >= 2 * (needed - 1)
