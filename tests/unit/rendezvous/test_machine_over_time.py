"""What time makes of records and counts; and that a restored machine goes on as the one it was taken from."""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl import errors
from cyoloctl.rendezvous import machine as module
from cyoloctl.rendezvous import records
from cyoloctl.rendezvous.machine import RendezvousMachine
from cyoloctl.rendezvous.records import ATTEMPT_WINDOW_MS, REDELIVERY_MS, TOMBSTONE_MS, RendezvousLimits
from cyoloctl.replicated.command import Refused
from cyoloctl.text import canonical_json, parse_canonical_json

PENDING, REDEEMED, CANCELLED, GUARDED = ("1" * 32, "2" * 32, "3" * 32, "4" * 32)
MINE, THEIRS, WRONG = "c" * 64, "d" * 64, "f" * 64
MINUTE_MS = 60_000


def code_of(id: str) -> str:
    return 2 * id


class Twins:
    """Machines that get the same commands at the same times, and have to agree on all that comes of them."""

    def __init__(self, limits: RendezvousLimits = RendezvousLimits()) -> None:  # noqa: B008 - it is frozen
        self.machines = [RendezvousMachine(limits)]
        self.index = 0
        self.now = 1_000_000

    def restore(self) -> None:
        twin = RendezvousMachine()
        twin.prepare_restore(parse_canonical_json(canonical_json(self.machines[0].export_state())))()
        self.machines.append(twin)

    def do(self, operation: str, **arguments: Any) -> Any:
        """The answer, or the error that refuses."""
        self.index += 1
        outcomes = []
        for machine in self.machines:
            given = parse_canonical_json(canonical_json(arguments))
            try:
                outcomes.append(machine.apply(operation, given, self.index, self.now))
            except Refused as refused:
                outcomes.append(refused.error)
        for outcome, machine in zip(outcomes, self.machines, strict=True):
            assert type(outcome) is type(outcomes[0])
            assert str(outcome) == str(outcomes[0])
            assert machine.export_state() == self.machines[0].export_state()
        return outcomes[0]

    def begin(self, id: str, *, code: str | None = None, ttl_ms: int = 60 * MINUTE_MS, **other: Any) -> Any:
        fields: dict[str, Any] = {
            "kind": "approval",
            "node": "n1",
            "initiator": "alice",
            "origin": None,
            "data": {"reason": "deploy"},
            "initiator_public_key": None,
            "begun_by": [],
        }
        code = code_of(id) if code is None else code
        return self.do("begin", id=id, user_code_sha256=code, ttl_ms=ttl_ms, **{**fields, **other})

    def claim(self, id: str, *, actors: tuple[str, ...] = (), **claims: Any) -> Any:
        return self.do("claim_as", id=id, expected=None, by="bob", actors=list(actors), claims=claims)

    def consume(self, id: str) -> Any:
        return self.do("consume", id=id, expected=None, redemption_sha256=MINE)

    def guess(self, code: str, who: str = MINE) -> Any:
        return self.do("try_code", id=None, user_code_sha256=code, counted=[["person", who]])

    def guess_as_of_old(self, code: str) -> Any:
        return self.do("attempt", id=None, user_code_sha256=code, caller_sha256=MINE)

    def let_time_pass(self) -> dict[str, Any]:
        """A command about none of the records; the records after it."""
        self.do("set_policy", kind="other", require={}, allow_self=False)
        found: dict[str, Any] = self.machines[-1].export_state()["records"]
        return found


@pytest.fixture
def twins() -> Twins:
    twins = Twins()
    twins.do("set_policy", kind="guarded", require={"role": "admin"}, allow_self=False)
    twins.begin(PENDING, ttl_ms=MINUTE_MS, begun_by=[MINE])
    for id in (REDEEMED, CANCELLED):
        twins.begin(id)
    twins.begin(GUARDED, kind="guarded")
    for _ in range(9):
        twins.guess(WRONG)
        twins.guess_as_of_old(WRONG)
    approval = {"by": "bob", "answer": {"group": "ops"}, "sealed_result": None, "actors": [], "claims": {}}
    twins.do("approve_as", id=REDEEMED, expected=None, **approval)
    twins.consume(REDEEMED)
    twins.now += 1
    twins.do("cancel", id=CANCELLED, expected=None)
    twins.restore()
    return twins


