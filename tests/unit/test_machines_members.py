"""The members machine, through the bytes that Raft applies."""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl import errors
from cyoloctl.machines import Composite, Invitation, Member, decode_result, encode_command, refusal_reason
from cyoloctl.machines.members import MAX_INVITATIONS, MAX_NAMES, MAX_SHARED_HOSTS

KEY = "A" * 43 + "="
SECRET, OTHER_SECRET = "5" * 64, "6" * 64
REQUEST, OTHER_REQUEST = "a" * 64, "b" * 64
NODE: dict[str, Any] = {"address": "10.0.0.1:7000", "sealing_key": KEY}


class Members:
    """A composite with a new request id for every command; ``now`` is the proposers' time."""

    def __init__(self) -> None:
        self.composite = Composite()
        self.machine = self.composite.members
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
        return self.composite.apply(self.index, command)

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
    assert members.machine.invitation(SECRET) == Invitation(SECRET, "n2", learner, 1500, REQUEST)


def test_redeem_again_with_the_same_request_gives_the_same_answer_also_after_expiry(members: Members) -> None:
    members.invite()
    first = members.redeem()
    members.do("set_role", name="n2", role="learner")
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
    assert [i.name for i in members.machine.invitations()] == ["n2"]
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


def test_set_address_and_set_role_change_one_field(members: Members) -> None:
    before = members.put()
    assert members.do("set_address", name="n1", address="h:1") == {**before, "address": "h:1"}
    assert members.do("set_role", name="n1", role="learner") == {
        **before,
        "address": "h:1",
        "role": "learner",
    }


@pytest.mark.parametrize(
    ("operation", "other"),
    [("set_address", {"address": "h:1"}), ("set_role", {"role": "voter"}), ("remove", {})],
)
def test_change_of_an_unknown_member_is_not_found(
    members: Members, operation: str, other: dict[str, str]
) -> None:
    with pytest.raises(errors.NotFound, match="n9"):
        members.do(operation, name="n9", **other)


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


def test_on_change_names_the_members_that_changed_and_may_raise(members: Members) -> None:
    seen: list[tuple[str, int]] = []

    def observe(name: str, index: int) -> None:
        seen.append((name, index))
        raise RuntimeError

    members.machine.on_change = observe
    members.put()
    members.invite()
    members.redeem()
    members.do("remove", name="n1")
    members.do("remove", name="n1")
    assert seen == [("n1", 1), ("n2", 3), ("n1", 4)]


def test_invitation_repr_hides_the_digest_of_its_secret(members: Members) -> None:
    members.invite()
    assert SECRET not in repr(members.machine.invitations())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "N1"),
        ("name", "é"),
        ("name", 1),
        ("name", "\ud800"),
        ("address", "nohost"),
        ("address", "h:0"),
        ("address", "é:1"),
        ("address", None),
        ("address", "a" * 400 + ":1"),
        ("role", "leader"),
        ("role", ["voter"]),
        ("role", True),
        ("sealing_key", "x"),
        ("sealing_key", 5),
        ("sealing_key", "A" * 44),
        ("sealing_key", KEY + "\n"),
        ("raft_id", ""),
        ("raft_id", "a b"),
        ("raft_id", []),
        ("certificate_expires_at", 5),
        ("certificate_expires_at", "2027-01-02"),
        ("certificate_expires_at", "\uff12027-01-02T03:04:05Z"),
        ("extra", 1),
    ],
)
def test_put_of_a_bad_field_is_malformed_and_changes_nothing(
    members: Members, field: str, value: Any
) -> None:
    before = members.composite.digest()
    with pytest.raises(errors.InvalidInput):
        members.put(**{field: value} if field != "name" else {"name": value, "raft_id": "r"})
    assert members.composite.digest() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learner", 1),
        ("learner", None),
        ("secret_sha256", SECRET.replace("5", "A")),
        ("secret_sha256", "55"),
        ("expires_unix_ms", True),
        ("expires_unix_ms", -1),
        ("expires_unix_ms", 2**53 + 1),
        ("expires_unix_ms", "9"),
    ],
)
def test_invite_of_a_bad_field_is_malformed_and_changes_nothing(
    members: Members, field: str, value: Any
) -> None:
    before = members.composite.digest()
    good = {"name": "n2", "learner": False, "secret_sha256": SECRET, "expires_unix_ms": 9000}
    with pytest.raises(errors.InvalidInput):
        members.do("invite", **{**good, field: value})
    assert members.composite.digest() == before


