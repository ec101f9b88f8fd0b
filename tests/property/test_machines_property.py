"""The cluster state machine against a slow, obvious model, and against bytes that nobody should send.

More than 700 lines, because properties of all machines draw on the same strategies of commands.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cyoloctl.errors import StorageError, VersionMismatch
from cyoloctl.replicated.command import Malformed, decode_command
from cyoloctl.replicated.requests import RequestLimits, TableLimits
from cyoloctl.state import ClusterState, StateLimits
from cyoloctl.text import canonical_json
from tests.support.old_commands import encode_command

# Small enough that a list of thirty commands forgets some.
SMALL = StateLimits(
    requests=RequestLimits(
        client=TableLimits(soft=3, keep_ms=0, hard=3, expiry_ms=100),
        node=TableLimits(soft=2, keep_ms=20, hard=4, expiry_ms=60),
        browser=TableLimits(soft=2, keep_ms=0, hard=2, expiry_ms=60),
        refused=TableLimits(soft=2, keep_ms=0, hard=2, expiry_ms=60),
    )
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
    """Model of the documentation, without any thought of speed."""

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


def applied_or_stopped(cluster: ClusterState, index: int, command: bytes) -> bytes:
    """The answer; for what a newer release wrote, that the node stops."""
    try:
        return cluster.apply(index, command)
    except VersionMismatch as error:
        return canonical_json(
            {"error": {"code": error.code, "message": error.message}, "index": index}
        ).encode()


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
public_keys = st.sampled_from(["C" * 42 + "A=", "D" * 42 + "A="])
MEMBER_OPERATIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "issue_invitation": {
        "name": names,
        "learner": st.booleans(),
        "public_key": public_keys,
        "expires_unix_ms": st.integers(0, 300),
    },
    "uninvite": {"name": names},
    "grant": {
        "name": names,
        "learner": st.booleans(),
        "request_sha256": digests,
        "key_hash": digests,
        "sealing_key": st.just(KEY),
        "ttl_s": st.sampled_from([60, 7_776_000]),
    },
    "admit": {
        "name": names,
        "public_key": public_keys,
        "request_sha256": digests,
        "address": addresses,
        "sealing_key": st.just(KEY),
        "raft_id": raft_ids,
        "key_hash": digests,
    },
    "announce": {
        "name": names,
        "address": addresses,
        "sealing_key": st.just(KEY),
        "raft_id": st.sampled_from(["n1", "n2", "n3", "n1~2"]),
        "certificate_expires_at": st.sampled_from([None, "2027-01-02T03:04:05Z"]),
        "key_hash": digests,
    },
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
    "set_role": {"name": names, "role": roles},
    "set_address": {"name": names, "address": addresses},
    "remove": {"name": names},
    "set_host": {"name": names, "host": st.sampled_from([None, "h1", "h2"])},
    "share_host": {"host": st.sampled_from(["h1", "h2"])},
    "unshare_host": {"host": st.sampled_from(["h1", "h2"])},
}
member_steps = st.one_of(
    *[
        st.builds(
            Step, st.just("members"), st.just(op), st.fixed_dictionaries(fields), ids, st.booleans(), times
        )
        for op, fields in MEMBER_OPERATIONS.items()
    ]
)

key_ids = st.sampled_from(["fc000001", "fc000002", "fc000003"])
prints = st.sampled_from(["1" * 32, "1" * 32, "2" * 32])
wrapped = st.dictionaries(names, st.sampled_from(["A" * 107 + "=", "B" * 106 + "A="]), min_size=1)
KEY_OPERATIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "announce": {
        "name": names,
        "sealing_key": st.sampled_from([KEY, KEY, "B" * 42 + "A="]),
        "certificate_pem": st.just("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        "signature": st.just("A" * 96),
    },
    "generate": {
        "key_id": key_ids,
        "cluster_id": st.just("c" * 32),
        "fingerprint": prints,
        "wrapped": wrapped,
    },
    "wrap": {"key_id": key_ids, "wrapped": wrapped},
    "confirm": {"name": names, "keys": st.dictionaries(key_ids, prints)},
    "reject": {"name": names, "keys": st.lists(key_ids, min_size=1, unique=True)},
    "promote": {"key_id": key_ids},
    "disable": {"key_id": key_ids, "force": st.booleans()},
    "enable": {"key_id": key_ids},
    "destroy": {"key_id": key_ids, "force": st.booleans()},
    "import": {
        "keys": st.lists(
            st.fixed_dictionaries(
                {
                    "key_id": key_ids,
                    "cluster_id": st.just("c" * 32),
                    "fingerprint": prints,
                    "state": st.sampled_from(["enabled", "disabled"]),
                    "created_unix_ms": st.integers(0, 300),
                    "retired_unix_ms": st.integers(0, 300),
                    "tokens_until_unix_ms": st.integers(0, 300),
                    "wrapped": wrapped,
                }
            ),
            min_size=1,
            max_size=3,
            unique_by=lambda item: str(item["key_id"]),
        )
    },
    "policy": {
        "rotate_every_s": st.sampled_from([None, 86_400]),
        "keep_s": st.sampled_from([3600, 86_400]),
    },
}
sids = st.sampled_from(["A" * 22, "B" * 21 + "A", "C" * 21 + "A"])
ends = st.integers(0, 400)
SESSION_OPERATIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "advance": {
        "sid": sids,
        "gen": st.integers(1, 4),
        "sub": st.sampled_from(["ann", "zo\u00eb"]),
        "iat_unix_s": st.integers(0, 4),
        "until_unix_ms": ends,
    },
    "revoke_sid": {"sid": sids, "until_unix_ms": ends},
    "revoke_sub": {
        "sub": st.sampled_from(["ann", "zo\u00eb"]) | st.text(min_size=1, max_size=3),
        "issued_before_unix_s": st.integers(0, 70),
        "until_unix_ms": ends,
    },
}
hashes = st.sampled_from(["a" * 64, "b" * 64, "c" * 64])
CREDENTIAL_OPERATIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "create": {
        "name": st.sampled_from(["n1", "ann", "ann", "bob"]),
        "role": st.sampled_from(["viewer", "gateway", "operator"]),
        "key_hash": hashes,
        "ttl_ms": st.integers(1, 200),
        "latest_unix_ms": st.integers(100, 400),
        "created_by": st.sampled_from(["", "unix socket"]),
    },
    "renew": {
        "name": st.sampled_from(["ann", "bob"]),
        "from_key_hash": st.none() | hashes,
        "key_hash": hashes,
        "ttl_ms": st.none() | st.integers(1, 200),
        "latest_unix_ms": st.integers(100, 400),
    },
    "revoke": {"name": st.sampled_from(["ann", "bob"])},
    "bootstrap": {"name": st.just("ann"), "key_hash": hashes, "expires_unix_ms": st.integers(0, 400)},
}

PEMS = [f"-----BEGIN CERTIFICATE-----\n{letter * 64}\n-----END CERTIFICATE-----\n" for letter in "ABC"]
pems = st.sampled_from(PEMS)
shas = st.sampled_from([hashlib.sha256(base64.b64decode(letter * 64)).hexdigest() for letter in "ABC"])
sealed_keys = st.dictionaries(names, st.just("c2VhbGVk"), max_size=3)
AUTHORITY_OPERATIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "set_certificate_days": {"days": st.integers(1, 825)},
    "begin": {
        "ca_pem": pems,
        "old_ca_pem": pems,
        "voucher": st.just("c2lnbmVk"),
        "keys": sealed_keys,
        "overlap_ms": st.integers(0, 50),
    },
    "wrap": {"sha256": shas, "keys": sealed_keys},
    "confirm": {"name": names, "sha256": shas},
    "reissued": {"name": names, "sha256": shas},
    "advance": {"sha256": shas},
    "finish": {"sha256": shas},
    "abandon": {"sha256": shas},
    "exempt": {"name": names},
}


def steps_of(machine: str, operations: dict[str, dict[str, st.SearchStrategy[Any]]]) -> Any:
    return st.one_of(
        *[
            st.builds(
                Step, st.just(machine), st.just(op), st.fixed_dictionaries(fields), ids, st.booleans(), times
            )
            for op, fields in operations.items()
        ]
    )


key_steps = steps_of("keys", KEY_OPERATIONS)
session_steps = steps_of("sessions", SESSION_OPERATIONS)
credential_steps = steps_of("credentials", CREDENTIAL_OPERATIONS)
authority_steps = steps_of("authorities", AUTHORITY_OPERATIONS)

SPLINTERS = [b"1e5", b"NaN", b"-0", b" ", b'"', b"[", b"}", b"\\ud800", b"9" * 99]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=15,
)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A good command with some of its bytes replaced, cut out or repeated."""
    steps = st.one_of(
        counter_steps, member_steps, key_steps, session_steps, credential_steps, authority_steps
    )
    data = bytearray(draw(steps).encode())
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
    counter_steps.map(Step.encode),
    counter_steps.map(Step.encode),
    member_steps.map(Step.encode),
    key_steps.map(Step.encode),
    session_steps.map(Step.encode),
    credential_steps.map(Step.encode),
    authority_steps.map(Step.encode),
    garbage,
)


