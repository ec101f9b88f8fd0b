"""Links that are missing for long: who is served, where leadership goes, and that it comes to rest there."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from cyoloctl.raft import handover, vantage
from cyoloctl.sim.reach import run_apart
from tests.support.raft_ours import OurCluster

pytestmark = [pytest.mark.fault, pytest.mark.slow]

How = Literal["cut", "wander", "loss"]


def broken(how: How, seeds: range) -> set[str]:
    """Kinds of the invariants that break in these seeds; and the probes of nodes were answered."""
    worlds = [run_apart(seed, how) for seed in seeds]
    kinds = {world.time.broken[0] for world in worlds if world.time.broken is not None}
    answered = sum(world.time.counts["served"] for world in worlds)
    assert kinds or how == "wander" or answered >= 2 * len(seeds)
    return kinds


@pytest.mark.parametrize(("how", "seeds"), [("cut", 5), ("wander", 2), ("loss", 2)])
def test_links_missing_every_node_that_reaches_a_majority_is_served_and_leadership_settles(
    how: How, seeds: int
) -> None:
    assert broken(how, range(seeds)) == set()


# -- how a leader moves --

B_REACHES_MORE = vantage.View(frozenset("b"), {"b": frozenset("ac")})  # as a sees it; of c it has no answers


def led_by_a(**options: Any) -> OurCluster:
    cluster = OurCluster("abc", **options)
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    cluster.views["a"] = B_REACHES_MORE
    return cluster


def test_leader_hands_over_to_a_voter_that_reaches_more() -> None:
    cluster = led_by_a()
    cluster.run(vantage.LASTING_S - 0.2)
    assert cluster.is_leader("a")
    assert cluster.run_until(lambda: cluster.is_leader("b"), within=1.0)


def test_writes_wait_a_second_for_a_move_that_fails_and_the_next_one_comes_later() -> None:
    cluster = led_by_a()
    cluster.lose("a", "b", "timeout_now")

    def asked() -> bool:
        return any(envelope.message["type"] == "timeout_now" for envelope in cluster.sent)

    cluster.run_until(asked, within=vantage.LASTING_S + 1.0)
    waiting = cluster.propose("a", b"held")
    cluster.run(0.9)
    assert waiting.pending
    assert cluster.run_until(lambda: waiting.ok, within=0.3)
    for number in range(7):
        later = cluster.propose("a", b"later %d" % number)
        assert cluster.run_until(lambda later=later: later.ok, within=0.5)  # type: ignore[misc]
        cluster.run(0.5)
    assert cluster.is_leader("a")


def test_leader_that_was_handed_leadership_keeps_it_for_a_while() -> None:
    cluster = led_by_a()
    cluster.views.clear()
    assert cluster.transfer("a", "b").pending
    assert cluster.run_until(lambda: cluster.is_leader("b"), within=2.0)
    assert cluster.transfer("b", "a").pending
    assert cluster.run_until(lambda: cluster.is_leader("a"), within=2.0)
    cluster.views["a"] = B_REACHES_MORE
    cluster.run(8.0)
    assert cluster.is_leader("a")
    assert cluster.run_until(lambda: cluster.is_leader("b"), within=4.0)


# -- each line of defence taken away, and the runs must notice --


def test_without_moves_nodes_that_reach_a_majority_are_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vantage.Vantage, "better_place", lambda *_: None)
    assert broken("cut", range(4)) == {"partial connectivity"}


def test_without_pauses_leadership_follows_a_wandering_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vantage, "_PAUSE_S", 0.0)
    monkeypatch.setattr(vantage, "_LEARNERS_PAUSE_S", 0.0)
    assert broken("wander", range(2)) == {"livelock"}


def test_at_once_leadership_moves_when_a_follower_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vantage, "LASTING_S", 0.0)
    assert broken("loss", range(1)) == {"livelock"}


def test_to_a_voter_that_reaches_as_many_leadership_moves_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tie(vantage.Vantage):
        """Some other voter is as good."""

        def better_place(self, now, me, voters, view, may_lead):  # type: ignore[no-untyped-def]
            return min((name for name in view.told if name in voters and may_lead(name)), default=None)

    monkeypatch.setattr(handover, "Vantage", Tie)
    assert broken("loss", range(1)) == {"livelock"}
