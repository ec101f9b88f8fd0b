"""The members machine, through the bytes that Raft applies."""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl import errors
from cyoloctl.members.machine import MemberMachine
from cyoloctl.members.records import (
    MAX_INVITATIONS,
    MAX_NAMES,
    MAX_SHARED_HOSTS,
    USED_KEPT_MS,
    Gateway,
    Invitation,
    Member,
    SecretInvitation,
)
from cyoloctl.replicated.command import refusal_reason
from cyoloctl.state import ClusterState
from tests.support.old_commands import encode_command
from tests.support.results import decode_result

KEY = "A" * 43 + "="
SECRET, OTHER_SECRET = "5" * 64, "6" * 64
REQUEST, OTHER_REQUEST = "a" * 64, "b" * 64
PUBLIC, OTHER_PUBLIC = "C" * 42 + "A=", "D" * 42 + "A="
HASH, OTHER_HASH = "c" * 64, "d" * 64
NODE: dict[str, Any] = {"address": "10.0.0.1:7000", "sealing_key": KEY}


class Members:
    """A cluster state with a new request id for every command; ``now`` is the proposers' time."""

    def __init__(self) -> None:
        self.cluster = ClusterState()
        self.machine = self.cluster.members
        self.index = 0
        self.now = 1000

    def raw(self, operation: str, **arguments: Any) -> bytes:
        self.index += 1
        command = encode_command(
            "members",
            operation,
            arguments,
            request_id=f"r{self.index}",
            automatic=True,
            time_unix_ms=self.now,
        )
        return self.cluster.apply(self.index, command)

    def do(self, operation: str, **arguments: Any) -> dict[str, Any]:
        return decode_result(self.raw(operation, **arguments))

    def invite(
        self, name: str = "n2", secret: str = SECRET, *, learner: bool = False, ttl_ms: int = 500
    ) -> Any:
        return self.do(
            "invite", name=name, learner=learner, secret_sha256=secret, expires_unix_ms=self.now + ttl_ms
        )

    def redeem_raw(
        self, name: str = "n2", secret: str = SECRET, request: str = REQUEST, **other: Any
    ) -> bytes:
        fields = {**NODE, "raft_id": name, **other}
        return self.raw("redeem", name=name, secret_sha256=secret, request_sha256=request, **fields)

    def redeem(self, *args: str, **other: Any) -> dict[str, Any]:
        return decode_result(self.redeem_raw(*args, **other))

    def put(self, name: str = "n1", **other: Any) -> dict[str, Any]:
        fields = {**NODE, "role": "voter", "raft_id": name, "certificate_expires_at": None, **other}
        return self.do("put", name=name, **fields)

    def issue(
        self, name: str = "n2", public: str = PUBLIC, *, learner: bool = False, ttl_ms: int = 500
    ) -> dict[str, Any]:
        expires = self.now + ttl_ms
        return self.do(
            "issue_invitation", name=name, learner=learner, public_key=public, expires_unix_ms=expires
        )

    def admit_raw(
        self, name: str = "n2", public: str = PUBLIC, request: str = REQUEST, **other: Any
    ) -> bytes:
        fields = {**NODE, "raft_id": name, "key_hash": HASH, **other}
        return self.raw("admit", name=name, public_key=public, request_sha256=request, **fields)

    def admit(self, *args: str, **other: Any) -> dict[str, Any]:
        return decode_result(self.admit_raw(*args, **other))

    def announce(self, name: str = "n1", **other: Any) -> dict[str, Any]:
        fields = {**NODE, "raft_id": name, "certificate_expires_at": None, "key_hash": HASH, **other}
        return self.do("announce", name=name, **fields)


@pytest.fixture
def members() -> Members:
    return Members()


def test_put_makes_and_replaces_a_member(members: Members) -> None:
    members.put()
    answer = members.put(address="[::1]:7001", certificate_expires_at="2027-01-02T03:04:05Z")
    assert members.machine.get("n1") == Member(
        name="n1",
        address="[::1]:7001",
        role="voter",
        sealing_key=KEY,
        raft_id="n1",
        certificate_expires_at="2027-01-02T03:04:05Z",
    )
    assert answer == members.machine.members()[0].to_json()


