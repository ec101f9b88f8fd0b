"""Counting of elections and leaders."""

from __future__ import annotations

import pytest

from cyoloctl.raft.tally import Tally

FOLLOWS, STANDS, LEADS, LOST = (False, True), (True, False), (True, True), (False, False)


@pytest.mark.parametrize(
    ("seen", "elections", "leader_changes"),
    [
        ([], 0, 0),
        ([(1, FOLLOWS)], 0, 0),  # the leader that was there
        ([(1, FOLLOWS), (1, LOST), (1, FOLLOWS)], 0, 0),  # heard again
        ([(1, STANDS), (1, LEADS)], 1, 0),  # one election, won
        ([(1, STANDS), (2, STANDS), (2, LOST), (3, FOLLOWS)], 2, 0),
        ([(1, LEADS), (2, LOST), (2, FOLLOWS), (3, STANDS), (3, LEADS)], 2, 2),
        ([(1, LEADS), (2, LEADS)], 2, 1),  # itself, in a later term
    ],
)
def test_elections_in_which_it_stood_and_leaders_after_another_are_counted(
    seen: list[tuple[int, tuple[bool, bool]]], elections: int, leader_changes: int
) -> None:
    tally = Tally()
    for term, (stands, has_leader) in seen:
        tally.saw(term=term, stands=stands, has_leader=has_leader)
    assert (tally.elections, tally.leader_changes) == (elections, leader_changes)