def test_codes_and_ids_of_before_are_known(twins: Twins) -> None:
    assert twins.guess(code_of(PENDING), THEIRS)["id"] == PENDING
    assert twins.guess(code_of(CANCELLED), THEIRS)["id"] is None
    assert isinstance(twins.begin("5" * 32, code=code_of(GUARDED)), errors.Conflict)
    assert isinstance(twins.begin(CANCELLED, code=WRONG), errors.AlreadyExists)
    for machine in twins.machines:
        assert sorted(record.id for record in machine.live(twins.now)) == [PENDING, GUARDED]


@pytest.mark.parametrize("guess", [Twins.guess, Twins.guess_as_of_old])
def test_guesses_of_before_are_counted_until_their_ten_minutes_are_over(twins: Twins, guess: Any) -> None:
    assert guess(twins, WRONG) == {"id": None, "attempts_left": 0}
    assert isinstance(guess(twins, code_of(GUARDED)), errors.SlowDown)
    twins.now += ATTEMPT_WINDOW_MS
    assert guess(twins, code_of(GUARDED))["id"] == GUARDED


def test_policies_and_beginners_of_before_are_known(twins: Twins) -> None:
    assert isinstance(twins.claim(GUARDED), errors.ApprovalRefused)
    assert isinstance(twins.claim(PENDING, actors=(MINE,)), errors.ApprovalRefused)
    assert twins.claim(GUARDED, role="admin") == {"id": GUARDED, "state": "claimed"}
    assert twins.claim(PENDING, actors=(THEIRS,)) == {"id": PENDING, "state": "claimed"}


def test_timers_of_before_end_records_answers_and_tombstones(twins: Twins) -> None:
    assert twins.consume(REDEEMED) == {"id": REDEEMED, "state": "consumed"}
    twins.now += MINUTE_MS - 2
    assert twins.let_time_pass()[PENDING]["state"] == "pending"
    twins.now += 1
    assert twins.let_time_pass()[PENDING]["state"] == "expired"
    twins.now += REDELIVERY_MS - MINUTE_MS
    assert twins.let_time_pass()[REDEEMED]["answer"] is None
    assert isinstance(twins.consume(REDEEMED), errors.Conflict)
    twins.now += TOMBSTONE_MS
    assert twins.let_time_pass().keys() == {GUARDED}
    twins.now += TOMBSTONE_MS
    assert twins.let_time_pass() == {}


def test_ten_minutes_begin_with_the_first_wrong_code() -> None:
    alone = Twins()
    for minutes, left in ((0, 9), (9, 8), (10, 9)):
        alone.now = 1_000_000 + minutes * MINUTE_MS
        assert alone.guess(WRONG) == {"id": None, "attempts_left": left}


def test_records_that_ended_early_hold_nothing_up_when_they_would_have_been_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "EXPIRED_AT_ONCE", 2)
    alone = Twins()
    for n in range(6):
        alone.begin(f"{n:032x}", ttl_ms=MINUTE_MS)
        alone.do("cancel", id=f"{n:032x}", expected=None)
    alone.begin(PENDING, ttl_ms=MINUTE_MS + 1)
    alone.now += MINUTE_MS + 1
    assert alone.let_time_pass()[PENDING]["state"] == "expired"