@pytest.mark.parametrize(("learner", "role"), [(False, "voter"), (True, "learner")])
def test_redeem_of_an_invitation_makes_the_member_with_its_role(
    members: Members, learner: bool, role: str
) -> None:
    assert members.invite(learner=learner) == {"name": "n2", "learner": learner, "expires_unix_ms": 1500}
    assert members.redeem() == {"name": "n2", "role": role}
    member = members.machine.get("n2")
    assert member is not None
    assert (member.role, member.address, member.raft_id) == (role, "10.0.0.1:7000", "n2")
    assert members.machine.secret_invitations() == [SecretInvitation(SECRET, "n2", learner, 1500, REQUEST)]


def test_redeem_again_with_the_same_request_gives_the_same_answer_also_after_expiry(members: Members) -> None:
    members.invite()
    first = members.redeem()
    members.now = 9999
    assert members.redeem(address="elsewhere:1") == first
    assert members.machine.get("n2").address == "10.0.0.1:7000"  # type: ignore[union-attr]  # it is there


def rejected_cases() -> dict[str, Any]:
    def other_name(m: Members) -> bytes:
        return m.redeem_raw("n3")

    def used(m: Members) -> bytes:
        m.redeem()
        return m.redeem_raw(request=OTHER_REQUEST)

    def expired(m: Members) -> bytes:
        m.now += 500
        return m.redeem_raw()

    def name_taken(m: Members) -> bytes:
        m.put("n2")
        return m.redeem_raw()

    def removed(m: Members) -> bytes:
        m.redeem()
        m.do("remove", name="n2")
        return m.redeem_raw()

    def raft_id_taken(m: Members) -> bytes:
        m.put("n1")
        return m.redeem_raw(raft_id="n1")

    def unknown(m: Members) -> bytes:
        return m.redeem_raw(secret=OTHER_SECRET)

    return {f.__name__: f for f in (unknown, other_name, used, expired, name_taken, removed, raft_id_taken)}


@pytest.mark.parametrize("case", rejected_cases())
def test_redeem_rejected_has_one_message_and_its_reason_apart(members: Members, case: str) -> None:
    members.invite()
    result = rejected_cases()[case](members)
    assert refusal_reason(result) == case
    with pytest.raises(errors.InvitationRejected) as caught:
        decode_result(result)
    reference = Members().redeem_raw()
    with pytest.raises(errors.InvitationRejected) as expected:
        decode_result(reference)
    assert caught.value.message == expected.value.message


def test_redeem_just_before_expiry_is_accepted(members: Members) -> None:
    members.invite()
    members.now += 499
    assert members.redeem()["name"] == "n2"


def test_redeem_expiry_is_by_replicated_time_not_the_proposers(members: Members) -> None:
    members.invite()
    members.now = 5000
    members.put("n1")
    members.now = 1100  # a slow clock proposes
    assert refusal_reason(members.redeem_raw()) == "expired"


def test_invite_of_a_member_is_already_exists(members: Members) -> None:
    members.put("n2")
    with pytest.raises(errors.AlreadyExists):
        members.invite("n2")


def test_invite_of_a_removed_name_is_a_conflict(members: Members) -> None:
    members.put("n2")
    members.do("remove", name="n2")
    with pytest.raises(errors.Conflict, match="never reused"):
        members.invite("n2")


def test_invite_with_a_known_secret_is_already_exists(members: Members) -> None:
    members.invite("n2")
    with pytest.raises(errors.AlreadyExists, match="secret"):
        members.invite("n3")


def test_invite_that_expired_already_is_invalid_input(members: Members) -> None:
    with pytest.raises(errors.InvalidInput, match="clocks"):
        members.invite(ttl_ms=0)