def is_malformed(command: bytes) -> bool:
    try:
        decode_command(command)
    except Malformed:
        return True
    return False


@given(st.lists(counter_steps, max_size=40))
def test_cluster_state_answers_and_state_agree_with_the_model(steps: list[Step]) -> None:
    cluster, model = ClusterState(limits=SMALL), Model()
    for index, step in enumerate(steps):
        assert answer_of(cluster.apply(index, step.encode())) == model.apply(index, step)
        assert cluster.counters.list(None, 99) == sorted(model.counters.items())
        assert cluster.time_unix_ms == model.time


@given(st.lists(everything, max_size=30))
def test_apply_never_applies_one_automatic_command_twice(commands: list[bytes]) -> None:
    cluster = ClusterState(limits=SMALL)
    applied: list[tuple[str, int]] = []
    cluster.counters.on_change = lambda *change: applied.append(change)
    done: set[bytes] = set()
    for index, command in enumerate(commands * 2):
        applied.clear()
        applied_or_stopped(cluster, index, command)
        if applied:
            if decode_command(command).automatic:
                assert command not in done
            done.add(command)


@given(st.lists(everything, max_size=25), st.integers(0, 25))
def test_snapshot_and_suffix_equal_the_full_replay(commands: list[bytes], cut: int) -> None:
    whole, resumed = ClusterState(limits=SMALL), ClusterState(limits=SMALL)
    resumed.apply(1, Step("counter", "add", {"name": "leftover", "by": 1}, "left", False, 9).encode())
    results = [applied_or_stopped(whole, index, command) for index, command in enumerate(commands)]
    half = ClusterState(limits=SMALL)
    for index, command in enumerate(commands[:cut]):
        applied_or_stopped(half, index, command)
    resumed.restore(b"".join(half.begin_snapshot()()))
    again = [
        applied_or_stopped(resumed, index, command) for index, command in enumerate(commands) if index >= cut
    ]
    assert again == results[cut:]
    assert b"".join(resumed.begin_snapshot()()) == b"".join(whole.begin_snapshot()())
    assert resumed.digest() == whole.digest()


