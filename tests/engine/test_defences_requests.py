"""What becomes of writes and reads: at the node that was asked, at the leader, when either is lost.

Each story falls when one line of defence is taken away (tests/mutants/catalogue).
"""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl.errors import (
    CyoloctlError,
    NoLeader,
    OutcomeUnknown,
    Overloaded,
)
from cyoloctl.raft.batch import decode_batch
from cyoloctl.raft.settings import Limits
from tests.support.engine_harness import Outcome
from tests.support.raft_ours import OurCluster, append
from tests.support.stories import (
    follower_with_log,
    hear,
    leader_with_learner,
    said,
)

pytestmark = pytest.mark.fault


# -- what is told of requests that are given up ------------------------------------------------------


def give_up(cluster: OurCluster, name: str) -> None:
    cluster.replica(name).abandon(NoLeader("the node is stopping"))


def test_abandoned_write_that_never_left_is_told_the_reason() -> None:
    cluster = OurCluster("abc")
    waiting = cluster.propose("a", b"x1")
    cluster.tick("a")
    give_up(cluster, "a")
    assert isinstance(waiting.error, NoLeader)
    assert waiting.calls == 1


def test_abandoned_write_in_the_leaders_log_is_unknown() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    waiting = cluster.propose("a", b"x1")
    cluster.tick("a")
    give_up(cluster, "a")
    assert isinstance(waiting.error, OutcomeUnknown)
    assert waiting.calls == 1


def test_abandoned_write_on_its_way_to_the_leader_is_unknown() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    waiting = cluster.propose("b", b"x1")
    cluster.tick("b")
    assert cluster.in_flight("b", "a", "forward")
    give_up(cluster, "b")
    assert isinstance(waiting.error, OutcomeUnknown)
    assert waiting.calls == 1


def test_abandoned_read_and_transfer_are_told_the_reason_and_a_membership_change_is_unknown() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    for name in "bc":
        cluster.hold("a", name)
    change = cluster.remove("a", "c")
    cluster.tick("a")
    cluster.answer_roll("a")
    reading, asking = cluster.read("a"), cluster.read("b")
    transfer = cluster.transfer("a", "b")
    cluster.tick("a", "b")
    give_up(cluster, "a")
    give_up(cluster, "b")
    assert [type(outcome.error) for outcome in (reading, asking, transfer)] == [NoLeader] * 3
    assert isinstance(change.error, OutcomeUnknown)


# -- reads ---------------------------------------------------------------------------------------


def test_follower_confirms_a_read_for_its_own_leader_in_its_own_term_only() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    term = cluster.term("b")
    mark = len(cluster.sent)
    hear(cluster, "b", "c", {"type": "read_confirm", "seq": 1, "term": term})
    hear(cluster, "b", "a", {"type": "read_confirm", "seq": 2, "term": term - 1})
    hear(cluster, "b", "a", {"type": "read_confirm", "seq": 3, "term": term + 1})
    assert said(cluster, mark, "b", "read_confirmed") == []
    hear(cluster, "b", "a", {"type": "read_confirm", "seq": 4, "term": term})
    assert [message["seq"] for message in said(cluster, mark, "b", "read_confirmed", "a")] == [4]


def asked_round(cluster: OurCluster) -> tuple[Outcome, dict[str, Any]]:
    """`a` leads and has asked the voters about a read; nothing of it arrives."""
    cluster.elect("a")
    cluster.run(0.3)
    for name in cluster.machines:
        cluster.hold("a", name)
    mark = len(cluster.sent)
    reading = cluster.read("a")
    cluster.tick("a")
    return reading, said(cluster, mark, "a", "read_confirm")[0]


@pytest.mark.parametrize(
    ("source", "changed"),
    [("b", {"seq": -1}), ("b", {"term": -1}), ("l", {})],
    ids=["of another round", "of another term", "of a learner"],
)
def test_read_is_served_by_no_confirmation_but_a_voters_of_this_round(
    source: str, changed: dict[str, int]
) -> None:
    cluster = OurCluster("abc")
    cluster.start_joiner("l", "abc")
    reading, question = asked_round(cluster)
    confirmed = {"type": "read_confirmed", "seq": question["seq"], "term": question["term"]}
    wrong = {**confirmed, **{field: confirmed[field] + by for field, by in changed.items()}}
    hear(cluster, "a", source, wrong)
    assert reading.pending
    hear(cluster, "a", "b", confirmed)
    assert reading.ok


