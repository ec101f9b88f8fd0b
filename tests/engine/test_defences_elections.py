"""Who is elected by whom, and whose time counts.

Each story falls when one line of defence is taken away (tests/mutants/catalogue).
"""

from __future__ import annotations

import pytest

from cyoloctl.raft.batch import encode_batch, stamp_of
from tests.support.raft_ours import OurCluster, append
from tests.support.stories import (
    LATE,
    LOG,
    follower_with_log,
    hear,
    said,
    start_with,
)

pytestmark = pytest.mark.fault


# -- cluster time --------------------------------------------------------------------------------


def test_time_after_a_start_is_that_of_the_committed_log() -> None:
    log = [*LOG, (encode_batch([(b"x3", 4)], LATE), 5, 1)]
    assert start_with(log, (3, 1), commit=5).cluster_clock("a").told() == (0, LATE.time_unix_ms)
    assert start_with(log, (3, 1), commit=4).cluster_clock("a").told()[1] < LATE.time_unix_ms


def test_leader_begins_from_the_latest_stamp_of_its_log_committed_or_not() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    (_, last, term) = cluster.log("b")[-1]
    hear(cluster, "b", "a", append(term, (last, term), (encode_batch([(b"x1", 2)], LATE), last + 1, term)))
    cluster.isolate("a")
    cluster.elect("b", "c")
    cluster.propose("b", b"x2")
    cluster.tick("b")
    stamp = stamp_of(cluster.log("b")[-1][0])
    assert stamp is not None
    assert stamp.moment >= LATE.moment
    assert stamp.steady_ms >= LATE.steady_ms


def test_time_is_the_leaders_to_say() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    told = {"wall_unix_ms": 1_780_000_000_000, "trip_s": 0.01, "epoch": 3, "unix_ms": LATE.time_unix_ms}
    for peer, shown in (("c", 0), ("a", 3)):
        cluster.replica("b").peer_clocks(peer, **told)
        assert cluster.cluster_clock("b").told()[0] == shown


def test_clock_of_a_peer_that_is_gone_is_forgotten() -> None:
    cluster = OurCluster("abc")
    cluster.replica("a").peer_clocks("b", wall_unix_ms=LATE.time_unix_ms, trip_s=0.01, epoch=0, unix_ms=0)
    assert set(cluster.cluster_clock("a").walls()) == {"a", "b"}
    cluster.disconnect("a", "b")
    assert set(cluster.cluster_clock("a").walls()) == {"a"}


def test_deposed_leader_follows_the_time_of_the_next_one() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.elect("b", "c")
    cluster.run(0.3)
    assert cluster.replica("a").leader() == "b"
    cluster.replica("a").peer_clocks("b", wall_unix_ms=0, trip_s=0.01, epoch=3, unix_ms=LATE.time_unix_ms)
    assert cluster.cluster_clock("a").told()[0] == 3


def test_node_that_lost_its_leader_vetoes_nobody() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    question = {"type": "pre_vote", "term": cluster.term("b") + 1, "last_log_index": 9, "last_log_term": 9}
    mark = len(cluster.sent)
    hear(cluster, "b", "c", question)
    cluster.cut("a", "b")
    hear(cluster, "b", "c", question)
    assert [answer["granted"] for answer in said(cluster, mark, "b", "pre_vote_response")] == [False, True]


def test_follower_whose_leader_closed_its_link_asks_for_an_election_at_once() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.patience["b"] = 0.9
    mark = len(cluster.sent)
    cluster.isolate("a")
    cluster.run(0.2)
    assert said(cluster, mark, "b", "pre_vote", "c")


# -- elections -----------------------------------------------------------------------------------


def test_each_election_needs_a_pre_vote_of_its_own() -> None:
    cluster = OurCluster("abc")
    cluster.campaign("b")
    cluster.deliver("b", "c")  # the question
    cluster.deliver("c", "b")  # granted: b stands for election
    assert cluster.term("b") == 1
    for name in "ac":
        cluster.hold("b", name)
    mark = len(cluster.sent)
    cluster.campaign("b")
    cluster.tick("b")
    assert said(cluster, mark, "b", "pre_vote", "c")
    assert cluster.term("b") == 1


def test_leader_vetoes_an_election_against_itself() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    mark = len(cluster.sent)
    question = {"type": "pre_vote", "term": cluster.term("a") + 1, "last_log_index": 9, "last_log_term": 9}
    hear(cluster, "a", "c", question)
    assert [answer["granted"] for answer in said(cluster, mark, "a", "pre_vote_response")] == [False]


def asked_at_term_1() -> OurCluster:
    """`b` has asked whether it would win an election of term 1; nobody has answered."""
    cluster = OurCluster("abc")
    for name in "ac":
        cluster.hold("b", name)
    cluster.campaign("b")
    return cluster


def test_pre_vote_for_another_term_elects_nobody() -> None:
    cluster = asked_at_term_1()
    hear(cluster, "b", "c", {"type": "pre_vote_response", "term": 2, "granted": True})
    assert cluster.term("b") == 0
    hear(cluster, "b", "c", {"type": "pre_vote_response", "term": 1, "granted": True})
    assert cluster.term("b") == 1


def test_vote_of_a_learner_elects_nobody() -> None:
    cluster = asked_at_term_1()
    cluster.start_joiner("l", "abc")
    hear(cluster, "b", "c", {"type": "pre_vote_response", "term": 1, "granted": True})
    hear(cluster, "b", "l", {"type": "vote_response", "term": 1})
    assert not cluster.is_leader("b")
    hear(cluster, "b", "c", {"type": "vote_response", "term": 1})
    assert cluster.is_leader("b")


def test_question_that_was_open_when_the_leader_was_heard_again_is_void() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    for name in "ac":
        cluster.hold("b", name)
    cluster.campaign("b")
    term = cluster.term("b")
    last, last_term = cluster.log("b")[-1][1:]
    hear(cluster, "b", "a", append(term, (last, last_term), commit=last))
    hear(cluster, "b", "c", {"type": "pre_vote_response", "term": term + 1, "granted": True})
    assert cluster.term("b") == term
    assert cluster.replica("b").leader() == "a"


@pytest.mark.parametrize(
    ("term", "index", "last_term", "granted"),
    [(3, 4, 1, True), (3, 9, 1, True), (3, 3, 1, False), (3, 9, 0, False), (3, 3, 2, True), (2, 4, 1, False)],
    ids=["equal log", "longer", "shorter", "longer of an older term", "shorter of a later term", "own term"],
)
def test_pre_vote_is_for_a_later_term_and_a_log_that_lacks_nothing(
    term: int, index: int, last_term: int, granted: bool
) -> None:
    cluster = follower_with_log(commit=2)
    hear(cluster, "b", "a", append(2, (4, 1), commit=2))
    cluster.advance(2.0)
    mark = len(cluster.sent)
    hear(
        cluster,
        "b",
        "c",
        {"type": "pre_vote", "term": term, "last_log_index": index, "last_log_term": last_term},
    )
    assert [answer["granted"] for answer in said(cluster, mark, "b", "pre_vote_response", "c")] == [granted]


def test_node_that_follows_a_higher_term_follows_no_leader_of_the_last_one() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    refusal = {"type": "pre_vote_response", "term": cluster.term("b") + 1, "granted": False}
    hear(cluster, "b", "c", refusal)
    assert cluster.term("b") == refusal["term"]
    assert cluster.replica("b").leader() is None
