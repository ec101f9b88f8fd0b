"""The memory of answered requests that makes a repeated command apply once.

A record is one bytes object, digest (8) + replicated time when applied (8) +
proposer time (8) + result, so that a table of any length is nothing for the
garbage collector to walk, and costs about 240 bytes an entry for a 32
character id and a counter's result (measured, CPython 3.11 to 3.13).
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass

from cyoloctl.machines._codec import DIGEST_BYTES, is_request_id

__all__ = ["LIMITS", "Limits", "RequestTable", "TableLimits"]

_TIMES = struct.Struct(">QQ")
_COUNT = struct.Struct(">I")
_HEAD = DIGEST_BYTES + _TIMES.size


@dataclass(frozen=True, slots=True)
class TableLimits:
    """When an entry is forgotten, the oldest first: as soon as one of these holds.

    hard: there are more entries than this.  soft, keep_ms: there are more
    than ``soft`` and the entry is ``keep_ms`` old.  expiry_ms: the entry is
    that old.  Age is in replicated time.
    """

    soft: int
    keep_ms: int
    hard: int
    expiry_ms: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of both tables.  They decide the replicated state: the same on every node, ``LIMITS``."""

    client: TableLimits
    automatic: TableLimits


LIMITS = Limits(
    client=TableLimits(soft=50_000, keep_ms=0, hard=50_000, expiry_ms=24 * 3600 * 1000),
    automatic=TableLimits(soft=10_000, keep_ms=10_000, hard=50_000, expiry_ms=5 * 60 * 1000),
)


class RequestTable:
    """First in, first out: request id -> digest of the command and the bytes of its first result."""

    __slots__ = ("_limits", "_oldest_ms", "_order", "_records")

    def __init__(self, limits: TableLimits) -> None:
        self._limits = limits
        self._records: dict[str, bytes] = {}
        # The order apart: taking the first key of a dict whose head was deleted walks over the holes.
        self._order: deque[str] = deque()
        self._oldest_ms = 0

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._records

    def overlaps(self, other: RequestTable) -> bool:
        """True when an id is in both tables."""
        return not self._records.keys().isdisjoint(other._records)

    def find(self, request_id: str) -> tuple[bytes, bytes] | None:
        """The digest of the command that had this id, and its first result."""
        record = self._records.get(request_id)
        return None if record is None else (record[:DIGEST_BYTES], record[_HEAD:])

    def remember(self, request_id: str, digest: bytes, now_ms: int, proposed_ms: int, result: bytes) -> None:
        """Adds an id that is not there.  now_ms: replicated time, never less than before."""
        if not self._order:
            self._oldest_ms = now_ms
        self._records[request_id] = digest + _TIMES.pack(now_ms, proposed_ms) + result
        self._order.append(request_id)

    def forget(self, now_ms: int) -> int:
        """Drops what the limits no longer keep.  Returns the highest proposer time dropped, or -1."""
        limits = self._limits
        order = self._order
        highest = -1
        while order:
            age = now_ms - self._oldest_ms
            count = len(order)
            if (
                age < limits.expiry_ms
                and count <= limits.hard
                and (count <= limits.soft or age < limits.keep_ms)
            ):
                break
            record = self._records.pop(order.popleft())
            highest = max(highest, _TIMES.unpack_from(record, DIGEST_BYTES)[1])
            if order:
                self._oldest_ms = _TIMES.unpack_from(self._records[order[0]], DIGEST_BYTES)[0]
        return highest

    def encode(self) -> bytes:
        """count (4 bytes), then for each entry: length of id (1), id, length of record (4), record."""
        parts = [_COUNT.pack(len(self._order))]
        for request_id in self._order:
            record = self._records[request_id]
            key = request_id.encode("ascii")
            parts.append(b"%c%b%b%b" % (len(key), key, _COUNT.pack(len(record)), record))
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes, start: int, limits: TableLimits, now_ms: int) -> tuple[RequestTable, int]:
        """The table that begins at ``start``, and where it ends.

        Raises ValueError, IndexError or struct.error for what ``encode``
        cannot have written at replicated time now_ms under these limits.
        """
        table = cls(limits)
        (count,) = _COUNT.unpack_from(data, start)
        at = start + _COUNT.size
        if count > limits.hard:
            raise ValueError("too many requests")
        before_ms = 0
        for _ in range(count):
            id_end = at + 1 + data[at]
            request_id = data[at + 1 : id_end].decode("ascii")
            (length,) = _COUNT.unpack_from(data, id_end)
            at = id_end + _COUNT.size + length
            record = data[id_end + _COUNT.size : at]
            if len(record) != length or length <= _HEAD or not is_request_id(request_id):
                raise ValueError("a request is cut short")
            applied_ms, proposed_ms = _TIMES.unpack_from(record, DIGEST_BYTES)
            if not before_ms <= applied_ms <= now_ms or proposed_ms > applied_ms or request_id in table:
                raise ValueError("requests are out of order")
            before_ms = applied_ms
            if not table._order:
                table._oldest_ms = applied_ms
            table._records[request_id] = record
            table._order.append(request_id)
        return table, at
