"""The composite state machine against a slow, obvious model, and against bytes that nobody should send."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cyoloctl.errors import StorageError, VersionMismatch
from cyoloctl.machines import Composite, Limits, TableLimits, decode_command, describe_command, encode_command

# Small enough that a list of thirty commands forgets some.
SMALL = Limits(
    client=TableLimits(soft=3, keep_ms=0, hard=3, expiry_ms=100),
    automatic=TableLimits(soft=2, keep_ms=20, hard=4, expiry_ms=60),
)
MIN, MAX = -(2**63), 2**63 - 1
KEY = "A" * 43 + "="


@dataclass(frozen=True)
class Step:
    machine: str
    operation: str
    arguments: dict[str, Any]
    request_id: str
    automatic: bool
    time_unix_ms: int

    def encode(self) -> bytes:
        return encode_command(
            self.machine,
            self.operation,
            self.arguments,
            request_id=self.request_id,
            automatic=self.automatic,
            time_unix_ms=self.time_unix_ms,
        )


@dataclass
class Model:
    """What the documentation says, without any thought of speed."""

    counters: dict[str, int] = field(default_factory=dict)
    time: int = 0
    horizon: int = -1
    # (id, command without id and times, replicated time when applied, proposer time, answer)
    client: list[tuple[str, str, int, int, Any]] = field(default_factory=list)
    automatic: list[tuple[str, str, int, int, Any]] = field(default_factory=list)

    def apply(self, index: int, step: Step) -> Any:
        """(index, value) of a success, or a code."""
        command = repr((step.machine, step.operation, sorted(step.arguments.items())))
        for request_id, known, _, _, answer in self.client + self.automatic:
            if request_id == step.request_id:
                return answer if known == command else "conflict"
        if step.automatic and step.time_unix_ms <= self.horizon:
            return "outcome_unknown"
        answer = self.run(index, step)
        if answer == "invalid_input":
            return answer
        self.time = max(self.time, step.time_unix_ms)
        table = self.automatic if step.automatic else self.client
        table.append((step.request_id, command, self.time, step.time_unix_ms, answer))
        while self.client and (len(self.client) > 3 or self.time - self.client[0][2] >= 100):
            del self.client[0]
        while self.automatic and (
            len(self.automatic) > 4
            or (len(self.automatic) > 2 and self.time - self.automatic[0][2] >= 20)
            or self.time - self.automatic[0][2] >= 60
        ):
            self.horizon = max(self.horizon, self.automatic.pop(0)[3])
        return answer

    def run(self, index: int, step: Step) -> Any:
        name, by = step.arguments["name"], step.arguments.get("by")
        if step.machine != "counter" or not (isinstance(name, str) and name.islower()):
            return "invalid_input"
        if step.operation == "reset" and by is None:
            self.counters[name] = 0
        elif step.operation == "add" and type(by) is int and -(2**63) <= by <= 2**63:
            value = self.counters.get(name, 0) + by
            if not MIN <= value <= MAX:
                return "counter_overflow"
            self.counters[name] = value
        else:
            return "invalid_input"
        return index, {"name": name, "value": self.counters[name]}


def answer_of(result: bytes) -> Any:
    value = json.loads(result)
    return value["error"]["code"] if "error" in value else (value["index"], value["value"])


ids = st.sampled_from([f"r{n}" for n in range(12)])
times = st.integers(0, 250)
numbers = st.sampled_from([1, -1, 0, 7, MIN, MAX, 2**63])
adds = st.builds(
    Step,
    st.sampled_from(["counter"] * 9 + ["toaster"]),
    st.just("add"),
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["a", "b", "c", "a", "b", "c", "No", 5]),
            "by": st.one_of(numbers, numbers, numbers, st.sampled_from([True, "1", None, 2**64])),
        }
    ),
    ids,
    st.booleans(),
    times,
)
resets = st.builds(
    Step,
    st.just("counter"),
    st.sampled_from(["reset", "reset", "melt"]),
    st.fixed_dictionaries({"name": st.sampled_from(["a", "b", "c"])}),
    ids,
    st.booleans(),
    times,
)
counter_steps = st.one_of(adds, adds, adds, resets)

names = st.sampled_from(["n1", "n2", "n3"])
digests = st.sampled_from(["1" * 64, "2" * 64, "3" * 64])
roles = st.sampled_from(["voter", "learner"])
addresses = st.sampled_from(["h:1", "[::1]:2"])
raft_ids = st.sampled_from(["n1", "n2", "x"])
MEMBER_OPERATIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "invite": {
        "name": names,
        "learner": st.booleans(),
        "secret_sha256": digests,
        "expires_unix_ms": st.integers(0, 300),
    },
    "redeem": {
        "name": names,
        "secret_sha256": digests,
        "request_sha256": digests,
        "address": addresses,
        "sealing_key": st.just(KEY),
        "raft_id": raft_ids,
    },
    "put": {
        "name": names,
        "address": addresses,
        "role": roles,
        "sealing_key": st.just(KEY),
        "raft_id": raft_ids,
        "certificate_expires_at": st.sampled_from([None, "2027-01-02T03:04:05Z"]),
    },
    "set_address": {"name": names, "address": addresses},
    "set_role": {"name": names, "role": roles},
    "remove": {"name": names},
}
member_steps = st.one_of(
    *[
        st.builds(
            Step, st.just("members"), st.just(op), st.fixed_dictionaries(fields), ids, st.booleans(), times
        )
        for op, fields in MEMBER_OPERATIONS.items()
    ]
)

SPLINTERS = [b"1e5", b"NaN", b"-0", b" ", b'"', b"[", b"}", b"\\ud800", b"9" * 99]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=15,
)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A good command with some of its bytes replaced, cut out or repeated."""
    data = bytearray(draw(st.one_of(counter_steps, member_steps)).encode())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=3) | st.sampled_from(SPLINTERS))
    return bytes(data)


