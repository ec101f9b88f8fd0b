"""The beginning of a state's snapshot: horizons, remembered ids, what is no table; of every version."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cyoloctl.errors import VersionMismatch
from cyoloctl.model import Stamp
from cyoloctl.replicated.checks import json_object
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS
from cyoloctl.replicated.requests import Forgotten, RequestLimits, RequestTable
from cyoloctl.replicated.stream import StreamReader
from cyoloctl.text import parse_canonical_json

__all__ = ["KINDS", "SNAPSHOT_VERSION", "Remembered", "SnapshotHead", "new_tables", "read_head"]

SNAPSHOT_VERSION = 3
_OLDEST_VERSION = 1
_WHOLE_VERSIONS = (_OLDEST_VERSION, 2)
_LENGTH = struct.Struct(">I")


@dataclass(slots=True)
class Remembered:
    """The requests of a kind.  horizon: the highest index of what it has forgotten."""

    requests: RequestTable
    horizon: int = -1

    def forget(self, steady_ms: int) -> None:
        """Drop what the limits no longer keep."""
        self.forgot(self.requests.forget(steady_ms))

    def forgot(self, forgotten: Forgotten) -> None:
        """These were dropped."""
        if forgotten.log_index > self.horizon:
            self.horizon = forgotten.log_index


KINDS = ("client", "node", "browser", "refused")
"""The order of the tables in a snapshot."""


def new_tables(limits: RequestLimits) -> dict[str, Remembered]:
    """One of each kind, empty."""
    return {kind: Remembered(RequestTable(limits.of(kind))) for kind in KINDS}


@dataclass(slots=True)
class SnapshotHead:
    """What a snapshot begins with.

    stamp: of an old one, whose machines knew no other time.
    rows: gives the rows of the next table; None where they are in the machines' states.
    """

    horizon_unix_ms: int
    tables: dict[str, Remembered]
    machines: Any
    stamp: Stamp | None = None
    rows: Callable[[], Iterator[Any]] | None = None


def read_head(reader: StreamReader, limits: RequestLimits) -> SnapshotHead:
    """Version and head.  Raises VersionMismatch, ValueError and what `RequestTable.decode` raises."""
    (version,) = reader.take(1)
    if version in _WHOLE_VERSIONS:
        return _read_whole(version, reader.rest(), limits)
    if version != SNAPSHOT_VERSION:
        raise VersionMismatch(
            f"the snapshot has version {version}, this release reads version {SNAPSHOT_VERSION}: "
            "use the release that wrote it, or a newer one"
        )
    return _read(reader, limits)


def _read(reader: StreamReader, limits: RequestLimits) -> SnapshotHead:
    """The beginning of a snapshot, up to the machines' tables.

    Raises ValueError and what `RequestTable.decode` raises.
    """
    head = json_object(parse_canonical_json(reader.frame().decode("ascii")))
    horizon_ms, horizons, steady_ms = _horizons(head)
    tables = {}
    for kind in KINDS:
        content = reader.frame()
        requests, end = RequestTable.decode(content, 0, limits.of(kind), steady_ms)
        if end != len(content):
            raise ValueError("something follows its requests")
        tables[kind] = Remembered(requests, horizons[kind])
    return SnapshotHead(horizon_ms, tables, head["machines"], rows=reader.rows)


def _read_whole(version: int, data: bytes, limits: RequestLimits) -> SnapshotHead:
    """The same of an older version: a checksum, the length of a JSON object, that object, the tables of ids.

    Raises ValueError and what `RequestTable.decode` raises.
    """
    content = data[32:]
    if data[:32] != sha256(content).digest():
        raise ValueError("its checksum is wrong")
    (length,) = _LENGTH.unpack_from(content)
    at = _LENGTH.size + length
    head = json_object(parse_canonical_json(content[_LENGTH.size : at].decode("ascii")))
    if version == _OLDEST_VERSION:
        return _read_oldest(content, at, head, limits)
    horizon_ms, horizons, steady_ms = _horizons(head)
    tables = {}
    for kind in KINDS:
        requests, at = RequestTable.decode(content, at, limits.of(kind), steady_ms)
        tables[kind] = Remembered(requests, horizons[kind])
    if at != len(content):
        raise ValueError("something follows its end")
    return SnapshotHead(horizon_ms, tables, head["machines"])


def _horizons(head: dict[str, Any]) -> tuple[int, dict[str, int], int]:
    """Horizon in Unix milliseconds, horizon by table, steady time.  Raises ValueError and KeyError."""
    if head.keys() != {"horizon_unix_ms", "horizons", "machines"}:
        raise ValueError("its head has other fields")
    horizon_ms, horizons = head["horizon_unix_ms"], head["horizons"]
    if type(horizons) is not dict or horizons.keys() != set(KINDS):
        raise ValueError("its horizons are wrong")
    for number in (horizon_ms, *horizons.values()):
        if type(number) is not int or not -1 <= number < 2**63:
            raise ValueError("its horizons are wrong")
    steady_ms = head["machines"]["clock"]["steady_ms"]
    if type(steady_ms) is not int:
        raise ValueError("its time is wrong")
    return horizon_ms, horizons, steady_ms


def _read_oldest(content: bytes, at: int, head: dict[str, Any], limits: RequestLimits) -> SnapshotHead:
    """The same of a snapshot of release 0.1.0; its time becomes the stamp."""
    if head.keys() != {"horizon_unix_ms", "machines", "time_unix_ms"}:
        raise ValueError("its head has other fields")
    time_ms, horizon_ms = head["time_unix_ms"], head["horizon_unix_ms"]
    if (
        type(time_ms) is not int
        or type(horizon_ms) is not int
        or not -1 <= horizon_ms <= time_ms
        or not 0 <= time_ms <= MAX_TIME_UNIX_MS
    ):
        raise ValueError("its times are wrong")
    client, at = RequestTable.decode_old(content, at, limits.client, time_ms)
    node, at = RequestTable.decode_old(content, at, limits.node, time_ms)
    if at != len(content):
        raise ValueError("something follows its end")
    tables = new_tables(limits)
    tables["client"], tables["node"] = Remembered(client), Remembered(node)
    return SnapshotHead(horizon_ms, tables, head["machines"], Stamp(0, time_ms, time_ms))
