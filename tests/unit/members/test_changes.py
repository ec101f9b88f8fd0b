"""What operators want of a member, its role and where the others reach it, and how the voters stand."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import cast

import pytest

from cyoloctl import errors
from cyoloctl.members.changes import MemberChanges, Votes
from cyoloctl.members.status import MemberStatus
from cyoloctl.model import RaftId
from cyoloctl.replicated.peer_calls import PeerCalls
from cyoloctl.replicated.proposer import Proposer
from tests.unit.members.test_machine import Members


@pytest.fixture
def members() -> Members:
    return Members()


def test_role_is_changed_once_and_never_the_last_voters(members: Members) -> None:
    members.put("n1")
    members.put("n2")
    told: list[tuple[str, str]] = []
    members.machine.on_role = lambda name, role: told.append((name, role))
    for changed in (True, False):
        answer = {"name": "n2", "role": "learner", "changed": changed}
        assert members.do("set_role", name="n2", role="learner") == answer
    assert not members.machine.is_voter("n2")
    with pytest.raises(errors.Conflict, match="n1 is the only voter"):
        members.do("set_role", name="n1", role="learner")
    assert members.machine.is_voter("n1")
    members.do("set_role", name="n2", role="voter")
    assert told == [("n2", "learner"), ("n2", "voter")]
    members.do("set_role", name="n1", role="learner")
    with pytest.raises(errors.NotFound, match="n9"):
        members.do("set_role", name="n9", role="voter")


def test_address_that_was_set_stands_until_the_member_says_something_new(members: Members) -> None:
    members.announce("n1", address="old:1")
    for changed in (True, False):
        answer = {"name": "n1", "address": "nat:1", "changed": changed}
        assert members.do("set_address", name="n1", address="nat:1") == answer
    members.announce("n1", address="old:1")
    found = members.machine.get("n1")
    assert found is not None
    assert (found.address, found.announced) == ("nat:1", "old:1")
    other = Members()
    other.cluster.restore(members.cluster.begin_snapshot()())
    assert other.machine.get("n1") == found
    members.do("set_address", name="n1", address="other-nat:1")
    members.announce("n1", address="old:1")
    assert members.machine.members()[0].address == "other-nat:1"
    members.announce("n1", address="new:1")
    assert (members.machine.members()[0].address, members.machine.members()[0].announced) == ("new:1", None)


@pytest.mark.parametrize("end", ["the same set back", "announced by the member"])
def test_address_that_the_member_says_too_leaves_nothing_behind(members: Members, end: str) -> None:
    members.announce("n1", address="old:1")
    before = members.machine.export_state()
    members.do("set_address", name="n1", address="nat:1")
    if end == "the same set back":
        members.do("set_address", name="n1", address="old:1")
    else:
        members.announce("n1", address="nat:1")
        before["members"]["n1"]["address"] = "nat:1"
    assert members.machine.export_state() == before


def test_address_of_another_member_is_not_set(members: Members) -> None:
    members.put("n1", address="a:1")
    members.put("n2", address="b:1")
    with pytest.raises(errors.AlreadyExists, match="n2"):
        members.do("set_address", name="n1", address="b:1")
    with pytest.raises(errors.NotFound, match="n9"):
        members.do("set_address", name="n9", address="c:1")
    assert [member.address for member in members.machine.members()] == ["a:1", "b:1"]


def test_votes_say_how_many_more_may_fail_and_below_zero_how_many_are_missing() -> None:
    votes = Votes({"a", "b", "d"}, {"a", "b", "d"}, [])
    assert votes.of(["c", "a", "b", "a"]) == {
        "voters": 3,
        "quorum": 2,
        "failure_tolerance": 0,
        "reachable": ["a", "b"],
        "unreachable": ["c"],
    }
    assert votes.of(["a", "c"])["failure_tolerance"] == -1
    assert votes.of(["a", "c", "e", "f"])["failure_tolerance"] == -2
    assert votes.of(["a", "b", "d"])["failure_tolerance"] == 1
    # A pair without a link: if the third fails, none of the two reaches a quorum.
    assert Votes(votes.linked, votes.up, [("a", "b")]).of(["a", "b", "d"])["failure_tolerance"] == 0


def test_quorum_counts_whom_the_leader_reaches_not_who_runs() -> None:
    votes = Votes({"a"}, {"a", "b"}, [])
    with pytest.raises(errors.Conflict, match="without c 1 of 2 voters are reachable, no majority"):
        votes.refuse_without_quorum("c", {"a", "b"}, "")
    votes.refuse_without_quorum("c", {"a"}, "")


class Engine:
    """An engine in which time passes when somebody waits."""

    def __init__(self) -> None:
        self.changing = False
        self.waited = 0

    def status(self) -> SimpleNamespace:
        return SimpleNamespace(changing=self.changing)

    async def wait_changed(self, timeout_s: float) -> None:
        self.waited += 1
        await asyncio.sleep(0)


def changes(engine: Engine) -> MemberChanges:
    return MemberChanges(
        cast(Proposer, SimpleNamespace(engine=engine)),
        Members().machine,
        status=cast(MemberStatus, None),
        calls=cast(PeerCalls, SimpleNamespace(offer=lambda *_, **__: None)),
        raft_id=RaftId("n1"),
        rotation_due=lambda: False,
    )


async def test_change_while_another_one_is_under_way_is_refused_and_its_repetition_waits() -> None:
    made, far = changes(Engine()), time.monotonic() + 60.0
    ended = []

    async def repeat() -> None:
        async with made._alone("demote n2", far):
            ended.append("repetition")

    async with made._alone("demote n2", far):
        for dry_run in (False, True):
            with pytest.raises(errors.Conflict, match=r"under way \(demote n2\): repeat the command"):
                async with made._alone("remove n3", far, dry_run=dry_run):
                    ended.append("another")
        repetition = asyncio.create_task(repeat())
        for _ in range(5):
            await asyncio.sleep(0)
        assert ended == []
    await repetition
    assert ended == ["repetition"]
    async with made._alone("remove n3", far, dry_run=True), made._alone("remove n3", far):
        pass  # a preview holds nobody up


async def test_change_of_the_voters_that_is_not_committed_is_waited_for_and_then_refused() -> None:
    engine = Engine()
    made = changes(engine)
    await made._settled(time.monotonic())
    engine.changing = True
    with pytest.raises(errors.Conflict, match="not committed yet"):
        await made._settled(time.monotonic() + 0.25)
    assert engine.waited > 0