garbage = st.one_of(
    st.binary(max_size=60),
    mangled(),
    json_values.map(lambda value: b"\x01" + json.dumps(value, separators=(",", ":")).encode()),
    st.lists(json_values, min_size=6, max_size=6).map(
        lambda value: b"\x01" + json.dumps(value, separators=(",", ":")).encode()
    ),
)
everything = st.one_of(
    counter_steps.map(Step.encode), counter_steps.map(Step.encode), member_steps.map(Step.encode), garbage
)


@given(st.lists(counter_steps, max_size=40))
def test_composite_answers_and_state_agree_with_the_model(steps: list[Step]) -> None:
    composite, model = Composite(limits=SMALL), Model()
    for index, step in enumerate(steps):
        assert answer_of(composite.apply(index, step.encode())) == model.apply(index, step)
        assert composite.counters.list(None, 99) == sorted(model.counters.items())
        assert composite.time_unix_ms == model.time


@given(st.lists(everything, max_size=30))
def test_apply_never_applies_one_automatic_command_twice(commands: list[bytes]) -> None:
    composite = Composite(limits=SMALL)
    applied: list[tuple[str, int, int]] = []
    composite.counters.on_change = lambda *change: applied.append(change)
    done: set[bytes] = set()
    for index, command in enumerate(commands * 2):
        applied.clear()
        composite.apply(index, command)
        if applied:
            if decode_command(command).automatic:
                assert command not in done
            done.add(command)


@given(st.lists(everything, max_size=25), st.integers(0, 25))
def test_snapshot_and_suffix_equal_the_full_replay(commands: list[bytes], cut: int) -> None:
    whole, resumed = Composite(limits=SMALL), Composite(limits=SMALL)
    resumed.apply(1, Step("counter", "add", {"name": "leftover", "by": 1}, "left", False, 9).encode())
    results = [whole.apply(index, command) for index, command in enumerate(commands)]
    half = Composite(limits=SMALL)
    for index, command in enumerate(commands[:cut]):
        half.apply(index, command)
    resumed.restore(half.snapshot())
    again = [resumed.apply(index, command) for index, command in enumerate(commands) if index >= cut]
    assert again == results[cut:]
    assert resumed.snapshot() == whole.snapshot()
    assert resumed.digest() == whole.digest()