def test_reads_of_peers_are_bounded_at_the_leader() -> None:
    cluster = OurCluster("abc", limits=Limits(pending_reads=3))
    cluster.elect("a")
    cluster.run(0.3)
    for name in "bc":
        cluster.hold("a", name)
    mark = len(cluster.sent)
    for number in range(6):  # within one turn
        cluster.inject("a", "b", {"type": "read_index", "id": number})
    cluster.tick("a")
    refused = said(cluster, mark, "a", "read_index_result", "b")
    assert [(message["id"], message["index"]) for message in refused] == [(3, None), (4, None), (5, None)]


def test_reads_are_bounded() -> None:
    cluster = OurCluster("abc", limits=Limits(pending_reads=3))
    errors: list[CyoloctlError | None] = []
    for _ in range(5):
        cluster.replica("a").read(lambda index, error: errors.append(error))
    assert [type(error) for error in errors] == [Overloaded, Overloaded]


def test_writes_that_wait_are_bounded() -> None:
    cluster = OurCluster("abc", limits=Limits(pending_commands=3))
    outcomes = [cluster.propose("a", b"x%d" % number) for number in range(5)]
    assert [type(outcome.error) for outcome in outcomes[3:]] == [Overloaded, Overloaded]
    assert all(outcome.pending for outcome in outcomes[:3])


def test_forwarded_write_goes_to_the_next_leader_although_the_link_with_the_last_one_holds() -> None:
    cluster = OurCluster("abc")
    hear(cluster, "b", "a", append(1, (1, 0)))
    cluster.propose("b", b"x1")
    cluster.tick("b")
    mark = len(cluster.sent)
    hear(cluster, "b", "c", append(2, (1, 0)))
    assert [message["commands"] for message in said(cluster, mark, "b", "forward", "c")] == [[b"x1"]]


# -- reads that wait --------------------------------------------------------------------------------


def test_read_counts_confirmations_of_present_voters_only() -> None:
    cluster = OurCluster("abcde")
    reading, question = asked_round(cluster)
    confirmed = {"type": "read_confirmed", "seq": question["seq"], "term": question["term"]}
    hear(cluster, "a", "d", confirmed)
    engine = cluster.replica("a")._core.engine
    engine.set_others({node for node in engine.others() if node.id != "d"})
    hear(cluster, "a", "b", confirmed)
    assert reading.pending
    hear(cluster, "a", "c", confirmed)
    assert reading.ok


def test_read_waits_until_its_index_is_applied_here() -> None:
    cluster = follower_with_log(commit=2)
    hear(cluster, "b", "a", append(1, (4, 1), commit=2))
    mark = len(cluster.sent)
    reading = cluster.read("b")
    cluster.tick("b")
    (question,) = said(cluster, mark, "b", "read_index", "a")
    hear(cluster, "b", "a", {"type": "read_index_result", "id": question["id"], "index": 4})
    assert reading.pending
    hear(cluster, "b", "a", append(1, (4, 1), commit=4))
    assert reading.ok
    assert reading.result == 4


def asking(cluster: OurCluster) -> tuple[Outcome, dict[str, Any]]:
    """`b` follows `a` and has asked it for an index."""
    hear(cluster, "b", "a", append(1, (4, 1), commit=4))
    mark = len(cluster.sent)
    reading = cluster.read("b")
    cluster.tick("b")
    return reading, said(cluster, mark, "b", "read_index", "a")[0]


def test_read_is_served_by_the_node_that_was_asked_only() -> None:
    cluster = follower_with_log(commit=2)
    reading, question = asking(cluster)
    hear(cluster, "b", "c", {"type": "read_index_result", "id": question["id"], "index": 1})
    hear(cluster, "b", "a", {"type": "read_index_result", "id": question["id"] - 1, "index": 1})
    assert reading.pending
    hear(cluster, "b", "a", {"type": "read_index_result", "id": question["id"], "index": 4})
    assert reading.ok


def test_question_that_is_not_answered_is_asked_again() -> None:
    cluster = follower_with_log(commit=2)
    reading, question = asking(cluster)
    mark = len(cluster.sent)
    for _ in range(4):
        cluster.advance(0.2)
        hear(cluster, "b", "a", append(1, (4, 1), commit=4))
    again = said(cluster, mark, "b", "read_index", "a")
    assert again
    assert again[0]["id"] != question["id"]
    hear(cluster, "b", "a", {"type": "read_index_result", "id": again[-1]["id"], "index": 4})
    assert reading.ok


