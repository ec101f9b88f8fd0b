"""Every decoder of the product, with its contract in one sentence and valid inputs to damage.

One entry of `TARGETS` puts a decoder under all fuzzers: ``test_fuzz.py`` (hypothesis, in ``make test``),
``atheris_run.py`` (``make fuzz``), and the table in ``docs/correctness.md``, which a test compares.

More than 700 lines, because it is one table: each decoder stands beside its contract and its seeds.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from itertools import groupby
from random import Random
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cyoloctl.audit.chain import AuditLimits, Lines
from cyoloctl.audit.export import read_export
from cyoloctl.audit.lines import common_of
from cyoloctl.control import batch, table
from cyoloctl.control.tls_endpoints import read_credentials
from cyoloctl.doctor.sealing import open_bundle, seal_bundle
from cyoloctl.errors import (
    AccessDenied,
    AuditBroken,
    BodyTooLarge,
    ConfigError,
    Conflict,
    CyoloctlError,
    InternalError,
    InvalidInput,
    StorageError,
    TokenRejected,
    VersionMismatch,
)
from cyoloctl.keys import ring_file
from cyoloctl.keys.keyring import Key, Keyring, KeyState
from cyoloctl.keys.wrapping import (
    NodeIdentity,
    _wrap_info,
    decode_identity,
    encode_identity,
    sign_sealing_key,
    unwrap,
    wrap,
)
from cyoloctl.model import Address, NodeName, Stamp, parse_address
from cyoloctl.node.config import Config, load_config
from cyoloctl.node.config_writer import dump_config
from cyoloctl.pki import join_token
from cyoloctl.pki.ca import make_credentials
from cyoloctl.pki.files import PKI_DIRECTORY, check_private_files, read_ca
from cyoloctl.pki.grants import accept_grant, decode_grant, make_grant
from cyoloctl.pki.requests import (
    NodeRequest,
    check_request,
    csr_sha256,
    decode_request,
    encode_request,
    sign_request,
)
from cyoloctl.pki.seal import open_sealed, seal
from cyoloctl.pki.sealed_grants import decode_sealed_grant, encode_sealed_grant, open_grant, seal_grant
from cyoloctl.pki.statements import sign_statement
from cyoloctl.pki.tls import server_context
from cyoloctl.pki.x509 import certificate_sha256, public_key_sha256
from cyoloctl.raft.batch import decode_batch, encode_batch, stamp_of
from cyoloctl.raft.messages import (
    MAX_FRAME_BYTES,
    MESSAGE_TYPES,
    FrameReader,
    PeerProtocolError,
    decode,
    encode,
)
from cyoloctl.raft.snapshot import SnapshotMeta, SnapshotStore
from cyoloctl.raft.vendor import decode_membership, encode_membership
from cyoloctl.raft.wal import check_wal
from cyoloctl.rendezvous import codes
from cyoloctl.replicated.command import (
    KINDS,
    Malformed,
    decode_command,
    decode_result_with_index,
    encode_command,
    refusal_reason,
)
from cyoloctl.replicated.levels import BASE_LEVEL
from cyoloctl.replicated.peer_calls import read_answer
from cyoloctl.routing.haproxy import export_haproxy
from cyoloctl.routing.nginx import export_nginx
from cyoloctl.routing.table import Backend, ExportOptions, RoutingTable
from cyoloctl.snapshots.file import Head, encode_head, verify_snapshot
from cyoloctl.state import ClusterState
from cyoloctl.text import canonical_json
from cyoloctl.tokens import format as token_format
from cyoloctl.web import encoding, schema
from tests.fuzz import connections, worlds
from tests.fuzz.mutate import MAX_BYTES, mutate
from tests.support import old_commands
from tests.support.joining import join_body
from tests.support.snapshots import finish, loaded
from tests.support.states import version_2

__all__ = ["BY_NAME", "TARGETS", "Target", "example"]


@dataclass(frozen=True)
class Target:
    """One decoder.

    contract: one sentence.  errors: what it may raise.  run: takes any bytes; raises one of errors, or
    AssertionError where what it gave is wrong.  make_seeds: valid inputs, by the real encoder, and after
    them inputs that once broke it.  slow: takes milliseconds, so that it gets fewer examples.
    """

    name: str
    contract: str
    errors: tuple[type[Exception], ...]
    run: Callable[[bytes], object]
    make_seeds: Callable[[], Sequence[bytes]]
    slow: bool = False

    @property
    def seeds(self) -> Sequence[bytes]:
        """Valid inputs, and those that once broke it."""
        return _seeds(self.make_seeds)

    def mutate(self, rng: Random) -> bytes:
        """One of the seeds, damaged."""
        return mutate([seed for seed in self.seeds if len(seed) <= MAX_BYTES], rng)

    def check(self, data: bytes) -> bool:
        """Whether the bytes were taken; raises where the contract is broken."""
        try:
            self.run(data)
        except self.errors:
            return False
        return True


@functools.cache
def _seeds(make: Callable[[], Sequence[bytes]]) -> Sequence[bytes]:
    return tuple(make())


def _text(data: bytes) -> str:
    """Any bytes as text, lone surrogates among it."""
    return data.decode("utf-8", "surrogateescape")


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# --- peers ---------------------------------------------------------------------------------------

_VALUES: dict[str, Any] = {
    "version": 3, "level": 1, "boots": 1, "last_index": 6, "links": ["n1", "n3"], "addresses": {"n3": "h:3"},
    "cluster_id": "c" * 32, "name": "n2", "raft_id": "n2", "boot": "b", "address": "h:1",
    "release": "1", "reason": "stopping", "sent_ms": 5, "wall_unix_ms": 1_780_000_000_000, "id": 7,
    "info": {
        "role": "follower", "term": 1, "commit_index": 5, "applied_index": 5, "uptime_s": 1.5, "version": "1",
        "storage": "disk", "fsync_p99_ms": 0.5, "certificate_expires_at": "2027-01-01T00:00:00Z",
    },
    "body": b'{"operation":"transfer","arguments":{"to":null},"timeout_s":0.1}',
    "term": 3, "leader_commit": 6, "prev_log_index": 6, "prev_log_term": 1, "next_index": 7, "reset": False,
    "success": True, "last_log_index": 9, "last_log_term": 3, "granted": True, "index": 9, "snapshot_term": 2,
    "voters": ["n1", "n2", "n3"], "removed": ["n9"], "results": [b"{}", b""], "last": True,
    "error": None, "seq": 4, "epoch": 0, "cluster_unix_ms": 1_780_000_000_000,
}  # fmt: skip


_Step = tuple[str, str, dict[str, Any]]


def _key_steps(sealing_key: str) -> list[_Step]:
    key_id, fingerprint, blob = "fc000001", "1" * 32, base64.b64encode(bytes(80)).decode()
    node = {
        "sealing_key": sealing_key, "signature": base64.b64encode(bytes(70)).decode(),
        "certificate_pem": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    }  # fmt: skip
    made = {"key_id": key_id, "cluster_id": "c" * 32, "fingerprint": fingerprint, "wrapped": {"n2": blob}}
    steps: list[tuple[str, dict[str, Any]]] = [
        ("announce", {"name": "n2", **node}),
        ("generate", made),
        ("confirm", {"name": "n2", "keys": {key_id: fingerprint}}),
        ("generate", {**made, "key_id": "fc000002"}),
        ("reject", {"name": "n2", "keys": ["fc000002"]}),
        ("wrap", {"key_id": "fc000002", "wrapped": {"n2": blob}}),
        ("confirm", {"name": "n2", "keys": {"fc000002": fingerprint}}),
        ("promote", {"key_id": "fc000002"}),
        ("disable", {"key_id": key_id, "force": True}),
        ("enable", {"key_id": key_id}),
        ("destroy", {"key_id": key_id, "force": True}),
    ]
    return [("keys", operation, arguments) for operation, arguments in steps]


def _session_steps() -> list[_Step]:
    advance = {"sid": "A" * 22, "gen": 3, "sub": "ann", "iat_unix_s": 1, "until_unix_ms": 9_000}
    return [
        (
            "sessions",
            "advance",
            {"sid": "A" * 22, "gen": 1, "sub": "ann", "iat_unix_s": 0, "until_unix_ms": 9_000},
        ),
        ("sessions", "advance", advance),
        ("sessions", "revoke_sid", {"sid": "A" * 22, "until_unix_ms": None}),
        ("sessions", "revoke_sub", {"sub": "ann", "issued_before_unix_s": 0, "until_unix_ms": None}),
    ]


def _rendezvous_steps() -> list[_Step]:
    """Three records: one redeemed, one sealed and denied, one cancelled."""
    sealed_to = base64.b64encode(bytes((9, *bytes(31)))).decode()
    ids = ["1" * 32, codes.id_of_public_key(sealed_to), "2" * 32]
    begin = {"kind": "mfa", "ttl_ms": 300_000, "node": "n1", "initiator": "cli:zo\u00eb", "origin": "::1"}
    steps: list[tuple[str, dict[str, Any]]] = [
        (
            "start",
            {
                "id": id,
                "user_code_sha256": sha256(id.encode()).hexdigest(),
                "data": {"app": "web"},
                "initiator_public_key": sealed_to if id == ids[1] else None,
                **begin,
            },
        )
        for id in ids
    ]
    wrong, caller = sha256(b"wrong").hexdigest(), sha256(b"caller").hexdigest()
    step = {"id": ids[0], "expected": None}
    steps += [
        ("attempt", {"id": ids[0], "user_code_sha256": wrong, "caller_sha256": caller}),
        ("attempt", {"id": None, "user_code_sha256": wrong, "caller_sha256": caller}),
        (
            "try_code",
            {"id": None, "user_code_sha256": wrong, "counted": [["person", caller], ["all", wrong]]},
        ),
        ("set_policy", {"kind": "mfa", "require": {"mfa": True}, "allow_self": False}),
        ("claim_as", {**step, "by": "ann", "actors": [caller], "claims": {"mfa": True}}),
        ("set_policy", {"kind": "mfa", "require": {}, "allow_self": False}),
        ("claim", {**step, "id": ids[1], "by": "ann", "expected": "pending"}),
        ("approve", {**step, "by": "ann", "answer": {"x": "1"}, "sealed_result": None}),
        ("consume", {**step, "redemption_sha256": wrong}),
        ("deny", {**step, "id": ids[1], "by": "ann"}),
        ("cancel", {**step, "id": ids[2]}),
    ]
    return [("rendezvous", operation, arguments) for operation, arguments in steps]


@functools.cache
def _commands() -> tuple[bytes, ...]:
    key = base64.b64encode(bytes(32)).decode()
    member = {"name": "n2", "address": "h:1", "sealing_key": key, "raft_id": "n2"}
    digest = sha256(b"x").hexdigest()
    invite = {"name": "n2", "learner": False, "secret_sha256": digest, "expires_unix_ms": 2**52}
    redeem = {**member, "secret_sha256": digest, "request_sha256": digest}
    issue = {"name": "n3", "learner": True, "public_key": key, "expires_unix_ms": 2**52}
    third = {**member, "name": "n3", "raft_id": "n3", "key_hash": sha256(b"y").hexdigest()}
    granted = {
        **{"name": "n5", "learner": True, "request_sha256": digest, "key_hash": digest},
        **{"sealing_key": key, "ttl_s": 60},
    }
    steps: list[_Step] = [
        ("counter", "add", {"name": "c", "by": -(2**63)}),
        ("counter", "reset", {"name": "c"}),
        ("members", "invite", invite),
        ("members", "redeem", redeem),
        ("members", "put", {**member, "role": "voter", "certificate_expires_at": "2027-01-02T03:04:05Z"}),
        ("members", "issue_invitation", issue),
        ("members", "admit", {**third, "public_key": key, "request_sha256": digest}),
        ("members", "announce", {**third, "certificate_expires_at": "2027-01-02T03:04:05Z"}),
        ("members", "issue_invitation", {**issue, "name": "n4"}),
        ("members", "uninvite", {"name": "n4"}),
        ("members", "set_role", {"name": "n3", "role": "learner"}),
        ("members", "set_address", {"name": "n2", "address": "h:9"}),
        ("members", "grant", granted),
        ("members", "set_host", {"name": "n2", "host": "app-2.example.com"}),
        ("members", "share_host", {"host": "app.example.com"}),
        ("members", "set_gateway", {"name": "n2", "gateway": {"address": "h:8", "url": "https://a.example"}}),
        *_key_steps(key),
        *_session_steps(),
        *_rendezvous_steps(),
        ("members", "remove", {"name": "n2"}),
    ]
    return tuple(
        encode_command(
            machine,
            operation,
            arguments,
            request_id=f"r{number}",
            kind=KINDS[number % 3],
            caller="alice" if number % 2 else "",
            origin="operator uid:0 socket n1" if number % 3 else "",
        )
        for number, (machine, operation, arguments) in enumerate(steps)
    )


def _batch(commands: Iterable[bytes]) -> bytes:
    return encode_batch([(command, 1) for command in commands], Stamp(0, 1_767_225_600_000, 5))


def _old_batch() -> bytes:
    """Commands in an entry of release 0.1.0."""
    commands = [
        old_commands.encode_command(
            "counter", "add", {"name": "c", "by": by}, request_id=f"o{by}", automatic=by == 1, time_unix_ms=by
        )
        for by in (1, 2)
    ]
    return b"\0" + b"".join(struct.pack(">I", len(command)) + command for command in commands)


@functools.cache
def _snapshot_file() -> tuple[bytes, bytes]:
    """A machine's snapshot, and the file of it."""
    machine = ClusterState()
    for index, command in enumerate(_commands()):
        machine.apply(index + 1, command)
    data = b"".join(machine.begin_snapshot()())
    files = worlds.MemoryFiles()
    SnapshotStore(files).save(SnapshotMeta(9, 2, ("n1", "n2", "n3"), ("n9",)), data)
    return data, files.found["snapshot"]


