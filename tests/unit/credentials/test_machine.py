"""The register of credentials: who counts, until when, and what makes room."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cyoloctl.credentials.machine import MAX_CREDENTIALS, MAX_LIFETIME_MS, CredentialLimits, CredentialMachine
from cyoloctl.members.machine import MemberMachine
from cyoloctl.replicated.command import Refused

FAR = 2**52
KEY = "A" * 43 + "="


def key(number: int) -> str:
    return f"{number:064x}"


class Register:
    def __init__(self, limits: CredentialLimits = CredentialLimits()) -> None:  # noqa: B008 - it is frozen
        self.members = MemberMachine()
        self.machine = CredentialMachine(self.members, limits)
        self.now = 1000
        self.index = 0

    def apply(self, operation: str, **arguments: Any) -> dict[str, Any]:
        self.index += 1
        return self.machine.apply(operation, arguments, self.index, self.now)

    def create(self, name: str = "ann", number: int = 1, **changes: Any) -> dict[str, Any]:
        arguments = {
            "name": name,
            "role": "viewer",
            "key_hash": key(number),
            "ttl_ms": 100,
            "latest_unix_ms": FAR,
            "created_by": "unix socket",
        }
        return self.apply("create", **(arguments | changes))

    def renew(self, name: str = "ann", number: int = 2, **changes: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "name": name,
            "from_key_hash": None,
            "key_hash": key(number),
            "ttl_ms": None,
            "latest_unix_ms": FAR,
        }
        return self.apply("renew", **(arguments | changes))

    def member(self, name: str) -> None:
        arguments = {
            "name": name,
            "address": "h:1",
            "role": "voter",
            "sealing_key": KEY,
            "raft_id": name,
            "certificate_expires_at": None,
        }
        self.members.apply("put", arguments, 1, self.now)

    def refused(self, operation: str, **arguments: Any) -> str:
        before = json.dumps(self.machine.export_state())
        with pytest.raises(Refused) as caught:
            getattr(self, operation)(**arguments)
        assert json.dumps(self.machine.export_state()) == before
        return caught.value.error.code


@pytest.fixture
def register() -> Register:
    return Register()


def live(register: Register, number: int) -> bool:
    entry = register.machine.find(key(number))
    return entry is not None and entry.is_live(register.now)


def test_created_credentials_count_until_they_expire(register: Register) -> None:
    made = register.create()
    assert made == {
        "name": "ann",
        "role": "viewer",
        "key_hash": key(1),
        "created_unix_ms": 1000,
        "created_by": "unix socket",
        "expires_unix_ms": 1100,
        "lifetime_ms": 100,
        "revoked_unix_ms": None,
    }
    register.now = 1099
    assert live(register, 1)
    register.now = 1100
    assert not live(register, 1)


def test_create_beyond_the_end_of_the_ca_is_cut_and_after_it_refused(register: Register) -> None:
    assert register.create(latest_unix_ms=1050)["expires_unix_ms"] == 1050
    assert register.refused("create", name="bob", number=2, latest_unix_ms=1000) == "invalid_input"


def test_create_again_with_the_same_key_gives_the_same_entry(register: Register) -> None:
    made = register.create()
    register.now = 1050
    assert register.create() == made
    assert register.refused("create", role="operator") == "already_exists"
    assert register.refused("create", number=2) == "already_exists"
    assert register.refused("create", name="bob") == "already_exists"


def test_create_with_the_name_of_a_member_is_refused_also_after_its_removal(register: Register) -> None:
    register.member("n2")
    assert register.refused("create", name="n2") == "already_exists"
    register.members.apply("remove", {"name": "n2"}, 2, register.now)
    assert register.refused("create", name="n2") == "conflict"


def test_revoked_credentials_count_no_more_and_their_key_never_again(register: Register) -> None:
    register.create()
    register.now = 1010
    assert register.apply("revoke", name="ann")["revoked_unix_ms"] == 1010
    assert not live(register, 1)
    register.now = 1020
    assert register.apply("revoke", name="ann")["revoked_unix_ms"] == 1010
    assert register.refused("create") == "conflict"
    assert register.refused("create", name="bob") == "conflict"
    assert register.refused("renew") == "conflict"
    register.create(number=2)
    assert live(register, 2)
    assert not live(register, 1)
    found = register.machine.get("ann")
    assert found is not None
    assert found.key_hash == key(2)


def test_revoke_of_unknown_credentials_is_not_found(register: Register) -> None:
    register.member("n2")
    for name in ("ann", "n2"):
        with pytest.raises(Refused) as caught:
            register.apply("revoke", name=name)
        assert caught.value.error.code == "not_found"


def test_renewal_by_an_operator_replaces_key_and_expiry(register: Register) -> None:
    register.create()
    register.now = 1200  # expired meanwhile
    renewed = register.renew(ttl_ms=500)
    assert (renewed["expires_unix_ms"], renewed["lifetime_ms"]) == (1700, 500)
    assert renewed["created_unix_ms"] == 1000
    assert live(register, 2)
    assert not live(register, 1)
    assert register.renew(number=2, ttl_ms=50)["expires_unix_ms"] == 1250


def test_renewal_by_the_holder_lasts_no_longer_than_what_was_granted(register: Register) -> None:
    register.create()
    register.now = 1050
    renewed = register.renew(from_key_hash=key(1), ttl_ms=MAX_LIFETIME_MS)
    assert (renewed["expires_unix_ms"], renewed["lifetime_ms"]) == (1150, 100)
    register.now = 1060
    assert register.renew(from_key_hash=key(1), ttl_ms=None) == renewed
    assert register.renew(number=3, from_key_hash=key(2), ttl_ms=10)["expires_unix_ms"] == 1070
    assert register.renew(number=4, from_key_hash=key(3))["expires_unix_ms"] == 1160


def test_renewal_by_the_holder_of_a_replaced_key_is_refused(register: Register) -> None:
    register.create()
    register.renew()
    assert register.refused("renew", number=3, from_key_hash=key(1)) == "conflict"


def test_renewal_under_a_key_that_is_or_was_anothers_is_refused(register: Register) -> None:
    register.create("ann", 1)
    register.create("bob", 2)
    assert register.refused("renew", number=2) == "already_exists"
    assert register.refused("renew", number=2, from_key_hash=key(1)) == "already_exists"
    register.apply("revoke", name="bob")
    assert register.refused("renew", number=2) == "conflict"
    assert register.refused("renew", number=2, from_key_hash=key(1)) == "conflict"


def test_name_means_the_entry_that_counts_and_not_a_revoked_one_that_ends_later(register: Register) -> None:
    register.create(number=1, ttl_ms=5000)
    register.apply("revoke", name="ann")
    register.create(number=2, ttl_ms=50)
    assert register.machine.get("ann") == register.machine.find(key(2))
    assert register.renew(number=3)["lifetime_ms"] == 50


def test_bootstrap_is_refused_when_the_last_operator_was_forgotten() -> None:
    register = Register(CredentialLimits(credentials=1))
    register.create("admin", 1, role="operator")
    register.apply("revoke", name="admin")
    register.create("bob", 2)
    assert [entry.name for entry in register.machine.entries()] == ["bob"]
    for _ in range(2):
        with pytest.raises(Refused, match="has had an operator"):
            register.apply("bootstrap", name="eve", key_hash=key(3), expires_unix_ms=5000)
        register.machine.prepare_restore(json.loads(json.dumps(register.machine.export_state())))()


def test_bootstrap_works_only_while_there_was_never_an_operator(register: Register) -> None:
    register.member("admin")
    made = register.apply("bootstrap", name="admin", key_hash=key(1), expires_unix_ms=5000)
    assert (made["role"], made["created_by"], made["expires_unix_ms"]) == ("operator", "cluster init", 5000)
    assert register.apply("bootstrap", name="admin", key_hash=key(1), expires_unix_ms=5000) == made
    register.apply("revoke", name="admin")
    for number in (1, 2):
        before = register.machine.entries()
        if number == 2:
            with pytest.raises(Refused):
                register.apply("bootstrap", name="admin", key_hash=key(2), expires_unix_ms=5000)
        else:
            register.apply("bootstrap", name="admin", key_hash=key(1), expires_unix_ms=5000)
        assert register.machine.entries() == before
    assert not live(register, 1)


def test_bootstrap_after_an_operator_was_created_is_refused(register: Register) -> None:
    register.create(role="operator")
    with pytest.raises(Refused):
        register.apply("bootstrap", name="admin", key_hash=key(2), expires_unix_ms=5000)


def test_full_register_forgets_what_ended_first_and_refuses_when_all_count(register: Register) -> None:
    for number in range(MAX_CREDENTIALS):
        register.create(f"c{number}", number, ttl_ms=10_000)
    assert register.refused("create", name="more", number=5000) == "overloaded"
    register.now = 2000
    register.apply("revoke", name="c7")
    register.now = 2001
    register.apply("revoke", name="c5")
    register.create("more", 5000)
    assert register.machine.find(key(7)) is None
    assert register.machine.find(key(5)) is not None
    assert len(register.machine.entries()) == MAX_CREDENTIALS
