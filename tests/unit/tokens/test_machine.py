"""The sessions machine, through the bytes that Raft applies."""

from __future__ import annotations

import base64
import itertools
import json
import random
from typing import Any

import pytest

from cyoloctl import errors
from cyoloctl.model import Stamp
from cyoloctl.replicated.command import encode_command as new_command
from cyoloctl.state import ClusterState, StateLimits
from cyoloctl.tokens import machine as sessions
from cyoloctl.tokens.machine import (
    ENDED_KEPT_MS,
    MAX_AHEAD_MS,
    MAX_GENERATION,
    Revocation,
    SessionMachine,
)
from tests.support.old_commands import encode_command
from tests.support.results import decode_result
from tests.support.states import as_before_tables, exported, prepared

SID, OTHER = "A" * 22, "B" * 21 + "A"
NOW = 1_800_000_000_000


class Sessions:
    """A cluster state with a new request id for every command; ``now`` is the proposers' time."""

    def __init__(self, limits: StateLimits = StateLimits()) -> None:  # noqa: B008 - it is frozen
        self.cluster = ClusterState(limits=limits)
        self.machine = self.cluster.sessions
        self.index = 0
        self.now = NOW

    def do(self, operation: str, **arguments: Any) -> dict[str, Any]:
        self.index += 1
        command = encode_command(
            "sessions",
            operation,
            arguments,
            request_id=f"r{self.index}",
            automatic=True,
            time_unix_ms=self.now,
        )
        return decode_result(self.cluster.apply(self.index, command))

    def minimum(self, gen: int, sid: str = SID, *, ttl_ms: int = 1000) -> dict[str, Any]:
        """Take what is older than a generation out of use, by an update of the one before it."""
        return self.do(
            "advance", sid=sid, gen=gen - 1, sub="eve", iat_unix_s=99, until_unix_ms=self.now + ttl_ms
        )

    def revoke_sid(self, sid: str = SID, *, ttl_ms: int = 1000) -> dict[str, Any]:
        return self.do("revoke_sid", sid=sid, until_unix_ms=self.now + ttl_ms)

    def revoke_sub(self, before: int = 50, sub: str = "ann", *, ttl_ms: int = 1000) -> dict[str, Any]:
        return self.do("revoke_sub", sub=sub, issued_before_unix_s=before, until_unix_ms=self.now + ttl_ms)


@pytest.fixture
def s() -> Sessions:
    return Sessions()