def _old_snapshot() -> bytes:
    """The same machine's snapshot before machines had tables."""
    machine = ClusterState()
    machine.restore(_snapshot_file()[0])
    return version_2(machine)


def example(kind: str) -> dict[str, Any]:
    """A valid message of a type."""
    snapshot = _snapshot_file()[1]
    values = {
        **_VALUES,
        "entries": [(_batch(_commands()[:2]), 7, 2), (encode_membership("add", "n4"), 8, 3)],
        "commands": list(_commands()),
        "after": [1] * len(_commands()),
        "total": len(snapshot),
        "digest": snapshot[-32:].hex(),
        "offset": 0,
        "data": snapshot,
    }
    return {"type": kind, **{name: values[name] for name in MESSAGE_TYPES[kind]}}


def _payloads() -> list[bytes]:
    return [encode(example(kind))[4:] for kind in MESSAGE_TYPES]


def _frame(data: bytes) -> None:
    message = decode(data)
    assert decode(encode(message)[4:]) == message


def _stream(data: bytes) -> None:
    reader = FrameReader()
    step = 1 + (data[0] if data else 0)
    found = [frame for at in range(0, len(data), step) for frame in reader.feed(data[at : at + step])]
    assert FrameReader().feed(data) == found
    assert sum(map(len, found)) <= len(data)
    assert all(len(frame) <= MAX_FRAME_BYTES for frame in found)


