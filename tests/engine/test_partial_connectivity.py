"""Links that are missing for long: who is served, where leadership goes, and that it comes to rest there."""

from __future__ import annotations

from typing import Literal

import pytest

from cyoloctl.raft import handover, vantage
from cyoloctl.sim.reach import run_apart

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
