"""For whom wrong codes count, and what is answered while others go on."""

from __future__ import annotations

import ipaddress
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyoloctl.caller import Actor
from cyoloctl.rendezvous.machine import RendezvousMachine
from cyoloctl.rendezvous.operations import RendezvousOperations, _actors, _digests, _has, counted
from cyoloctl.rendezvous.records import LEVELS, MAX_BEGUN_BY


def shared(one: str, other: str) -> set[str]:
    """The levels that two clients have in common."""
    return {level for level, who in counted(None, one) if [level, who] in counted(None, other)}


@pytest.mark.parametrize(
    ("one", "other", "levels"),
    [
        ("192.0.2.1", "192.0.2.1", {"network", "site", "region", "all"}),
        ("192.0.2.1", "192.0.2.2", {"site", "region", "all"}),
        ("192.0.2.1", "192.0.3.1", {"region", "all"}),
        ("192.0.2.1", "198.51.100.1", {"all"}),
        ("2001:db8::1", "2001:db8::ffff", {"network", "site", "region", "all"}),
        ("2001:db8::1", "2001:db8:0:1::1", {"site", "region", "all"}),
        ("2001:db8::1", "2001:db8:1::1", {"region", "all"}),
        ("2001:db8::1", "2001:db9::1", {"all"}),
        ("192.0.2.1", "2001:db8::1", {"all"}),
    ],
)
def test_wrong_codes_without_a_session_count_for_networks_that_widen(
    one: str, other: str, levels: set[str]
) -> None:
    assert shared(one, other) == levels


@given(st.text(max_size=20), st.ip_addresses())
def test_wrong_codes_of_a_person_count_for_that_person_alone(
    sub: str, client: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    mine = counted(sub, str(client))
    assert [level for level, _ in mine] == ["person"]
    assert mine == counted(sub, "192.0.2.1")
    assert mine != counted(sub + "x", str(client))
    assert not {who for _, who in mine} & {who for _, who in counted(None, str(client))}
    assert {level for level, _ in counted(None, str(client))} == LEVELS.keys() - {"person"}


def test_claim_that_is_a_list_has_each_of_its_values_and_true_is_not_one() -> None:
    assert _has(["pwd", "hwk"], "hwk")
    assert _has(True, True)
    for said in (None, 1, "true", [1], ["true"], {"true": True}, []):
        assert not _has(said, True)
    assert not _has(True, 1)


def test_whoever_answers_is_compared_by_each_secret_of_their_browser_as_far_as_a_command_holds() -> None:
    names = tuple("abcdefgh")
    for own in names:
        began = _digests(Actor(sub="alice", sid="s", browsers=(own, *names)), 1)
        assert len(began) == 3
        answers = _actors(Actor(sub="bob", sid="t", browsers=names), began)
        assert len(answers) == MAX_BEGUN_BY
        assert answers == sorted(set(answers))
        assert set(answers) & set(began) == set(_digests(Actor(browsers=(own,))))
        assert not set(_actors(Actor(sub="bob", browsers=("x", "y")), began)) & set(began)


ID, NOW_MS = "1" * 32, 1_000_000
START = {
    "id": ID,
    "user_code_sha256": "a" * 64,
    "ttl_ms": 60_000,
    "kind": "approval",
    "node": "n1",
    "initiator": "alice@example.com",
    "origin": "192.0.2.1",
    "data": {},
    "initiator_public_key": None,
}


class Redeeming:
    """Whoever waits for an approval redeems it before its own answer is made."""

    def __init__(self, records: RendezvousMachine) -> None:
        self.records = records

    def now_ms(self) -> int:
        return NOW_MS

    async def in_time(self, *, timeout_s: float) -> None: ...

    async def apply_here(self, machine: str, operation: str, arguments: Any, **_: object) -> Any:
        done = self.records.apply(operation, arguments, 2, NOW_MS)
        redeem = {"id": ID, "expected": None, "redemption_sha256": "c" * 64}
        self.records.apply("consume", redeem, 3, NOW_MS)
        return done


async def test_approval_is_answered_as_one_though_it_was_redeemed_meanwhile() -> None:
    records, nobody = RendezvousMachine(), cast(Any, None)
    records.apply("start", START, 1, NOW_MS)
    operations = RendezvousOperations(
        cast(Any, Redeeming(records)),
        nobody,
        records,
        keys=nobody,
        tokens=nobody,
        page_url=nobody,
        was_applied=nobody,
    )
    record = records.get(ID, NOW_MS)
    assert record is not None
    answered = await operations.answer(
        "approve", record, "bob", Actor(sub="bob"), None, 1.0, {"group": "ops"}
    )
    redeemed = records.get(ID, NOW_MS)
    assert redeemed is not None
    assert (answered["state"], redeemed.state) == ("approved", "consumed")