@given(st.lists(everything, max_size=8), garbage)
@example([], b"\x01" + b"[" * 5000)
@example([], b"\x01" + b'["counter","add",{"by":' + b"9" * 5000 + b',"name":"a"},"r",false,1]')
def test_apply_of_any_bytes_answers_and_a_malformed_command_changes_nothing(
    before: list[bytes], command: bytes
) -> None:
    cluster = ClusterState(limits=SMALL)
    for index, earlier in enumerate(before):
        applied_or_stopped(cluster, index, earlier)
    digest, time = cluster.digest(), cluster.time_unix_ms
    answer = answer_of(applied_or_stopped(cluster, 99, command))
    assert answer != "internal"
    malformed = is_malformed(command)
    if malformed:
        assert answer in ("invalid_input", "version_mismatch")
    if malformed or answer == "outcome_unknown":
        assert cluster.digest() == digest
        assert cluster.time_unix_ms == time


@given(st.lists(everything, max_size=10))
def test_a_decoded_command_encodes_to_the_same_bytes(commands: list[bytes]) -> None:
    for data in commands:
        if not is_malformed(data):
            command = decode_command(data)
            step = Step(*command[:4], command.automatic, command.time_unix_ms)
            assert step.encode() == data


@given(st.lists(member_steps, max_size=30))
def test_members_machine_keeps_its_invariants(steps: list[Step]) -> None:
    cluster = ClusterState()
    machine = cluster.members
    gone: set[str] = set()
    used: dict[tuple[str, str], str] = {}
    admitted: dict[tuple[str, str], str] = {}
    keys: dict[str, str] = {}
    for index, step in enumerate(steps):
        had = {member.name for member in machine.members()}
        were_open = {i.name: i for i in machine.invitations() if i.used_by is None}
        answer = answer_of(cluster.apply(index, step.encode()))
        assert answer != "internal"
        present = {member.name for member in machine.members()}
        gone |= set(machine.removed())
        assert not present & gone
        assert gone == set(machine.removed())
        raft_ids_now = [member.raft_id for member in machine.members()]
        assert len(set(raft_ids_now)) == len(raft_ids_now)
        owners = list(machine.hosts().values())
        assert len(set(owners)) == len(owners)
        assert set(owners) <= present
        assert not machine.hosts().keys() & set(machine.shared_hosts())
        for invitation in machine.secret_invitations():
            if invitation.used_by is not None:
                key = (invitation.secret_sha256, f"{invitation.name}@{invitation.expires_unix_ms}")
                assert used.setdefault(key, invitation.used_by) == invitation.used_by
        if step.operation == "redeem" and answer not in ("conflict", "outcome_unknown"):
            secrets = {each.secret_sha256: each for each in machine.secret_invitations()}
            fresh = secrets.get(step.arguments["secret_sha256"])
            if isinstance(answer, tuple) and answer[0] == index:
                assert fresh is not None
                assert fresh.used_by == step.arguments["request_sha256"]
                assert step.arguments["name"] in present
        for member in machine.members():
            # Whatever comes: the key that was admitted under a name stays that of this name.
            if member.key_hash is not None:
                assert keys.setdefault(member.name, member.key_hash) == member.key_hash
        assert len(set(keys.values()) & {m.key_hash for m in machine.members()}) == len(
            [m for m in machine.members() if m.key_hash is not None]
        )
        for issued in machine.invitations():
            assert issued.name not in gone
            if issued.used_by is not None:
                token = (
                    issued.name,
                    f"{issued.public_key}@{issued.created_unix_ms}@{issued.expires_unix_ms}",
                )
                assert admitted.setdefault(token, issued.used_by) == issued.used_by
        for name in present - had:
            assert step.operation in ("put", "redeem", "admit", "announce")
            if step.operation == "admit":
                assert were_open[name].public_key == step.arguments["public_key"]
                assert cluster.time_unix_ms < were_open[name].expires_unix_ms
            if step.operation == "announce":
                assert not had
    other = ClusterState()
    other.restore(b"".join(cluster.begin_snapshot()()))
    assert b"".join(other.begin_snapshot()()) == b"".join(cluster.begin_snapshot()())


