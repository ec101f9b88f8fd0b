"""Exactly once, budgets for each caller, the leader's door, and the time of entries."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyoloctl.counters.machine import CounterMachine
from cyoloctl.errors import VersionMismatch
from cyoloctl.model import Stamp
from cyoloctl.replicated.clock import LATEST_UNIX_MS, MAX_HISTORY
from cyoloctl.replicated.command import MAX_COMMAND_BYTES, Malformed, decode_command, encode_command
from cyoloctl.replicated.requests import LIMITS, RequestTable, TableLimits
from cyoloctl.state import ClusterState, StateLimits
from tests.support.old_commands import encode_command as old_command

DAY = 86_400_000
NOW = 1_780_000_000_000


def add(request_id: str, *, kind: str = "client", caller: str = "", by: int = 1, name: str = "c") -> bytes:
    return encode_command(
        "counter", "add", {"name": name, "by": by}, request_id=request_id, kind=kind, caller=caller
    )


def code_of(result: bytes) -> str | None:
    error = json.loads(result).get("error")
    return None if error is None else str(error["code"])


def small(**bounds: int) -> ClusterState:
    """A cluster whose tables hold so many entries."""
    tight = {kind: TableLimits(soft=n, keep_ms=0, hard=n, expiry_ms=10 * DAY) for kind, n in bounds.items()}
    return ClusterState(limits=StateLimits(requests=replace(LIMITS, **tight)))


# --- once, however often it is logged


def test_command_that_is_logged_again_after_it_was_forgotten_is_never_applied_twice() -> None:
    cluster = small(client=3)
    job = add("job")
    assert code_of(cluster.apply(10, job, 9)) is None
    for index in range(11, 15):
        cluster.apply(index, add(f"newer-{index}"), index - 1)
    assert code_of(cluster.apply(15, job, 9)) == "outcome_unknown"
    assert cluster.counters.get("c") == 5


def test_command_that_the_machine_finds_malformed_forgets_nothing() -> None:
    cluster = ClusterState()
    cluster.apply(1, add("job"), 0)
    cluster.advance(Stamp(0, NOW, 10 * DAY))  # the id of job is due to be forgotten
    before = cluster.digest()
    assert code_of(cluster.apply(2, add("bad", by=2**63 - 1, name="no spaces"), 1)) == "invalid_input"
    assert cluster.digest() == before


def test_caller_that_asks_again_with_a_forgotten_id_is_served_again() -> None:
    cluster = small(client=1)
    cluster.apply(10, add("job"), 9)
    cluster.apply(11, add("newer"), 10)
    assert code_of(cluster.apply(12, add("job"), 11)) is None
    assert cluster.counters.get("c") == 3


@pytest.mark.parametrize("kind", ["client", "node", "browser"])
def test_fresh_command_at_the_horizon_is_applied(kind: str) -> None:
    cluster = small(**{kind: 1})
    cluster.apply(10, add("a", kind=kind), 9)
    cluster.apply(11, add("b", kind=kind), 9)  # forgets a: the horizon is 10
    assert code_of(cluster.apply(12, add("c", kind=kind), 9)) == "outcome_unknown"
    assert code_of(cluster.apply(12, add("c", kind=kind), 10)) is None


def test_refusal_that_is_logged_again_stays_a_refusal_and_costs_no_place() -> None:
    cluster = small(client=2, refused=2)
    cluster.apply(1, add("full", by=2**63 - 1), 0)
    refused = cluster.apply(2, add("job"), 1)
    assert code_of(refused) == "counter_overflow"
    cluster.apply(3, add("less", by=-5), 2)
    assert cluster.apply(4, add("job"), 1) == refused
    assert code_of(cluster.apply(5, add("full", by=2**63 - 1), 0)) is None  # remembered: two done, none lost
    for index in range(6, 9):
        cluster.apply(index, add(f"over-{index}", by=2**63 - 1), index - 1)
    assert code_of(cluster.apply(9, add("job"), 1)) == "outcome_unknown"


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12), st.booleans()), max_size=60))
def test_no_command_is_applied_twice_whatever_is_logged_again(steps: list[tuple[int, int, bool]]) -> None:
    cluster = small(client=3, refused=2)
    applied: dict[int, int] = {}
    after: dict[int, int] = {}
    for index, (number, _, restored) in enumerate(steps, start=1):
        # Sent first when this index was the highest known to be committed; sent again as it was.
        after.setdefault(number, index - 1)
        value = cluster.counters.get(f"c{number}") or 0
        cluster.apply(index, add(f"r{number}", name=f"c{number}"), after[number])
        applied[number] = applied.get(number, 0) + (cluster.counters.get(f"c{number}") or 0) - value
        assert applied[number] <= 1
        if restored:
            again = small(client=3, refused=2)
            again.restore(b"".join(cluster.begin_snapshot()()))
            assert b"".join(again.begin_snapshot()()) == b"".join(cluster.begin_snapshot()())
            cluster = again


def test_horizon_stays_where_it_was_when_something_older_is_forgotten_later() -> None:
    cluster = small(client=3)
    cluster.apply(1, add("early", caller="ann"), 0)
    cluster.apply(2, add("early-too", caller="ann"), 0)
    jobs = [add(f"job-{index}", caller="noisy") for index in range(3, 6)]
    for index, job in enumerate(jobs, start=3):
        cluster.apply(index, job, 2)  # the last one forgets the first one: noisy has the most
    cluster.apply(6, add("late", caller="ann"), 5)  # and this one forgets what came before that
    assert code_of(cluster.apply(7, jobs[0], 2)) == "outcome_unknown"
    assert cluster.counters.get("c") == 6


class Failing(CounterMachine):
    """Every command of it meets this error."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def apply(self, *_: Any) -> dict[str, Any]:
        raise self._error


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyError("x"), AssertionError(), StopIteration()])
def test_apply_when_a_machine_has_a_bug_is_answered_and_not_remembered(error: Exception) -> None:
    cluster = ClusterState()
    before = cluster.digest()
    cluster._machines["counter"] = Failing(error)
    assert code_of(cluster.apply(1, add("r"), 0)) == "internal"
    cluster._machines["counter"] = cluster.counters
    assert cluster.digest() == before
    assert code_of(cluster.apply(2, add("r"), 1)) is None