@given(st.lists(everything, max_size=8), garbage)
@example([], b"\x01" + b"[" * 5000)
@example([], b"\x01" + b'["counter","add",{"by":' + b"9" * 5000 + b',"name":"a"},"r",false,1]')
def test_apply_of_any_bytes_answers_and_a_malformed_command_changes_nothing(
    before: list[bytes], command: bytes
) -> None:
    composite = Composite(limits=SMALL)
    for index, earlier in enumerate(before):
        composite.apply(index, earlier)
    digest, time = composite.digest(), composite.time_unix_ms
    answer = answer_of(composite.apply(99, command))
    assert answer != "internal"
    malformed = describe_command(command).startswith("malformed")
    if malformed:
        assert answer in ("invalid_input", "version_mismatch")
    if malformed or answer == "outcome_unknown":
        assert composite.digest() == digest
        assert composite.time_unix_ms == time
    assert describe_command(command).isascii()


@given(st.lists(everything, max_size=10))
def test_a_decoded_command_encodes_to_the_same_bytes(commands: list[bytes]) -> None:
    for data in commands:
        if not describe_command(data).startswith("malformed"):
            command = decode_command(data)
            assert Step(*command[:6]).encode() == data


@given(st.lists(member_steps, max_size=30))
def test_members_machine_keeps_its_invariants(steps: list[Step]) -> None:
    composite = Composite()
    machine = composite.members
    gone: set[str] = set()
    used: dict[tuple[str, str], str] = {}
    for index, step in enumerate(steps):
        answer = answer_of(composite.apply(index, step.encode()))
        present = {member.name for member in machine.members()}
        gone |= set(machine.removed())
        assert not present & gone
        assert gone == set(machine.removed())
        raft_ids_now = [member.raft_id for member in machine.members()]
        assert len(set(raft_ids_now)) == len(raft_ids_now)
        for invitation in machine.invitations():
            if invitation.used_by is not None:
                key = (invitation.secret_sha256, f"{invitation.name}@{invitation.expires_unix_ms}")
                assert used.setdefault(key, invitation.used_by) == invitation.used_by
        if step.operation == "redeem" and answer not in ("conflict", "outcome_unknown"):
            fresh = machine.invitation(step.arguments["secret_sha256"])
            if isinstance(answer, tuple) and answer[0] == index:
                assert fresh is not None
                assert fresh.used_by == step.arguments["request_sha256"]
                assert step.arguments["name"] in present


def valid_snapshot(commands: list[bytes]) -> bytes:
    composite = Composite(limits=SMALL)
    for index, command in enumerate(commands):
        composite.apply(index, command)
    return composite.snapshot()


@given(st.lists(everything, max_size=8), st.data())
def test_restore_of_mutated_bytes_is_refused_or_exact_and_never_half_done(
    commands: list[bytes], data: st.DataObject
) -> None:
    snapshot = bytearray(valid_snapshot(commands))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(33, len(snapshot)))
        snapshot[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=2) | st.sampled_from([b"0", b"1", b"-", b",", b'"', b"[", b"1.5", b"\x00"])
        )
    # With a right checksum, so that the decoder itself is tried.
    resealed = bytes(snapshot[:1]) + sha256(snapshot[33:]).digest() + bytes(snapshot[33:])
    check_restore(resealed)


@given(st.binary(max_size=100) | st.binary(max_size=100).map(lambda b: b"\x01" + sha256(b).digest() + b))
def test_restore_of_any_bytes_is_refused_or_exact(data: bytes) -> None:
    check_restore(data)


def check_restore(data: bytes) -> None:
    composite = Composite(limits=SMALL)
    composite.apply(1, Step("counter", "add", {"name": "mine", "by": 1}, "mine", False, 9).encode())
    before = composite.snapshot()
    try:
        composite.restore(data)
    except (StorageError, VersionMismatch):
        assert composite.snapshot() == before
    else:
        assert composite.snapshot() == data


@given(st.lists(everything, min_size=1, max_size=8), st.data())
def test_restore_of_any_changed_bit_is_refused(commands: list[bytes], data: st.DataObject) -> None:
    snapshot = bytearray(valid_snapshot(commands))
    bit = data.draw(st.integers(0, len(snapshot) * 8 - 1))
    snapshot[bit // 8] ^= 1 << bit % 8
    with pytest.raises((StorageError, VersionMismatch)):
        Composite(limits=SMALL).restore(bytes(snapshot))
