"""What a node owes the members, and when nothing is due."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from cyoloctl.members.duties import (
    Change,
    announcement_due,
    changes_due,
    end_of_memory,
    process_due,
    reach_due,
)
from cyoloctl.members.presence import Presence
from cyoloctl.members.records import Member
from cyoloctl.model import RaftId
from cyoloctl.raft import ReplicaStatus


def status(
    raft_id: str = "a",
    *,
    voters: tuple[str, ...] = ("a",),
    learners: tuple[str, ...] = (),
    removed: tuple[str, ...] = (),
    connected: tuple[str, ...] = (),
) -> ReplicaStatus:
    return ReplicaStatus(
        raft_id=RaftId(raft_id),
        role="leader",
        term=1,
        leader=RaftId(raft_id),
        first_index=1,
        last_index=9,
        commit_index=9,
        applied_index=9,
        snapshot_index=1,
        voters=tuple(map(RaftId, voters)),
        learners=tuple(map(RaftId, learners)),
        removed=tuple(map(RaftId, removed)),
        connected=tuple(map(RaftId, connected)),
        match={},
    )


def member(name: str, raft_id: str | None = None, role: str = "voter") -> Member:
    return Member(name, "h:1", role, "", RaftId(raft_id or name), None)


@pytest.mark.parametrize(
    ("known", "members", "stepped_out", "due", "waiting"),
    [
        (status(), [member("a")], (), [], False),
        (status(learners=("b",)), [member("a"), member("b")], (), [("promote", "b")], True),
        (status(), [member("a"), member("b")], (), [], True),
        (status(learners=("b",)), [member("a"), member("b", role="learner")], (), [], False),
        (status(learners=("b~1",)), [member("a"), member("b", "b~1")], ("b~1",), [], True),
        (status(removed=("b",)), [member("a"), member("b")], (), [("forget", "b")], False),
        # Another leader may yet replace the removal: a voter without a record would be kept out for good.
        (replace(status(removed=("b",)), changing=True), [member("a"), member("b")], (), [], False),
        (
            status(voters=("a", "b~1"), learners=("b~2",)),
            [member("a"), member("b", "b~2")],
            (),
            # The other way round, with three voters, the next end of this member would leave two of four.
            [("demote", "b~1"), ("promote", "b~2")],
            True,
        ),
        (
            status(voters=("a", "b", "c"), learners=("d",)),
            [member("a"), member("b", role="learner"), member("c"), member("d")],
            (),
            [("promote", "d"), ("demote", "b")],
            True,
        ),
        # The leader steps down first; alone it goes on.
        (
            status(voters=("a", "b")),
            [member("a", role="learner"), member("b")],
            (),
            [("hand_over", "a")],
            False,
        ),
        (status(), [member("a", role="learner"), member("b")], (), [], True),
        # A voter on a disk whose record is gone stays: only its removal ends it.
        (status(voters=("a", "b")), [member("a")], (), [], False),
        # The leader itself, and the last voter, are never demoted.
        (status("a~1", voters=("a~1", "b~1")), [member("b", "b~1")], (), [], False),
        (status("b", voters=("a~1",)), [], (), [], False),
    ],
)
def test_changes_due(
    known: ReplicaStatus,
    members: list[Member],
    stepped_out: tuple[str, ...],
    due: list[tuple[str, str]],
    waiting: bool,
) -> None:
    assert changes_due(known, members, stepped_out=stepped_out) == ([Change(*each) for each in due], waiting)


def test_process_announces_itself_until_the_register_knows_it_or_a_later_one() -> None:
    wanted = {"name": "a", "boots": 2, "boot": "x", "index": 7}
    assert process_due("a", 2, "x", None, 7) == wanted
    assert process_due("a", 2, "x", Presence(1, "w", 3), 7) == wanted
    assert process_due("a", 2, "x", Presence(2, "x", 3), 7) is None
    assert process_due("a", 2, "x", Presence(2, "other", 3), 7) is None
    assert process_due("a", 0, "x", None, 7) is None


def test_leader_writes_how_far_a_voter_that_is_away_had_got() -> None:
    known = {"b": Presence(1, "x", 5), "c": Presence(1, "x", 5)}
    held = {"b": 8, "c": 8}
    away = status(voters=("a", "b", "c"), connected=("b",))
    ask = partial(reach_due, away, known.get)
    assert ask(lambda name: held.get(name, 0), lambda name: known[name].boot) == {"name": "c", "index": 8}
    assert ask(lambda name: 5, lambda name: known[name].boot) is None
    # Acknowledged by a process that has not announced itself: the one that is known may have held less.
    assert ask(lambda name: held.get(name, 0), lambda name: "later") is None
    assert reach_due(away, {}.get, lambda name: 8, lambda name: None) is None


@pytest.mark.parametrize(
    ("known", "members", "ends"),
    [
        (status("a"), 1, False),
        (status("a~1", voters=("a~1",)), 1, False),
        (status("a~1", voters=("a~1",)), 2, True),
        (status("a~1", voters=("a~1", "b~1"), connected=("b~1",)), 2, False),
        (status("a~1", voters=("a~1", "b~1")), 2, True),
        (status("a~1", voters=("a~1", "b~1", "c~1"), connected=("b~1",)), 3, True),
        (status("a~1", voters=("b~1", "c~1")), 3, False),
    ],
)
def test_stop_ends_a_cluster_in_memory_when_no_majority_is_left(
    known: ReplicaStatus, members: int, ends: bool
) -> None:
    assert (end_of_memory(known, "a", members) is not None) is ends


def test_node_announces_what_it_did_not_say_and_not_what_an_operator_said_instead() -> None:
    said = member("a")
    elsewhere = replace(said, address="h:2", announced="h:1")
    assert announcement_due(None, said)
    assert not announcement_due(said, said)
    assert announcement_due(said, replace(said, address="h:3"))
    assert not announcement_due(elsewhere, said), "it would write the same for as long as it runs"
    assert announcement_due(elsewhere, replace(said, address="h:3"))
    assert announcement_due(elsewhere, replace(said, address="h:2"))
