"""A voter that stands back: it leads only where no other can, and hands over to the first that can.

Each story falls when one line of defence is taken away (tests/mutants/catalogue).
"""

from __future__ import annotations

from cyoloctl.errors import Conflict
from cyoloctl.raft import vantage
from tests.support.raft_ours import OurCluster

NEVER_S = 30.0


def cluster_of(names: str = "abw", *back: str, leader: str | None = "a") -> OurCluster:
    """These voters, of whom w, or those named, stand back."""
    cluster = OurCluster(names)
    cluster.standing_back |= set(back or "w")
    if leader is not None:
        cluster.elect(leader)
        cluster.write(leader, b"x1")
        for name in cluster.machines:  # from now on each draws the shortest timeout
            cluster.patience[name] = 0.0
        cluster.run(0.3)
    return cluster


def alone_with_the_last_entry() -> OurCluster:
    """a and w hold an acknowledged entry that b lacks, and a is dead; nobody leads yet."""
    cluster = cluster_of()
    cluster.isolate("b")
    assert cluster.write("a", b"x2")[0].ok
    cluster.run(0.3, reconnect=False)
    cluster.crash("a")
    cluster.heal(("b", "w"))
    return cluster


def test_other_voters_stand_for_election_first() -> None:
    for dies in ("closes its links", "falls silent"):
        cluster = cluster_of()
        cluster.patience["b"] = 1.0  # however long it waits, and however short the other
        cluster.run(0.3)
        if dies == "closes its links":
            cluster.crash("a")
        else:
            for name in "bw":
                cluster.hold("a", name)
        assert cluster.run_until(lambda cluster=cluster: cluster.is_leader("b"), within=3.0)  # type: ignore[misc]
        assert all("w" not in names for names in cluster.leaders.values())


def test_voter_that_alone_has_the_last_entry_is_elected_and_gives_way_once_another_has_it() -> None:
    cluster = alone_with_the_last_entry()
    assert cluster.run_until(lambda: cluster.is_leader("w"), within=3.0)
    assert cluster.run_until(lambda: cluster.is_leader("b"), within=1.0)
    assert cluster.state("b") == [b"x1", b"x2"]
    cluster.run(NEVER_S / 3)
    assert cluster.is_leader("b")
    assert cluster.write("b", b"x3")[0].ok


def asked(cluster: OurCluster) -> bool:
    """Whether anybody was asked to take leadership over."""
    return any(each.message["type"] == "timeout_now" for each in cluster.sent)


def test_leader_that_stands_back_holds_no_writes_up_for_one_that_has_not_caught_up() -> None:
    cluster = cluster_of("abw", "w", "a", leader="b")  # the other two are a majority
    cluster.isolate("b")
    cluster.elect("w", "a")
    cluster.heal()
    cluster.hold("b", "w")  # what it holds is not known
    for number in range(3):
        later = cluster.propose("w", b"later %d" % number)
        assert cluster.run_until(lambda later=later: later.ok, within=0.3)  # type: ignore[misc]
    assert not asked(cluster)
    cluster.release("b", "w")
    assert cluster.run_until(lambda: cluster.is_leader("b"), within=2.0)


def test_leader_that_stands_back_hands_over_to_no_other_that_does_and_to_none_without_a_majority() -> None:
    cluster = cluster_of("abcvw", "v", leader="w")
    cluster.standing_back.add("w")
    assert cluster.run_until(lambda: not cluster.is_leader("w"), within=2.0)
    assert {n for names in cluster.leaders.values() for n in names} <= {"a", "b", "c", "w"}

    lonely = cluster_of("abcvw", "v", "w", leader=None)
    seen = {name: frozenset("w") for name in "abc"} | {"v": frozenset("w")}
    lonely.views["w"] = vantage.View(frozenset("abcv"), seen)
    lonely.elect("w")
    lonely.run(3.0)
    assert lonely.is_leader("w"), "each of the others reaches it alone"
    assert not asked(lonely)


def test_attempt_that_fails_is_repeated_after_a_pause_in_which_writes_go_on() -> None:
    cluster = cluster_of("abcw", "nobody yet", leader="w")
    cluster.hold("w", "c")  # it is asked, and does not hear it
    cluster.standing_back.add("w")
    assert cluster.run_until(lambda: asked(cluster), within=1.0)
    waiting = cluster.propose("w", b"held")
    cluster.run(0.2)
    assert waiting.pending
    assert cluster.run_until(lambda: waiting.ok, within=1.0)
    del cluster.sent[:]
    for number in range(6):
        later = cluster.propose("w", b"later %d" % number)
        assert cluster.run_until(lambda later=later: later.ok, within=0.3)  # type: ignore[misc]
        cluster.run(0.4)
    assert not asked(cluster)
    cluster.release("w", "c")
    assert cluster.run_until(lambda: not cluster.is_leader("w"), within=5.0)


def test_nobody_hands_leadership_to_a_voter_that_stands_back() -> None:
    cluster = cluster_of()
    refused = cluster.transfer("a", "w")
    assert isinstance(refused.error, Conflict)
    assert "w stands back" in refused.error.message
    # Nor by itself, where it reaches more members.
    cluster.views["a"] = vantage.View(frozenset("w"), {"w": frozenset("ab")})
    cluster.run(NEVER_S / 3)
    assert cluster.is_leader("a")
    # Nor to whoever holds most, where no other is connected.
    cluster.isolate("b")
    cluster.tick("a")
    nobody = cluster.transfer("a", None)
    assert isinstance(nobody.error, Conflict)
    assert cluster.is_leader("a")


def test_voter_that_stands_back_takes_no_leadership_that_is_handed_to_it() -> None:
    cluster = cluster_of()
    term = cluster.term("w")
    cluster.inject("w", "a", {"type": "timeout_now", "term": term})
    cluster.run(0.3)
    assert cluster.is_leader("a")
    assert cluster.term("w") == term