@pytest.mark.parametrize("error", [MemoryError(), RecursionError()])
def test_apply_when_the_interpreter_is_exhausted_stops_this_node_and_answers_nothing(
    error: BaseException,
) -> None:
    cluster = ClusterState()
    cluster._machines["counter"] = Failing(error)
    with pytest.raises(type(error)):
        cluster.apply(1, add("r"), 0)


@pytest.mark.parametrize(
    ("known", "other"),
    [
        (b',"client","ann"]', b',"robot","ann"]'),
        (b',"client","ann"]', b',"refused","ann"]'),
        (b',"client","ann"]', b',null,"ann"]'),
        (b',"client","ann"]', b",false,5]"),
        (b',"client","ann"]', b',"client",5]'),
        (b',"client","ann"]', b',"client","a b"]'),
        (b',"client","ann"]', b',"client","%b"]' % (b"a" * 81)),
        (b',"client","ann"]', b',"client","\\u00e9"]'),
        (b',"client","ann"]', b',"client"]'),
        (b',"client","ann"]', b',"client","ann",1]'),
        (b'"r"', b'"r r"'),
        (b'"r"', b'"%b"' % (b"r" * 129)),
        (b'"by":1', b'"by": 1'),
        (b'"by":1', b'"by":1,"by":1'),
    ],
)
def test_command_that_no_node_encodes_is_malformed_and_changes_nothing(known: bytes, other: bytes) -> None:
    cluster = ClusterState()
    good = add("r", caller="ann")
    assert known in good
    before = cluster.digest()
    assert code_of(cluster.apply(1, good.replace(known, other), 0)) == "invalid_input"
    assert cluster.digest() == before


