"""Nodes that come in by their keys: who may, until when, and that it happens once."""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl.errors import AlreadyExists, Conflict, CyoloctlError, NotFound, Overloaded
from cyoloctl.members.machine import MemberMachine
from cyoloctl.members.records import MAX_INVITATIONS, MemberLimits
from cyoloctl.replicated.command import Refused
from cyoloctl.text import Json

NOW = 1_000_000
KEY, OTHER_KEY = "A" * 43 + "=", "B" * 42 + "A="
PUBLIC = "C" * 42 + "A="


class Members:
    """A members machine with one member, n1.  refused: the error of an operation that is."""

    def __init__(self, limits: MemberLimits = MemberLimits()) -> None:  # noqa: B008 - it is frozen
        self.machine = MemberMachine(limits)
        self.index = 0
        self.announce("n1", key_hash="1" * 64)

    def apply(self, operation: str, now: int = NOW, **arguments: Any) -> Json:
        self.index += 1
        return self.machine.apply(operation, arguments, self.index, now)

    def grant(self, name: str = "n2", now: int = NOW, **changes: Any) -> Json:
        given = {
            "name": name,
            "learner": False,
            "request_sha256": "a" * 64,
            "key_hash": "2" * 64,
            "sealing_key": KEY,
            "ttl_s": 60,
        }
        return self.apply("grant", now, **(given | changes))

    def announce(self, name: str, now: int = NOW, **changes: Any) -> Json:
        given = {
            "name": name,
            "address": f"{name}:1",
            "sealing_key": KEY,
            "raft_id": name,
            "certificate_expires_at": None,
            "key_hash": "2" * 64,
        }
        return self.apply("announce", now, **(given | changes))

    def announce_granted(self, name: str) -> None:
        self.grant(name)
        self.announce(name)

    def refused(self, operation: Any, *arguments: Any, **changes: Any) -> CyoloctlError:
        before = self.machine.export_state()
        with pytest.raises(Refused) as caught:
            operation(*arguments, **changes)
        assert self.machine.export_state() == before, "a refusal changes nothing"
        return caught.value.error


@pytest.mark.parametrize(("learner", "role"), [(False, "voter"), (True, "learner")])
def test_granted_node_is_a_member_once_it_announces_itself(learner: bool, role: str) -> None:
    members = Members()
    made = members.grant(learner=learner)
    assert made == {"name": "n2", "learner": learner, "expires_unix_ms": NOW + 60_000, "replaced": False}
    assert members.machine.get("n2") is None, "nothing waits for a node that is on its way"
    members.announce("n2", NOW + 59_999)
    member = members.machine.get("n2")
    assert member is not None
    assert (member.role, member.key_hash, member.sealing_key) == (role, "2" * 64, KEY)
    assert members.machine.grants.all() == []


def test_granted_node_of_other_keys_or_after_the_expiry_is_no_member() -> None:
    members = Members()
    members.grant()
    assert isinstance(members.refused(members.announce, "n2", key_hash="3" * 64), Conflict)
    assert isinstance(members.refused(members.announce, "n2", sealing_key=OTHER_KEY), Conflict)
    assert isinstance(members.refused(members.announce, "n3"), NotFound)
    assert isinstance(members.refused(members.announce, "n2", NOW + 60_000), NotFound)


def test_grant_that_was_used_withdrawn_or_replaced_admits_nobody() -> None:
    members = Members()
    members.grant()
    members.announce("n2")
    members.apply("remove", name="n2")
    assert isinstance(members.refused(members.announce, "n2"), Conflict)
    members.grant("n3")
    assert members.apply("uninvite", name="n3") == {"name": "n3", "uninvited": True}
    assert isinstance(members.refused(members.announce, "n3"), NotFound)
    assert isinstance(members.refused(members.apply, "uninvite", name="n3"), NotFound)
    members.grant("n4")
    assert members.grant("n4", request_sha256="b" * 64, key_hash="4" * 64)["replaced"]
    assert isinstance(members.refused(members.announce, "n4"), Conflict)
    members.announce("n4", key_hash="4" * 64)


def test_grant_goes_whatever_makes_its_node_a_member() -> None:
    """An entry of an old log too: no state has a name among the members and the grants."""
    members = Members()
    members.grant()
    given = {"address": "n2:1", "role": "voter", "sealing_key": KEY, "raft_id": "n2"}
    members.apply("put", name="n2", certificate_expires_at=None, **given)
    assert members.machine.grants.all() == []
    MemberMachine().prepare_restore(members.machine.export_state())()


