"""Rows of the engine's hole table about terms, votes and leadership, each as a story on both engines."""

from __future__ import annotations

import pytest

from tests.support.engine_harness import Cluster, Outcome
from tests.support.raft_ours import OurCluster
from tests.support.raft_stock import StockCluster

pytestmark = pytest.mark.fault


# -- row 8 ------------------------------------------------------------------------------------


def old_acknowledgement_story(cluster: Cluster) -> Outcome:
    """b's acknowledgements of term 1 are stalled, and arrive when a leads again, in term 3.

    In between a's log was cut by another leader, so they speak of entries that are not there.
    """
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.5)
    cluster.isolate("a", "b")
    cluster.hold("b", "a")
    for n in range(8):
        cluster.propose("a", b"old%d" % n)
        cluster.tick("a")
    cluster.advance(0.11)
    cluster.tick("a")
    cluster.deliver("a", "b")
    cluster.hold("a", "b")
    assert len(cluster.log("b")) > len(cluster.log("c"))
    cluster.elect("c", "d", "e")
    cluster.advance(0.11)
    cluster.tick("c")
    cluster.exchange("c", "d", "e", rounds=3)
    cluster.heal(("a", "c"))
    cluster.advance(0.11)
    cluster.tick("c")
    for _ in range(8):
        cluster.exchange("a", "c")
        cluster.advance(0.02)
        cluster.tick("c")
    assert cluster.log("a")[-1][2] == 2
    cluster.isolate("c")
    cluster.heal(("a", "d"), ("a", "e"), ("b", "c"), ("b", "e"), ("c", "e"))
    cluster.cut("b", "c")
    cluster.cut("b", "e")
    cluster.cut("c", "e")
    cluster.elect("a", "d", "e")
    cluster.cut("a", "e")
    y = cluster.propose("a", b"y")
    for _ in range(8):
        cluster.tick("a")
        cluster.exchange("a", "d")
        cluster.advance(0.03)
    assert y.pending
    cluster.deliver("b", "a")  # the acknowledgements of term 1
    for _ in range(3):
        cluster.tick("a")
        cluster.exchange("a", "d")
        cluster.advance(0.03)
    early = y.status
    cluster.crash("a", "d")
    cluster.held.clear()
    cluster.heal()
    cluster.run(0.5)
    cluster.elect("c", "b", "e")
    cluster.run(1.0)
    y.result = early
    return y


def test_row08_ackterm_stock_counts_acknowledgements_of_an_old_term() -> None:
    cluster = StockCluster("abcde")
    y = old_acknowledgement_story(cluster)
    assert y.ok
    assert cluster.missing("c") == [b"y"]


def test_row08_ackterm_acknowledgements_of_an_old_term_do_not_count() -> None:
    cluster = OurCluster("abcde")
    y = old_acknowledgement_story(cluster)
    assert y.pending or y.status == "error"
    assert y.result == "pending"
    assert cluster.missing("c") == []


def test_row08_ackterm_stale_leader_learns_the_new_term() -> None:
    """A leader that was paused, not cut off, steps down at the first answer to its own message."""
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.machines["a"].paused = True
    cluster.elect("b", "c")
    cluster.hold("b", "a")
    cluster.hold("c", "a")
    cluster.machines["a"].paused = False
    cluster.tick("a")
    cluster.deliver("a", "c")
    cluster.queues["c", "a"] = type(cluster.queues["c", "a"])(
        e for e in cluster.queues["c", "a"] if e.message["type"] == "append_response"
    )
    cluster.deliver("c", "a")
    assert not cluster.is_leader("a")
    assert cluster.term("a") == cluster.term("b")


# -- row 15 -----------------------------------------------------------------------------------


def cut_off_leader_story(cluster: Cluster) -> float:
    """Seconds for which a leader that nobody answers takes itself for the leader."""
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.hold("b", "a")
    cluster.hold("c", "a")
    start = cluster.now
    while cluster.is_leader("a") and cluster.now < start + 60:
        cluster.advance(0.05)
        cluster.tick("a")
    return cluster.now - start


def test_row15_fallback_stock_cut_off_leader_stays_leader_for_half_a_minute() -> None:
    assert cut_off_leader_story(StockCluster("abc")) > 25


def test_row15_fallback_cut_off_leader_steps_down_within_two_seconds() -> None:
    assert cut_off_leader_story(OurCluster("abc")) < 2


# -- row 17 -----------------------------------------------------------------------------------


def vote_twice_story(cluster: Cluster) -> None:
    """b's vote for a arrives twice; the other three elect c in the same term."""
    cluster.campaign("a")
    for _ in range(4):
        if cluster.in_flight("a", "b", "request_vote"):
            break
        cluster.exchange()
        cluster.tick("a")
    assert cluster.in_flight("a", "b", "request_vote")
    cluster.isolate("a", "b")
    cluster.deliver("a", "b")
    (vote,) = cluster.in_flight("b", "a", "vote_response")
    for _ in range(4):
        cluster.inject("a", "b", vote)
        cluster.tick("a")
    term = cluster.term("a")
    while not any(cluster.is_leader(n) for n in "cde"):
        cluster.elect("c", "d", "e")
    assert cluster.term("c") == term


