"""What a follower believes and applies, and what a leader sends.

Each story falls when one line of defence is taken away (tests/mutants/catalogue).
"""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl.errors import (
    InternalError,
)
from cyoloctl.model import RaftId
from cyoloctl.raft.batch import encode_batch
from cyoloctl.raft.settings import Limits
from tests.support.raft_ours import OurCluster, append
from tests.support.stories import (
    LATE,
    LOG,
    NO_OP,
    entry,
    follower_with_log,
    hear,
    leader_and_slow_peer,
    said,
)

pytestmark = pytest.mark.fault


# -- applying ------------------------------------------------------------------------------------


def test_time_of_an_entry_is_applied_before_its_commands_and_shown() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    _, last, term = cluster.log("b")[-1]
    late = (encode_batch([(b"x1", 2)], LATE), last + 1, term)
    hear(cluster, "b", "a", append(term, (last, term), late, commit=last + 1))
    assert cluster.state("b") == [b"x1"]
    assert cluster.machines["b"].engine.machine.stamp() == LATE
    assert cluster.cluster_clock("b").told() == (0, LATE.time_unix_ms)


def test_log_of_a_leader_without_a_majority_is_bounded() -> None:
    cluster = OurCluster("abc")
    cluster.limits = Limits(uncommitted_entries=2)
    cluster.restart("a")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.isolate("a")
    before = len(cluster.log("a"))
    for number in range(10):
        cluster.propose("a", b"x%d" % number)
        cluster.tick("a")
    assert len(cluster.log("a")) == before + 2


def test_command_that_no_frame_could_carry_is_refused() -> None:
    cluster = OurCluster("abc", limits=Limits(entry_bytes=1000))
    assert isinstance(cluster.propose("a", b"x" * 937).error, InternalError)
    assert cluster.propose("a", b"x" * 936).pending


# -- what a follower believes ----------------------------------------------------------------------


def test_follower_commits_no_further_than_a_message_has_shown_to_match() -> None:
    cluster = follower_with_log(commit=2)
    hear(cluster, "b", "c", append(2, (2, 1), commit=4))  # 3 and 4 of that leader are others
    assert cluster.commit_index("b") == 2
    assert cluster.state("b") == []
    hear(cluster, "b", "c", append(2, (3, 1), commit=4))
    assert cluster.commit_index("b") == 3


def test_follower_acknowledges_no_further_than_a_message_has_shown_to_match() -> None:
    cluster = follower_with_log(commit=2)
    mark = len(cluster.sent)
    hear(cluster, "b", "c", append(2, (2, 1), commit=2), append(2, (2, 1), LOG[2], commit=2))
    answers = said(cluster, mark, "b", "append_response", "c")
    assert [(answer["success"], answer["next_index"]) for answer in answers] == [(True, 3), (True, 4)]


def test_message_that_arrives_late_cuts_nothing_that_matches() -> None:
    cluster = follower_with_log(commit=2)
    hear(cluster, "b", "a", append(1, (2, 1), LOG[2], commit=2), append(1, (1, 0), LOG[1], commit=2))
    assert cluster.log("b") == LOG


def test_message_of_an_earlier_term_changes_nothing_and_its_sender_is_told_the_term() -> None:
    cluster = follower_with_log(commit=2)
    hear(cluster, "b", "c", append(3, (4, 1), commit=2))
    mark = len(cluster.sent)
    hear(cluster, "b", "a", append(2, (2, 1), (NO_OP, 3, 2), commit=3))
    assert (cluster.log("b"), cluster.commit_index("b")) == (LOG, 2)
    assert cluster.replica("b").leader() == "c"
    (answer,) = said(cluster, mark, "b", "append_response", "a")
    assert (answer["term"], answer["success"]) == (3, False)


def test_leader_obeys_nobody_who_claims_to_lead_in_its_own_term() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    log, term, mark = cluster.log("a"), cluster.term("a"), len(cluster.sent)
    hear(cluster, "a", "b", append(term, (1, 0), (entry(b"lie"), 2, term)))
    assert cluster.is_leader("a")
    assert cluster.log("a") == log
    assert said(cluster, mark, "a", "append_response") == []


@pytest.mark.parametrize(
    "entries",
    [[(NO_OP, 3, 2)], [LOG[2], (NO_OP, 4, 2)]],
    ids=["the first entry", "a later one"],
)
def test_log_that_contradicts_what_is_committed_changes_nothing(entries: Any) -> None:
    cluster = follower_with_log(commit=4)
    mark = len(cluster.sent)
    hear(cluster, "b", "c", append(2, (2, 1), *entries, commit=2))
    assert cluster.log("b") == LOG
    assert cluster.term("b") == 1
    assert said(cluster, mark, "b", "append_response") == []
    assert cluster.replica("b").disputed == ("c", 2, entries[-1][1])