def _lines() -> list[bytes]:
    """Links for `worlds.frames`: a byte of choices, then per line a header, a zero byte and a tail."""
    links = []
    for choice in (0, 1, 2, 3, 4, 10, 11):
        for kind in MESSAGE_TYPES:
            payload = encode(example(kind))[4:]
            size = int.from_bytes(payload[:4], "big")
            head, tail = payload[4 : 4 + size], payload[4 + size :]
            links.append(bytes((choice,)) + head + (b"\0" + tail if tail else b""))
    heartbeat = links[list(MESSAGE_TYPES).index("heartbeat")][1:]
    links += [b"\0" + b"\n".join((heartbeat, link[1:], link[1:])) for link in links[: len(MESSAGE_TYPES)]]
    return links


_CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("remove", {"name": "n7", "force": True, "dry_run": True}),
    ("transfer", {"to": "n2"}),
    ("join", {}),
)


def _links() -> list[bytes]:
    """The same after a hello (bit 4 of the choices: it is a valid one), and calls."""
    known = worlds.keys()
    join = join_body(worlds.SECRET, "n2", known.cluster_id)
    found = [bytes((line[0] | 4,)) + line[1:] for line in _lines()]
    hello = {**example("hello"), "cluster_id": known.cluster_id}
    found.append(b"\0" + b"\n".join((_json(hello), _json(example("request_vote")))))
    for operation, arguments in _CALLS:
        body = _json({"operation": operation, "arguments": arguments or join, "timeout_s": 0.2})
        head = _json({"type": "call", "id": 1, "body": len(body)})
        found += [b"\x05" + head + b"\0" + body, b"\x04" + head + b"\0" + body]
    return found


def _broken_links() -> list[bytes]:
    """Inputs that ended a node, or made its API fail, before they were refused."""
    hello = {**example("hello"), "cluster_id": worlds.keys().cluster_id, "raft_id": "n2~\ud800"}
    vote = {**example("request_vote"), "last_log_index": 99}
    found = [b"\0" + b"\n".join((_json(hello), _json(vote)))]
    broken: tuple[tuple[str, object], ...] = (
        ("uptime_s", float("nan")),
        ("uptime_s", float("inf")),
        ("commit_index", 10**4299),
        ("applied_index", -(10**4299)),
        ("fsync_p99_ms", 10**4299),
        ("version", ["deep"]),
        ("role", {"a": 1}),
        ("storage", "\x1b[2J"),
    )
    for field, value in broken:
        pong = example("pong")
        found.append(b"\x04" + _json({**pong, "info": {**pong["info"], field: value}}))
    nested: object = 1
    for _ in range(400):
        nested = [nested]
    found.append(b"\x04" + _json({**example("pong"), "info": {"uptime_s": nested}}))
    found.append(b"\x04" + b"\n".join(_install(b"no state of the machine")))
    return found


def _install(data: bytes) -> list[bytes]:
    """A leader's whole snapshot of this data, in one chunk."""
    files = worlds.MemoryFiles()
    SnapshotStore(files).save(SnapshotMeta(99, 2, ("n1", "n2", "n3"), ()), data)
    file = files.found["snapshot"]
    chunk = {
        **example("snapshot_chunk"), "index": 99, "removed": [], "total": len(file), "data": len(file),
        "digest": file[-32:].hex(),
    }  # fmt: skip
    return [_json(chunk) + b"\0" + file]


def _call_bodies() -> list[bytes]:
    bodies = [link.partition(b"\0")[2] for link in _links()[-2 * len(_CALLS) :: 2]]
    huge = _json({"operation": "transfer", "arguments": {"to": None}, "timeout_s": 10**400})
    return [*bodies, huge, b"[" * 100_000]


def _answer(data: bytes) -> None:
    assert type(read_answer(data)) is dict


# --- the state machine ---------------------------------------------------------------------------


def _command(data: bytes) -> None:
    command = decode_command(data)
    # Not by encode_command: it holds senders to 64 bits, the decoder to 20 characters.
    if data[0] == 1:
        tail: list[Any] = [command.automatic, command.time_unix_ms]
    else:
        tail = [command.kind, command.caller, *([command.origin] if command.origin else [])]
    assert data[:1] + canonical_json([*command[:4], *tail]).encode("ascii") == data


def _is_malformed(command: bytes) -> bool:
    try:
        decode_command(command)
    except Malformed:
        return True
    return False


def _audit_lines(machine: ClusterState) -> int:
    return len(machine.audit.chain("trust")) + len(machine.audit.chain("data"))


def _apply(data: bytes) -> None:
    machine = ClusterState()
    machine.apply(1, _commands()[0])
    stamp = stamp_of(data)
    if stamp is not None:
        machine.advance(stamp)
    before = machine.digest()
    for malformed, commands in groupby(decode_batch(data), lambda each: _is_malformed(each[0])):
        for command, after in commands:
            try:
                result = machine.apply(2, command, after)
            except VersionMismatch:  # the node stops: what it holds meanwhile is nobody's
                return
            answer = json.loads(result)
            assert "error" not in answer or answer["error"]["code"] != "internal"
            if malformed or machine.digest() == before:
                continue
            # What changes anything is remembered; but a refusal that is not may leave a line of itself.
            lines = _audit_lines(machine)
            repeated = machine.apply(3, command, after)
            refused = "error" in answer and _audit_lines(machine) == lines + 1
            assert repeated == result or (refused and "error" in json.loads(repeated))
            before = machine.digest()
        # Of thousands in a row together: one digest costs as much as many commands.
        assert machine.digest() == before
    again = ClusterState()
    again.restore(b"".join(machine.begin_snapshot()()))
    assert again.digest() == machine.digest()


def _result(data: bytes) -> None:
    with contextlib.suppress(InternalError):
        refusal_reason(data)
    index, value = decode_result_with_index(data)
    assert type(index) is int
    assert type(value) is dict


def _machine_snapshot(data: bytes) -> None:
    """As it is, and with a right checksum, so that what is behind it is tried."""
    taken = False
    # Version 2 had its checksum in front.
    resealed = (
        data[:1] + sha256(data[33:]).digest() + data[33:]
        if data[:1] in (b"\1", b"\2")
        else _sealed_file(data)
    )
    for attempt in (data, resealed):
        machine = ClusterState()
        machine.apply(1, _commands()[0])
        before = b"".join(machine.begin_snapshot()())
        try:
            machine.restore(attempt)
        except (StorageError, VersionMismatch) as error:
            assert b"".join(machine.begin_snapshot()()) == before
            refused: CyoloctlError = error
        else:
            assert attempt[:1] != b"\3" or b"".join(machine.begin_snapshot()()) == attempt
            taken = True
    if not taken:
        raise refused


# --- the disk ------------------------------------------------------------------------------------


def _sealed_file(data: bytes) -> bytes:
    return data[:-32] + sha256(data[:-32]).digest()


def _snapshot(data: bytes) -> None:
    for attempt in (data, _sealed_file(data)):
        try:
            found = loaded(SnapshotStore(worlds.MemoryFiles(attempt)))
        except (StorageError, VersionMismatch) as error:
            refused: CyoloctlError | None = error
        else:
            assert found is not None
            files = worlds.MemoryFiles()
            assert SnapshotStore(files).save(*found)
            assert attempt[8:9] == b"\1" or files.found["snapshot"] == attempt
            refused = None
    if refused is not None:
        raise refused


