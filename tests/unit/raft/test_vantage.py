"""Where to lead from, as a pure function of who reaches whom."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from cyoloctl.raft.vantage import LASTING_S, Vantage, View

THREE, FIVE = frozenset({"n1", "n2", "n3"}), frozenset({"n1", "n2", "n3", "n4", "n5"})


def view(me: str, links: Mapping[str, str], kept_out: str = "") -> View:
    """What `me` sees, of pairs given as name -> names of those that it reaches."""
    rows = {name: frozenset(reached.split()) for name, reached in links.items()}
    return View(rows[me], {name: rows[name] for name in rows[me]}, frozenset(kept_out.split()))


def moves(
    vantage: Vantage,
    seen: View,
    *,
    voters: frozenset[str] = THREE,
    at: float = 100.0,
    for_s: float = LASTING_S,
    holding: frozenset[str] = FIVE,
) -> str | None:
    """Where leadership of n1 goes after a view has lasted."""
    found = None
    for step in range(int(for_s * 10) + 1):
        found = vantage.better_place(at + step / 10, "n1", voters, seen, holding.__contains__)
        if found is not None:
            break
    return found


ONE_LINK_CUT = view("n1", {"n1": "n2", "n2": "n1 n3", "n3": "n2"})


def test_vantage_a_voter_that_reaches_more_voters_leads() -> None:
    assert moves(Vantage(), ONE_LINK_CUT) == "n2"


def test_vantage_whole_cluster_keeps_its_leader() -> None:
    assert moves(Vantage(), view("n1", {"n1": "n2 n3", "n2": "n1 n3", "n3": "n1 n2"})) is None


def test_vantage_voter_that_nobody_reaches_moves_nothing() -> None:
    assert moves(Vantage(), view("n1", {"n1": "n2", "n2": "n1"})) is None


def test_vantage_tie_moves_nothing() -> None:
    ring = view("n1", {"n1": "n2 n5", "n2": "n1 n3", "n3": "n2 n4", "n4": "n3 n5", "n5": "n4 n1"})
    assert moves(Vantage(), ring, voters=FIVE, for_s=60.0) is None


def test_vantage_of_several_the_one_that_reaches_most_leads() -> None:
    links = {
        "n1": "n2 n3",
        "n2": "n1 n3 n4",
        "n3": "n1 n2 n4 n5",
        "n4": "n2 n3",
        "n5": "n3",
    }
    assert moves(Vantage(), view("n1", links), voters=FIVE) == "n3"


def test_vantage_link_that_one_end_denies_is_none() -> None:
    links = {"n1": "n2 n4", "n2": "n1 n3 n4 n5", "n3": "n2", "n4": "n1", "n5": ""}
    seen = view("n1", links)
    assert moves(Vantage(), seen, voters=frozenset({"n1", "n2", "n4"})) is None


def test_vantage_learners_count_after_voters() -> None:
    gained = view("n1", {"n1": "n2 n3", "n2": "n1 n3 l1", "n3": "n1 n2"})
    assert moves(Vantage(), gained) == "n2"
    # n2 reaches a learner, and one voter fewer than n1.
    lost = view("n1", {"n1": "n2 n3", "n2": "n1 l1", "n3": "n1"})
    assert moves(Vantage(), lost) is None
    # n2 reaches the learners l1 and l2, and n4 in place of n3, who would be left alone.
    four = view("n1", {"n1": "n2 n3", "n2": "n1 n4 l1 l2", "n3": "n1"})
    assert moves(Vantage(), four, voters=FIVE - {"n5"}) is None


def test_vantage_learner_never_leads() -> None:
    links = {"n1": "n2 l1", "n2": "n1 l1", "l1": "n1 n2 n3"}
    assert moves(Vantage(), view("n1", links), holding=FIVE | {"l1"}) is None


def test_vantage_peer_that_the_leader_keeps_out_is_no_reason() -> None:
    # The leader knows what n3 acknowledged, and that its disk is an older copy; n2 does not.
    seen = view("n1", {"n1": "n2", "n2": "n1 n3", "n3": "n2"}, kept_out="n3")
    assert moves(Vantage(), seen) is None


def test_vantage_before_it_has_lasted_nothing_moves_and_a_break_begins_again() -> None:
    vantage = Vantage()
    whole = view("n1", {"n1": "n2 n3", "n2": "n1 n3", "n3": "n1 n2"})
    short = LASTING_S - 0.5
    assert moves(vantage, ONE_LINK_CUT, for_s=short) is None
    assert moves(vantage, whole, at=100.0 + short, for_s=0.0) is None
    assert moves(vantage, ONE_LINK_CUT, at=100.1 + short, for_s=short) is None


def test_vantage_what_was_seen_before_this_leadership_does_not_count() -> None:
    vantage = Vantage()
    assert moves(vantage, ONE_LINK_CUT, for_s=2.0) is None
    vantage.leads()
    assert moves(vantage, ONE_LINK_CUT, at=102.5, for_s=2.0) is None


def test_vantage_voter_that_lacks_log_waits() -> None:
    assert moves(Vantage(), ONE_LINK_CUT, holding=frozenset(), for_s=10.0) is None


@pytest.mark.parametrize(
    ("seen", "pause_s"),
    [(ONE_LINK_CUT, 10.0), (view("n1", {"n1": "n2 n3", "n2": "n1 n3 l1", "n3": "n1 n2"}), 300.0)],
)
def test_vantage_after_a_move_leadership_stays_for_a_while(seen: View, pause_s: float) -> None:
    vantage = Vantage()
    vantage.moved(100.0)
    assert moves(vantage, seen, at=101.0, for_s=pause_s - 2.0) is None
    assert moves(vantage, seen, at=100.0 + pause_s, for_s=0.0) == "n2"