# -- commands of peers ---------------------------------------------------------------------------


def forward(identifier: int, *commands: bytes, after: int = 2) -> dict[str, Any]:
    return {"type": "forward", "id": identifier, "commands": list(commands), "after": [after] * len(commands)}


def test_leader_admits_what_a_peer_may_propose_in_its_own_role() -> None:
    cluster = leader_with_learner()
    asked: list[tuple[bytes, str, str]] = []

    def admit(command: bytes, peer: str, role: str) -> bytes | None:
        asked.append((command, peer, role))
        return b"refused" if role == "learner" else None

    cluster.machines["a"].engine.machine.admit = admit
    mark = len(cluster.sent)
    hear(cluster, "a", "l", forward(1, b"of l"))
    hear(cluster, "a", "b", forward(2, b"of b"))
    assert asked == [(b"of l", "l", "learner"), (b"of b", "b", "voter")]
    (answer,) = said(cluster, mark, "a", "forward_result", "l")
    assert (answer["results"], answer["error"]) == ([b"refused"], None)
    logged = [command for item, _, _ in cluster.log("a") for command, _ in decode_batch(item)]
    assert logged == [b"of b"]


def test_place_of_a_forwarded_command_is_logged_with_it() -> None:
    cluster = leader_with_learner()
    hear(cluster, "a", "b", forward(1, b"x1", after=1))
    assert decode_batch(cluster.log("a")[-1][0]) == [(b"x1", 1)]


def test_one_command_that_cannot_be_logged_leaves_no_answer_a_success() -> None:
    cluster = leader_with_learner(entry_bytes=1000)
    mark = len(cluster.sent)
    hear(cluster, "a", "b", forward(1, b"x1", b"x" * 937))
    cluster.run(0.3)
    (answer,) = said(cluster, mark, "a", "forward_result", "b")
    assert (answer["results"], answer["error"]) == ([], "not_leader")
    assert cluster.state("a") == [b"x1"]


def test_peers_commands_that_wait_at_a_deposed_leader_are_given_back() -> None:
    cluster = leader_with_learner()
    for name in "bc":
        cluster.hold("a", name)
    transfer = cluster.transfer("a", "b")  # so that they wait
    mark = len(cluster.sent)
    hear(cluster, "a", "c", forward(1, b"x1"))
    assert transfer.pending
    deposing = {"type": "append_response", "term": 9, "next_index": 1, "reset": False, "success": False}
    hear(cluster, "a", "b", deposing)
    (answer,) = said(cluster, mark, "a", "forward_result", "c")
    assert (answer["results"], answer["error"]) == ([], "not_leader")


def forwarded(cluster: OurCluster, *commands: bytes) -> tuple[list[Outcome], dict[str, Any]]:
    """`b` follows `a` and has forwarded these commands."""
    hear(cluster, "b", "a", append(1, (4, 1), commit=4))
    outcomes = [cluster.propose("b", command) for command in commands]
    mark = len(cluster.sent)
    cluster.tick("b")
    return outcomes, said(cluster, mark, "b", "forward", "a")[0]


def result(message: dict[str, Any], *results: bytes, last: bool = True, error: str | None = None) -> Any:
    return {
        "type": "forward_result",
        "id": message["id"],
        "results": list(results),
        "last": last,
        "error": error,
    }


def test_write_is_answered_by_the_leader_that_was_asked_only() -> None:
    cluster = follower_with_log(commit=2)
    (outcome,), message = forwarded(cluster, b"x3")
    hear(cluster, "b", "c", result(message, b"lie"))
    assert outcome.pending
    hear(cluster, "b", "a", result(message, b"3"))
    assert outcome.result == b"3"


def test_refusal_at_the_door_is_no_answer_to_a_write_that_was_sent_before() -> None:
    cluster = follower_with_log(commit=2)
    (first,), message = forwarded(cluster, b"x3")
    hear(cluster, "b", "a", result(message, b"refused"))
    assert first.result == b"refused"
    (second,), _ = forwarded(cluster, b"x4")
    mark = len(cluster.sent)
    cluster.disconnect("a", "b")
    cluster.connect("a", "b")
    hear(cluster, "b", "a", append(1, (4, 1), commit=4))
    (again,) = said(cluster, mark, "b", "forward", "a")
    hear(cluster, "b", "a", result(again, b"refused"))
    assert isinstance(second.error, OutcomeUnknown)