def test_invite_of_one_name_twice_leaves_both_tokens_until_one_is_used(members: Members) -> None:
    members.invite("n2", SECRET)
    members.invite("n2", OTHER_SECRET)
    assert members.redeem("n2", OTHER_SECRET) == {"name": "n2", "role": "voter"}
    assert refusal_reason(members.redeem_raw("n2", SECRET, OTHER_REQUEST)) == "name_taken"


def test_invite_above_1000_is_overloaded_until_some_expire(members: Members) -> None:
    for n in range(MAX_INVITATIONS):
        members.invite(f"x{n}", f"{n:064x}")
    with pytest.raises(errors.Overloaded):
        members.invite()
    members.now += 500
    members.invite()
    assert [i.name for i in members.machine.secret_invitations()] == ["n2"]
    assert MAX_INVITATIONS == 1000


def test_names_above_10000_are_overloaded_but_known_ones_still_change(members: Members) -> None:
    for n in range(MAX_NAMES - 1):
        members.machine._removed.add(f"gone{n}")
    members.put("n1")
    with pytest.raises(errors.Overloaded):
        members.invite()
    with pytest.raises(errors.Overloaded):
        members.put("n2")
    assert members.put("n1", role="learner")["role"] == "learner"


def test_put_of_a_removed_name_is_a_conflict(members: Members) -> None:
    members.put("n1")
    members.do("remove", name="n1")
    with pytest.raises(errors.Conflict, match="never reused"):
        members.put("n1")


def test_put_with_the_raft_id_of_another_member_is_a_conflict(members: Members) -> None:
    members.put("n1")
    with pytest.raises(errors.Conflict, match="raft id"):
        members.put("n2", raft_id="n1")
    assert members.put("n1", raft_id="n1.2")["raft_id"] == "n1.2"


def test_removal_of_an_unknown_member_is_not_found(members: Members) -> None:
    with pytest.raises(errors.NotFound, match="n9"):
        members.do("remove", name="n9")


def test_remove_leaves_a_tombstone_and_may_be_repeated(members: Members) -> None:
    members.put()
    assert members.do("remove", name="n1") == {"name": "n1", "removed": True}
    assert members.do("remove", name="n1") == {"name": "n1", "removed": False}
    assert members.machine.get("n1") is None
    assert members.machine.is_removed("n1")
    assert members.machine.removed() == ["n1"]


def test_members_are_listed_by_name(members: Members) -> None:
    for name in ("n3", "n1", "n2"):
        members.put(name)
    assert [m.name for m in members.machine.members()] == ["n1", "n2", "n3"]


def test_invitation_repr_hides_the_digest_of_its_secret(members: Members) -> None:
    members.invite()
    assert SECRET not in repr(members.machine.secret_invitations())


def test_put_keeps_an_address_in_one_spelling(members: Members) -> None:
    assert members.put(address="[node.example]:0080")["address"] == "node.example:80"
    ClusterState().restore(b"".join(members.cluster.begin_snapshot()()))


def test_set_host_gives_replaces_and_clears_the_host_of_a_member(members: Members) -> None:
    members.put()
    assert members.machine.host("n1") is None
    for host in ("app-1.example.com", "app-1", None, None):
        assert members.do("set_host", name="n1", host=host) == {"name": "n1", "host": host}
        assert members.machine.host("n1") == host
        assert members.machine.hosts() == ({} if host is None else {host: "n1"})


def test_host_stays_when_the_member_announces_itself_again(members: Members) -> None:
    members.put()
    members.do("set_host", name="n1", host="app-1")
    members.put(address="elsewhere:1")
    members.announce("n1", address="h:1")
    assert members.machine.host("n1") == "app-1"


def test_host_of_another_member_or_a_shared_one_already_exists(members: Members) -> None:
    members.put("n1")
    members.put("n2")
    members.do("set_host", name="n1", host="app-1")
    members.do("set_host", name="n2", host="app-2")
    members.do("share_host", host="app")
    for host in ("app-1", "app"):
        with pytest.raises(errors.AlreadyExists):
            members.do("set_host", name="n2", host=host)
    with pytest.raises(errors.AlreadyExists, match="member n2"):
        members.do("share_host", host="app-2")
    assert members.machine.hosts() == {"app-1": "n1", "app-2": "n2"}
    members.do("set_host", name="n1", host="app-1")  # its own


