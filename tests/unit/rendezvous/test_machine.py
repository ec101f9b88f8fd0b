"""The rendezvous machine: its table, what it refuses, what it forgets."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from cyoloctl import errors
from cyoloctl.rendezvous import machine as module
from cyoloctl.rendezvous.machine import RendezvousMachine
from cyoloctl.rendezvous.records import (
    ATTEMPT_WINDOW_MS,
    EXPIRED_AT_ONCE,
    LIVE_STATES,
    MAX_ATTEMPTS,
    MAX_CALLER_ATTEMPTS,
    MAX_CALLERS,
    MAX_DATA_BYTES,
    MAX_LIVE,
    MAX_POLICIES,
    MAX_TOMBSTONES,
    MAX_TTL_MS,
    REDELIVERY_MS,
    TOMBSTONE_MS,
    TRANSITIONS,
    RendezvousLimits,
    id_of_public_key,
)
from cyoloctl.replicated.command import Malformed, Refused
from cyoloctl.state import ClusterState
from cyoloctl.text import canonical_json, parse_canonical_json
from tests.support.old_commands import encode_command
from tests.support.results import decode_result

ID, OTHER = "1" * 32, "2" * 32
CODE, OTHER_CODE, WRONG = "a" * 64, "b" * 64, "f" * 64
MINE, THEIRS = "c" * 64, "d" * 64
CALLER, OTHER_CALLER = "8" * 64, "9" * 64
KEY = "A" * 43 + "="
KEY_ID = id_of_public_key(KEY)
SEALED = "c2VhbGVk"
TTL = 60_000


class Points:
    """A machine and the replicated time; arguments travel as JSON, as in a command."""

    def __init__(self, limits: RendezvousLimits = RendezvousLimits()) -> None:  # noqa: B008 - it is frozen
        self.machine = RendezvousMachine(limits)
        self.index = 0
        self.now = 1_000_000

    def do(self, operation: str, **arguments: Any) -> dict[str, Any]:
        self.index += 1
        try:
            return self.machine.apply(
                operation, parse_canonical_json(canonical_json(arguments)), self.index, self.now
            )
        except Refused as refused:
            raise refused.error from None

    def start(self, id: str = ID, code: str = CODE, **other: Any) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "ttl_ms": TTL,
            "kind": "approval",
            "node": "n1",
            "initiator": "alice@example.com",
            "origin": "192.0.2.1",
            "data": {"reason": "deploy"},
            "initiator_public_key": None,
        }
        return self.do("start", id=id, user_code_sha256=code, **{**fields, **other})

    def step(self, operation: str, id: str = ID, **other: Any) -> dict[str, Any]:
        fields: dict[str, dict[str, Any]] = {
            "claim": {"by": "bob"},
            "approve": {"by": "bob", "answer": {"group": "ops"}, "sealed_result": None},
            "deny": {"by": "bob"},
            "cancel": {},
            "consume": {"redemption_sha256": MINE},
        }
        return self.do(operation, id=id, **{"expected": None, **fields[operation], **other})

    def attempt(self, code: str = CODE, *, id: str | None = None, caller: str = CALLER) -> dict[str, Any]:
        return self.do("attempt", id=id, user_code_sha256=code, caller_sha256=caller)

    def state(self, id: str = ID) -> str | None:
        record = self.machine.get(id, self.now)
        return None if record is None else record.state

    def exported(self) -> str:
        return canonical_json(self.machine.export_state())

    def into(self, state: str) -> None:
        """A record in this state."""
        self.start()
        for operation in {
            "pending": (),
            "claimed": ("claim",),
            "approved": ("approve",),
            "denied": ("deny",),
            "consumed": ("approve", "consume"),
            "cancelled": ("cancel",),
            "expired": (),
        }[state]:
            self.step(operation)
        if state == "expired":
            self.now += TTL
        assert self.state() == state


@pytest.fixture
def points() -> Points:
    return Points()


ALL_STATES = (*LIVE_STATES, "denied", "consumed", "expired", "cancelled")


def test_table_in_the_documentation_is_the_one_that_the_code_works_from() -> None:
    documented = dict[str, tuple[tuple[str, ...], str]]()
    for line in (module.__doc__ or "").splitlines():
        cells = re.split(r" {2,}", line.strip())
        if len(cells) == 3 and cells[2] in ALL_STATES:
            documented[cells[0]] = (tuple(cells[1].split(", ")), cells[2])
    assert documented.pop("start") == (("(none)",), "pending")
    assert documented.pop("(time)") == (LIVE_STATES, "expired")
    assert documented.pop("(5 wrong codes)") == (LIVE_STATES, "cancelled")
    assert documented == TRANSITIONS


@pytest.mark.parametrize("state", ALL_STATES)
@pytest.mark.parametrize("operation", TRANSITIONS)
def test_transition_happens_from_the_states_of_the_table_only(
    points: Points, operation: str, state: str
) -> None:
    points.into(state)
    before = points.exported()
    sources, target = TRANSITIONS[operation]
    if state in sources:
        assert points.step(operation) == {"id": ID, "state": target}
        assert points.state() == target
    elif (operation, state) == ("consume", "consumed"):
        assert points.step(operation) == {"id": ID, "state": "consumed"}
        assert points.exported() == before
    else:
        with pytest.raises((errors.Conflict, errors.AuthorizationPending)):
            points.step(operation)
        assert points.state() == state
        assert state == "expired" or points.exported() == before


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        ("pending", errors.AuthorizationPending, "not yet approved"),
        ("claimed", errors.AuthorizationPending, "not yet approved"),
        ("denied", errors.Denied, "was denied"),
        ("expired", errors.Expired, "expired"),
        ("cancelled", errors.Conflict, "was cancelled"),
        ("consumed", errors.Conflict, "already redeemed"),
    ],
)
def test_redeem_in_another_state_is_refused_with_that_state(
    points: Points, state: str, error: type[errors.CyoloctlError], text: str
) -> None:
    points.into(state)
    with pytest.raises(errors.CyoloctlError, match=text) as caught:
        points.step("consume", redemption_sha256=THEIRS)
    assert type(caught.value) is error


@pytest.mark.parametrize("operation", TRANSITIONS)
def test_transition_of_an_unknown_record_is_not_found(points: Points, operation: str) -> None:
    with pytest.raises(errors.NotFound):
        points.step(operation)


@pytest.mark.parametrize("operation", ["approve", "deny", "cancel"])
def test_transition_from_another_state_than_expected_is_a_conflict(points: Points, operation: str) -> None:
    points.into("claimed")
    with pytest.raises(errors.Conflict, match="is claimed, not pending"):
        points.step(operation, expected="pending")
    assert points.step(operation, expected="claimed")["state"] == TRANSITIONS[operation][1]


def test_start_makes_a_record_that_expires_by_replicated_time(points: Points) -> None:
    assert points.start() == {"id": ID, "state": "pending", "expires_unix_ms": points.now + TTL}
    record = points.machine.get(ID, points.now)
    assert record is not None
    assert record.to_json() == {
        "id": ID,
        "kind": "approval",
        "state": "pending",
        "node": "n1",
        "initiator": "alice@example.com",
        "origin": "192.0.2.1",
        "data": {"reason": "deploy"},
        "initiator_public_key": None,
        "claimed_by": None,
        "failed_attempts": 0,
        "created_unix_ms": points.now,
        "expires_unix_ms": points.now + TTL,
        "changed_unix_ms": points.now,
    }
    points.now += TTL - 1
    assert points.state() == "pending"
    points.now += 1
    assert points.state() == "expired"
    assert points.machine.find_code(CODE, points.now) is None


def test_start_with_a_used_id_already_exists_also_after_its_end(points: Points) -> None:
    points.into("denied")
    with pytest.raises(errors.AlreadyExists):
        points.start(code=OTHER_CODE)


def test_start_with_the_code_of_a_live_record_is_a_conflict_until_it_ends(points: Points) -> None:
    points.start()
    with pytest.raises(errors.Conflict, match="draw another"):
        points.start(OTHER)
    points.step("cancel")
    points.start(OTHER)
    assert points.machine.find_code(CODE, points.now) == OTHER


def test_start_with_a_key_takes_only_the_id_of_the_key(points: Points) -> None:
    with pytest.raises(errors.InvalidInput, match="derive it"):
        points.start(initiator_public_key=KEY)
    points.start(KEY_ID, initiator_public_key=KEY)


def test_approve_takes_a_sealed_result_exactly_when_there_is_a_key(points: Points) -> None:
    points.start()
    points.start(KEY_ID, OTHER_CODE, initiator_public_key=KEY)
    cases: list[tuple[str, dict[str, str] | None, str | None]] = [
        (ID, None, SEALED),
        (ID, None, None),
        (ID, {}, SEALED),
        (KEY_ID, {}, None),
        (KEY_ID, {}, SEALED),
        (KEY_ID, None, None),
    ]
    for id, answer, sealed in cases:
        with pytest.raises(errors.InvalidInput, match="wrong form"):
            points.step("approve", id, answer=answer, sealed_result=sealed)
    points.step("approve", answer={})
    points.step("approve", KEY_ID, answer=None, sealed_result=SEALED)
    points.step("consume", KEY_ID)
    assert points.machine.answer(KEY_ID, MINE, points.now) == (None, SEALED)


def test_approve_of_what_somebody_else_claimed_is_a_conflict(points: Points) -> None:
    points.into("claimed")
    with pytest.raises(errors.Conflict, match="somebody else"):
        points.step("approve", by="mallory")
    points.step("approve")


@pytest.mark.parametrize("operation", ["deny", "cancel"])
def test_what_somebody_else_claimed_can_be_ended_by_anybody(points: Points, operation: str) -> None:
    points.into("claimed")
    points.step(operation, **({"by": "carol"} if operation == "deny" else {}))
    assert points.state() == TRANSITIONS[operation][1]


def test_answer_is_for_the_one_that_redeemed_and_forgotten_after_five_minutes(points: Points) -> None:
    points.into("approved")
    assert points.machine.answer(ID, MINE, points.now) is None  # not redeemed yet
    points.step("consume")
    for later in (0, REDELIVERY_MS - 1):
        assert points.machine.answer(ID, MINE, points.now + later) == ({"group": "ops"}, None)
        assert points.machine.answer(ID, THEIRS, points.now + later) is None
    assert points.machine.answer(ID, MINE, points.now + REDELIVERY_MS) is None
    points.now += REDELIVERY_MS
    with pytest.raises(errors.Conflict, match="already redeemed"):
        points.step("consume")
    assert "ops" not in points.exported()


@pytest.mark.parametrize("state", ["denied", "consumed", "expired", "cancelled"])
def test_ended_record_keeps_no_data_and_is_forgotten_after_a_day(points: Points, state: str) -> None:
    points.into(state)
    points.now += REDELIVERY_MS
    points.start(OTHER, OTHER_CODE, data={}, initiator="x", origin=None)
    for secret in (CODE, "deploy", "ops", "192.0.2.1"):
        assert secret not in points.exported()
    record = points.machine.get(ID, points.now)
    assert record is not None
    points.now = record.changed_unix_ms + TOMBSTONE_MS - 1
    assert points.state() == state
    points.now += 1
    assert points.state() is None
    assert points.machine.records(points.now)[0].id == OTHER
    with pytest.raises(errors.NotFound):
        points.step("claim")
    assert ID not in points.exported()
    points.start()  # its id and code are free again


def test_attempt_with_the_right_code_finds_the_record_and_changes_nothing(points: Points) -> None:
    points.start()
    before = points.exported()
    assert points.attempt() == {"id": ID, "attempts_left": MAX_CALLER_ATTEMPTS}
    assert points.attempt(id=ID) == {"id": ID, "attempts_left": MAX_ATTEMPTS}
    assert points.exported() == before


@pytest.mark.parametrize("state", LIVE_STATES)
def test_attempt_with_the_fifth_wrong_code_ends_the_record(points: Points, state: str) -> None:
    points.into(state)
    for left in (4, 3, 2, 1):
        assert points.attempt(WRONG, id=ID) == {"id": None, "attempts_left": left}
        assert points.state() == state
    assert points.attempt(WRONG, id=ID) == {"id": None, "attempts_left": 0}
    assert points.state() == "cancelled"
    with pytest.raises(errors.Conflict, match="5 wrong codes"):
        points.attempt(id=ID)
    assert points.attempt()["id"] is None


def test_attempt_on_an_unknown_record_is_not_found(points: Points) -> None:
    with pytest.raises(errors.NotFound):
        points.attempt(id=ID)


def test_attempts_of_a_caller_beyond_ten_are_slowed_down_for_ten_minutes(points: Points) -> None:
    points.start(ttl_ms=MAX_TTL_MS)
    for left in reversed(range(MAX_CALLER_ATTEMPTS)):
        assert points.attempt(WRONG) == {"id": None, "attempts_left": left}
        points.now += 1
    before = points.exported()
    for code in (CODE, WRONG):
        with pytest.raises(errors.SlowDown):
            points.attempt(code)
    assert points.exported() == before
    assert points.attempt(caller=OTHER_CALLER)["id"] == ID
    assert points.step("claim")["state"] == "claimed"  # by id: nothing was guessed
    points.now += ATTEMPT_WINDOW_MS - MAX_CALLER_ATTEMPTS - 1  # of the first wrong code
    with pytest.raises(errors.SlowDown):
        points.attempt()
    points.now += 1
    assert points.attempt()["id"] == ID


def test_attempts_of_more_callers_than_are_remembered_are_slowed_down(points: Points) -> None:
    points.start(ttl_ms=MAX_TTL_MS)
    points.attempt(WRONG)
    for n in range(MAX_CALLERS - 1):
        points.attempt(WRONG, caller=f"{n:064x}")
    for code in (CODE, WRONG):
        with pytest.raises(errors.SlowDown, match="everywhere"):
            points.attempt(code, caller=OTHER_CALLER)
    assert points.attempt()["id"] == ID
    points.now += ATTEMPT_WINDOW_MS
    assert points.attempt(WRONG, caller=OTHER_CALLER)["attempts_left"] == MAX_CALLER_ATTEMPTS - 1
    assert len(points.machine.export_state()["misses"]) == 1


# -- who may approve -------------------------------------------------------------------------------


def begin(points: Points, *begun_by: str) -> None:
    fields = {"ttl_ms": TTL, "kind": "mfa", "node": "n1", "initiator": "browser", "origin": None, "data": {}}
    points.do(
        "begin",
        id=ID,
        user_code_sha256=CODE,
        initiator_public_key=None,
        begun_by=sorted(begun_by),
        **fields,
    )


def answer_as(points: Points, operation: str, *actors: str, **claims: Any) -> dict[str, Any]:
    more = {} if operation == "claim_as" else {"answer": {}, "sealed_result": None}
    who = {"by": "bob", "actors": sorted(actors), "claims": claims}
    return points.do(operation, id=ID, expected=None, **who, **more)


@pytest.mark.parametrize("operation", ["claim_as", "approve_as"])
def test_answer_by_whoever_began_is_refused_unless_the_kind_allows_it(points: Points, operation: str) -> None:
    begin(points, MINE, THEIRS)
    before = points.exported()
    for actors in ((MINE,), (THEIRS,), (MINE, "e" * 64)):
        with pytest.raises(errors.ApprovalRefused, match="cannot approve it"):
            answer_as(points, operation, *actors)
    assert points.exported() == before
    points.do("set_policy", kind="other", require={}, allow_self=True)
    with pytest.raises(errors.ApprovalRefused):
        answer_as(points, operation, MINE)
    points.do("set_policy", kind="mfa", require={}, allow_self=True)
    assert answer_as(points, operation, MINE)["id"] == ID


@pytest.mark.parametrize("operation", ["claim_as", "approve_as"])
def test_answer_without_a_claim_that_the_kind_demands_is_refused(points: Points, operation: str) -> None:
    begin(points, MINE)
    points.do("set_policy", kind="mfa", require={"mfa": True, "group": "ops"}, allow_self=False)
    for claims in ({}, {"mfa": True}, {"mfa": 1, "group": "ops"}, {"mfa": "true", "group": "ops"}):
        with pytest.raises(errors.ApprovalRefused, match=r"mfa=true|group=ops"):
            answer_as(points, operation, **claims)
    with pytest.raises(errors.ApprovalRefused):  # as logs of 0.1.0 say it
        points.step(operation.removesuffix("_as"))
    with pytest.raises(errors.ApprovalRefused, match="cannot approve"):  # claims do not make another person
        answer_as(points, operation, MINE, mfa=True, group="ops")
    assert answer_as(points, operation, THEIRS, mfa=True, group="ops")["id"] == ID


def test_denial_by_whoever_began_is_taken(points: Points) -> None:
    begin(points, MINE)
    points.do("set_policy", kind="mfa", require={"mfa": True}, allow_self=False)
    assert points.step("deny")["state"] == "denied"
    assert MINE not in points.exported()


def test_policy_that_is_the_default_again_leaves_nothing_behind(points: Points) -> None:
    empty = points.exported()
    points.do("set_policy", kind="mfa", require={"mfa": True}, allow_self=True)
    assert points.machine.policies().keys() == {"mfa"}
    assert json.loads(points.exported())["policies"] == {
        "mfa": {"require": {"mfa": True}, "allow_self": True}
    }
    points.do("set_policy", kind="mfa", require={}, allow_self=False)
    assert points.exported() == empty


def test_policies_of_more_than_1000_kinds_are_a_conflict(points: Points) -> None:
    for n in range(MAX_POLICIES):
        points.do("set_policy", kind=f"k{n}", require={}, allow_self=True)
    with pytest.raises(errors.Conflict):
        points.do("set_policy", kind="more", require={}, allow_self=True)
    points.do("set_policy", kind="k7", require={"a": 1}, allow_self=False)
    points.do("set_policy", kind="k7", require={}, allow_self=False)
    points.do("set_policy", kind="more", require={}, allow_self=True)


def test_operations_that_know_no_actor_are_for_old_logs_only() -> None:
    proposers = RendezvousMachine.PROPOSERS
    assert {name for name, who in proposers.items() if who == "nobody"} == {
        "start",
        "attempt",
        "claim",
        "approve",
    }
    assert proposers["set_policy"] == "voter"
    assert proposers.keys() <= module._OPERATIONS.keys()


# -- wrong codes -----------------------------------------------------------------------------------


def tries(points: Points, code: str, **counted: str) -> dict[str, Any]:
    return points.do("try_code", id=None, user_code_sha256=code, counted=[list(c) for c in counted.items()])


def test_wrong_codes_of_one_person_stop_that_person_for_ten_minutes_and_nobody_else(points: Points) -> None:
    points.start(ttl_ms=MAX_TTL_MS)
    for left in reversed(range(10)):
        assert tries(points, WRONG, person=MINE) == {"id": None, "attempts_left": left}
    before = points.exported()
    for code in (CODE, WRONG):
        with pytest.raises(errors.SlowDown, match="of yours"):
            tries(points, code, person=MINE)
    assert points.exported() == before
    assert tries(points, CODE, person=THEIRS) == {"id": ID, "attempts_left": 10}
    assert tries(points, CODE, network=MINE)["id"] == ID  # a level of its own, whatever the digest
    points.now += ATTEMPT_WINDOW_MS
    assert tries(points, CODE, person=MINE) == {"id": ID, "attempts_left": 10}


def test_wrong_codes_of_many_networks_stop_what_they_are_part_of(points: Points) -> None:
    points.start(ttl_ms=MAX_TTL_MS)
    for n in range(50):
        tries(points, WRONG, network=f"{n:064x}", site=MINE, region=MINE, all=MINE)
    with pytest.raises(errors.SlowDown, match="around your network"):
        tries(points, CODE, network="e" * 64, site=MINE, region=MINE, all=MINE)
    assert tries(points, CODE, network="e" * 64, site=THEIRS, region=MINE, all=MINE)["id"] == ID
    assert tries(points, CODE, person=THEIRS)["id"] == ID


def test_full_table_of_wrong_codes_forgets_the_oldest_and_refuses_nobody() -> None:
    points = Points(RendezvousLimits(counted=3))
    for n in range(9):
        for _ in range(10):
            tries(points, WRONG, person=f"{n:064x}")
        points.now += 1
    exported = json.loads(points.exported())["tries"]["person"]
    assert [who for who, _, _ in exported] == [f"{n:064x}" for n in (6, 7, 8)]
    assert tries(points, WRONG, person=f"{0:064x}")["attempts_left"] == 9


def test_try_of_a_named_record_counts_against_the_record(points: Points) -> None:
    points.start()
    wrong = {"id": ID, "user_code_sha256": WRONG, "counted": [["person", MINE]]}
    for left in reversed(range(MAX_ATTEMPTS)):
        assert points.do("try_code", **wrong) == {"id": None, "attempts_left": left}
    assert points.state() == "cancelled"
    assert "tries" not in json.loads(points.exported())


def test_start_beyond_10000_live_records_is_overloaded_until_one_ends(points: Points) -> None:
    for n in range(MAX_LIVE):
        points.start(f"{n:032x}", f"{n:064x}")
    with pytest.raises(errors.Overloaded):
        points.start("e" * 32, "e" * 64)
    points.step("cancel", f"{0:032x}")
    points.start("e" * 32, "e" * 64)
    points.now += TTL
    points.start("d" * 32, "d" * 64)
    assert [r.id for r in points.machine.records(points.now) if r.state == "pending"] == ["d" * 32]


def test_tombstones_beyond_10000_are_forgotten_the_oldest_first(points: Points) -> None:
    for n in range(MAX_TOMBSTONES + 2):
        points.now += 1
        points.start(f"{n:032x}", f"{n:064x}", ttl_ms=MAX_TTL_MS)
        points.step("cancel", f"{n:032x}")
    ids = [record.id for record in points.machine.records(points.now)]
    assert ids == [f"{n:032x}" for n in range(2, MAX_TOMBSTONES + 2)]


def test_timers_that_were_overtaken_do_not_pile_up_until_they_are_due() -> None:
    points = Points(RendezvousLimits(tombstones=10))
    for n in range(200):
        points.start(f"{n:032x}", f"{n:064x}", ttl_ms=MAX_TTL_MS)
        points.step("cancel", f"{n:032x}")
        assert len(points.machine._timers) <= 2 * 11 + 64
    assert len(points.machine.records(points.now)) == 10


def test_restored_tombstones_are_forgotten_the_oldest_first(points: Points) -> None:
    for n in range(20):
        points.start(f"{n:032x}", f"{n:064x}")
    for n in (3, 1, 2, *range(4, 20), 0):
        points.now += 1
        points.step("cancel", f"{n:032x}")
    restored = RendezvousMachine()
    restored.prepare_restore(json.loads(points.exported()))()
    points.machine = restored
    points.now += TOMBSTONE_MS - 1
    with pytest.raises(errors.NotFound):
        points.step("claim")
    assert restored.export_state()["records"].keys() == {f"{0:032x}"}


def test_data_beyond_the_total_is_overloaded_until_some_is_forgotten() -> None:
    points = Points(RendezvousLimits(total_bytes=1 << 20))
    big = {f"k{n}": "x" * 1000 for n in range(8)}
    each = len(canonical_json(big))
    assert each <= MAX_DATA_BYTES
    count = (1 << 20) // each
    for n in range(count):
        points.start(f"{n:032x}", f"{n:064x}", data=big)
    with pytest.raises(errors.Overloaded, match="hold 1 MiB already"):
        points.start("e" * 32, "e" * 64, data=big)
    points.start("e" * 32, "e" * 64, data={})
    with pytest.raises(errors.Overloaded, match="hold 1 MiB already"):
        points.step("approve", "e" * 32, answer=big)
    assert points.state("e" * 32) == "pending"
    points.step("deny", f"{0:032x}")
    points.step("approve", "e" * 32, answer=big)
    restored = RendezvousMachine()
    restored.prepare_restore(json.loads(points.exported()))()
    assert restored._bytes == points.machine._bytes == count * each


def test_on_change_names_the_records_that_changed_expired_ones_too(points: Points) -> None:
    seen: list[tuple[str, int]] = []

    def observe(id: str, index: int) -> None:
        seen.append((id, index))
        raise RuntimeError

    points.machine.on_change = observe
    points.start()
    points.attempt()
    points.attempt(WRONG, id=ID)
    points.now += TTL
    points.start(OTHER, OTHER_CODE)
    assert seen == [(ID, 1), (ID, 3), (ID, 4), (OTHER, 4)]


def test_repr_of_a_record_hides_id_hashes_and_data(points: Points) -> None:
    points.into("consumed")
    shown = repr(points.machine.get(ID, points.now))
    for secret in (ID, CODE, MINE, "ops", "deploy"):
        assert secret not in shown


def test_malformed_command_does_not_say_that_time_has_passed(points: Points) -> None:
    points.start(OTHER, OTHER_CODE)
    points.now += TTL
    before = points.exported()
    with pytest.raises(Malformed):
        points.start(kind="Kind")
    assert points.exported() == before


def test_restore_gives_back_every_kind_of_record(points: Points) -> None:
    for n, state in enumerate(ALL_STATES):
        other = Points()
        other.into(state)
        record = other.machine.export_state()["records"][ID]
        code = f"{n:064x}" if state in (*LIVE_STATES, "expired") else None
        restored = {"records": {f"{n:032x}": {**record, "user_code_sha256": code}}, "misses": {}}
        machine = RendezvousMachine()
        machine.prepare_restore(json.loads(canonical_json(restored)))()
        assert machine.export_state() == restored
        shown = machine.get(f"{n:032x}", other.now)
        assert shown is not None
        assert shown.state == state


def test_answer_is_in_no_snapshot_five_minutes_after_it_was_redeemed() -> None:
    cluster, points = ClusterState(), Points()
    points.machine = cluster.rendezvous

    def do(operation: str, **arguments: Any) -> dict[str, Any]:
        points.index += 1
        command = encode_command(
            "rendezvous",
            operation,
            arguments,
            request_id=f"r{points.index}",
            automatic=False,
            time_unix_ms=points.now,
        )
        return decode_result(cluster.apply(points.index, command))

    points.do = do  # type: ignore[method-assign]  # the same steps, as the commands that Raft applies
    points.into("consumed")
    assert cluster.rendezvous.answer(ID, MINE, points.now) == ({"group": "ops"}, None)
    assert b"ops" in b"".join(cluster.begin_snapshot()())
    points.now += REDELIVERY_MS
    points.start(OTHER, OTHER_CODE, data={})
    assert b"ops" not in b"".join(cluster.begin_snapshot()())
    restored = ClusterState()
    restored.restore(b"".join(cluster.begin_snapshot()()))
    assert restored.rendezvous.records(points.now) == cluster.rendezvous.records(points.now)


def test_records_that_expire_at_once_are_ended_a_bounded_number_with_each_command() -> None:
    points = Points()
    start = {
        "kind": "mfa",
        "data": {},
        "initiator_public_key": None,
        "ttl_ms": TTL,
        "node": "n1",
        "initiator": "cli:x",
        "origin": "::1",
    }
    count = 3 * EXPIRED_AT_ONCE + 50
    for number in range(count):
        points.do("start", id=f"{number:032x}", user_code_sha256=f"{number:064x}", **start)
    changed: list[str] = []
    points.machine.on_change = lambda id, index: changed.append(id)
    points.now += TTL
    last = f"{count - 1:032x}"
    with pytest.raises(errors.Expired):  # the one that it is about is as it must be by now
        points.do("approve", id=last, by="ann", expected=None, answer={}, sealed_result=None)
    assert len(changed) == EXPIRED_AT_ONCE + 1
    assert {record.state for record in points.machine.records(points.now)} == {"expired"}
    points.do("start", id="f" * 32, user_code_sha256=f"{count - 2:064x}", **start)  # its code is free again
    for _ in range(2):
        with pytest.raises(errors.NotFound):
            points.do("cancel", id="e" * 32, expected=None)
    assert sorted(set(changed) - {"f" * 32}) == [f"{number:032x}" for number in range(count)]
    again = RendezvousMachine()
    again.prepare_restore(parse_canonical_json(canonical_json(points.machine.export_state())))()
    assert again.export_state() == points.machine.export_state()
