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
from tests.unit.members.test_machine import OTHER_HASH, OTHER_PUBLIC, PUBLIC, Members


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
    other.cluster.restore(b"".join(members.cluster.begin_snapshot()()))
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
        "can_lead": 3,
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


def test_votes_count_witnesses_as_voters_and_say_how_many_can_lead() -> None:
    votes = Votes({"a", "b", "w"}, {"a", "b", "w"}, [], {"w"})
    shown = votes.of(["a", "b", "w"])
    assert (shown["voters"], shown["can_lead"], shown["quorum"], shown["failure_tolerance"]) == (3, 2, 2, 1)
    votes.refuse_without_leaders("a", {"b", "w"})
    with pytest.raises(errors.Conflict, match=r"a is the only voter that is no witness \(w would be left\)"):
        votes.refuse_without_leaders("a", {"w"})
    with pytest.raises(errors.Conflict, match="a is the only voter: promote"):
        votes.refuse_without_leaders("a", set())


def test_witness_votes_and_is_given_nothing_but_the_log(members: Members) -> None:
    members.announce("n1")
    made = members.do("invite_witness", name="w1", public_key=PUBLIC, ttl_s=60)
    assert made == {
        "name": "w1", "learner": False, "expires_unix_ms": 61_000, "replaced": False, "public_key": PUBLIC,
    }  # fmt: skip
    assert members.admit("w1", key_hash=OTHER_HASH) == {"name": "w1", "role": "voter"}
    members.announce("w1", key_hash=OTHER_HASH)
    machine = members.machine
    assert (machine.is_voter("w1"), machine.is_witness("w1"), machine.has_ca_key("w1")) == (True, True, False)
    assert (machine.is_witness("n1"), machine.has_ca_key("n1"), machine.is_witness("n9")) == (
        False,
        True,
        False,
    )
    assert [member.name for member in machine.key_members()] == ["n1"]
    for operation, arguments in (
        ("set_host", {"host": "w1.example.com"}),
        ("set_gateway", {"gateway": {"address": "h:443", "url": None}}),
        ("set_role", {"role": "learner"}),
    ):
        with pytest.raises(errors.Conflict, match="w1 is a witness"):
            members.do(operation, name="w1", **arguments)
    assert members.do("set_role", name="w1", role="voter")["changed"] is False
    members.do("set_host", name="w1", host=None)
    members.do("set_gateway", name="w1", gateway=None)
    other = Members()
    other.cluster.restore(b"".join(members.cluster.begin_snapshot()()))
    assert other.machine.get("w1") == machine.get("w1")


def test_voter_beside_whom_only_witnesses_would_vote_stays_one(members: Members) -> None:
    members.announce("n1")
    members.do("invite_witness", name="w1", public_key=PUBLIC, ttl_s=60)
    members.admit("w1", key_hash=OTHER_HASH)
    with pytest.raises(errors.Conflict, match="n1 is the only voter that is no witness"):
        members.do("set_role", name="n1", role="learner")
    members.put("n2")
    assert members.do("set_role", name="n1", role="learner")["changed"]


def test_invitation_of_a_witness_takes_the_place_of_another_and_the_other_way_round(members: Members) -> None:
    members.announce("n1")
    members.issue("x")
    assert members.do("invite_witness", name="x", public_key=OTHER_PUBLIC, ttl_s=60)["replaced"]
    invitation = members.machine.invitation("x")
    assert invitation is not None
    assert (invitation.witness, invitation.role) == (True, "voter")
    assert members.issue("x")["replaced"]
    members.admit("x", key_hash=OTHER_HASH)
    assert not members.machine.is_witness("x")