def test_revocation_without_times_is_from_now_until_the_last_token_of_any_key_ends(s: Sessions) -> None:
    answer = s.do("revoke_sub", sub="ann", issued_before_unix_s=None, until_unix_ms=None)
    # Seven days are the default of `keep_s`; 5 s and 2 minutes are for clocks.
    assert answer == {
        "issued_before_unix_s": NOW // 1000 + 5,
        "until_unix_ms": NOW + (7 * 86_400 + 120) * 1000,
    }
    assert s.machine.refuses(SID, 1, "ann", NOW // 1000 + 5) == "revoked"
    assert s.machine.refuses(SID, 1, "ann", NOW // 1000 + 6) is None
    assert s.do("revoke_sid", sid=SID, until_unix_ms=None)["until_unix_ms"] == answer["until_unix_ms"]
    with pytest.raises(errors.InvalidInput):
        s.do("advance", sid=SID, gen=1, sub="ann", iat_unix_s=NOW // 1000 + 9, until_unix_ms=None)


def test_revocation_without_times_repeated_later_is_the_same_command(s: Sessions) -> None:
    arguments = {"sub": "ann", "issued_before_unix_s": None, "until_unix_ms": None}
    results = [
        s.cluster.apply(
            index,
            encode_command(
                "sessions", "revoke_sub", arguments, request_id="once", automatic=False,
                time_unix_ms=NOW + 60_000 * index,
            ),
        )
        for index in (1, 2)
    ]  # fmt: skip
    assert results[0] == results[1]


def test_refuses_of_a_session_that_nobody_touched_is_none(s: Sessions) -> None:
    s.minimum(5, OTHER)
    s.revoke_sub(50, "bob")
    assert s.machine.refuses(SID, 1, "ann", 0) is None


@pytest.mark.parametrize(("gen", "reason"), [(1, "superseded"), (2, "superseded"), (3, None), (4, None)])
def test_refuses_below_the_minimum_generation_is_superseded(s: Sessions, gen: int, reason: str) -> None:
    assert s.minimum(3) == {"minimum_gen": 3, "until_unix_ms": NOW + 1000}
    assert s.machine.refuses(SID, gen, "ann", 99) == reason


def test_minimum_never_falls_and_neither_does_its_end(s: Sessions) -> None:
    s.minimum(5, ttl_ms=2000)
    with pytest.raises(errors.TokenRejected):
        s.minimum(3, ttl_ms=9000)
    assert s.minimum(7, ttl_ms=1000) == {"minimum_gen": 7, "until_unix_ms": NOW + 2000}
    assert s.minimum(8, ttl_ms=9000) == {"minimum_gen": 8, "until_unix_ms": NOW + 9000}


def test_revoke_sid_refuses_every_generation_and_a_later_minimum_does_not_undo_it(s: Sessions) -> None:
    assert s.revoke_sid() == {"minimum_gen": None, "until_unix_ms": NOW + 1000}
    with pytest.raises(errors.TokenRejected):
        s.minimum(3)
    assert s.machine.refuses(SID, MAX_GENERATION, "ann", 99) == "revoked"
    assert s.machine.refuses(OTHER, 1, "ann", 99) is None


@pytest.mark.parametrize(("iat", "reason"), [(0, "revoked"), (50, "revoked"), (51, None)])
def test_revoke_sub_refuses_what_was_issued_until_then(s: Sessions, iat: int, reason: str) -> None:
    assert s.revoke_sub(50) == {"issued_before_unix_s": 50, "until_unix_ms": NOW + 1000}
    assert s.revoke_sub(40) == {"issued_before_unix_s": 50, "until_unix_ms": NOW + 1000}
    assert s.machine.refuses(SID, 1, "ann", iat) == reason
    assert s.machine.refuses(SID, 1, "bob", iat) is None
    assert s.machine.earliest_iat_unix_s("ann") == 51
    assert s.machine.earliest_iat_unix_s("bob") == 0


def test_revoke_sub_of_the_future_is_invalid_input(s: Sessions) -> None:
    s.revoke_sub(NOW // 1000 + 60)
    with pytest.raises(errors.InvalidInput, match="future"):
        s.revoke_sub(NOW // 1000 + 61)


def test_update_in_the_last_generation_does_not_end_the_session(s: Sessions) -> None:
    assert s.minimum(MAX_GENERATION + 1)["minimum_gen"] == MAX_GENERATION
    assert s.machine.refuses(SID, MAX_GENERATION, "eve", 99) is None
    assert s.machine.refuses(SID, MAX_GENERATION - 1, "eve", 99) == "superseded"


def test_subject_revoked_in_a_future_that_never_was_is_revoked_until_now(s: Sessions) -> None:
    s.revoke_sub(NOW // 1000, "ann")
    s.revoke_sub(50, "bob")
    s.machine.set_back(NOW, NOW - 3_600_000)
    now_s = NOW // 1000 - 3600
    assert s.machine.refuses(SID, 1, "ann", now_s) == "revoked"
    assert s.machine.refuses(SID, 1, "ann", now_s + 60) is None
    assert s.machine.refuses(SID, 1, "bob", 50) == "revoked"
    assert s.machine.refuses(SID, 1, "bob", 51) is None


def test_until_of_more_than_400_days_is_invalid_input_and_changes_nothing(s: Sessions) -> None:
    s.revoke_sid(OTHER, ttl_ms=MAX_AHEAD_MS)
    before = exported(s.machine)
    for refused in (s.revoke_sid, s.revoke_sub, lambda **ttl: s.minimum(2, **ttl)):
        with pytest.raises(errors.InvalidInput, match="400 days"):
            refused(ttl_ms=MAX_AHEAD_MS + 1)
    assert exported(s.machine) == before


def test_entry_that_has_ended_is_made_and_kept_for_a_day_of_steady_time(s: Sessions) -> None:
    assert s.minimum(3, ttl_ms=0) == {"minimum_gen": 3, "until_unix_ms": NOW}
    s.revoke_sub(ttl_ms=-NOW)
    assert s.machine.list(None, 9, NOW) == []
    s.now += ENDED_KEPT_MS - 1
    s.revoke_sid(OTHER)
    s.revoke_sub(sub="bob")
    assert s.machine.refuses(SID, 2, "eve", 99) == "superseded"
    assert s.machine.refuses(SID, 9, "ann", 50) == "revoked"
    s.now += 1
    s.revoke_sid(OTHER)
    s.revoke_sub(sub="bob")
    assert s.machine.refuses(SID, 2, "ann", 50) is None


class Stamped:
    """A cluster state at a cluster time and a steady time of their own."""

    def __init__(self) -> None:
        self.cluster = ClusterState()
        self.machine = self.cluster.sessions
        self.index = 0
        self.now, self.steady = NOW, 5_000_000

    def do(self, machine: str, operation: str, **arguments: Any) -> dict[str, Any]:
        self.index += 1
        epoch = self.cluster.stamp().epoch
        self.cluster.advance(Stamp(epoch, self.now, self.steady))
        command = new_command(machine, operation, arguments, request_id=f"r{self.index}", caller="op")
        return decode_result(self.cluster.apply(self.index, command))

    def revoke(self, sid: str, ttl_ms: int | None = 10_000) -> None:
        until_ms = None if ttl_ms is None else self.now + ttl_ms
        self.do("sessions", "revoke_sid", sid=sid, until_unix_ms=until_ms)

    def revoke_sub(self, sub: str, ttl_ms: int = 10_000) -> None:
        until_ms = self.now + ttl_ms
        self.do("sessions", "revoke_sub", sub=sub, issued_before_unix_s=50, until_unix_ms=until_ms)

    def others(self) -> None:
        """Entries of both kinds, by which what may be forgotten is."""
        self.revoke(OTHER, 1)
        self.revoke_sub("bob", 1)

    def refused(self) -> list[str | None]:
        return [self.machine.refuses(SID, 9, "eve", 99), self.machine.refuses(OTHER[::-1], 9, "ann", 50)]

    def set_time(self, to_unix_ms: int) -> None:
        epoch = self.cluster.stamp().epoch
        self.do("clock", "set", to_unix_ms=to_unix_ms, epoch=epoch, by="op")
        self.now = to_unix_ms


@pytest.fixture
def stamped() -> Stamped:
    return Stamped()


def test_revocation_that_a_wrong_time_passed_still_refuses_when_the_time_is_set_back(
    stamped: Stamped,
) -> None:
    stamped.revoke(SID)
    stamped.revoke_sub("ann")
    stamped.now, stamped.steady = NOW + 10**9, stamped.steady + 9_000
    stamped.others()
    assert [one.value for one in stamped.machine.list(None, 9, stamped.now)] == [OTHER, "bob"]
    assert [one.value for one in stamped.machine.list(None, 1, stamped.now)] == [OTHER]
    stamped.set_time(NOW + 9_000)
    assert stamped.refused() == ["revoked", "revoked"]
    stamped.now, stamped.steady = NOW + 10_000, stamped.steady + 1_000
    stamped.others()
    assert stamped.refused() == [None, None]


def test_revocation_outlasts_steady_time_until_cluster_time_has_passed_its_end(stamped: Stamped) -> None:
    stamped.revoke(SID)
    stamped.revoke_sub("ann")
    stamped.steady += 10**9
    stamped.others()
    stamped.now = NOW + 9_999
    stamped.others()
    assert stamped.refused() == ["revoked", "revoked"]
    stamped.now += 1
    stamped.others()
    assert stamped.refused() == [None, None]


def test_revocation_that_is_repeated_after_the_time_was_set_back_lasts_from_then(stamped: Stamped) -> None:
    stamped.revoke(SID)
    stamped.set_time(NOW - 5_000)
    stamped.steady += 4_000
    stamped.revoke(SID, 15_000)  # the same end, which is further away by now
    stamped.now, stamped.steady = NOW + 10**9, stamped.steady + 14_999
    stamped.others()
    assert stamped.refused()[0] == "revoked"
    stamped.steady += 1
    stamped.others()
    assert stamped.refused()[0] is None


def test_entry_that_is_raised_while_only_its_end_is_awaited_outlives_it(stamped: Stamped) -> None:
    stamped.revoke(SID)
    stamped.steady += 10_000
    stamped.others()
    stamped.revoke(SID, 20_000)
    stamped.now += 10_000
    stamped.others()
    assert stamped.refused()[0] == "revoked"
    stamped.steady += 20_000
    stamped.others()
    assert stamped.refused()[0] == "revoked"
    stamped.now += 10_000
    stamped.others()
    assert stamped.refused()[0] is None


def test_what_is_revoked_again_with_an_earlier_end_keeps_what_it_had_to_live(stamped: Stamped) -> None:
    stamped.revoke(SID)
    stamped.revoke(SID, 1_000)
    stamped.now, stamped.steady = NOW + 10**9, stamped.steady + 9_999
    stamped.others()
    assert stamped.refused()[0] == "revoked"


def test_restore_keeps_what_is_left_of_a_life_and_forgets_the_same(stamped: Stamped) -> None:
    stamped.revoke(SID)
    stamped.revoke_sub("ann")
    stamped.now = NOW + 10**9
    stamped.others()
    other = Stamped()
    other.cluster.restore(b"".join(stamped.cluster.begin_snapshot()()))
    other.index = stamped.index
    for each in (stamped, other):
        each.now, each.steady = NOW + 10**9, each.steady + 9_999
        each.others()
        assert each.refused() == ["revoked", "revoked"]
        each.steady += 1
        each.others()
        assert each.refused() == [None, None]
    assert stamped.cluster.digest() == other.cluster.digest()


def test_subject_keeps_what_is_left_of_its_life_when_the_time_is_set_back(stamped: Stamped) -> None:
    stamped.revoke_sub("ann")
    stamped.set_time(NOW - 1)
    stamped.now, stamped.steady = NOW + 10**9, stamped.steady + 9_999
    stamped.others()
    assert stamped.refused()[1] == "revoked"


def test_snapshot_without_steady_ends_is_read_and_cluster_time_alone_decides(stamped: Stamped) -> None:
    stamped.revoke(SID)
    stamped.revoke_sub("ann")
    state = as_before_tables(stamped.machine)
    assert state["sids"].pop("steady_ends") == [5_010_000]
    assert state["subs"].pop("steady_ends") == [5_010_000]
    stamped.machine.prepare_restore(*stamped.machine.split_whole(state))()
    assert as_before_tables(stamped.machine)["sids"]["steady_ends"] == [0]
    stamped.now = NOW + 9_999
    stamped.others()
    assert stamped.refused() == ["revoked", "revoked"]
    stamped.now += 1
    stamped.others()
    assert stamped.refused() == [None, None]


def columns(**changed: Any) -> dict[str, Any]:
    """Sessions of before there were tables, one row."""
    whole = {"keys": [SID], "levels": [2], "untils": [NOW], "steady_ends": [0]}
    return {"sids": whole | changed, "subs": {name: [] for name in whole}}


@pytest.mark.parametrize("name", ["keys", "levels", "untils", "steady_ends"])
@pytest.mark.parametrize("values", [[], [1, 1]])
def test_snapshot_with_columns_of_unequal_length_is_refused(name: str, values: list[int]) -> None:
    machine = SessionMachine()
    machine.prepare_restore(*machine.split_whole(columns()))()
    assert len(machine) == 1
    if name == "keys" and values:
        values = [OTHER, SID]  # type: ignore[list-item]  # which is what that column holds
    with pytest.raises(ValueError, match=r"shorter|longer"):
        machine.prepare_restore(*machine.split_whole(columns(**{name: values})))


@pytest.mark.parametrize("name", ["keys", "levels", "untils", "steady_ends"])
@pytest.mark.parametrize("values", [None, "A", {SID: 1}, 5])
def test_snapshot_with_columns_that_are_no_lists_is_refused(name: str, values: Any) -> None:
    with pytest.raises(ValueError, match="revocations are not lists"):
        SessionMachine().split_whole(columns(**{name: values}))


def test_many_that_end_at_once_are_forgotten_alike_where_a_snapshot_was_restored(
    stamped: Stamped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_FORGOTTEN_AT_ONCE", 3)
    chance = random.Random(7)
    sids = [base64.urlsafe_b64encode(bytes([n] * 16)).decode().rstrip("=") for n in range(40)]
    digests = []
    for _ in range(200):
        stamped.now += chance.choice((0, 1, 1_000))
        stamped.steady += chance.choice((0, 1, 700))
        if chance.random() < 0.05:
            stamped.set_time(stamped.now - 3_000)
        other = Stamped()
        other.cluster.restore(b"".join(stamped.cluster.begin_snapshot()()))
        other.index, other.now, other.steady = stamped.index, stamped.now, stamped.steady
        sid, ttl_ms = chance.choice(sids), chance.choice((-1, 500, 4_000))
        for each in (stamped, other):
            each.revoke(sid, ttl_ms)
        assert stamped.cluster.digest() == other.cluster.digest()
        digests.append(len(stamped.machine))
    assert any(more > less for more, less in itertools.pairwise(digests))


def test_expired_entries_leave_with_the_next_one_of_their_kind(s: Sessions) -> None:
    s.minimum(3)
    s.revoke_sub()
    s.now += 1000
    s.revoke_sid(OTHER)
    assert s.machine.refuses(SID, 1, "bob", 99) is None
    assert [entry.value for entry in s.machine.list(None, 9)] == [OTHER, "ann"]
    s.revoke_sub(51, "bob")
    assert [entry.value for entry in s.machine.list(None, 9)] == [OTHER, "bob"]


def test_expired_entries_leave_a_bounded_number_at_a_time(
    s: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No command takes long, however many ended at once."""
    monkeypatch.setattr(sessions, "_FORGOTTEN_AT_ONCE", 3)
    for number in range(10):
        s.revoke_sub(sub=f"s{number}")
    s.now += 1000
    for left in (7, 4, 1, 0, 0):
        s.revoke_sub(sub="last")
        assert len(s.machine) == left + 1


def test_entry_whose_end_was_raised_outlives_its_first_end(s: Sessions) -> None:
    s.minimum(3, ttl_ms=1000)
    s.minimum(4, ttl_ms=5000)
    s.now += 2000
    s.minimum(2, OTHER)
    assert s.machine.refuses(SID, 2, "ann", 0) == "superseded"
    s.now += 3000
    s.minimum(3, OTHER)
    assert s.machine.refuses(SID, 2, "ann", 0) is None


def test_expiry_is_by_replicated_time_not_the_proposers(s: Sessions) -> None:
    s.minimum(3, ttl_ms=1000)
    s.now += 5000
    s.minimum(2, OTHER)
    assert s.machine.refuses(SID, 1, "ann", 0) is None
    s.now = NOW  # a slow clock proposes
    assert s.minimum(9)["until_unix_ms"] == NOW + 1000
    assert [entry.value for entry in s.machine.list(None, 9, NOW + 5000)] == [OTHER]


def test_one_entry_raised_many_times_does_not_grow_the_table_of_ends(s: Sessions) -> None:
    for n in range(1000):
        s.minimum(2 + n, ttl_ms=1000 + n)
    assert len(s.machine._sids._steady_ends) < 100
    s.now += 2000
    s.minimum(2, OTHER)
    assert len(s.machine) == 1


def test_list_pages_by_kind_then_value(s: Sessions) -> None:
    s.revoke_sub(50, "zoë")
    s.revoke_sub(51, "ann")
    s.minimum(4)
    s.revoke_sid(OTHER)
    everything = s.machine.list(None, 9)
    assert everything == [
        Revocation("sid", SID, 4, None, NOW + 1000),
        Revocation("sid", OTHER, None, None, NOW + 1000),
        Revocation("sub", "ann", None, 51, NOW + 1000),
        Revocation("sub", "zoë", None, 50, NOW + 1000),
    ]
    paged: list[Revocation] = []
    while len(paged) < 9 and (
        page := s.machine.list((paged[-1].kind, paged[-1].value) if paged else None, 1)
    ):
        paged += page
    assert paged == everything
    assert s.machine.list(None, 0) == []
    assert everything[0].to_json() == {
        "kind": "sid",
        "value": SID,
        "minimum_gen": 4,
        "issued_before_unix_s": None,
        "until_unix_ms": NOW + 1000,
    }


def test_list_after_a_session_has_every_subject_whatever_it_is_called(s: Sessions) -> None:
    s.revoke_sid(OTHER)
    for sub in ("0", "ann"):
        s.revoke_sub(sub=sub)
    assert "0" < OTHER < "ann"
    for after in (None, ("sid", OTHER)):
        assert [entry.value for entry in s.machine.list(after, 9)][-2:] == ["0", "ann"]


@pytest.mark.parametrize("sub", ["a", "é" * 128, "a" * 256, " ", "\u0085", "\u202e", "e\u0301", "😀" * 64])
def test_subject_of_any_text_without_control_characters_is_taken(s: Sessions, sub: str) -> None:
    s.revoke_sub(sub=sub)
    assert s.machine.refuses(SID, 1, sub, 50) == "revoked"
    other = ClusterState()
    other.restore(b"".join(s.cluster.begin_snapshot()()))
    assert other.sessions.refuses(SID, 1, sub, 50) == "revoked"


def test_export_is_the_same_for_the_same_state_whatever_the_order() -> None:
    steps = [(sid, ttl_ms) for sid in (SID, OTHER) for ttl_ms in (100, 500, 300)]
    exports = set()
    for seed in range(20):
        random.Random(seed).shuffle(steps)
        s = Sessions()
        for sid, ttl_ms in steps:
            s.revoke_sid(sid, ttl_ms=ttl_ms)
            s.revoke_sub(ttl_ms // 100, sid, ttl_ms=ttl_ms)
        exports.add(json.dumps(exported(s.machine), sort_keys=True))
    assert len(exports) == 1


def test_restore_keeps_what_refuses_and_when_it_ends(s: Sessions) -> None:
    s.minimum(3, ttl_ms=1000)
    s.revoke_sid(OTHER, ttl_ms=9000)
    s.revoke_sub(ttl_ms=1000)
    other = Sessions()
    other.index = 10
    other.cluster.restore(b"".join(s.cluster.begin_snapshot()()))
    assert other.machine.list(None, 9) == s.machine.list(None, 9)
    assert b"".join(other.cluster.begin_snapshot()()) == b"".join(s.cluster.begin_snapshot()())
    other.now += 1000
    other.revoke_sid(OTHER, ttl_ms=9000)
    other.revoke_sub(1, "bob")
    assert [entry.value for entry in other.machine.list(None, 9)] == [OTHER, "bob"]


def test_there_is_room_for_any_number_of_sessions_and_subjects() -> None:
    numbers = range(120_000)
    sids = sorted(base64.urlsafe_b64encode(n.to_bytes(16, "big")).decode().rstrip("=") for n in numbers)
    subs = sorted(f"user{n}" for n in numbers)
    state = {
        "state": {},
        "tables": {
            "sids": [[sid, 2, NOW + n, 0] for n, sid in enumerate(sids)],
            "subs": [[sub, 5, NOW + n, 0] for n, sub in enumerate(subs)],
        },
    }
    machine = SessionMachine()
    prepared(machine, state)()
    assert len(machine) == 240_000
    assert exported(machine) == state
    later = {"sub": "ann", "issued_before_unix_s": 5, "until_unix_ms": NOW + 10**9}
    machine.apply("revoke_sub", later, 1, NOW - 1)
    assert len(machine) == 240_001
    machine.apply("revoke_sub", {**later, "sub": "bob"}, 1, NOW + 10**6)
    assert len(machine) == 240_002 - 1000  # so many at once, and no command takes long
    for number in range(120):
        machine.apply("revoke_sub", {**later, "sub": f"later{number}"}, 1, NOW + 10**6)
    assert len(machine) == 120_000 + 2 + 120