# -- links ---------------------------------------------------------------------------------------


def test_refusal_of_a_snapshot_is_forgotten_with_the_link() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    cluster.isolate("c")
    cluster.write("a", b"x2")
    cluster.compact("a")
    mark = len(cluster.sent)
    cluster.heal()
    cluster.tick("a")
    assert cluster.run_until(lambda: said(cluster, mark, "a", "snapshot_chunk", "c") != [], within=1.0)
    chunk = said(cluster, mark, "a", "snapshot_chunk", "c")[0]
    refused = {
        "type": "snapshot_refused",
        "term": chunk["term"],
        "digest": chunk["digest"],
        "reason": "newer",
    }
    cluster.hold("a", "c")
    hear(cluster, "a", "c", refused)
    assert [trouble.code for trouble in cluster.replica("a").status().troubles] == ["snapshot_refused"]
    cluster.disconnect("a", "c")
    cluster.connect("a", "c")
    assert cluster.replica("a").status().troubles == ()


def test_message_of_a_peer_without_a_link_changes_nothing() -> None:
    cluster = OurCluster("abc")
    cluster.disconnect("a", "b")
    assert not cluster.replica("b").receive("a", append(5, (1, 0), LOG[1]))
    cluster.tick("b")
    assert (cluster.term("b"), cluster.log("b")) == (0, LOG[:1])


def test_heartbeat_claims_nothing_about_the_log() -> None:
    cluster = follower_with_log(commit=2)
    mark = len(cluster.sent)
    hear(cluster, "b", "c", {"type": "heartbeat", "term": 2})
    (answer,) = said(cluster, mark, "b", "append_response", "c")
    assert not answer["success"]
    assert cluster.commit_index("b") == 2


# -- what a leader sends -------------------------------------------------------------------------


def entry_bytes(messages: list[Any]) -> list[int]:
    return [sum(len(command) for command, _, _ in message["entries"]) for message in messages]


def test_slow_peer_is_sent_a_window_and_no_more_and_hears_its_leader_all_the_same() -> None:
    cluster = leader_and_slow_peer(batch_bytes=300, window_bytes=1000)
    mark = len(cluster.sent)
    for number in range(40):
        cluster.propose("a", b"%03d" % number + b"x" * 100)
        cluster.tick("a", "b")
        cluster.exchange("a", "b")
    sent = said(cluster, mark, "a", "append_entries", "c")
    assert 700 < sum(entry_bytes(sent)) <= 1300
    assert all(size <= 300 for size in entry_bytes(sent))
    before = len(sent)
    cluster.run(1.0)
    assert len(said(cluster, mark, "a", "append_entries", "c")) >= before + 5
    cluster.release("a", "c")
    cluster.run(1.0)
    assert cluster.state("c") == cluster.state("a")
    assert all(size <= 300 for size in entry_bytes(said(cluster, mark, "a", "append_entries", "c")))


def test_probe_is_sent_once_until_it_is_answered() -> None:
    cluster = leader_and_slow_peer()
    cluster.disconnect("a", "c")
    mark = len(cluster.sent)
    cluster.connect("a", "c")
    for number in range(5):
        cluster.propose("a", b"%d" % number)
        cluster.tick("a")
    with_entries = [size for size in entry_bytes(said(cluster, mark, "a", "append_entries", "c")) if size]
    assert len(with_entries) <= 1


def test_acknowledgement_of_what_was_never_sent_counts_for_nothing() -> None:
    cluster = leader_and_slow_peer()
    last = len(cluster.log("a"))
    lie = {
        "type": "append_response",
        "term": cluster.term("a"),
        "next_index": 99,
        "reset": False,
        "success": True,
    }
    hear(cluster, "a", "c", lie)
    assert cluster.replica("a").status().match["c"] <= last
    cluster.write("a", b"next")
    assert cluster.errors("a") == []


def test_leader_that_told_its_idle_followers_of_a_commit_sleeps_until_the_next_heartbeat() -> None:
    cluster = leader_and_slow_peer()
    cluster.release("a", "c")
    cluster.run(0.3)
    mark = len(cluster.sent)
    cluster.propose("a", b"next")
    for _ in range(3):
        cluster.tick()
        cluster.exchange()
    told = len(said(cluster, mark, "a", "append_entries", "c"))
    for _ in range(3):
        cluster.advance(cluster.timing.commit_notice_s)
        cluster.tick("a")
        cluster.exchange()
    assert cluster.commit_index("c") == cluster.commit_index("a") == len(cluster.log("a"))
    assert len(said(cluster, mark, "a", "append_entries", "c")) == told + 1
    assert cluster.replica("a").next_deadline() > cluster.now + cluster.skew["a"] + 0.001


