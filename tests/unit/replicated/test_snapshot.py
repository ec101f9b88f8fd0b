"""Snapshots of the cluster's state: of every version, damaged in every way, and of one moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from typing import Any

import pytest

from cyoloctl import errors
from cyoloctl.replicated.command import encode_command as new_command
from cyoloctl.replicated.requests import TableLimits
from cyoloctl.replicated.stream import DIGEST_BYTES, StreamReader, frame, row_frames
from cyoloctl.state import ClusterState
from tests.support.old_commands import encode_command
from tests.support.results import decode_result
from tests.support.states import head_and_tables, version_2
from tests.unit.test_state import HOUR_MS, MINUTE_MS, add, code_of, limited


def filled() -> ClusterState:
    cluster = ClusterState()
    for n in range(5):
        cluster.apply(n, add(f"c{n}", n, name=f"n{n}", time_unix_ms=n))
        cluster.apply(n, add(f"a{n}", -n, name=f"n{n}", automatic=True, time_unix_ms=n))
    return cluster


def seal(content: bytes) -> bytes:
    return b"\x02" + sha256(content).digest() + content


def test_restore_of_a_snapshot_gives_the_same_state_and_answers() -> None:
    cluster = filled()
    other = ClusterState()
    other.restore(b"".join(cluster.begin_snapshot()()))
    assert b"".join(other.begin_snapshot()()) == b"".join(cluster.begin_snapshot()())
    assert other.digest() == cluster.digest()
    assert other.time_unix_ms == cluster.time_unix_ms
    assert other.counters.list(None, 9) == cluster.counters.list(None, 9)
    again = add("c3", 3, name="n3")
    assert other.apply(99, again) == cluster.apply(99, again)


def test_restore_keeps_machines_and_observers_and_tells_on_restore() -> None:
    cluster = ClusterState()
    counters, calls = cluster.counters, list[str]()
    cluster.counters.on_change = lambda name, index: calls.append(f"{name}={counters.get(name)}@{index}")
    cluster.on_restore = lambda: calls.append(f"restored {counters.get('n4')}")
    cluster.restore(b"".join(filled().begin_snapshot()()))
    cluster.apply(70, add("x", 1, name="n4"))
    assert cluster.counters is counters
    assert calls == ["restored 0", "n4=1@70"]


def test_restore_observer_that_raises_is_ignored() -> None:
    cluster = ClusterState()
    cluster.on_restore = lambda: 1 // 0  # type: ignore[assignment]  # the point of the test
    cluster.restore(b"".join(filled().begin_snapshot()()))
    assert cluster.digest() == filled().digest()


def test_restore_keeps_the_horizon() -> None:
    cluster = ClusterState()
    late = add("late", automatic=True, time_unix_ms=1)
    cluster.apply(1, late)
    cluster.apply(2, add("x", automatic=True, time_unix_ms=5 * MINUTE_MS + 1))
    other = ClusterState()
    other.restore(b"".join(cluster.begin_snapshot()()))
    assert code_of(other.apply(3, late)) == "outcome_unknown"


def test_snapshot_of_the_same_state_by_another_history_is_the_same_bytes() -> None:
    names = ["b", "a", "d", "c"]
    snapshots = set()
    for order in (names, sorted(names), names[::-1]):
        cluster = ClusterState()
        for n, name in enumerate(order):
            cluster.apply(n, add(f"r{name}", 1, name=name))
        cluster.apply(9, add("last", 1, name="a", time_unix_ms=25 * HOUR_MS))
        snapshots.add(b"".join(cluster.begin_snapshot()()))
    assert len(snapshots) == 1


def test_restore_of_a_snapshot_without_a_machine_makes_that_one_empty() -> None:
    cluster = filled()
    sub = {"sub": "ann", "issued_before_unix_s": 0, "until_unix_ms": HOUR_MS}
    head, tables = head_and_tables(cluster)
    for name in ("keys", "sessions"):
        del head["machines"][name]
    text = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
    other = ClusterState()
    command = encode_command("sessions", "revoke_sub", sub, request_id="s", automatic=False, time_unix_ms=1)
    other.apply(1, command)
    assert len(other.sessions) == 1
    other.restore(seal(len(text).to_bytes(4, "big") + text + tables))
    assert len(other.sessions) == 0
    assert b"".join(other.begin_snapshot()()) == b"".join(cluster.begin_snapshot()())


@pytest.mark.parametrize("encode", [lambda state: b"".join(state.begin_snapshot()()), version_2])
def test_restored_table_knows_what_was_forgotten_before(encode: Callable[[ClusterState], bytes]) -> None:
    one = TableLimits(soft=1, keep_ms=0, hard=1, expiry_ms=HOUR_MS)
    cluster, again = limited(client=one), limited(client=one)
    job = new_command("counter", "add", {"name": "c", "by": 1}, request_id="job")
    cluster.apply(10, job, 9)
    cluster.apply(11, new_command("counter", "add", {"name": "c", "by": 1}, request_id="newer"), 10)
    again.restore(encode(cluster))
    assert code_of(again.apply(12, job, 9)) == "outcome_unknown"


def test_restore_of_another_version_is_a_version_mismatch() -> None:
    with pytest.raises(errors.VersionMismatch, match="version 4"):
        ClusterState().restore(b"\x04" + b"".join(filled().begin_snapshot()())[1:])


def damaged_snapshots() -> dict[str, bytes]:
    good = version_2(filled())
    content = good[33:]
    length = int.from_bytes(content[:4], "big")
    head, tables = content[4 : 4 + length], content[4 + length :]

    def with_head(new: bytes, rest: bytes = tables) -> bytes:
        return seal(len(new).to_bytes(4, "big") + new + rest)

    def changed(old: bytes, new: bytes) -> bytes:
        assert old in head
        return with_head(head.replace(old, new, 1))

    assert with_head(head) == good
    client_entry = tables[4 : 4 + 1 + 2]
    return {
        "empty": b"",
        "version only": b"\x02",
        "version only, of release 0.1.0": b"\x01",
        "cut": good[:-1],
        "longer": good + b"\x00",
        "checksum": good[:1] + bytes([good[1] ^ 1]) + good[2:],
        "no content": seal(b""),
        "head beyond the end": seal(b"\xff\xff\xff\xff" + content[4:]),
        "head not json": with_head(b"nope"),
        "head a list": with_head(b"[]"),
        "head deep": with_head(b"[" * 200_000),
        "head with a space": with_head(head.replace(b",", b", ", 1)),
        "field missing": with_head(head.replace(b'"horizon_unix_ms":-1,', b"")),
        "time bool": changed(b'"time_unix_ms":4', b'"time_unix_ms":true'),
        "time negative": changed(b'"time_unix_ms":4', b'"time_unix_ms":-4'),
        "horizons missing": changed(b'"horizons":', b'"horizon":'),
        "horizon of one kind missing": changed(b'"browser":-1,', b""),
        "horizon a bool": changed(b'"client":-1', b'"client":true'),
        "steady time before its requests": changed(b'"steady_ms":4', b'"steady_ms":3'),
        "epoch negative": changed(b'"epoch":0', b'"epoch":-1'),
        "history no list": changed(b'"history":[]', b'"history":{}'),
        "history of nothing": changed(b'"history":[]', b'"history":[[]]'),
        "horizon below -1": changed(b'"horizon_unix_ms":-1', b'"horizon_unix_ms":-2'),
        "machine with another name": changed(b'"counter"', b'"countes"'),
        "machine unknown": changed(b'"credentials"', b'"countes":{},"credentials"'),
        "counter a list": changed(b'{"n0":0,"n1":0,"n2":0,"n3":0,"n4":0}', b"[]"),
        "counter with a bad name": changed(b'"n0"', b'"N0"'),
        "counter too large": changed(b'"n0":0', b'"n0":9223372036854775808'),
        "counter a float": changed(b'"n0":0', b'"n0":0.0'),
        "tables missing": with_head(head, b""),
        "one table": with_head(head, b"\x00\x00\x00\x00"),
        "five tables": with_head(head, tables + b"\x00\x00\x00\x00"),
        "too many requests": with_head(head, b"\xff\xff\xff\xff" + tables[4:]),
        "request id with a space": with_head(head, tables.replace(client_entry, b"\x02c ", 1)),
        "request id twice": with_head(head, tables.replace(b"\x02c1", b"\x02c0", 1)),
    }


@pytest.mark.parametrize("data", damaged_snapshots().values(), ids=damaged_snapshots().keys())
def test_restore_of_a_damaged_snapshot_is_a_storage_error_and_changes_nothing(data: bytes) -> None:
    cluster = ClusterState()
    cluster.apply(1, add("mine", 77))
    before = cluster.digest()
    with pytest.raises(errors.StorageError, match="damaged"):
        cluster.restore(data)
    assert cluster.digest() == before
    assert cluster.counters.list(None, 5) == [("default", 77)]


def test_snapshot_of_which_any_byte_was_changed_is_a_storage_error_and_changes_nothing() -> None:
    good = b"".join(filled().begin_snapshot()())
    cluster = ClusterState()
    before = cluster.digest()
    for position in range(1, len(good)):
        for damaged in (
            good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :],
            good[:position],
        ):
            with pytest.raises(errors.StorageError, match="damaged"):
                cluster.restore(damaged)
    with pytest.raises(errors.StorageError, match="follows"):
        cluster.restore(good + b"x")
    assert cluster.digest() == before
    cluster.restore(good)
    assert cluster.digest() == filled().digest()


def _sealed_and_wrong() -> dict[str, bytes]:
    """Snapshots of which the checksum is right: nobody made them by accident."""
    good = b"".join(filled().begin_snapshot()())
    reader = StreamReader(BytesIO(good))
    version, frames = reader.take(1), [reader.frame() for _ in range(5)]
    tables = reader.rest()[:-DIGEST_BYTES]
    head, clients, *others = frames

    def made(*parts: bytes, end: bytes = tables) -> bytes:
        content = version + b"".join(map(frame, parts)) + end
        return content + sha256(content).digest()

    def with_rows(rows: list[Any]) -> bytes:
        first = b"".join(row_frames([[f"n{n}", 0] for n in range(5)]))
        assert tables.startswith(first)
        return made(*frames, end=b"".join(row_frames(rows)) + tables[len(first) :])

    assert made(*frames) == good
    return {
        "head no json": made(b"nope", clients, *others),
        "machine unknown": made(
            head.replace(b'"credentials"', b'"countes":{},"credentials"'), clients, *others
        ),
        "counters not in their table": made(
            head.replace(b'"counter":{}', b'"counter":{"a":1}'), clients, *others
        ),
        "requests longer than they are": made(head, clients + b"\0", *others),
        "requests of nobody": made(head, b"", *others),
        "requests of three kinds": made(head, clients, *others[:2], end=tables),
        "rows out of order": with_rows([["n1", 0], ["n0", 0]]),
        "row twice": with_rows([["n1", 0], ["n1", 0]]),
        "row of nothing": with_rows([["n1"]]),
        "row that is none": with_rows([5]),
        "table that has no end": made(*frames, end=tables[:-4]),
        "table too many": made(*frames, end=tables + bytes(4)),
    }


@pytest.mark.parametrize("data", _sealed_and_wrong().values(), ids=_sealed_and_wrong().keys())
def test_snapshot_that_is_sealed_and_was_never_made_is_a_storage_error_and_changes_nothing(
    data: bytes,
) -> None:
    cluster = filled()
    before = cluster.digest()
    with pytest.raises(errors.StorageError, match="damaged"):
        cluster.restore(data)
    assert cluster.digest() == before


def test_snapshot_that_is_read_changes_nothing_before_it_is_put_in_place() -> None:
    """It is read in another thread, while commands are applied to the state that is there."""
    cluster, told = ClusterState(), list[str]()
    cluster.apply(1, add("mine", 77))
    cluster.on_restore = lambda: told.append("restored")
    before = cluster.digest()
    commit = cluster.prepare_restore(BytesIO(b"".join(filled().begin_snapshot()())))
    assert (cluster.digest(), told) == (before, [])
    assert decode_result(cluster.apply(2, add("meanwhile", 1))) == {"name": "default", "value": 78}
    commit()
    assert (cluster.digest(), told) == (filled().digest(), ["restored"])


def test_snapshot_of_before_machines_had_tables_gives_the_same_state() -> None:
    cluster, other = filled(), ClusterState()
    sub = {"sub": "ann", "issued_before_unix_s": 0, "until_unix_ms": HOUR_MS}
    cluster.sessions.apply("revoke_sub", sub, 90, cluster.time_unix_ms)
    cluster.sessions.apply(
        "revoke_sid", {"sid": "A" * 22, "until_unix_ms": HOUR_MS}, 91, cluster.time_unix_ms
    )
    put = {"key": "k", "value": "dmFsdWU=", "if_revision": None, "ttl_ms": None, "fence": None}
    cluster.kv.apply("put", put, 92, cluster.time_unix_ms)
    other.restore(version_2(cluster))
    assert b"".join(other.begin_snapshot()()) == b"".join(cluster.begin_snapshot()())


def test_snapshot_is_read_in_parts_of_any_size() -> None:
    good = b"".join(filled().begin_snapshot()())

    class Slow(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(7, size or 7))

    other = ClusterState()
    other.restore(Slow(good))
    assert other.digest() == filled().digest()


def test_snapshot_that_was_begun_is_of_that_moment_whatever_is_applied_meanwhile() -> None:
    cluster, lock = filled(), {"holder": "1" * 32, "owner": "h 1", "by": "root", "ttl_ms": 60_000}
    cluster.locks.apply("acquire", {"name": "held", **lock}, 999, cluster.time_unix_ms)
    expected = b"".join(cluster.begin_snapshot()())
    encode = cluster.begin_snapshot()
    for number in range(50):
        cluster.apply(
            1000 + number,
            new_command("counter", "add", {"name": f"later{number}", "by": 1}, request_id=f"later{number}"),
        )
    cluster.locks.apply("acquire", {"name": "later", **lock}, 2000, cluster.time_unix_ms)
    cluster.members._members.clear()
    cluster.rendezvous._records.clear()
    cluster.sessions._sids.rows.clear()
    assert b"".join(cluster.begin_snapshot()()) != expected
    assert b"".join(encode()) == expected