def _saved_snapshot(data: bytes) -> None:
    for attempt in (data, _sealed_file(data)):
        try:
            saved = verify_snapshot(BytesIO(attempt), len(attempt), "the file")
        except (StorageError, VersionMismatch, InvalidInput) as error:
            refused: CyoloctlError | None = error
        else:
            assert encode_head(saved.head) + b"".join(saved.parts()) + saved.key_ring() == attempt[:-32]
            refused = None
    if refused is not None:
        raise refused


def _saved_file() -> bytes:
    state = _snapshot_file()[0]
    head = Head("c" * 32, "demo", "n1", "0.2.0", 1, 9, 2, 7, "passphrase", len(state), 4)
    return _sealed_file(encode_head(head) + state + b"ring" + bytes(32))


def _growing_header() -> bytes:
    """A header within its limit, and not when it is written again as it should be."""
    header = '{"index":9,"removed":["%s"],"term":2,"total":0,"voters":[]}' % ("\u00e9" * 1_500_000)
    encoded = header.encode()
    return _sealed_file(b"cyolosnp\x01" + len(encoded).to_bytes(4, "big") + encoded + bytes(32))


def _transfer(data: bytes) -> None:
    """Receive a snapshot from a peer: the digest is right, the rest is as the bytes say."""
    data = _sealed_file(data)
    store = SnapshotStore(worlds.MemoryFiles())
    meta = SnapshotMeta(9, 2, ("n1", "n2", "n3"), ("n9",))
    receiver = store.begin_receive(meta, len(data), data[-32:].hex())
    step = 1 + data[-1] * 16
    offset = 0
    while offset < len(data):
        offset = receiver.write(offset, data[offset : offset + step])
    assert finish(receiver)
    assert store.meta == meta


@functools.cache
def _wal() -> bytes:
    """A write-ahead log of SQLite with three transactions."""
    import sqlite3

    path = worlds.directory() / "seed.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA page_size=512")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t(x)")
    for number in range(2):
        connection.execute("INSERT INTO t VALUES(?)", (number,))
    data = (worlds.directory() / "seed.db-wal").read_bytes()
    connection.close()
    return data


# --- keys and files ------------------------------------------------------------------------------


def _request_text() -> str:
    known = worlds.keys()
    return encode_request(
        NodeRequest(NodeName("n2"), Address("h", 1), known.pending.request_pem, known.pending.sealing_key)
    )


@functools.cache
def _grant() -> dict[str, Any]:
    known = worlds.keys()
    return make_grant(
        ca_cert_pem=known.ca,
        ca_key_pem=known.ca_key,
        request_pem=known.pending.request_pem,
        sealing_key=known.pending.sealing_key,
        name="n2",
        cluster="demo",
        learner=False,
        storage="disk",
        peers={"n1": parse_address("127.0.0.1:1")},
        now=worlds.NOW,
    )


def _signed_request_text() -> str:
    return encode_request(sign_request(worlds.keys().pending, Address("h", 1)))


def _request_file(data: bytes) -> None:
    request = decode_request(_text(data))
    # What counts as signed is what the one key signed that these bytes come from.
    if request.signature is not None:
        good = decode_request(_signed_request_text())
        assert replace(request, signature=None, request_pem="") == replace(
            good, signature=None, request_pem=""
        )


def _sealed_grant(data: bytes) -> None:
    """As the text of a file, and as what is sealed in a right one."""
    pending = worlds.keys().pending
    pki_dir = worlds.keys().second / PKI_DIRECTORY
    try:
        grant = decode_sealed_grant(_text(data))
        assert decode_sealed_grant(encode_sealed_grant(grant)) == grant
    except InvalidInput:
        good = decode_sealed_grant(_sealed_grant_text())
        grant = replace(good, sealed=seal(pending.sealing_key, data, good.info()))
    _accept(open_grant(pki_dir, grant, name="n2", request_pem=pending.request_pem))


@functools.cache
def _sealed_grant_text() -> str:
    pending = worlds.keys().pending
    made = seal_grant(
        {**_grant(), "ca_key_sealed": None},
        request_pem=pending.request_pem,
        sealing_key=pending.sealing_key,
        expires_unix_s=2**31,
    )
    return encode_sealed_grant(made)


def _accept(value: object) -> None:
    """In a directory that holds the keys of the node, and nothing of a cluster."""
    pki_dir = worlds.keys().second / PKI_DIRECTORY
    made = [pki_dir / name for name in ("ca.crt", "ca.key", "node.crt")]
    try:
        accept_grant(pki_dir, value, name="n2")
        assert all(path.exists() for path in (made[0], made[2]))
    except CyoloctlError:
        assert not any(path.exists() for path in made)
        raise
    finally:
        for path in made:
            path.unlink(missing_ok=True)


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    octets = (size.bit_length() + 7) // 8
    long = bytes((0x80 | octets,)) + size.to_bytes(octets, "big")
    return bytes((tag,)) + (long if size > 127 else bytes((size,))) + content


