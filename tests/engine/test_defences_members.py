"""Who is a voter, who may change that, and to whom leadership is handed.

Each story falls when one line of defence is taken away (tests/mutants/catalogue).
"""

from __future__ import annotations

import pytest

from cyoloctl.errors import (
    Conflict,
    NoLeader,
)
from cyoloctl.model import RaftId
from cyoloctl.raft.snapshot import SnapshotMeta
from cyoloctl.raft.vendor import decode_membership, encode_membership
from tests.support.engine_harness import Outcome
from tests.support.raft_ours import OurCluster, append
from tests.support.stories import (
    LOG,
    NO_OP,
    hear,
    leader_and_slow_peer,
    leader_with_learner,
    said,
)

pytestmark = pytest.mark.fault


# -- members and leaders that change -----------------------------------------------------------


def test_configuration_that_left_the_log_holds_no_more() -> None:
    cluster = OurCluster("abc")
    demotion = (encode_membership("demote", RaftId("c")), 3, 1)
    hear(cluster, "b", "a", append(1, (1, 0), LOG[1], demotion))
    assert cluster.config("b") == {"a", "b"}
    hear(cluster, "b", "c", append(2, (2, 1), (NO_OP, 3, 2)))
    assert cluster.config("b") == {"a", "b", "c"}


def test_snapshot_takes_the_place_of_configurations_that_were_logged_behind_it() -> None:
    cluster = OurCluster("abc")
    demotion = (encode_membership("demote", RaftId("c")), 3, 1)
    hear(cluster, "b", "a", append(1, (1, 0), LOG[1], demotion))
    membership = cluster.replica("b")._membership
    membership.replace(SnapshotMeta(2, 1, tuple("abc"), ()))
    membership.reconfigure()
    assert cluster.config("b") == {"a", "b", "c"}


def test_deposed_leader_no_longer_takes_a_removed_node_for_a_learner() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.hold("a", "c")
    removal = cluster.remove("a", "c")
    assert cluster.run_until(lambda: removal.ok, within=1.0)
    assert cluster.replica("a").status().learners == ("c",)  # until it knows
    answer = {"type": "append_response", "term": 9, "next_index": 1, "reset": False, "success": False}
    hear(cluster, "a", "b", answer)
    assert not cluster.is_leader("a")
    assert cluster.replica("a").status().learners == ()


def test_demotion_that_leaves_no_live_majority_is_refused() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.isolate("c")
    cluster.run(2.0, reconnect=False)
    assert isinstance(refusal(cluster, cluster.demote("a", "b")), Conflict)
    assert cluster.config("a") == {"a", "b", "c"}


def refusal(cluster: OurCluster, change: Outcome) -> Exception | None:
    """What a change ends with, once the roll was called."""
    assert cluster.run_until(lambda: not change.pending, within=2.0)
    return change.error


@pytest.mark.parametrize("change", ["demote", "remove"])
def test_new_leader_counts_on_nobody_who_has_not_answered_it(change: str) -> None:
    cluster = OurCluster("abc")
    cluster.hold("c", "a")
    cluster.elect("a")
    cluster.write("a", b"x1")
    asked = cluster.demote("a", "b") if change == "demote" else cluster.remove("a", "b")
    assert isinstance(refusal(cluster, asked), Conflict)
    assert cluster.config("a") == {"a", "b", "c"}


def test_answers_from_before_a_change_do_not_count_for_it() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.hold("c", "a")  # its answers are on their way, and it dies
    cluster.run(0.3)
    cluster.hold("a", "c")
    change = cluster.demote("a", "b")
    cluster.release("c", "a")
    cluster.run(0.3)
    assert change.pending
    assert cluster.config("a") == {"a", "b", "c"}
    cluster.release("a", "c")  # it was alive after all
    assert cluster.run_until(lambda: change.ok, within=1.0)


def test_answer_in_the_roll_call_counts_for_one_question_in_one_term() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.hold("a", "b")
    cluster.hold("a", "c")
    mark = len(cluster.sent)
    change = cluster.demote("a", "b")
    cluster.tick("a")
    (question,) = {m["seq"]: m for m in said(cluster, mark, "a", "read_confirm", "c")}.values()
    term = cluster.term("a")
    for wrong in ({"seq": question["seq"] - 1}, {"term": term - 1}):
        hear(cluster, "a", "c", {"type": "read_confirmed", "seq": question["seq"], "term": term, **wrong})
        assert change.pending
        assert cluster.config("a") == {"a", "b", "c"}
    hear(cluster, "a", "b", {"type": "read_confirmed", "seq": question["seq"], "term": term})
    assert cluster.config("a") == {"a", "b", "c"}  # whoever is to go says nothing about those who stay
    hear(cluster, "a", "c", {"type": "read_confirmed", "seq": question["seq"], "term": term})
    assert cluster.config("a") == {"a", "c"}


def test_second_change_is_refused_while_the_roll_is_called() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.hold("a", "b")
    first, second = cluster.demote("a", "c"), cluster.demote("a", "b")
    assert first.pending
    assert "in progress" in str(second.error)
    cluster.release("a", "b")
    assert cluster.run_until(lambda: first.ok, within=1.0)