def test_new_leadership_knows_no_acknowledgement() -> None:
    cluster = leader_and_slow_peer()
    assert cluster.replica("a").acknowledged("b") > 0
    cluster.release("a", "c")
    cluster.elect("b", "c")
    cluster.run(0.3)
    cluster.elect("a", "c")
    assert cluster.replica("a").acknowledged("b") == 0


def test_removed_node_that_acknowledged_its_removal_is_told_that_it_is_committed() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.hold("c", "a")
    removal = cluster.remove("a", "c")
    for _ in range(4):  # no time for a heartbeat
        cluster.tick()
        cluster.exchange()
    assert removal.ok
    mark = len(cluster.sent)
    cluster.release("c", "a")
    cluster.exchange("c", "a", rounds=2)
    for _ in range(3):
        cluster.tick()
        cluster.exchange()
    assert len(said(cluster, mark, "a", "append_entries", "c")) >= 1
    assert "c" in cluster.replica("c").removed_peers()


def test_new_peer_is_not_known_to_hold_anything() -> None:
    cluster = leader_and_slow_peer()
    cluster.machines["l"] = cluster._new_machine("l", ("a", "b", "c"))
    cluster.hold("a", "l")
    cluster.start("l")
    cluster.connect_all()
    assert cluster.replica("a").status().match["l"] == 0


def test_transfer_to_a_peer_that_is_forgotten_is_closed() -> None:
    cluster = OurCluster("abc")
    core = cluster.replica("a")._core
    node = core.node(RaftId("x"))
    core.follow_peer(node)
    closed: list[bool] = []

    class Transfer:
        def close(self) -> None:
            closed.append(True)

    core.progress[node].become_snapshot(Transfer())  # type: ignore[arg-type]
    core.forget_peer(node)
    assert closed == [True]


def test_peers_that_are_equally_far_are_sent_the_same() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    mark = len(cluster.sent)
    cluster.propose("a", b"one")
    cluster.tick("a")
    (to_b,) = said(cluster, mark, "a", "append_entries", "b")
    (to_c,) = said(cluster, mark, "a", "append_entries", "c")
    assert to_b == to_c
    assert to_b["entries"][0][0].endswith(b"one")


def test_each_peer_is_sent_what_it_lacks_however_far_the_others_are() -> None:
    cluster = leader_and_slow_peer(window_bytes=1)
    cluster.propose("a", b"to both")  # which fills the window of c
    cluster.tick("a", "b")
    cluster.exchange("a", "b")
    cluster.propose("a", b"to b alone")
    cluster.tick("a", "b")
    cluster.exchange("a", "b")
    mark = len(cluster.sent)
    cluster.release("a", "c")
    cluster.deliver("a", "c")
    cluster.tick("c")
    cluster.deliver("c", "a", tick=False)
    cluster.propose("a", b"to both again")
    cluster.tick("a")
    (to_b,) = [each for each in said(cluster, mark, "a", "append_entries", "b") if each["entries"]]
    (to_c,) = [each for each in said(cluster, mark, "a", "append_entries", "c") if each["entries"]]
    ends = [[command[-13:] for command, _, _ in each["entries"]] for each in (to_b, to_c)]
    assert ends[0] == [b"to both again"]
    assert [end[-10:] for end in ends[1]] == [b"to b alone", b"both again"]
    assert to_c["prev_log_index"] == to_b["prev_log_index"] - 1


def test_end_of_a_log_that_differs_is_cut_before_what_takes_its_place_is_logged() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    last = cluster.log("b")[-1]
    hear(cluster, "b", "a", append(last[2], last[1:], (entry(b"old"), last[1] + 1, last[2])))
    hear(
        cluster,
        "b",
        "c",
        append(9, last[1:], (entry(b"new"), last[1] + 1, 9), (entry(b"next"), last[1] + 2, 9)),
    )
    assert cluster.log("b")[-2:] == [(entry(b"new"), last[1] + 1, 9), (entry(b"next"), last[1] + 2, 9)]


def test_follower_that_is_to_take_over_is_not_held_up_by_the_one_that_asked_it() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    term, last = cluster.term("b"), cluster.log("b")[-1]
    cluster.inject("b", "a", {"type": "timeout_now", "term": term})
    cluster.inject("b", "a", append(term, last[1:], commit=last[1]))
    cluster.tick("b")
    assert cluster.term("b") == term + 1


def test_commit_index_comes_with_the_entries_that_follow() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    term, last = cluster.term("b"), cluster.log("b")[-1]
    one, two = (entry(b"one"), last[1] + 1, last[2]), (entry(b"two"), last[1] + 2, last[2])
    hear(cluster, "b", "a", append(term, last[1:], one, commit=last[1]))
    hear(cluster, "b", "a", append(term, one[1:], two, commit=one[1]))
    assert cluster.commit_index("b") == one[1]
    hear(cluster, "b", "a", append(term, two[1:], commit=two[1] + 7))  # no further than what it has shown
    assert cluster.commit_index("b") == two[1]