def test_host_of_a_removed_member_is_free_again(members: Members) -> None:
    members.put("n1")
    members.put("n2")
    members.do("set_host", name="n1", host="app")
    members.do("remove", name="n1")
    members.do("set_host", name="n2", host="app")
    assert members.machine.hosts() == {"app": "n2"}


def test_gateway_is_of_a_member_for_as_long_as_it_is_one(members: Members) -> None:
    gateway = {"address": "10.0.0.1:443", "url": None}
    with pytest.raises(errors.NotFound):
        members.do("set_gateway", name="n1", gateway=gateway)
    members.put("n1")
    assert members.do("set_gateway", name="n1", gateway=gateway) == {"name": "n1", "gateway": gateway}
    other = Members()
    other.cluster.restore(b"".join(members.cluster.begin_snapshot()()))
    assert other.machine.gateway("n1") == Gateway("10.0.0.1:443", None)
    ends: list[tuple[str, Any]] = [("set_gateway", {"gateway": None}), ("remove", {})]
    for operation, more in ends:
        members.do("set_gateway", name="n1", gateway=gateway)
        members.do(operation, name="n1", **more)
        assert members.machine.gateway("n1") is None
        other.cluster.restore(b"".join(members.cluster.begin_snapshot()()))
        assert other.machine.gateway("n1") is None


def test_set_host_of_an_unknown_member_is_not_found(members: Members) -> None:
    with pytest.raises(errors.NotFound, match="n9"):
        members.do("set_host", name="n9", host="app")


def test_share_host_may_be_repeated_and_unshare_not(members: Members) -> None:
    for _ in range(2):
        assert members.do("share_host", host="b.example.com") == {"host": "b.example.com", "shared": True}
    members.do("share_host", host="a.example.com")
    assert members.machine.shared_hosts() == ["a.example.com", "b.example.com"]
    assert members.do("unshare_host", host="b.example.com") == {"host": "b.example.com", "shared": False}
    with pytest.raises(errors.NotFound):
        members.do("unshare_host", host="b.example.com")


def test_share_host_beyond_100_is_overloaded(members: Members) -> None:
    for n in range(MAX_SHARED_HOSTS):
        members.do("share_host", host=f"h{n}")
    with pytest.raises(errors.Overloaded):
        members.do("share_host", host="more")
    members.do("share_host", host="h0")
    assert MAX_SHARED_HOSTS == 100


@pytest.mark.parametrize("host", ["a", "1a", "a.b-c.example", "0xg", "1.a", ".".join(["a" * 62] * 4)])
def test_host_that_is_a_host_name_is_taken(members: Members, host: str) -> None:
    assert members.do("share_host", host=host)["host"] == host


def test_export_without_hosts_is_what_older_releases_wrote(members: Members) -> None:
    members.put()
    before = members.machine.export_state()
    assert before.keys() == {"invitations", "members", "removed"}
    members.do("set_host", name="n1", host="app-1")
    members.do("share_host", host="app")
    hosts = members.machine.export_state()
    assert (hosts["hosts"], hosts["shared_hosts"]) == ({"app-1": "n1"}, ["app"])
    other = Members()
    other.cluster.restore(b"".join(members.cluster.begin_snapshot()()))
    assert other.machine.export_state() == hosts
    other.machine.prepare_restore(before)()
    assert (other.machine.hosts(), other.machine.shared_hosts()) == ({}, [])