def _signed(content: bytes, pem: str, key_pem: str) -> str:
    """A certificate or request of any content, with a right signature."""
    key = serialization.load_pem_private_key(key_pem.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    algorithm = _der(0x30, bytes.fromhex("06082a8648ce3d040302"))  # ecdsa-with-SHA256
    signature = _der(3, b"\0" + key.sign(content, ec.ECDSA(hashes.SHA256())))
    return _armour(_der(0x30, content, algorithm, signature), pem)


def _armour(der: bytes, what: str) -> str:
    text = base64.b64encode(der).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join((f"-----BEGIN {what}-----", *lines, f"-----END {what}-----", ""))


def _certificate(data: bytes) -> None:
    known = worlds.keys()
    pem = _signed(data, "CERTIFICATE", known.ca_key)
    _accept({**_grant(), "certificate_pem": pem})


def _ca_certificate(data: bytes) -> None:
    known = worlds.keys()
    _accept({**_grant(), "ca_pem": _signed(data, "CERTIFICATE", known.ca_key)})


def _tbs(pem: str) -> bytes:
    return x509.load_pem_x509_certificate(pem.encode()).tbs_certificate_bytes


def _csr(data: bytes) -> None:
    """As it is, and as the content of a rightly signed one."""
    known = worlds.keys()
    try:
        csr_sha256(_text(data))
        public_key_sha256(_text(data))
        check_request(_text(data), "n2", known.pending.sealing_key, known.cluster_id)
    except InvalidInput:
        pem = _signed(data, "CERTIFICATE REQUEST", known.pending.node_key_pem)
        check_request(pem, "n2", known.pending.sealing_key, known.cluster_id)
        csr_sha256(pem)


def _csr_seeds() -> list[bytes]:
    pem = worlds.keys().pending.request_pem
    content = x509.load_pem_x509_csr(pem.encode()).tbs_certrequest_bytes
    # A country of eight letters: the library warns, which is no way to refuse.
    return [pem.encode(), content, content.replace(b"\x06\x03\x55\x04\x0a", b"\x06\x03\x55\x04\x06")]


def _token(data: bytes) -> None:
    """As it is, and as the content of the text form."""
    try:
        token = join_token.decode_token(_text(data))
        assert join_token.encode_token(token) == _text(data).strip()
    except InvalidInput:
        token = join_token.decode_token("cyolojoin2." + base64.urlsafe_b64encode(data).decode().rstrip("="))
    assert token.secret in (token.name, token.cluster) or token.secret not in repr(token)


def _join_request(data: bytes) -> None:
    """As the body of POST /v1/join, and as the signature of a request that is right."""
    known = worlds.keys()
    good = _good_join()
    texts = [_text(data), base64.b64encode(data).decode()]
    asked = join_token.JoinRequest(
        known.cluster_id,
        "n2",
        csr_sha256(good["request_pem"]),
        good["address"],
        good["sealing_key"],
        good["ca_sha256"],
    )
    for text in texts:
        assert not join_token.signed_by(good["public_key"], text, asked) or text == good["signature"]
        assert not join_token.signed_by(text, good["signature"], asked) or text == good["public_key"]
    body = table.path_for("join")[0].read_body(data)
    signed = join_token.JoinRequest(
        known.cluster_id,
        body["name"],
        csr_sha256(body["request_pem"]),
        body["address"],
        body["sealing_key"],
        body["ca_sha256"],
    )
    if join_token.signed_by(good["public_key"], body["signature"], signed):
        # JSON has many spellings; what it says is what was signed, but for the level, which admits nobody.
        unsigned = {"public_key": "", "level": BASE_LEVEL}
        assert {**body, **unsigned} == {**good, **unsigned}


@functools.cache
def _good_join() -> dict[str, Any]:
    return join_body(worlds.SECRET, "n2", worlds.keys().cluster_id)


def _join_request_seeds() -> list[bytes]:
    good = _good_join()
    return [
        _json(good),
        base64.b64decode(good["signature"]),
        good["signature"].encode(),
        good["public_key"].encode(),
        _json({**good, "signature": good["signature"][:-3] + "x=="}),
        _json({**good, "name": "\ud800"}),
    ]


_RING = Keyring([Key(b"\xfc\0\0\1", bytes(32), KeyState.PRIMARY, "c" * 32)])
_SESSION = token_format.new_session("alice", {"mfa": True}, now_unix_s=1_800_000_000, random=bytes)


def _session_token(data: bytes) -> None:
    """As text, as the bytes behind the text, and as the payload of a token that is authentic."""
    front = b"\x54\x01\xfc\0\0\1" + bytes(24)
    okm = token_format._derive(_RING.keys[0], front[:6], bytes(24), "sid", "")
    front += okm[44:]
    sealed = front + AESGCM(okm[:32]).encrypt(okm[32:44], data, front)
    rejected = TokenRejected()
    opened = 0
    for token in (data, _text(data), token_format._text_of(data), token_format._text_of(sealed)):
        try:
            session = token_format.open_token(_RING, token, now_unix_s=1_800_000_000, cookie_name="sid")
        except TokenRejected as error:
            rejected = error
        else:
            opened += 1
            again = token_format.seal(_RING, session, cookie_name="sid", random=bytes)
            assert (
                token_format.open_token(_RING, again, now_unix_s=1_800_000_000, cookie_name="sid") == session
            )
    if not opened:
        raise rejected


def _session_token_seeds() -> list[bytes]:
    token = token_format.seal(_RING, _SESSION, cookie_name="sid", random=bytes)
    data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    return [token.encode(), data, token_format._payload_of(_SESSION)]


_PASSPHRASE = "correct horse battery"


@functools.cache
def _ring() -> ring_file.Ring:
    cluster_id = worlds.keys().cluster_id
    key = Key(b"\xfc\0\0\1", bytes(32), KeyState.PRIMARY, cluster_id)
    retired = Key(b"\xfc\0\0\2", bytes(32), KeyState.ENABLED, cluster_id)
    entries = (ring_file.RingKey(key, 5), ring_file.RingKey(retired, 1, 2, 3))
    return ring_file.Ring(cluster_id, 7 * 86_400, entries)


def _weak_ring_file(ring: ring_file.Ring) -> bytes:
    """Under a passphrase, with parameters that cost nothing."""
    return ring_file._export(ring, _PASSPHRASE, bytes, memory_kib=8, passes=1, lanes=1)


def _ring_file(data: bytes) -> None:
    """As it is, and as the content of a file that the passphrase opens."""
    try:
        ring = ring_file.import_ring(data, passphrase=_PASSPHRASE)
    except (InvalidInput, VersionMismatch, AccessDenied):
        front = _weak_ring_file(_ring()).rpartition(b"\n")[0].rpartition(b"\n")[0] + b"\n"
        derived = ring_file._derive(_PASSPHRASE.encode(), bytes(16), 1, 1, 8)
        sealed = AESGCM(derived[:32]).encrypt(derived[32:], data, front)
        ring = ring_file.import_ring(front + base64.b64encode(sealed) + b"\n", passphrase=_PASSPHRASE)
        assert ring_file._encode_ring(ring) == data
    assert ring_file.import_ring(_weak_ring_file(ring), passphrase=_PASSPHRASE) == ring


@functools.cache
def _node_identity() -> NodeIdentity:
    known = worlds.keys()
    directory = known.first / PKI_DIRECTORY
    sealing_key = known.files.sealing_key
    return NodeIdentity(
        name="n1",
        cluster_id=known.cluster_id,
        certificate_pem=(directory / "node.crt").read_text(),
        sealing_key=sealing_key,
        signature=sign_sealing_key(
            cluster_id=known.cluster_id,
            name="n1",
            sealing_key=sealing_key,
            node_key_pem=(directory / "node.key").read_text(),
        ),
        ca_pem=known.ca,
    )


def _private_key(name: str) -> str:
    return (worlds.keys().first / PKI_DIRECTORY / name).read_text()


def _node_ring_file(data: bytes) -> None:
    """As it is, with a right signature, and as the content of a file that the node opens."""
    first, header, *_ = _node_ring().decode().split("\n")
    attempts = [data]
    lines = data.split(b"\n")
    if len(lines) == 5 and data.isascii():
        front = [line.decode() for line in lines[:3]]
        signature = sign_statement(_private_key("node.key"), ring_file._signed(*front))
        attempts.append("\n".join([*front, signature, ""]).encode())
    body = seal(worlds.keys().files.sealing_key, data, ring_file._signed(first, header))
    signature = sign_statement(_private_key("node.key"), ring_file._signed(first, header, body))
    attempts.append("\n".join([first, header, body, signature, ""]).encode())
    taken = False
    for attempt in attempts:
        try:
            ring = ring_file.import_ring_from_node(
                attempt,
                name="n1",
                cluster_id=worlds.keys().cluster_id,
                ca_pem=worlds.keys().ca,
                sealing_key_pem=_private_key("sealing.key"),
                from_ca=None,
                now=worlds.NOW,
            )
            assert ring_file.import_ring(_weak_ring_file(ring), passphrase=_PASSPHRASE) == ring
            taken = True
        except (InvalidInput, VersionMismatch, AccessDenied) as error:
            refused = error
    if not taken:
        raise refused


@functools.cache
def _node_ring() -> bytes:
    identity = _node_identity()
    return ring_file.export_ring_to_node(
        _ring(),
        to=identity,
        sender=identity,
        node_key_pem=_private_key("node.key"),
        to_ca=None,
        now=worlds.NOW,
    )


def _support_bundle(data: bytes) -> None:
    """As it is, and as what was sealed."""
    key_pem, identity = _private_key("sealing.key"), _node_identity()
    opening = {"name": "n1", "cluster_id": identity.cluster_id, "sealing_key_pem": key_pem}
    assert open_bundle(seal_bundle(data, identity), **opening) == data
    open_bundle(data, **opening)


def _identity_text(data: bytes) -> None:
    identity = decode_identity(_text(data), now=worlds.NOW)
    assert decode_identity(encode_identity(identity), now=worlds.NOW) == identity


def _wrapped_key(data: bytes) -> None:
    """As text, as the bytes behind it, and as a secret that was sealed rightly."""
    key, sealing_key = _ring().keys[0], worlds.keys().files.sealing_key
    sealed = seal(sealing_key, data, _wrap_info(key.cluster_id, key.key_id, "n1"))
    for blob in (_text(data), base64.b64encode(data).decode(), sealed):
        try:
            opened = unwrap(
                blob,
                key_id=key.key_id.hex(),
                cluster_id=key.cluster_id,
                node="n1",
                sealing_key_pem=_private_key("sealing.key"),
                state=key.state.value,
                fingerprint=key.fingerprint,
            )
            assert (opened.secret, opened.key_id) == (key.secret, key.key_id)
            return
        except InvalidInput as error:
            refused = error
    raise refused


def _wrapped_seeds() -> list[bytes]:
    key = _ring().keys[0]
    blob = wrap(key, node="n1", sealing_key=worlds.keys().files.sealing_key)
    return [blob.encode(), base64.b64decode(blob), key.secret]


# --- rendezvous and routes -----------------------------------------------------------------------


def _user_code(data: bytes) -> None:
    letters = codes.normalise_user_code(_text(data))
    assert len(letters) == 8
    assert set(letters) <= set(codes.USER_CODE_ALPHABET)
    shown = f"{letters[:4]}-{letters[4:]}".lower()
    assert codes.hash_user_code(shown) == codes.hash_user_code(_text(data))


_ROUTES: dict[str, Any] = {
    "backends": [
        {"name": "n1", "host": "app-1.example", "address": "10.0.0.1:80", "alive": True, "role": "leader"},
        {"name": "n2", "host": None, "address": "[::1]:8080", "alive": False, "role": "learner"},
    ],
    "shared_hosts": ["app.example.com"],
    "options": {
        "pin": "strict", "listen": "0.0.0.0:443", "tls_certificate": "/etc/a.pem", "backend_tls_ca": "/etc/b",
        "response_timeout_s": 6, "run_dir": "/run/x", "fragment": False,
    },
}  # fmt: skip
_PLAIN = re.compile(r"[ -~\n]*")


def _batch_line(data: bytes) -> None:
    found = batch.read_line(data, 7)
    canonical = encoding.encode_body(found)
    if "op" in found:
        assert batch.check_id(found["id"]) == found["id"]
        assert batch.read_line(canonical, 7) == found or len(canonical) > batch.MAX_LINE_BYTES
    else:
        assert (found["ok"], found["error"]["code"]) == (False, InvalidInput.code)
        assert found["error"]["message"].startswith("line 7: ")


def _export(data: bytes) -> None:
    """Every text and number of a table and its options; the types are the caller's."""
    given = encoding.decode_object(data, "table")
    if not _alike(given, _ROUTES):
        raise InvalidInput
    rows = given["backends"]
    table = RoutingTable(tuple(Backend(**row) for row in rows), tuple(given["shared_hosts"]), 1)
    options = ExportOptions(**given["options"])
    values = [row[key] for row in rows for key in ("name", "host", "address") if row[key] is not None]
    values += [*given["shared_hosts"], *(given["options"][key] for key in _PATHS if given["options"][key])]
    for export in (export_nginx, export_haproxy):
        text = export(table, options)
        assert _PLAIN.fullmatch(text)
        assert text == export(table, options)
    # Nothing that ends a word, a line or a block of either file.
    assert not set("".join(values)) & set(" \n\t;{}\"'\\#$%()*?|<>`~!&,")


_PATHS = ("tls_certificate", "backend_tls_ca", "run_dir", "listen")


def _alike(given: object, model: object) -> bool:
    """Whether a value has the types of another one, text or null for text."""
    if type(model) is dict:
        return (
            type(given) is dict
            and given.keys() == model.keys()
            and all(_alike(given[key], value) for key, value in model.items())
        )
    if type(model) is list:
        return type(given) is list and all(_alike(item, model[0]) for item in given)
    if type(model) is str and given is None:
        return model in (_ROUTES["backends"][0]["host"], "/etc/a.pem", "/etc/b", "/run/x")
    return type(given) is type(model)


def _export_seeds() -> list[bytes]:
    options = {**_ROUTES["options"], "run_dir": None, "fragment": True, "pin": "soft", "listen": ""}
    hostile = [
        {**_ROUTES["backends"][0], key: f"{_ROUTES['backends'][0][key]}{more}"}
        for key in ("name", "host", "address")
        for more in (";", "\n", " {", "%eth0]:1", '"', "\u00e9")
    ]
    return [
        _json(_ROUTES),
        _json({**_ROUTES, "options": options}),
        *(_json({**_ROUTES, "backends": [backend]}) for backend in hostile),
    ]


def _token_seeds() -> list[bytes]:
    known = worlds.keys()
    token = join_token.JoinToken(
        cluster_id=known.files.identity.cluster_id,
        cluster=NodeName("demo"),
        ca_sha256=certificate_sha256(known.ca),
        name=NodeName("n2"),
        learner=True,
        secret=worlds.SECRET,
        expires_unix_s=1_900_000_000,
        members=((NodeName("n1"), Address("10.0.0.1", 7700)), (NodeName("n3"), Address("::1", 7701))),
    )
    text = join_token.encode_token(token)
    encoded = text.partition(".")[2]
    return [text.encode(), base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))]