def test_command_longer_than_any_that_is_encoded_is_malformed() -> None:
    longest = {"a": "x" * (MAX_COMMAND_BYTES - 100)}
    assert decode_command(encode_command("m", "o", longest, request_id="r")).arguments == longest
    with pytest.raises(Malformed, match="too long"):
        decode_command(encode_command("m", "o", longest, request_id="r").replace(b"xxx", b"x" * 103, 1))


# --- kinds and callers


def test_refusal_of_one_kind_is_no_answer_to_another_kind() -> None:
    cluster = ClusterState()
    cluster.apply(1, add("full", by=2**63 - 1), 0)
    assert code_of(cluster.apply(2, add("job", kind="browser"), 1)) == "counter_overflow"
    cluster.apply(3, add("less", by=-5), 2)
    for index, kind in enumerate(("client", "node"), start=4):
        assert code_of(cluster.apply(index, add("job", kind=kind), 3)) is None
    assert code_of(cluster.apply(6, add("job", kind="browser"), 3)) == "counter_overflow"


@pytest.mark.parametrize("flood", ["browser", "node"])
def test_ids_of_another_kind_push_no_clients_id_out_and_take_none(flood: str) -> None:
    cluster = small(client=2, node=2, browser=2)
    first = cluster.apply(1, add("job-17"), 0)
    for index in range(2, 30):
        cluster.apply(index, add(f"x{index}", kind=flood), index - 1)
    assert cluster.apply(40, add("job-17"), 39) == first
    assert code_of(cluster.apply(41, add("job-17", kind=flood, by=5), 40)) is None


def test_volume_of_one_caller_pushes_no_other_callers_ids_out() -> None:
    cluster = small(client=10)
    first = cluster.apply(1, add("weekly", caller="ann"), 0)
    for index in range(2, 2_000):
        cluster.apply(index, add(f"x{index}", caller="noisy"), index - 1)
    assert cluster.apply(3_000, add("weekly", caller="bob"), 2_999) == first  # by whomever it is asked again
    assert code_of(cluster.apply(3_001, add("x5", caller="noisy"), 3_000)) is None


def test_requests_of_a_snapshot_lose_the_same_entries_as_those_that_went_on() -> None:
    table = RequestTable(TableLimits(soft=6, keep_ms=0, hard=6, expiry_ms=DAY))
    for index in range(40):
        caller = "abc"[index % 7 % 3]
        table.remember(f"r{index}", b"8 bytes.", caller=caller, steady_ms=index, index=index, result=b"{}")
        twin, end = RequestTable.decode(table.encode(), 0, TableLimits(6, 0, 6, DAY), index)
        assert end == len(table.encode())
        assert twin.forget(index) == table.forget(index)
        assert twin.encode() == table.encode()
    assert len(table) == 6


class SlowTable:
    """What `RequestTable` promises, by looking at every entry each time."""

    def __init__(self, limits: TableLimits) -> None:
        self.limits = limits
        self.entries: list[tuple[str, str, int, int]] = []  # id, caller, steady time, index; the oldest first

    def forget(self, steady_ms: int, at_once: int) -> tuple[list[str], int]:
        """Ids that were forgotten, and the highest index among them."""
        gone = []
        limits = self.limits
        while self.entries and len(gone) < at_once:
            count, age = len(self.entries), steady_ms - self.entries[0][2]
            if age >= limits.expiry_ms or (limits.keep_ms and count > limits.soft and age >= limits.keep_ms):
                leaving = self.entries[0]
            elif count > limits.hard:
                volumes = Counter(entry[1] for entry in self.entries)
                most = max(volumes.values())
                leaving = next(entry for entry in self.entries if volumes[entry[1]] == most)
            else:
                break
            self.entries.remove(leaving)
            gone.append(leaving)
        return [entry[0] for entry in gone], max((entry[3] for entry in gone), default=-1)