def test_restore_gives_back_members_invitations_and_tombstones(members: Members) -> None:
    members.put("n1")
    members.put("gone")
    members.do("remove", name="gone")
    members.invite()
    members.redeem()
    members.invite("n5", OTHER_SECRET, learner=True)
    other = Members()
    other.cluster.restore(b"".join(members.cluster.begin_snapshot()()))
    assert other.machine.members() == members.machine.members()
    assert other.machine.secret_invitations() == members.machine.secret_invitations()
    assert other.machine.removed() == ["gone"]
    assert b"".join(other.cluster.begin_snapshot()()) == b"".join(members.cluster.begin_snapshot()())


# -- the operations of the present release --------------------------------------------------------


@pytest.mark.parametrize(("learner", "role"), [(False, "voter"), (True, "learner")])
def test_admit_on_an_invitation_makes_the_member_with_its_role_and_key(
    members: Members, learner: bool, role: str
) -> None:
    members.announce("n1", key_hash=OTHER_HASH)
    assert members.issue(learner=learner) == {
        "name": "n2",
        "learner": learner,
        "expires_unix_ms": 1500,
        "replaced": False,
    }
    assert members.machine.invitation("n2") == Invitation("n2", learner, PUBLIC, 1000, 1500, None)
    assert members.admit() == {"name": "n2", "role": role}
    member = members.machine.get("n2")
    assert member is not None
    assert (member.role, member.address, member.raft_id, member.key_hash) == (
        role,
        "10.0.0.1:7000",
        "n2",
        HASH,
    )
    assert members.machine.invitation("n2") == Invitation("n2", learner, PUBLIC, 1000, 1500, REQUEST)


def test_admit_again_with_the_same_request_gives_the_same_answer_until_the_member_announces_itself(
    members: Members,
) -> None:
    members.issue()
    first = members.admit()
    members.now = 9999
    assert members.admit(address="elsewhere:1") == first
    assert members.machine.get("n2").address == "10.0.0.1:7000"  # type: ignore[union-attr]  # it is there
    members.announce("n2")
    assert members.machine.invitations() == []
    assert refusal_reason(members.admit_raw()) == "unknown"


def admit_rejected_cases() -> dict[str, Any]:
    def unknown(m: Members) -> bytes:
        return m.admit_raw("n3")

    def other_key(m: Members) -> bytes:
        return m.admit_raw(public=OTHER_PUBLIC)

    def used(m: Members) -> bytes:
        m.admit()
        return m.admit_raw(request=OTHER_REQUEST)

    def expired(m: Members) -> bytes:
        m.now += 500
        return m.admit_raw()

    def name_taken(m: Members) -> bytes:
        m.put("n2")
        return m.admit_raw()

    def removed(m: Members) -> bytes:
        m.admit()
        m.do("remove", name="n2")
        return m.admit_raw()

    def raft_id_taken(m: Members) -> bytes:
        m.put("n1", raft_id="n2")
        return m.admit_raw()

    def key_taken(m: Members) -> bytes:
        m.announce("n1")
        return m.admit_raw()

    found = (unknown, other_key, used, expired, name_taken, removed, raft_id_taken, key_taken)
    return {f.__name__: f for f in found}


@pytest.mark.parametrize("case", admit_rejected_cases())
def test_admit_rejected_has_one_message_and_its_reason_apart(members: Members, case: str) -> None:
    members.issue()
    result = admit_rejected_cases()[case](members)
    assert refusal_reason(result) == case
    with pytest.raises(errors.InvitationRejected) as caught:
        decode_result(result)
    with pytest.raises(errors.InvitationRejected) as expected:
        decode_result(Members().admit_raw())
    assert caught.value.message == expected.value.message


def test_admit_with_a_raft_id_of_another_name_is_invalid_and_uses_nothing_up(members: Members) -> None:
    members.issue()
    for raft_id in ("n9", "n9~1", "n", "n22"):
        with pytest.raises(errors.InvalidInput, match="raft id"):
            members.admit(raft_id=raft_id)
    assert members.admit(raft_id="n2~1") == {"name": "n2", "role": "voter"}