def _open(data: bytes) -> None:
    known = worlds.keys()
    for text in (_text(data), base64.b64encode(data).decode()):
        try:
            open_sealed(known.pending.sealing_key_pem, text, b"fuzz")
            return
        except InvalidInput as error:
            refused = error
    raise refused


def _sealed_seeds() -> list[bytes]:
    sealed = seal(worlds.keys().pending.sealing_key, b"a secret", b"fuzz")
    return [sealed.encode(), base64.b64decode(sealed)]


_PRIVATE = ("ca.crt", "ca.key", "node.crt", "node.key", "sealing.key", "operator.key")


def _pki_file(data: bytes) -> None:
    """One file of the directory is these bytes; the first byte says which."""
    known = worlds.keys()
    pki_dir = known.first / PKI_DIRECTORY
    name = _PRIVATE[(data[0] if data else 0) % len(_PRIVATE)]
    path = pki_dir / name
    good = path.read_bytes()
    try:
        path.write_bytes(data[1:])
        check_private_files(pki_dir, name="n1", cluster_id=known.cluster_id, now=worlds.NOW)
        server_context(pki_dir)
        read_ca(pki_dir)
    finally:
        path.write_bytes(good)


def _pki_seeds() -> list[bytes]:
    pki_dir = worlds.keys().first / PKI_DIRECTORY
    return [bytes((number,)) + (pki_dir / name).read_bytes() for number, name in enumerate(_PRIVATE)]


def _config(data: bytes) -> None:
    config = load_config(worlds.fill("node.yaml", data))
    assert load_config(worlds.fill("node.yaml", dump_config(config).encode())) == config


def _config_seeds() -> list[bytes]:
    known = worlds.keys()
    config = Config(
        name=NodeName("n1"),
        cluster_id=known.files.identity.cluster_id,
        cluster=NodeName("demo"),
        listen=Address("::", 7700),
        advertise=Address("10.0.0.1", 7700),
        peers={NodeName("n2"): Address("n2.example", 1), NodeName("no"): Address("::1", 2)},
    )
    return [dump_config(config).encode()]


def _credentials(data: bytes) -> None:
    read_credentials(worlds.fill("operator.yaml", data)).context()


def _credentials_seeds() -> list[bytes]:
    known = worlds.keys()
    bundle = make_credentials(
        known.ca, known.ca_key, name="admin", role="operator", now=datetime.now(worlds.NOW.tzinfo)
    )
    return [_json(bundle), _json({**bundle, "ca_pem": "\ud800"}), _json({**bundle, "ca_pem": "\u00e9"})]


# --- HTTP ----------------------------------------------------------------------------------------


def _any_route(reads: Callable[[schema.Route[Any]], bool]) -> None:
    """Every route reads or refuses; raises the last refusal where all do."""
    taken = False
    for route in table.routes():
        try:
            assert reads(route)
            taken = True
        except InvalidInput as error:
            encoding.encode_error(error)
            refused = error
    if not taken:
        raise refused