def key_step(operation: str, arguments: dict[str, Any], time_unix_ms: int = 0) -> Step:
    return Step("keys", operation, arguments, "replaced", False, time_unix_ms)


@st.composite
def given_to_all(draw: st.DrawFn) -> list[Step]:
    """Steps to another primary key, which single random steps hardly ever reach."""
    key_id = draw(key_ids)
    blobs = dict.fromkeys(("n1", "n2"), "A" * 107 + "=")
    made = {"key_id": key_id, "cluster_id": "c" * 32, "fingerprint": "1" * 32, "wrapped": blobs}
    return [
        key_step("generate", made),
        *[key_step("confirm", {"name": name, "keys": {key_id: "1" * 32}}) for name in ("n1", "n2")],
        key_step("promote", {"key_id": key_id}, draw(times)),
    ]


key_stories = st.lists(
    st.one_of(
        key_steps.map(lambda step: [step]),
        key_steps.map(lambda step: [step]),
        given_to_all(),
        given_to_all(),
        member_steps.map(lambda step: [step] if step.operation == "remove" else []),
    ),
    max_size=20,
).map(lambda parts: [step for part in parts for step in part])
FIRST_STEPS = [
    Step(
        "members",
        "put",
        {
            "name": name,
            "address": "h:1",
            "role": "voter",
            "sealing_key": KEY,
            "raft_id": name,
            "certificate_expires_at": None,
        },
        f"put-{name}",
        False,
        0,
    )
    for name in ("n1", "n2")
] + [
    Step(
        "keys",
        "announce",
        {
            "name": name,
            "sealing_key": KEY,
            "certificate_pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "signature": "A" * 96,
        },
        f"announce-{name}",
        False,
        0,
    )
    for name in ("n1", "n2")
]


@given(key_stories)
def test_keys_machine_keeps_its_invariants(steps: list[Step]) -> None:
    cluster = ClusterState()
    machine = cluster.keys
    until: dict[str, int] = {}
    had_primary = False
    for index, step in enumerate(FIRST_STEPS + steps):
        # New ids, so that every step is applied.
        replaced = Step(step.machine, step.operation, step.arguments, f"r{index}", False, step.time_unix_ms)
        before = machine.primary()
        answer = answer_of(cluster.apply(index, replaced.encode()))
        assert answer != "internal"
        records = list(machine.records())
        members = {member.name for member in cluster.members.members()}
        primaries = [record for record in records if record.state == "primary"]
        assert primaries == [primary for primary in [machine.primary()] if primary is not None]
        assert machine.nodes().keys() <= members
        # Once there is a primary key there always is one.
        had_primary = had_primary or bool(primaries)
        assert len(primaries) == had_primary
        for record in records:
            assert set(record.holders) <= record.wrapped.keys() <= set(record.known_to) <= members
            assert record.wrapped.keys() <= machine.nodes().keys()
            assert not set(record.compromised_by) & members
            if record.state == "destroyed":
                assert not record.known_to
            elif record.tokens_until_unix_ms is not None:
                assert until.get(record.key_id, 0) <= record.tokens_until_unix_ms
                until[record.key_id] = record.tokens_until_unix_ms
        if step.operation == "promote" and isinstance(answer, tuple) and machine.primary() != before:
            assert set(primaries[0].holders) == members
    other = ClusterState()
    other.restore(b"".join(cluster.begin_snapshot()()))
    assert b"".join(other.begin_snapshot()()) == b"".join(cluster.begin_snapshot()())
    assert other.keys.records() == machine.records()