def test_grant_again_for_the_same_request_gives_it_time() -> None:
    members = Members()
    members.grant()
    again = members.grant(now=NOW + 30_000)
    assert (again["expires_unix_ms"], again["replaced"]) == (NOW + 90_000, False)
    members.announce("n2", NOW + 89_999)


def test_grant_and_invitation_for_a_name_take_each_others_place() -> None:
    members = Members()
    invitation = {"name": "n2", "learner": False, "public_key": PUBLIC, "ttl_s": 60}
    members.apply("invite_for", **invitation)
    assert members.grant()["replaced"]
    assert members.machine.invitation("n2") is None
    assert members.apply("invite_for", **invitation)["replaced"]
    assert isinstance(members.refused(members.announce, "n2"), NotFound)


def test_grant_for_a_members_name_key_or_a_removed_name_is_refused() -> None:
    members = Members()
    assert isinstance(members.refused(members.grant, "n1"), AlreadyExists)
    error = members.refused(members.grant, key_hash="1" * 64)
    assert "node request" in error.message
    members.grant()
    members.announce("n2")
    assert isinstance(members.refused(members.grant), AlreadyExists), "the node was seen"
    members.apply("remove", name="n2")
    assert isinstance(members.refused(members.grant), Conflict)


def test_grants_count_among_the_invitations_until_they_expire() -> None:
    members = Members()
    for number in range(MAX_INVITATIONS):
        members.grant(f"m{number}", key_hash=f"{number + 16:064x}")
    assert isinstance(members.refused(members.grant, "one-more"), Overloaded)
    assert isinstance(
        members.refused(members.apply, "invite_for", name="x", learner=False, public_key=PUBLIC, ttl_s=60),
        Overloaded,
    )
    members.grant("m5")  # its place is its own
    members.grant("one-more", NOW + 60_000)
    assert [each.name for each in members.machine.grants.all()] == ["one-more"]


def test_full_tables_of_invitations_of_every_kind_come_back_from_a_snapshot() -> None:
    # Grants that expired stay until another is made, and logs of release 0.1.0 count their own kind only:
    # the three together were once more than a snapshot might hold, and no node could start on it.
    limits = MemberLimits(invitations=2)
    members, later = Members(limits), NOW + 60_000
    for number in range(2):
        members.grant(f"g{number}", key_hash=f"{number + 16:064x}")
    for number in range(2):
        invitation = {"name": f"i{number}", "learner": False, "public_key": PUBLIC, "ttl_s": 60}
        members.apply("invite_for", later, **invitation)
    for number in range(2):
        secret = {"learner": False, "secret_sha256": f"{number:064x}", "expires_unix_ms": later + 1}
        members.apply("invite", later, name=f"s{number}", **secret)
    state, restored = members.machine.export_state(), MemberMachine(limits)
    restored.prepare_restore(state)()
    assert restored.export_state() == state
    for kind in ("grants", "issued_invitations", "invitations"):
        (name, one), *_ = state[kind].items()
        with pytest.raises(ValueError, match="contradict"):
            restored.prepare_restore({**state, kind: {**state[kind], name[:-1] + "9": one}})


def test_founder_takes_no_name_beyond_the_bound() -> None:
    # With every member gone the next one makes the founder: it was once let in above the bound.
    limits = MemberLimits(names=2)
    members = Members(limits)
    members.announce_granted("n2")
    for name in ("n1", "n2"):
        members.apply("remove", name=name)
    assert isinstance(members.refused(members.announce, "n3"), Overloaded)
    MemberMachine(limits).prepare_restore(members.machine.export_state())


def test_grants_come_back_from_a_snapshot() -> None:
    members, restored = Members(), MemberMachine()
    members.grant()
    state = members.machine.export_state()
    restored.prepare_restore(state)()
    assert restored.grants.all() == members.machine.grants.all()
    assert restored.export_state() == state
    members.apply("uninvite", name="n2")
    assert "grants" not in members.machine.export_state(), "a release without grants reads it"


def test_granted_witness_is_one_once_it_announces_itself() -> None:
    members = Members()
    keys = {"request_sha256": "a" * 64, "key_hash": "2" * 64, "sealing_key": KEY}
    made = members.apply("grant_witness", name="w1", ttl_s=60, **keys)
    assert made == {"name": "w1", "learner": False, "expires_unix_ms": NOW + 60_000, "replaced": False}
    other = MemberMachine()
    other.prepare_restore(members.machine.export_state())()
    assert other.grants.all() == members.machine.grants.all()
    members.announce("w1")
    member = members.machine.get("w1")
    assert member is not None
    assert (member.role, member.witness) == ("voter", True)
    members.grant("n2", key_hash="3" * 64)
    members.announce("n2", key_hash="3" * 64)
    assert not members.machine.is_witness("n2")