def test_row17_votes_stock_two_leaders_in_one_term() -> None:
    cluster = StockCluster("abcde")
    vote_twice_story(cluster)
    assert cluster.split_terms() == {1: {"a", "c"}}


def test_row17_votes_count_once_a_member() -> None:
    cluster = OurCluster("abcde")
    vote_twice_story(cluster)
    assert cluster.split_terms() == {}
    assert cluster.leaders == {1: {"c"}}


def test_row17_prevotes_count_once_a_member() -> None:
    cluster = OurCluster("abcde")
    cluster.isolate("a", "b")
    cluster.campaign("a")
    cluster.deliver("a", "b")
    (grant,) = cluster.in_flight("b", "a", "pre_vote_response")
    for _ in range(4):
        cluster.inject("a", "b", grant)
        cluster.tick("a")
    assert cluster.term("a") == 0
    assert not any(e.message["type"] == "request_vote" for e in cluster.sent)


# -- row 19 -----------------------------------------------------------------------------------


def paused_node_story(cluster: Cluster) -> tuple[int, int]:
    """c's process was stopped for five seconds and goes on; the term before and after."""
    cluster.impatient("c")
    cluster.elect("a")
    cluster.write("a", b"x1")
    before = cluster.term("a")
    cluster.machines["c"].paused = True
    cluster.run(5.0)
    assert cluster.is_leader("a")
    cluster.machines["c"].paused = False
    cluster.run(0.5)
    return before, max(cluster.term(n) for n in "abc")


def test_row19_prevote_stock_returning_node_deposes_a_healthy_leader() -> None:
    before, after = paused_node_story(StockCluster("abc"))
    assert after > before


def test_row19_prevote_returning_node_disturbs_nobody() -> None:
    cluster = OurCluster("abc")
    before, after = paused_node_story(cluster)
    assert after == before
    assert cluster.current_leaders() == ["a"]


# -- row 26 -----------------------------------------------------------------------------------


def test_row26_gate_stock_non_member_campaigns() -> None:
    cluster = StockCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.impatient("d")
    cluster.start_joiner("d", "abc")
    for name in "abc":  # as a transport that admits every authenticated peer
        cluster.machines[name].engine.wire.known.add("d")
    cluster.connect_all()
    cluster.run(2.0)
    assert any(e.message["type"] == "request_vote" and e.source == "d" for e in cluster.sent)


@pytest.mark.parametrize("step", [0.0005, 0.003, 0.01, 0.05])
def test_row26_gate_learner_never_campaigns_while_the_clock_moves_between_readings(step: float) -> None:
    """The deadline passes between our look at the clock and the engine's: at every reading time moves."""
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.impatient("d")
    cluster.start_joiner("d", "abc")
    cluster.run(0.5)
    cluster.isolate("d")
    cluster.heal(("c", "d"))  # connected, and nothing of a leader is heard
    cluster.hold("c", "d")
    cluster.clock_step = step
    end = cluster.now + 5
    while cluster.now < end:
        cluster.tick("d")
    cluster.clock_step = 2e-5
    sent = [e.message["type"] for e in cluster.sent if e.source == "d"]
    assert "request_vote" not in sent
    assert "pre_vote" not in sent
    assert cluster.term("d") == cluster.term("a")
    assert cluster.replica("d").status().role == "learner"


@pytest.mark.parametrize("step", [0.0005, 0.003, 0.01, 0.05])
def test_row26_gate_member_never_campaigns_without_a_granted_prevote(step: float) -> None:
    cluster = OurCluster("abc")
    cluster.impatient("c")
    cluster.elect("a")
    cluster.run(0.5)
    mark = len(cluster.sent)
    cluster.hold("a", "c")
    cluster.hold("b", "c")
    cluster.clock_step = step
    end = cluster.now + 5
    while cluster.now < end:
        cluster.tick("c")
    sent = [e.message["type"] for e in cluster.sent[mark:] if e.source == "c"]
    assert "pre_vote" in sent
    assert "request_vote" not in sent
    assert cluster.term("c") == 1


# -- timing that the rows rely on -------------------------------------------------------------


def test_prevote_is_refused_within_the_shortest_election_timeout() -> None:
    """Dissertation 4.2.3: a node that heard its leader within the minimum election timeout refuses."""
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.5)
    cluster.skew["c"] += 15
    cluster.tick("c")
    cluster.deliver("c", "b")
    answers = cluster.in_flight("b", "c", "pre_vote_response")
    assert answers
    assert not any(answer["granted"] for answer in answers)