@given(st.lists(session_steps, max_size=40), st.integers(0, 40))
def test_sessions_machine_agrees_with_a_slow_model(steps: list[Step], cut: int) -> None:
    cluster = ClusterState()
    entries: dict[tuple[str, str], tuple[int, int, int]] = {}  # (kind, value) -> (level, until, steady end)
    for index, step in enumerate(steps):
        if index == cut:
            snapshot = b"".join(cluster.begin_snapshot()())
            cluster = ClusterState()
            cluster.restore(snapshot)
        given_ = step.arguments
        replaced = Step(step.machine, step.operation, given_, f"r{index}", False, step.time_unix_ms)
        answer = answer_of(cluster.apply(index, replaced.encode()))
        assert answer != "internal"
        now = cluster.time_unix_ms  # a refusal moves it too, what is malformed does not: tested elsewhere
        if step.operation == "advance":
            superseded = given_["gen"] < entries.get(("sid", given_["sid"]), (0,))[0]
            revoked = given_["iat_unix_s"] <= entries.get(("sub", given_["sub"]), (-1,))[0]
            assert (answer == "token_rejected") == (superseded or revoked)
        if isinstance(answer, tuple):
            kind: str = "sid" if "sid" in given_ else "sub"
            level = given_.get("gen", given_.get("issued_before_unix_s", 2**53))
            if step.operation == "advance":
                level = min(level + 1, 2**53 - 1)
            left, steady = given_["until_unix_ms"] - now, cluster.stamp().steady_ms
            steady_end = steady + (left if left > 0 else 86_400_000)
            old = entries.get((kind, given_[kind]), (0, 0, 0))
            new = max(level, old[0]), max(given_["until_unix_ms"], old[1]), max(steady_end, old[2])
            entries = {key: e for key, e in entries.items() if key[0] != kind or e[1] > now or e[2] > steady}
            entries[kind, given_[kind]] = new
        found = {
            (r.kind, r.value): (
                (r.minimum_gen or 2**53) if r.kind == "sid" else r.issued_before_unix_s,
                r.until_unix_ms,
            )
            for r in cluster.sessions.list(None, 999)
        }
        assert found == {key: (level, until) for key, (level, until, _) in entries.items()}
        for kind, value in entries:
            level = entries[kind, value][0]
            if kind == "sid":
                reason = "revoked" if level == 2**53 else "superseded"
                assert cluster.sessions.refuses(value, level - 1, "nobody", 999) == reason
                assert cluster.sessions.refuses(value, level, "nobody", 999) is None
            else:
                assert cluster.sessions.refuses("D" * 21 + "A", 1, value, level) == "revoked"
                assert cluster.sessions.refuses("D" * 21 + "A", 1, value, level + 1) is None


def valid_snapshot(commands: list[bytes]) -> bytes:
    cluster = ClusterState(limits=SMALL)
    for index, command in enumerate(commands):
        applied_or_stopped(cluster, index, command)
    return b"".join(cluster.begin_snapshot()())


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


def check_restore(data: bytes) -> None:
    cluster = ClusterState(limits=SMALL)
    cluster.apply(1, Step("counter", "add", {"name": "mine", "by": 1}, "mine", False, 9).encode())
    before = b"".join(cluster.begin_snapshot()())
    try:
        cluster.restore(data)
    except (StorageError, VersionMismatch):
        assert b"".join(cluster.begin_snapshot()()) == before
    else:
        assert b"".join(cluster.begin_snapshot()()) == data


@given(st.lists(everything, min_size=1, max_size=8), st.data())
def test_restore_of_any_changed_bit_is_refused(commands: list[bytes], data: st.DataObject) -> None:
    snapshot = bytearray(valid_snapshot(commands))
    bit = data.draw(st.integers(0, len(snapshot) * 8 - 1))
    snapshot[bit // 8] ^= 1 << bit % 8
    with pytest.raises((StorageError, VersionMismatch)):
        ClusterState(limits=SMALL).restore(bytes(snapshot))