@pytest.mark.parametrize("seed", range(6))
def test_table_of_requests_agrees_with_a_slow_one(seed: int) -> None:
    draw = Random(seed)
    limits = TableLimits(soft=8, keep_ms=draw.choice((0, 40)), hard=12, expiry_ms=200)
    table, slow = RequestTable(limits), SlowTable(limits)
    now_ms = 0
    for index in range(600):
        # Quiet times empty the table, and busy ones fill it; ids that were forgotten come back.
        now_ms += draw.choice((0, 0, 1, 5, 20)) if draw.random() < 0.99 else 300
        request_id = f"r{draw.randrange(40)}"
        if request_id not in table:
            caller = draw.choice("aaaabbbccd")
            table.remember(
                request_id, b"8 bytes.", caller=caller, steady_ms=now_ms, index=index, result=b"{}"
            )
            slow.entries.append((request_id, caller, now_ms, index))
        at_once = draw.choice((2, 200))
        ids, highest = slow.forget(now_ms, at_once)
        assert table.forget(now_ms, at_once=at_once).log_index == highest
        assert not any(gone in table for gone in ids)
        assert len(table) == len(slow.entries) <= 12
        if index % 50 == 0:
            encoded = table.encode()
            places = [encoded.index(bytes([len(one[0])]) + one[0].encode() + b"\0\0") for one in slow.entries]
            assert places == sorted(places)
            table, _ = RequestTable.decode(encoded, 0, limits, now_ms)
            assert table.encode() == encoded


def test_caller_that_filled_the_table_alone_is_known_to_have_the_most_when_another_comes() -> None:
    table = RequestTable(TableLimits(soft=4, keep_ms=0, hard=4, expiry_ms=100))

    def ask(request_id: str, caller: str, at_ms: int) -> None:
        table.remember(request_id, b"8 bytes.", caller=caller, steady_ms=at_ms, index=at_ms, result=b"{}")
        table.forget(at_ms)

    for number, caller in enumerate("bbcccb"):  # more than there is room for, so that callers are compared
        ask(f"{caller}{number}", caller, number)
    table.forget(200)
    assert len(table) == 0
    for number in range(4):
        ask(f"a{number}", "a", 200)
    ask("b9", "b", 201)
    assert "b9" in table
    assert "a0" not in table


def test_id_that_came_back_keeps_nothing_that_is_older_than_it() -> None:
    table = RequestTable(TableLimits(soft=3, keep_ms=0, hard=3, expiry_ms=100))
    for at_ms, (request_id, caller) in enumerate([("x", "ann"), ("y", "ann"), ("z", "bob"), ("w", "bob")]):
        table.remember(request_id, b"8 bytes.", caller=caller, steady_ms=at_ms, index=at_ms, result=b"{}")
    table.forget(4)
    assert "x" not in table
    table.remember("x", b"8 bytes.", caller="ann", steady_ms=50, index=50, result=b"{}")
    table.forget(102)
    assert [request_id for request_id in "xyzw" if request_id in table] == ["x", "w"]


@pytest.mark.parametrize(
    ("steady_ms", "index", "result"), [(1, 5, b"{}"), (5, 1, b"{}"), (8, 5, b"{}"), (5, 5, b"")]
)
def test_table_that_no_node_can_have_written_is_refused(steady_ms: int, index: int, result: bytes) -> None:
    table, limits = RequestTable(LIMITS.client), LIMITS.client
    table.remember("a", b"8 bytes.", caller="", steady_ms=2, index=2, result=b"{}")
    RequestTable.decode(table.encode(), 0, limits, 7)
    table.remember("b", b"8 bytes.", caller="", steady_ms=steady_ms, index=index, result=result)
    with pytest.raises(ValueError, match="request"):
        RequestTable.decode(table.encode(), 0, limits, 7)