def test_second_invitation_for_a_name_replaces_the_first(members: Members) -> None:
    members.issue("n2", PUBLIC, learner=True)
    assert members.issue("n2", OTHER_PUBLIC)["replaced"] is True
    assert refusal_reason(members.admit_raw("n2", PUBLIC)) == "other_key"
    assert members.admit("n2", OTHER_PUBLIC) == {"name": "n2", "role": "voter"}


def test_second_invitation_after_the_first_expired_replaces_nothing(members: Members) -> None:
    members.issue()
    members.now += 500
    assert members.issue()["replaced"] is False


def test_invitation_replaces_those_of_release_0_1_0_for_the_same_name(members: Members) -> None:
    members.invite("n2", SECRET)
    members.invite("n3", OTHER_SECRET)
    assert members.issue("n2")["replaced"] is True
    assert [each.name for each in members.machine.secret_invitations()] == ["n3"]
    assert refusal_reason(members.redeem_raw("n2", SECRET)) == "unknown"


def test_uninvite_withdraws_an_invitation_open_or_expired(members: Members) -> None:
    for wait_ms in (0, 500):
        members.issue()
        members.now += wait_ms
        assert members.do("uninvite", name="n2") == {"name": "n2", "uninvited": True}
        assert members.machine.invitations() == []
        assert refusal_reason(members.admit_raw()) == "unknown"
        with pytest.raises(errors.NotFound, match="member invitations"):
            members.do("uninvite", name="n2")


def test_uninvite_withdraws_those_of_release_0_1_0(members: Members) -> None:
    members.invite("n2", SECRET)
    members.invite("n2", OTHER_SECRET)
    members.do("uninvite", name="n2")
    assert members.machine.secret_invitations() == []


def test_uninvite_of_a_node_that_joined_is_a_conflict_that_names_the_command(members: Members) -> None:
    members.issue()
    members.admit()
    with pytest.raises(errors.Conflict, match="member remove n2"):
        members.do("uninvite", name="n2")
    assert members.admit()["name"] == "n2"


def test_issue_invitation_for_a_member_a_removed_name_or_the_past_is_refused(members: Members) -> None:
    members.put("n2")
    with pytest.raises(errors.AlreadyExists):
        members.issue("n2")
    members.do("remove", name="n2")
    with pytest.raises(errors.Conflict, match="never reused"):
        members.issue("n2")
    with pytest.raises(errors.InvalidInput, match="clocks"):
        members.issue("n3", ttl_ms=0)


def test_issue_invitation_above_1000_is_overloaded_until_some_expire(members: Members) -> None:
    for n in range(MAX_INVITATIONS - 1):
        members.issue(f"x{n}")
    members.invite("old")
    with pytest.raises(errors.Overloaded, match="uninvite"):
        members.issue()
    members.issue("x0", OTHER_PUBLIC)  # in the place of its first
    members.now += 500
    members.issue()
    assert [i.name for i in members.machine.invitations()] == ["n2"]


def test_used_invitation_is_kept_for_seven_days_after_its_expiry_and_gone_with_its_member(
    members: Members,
) -> None:
    members.issue("n2")
    members.admit("n2")
    members.issue("n3", OTHER_PUBLIC)
    members.admit("n3", OTHER_PUBLIC, key_hash=OTHER_HASH)
    members.do("remove", name="n3")
    assert [i.name for i in members.machine.invitations()] == ["n2"]
    members.now = 1500 + USED_KEPT_MS - 1
    members.issue("n4")
    assert members.admit("n2")["name"] == "n2"
    members.now += 1
    members.issue("n5")
    assert [i.name for i in members.machine.invitations()] == ["n4", "n5"]
    assert refusal_reason(members.admit_raw("n2")) == "unknown"


def test_announce_makes_the_founder_only_while_there_is_no_member(members: Members) -> None:
    founder = members.announce("n1", certificate_expires_at="2027-01-02T03:04:05Z")
    assert (founder["role"], founder["key_hash"]) == ("voter", HASH)
    assert founder == members.machine.members()[0].to_json()
    with pytest.raises(errors.NotFound, match="n2"):
        members.announce("n2", key_hash=OTHER_HASH)
    assert [m.name for m in members.machine.members()] == ["n1"]