def _body(data: bytes) -> None:
    _any_route(lambda route: set(route.read_body(data)) == set(route.body_fields))


def _query(data: bytes) -> None:
    text = _text(data)
    path = text.partition("?")[0]
    for method in table.allowed_methods(path):
        found = table.match(method, path)
        assert found is not None
        if found[0].has_name:
            schema.check_name(found[1])
    _any_route(lambda route: set(route.read_query(text)) == set(route.query_fields))


def _body_seeds() -> list[bytes]:
    known = worlds.keys()
    return [
        b'{"by":9223372036854775807,"request_id":"r1"}',
        b'{"name":"n2","learner":true,"ttl_s":3600}',
        b'{"force":true,"dry_run":false}',
        b'{"to":null}',
        b"{}",
        _json(join_body(worlds.SECRET, "n2", known.cluster_id, address="[::1]:7700")),
    ]


def _requests() -> list[bytes]:
    found = []
    for route in table.routes():
        path = route.template.replace("{name}", "n1")
        for body in _body_seeds()[:5] if route.body else [b""]:
            head = f"{route.method} {path}?timeout_s=1.5 HTTP/1.1\r\nHost: x\r\n"
            found.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    chunked = b"POST /v1/counters/c/increment HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    found += [
        chunked + b'\r\n4\r\n{"by\r\n5;x=y\r\n": 1}\r\n0\r\nTrailer: x\r\n\r\n',
        chunked + b"Expect: 100-continue\r\nContent-Encoding: gzip\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        found[0] * 3,
        b"OPTIONS * HTTP/1.0\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\nmore",
    ]
    return found


def _pipelines() -> list[bytes]:
    """Requests of one connection after two bytes for how they are cut."""
    get, post = b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /2 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
    chunked = b"POST /3 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
    last = [
        b"GET /4 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET /4 HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET /4 HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        chunked + b"\r\n3\r\nabc\r\nnonsense",
        b"POST /4 HTTP/1.1\r\nContent-Length: " + b"0" * 5000 + b"3\r\n\r\nabc",
        b"GET /4 HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
    ]
    whole = (
        chunked
        + b"Expect: 100-continue\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\n"
        + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n"
    )
    return [
        *(b"%d%b" % (number + 10, get + post + whole + each + get) for number, each in enumerate(last)),
        b"20" + get * 1000,
        b"21" + (get + post.replace(b": 3", b": 9000") + bytes(8997)) * 3,
    ]


def _answers() -> list[bytes]:
    counter = b'{"schema_version":1,"name":"c","value":1,"value_string":"1","index":5}'
    error = b'{"schema_version":1,"error":{"code":"no_leader","message":"no leader"}}'
    head = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    line = counter + b"\n"
    return [
        b"HTTP/1.1 200 OK\r\n" + head % len(counter) + counter,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Service Unavailable\r\n" + head % len(error) + error,
        b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + counter,
        chunked + b"%x\r\n%b\r\n" % (len(line), line) * 2 + b"0\r\n\r\n",
        chunked + b"%x;a=b\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(error), error),
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\n\r\n<html>",
    ]


def _export_file_lines() -> list[bytes]:
    lines = Lines("trust", AuditLimits())
    for number in range(3):
        context = ("ann", "operator", "c" * 32, "socket", "n1", "keys.generate")
        lines.append((common_of("trust", context), 1, number, "done", f"r{number}", "fc0a1b2c", number))
    return [f"{canonical_json(line)}\n".encode() for line in lines.page(1, 10)]


def _export_file(data: bytes) -> None:
    verifier, size = read_export(BytesIO(data), "export", torn=True)
    again, whole = read_export(BytesIO(data[:size]), "export")
    assert (again.ends, whole) == (verifier.ends, size)
    assert data[:size].endswith(b"\n") or not size


def _export_file_seeds() -> list[bytes]:
    lines = _export_file_lines()
    return [b"".join(lines), lines[1] + lines[2], lines[0][:-1], b""]


# --- the table -----------------------------------------------------------------------------------