def test_step_of_time_forgets_no_request_id() -> None:
    cluster = ClusterState()
    cluster.advance(Stamp(0, NOW, 1_000))
    first = cluster.apply(1, add("job"), 0)
    cluster.advance(Stamp(0, NOW + 400 * DAY, 2_000))
    cluster.apply(2, add("other"), 1)
    assert cluster.apply(3, add("job"), 2) == first
    cluster.advance(Stamp(0, NOW + 400 * DAY, 1_001 + DAY))
    cluster.apply(4, add("more"), 3)
    assert code_of(cluster.apply(5, add("job"), 4)) is None
    assert cluster.counters.get("c") == 4


def test_many_that_expire_at_once_are_forgotten_in_parts() -> None:
    cluster = ClusterState()
    cluster.advance(Stamp(0, NOW, 0))
    for index in range(1, 1_001):
        cluster.apply(index, add(f"r{index}"), index - 1)
    cluster.advance(Stamp(0, NOW + 2 * DAY, 2 * DAY))
    cluster.apply(1_001, add("late"), 1_000)
    assert len(cluster._tables["client"].requests) == 801
    assert code_of(cluster.apply(1_002, add("r1"), 0)) == "outcome_unknown"


# --- the leader's door


def refused(command: bytes, peer: str = "n2", role: str = "voter") -> str | None:
    answer = ClusterState().admit(command, peer, role)
    assert answer is None or ClusterState().refused_unlogged(answer)
    return None if answer is None else code_of(answer)


def command(machine: str, operation: str, **arguments: Any) -> bytes:
    return encode_command(machine, operation, arguments, request_id="r", kind="node")


def test_real_node_takes_from_a_peer_only_what_says_that_this_peer_took_it() -> None:
    def judged(origin: str, role: str = "voter", machine: str = "counter") -> str | None:
        arguments: dict[str, Any] = {"name": "c", "by": 1} if machine == "counter" else {"name": "c"}
        operation = "add" if machine == "counter" else "uninvite"
        data = encode_command(machine, operation, arguments, request_id="r", caller="ann", origin=origin)
        answer = ClusterState(strangers=False).admit(data, "n2", role)
        return None if answer is None else code_of(answer)

    for role in ("voter", "learner"):
        assert judged("operator - 10.0.0.7 n2", role) is None
        assert judged("operator - 10.0.0.7 n1", role) == "access_denied"
        assert judged("operator - 10.0.0.7 -", role) == "access_denied"
        assert judged("", role) == "access_denied"
    # A voter carries out what others were asked; and nobody's trust has no origin.
    assert judged("operator - 10.0.0.7 n1", machine="members") is None
    assert judged("", machine="members") == "access_denied"
    assert ClusterState().admit(add("r"), "n2", "voter") is None


def test_result_of_an_entry_is_never_taken_for_a_refusal_at_the_door() -> None:
    cluster = ClusterState()
    unknown = command("rendezvous", "cancel", id="0" * 32, expected=None)
    carried_out, refusal = cluster.apply(2, add("r"), 1), cluster.apply(3, unknown, 2)
    assert code_of(refusal) is not None
    assert not cluster.refused_unlogged(carried_out)
    assert not cluster.refused_unlogged(refusal)


@pytest.mark.parametrize("role", ["voter", "learner"])
def test_admit_writes_of_users_come_from_any_member(role: str) -> None:
    for one in (
        add("r"),
        command("sessions", "revoke_sid", sid="A" * 22, until_unix_ms=None),
        command("rendezvous", "cancel", id="0" * 32, expected=None),
    ):
        assert refused(one, role=role) is None


@pytest.mark.parametrize(
    ("machine", "operation"),
    [
        ("members", "issue_invitation"),
        ("members", "admit"),
        ("members", "grant"),
        ("members", "remove"),
        ("members", "set_host"),
        ("keys", "generate"),
        ("keys", "promote"),
        ("credentials", "create"),
        ("credentials", "revoke"),
        ("authorities", "begin"),
        ("clock", "set"),
    ],
)
def test_admit_what_changes_trust_comes_from_voters_only(machine: str, operation: str) -> None:
    assert refused(command(machine, operation, name="n2"), role="learner") == "access_denied"
    assert refused(command(machine, operation, name="n2")) is None