def test_announce_changes_all_but_the_role_and_the_key(members: Members) -> None:
    members.announce("n1", key_hash=OTHER_HASH)
    members.issue("n2", learner=True)
    members.admit("n2")
    changed = members.announce(
        "n2", address="h:1", raft_id="n2~7", certificate_expires_at="2027-01-02T03:04:05Z"
    )
    assert changed == {
        "name": "n2",
        "address": "h:1",
        "role": "learner",
        "sealing_key": KEY,
        "raft_id": "n2~7",
        "certificate_expires_at": "2027-01-02T03:04:05Z",
        "key_hash": HASH,
    }
    before = members.cluster.members.export_state()
    with pytest.raises(errors.Conflict, match="another key"):
        members.announce("n2", key_hash="e" * 64)
    assert members.cluster.members.export_state() == before


def test_announce_of_a_member_of_release_0_1_0_gives_it_its_key_once(members: Members) -> None:
    answer = members.put("n1")
    assert "key_hash" not in answer
    assert members.announce("n1")["key_hash"] == HASH
    assert members.put("n1", address="h:1")["key_hash"] == HASH  # an entry of the old release keeps it
    with pytest.raises(errors.Conflict, match="another key"):
        members.announce("n1", key_hash=OTHER_HASH)


def test_announce_drops_the_used_invitations_of_both_kinds(members: Members) -> None:
    members.put("n1")
    members.invite("n2")
    members.redeem("n2")
    members.invite("n3", OTHER_SECRET)
    members.announce("n2")
    assert [each.name for each in members.machine.secret_invitations()] == ["n3"]


def test_announce_of_a_removed_name_another_raft_id_or_anothers_key_is_refused(members: Members) -> None:
    members.announce("n1")
    members.put("n2")
    members.put("n3")
    members.do("remove", name="n3")
    with pytest.raises(errors.Conflict, match="never reused"):
        members.announce("n3", key_hash=OTHER_HASH)
    with pytest.raises(errors.Conflict, match="has this key"):
        members.announce("n2")
    with pytest.raises(errors.InvalidInput, match="raft id"):
        members.announce("n2", raft_id="n1", key_hash=OTHER_HASH)
    members.put("n2", raft_id="n1~5")
    with pytest.raises(errors.Conflict, match="raft id"):
        members.announce("n1", raft_id="n1~5")


def test_restore_gives_back_invitations_and_key_hashes(members: Members) -> None:
    members.announce("n1", key_hash=OTHER_HASH)
    members.put("n4")  # without a key yet
    members.issue("n2")
    members.admit("n2")
    members.issue("n3", OTHER_PUBLIC, learner=True)
    other = Members()
    other.cluster.restore(b"".join(members.cluster.begin_snapshot()()))
    assert other.machine.invitations() == members.machine.invitations()
    assert other.machine.members() == members.machine.members()
    assert b"".join(other.cluster.begin_snapshot()()) == b"".join(members.cluster.begin_snapshot()())
    other.index = members.index
    assert other.admit("n2") == {"name": "n2", "role": "voter"}


def test_export_without_invitations_and_keys_is_what_release_0_1_0_wrote(members: Members) -> None:
    members.put()
    state = members.machine.export_state()
    assert state.keys() == {"invitations", "members", "removed"}
    assert state["members"]["n1"].keys() == {
        "address",
        "certificate_expires_at",
        "raft_id",
        "role",
        "sealing_key",
    }


def test_proposers_let_nobody_but_the_node_itself_announce_and_learners_change_nothing_else() -> None:
    assert {name for name, who in MemberMachine.PROPOSERS.items() if who == "self"} == {
        "announce",
        "set_gateway",
    }
    assert "any" not in MemberMachine.PROPOSERS.values()
    assert {name for name, who in MemberMachine.PROPOSERS.items() if who == "nobody"} == {
        "invite",
        "redeem",
        "put",
    }