@pytest.mark.parametrize(
    ("results", "last"), [([b"3"], True), ([b"3", b"4", b"5"], False)], ids=["too few", "without end"]
)
def test_results_that_do_not_fit_answer_nothing_and_the_writes_are_sent_again(
    results: list[bytes], last: bool
) -> None:
    cluster = follower_with_log(commit=2)
    outcomes, message = forwarded(cluster, b"x3", b"x4")
    mark = len(cluster.sent)
    hear(cluster, "b", "a", result(message, *results, last=last))
    assert all(outcome.pending for outcome in outcomes)
    cluster.advance(1.0)
    hear(cluster, "b", "a", append(1, (4, 1), commit=4))
    (again,) = said(cluster, mark, "b", "forward", "a")
    assert again["commands"] == [b"x3", b"x4"]


def test_leader_that_could_not_place_a_write_is_asked_again_after_a_pause() -> None:
    cluster = follower_with_log(commit=2)
    _, message = forwarded(cluster, b"x3")
    mark = len(cluster.sent)
    hear(cluster, "b", "a", result(message, error="not_leader"))
    for _ in range(3):
        cluster.tick("b")
    assert said(cluster, mark, "b", "forward") == []
    cluster.advance(cluster.timing.transfer_retry_s)
    cluster.tick("b")
    assert len(said(cluster, mark, "b", "forward", "a")) == 1


# -- peers that come and go ------------------------------------------------------------------------


def test_reads_ask_the_next_leader_when_the_link_with_the_last_one_broke() -> None:
    cluster = follower_with_log(commit=2)
    reading, _ = asking(cluster)
    cluster.disconnect("a", "b")
    mark = len(cluster.sent)
    hear(cluster, "b", "c", append(2, (4, 1), commit=4))
    (question,) = said(cluster, mark, "b", "read_index", "c")
    hear(cluster, "b", "c", {"type": "read_index_result", "id": question["id"], "index": 4})
    assert reading.ok


def test_reads_ask_again_at_once_in_a_new_link_with_the_leader() -> None:
    cluster = follower_with_log(commit=2)
    reading, _ = asking(cluster)
    cluster.disconnect("a", "b")
    cluster.connect("a", "b")
    mark = len(cluster.sent)
    hear(cluster, "b", "a", append(1, (4, 1), commit=4))
    (question,) = said(cluster, mark, "b", "read_index", "a")
    hear(cluster, "b", "a", {"type": "read_index_result", "id": question["id"], "index": 4})
    assert reading.ok


def test_peer_is_told_the_commit_index_that_its_read_waits_for() -> None:
    cluster = OurCluster("ab")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.propose("a", b"x1")
    cluster.tick("a")
    cluster.exchange()
    mark = len(cluster.sent)
    cluster.inject("a", "b", {"type": "read_index", "id": 7})
    for _ in range(3):  # no time for a heartbeat or a notice
        cluster.tick("a", "b")
        cluster.exchange()
    (answer,) = said(cluster, mark, "a", "read_index_result", "b")
    assert answer["index"] == len(cluster.log("a"))
    assert cluster.commit_index("b") == answer["index"]


def test_node_that_does_not_lead_relays_nobodys_commands() -> None:
    cluster = follower_with_log(commit=2)
    hear(cluster, "b", "a", append(1, (4, 1), commit=2))
    mark = len(cluster.sent)
    hear(cluster, "b", "c", forward(1, b"x1"))
    (answer,) = said(cluster, mark, "b", "forward_result", "c")
    assert (answer["results"], answer["error"]) == ([], "not_leader")
    assert said(cluster, mark, "b", "forward") == []


def test_commands_of_peers_are_bounded_at_the_leader() -> None:
    cluster = leader_with_learner(pending_commands=3)
    cluster.hold("a", "b")
    cluster.transfer("a", "b")  # so that they wait
    mark = len(cluster.sent)
    for number in range(5):
        cluster.inject("a", "c", forward(number, b"x%d" % number))
    cluster.tick("a")
    answers = said(cluster, mark, "a", "forward_result", "c")
    assert [(answer["id"], answer["error"]) for answer in answers] == [(3, "overloaded"), (4, "overloaded")]


