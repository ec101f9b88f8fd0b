"""Snapshots of release 0.1.0: read to the state that they held there."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest

from cyoloctl import errors
from cyoloctl.model import Stamp
from cyoloctl.replicated.command import decode_command
from cyoloctl.state import ClusterState
from tests.support.old_commands import encode_command

MINUTE_MS = 60_000


def add(request_id: str, by: int = 1, *, automatic: bool = False, time_unix_ms: int = 0) -> bytes:
    return encode_command(
        "counter",
        "add",
        {"name": "default", "by": by},
        request_id=request_id,
        automatic=automatic,
        time_unix_ms=time_unix_ms,
    )


def code_of(result: bytes) -> str | None:
    error = json.loads(result).get("error")
    return None if error is None else str(error["code"])


def old_snapshot(
    *, time_ms: int = 50, horizon_ms: int = 7, tables: bytes | None = None, **head: Any
) -> bytes:
    """A snapshot as release 0.1.0 wrote it: a counter of 3, and one answer to a client and to a node each."""
    answers = {"c": add("c", 3, time_unix_ms=20), "n": add("n", 3, automatic=True, time_unix_ms=20)}
    if tables is None:
        tables = b"".join(
            (1).to_bytes(4, "big") + old_entry(name, decode_command(command).digest)
            for name, command in answers.items()
        )
    machines = {"counter": {"default": 3}}
    fields = {"horizon_unix_ms": horizon_ms, "machines": machines, "time_unix_ms": time_ms, **head}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    content = len(text).to_bytes(4, "big") + text + tables
    return b"\x01" + sha256(content).digest() + content


def old_entry(
    name: str, digest: bytes, *, applied_ms: int = 20, proposed_ms: int = 20, result: bytes | None = None
) -> bytes:
    result = b'{"index":4,"value":{"name":"default","value":3}}' if result is None else result
    record = digest + applied_ms.to_bytes(8, "big") + proposed_ms.to_bytes(8, "big") + result
    return bytes([len(name)]) + name.encode() + len(record).to_bytes(4, "big") + record


def test_restore_of_a_snapshot_of_release_0_1_0_gives_its_time_answers_and_horizon() -> None:
    cluster, again = ClusterState(), ClusterState()
    cluster.restore(old_snapshot())
    assert cluster.counters.get("default") == 3
    assert cluster.stamp() == Stamp(0, 50, 50)
    before = cluster.digest()
    for automatic, name in ((False, "c"), (True, "n")):
        told = cluster.apply(9, add(name, 3, automatic=automatic, time_unix_ms=20))
        assert json.loads(told) == {"index": 4, "value": {"name": "default", "value": 3}}
    assert code_of(cluster.apply(10, add("late", automatic=True, time_unix_ms=7))) == "outcome_unknown"
    assert cluster.digest() == before
    again.restore(b"".join(cluster.begin_snapshot()()))
    for one in (cluster, again):
        # What is forgotten now takes the horizon to the time that its proposer gave.
        one.apply(11, add("later", automatic=True, time_unix_ms=5 * MINUTE_MS + 60))
        assert code_of(one.apply(12, add("n", 3, automatic=True, time_unix_ms=20))) == "outcome_unknown"
    assert again.digest() == cluster.digest()


@pytest.mark.parametrize(
    "data",
    [
        old_snapshot(time_ms=-1, horizon_ms=-1),
        old_snapshot(time_ms=2**53 + 1),
        old_snapshot(time_ms=19),
        old_snapshot(horizon_ms=51),
        old_snapshot(horizon_ms=-2),
        old_snapshot(horizons={}),
        old_snapshot() + b"\0",
        old_snapshot(tables=bytes(9)),
        old_snapshot(tables=bytes(4)),
        old_snapshot(tables=b"\0\0\0\2" + 2 * old_entry("c", bytes(8)) + bytes(4)),
        old_snapshot(tables=b"\0\0\0\1" + old_entry("c", bytes(8), proposed_ms=21) + bytes(4)),
        old_snapshot(tables=b"\0\0\0\1" + old_entry("c", bytes(8), result=b'{"value":{}}') + bytes(4)),
        old_snapshot(tables=b"\0\0\0\1" + old_entry("c", bytes(8), result=b"[]") + bytes(4)),
        old_snapshot(tables=b"\0\0\0\1" + old_entry("c", bytes(8), result=b'{"index":-1}') + bytes(4)),
    ],
)
def test_restore_of_a_damaged_snapshot_of_release_0_1_0_changes_nothing(data: bytes) -> None:
    cluster = ClusterState()
    with pytest.raises(errors.StorageError, match="damaged"):
        cluster.restore(data)
    assert cluster.digest() == ClusterState().digest()