def test_put_keeps_an_address_in_one_spelling(members: Members) -> None:
    assert members.put(address="[node.example]:0080")["address"] == "node.example:80"
    Composite().restore(members.composite.snapshot())


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
    members.do("set_address", name="n1", address="h:1")
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


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "-a",
        "a-",
        "A",
        "a_b",
        "a b",
        "a:1",
        "é",
        "[::1]",
        "127.0.0.1",
        "127.1",
        "1",
        "0x7f000001",
        "a.0x1",
        "a" * 64,
        ".".join(["a" * 63] * 4),
        5,
        ["a"],
        "\ud800",
        "a\n",
    ],
)
def test_host_that_is_no_host_name_is_malformed_and_changes_nothing(members: Members, host: Any) -> None:
    members.put()
    before = members.composite.digest()
    for operation, other in (("set_host", {"name": "n1"}), ("share_host", {}), ("unshare_host", {})):
        with pytest.raises(errors.InvalidInput):
            members.do(operation, host=host, **other)
    assert members.composite.digest() == before


@pytest.mark.parametrize("host", ["a", "1a", "a.b-c.example", "0xg", "1.a", ".".join(["a" * 62] * 4)])
def test_host_that_is_a_host_name_is_taken(members: Members, host: str) -> None:
    assert members.do("share_host", host=host)["host"] == host


def test_on_change_names_members_and_hosts_whose_hosts_changed(members: Members) -> None:
    seen: list[tuple[str, int]] = []
    members.put()
    members.machine.on_change = lambda *change: seen.append(change)
    members.do("set_host", name="n1", host="app-1")
    members.do("share_host", host="app")
    members.do("share_host", host="app")
    members.do("unshare_host", host="app")
    assert seen == [("n1", 2), ("app", 3), ("app", 5)]


def test_export_without_hosts_is_what_older_releases_wrote(members: Members) -> None:
    members.put()
    before = members.machine.export_state()
    assert before.keys() == {"invitations", "members", "removed"}
    members.do("set_host", name="n1", host="app-1")
    members.do("share_host", host="app")
    hosts = members.machine.export_state()
    assert (hosts["hosts"], hosts["shared_hosts"]) == ({"app-1": "n1"}, ["app"])
    other = Members()
    other.composite.restore(members.composite.snapshot())
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
    other.composite.restore(members.composite.snapshot())
    assert other.machine.members() == members.machine.members()
    assert other.machine.invitations() == members.machine.invitations()
    assert other.machine.removed() == ["gone"]
    assert other.composite.snapshot() == members.composite.snapshot()


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("removed"),
        lambda s: s.update(removed=["n1"]),
        lambda s: s.update(removed=["b", "a"]),
        lambda s: s.update(removed=["a", "a"]),
        lambda s: s.update(removed={}),
        lambda s: s.update(removed=[1]),
        lambda s: s.update(members=[]),
        lambda s: s["members"]["n1"].pop("role"),
        lambda s: s["members"]["n1"].update(role="leader"),
        lambda s: s["members"]["n1"].update(name="n2"),
        lambda s: s["members"]["n1"].update(address="h:080"),
        lambda s: s["members"].update(n2=s["members"]["n1"]),
        lambda s: s["members"].update(N2=s["members"].pop("n1")),
        lambda s: s["members"].update(n1=None),
        lambda s: s["invitations"][SECRET].update(used_by="x"),
        lambda s: s["invitations"][SECRET].update(secret_sha256=SECRET),
        lambda s: s["invitations"].update(x=s["invitations"].pop(SECRET)),
        lambda s: s["invitations"].update({SECRET: []}),
        lambda s: s.update(hosts={}),
        lambda s: s.update(hosts=["a"]),
        lambda s: s.update(hosts={"a": "n9"}),
        lambda s: s.update(hosts={"a": "n1", "b": "n1"}),
        lambda s: s.update(hosts={"A": "n1"}),
        lambda s: s.update(hosts={"a": 1}),
        lambda s: s.update(hosts={"a": "n1"}, shared_hosts=["a"]),
        lambda s: s.update(shared_hosts=[]),
        lambda s: s.update(shared_hosts="a"),
        lambda s: s.update(shared_hosts=["b", "a"]),
        lambda s: s.update(shared_hosts=["a", "a"]),
        lambda s: s.update(shared_hosts=[1]),
        lambda s: s.update(shared_hosts=sorted(f"h{n}" for n in range(101))),
    ],
)
def test_prepare_restore_of_a_wrong_state_is_a_value_error(members: Members, change: Any) -> None:
    members.put("n1")
    members.invite()
    state = members.machine.export_state()
    change(state)
    with pytest.raises(ValueError):
        members.machine.prepare_restore(state)
