"""The replicated steps by which one CA takes another's place."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from cyoloctl.authorities.machine import AuthorityMachine
from cyoloctl.members.machine import MemberMachine
from cyoloctl.replicated.command import Refused
from cyoloctl.state import ClusterState

KEY = base64.b64encode(bytes(32)).decode()
SEALED, VOUCHER = "c2VhbGVk", "c2lnbmVk"


def _pem(letter: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{letter * 64}\n-----END CERTIFICATE-----\n"


def _sha256(letter: str) -> str:
    return hashlib.sha256(base64.b64decode(letter * 64)).hexdigest()


OLD, NEW, THIRD = _pem("A"), _pem("B"), _pem("C")


class World:
    """The two machines, with members that are voters unless their name begins with l."""

    def __init__(self, *names: str) -> None:
        self.members = MemberMachine()
        self.machine = AuthorityMachine(self.members)
        self.members.on_removed = self.machine.forget_member
        self.members.on_role = self.machine.role_changed
        self.index = 0
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        self.members.apply(
            "put",
            {
                "name": name,
                "address": "h:1",
                "role": "learner" if name.startswith("l") else "voter",
                "sealing_key": KEY,
                "raft_id": name,
                "certificate_expires_at": None,
            },
            1,
            0,
        )

    def add_witness(self, name: str) -> None:
        public, digest = base64.b64encode(bytes(32)).decode(), hashlib.sha256(name.encode()).hexdigest()
        self.members.apply("invite_witness", {"name": name, "public_key": public, "ttl_s": 60}, 1, 0)
        fields = {"address": "h:9", "sealing_key": KEY, "raft_id": name, "key_hash": digest}
        asked = {"name": name, "public_key": public, "request_sha256": digest, **fields}
        self.members.apply("admit", asked, 1, 0)

    def remove(self, name: str) -> None:
        self.members.apply("remove", {"name": name}, 1, 0)

    def set_role(self, name: str, role: str) -> None:
        self.members.apply("set_role", {"name": name, "role": role}, 1, 0)

    def do(self, operation: str, now: int = 0, **arguments: Any) -> dict[str, Any]:
        self.index += 1
        return self.machine.apply(operation, arguments, self.index, now)

    def begin(
        self, new: str = NEW, old: str = OLD, keys: tuple[str, ...] = ("n1", "n2"), now: int = 0
    ) -> None:
        self.do(
            "begin",
            now,
            ca_pem=new,
            old_ca_pem=old,
            voucher=VOUCHER,
            keys=dict.fromkeys(keys, SEALED),
            overlap_ms=100,
        )

    def refused(self, operation: str, now: int = 0, **arguments: Any) -> str:
        before = self.machine.export_state()
        with pytest.raises(Refused) as refusal:
            self.do(operation, now, **arguments)
        assert self.machine.export_state() == before
        return refusal.value.error.code

    def through(self, *names: str) -> None:
        """From begin to the end."""
        for name in names:
            self.do("confirm", name=name, sha256=_sha256("B"))
        self.do("advance", 100, sha256=_sha256("B"))
        for name in names:
            self.do("reissued", name=name, sha256=_sha256("B"))
        self.do("finish", 200, sha256=_sha256("B"))


def test_rotation_when_every_member_did_its_part_ends_with_the_new_ca() -> None:
    world = World("l1", "n1", "n2")
    world.begin()
    machine, sha256 = world.machine, _sha256("B")
    assert machine.rotation is not None
    assert machine.rotation.sha256 == sha256
    assert machine.unconfirmed() == ["l1", "n1", "n2"]
    assert world.refused("advance", 100, sha256=sha256) == "conflict"
    for name in ("l1", "n1", "n2"):
        world.do("confirm", name=name, sha256=sha256)
        world.do("confirm", name=name, sha256=sha256)
    assert world.refused("advance", 99, sha256=sha256) == "conflict"
    assert world.refused("reissued", 99, name="n1", sha256=sha256) == "conflict"
    world.do("advance", 100, sha256=sha256)
    assert world.refused("finish", 100, sha256=sha256) == "conflict"
    for name in ("l1", "n1", "n2"):
        assert machine.rotation is not None
        world.do("reissued", name=name, sha256=sha256)
    world.do("finish", 200, sha256=sha256)
    assert machine.rotation is None
    assert machine.current == NEW
    assert machine.export_state()["finished_unix_ms"] == 200
    world.do("finish", 300, sha256=sha256)  # a repetition changes nothing
    assert machine.export_state()["finished_unix_ms"] == 200


def test_begin_while_another_rotation_goes_on_is_refused() -> None:
    world = World("n1", "n2")
    world.begin()
    world.begin()  # the same once more
    arguments = {"old_ca_pem": OLD, "voucher": VOUCHER, "keys": {}, "overlap_ms": 0}
    assert world.refused("begin", ca_pem=THIRD, **arguments) == "conflict"
    world.through("n1", "n2")
    assert world.refused("begin", ca_pem=THIRD, **arguments) == "conflict"  # of the CA before
    world.begin(new=THIRD, old=NEW)


def test_member_that_is_away_holds_the_rotation_up_until_it_is_removed() -> None:
    world = World("n1", "n2", "n3")
    world.begin(keys=("n1", "n2", "n3"))
    for name in ("n1", "n2"):
        world.do("confirm", name=name, sha256=_sha256("B"))
    assert world.machine.unconfirmed() == ["n3"]
    assert world.refused("advance", 100, sha256=_sha256("B")) == "conflict"
    world.remove("n3")
    world.do("advance", 100, sha256=_sha256("B"))


def test_voter_that_joins_meanwhile_is_given_the_key_and_a_learner_is_not() -> None:
    world = World("n1", "n2")
    world.begin()
    world.add("n4")
    world.add("l1")
    assert world.machine.lacking_key() == ["n4"]
    assert world.refused("confirm", name="n4", sha256=_sha256("B")) == "conflict"
    world.do("confirm", name="l1", sha256=_sha256("B"))
    world.do("wrap", sha256=_sha256("B"), keys={"n4": SEALED, "n1": "b3RoZXI="})
    assert world.machine.lacking_key() == []
    assert world.machine.rotation is not None
    assert world.machine.rotation.keys["n1"] == SEALED
    world.do("confirm", name="n4", sha256=_sha256("B"))


def test_removal_of_a_voter_makes_a_rotation_due_until_one_that_began_later_ended() -> None:
    world = World("l1", "n1", "n2", "n3", "n4")
    assert world.machine.due_for() == []
    world.do("exempt", name="l1")
    assert world.refused("exempt", name="n1") == "conflict"
    assert world.refused("exempt", name="n9") == "not_found"
    world.remove("l1")
    assert world.machine.due_for() == []
    world.remove("n3")
    assert world.machine.due_for() == ["n3"]
    world.begin(keys=("n1", "n2", "n4"))
    assert world.machine.due_for() == ["n3"]
    world.remove("n4")  # it was given the new key
    world.through("n1", "n2")
    assert world.machine.due_for() == ["n4"]


def test_voter_that_was_demoted_makes_a_rotation_due_until_it_votes_again_or_the_key_is_another() -> None:
    world = World("n1", "n2", "n3")
    world.set_role("n3", "learner")
    assert world.machine.demoted() == ["n3"]
    assert world.refused("exempt", name="n3") == "conflict"
    world.set_role("n3", "voter")
    assert world.machine.demoted() == []
    world.set_role("n3", "learner")
    world.begin(keys=("n1", "n2"))
    world.set_role("n2", "learner")  # it was given the new key
    world.through("n1", "n2", "n3")
    assert world.machine.demoted() == ["n2"]
    world.do("exempt", name="n3")
    world.remove("n2")
    world.remove("n3")
    assert (world.machine.demoted(), world.machine.due_for()) == ([], ["n2"])


def test_learner_that_is_promoted_is_exempt_no_longer() -> None:
    world = World("l1", "n1")
    world.do("exempt", name="l1")
    world.set_role("l1", "voter")
    world.remove("l1")
    assert world.machine.due_for() == ["l1"]


def test_abandon_once_everybody_confirmed_is_refused() -> None:
    world = World("n1", "n2")
    world.begin()
    world.do("abandon", sha256=_sha256("B"))
    assert world.machine.rotation is None
    assert world.machine.export_state() == {}
    world.begin()
    for name in ("n1", "n2"):
        world.do("confirm", name=name, sha256=_sha256("B"))
    assert world.refused("abandon", sha256=_sha256("B")) == "conflict"


def test_abandon_stays_refused_when_a_member_joins_that_has_not_confirmed() -> None:
    world = World("n1", "n2")
    world.begin()
    for name in ("n1", "n2"):
        world.do("confirm", name=name, sha256=_sha256("B"))
    world.add("n3")
    assert world.machine.unconfirmed() == ["n3"]
    assert world.refused("abandon", sha256=_sha256("B")) == "conflict"


def test_new_ca_is_another_than_the_old_one() -> None:
    world = World("n1")
    given = {"ca_pem": OLD, "old_ca_pem": OLD, "voucher": VOUCHER, "keys": {}, "overlap_ms": 0}
    assert world.refused("begin", **given) == "conflict"


def test_finish_waits_for_the_new_ca_to_issue_even_when_nobody_is_left() -> None:
    world = World("n1")
    world.begin()
    world.do("confirm", name="n1", sha256=_sha256("B"))
    world.remove("n1")
    assert world.machine.not_reissued() == []
    assert world.refused("finish", 500, sha256=_sha256("B")) == "conflict"


def test_only_members_take_part_in_a_rotation_and_only_in_the_one_that_goes_on() -> None:
    world = World("n1", "n2")
    assert world.refused("confirm", name="n1", sha256=_sha256("B")) == "conflict"
    world.begin()
    for operation in ("confirm", "reissued"):
        assert world.refused(operation, name="n9", sha256=_sha256("B")) == "not_found"
        assert world.refused(operation, name="n1", sha256=_sha256("C")) == "conflict"
    for operation in ("advance", "finish", "abandon"):
        assert world.refused(operation, 500, sha256=_sha256("C")) == "conflict"
    assert world.refused("wrap", sha256=_sha256("C"), keys={}) == "conflict"


@pytest.mark.parametrize("given_by", ["begin", "wrap"])
def test_learner_that_was_given_the_key_is_exempt_no_longer(given_by: str) -> None:
    world = World("l1", "n1")
    world.do("exempt", name="l1")
    if given_by == "begin":
        world.begin(keys=("n1", "l1"))
    else:
        world.begin(keys=("n1",))
        world.do("wrap", sha256=_sha256("B"), keys={"l1": SEALED})
    world.remove("l1")
    assert world.machine.due_for() == ["l1"]


@pytest.mark.parametrize("steps", range(6))
def test_state_after_every_step_is_restored_as_it_was(steps: int) -> None:
    world = World("l1", "n1", "n2", "n3")
    sha256 = _sha256("B")
    every = [
        lambda: world.do("set_certificate_days", days=30),
        lambda: (
            world.do("exempt", name="l1"),
            world.set_role("n2", "learner"),
            world.remove("n3"),
            world.begin(),
        ),
        lambda: world.do("confirm", name="l1", sha256=sha256),
        lambda: world.through("l1", "n1", "n2"),
        lambda: world.begin(new=THIRD, old=NEW),
    ]
    for step in every[:steps]:
        step()
    state = world.machine.export_state()
    other = World("n9")
    other.begin(keys=("n9",))
    other.machine.prepare_restore(state)()
    assert other.machine.export_state() == state
    assert (world.machine.export_state() == {}) == (steps == 0)


def test_snapshot_without_authorities_leaves_them_empty() -> None:
    cluster = ClusterState()
    before = b"".join(cluster.begin_snapshot()())
    cluster.authorities.apply("set_certificate_days", {"days": 3}, 1, 0)
    cluster.restore(before)
    assert cluster.authorities.export_state() == {}


def test_key_that_is_sealed_to_a_witness_is_refused() -> None:
    world = World("n1", "n2")
    world.add_witness("w1")
    asked = {"ca_pem": NEW, "old_ca_pem": OLD, "voucher": VOUCHER, "overlap_ms": 100}
    keys = dict.fromkeys(("n1", "w1"), SEALED)
    for operation in ("begin", "exchange"):
        assert world.refused(operation, keys=keys, **asked) == "conflict"
    world.begin(keys=("n1",))
    assert world.refused("wrap", sha256=_sha256("B"), keys=dict.fromkeys(("n2", "w1"), SEALED)) == "conflict"
    assert world.machine.lacking_key() == ["n2"]


def test_witness_is_given_no_key_and_holds_no_rotation_up() -> None:
    world = World("n1", "n2")
    world.add_witness("w1")
    world.begin()
    assert world.machine.lacking_key() == []
    for name in ("n1", "n2"):
        world.do("confirm", name=name, sha256=_sha256("B"))
    assert world.machine.unconfirmed() == ["w1"], "it trusts the new CA too"
    world.do("confirm", name="w1", sha256=_sha256("B"))
    world.do("advance", 200, sha256=_sha256("B"))
    for name in ("n1", "n2", "w1"):
        world.do("reissued", name=name, sha256=_sha256("B"))
    world.do("finish", 300, sha256=_sha256("B"))
    world.do("exempt", name="w1")
    world.remove("w1")
    assert world.machine.due_for() == []