@pytest.mark.parametrize("role", ["voter", "learner"])
@pytest.mark.parametrize(("machine", "operation"), [("members", "announce"), ("keys", "confirm")])
def test_admit_a_node_announces_nobody_but_itself(machine: str, operation: str, role: str) -> None:
    assert refused(command(machine, operation, name="n2"), role=role) is None
    assert refused(command(machine, operation, name="n1"), role=role) == "access_denied"
    assert refused(command(machine, operation), role=role) == "access_denied"


def test_admit_what_would_stop_every_node_is_refused() -> None:
    for one in (
        command("members", "of_a_newer_release"),
        command("of_a_newer_release", "add"),
        b"\x03" + add("r")[1:],
        old_command(
            "counter", "add", {"name": "c", "by": 1}, request_id="r", automatic=True, time_unix_ms=2**53
        ),
        b"",
        b"\x02",
        b'\x02["counter"',
    ):
        assert refused(one) == "version_mismatch"


@pytest.mark.parametrize("one", [command("counter", "multiply"), command("of_a_newer_release", "add")])
def test_apply_what_this_release_does_not_know_stops_the_node(one: bytes) -> None:
    cluster = ClusterState()
    before = cluster.digest()
    with pytest.raises(VersionMismatch):
        cluster.apply(1, one, 0)
    assert cluster.digest() == before


@pytest.mark.parametrize("role", ["voter", "learner"])
@pytest.mark.parametrize(
    ("machine", "operation"),
    [
        (name, operation)
        for name, machine in ClusterState()._machines.items()
        for operation in sorted(machine.operations())
        if machine.proposer(operation) in ("nobody", "leader")
    ],
)
def test_admit_what_old_logs_or_the_leader_alone_hold_comes_from_nobody(
    machine: str, operation: str, role: str
) -> None:
    assert refused(command(machine, operation, name="n2"), role=role) == "access_denied"


# --- time


def test_time_is_that_of_the_entries_and_no_command_moves_it() -> None:
    cluster = ClusterState()
    cluster.advance(Stamp(0, NOW, 5))
    cluster.apply(1, add("r"), 0)
    assert cluster.stamp() == Stamp(0, NOW, 5)
    cluster.advance(Stamp(0, NOW - 50, 7))
    assert cluster.stamp() == Stamp(0, NOW, 7)
    cluster.advance(Stamp(9, NOW + DAY, 7))  # no entry can be of an epoch that has not begun
    assert cluster.stamp() == Stamp(0, NOW, 7)


def test_steady_time_never_goes_back_either() -> None:
    cluster = ClusterState()
    cluster.advance(Stamp(0, NOW, 5))
    cluster.advance(Stamp(0, NOW + 1, 3))
    assert cluster.stamp() == Stamp(0, NOW + 1, 5)


def test_only_the_first_and_the_last_settings_of_the_time_are_remembered() -> None:
    cluster, again = ClusterState(), ClusterState()
    for epoch in range(MAX_HISTORY + 5):
        given = {"to_unix_ms": NOW + epoch, "epoch": epoch, "by": "admin"}
        cluster.apply(
            epoch + 1, encode_command("clock", "set", given, request_id=f"s{epoch}", kind="node"), epoch
        )
    history = [one.epoch for one in cluster.clock.history()]
    assert len(history) == MAX_HISTORY
    assert history == sorted(history)
    assert history[0] == 1
    assert history[-1] == MAX_HISTORY + 5
    again.restore(b"".join(cluster.begin_snapshot()()))
    assert again.clock.history() == cluster.clock.history()
    state = again.clock.export_state()
    with pytest.raises(ValueError, match="history"):
        again.clock.prepare_restore({**state, "history": [*state["history"], state["history"][-1]]})