def test_change_is_not_begun_when_a_handover_began_during_its_roll_call() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.hold("a", "b")
    change = cluster.demote("a", "c")
    cluster.tick("a")
    cluster.transfer("a", "b")
    cluster.answer_roll("a")
    assert "transferred" in str(change.error)
    assert cluster.config("a") == {"a", "b", "c"}


def test_change_that_too_few_could_answer_is_refused_at_once() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.disconnect("a", "c")
    assert "no majority" in str(cluster.demote("a", "b").error)


def test_roll_call_ends_with_its_leader() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.hold("a", "b")
    change = cluster.demote("a", "c")
    answer = {"type": "append_response", "term": 9, "next_index": 1, "reset": False, "success": False}
    hear(cluster, "a", "b", answer)
    assert isinstance(change.error, NoLeader)


def test_roll_is_called_again_when_a_question_was_lost() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    change = cluster.demote("a", "c")
    cluster.tick("a")
    cluster.disconnect("a", "b")
    assert change.pending
    assert cluster.run_until(lambda: change.ok, within=1.0)


def test_membership_does_not_change_while_leadership_is_handed_over() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.hold("a", "b")
    assert cluster.transfer("a", "b").pending
    change = cluster.demote("a", "c")
    assert isinstance(change.error, Conflict)
    assert "transferred" in str(change.error)


# -- handing leadership over -----------------------------------------------------------------------


def test_target_of_a_handover_is_asked_once_it_holds_everything_and_again_until_it_leads() -> None:
    cluster = leader_and_slow_peer()
    cluster.propose("a", b"x1")
    cluster.tick("a")
    mark = len(cluster.sent)
    cluster.transfer("a", "c")
    cluster.tick("a")
    assert said(cluster, mark, "a", "timeout_now") == []
    cluster.deliver("a", "c")
    cluster.exchange("c", "a")
    for _ in range(4):
        cluster.advance(cluster.timing.transfer_retry_s)
        cluster.tick("a")
    assert len(said(cluster, mark, "a", "timeout_now", "c")) >= 3


def test_handover_goes_to_the_voter_that_holds_most() -> None:
    cluster = leader_and_slow_peer()
    cluster.write("a", b"x1")
    mark = len(cluster.sent)
    cluster.transfer("a", None)
    cluster.tick("a")
    assert said(cluster, mark, "a", "timeout_now", "b")


def test_second_handover_is_refused_while_one_goes_on() -> None:
    cluster = leader_and_slow_peer()
    first, second = cluster.transfer("a", "c"), cluster.transfer("a", "b")
    assert first.pending
    assert isinstance(second.error, Conflict)


# -- who may become a voter, and what a change is worth --------------------------------------------


def test_learner_without_a_link_is_not_made_a_voter() -> None:
    cluster = leader_with_learner()
    cluster.disconnect("a", "l")
    assert "not connected" in str(cluster.add("a", "l").error)
    assert cluster.config("a") == set("abc")


def test_voter_that_has_been_silent_does_not_count_as_reachable() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.hold("c", "a")  # the link holds, and nothing comes
    cluster.run(2.0)
    assert cluster.is_leader("a")
    assert isinstance(refusal(cluster, cluster.remove("a", "b")), Conflict)


def test_learner_that_fell_silent_is_not_made_a_voter() -> None:
    cluster = leader_with_learner()
    cluster.hold("l", "a")  # the link holds, and nothing comes
    assert "does not answer" in str(refusal(cluster, cluster.add("a", "l")))
    assert cluster.config("a") == set("abc")


def test_later_life_of_a_member_in_memory_is_no_voter_before_its_dead_one_is_none() -> None:
    cluster = OurCluster(["a", "b", "c", "m~0"])
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.crash("m~0")
    cluster.start_joiner("m~1", "abc")
    cluster.run(0.5)
    asked = cluster.add("a", "m~1")
    assert "m~0, an earlier life of it, is still a voter" in str(asked.error)
    assert cluster.config("a") == {"a", "b", "c", "m~0"}
    assert refusal(cluster, cluster.demote("a", "m~0")) is None
    added = cluster.add("a", "m~1")
    assert cluster.run_until(lambda: added.ok, within=1.0)


def test_membership_change_that_another_leader_replaced_is_no_success() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    outcome = Outcome("a", b"remove c")
    membership = cluster.replica("a")._membership
    index = len(cluster.log("a")) + 1
    membership._waiting[index] = (
        cluster.term("a") - 1,
        lambda result, error: outcome.settle(error is None, result, error),
    )
    cluster.write("a", b"x1")
    membership.apply(index)
    assert isinstance(outcome.error, NoLeader)


def test_handover_to_a_voter_without_a_link_is_refused() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.cut("a", "c")
    assert isinstance(cluster.transfer("a", "c").error, Conflict)


@pytest.mark.parametrize(
    "data",
    [b"", b"[", b"7", b"[1,2,3]", b'["add"]', b'["add",7]', b'["crown","a"]', b"[" * 100_000, b"null"],
    ids=range(9),
)
def test_membership_bytes_that_are_no_change_change_nothing(data: bytes) -> None:
    assert decode_membership(b"\x02" + data) is None