def test_bytes_of_an_answer_are_free_with_its_tombstone() -> None:
    alone = Twins(RendezvousLimits(tombstones=1))
    for id in (REDEEMED, CANCELLED):
        alone.begin(id)
    approval = {"by": "bob", "answer": {"group": "ops"}, "sealed_result": None, "actors": [], "claims": {}}
    alone.do("approve_as", id=REDEEMED, expected=None, **approval)
    alone.consume(REDEEMED)
    alone.do("cancel", id=CANCELLED, expected=None)
    assert alone.let_time_pass().keys() == {CANCELLED}
    assert alone.machines[0]._bytes == 0


def test_set_back_moves_only_what_began_in_the_future_and_counts_guesses_from_now() -> None:
    alone = Twins()
    machine, day_ms = alone.machines[0], 24 * 60 * MINUTE_MS
    alone.begin(PENDING)
    alone.now += day_ms
    alone.begin(GUARDED)
    alone.guess(WRONG)
    alone.guess_as_of_old(WRONG)
    machine.set_back(alone.now, alone.now - day_ms + 5)
    alone.now += 5 - day_ms
    found = machine.export_state()["records"]
    # The first had a day to run out in, and did: it is as it was.
    assert found[PENDING]["created_unix_ms"] == alone.now - 5
    assert found[GUARDED]["created_unix_ms"] == alone.now
    assert found[GUARDED]["expires_unix_ms"] == alone.now + 60 * MINUTE_MS
    alone.now += ATTEMPT_WINDOW_MS
    assert alone.guess(WRONG) == {"id": None, "attempts_left": 9}
    assert alone.guess_as_of_old(WRONG) == {"id": None, "attempts_left": 9}


def test_state_that_was_frozen_has_no_later_guess_in_it() -> None:
    alone = Twins()
    alone.guess(WRONG)
    alone.guess_as_of_old(WRONG)
    before, frozen = alone.machines[0].export_state(), alone.machines[0].freeze()
    alone.guess(WRONG)
    alone.guess(WRONG, THEIRS)
    alone.guess_as_of_old(WRONG)
    assert frozen() == before


def test_what_has_expired_is_not_shown_as_live_before_a_command_ends_it() -> None:
    alone = Twins()
    alone.begin(PENDING, ttl_ms=MINUTE_MS)
    machine = alone.machines[0]
    assert [record.id for record in machine.live(alone.now + MINUTE_MS - 1)] == [PENDING]
    assert machine.live(alone.now + MINUTE_MS) == []
    assert machine.find_code(code_of(PENDING), alone.now + MINUTE_MS - 1) == PENDING
    assert machine.find_code(code_of(PENDING), alone.now + MINUTE_MS) is None


def test_times_and_counts_are_as_they_were_released() -> None:
    """Two nodes with others would come to different states."""
    assert (records.REDELIVERY_MS, ATTEMPT_WINDOW_MS, TOMBSTONE_MS) == (300_000, 600_000, 86_400_000)
    assert (records.MAX_ATTEMPTS, records.EXPIRED_AT_ONCE, records.MAX_BEGUN_BY) == (5, 200, 4)
    assert RendezvousLimits() == RendezvousLimits(
        live=10_000,
        tombstones=10_000,
        total_bytes=32 * 2**20,
        policies=1_000,
        counted=10_000,
        callers=1_000,
    )
    assert (records.MIN_TTL_MS, records.MAX_TTL_MS) == (10_000, 86_400_000)
    assert {name: (level.limit, level.size) for name, level in records.LEVELS.items()} == {
        "person": (10, 10_000),
        "network": (10, 10_000),
        "site": (50, 10_000),
        "region": (500, 10_000),
        "all": (10_000, 1),
    }


def test_sealed_results_weigh_what_they_are_long() -> None:
    key = "A" * 43 + "="
    id = records.id_of_public_key(key)
    alone = Twins()
    alone.begin(id, initiator_public_key=key, data={})
    sealed = {"by": "bob", "answer": None, "sealed_result": "A" * 400, "actors": [], "claims": {}}
    assert alone.do("approve_as", id=id, expected=None, **sealed) == {"id": id, "state": "approved"}
    assert alone.machines[0]._bytes == 400