def test_forwards_of_two_processes_share_no_id() -> None:
    ids = set()
    for _ in range(2):
        cluster = follower_with_log(commit=2)
        _, message = forwarded(cluster, b"x1")
        ids.add(message["id"])
        cluster.restart("b")
        _, message = forwarded(cluster, b"x2")
        ids.add(message["id"])
    assert len(ids) >= 2
    assert all(identifier > 2**32 for identifier in ids)


@pytest.mark.parametrize("how", ["silent", "without a link"])
def test_nothing_is_sent_to_a_leader_that_is_not_there(how: str) -> None:
    cluster = follower_with_log(commit=2)
    hear(cluster, "b", "a", append(1, (4, 1), commit=2))
    if how == "silent":
        cluster.advance(2.0)
    else:
        cluster.disconnect("a", "b")
    assert cluster.replica("b").leader() is None
    mark = len(cluster.sent)
    cluster.propose("b", b"x1")
    cluster.read("b")
    cluster.tick("b")
    assert said(cluster, mark, "b", "forward") == said(cluster, mark, "b", "read_index") == []


# -- what follows another in one lead ----------------------------------------------------------------


def deposed_with(cluster: OurCluster, *, logged: bool) -> tuple[Outcome, Outcome]:
    """a is cut off with two commands, the second bound to its lead; both are logged, or one; b leads."""
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    cluster.isolate("a")
    first = cluster.propose("a", b"first")
    if not logged:
        cluster.tick("a")
    second = cluster.propose_in_lead("a", b"second")
    cluster.tick("a")
    cluster.elect("b", "c")
    cluster.write("b", b"newer")
    cluster.heal()
    assert cluster.run_until(lambda: first.ok, within=5.0)
    cluster.run(1.0)
    return first, second


def test_command_of_a_lead_that_is_over_is_not_applied_before_the_one_that_it_follows() -> None:
    cluster = OurCluster("abc")
    cluster.limits = Limits(uncommitted_entries=1)
    cluster.restart("a")
    _, second = deposed_with(cluster, logged=False)
    assert isinstance(second.error, NoLeader)
    assert all(cluster.state(name) == [b"x1", b"newer", b"first"] for name in "abc")


def test_command_of_a_lead_that_is_over_is_unknown_when_it_was_logged() -> None:
    cluster = OurCluster("abc")
    _, second = deposed_with(cluster, logged=True)
    assert isinstance(second.error, OutcomeUnknown)
    assert all(cluster.state(name) == [b"x1", b"newer", b"first"] for name in "abc")


def test_command_of_another_lead_is_refused_at_once_and_one_of_the_present_lead_is_applied() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    told: list[Any] = []
    replica = cluster.replica("a")
    for lead in (replica.term() + 1, replica.term() + 2):
        replica.propose(b"late", lambda result, error: told.append(error), lead=lead)
    cluster.replica("b").propose(b"late", lambda result, error: told.append(error), lead=replica.term())
    assert [type(error) for error in told] == [NoLeader] * 3
    follows = cluster.propose_in_lead("a", b"x2")
    assert cluster.run_until(lambda: follows.ok, within=1.0)
    assert cluster.state("a") == [b"x1", b"x2"]


@pytest.mark.parametrize("how", ["given up", "cancelled"])
def test_command_that_follows_what_was_given_up_before_it_was_logged_is_not_logged(how: str) -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    replica = cluster.replica("a")
    told: list[Any] = []
    first = replica.propose(b"first", lambda result, error: None)
    second = replica.propose(
        b"second", lambda result, error: told.append(error), lead=replica.term(), behind=first
    )
    replica.propose(b"third", lambda result, error: told.append(error), lead=replica.term(), behind=second)
    if how == "given up":
        first.give_up(None, 1.0)
    first.cancelled = True  # nobody is told of that
    cluster.run(0.5)
    assert [type(error) for error in told] == [NoLeader] * 2
    assert all(cluster.state(name) == [b"x1"] for name in "abc")


def test_command_that_follows_what_was_given_up_once_it_was_logged_is_applied_after_it() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    replica = cluster.replica("a")
    first = replica.propose(b"first", lambda result, error: None)
    cluster.tick("a")
    first.give_up(None, 1.0)
    replica.propose(b"second", lambda result, error: None, lead=replica.term(), behind=first)
    cluster.run(0.5)
    assert all(cluster.state(name) == [b"x1", b"first", b"second"] for name in "abc")
