"""The memory of answered requests that makes a repeated command apply once.

A record is the bytes that a snapshot holds, so that writing one costs no work
per entry: length of the id (1), id, length of what follows (4), digest (8),
steady time when applied (8), log index (8), proposer time of a command of
release 0.1.0 (8, all ones for others), length of the caller (1), caller,
result.  About 350 bytes per entry for a 32 character id and a counter's
result; text, numbers and bytes alone, which the garbage collector lets go of.
"""

from __future__ import annotations

import json
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from cyoloctl.replicated.command import DIGEST_BYTES, MAX_REQUEST_ID_LENGTH, is_caller

__all__ = ["LIMITS", "Forgotten", "RequestLimits", "RequestTable", "TableLimits"]

_STORED = struct.Struct(">8sQQQB")
_OLD = struct.Struct(">8sQQ")
_COUNT = struct.Struct(">I")
_COUNT_AND_STORED = struct.Struct(">I8sQQQB")
_NO_TIME = 2**64 - 1
_FORGET_AT_ONCE = 200
"""Entries forgotten by one command: a step of time must not stop the node for them all."""


@dataclass(frozen=True, slots=True)
class TableLimits:
    """Limits beyond which an entry is forgotten, as soon as one of these holds.

    hard: there are more entries than this; then the oldest of the caller with
    the most goes.  soft, keep_ms: there are more than ``soft`` and the entry,
    the oldest, is ``keep_ms`` old.  expiry_ms: it is that old.  Age is in
    steady time, which only leaders' monotonic clocks move.
    """

    soft: int
    keep_ms: int
    hard: int
    expiry_ms: int


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The limits of all tables.  They decide the replicated state: on every real node ``LIMITS``."""

    client: TableLimits
    node: TableLimits
    browser: TableLimits
    refused: TableLimits

    def of(self, kind: str) -> TableLimits:
        """Limits of a table, by its kind."""
        return {"client": self.client, "node": self.node, "browser": self.browser, "refused": self.refused}[
            kind
        ]


LIMITS = RequestLimits(
    client=TableLimits(soft=50_000, keep_ms=0, hard=50_000, expiry_ms=24 * 3600 * 1000),
    node=TableLimits(soft=10_000, keep_ms=10_000, hard=50_000, expiry_ms=5 * 60 * 1000),
    browser=TableLimits(soft=10_000, keep_ms=0, hard=10_000, expiry_ms=3600 * 1000),
    refused=TableLimits(soft=10_000, keep_ms=0, hard=10_000, expiry_ms=5 * 60 * 1000),
)


class Forgotten(NamedTuple):
    """The highest log index, and the highest proposer time, among what was forgotten; -1 for none."""

    log_index: int = -1
    proposed_ms: int = -1


_NOTHING = Forgotten()

_Entry = tuple[str, int, bytes, int]
"""Id, place in the table, record, steady time when applied (many have one object of it)."""


class RequestTable:
    """Request id -> digest of the command and the bytes of its first result.

    Entries leave the oldest first, but for the bound on their number: there
    it is the oldest of the caller that has the most, so that nobody's volume
    pushes another's out.
    """

    __slots__ = ("_by_caller", "_entries", "_largest", "_limits", "_next", "_order", "_ranked")

    def __init__(self, limits: TableLimits) -> None:
        self._limits = limits
        self._entries: dict[str, _Entry] = {}
        # By age; those that are gone are skipped.
        self._order: deque[_Entry] = deque()
        self._by_caller: dict[str, deque[_Entry]] = {}
        # While it is full, (-count, place of the oldest, caller): never too low, maybe overtaken.
        self._largest: list[tuple[int, int, str]] = []
        self._ranked: set[tuple[int, int, str]] = set()  # what is in it
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._entries

    def find(self, request_id: str) -> tuple[bytes, bytes] | None:
        """The digest of the command that had this id, and its first result."""
        entry = self._entries.get(request_id)
        if entry is None:
            return None
        record = entry[2]
        at = _start(record)
        return record[at : at + DIGEST_BYTES], record[at + _STORED.size + record[at + _STORED.size - 1] :]

    def remember(
        self,
        request_id: str,
        digest: bytes,
        *,
        caller: str,
        steady_ms: int,
        index: int,
        result: bytes,
        proposed_ms: int = -1,
    ) -> None:
        """Adds an id that is not there.  steady_ms, index: never less than before.

        proposed_ms: the time in a command of release 0.1.0.
        """
        name, key = caller.encode("ascii"), request_id.encode("ascii")
        head = _COUNT_AND_STORED.pack(
            _STORED.size + len(name) + len(result),
            digest,
            steady_ms,
            index,
            _NO_TIME if proposed_ms < 0 else proposed_ms,
            len(name),
        )
        entry = (request_id, self._next, b"%c%b%b%b%b" % (len(key), key, head, name, result), steady_ms)
        self._next += 1
        self._entries[request_id] = entry
        self._order.append(entry)
        self._count(caller, entry)

    def _count(self, caller: str, entry: _Entry) -> None:
        own = self._by_caller.get(caller)
        if own is None:
            own = self._by_caller[caller] = deque()
        own.append(entry)
        if len(self._by_caller) > 1 and len(self._entries) >= self._limits.hard:
            self._push(self._rank(caller))
        elif self._largest:
            self._largest, self._ranked = [], set()  # nothing to compare: made again when there is

    def _rank(self, caller: str) -> tuple[int, int, str]:
        own = self._by_caller[caller]
        return -len(own), own[0][1], caller

    def forget(self, steady_ms: int, *, at_once: int = _FORGET_AT_ONCE) -> Forgotten:
        """Drops what the limits no longer keep, at most ``at_once`` entries of it."""
        order = self._order
        if not order:
            return _NOTHING
        limits, entries = self._limits, self._entries
        left, highest, latest_ms = at_once, -1, -1
        while left and order:
            entry = order[0]
            if entries.get(entry[0]) is not entry:
                order.popleft()  # forgotten before, for its caller's volume
                continue
            age, count = steady_ms - entry[3], len(entries)
            if age >= limits.expiry_ms or (limits.keep_ms and count > limits.soft and age >= limits.keep_ms):
                order.popleft()
            elif count <= limits.hard:
                break
            elif len(self._by_caller) == 1:
                order.popleft()  # the oldest of its only caller
            else:
                entry = self._of_the_largest()
            left -= 1
            del entries[entry[0]]
            record = entry[2]
            start = _start(record)
            _, _, index, time, length = _STORED.unpack_from(record, start)
            name_at = start + _STORED.size
            self._discount(record[name_at : name_at + length].decode("ascii"))
            if index > highest:
                highest = index
            if time != _NO_TIME and time > latest_ms:
                latest_ms = time
        return _NOTHING if left == at_once else Forgotten(highest, latest_ms)

    def _push(self, rank: tuple[int, int, str]) -> None:
        if not self._largest or len(self._largest) > 2 * len(self._by_caller) + 64:
            self._largest = [self._rank(one) for one in self._by_caller]
            self._ranked = set(self._largest)
            heapify(self._largest)
        elif rank not in self._ranked:
            self._ranked.add(rank)
            heappush(self._largest, rank)

    def _of_the_largest(self) -> _Entry:
        while True:
            rank = self._largest[0]
            caller = rank[2]
            now = self._rank(caller) if caller in self._by_caller else None
            if now == rank:
                return self._by_caller[caller][0]
            heappop(self._largest)
            self._ranked.discard(rank)
            if now is not None:
                self._push(now)

    def _discount(self, caller: str) -> None:
        """The oldest of a caller was dropped: the oldest of all is its caller's, too."""
        own = self._by_caller[caller]
        own.popleft()
        if not own:
            del self._by_caller[caller]

    def encode(self) -> bytes:
        """The number of entries (4 bytes), and their records by age."""
        return self.freeze()()

    def freeze(self) -> Callable[[], bytes]:
        """`encode` of this moment, whatever comes meanwhile; the work is in the returned function."""
        entries, order = self._entries.copy(), self._order.copy()
        return lambda: _encoded(entries, order)

    @classmethod
    def decode(cls, data: bytes, start: int, limits: TableLimits, steady_ms: int) -> tuple[RequestTable, int]:
        """The table that begins at ``start``, and where it ends.

        Raises ValueError, IndexError or struct.error for what ``encode``
        cannot have written at this steady time under these limits.
        """
        table = cls(limits)
        before_ms, before_index = 0, 0
        entries, end = _entries(data, start)
        for request_id, record in entries:
            digest, applied_ms, index, time, length = _STORED.unpack_from(record)
            name = record[_STORED.size : _STORED.size + length].decode("ascii")
            result = record[_STORED.size + length :]
            if not before_ms <= applied_ms <= steady_ms or index < before_index or request_id in table:
                raise ValueError("requests are out of order")
            if not is_caller(name) or len(name) != length or not result:
                raise ValueError("a request is cut short")
            before_ms, before_index = applied_ms, index
            table.remember(
                request_id,
                digest,
                caller=name,
                steady_ms=applied_ms,
                index=index,
                result=result,
                proposed_ms=-1 if time == _NO_TIME else time,
            )
        return table, end

    @classmethod
    def decode_old(
        cls, data: bytes, start: int, limits: TableLimits, now_ms: int
    ) -> tuple[RequestTable, int]:
        """The same from a snapshot of release 0.1.0, whose records knew replicated time only."""
        table = cls(limits)
        before_ms = 0
        entries, end = _entries(data, start)
        for request_id, record in entries:
            digest, applied_ms, proposed_ms = _OLD.unpack_from(record)
            result = record[_OLD.size :]
            if not before_ms <= applied_ms <= now_ms or proposed_ms > applied_ms or request_id in table:
                raise ValueError("requests are out of order")
            before_ms = applied_ms
            value = json.loads(result)
            index = value["index"] if type(value) is dict else None
            if type(index) is not int or index < 0:
                raise ValueError("a request has no index")
            table.remember(
                request_id,
                digest,
                caller="",
                steady_ms=applied_ms,
                index=index,
                result=result,
                proposed_ms=proposed_ms,
            )
        return table, end