TARGETS: tuple[Target, ...] = (
    Target(
        "peer-frame",
        "Any bytes give a message or PeerProtocolError.",
        (PeerProtocolError,),
        _frame,
        _payloads,
    ),
    Target(
        "peer-stream",
        "Any bytes in pieces of any size give the same frames within the limit, or PeerProtocolError.",
        (PeerProtocolError,),
        _stream,
        lambda: [b"".join(encode(example(kind)) for kind in MESSAGE_TYPES)],
    ),
    Target(
        "peer-link",
        "Whatever a voter, a learner or an unknown node with a certificate sends, the node answers its API, "
        "logs no bug and does not end; only a voter moves its term or cuts its log.",
        (),
        worlds.peer_link,
        lambda: _links() + _broken_links(),
        slow=True,
    ),
    Target(
        "replica-message",
        "Any messages in any order leave the replica running and saying only messages; same bound.",
        (),
        worlds.replica_hears,
        _lines,
        slow=True,
    ),
    Target(
        "peer-call",
        "The body of a peer's request, any bytes, gives an answer that is no internal error.",
        (),
        worlds.peer_call,
        _call_bodies,
        slow=True,
    ),
    Target(
        "peer-answer",
        "The answer of a peer to our request, any bytes, gives an object or an error of errors.py.",
        (CyoloctlError,),
        _answer,
        lambda: [
            b'{"value":{"leader":"n1"}}',
            b'{"error":{"code":"conflict","message":"no"}}',
            b"[" * 100_000,
        ],
    ),
    Target(
        "forwarded-result",
        "Any bytes as the leader's answer to a forwarded write give a counter or an error of errors.py.",
        (CyoloctlError,),
        worlds.leader_answers,
        lambda: [
            b'{"index":7,"value":{"name":"c","value":5}}',
            b'{"error":{"code":"conflict","message":"no"},"index":7}',
            b'{"index":7,"value":{}}',
            b'{"index":7,"value":{"name":"c","value":[]}}',
        ],
        slow=True,
    ),
    Target(
        "membership-entry",
        "Any bytes in the log are a membership change or none.",
        (),
        decode_membership,
        lambda: [encode_membership(operation, "n2") for operation in ("add", "demote", "remove")],
    ),
    Target(
        "batch-entry",
        "Any bytes in the log are commands, and what follows the last whole one is ignored.",
        (),
        lambda data: [data.index(command) for command, _ in decode_batch(data)],
        lambda: [_batch(_commands()), _old_batch()],
    ),
    Target(
        "command",
        "Any bytes give a Command, of which they are the one encoding, or Malformed.",
        (Malformed,),
        _command,
        _commands,
    ),
    Target(
        "apply",
        "Any committed bytes give an answer that is no internal error; malformed ones change nothing.",
        (),
        _apply,
        lambda: [_batch(_commands()), _old_batch(), *(_batch([command]) for command in _commands())],
    ),
    Target(
        "command-result",
        "Any bytes give an index and an object, or an error of errors.py.",
        (CyoloctlError,),
        _result,
        lambda: [ClusterState().apply(7, command) for command in _commands()],
    ),
    Target(
        "machine-snapshot",
        "Any bytes give exactly their state, or StorageError or VersionMismatch and the state as it was.",
        (StorageError, VersionMismatch),
        _machine_snapshot,
        lambda: [_snapshot_file()[0], _old_snapshot()],
    ),
    Target(
        "snapshot-file",
        "Any bytes give the snapshot that is written as them, or StorageError or VersionMismatch.",
        (StorageError, VersionMismatch),
        _snapshot,
        lambda: [_snapshot_file()[1], _growing_header()],
    ),
    Target(
        "saved-snapshot",
        "Any bytes are the snapshot of a file, or StorageError, VersionMismatch or InvalidInput.",
        (StorageError, VersionMismatch, InvalidInput),
        _saved_snapshot,
        lambda: [_saved_file()],
    ),
    Target(
        "snapshot-transfer",
        "Any bytes in chunks become the snapshot that was announced, or InvalidInput or VersionMismatch.",
        (InvalidInput, VersionMismatch),
        _transfer,
        lambda: [_snapshot_file()[1]],
    ),
    Target(
        "journal-wal",
        "Any bytes as the journal's write-ahead log are accepted or StorageError.",
        (StorageError,),
        lambda data: check_wal(worlds.fill("wal", data)),
        lambda: [_wal()],
    ),
    Target(
        "join-token",
        "Any text gives a JoinToken, of which it is the one form, or InvalidInput.",
        (InvalidInput,),
        _token,
        _token_seeds,
    ),
    Target(
        "join-request",
        "Any bytes are no join, or InvalidInput or BodyTooLarge; no signature but the right one holds.",
        (InvalidInput, BodyTooLarge),
        _join_request,
        _join_request_seeds,
    ),
    Target(
        "session-token",
        "Any text, bytes or authentic payload gives a Session that seals and opens again, or TokenRejected.",
        (TokenRejected,),
        _session_token,
        _session_token_seeds,
    ),
    Target(
        "request-file",
        "Any text gives a NodeRequest, or InvalidInput or VersionMismatch.",
        (InvalidInput, VersionMismatch),
        _request_file,
        lambda: [_request_text().encode(), _signed_request_text().encode()],
    ),
    Target(
        "certificate-request",
        "Any bytes, rightly signed or not, are a good request or InvalidInput.",
        (InvalidInput,),
        _csr,
        _csr_seeds,
    ),
    Target(
        "grant-file",
        "Any text is accepted as a grant, or InvalidInput or VersionMismatch and nothing is written.",
        (InvalidInput, VersionMismatch),
        lambda data: _accept(decode_grant(_text(data))),
        lambda: [json.dumps(_grant()).encode()],
    ),
    Target(
        "sealed-grant",
        "Any text or sealed bytes are accepted as a grant, or one of the errors, and nothing is written.",
        (InvalidInput, VersionMismatch, AccessDenied),
        _sealed_grant,
        lambda: [_sealed_grant_text().encode(), canonical_json({**_grant(), "ca_key_sealed": None}).encode()],
    ),
    Target(
        "granted-certificate",
        "A certificate of any content that the CA signed is accepted or InvalidInput.",
        (InvalidInput,),
        _certificate,
        lambda: [_tbs(_grant()["certificate_pem"])],
    ),
    Target(
        "granted-ca",
        "A CA certificate of any content is accepted or InvalidInput.",
        (InvalidInput,),
        _ca_certificate,
        lambda: [_tbs(_grant()["ca_pem"])],
    ),
    Target(
        "ring-file",
        "Any bytes, encrypted or not, are a key ring, or InvalidInput, VersionMismatch or AccessDenied.",
        (InvalidInput, VersionMismatch, AccessDenied),
        _ring_file,
        lambda: [_weak_ring_file(_ring()), ring_file._encode_ring(_ring())],
        slow=True,
    ),
    Target(
        "node-ring-file",
        "Any bytes, signed and sealed or not, are a key ring, or the same three errors.",
        (InvalidInput, VersionMismatch, AccessDenied),
        _node_ring_file,
        lambda: [_node_ring(), ring_file._encode_ring(_ring())],
        slow=True,
    ),
    Target(
        "support-bundle",
        "Any bytes, sealed or not, are what was sealed, or InvalidInput, VersionMismatch or AccessDenied.",
        (InvalidInput, VersionMismatch, AccessDenied),
        _support_bundle,
        lambda: [seal_bundle(b"a tar.gz", _node_identity()), b"cyoloctl support-bundle 2 node\n"],
    ),
    Target(
        "node-identity",
        "Any text gives a NodeIdentity whose signature holds, or InvalidInput.",
        (InvalidInput,),
        _identity_text,
        lambda: [
            encode_identity(_node_identity()).encode(),
            # Half of a surrogate pair: canonical JSON, and no text that could be encoded.
            encode_identity(replace(_node_identity(), sealing_key="\ud800")).encode(),
        ],
    ),
    Target(
        "wrapped-key",
        "Any text, bytes or sealed secret gives the key with that fingerprint, or InvalidInput.",
        (InvalidInput,),
        _wrapped_key,
        _wrapped_seeds,
    ),
    Target(
        "user-code",
        "Any text gives 8 letters of the alphabet, the same for every way to write them, or InvalidInput.",
        (InvalidInput,),
        _user_code,
        lambda: [b"WDJB-MJHT", b"wdjb mjht", "wdjb-mjh\u017f".encode()],
    ),
    Target(
        "route-export",
        "Any texts of a table give files in which each is one word, or InvalidInput or Conflict.",
        (InvalidInput, Conflict),
        _export,
        _export_seeds,
    ),
    Target(
        "batch-line",
        "Any bytes are an operation with an id, or the result that says why they are none.",
        (),
        _batch_line,
        lambda: [
            b'{"id":"1","op":"counter_increment","name":"x","by":2}',
            b'{"id":7,"op":"kv_txn","then":[{"op":"put","key":"a","value":"b"}]}',
            b'{"id":"","op":1}',
            b"[" * 100_000,
        ],
    ),
    Target("sealed-blob", "Any bytes are opened or InvalidInput.", (InvalidInput,), _open, _sealed_seeds),
    Target(
        "key-files",
        "Any bytes in a file of DIR/pki are used or ConfigError.",
        (ConfigError,),
        _pki_file,
        _pki_seeds,
    ),
    Target(
        "node-yaml",
        "Any bytes give a Config, or ConfigError or VersionMismatch.",
        (ConfigError, VersionMismatch),
        _config,
        _config_seeds,
    ),
    Target(
        "audit-export",
        "Any bytes are an export, whose lines follow one another, or AuditBroken; ended lines are kept.",
        (AuditBroken,),
        _export_file,
        _export_file_seeds,
    ),
    Target(
        "credentials-file",
        "Any bytes give credentials, or ConfigError or VersionMismatch.",
        (ConfigError, VersionMismatch),
        _credentials,
        _credentials_seeds,
    ),
    Target("api-body", "Any bytes give a route's body or InvalidInput.", (InvalidInput,), _body, _body_seeds),
    Target(
        "api-query",
        "Any text gives a route's query or InvalidInput.",
        (InvalidInput,),
        _query,
        lambda: [
            b"consistency=stale&limit=10&after=n1&timeout_s=2.5",
            b"timeout_s=300",
            b"%61fter=%6E1&limit=%31",
            b"/v1/counters/c/increment?timeout_s=1",
        ],
    ),
    Target(
        "api-server",
        "Any request gives an HTTP answer, not 500, or a closed connection, and the next one is served.",
        (),
        worlds.ask_server,
        _requests,
        slow=True,
    ),
    Target(
        "http-connection",
        "Any bytes in pieces of any size give the same requests, and answers or a closed connection.",
        (),
        connections.in_any_split,
        _pipelines,
        slow=True,
    ),
    Target(
        "api-client",
        "Any bytes from a server give objects or an error of errors.py.",
        (CyoloctlError,),
        worlds.ask_client,
        _answers,
    ),
)
"""Every decoder.  A new one is one more line: name, contract, errors, callable, seeds."""

BY_NAME = {target.name: target for target in TARGETS}
