"""The bounded queue of commands."""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl.errors import NoLeader, OutcomeUnknown
from cyoloctl.model import RaftId
from cyoloctl.raft.proposals import Proposal, ProposalQueue


class Told:
    """Answers to proposers."""

    def __init__(self) -> None:
        self.answers: list[tuple[Any, Any]] = []

    def proposal(self, command: bytes, *, remote: bool = False) -> Proposal:
        return Proposal(command, lambda result, error: self.answers.append((result, error)), remote=remote)


def queue_of(*proposals: Proposal) -> ProposalQueue:
    queue = ProposalQueue(3, 100)
    for proposal in proposals:
        queue.append(proposal)
    return queue


def test_batch_takes_what_fits_in_order_and_counts_it_as_sent() -> None:
    told = Told()
    queue = queue_of(told.proposal(b"aaaa"), told.proposal(b"bbbb"), told.proposal(b"cccc"))
    batch = queue.take_batch(12, 2, committed=7)
    assert [(p.command, p.sends, p.after) for p in batch] == [(b"aaaa", 1, 7), (b"bbbb", 1, 7)]
    assert [p.command for p in queue.take_batch(12, 2, committed=9)] == [b"cccc"]


def test_command_larger_than_a_batch_is_a_batch_of_its_own() -> None:
    told = Told()
    queue = queue_of(told.proposal(b"a" * 50), told.proposal(b"b"))
    assert len(queue.take_batch(10, 2, committed=0)) == 1


def test_held_again_waits_in_front_with_the_index_of_its_first_sending() -> None:
    told = Told()
    first, second = told.proposal(b"a"), told.proposal(b"b")
    queue = queue_of(first, second)
    queue.hold_again(queue.take_batch(1, 0, committed=7))
    again = queue.take_batch(10, 0, committed=9)
    assert [(p.command, p.sends, p.after) for p in again] == [(b"a", 2, 7), (b"b", 1, 9)]
    assert told.answers == []


def test_held_again_tells_the_peer_that_forwarded_it_and_drops_what_nobody_waits_for() -> None:
    told = Told()
    remote, cancelled = told.proposal(b"a", remote=True), told.proposal(b"b")
    cancelled.cancelled = True
    queue = queue_of()
    queue.hold_again([remote, cancelled])
    assert not queue
    assert [type(error) for _, error in told.answers] == [NoLeader]


def test_held_again_gives_up_what_belongs_to_a_lead_that_is_over() -> None:
    told = Told()
    bound, free = told.proposal(b"a"), told.proposal(b"b")
    bound.lead = 3
    queue = queue_of(bound, free)
    queue.hold_again(queue.take_batch(10, 0, committed=0))
    assert [type(error) for _, error in told.answers] == [OutcomeUnknown]
    assert [p.command for p in queue.take_batch(10, 0, committed=0)] == [b"b"]


def test_what_waits_for_this_node_to_log_it_is_taken_out_when_it_does_not_lead() -> None:
    told = Told()
    bound, free, remote = told.proposal(b"a"), told.proposal(b"b"), told.proposal(b"c", remote=True)
    bound.lead = 3
    queue = queue_of(bound, free, remote)
    assert queue.take_for_leader() == [bound, remote]
    assert queue.take_all() == [free]


def test_queue_is_full_by_count_or_bytes_and_cancelled_ones_make_room() -> None:
    told = Told()
    proposals = [told.proposal(b"a") for _ in range(3)]
    queue = queue_of(*proposals)
    assert queue.is_full()
    proposals[1].cancelled = True
    assert not queue.is_full()
    assert len(queue) == 2
    queue.append(told.proposal(b"c" * 100))
    assert queue.is_full()


@pytest.mark.parametrize(
    ("leader", "said"), [(None, "no leader within 3.0 s"), (RaftId("n2"), "the leader n2 did not answer")]
)
def test_giving_up_says_not_applied_only_of_what_was_never_sent(leader: RaftId | None, said: str) -> None:
    told = Told()
    waiting, sent = told.proposal(b"a"), told.proposal(b"b")
    queue_of(sent).take_batch(10, 2, committed=0)
    for proposal in (waiting, sent, waiting):
        proposal.give_up(leader, 3.0)
    (first, second) = [error for _, error in told.answers]
    assert isinstance(first, NoLeader)
    assert said in first.message
    assert isinstance(second, OutcomeUnknown)
    assert "not confirmed within 3 s" in second.message


def test_cancelled_proposal_is_never_sent() -> None:
    queue = ProposalQueue(10, 1000)
    given_up, live = Proposal(b"given up", _nobody), Proposal(b"live", _nobody)
    queue.append(given_up)
    queue.append(live)
    given_up.cancelled = True
    assert queue.take_batch(1000, 0, 5) == [live]
    assert not given_up.sent


def test_queue_is_bounded_by_bytes_and_has_room_again_when_they_were_taken() -> None:
    queue = ProposalQueue(10, 100)
    for _ in range(3):
        assert not queue.is_full()
        queue.append(Proposal(b"x" * 60, _nobody))
        queue.append(Proposal(b"x" * 60, _nobody))
        assert queue.is_full()
        assert len(queue.take_batch(1000, 0, 5)) == 2


def _nobody(result: object, error: object) -> None:
    raise AssertionError("nobody is to be told")