def _entries(data: bytes, start: int) -> tuple[list[tuple[str, bytes]], int]:
    """Each id and record, and where they end.  Raises ValueError, IndexError, struct.error."""
    (count,) = _COUNT.unpack_from(data, start)
    at = start + _COUNT.size
    if count > 200_000:
        raise ValueError("too many requests")
    found = []
    for _ in range(count):
        id_end = at + 1 + data[at]
        request_id = data[at + 1 : id_end].decode("ascii")
        (length,) = _COUNT.unpack_from(data, id_end)
        at = id_end + _COUNT.size + length
        record = data[id_end + _COUNT.size : at]
        # Two characters more: the table of refusals says whose an id is.
        if (
            len(record) != length
            or not 0 < len(request_id) <= MAX_REQUEST_ID_LENGTH + 2
            or not request_id.isprintable()
            or " " in request_id
        ):
            raise ValueError("a request is cut short")
        found.append((request_id, record))
    return found, at


def _start(record: bytes) -> int:
    """Where the digest is."""
    return 1 + record[0] + _COUNT.size


def _encoded(entries: dict[str, _Entry], order: deque[_Entry]) -> bytes:
    records = [entry[2] for entry in order if entries.get(entry[0]) is entry]
    return b"".join((_COUNT.pack(len(records)), *records))