def test_stamp_beyond_all_time_leaves_a_state_that_a_snapshot_can_hold() -> None:
    cluster, again = ClusterState(), ClusterState()
    cluster.advance(Stamp(0, 2**64 - 1, 2**64 - 1))
    cluster.apply(1, add("r"), 0)
    assert cluster.stamp() == Stamp(0, LATEST_UNIX_MS, LATEST_UNIX_MS)
    again.restore(b"".join(cluster.begin_snapshot()()))
    assert again.stamp() == cluster.stamp()


def test_set_begins_an_epoch_that_entries_before_it_do_not_move() -> None:
    cluster = ClusterState()
    cluster.advance(Stamp(0, NOW + 400 * DAY, 5))
    set_back = {"to_unix_ms": NOW, "epoch": 0, "by": "admin"}
    cluster.apply(7, encode_command("clock", "set", set_back, request_id="s"), 6)
    assert cluster.stamp() == Stamp(1, NOW, 5)
    cluster.advance(Stamp(0, NOW + 400 * DAY, 6))
    assert cluster.stamp() == Stamp(1, NOW, 6)
    cluster.advance(Stamp(1, NOW + 10, 7))
    assert cluster.time_unix_ms == NOW + 10
    assert (
        code_of(cluster.apply(8, encode_command("clock", "set", set_back, request_id="t"), 7)) == "conflict"
    )
    (only,) = cluster.clock.history()
    assert (only.from_unix_ms, only.to_unix_ms, only.by, only.index) == (NOW + 400 * DAY, NOW, "admin", 7)
    again = ClusterState()
    again.restore(b"".join(cluster.begin_snapshot()()))
    assert again.clock.history() == cluster.clock.history()
    assert again.stamp() == cluster.stamp()


def test_set_back_leaves_what_began_in_the_wrong_future_its_time_to_live() -> None:
    cluster = ClusterState()
    cluster.advance(Stamp(0, NOW + 400 * DAY, 5))
    start = {
        "id": "0" * 32, "kind": "mfa", "user_code_sha256": "a" * 64, "ttl_ms": 300_000, "node": "n1",
        "initiator": "i", "origin": None, "data": {}, "initiator_public_key": None,
    }  # fmt: skip
    assert code_of(cluster.apply(1, encode_command("rendezvous", "start", start, request_id="a"), 0)) is None
    sub = {"sub": "ann", "issued_before_unix_s": None, "until_unix_ms": None}
    cluster.apply(2, encode_command("sessions", "revoke_sub", sub, request_id="b"), 1)
    set_back = {"to_unix_ms": NOW, "epoch": 0, "by": "admin"}
    cluster.apply(3, encode_command("clock", "set", set_back, request_id="c"), 2)
    record = cluster.rendezvous.get("0" * 32, NOW)
    assert record is not None
    assert record.expires_unix_ms == NOW + 300_000
    assert cluster.sessions.earliest_iat_unix_s("ann") <= NOW // 1000 + 60


def test_set_forward_moves_no_record_of_any_machine() -> None:
    cluster = ClusterState()
    cluster.advance(Stamp(0, NOW, 5))
    sub = {"sub": "ann", "issued_before_unix_s": None, "until_unix_ms": None}
    cluster.apply(1, encode_command("sessions", "revoke_sub", sub, request_id="b"), 0)
    told: list[tuple[int, int]] = []
    cluster.keys.set_back = lambda *times: told.append(times)  # type: ignore[method-assign]
    forward = {"to_unix_ms": NOW + DAY, "epoch": 0, "by": "admin"}
    assert code_of(cluster.apply(2, encode_command("clock", "set", forward, request_id="c"), 1)) is None
    same = {"to_unix_ms": NOW + DAY, "epoch": 1, "by": "admin"}
    assert code_of(cluster.apply(3, encode_command("clock", "set", same, request_id="d"), 2)) is None
    assert told == []
