"""The Raft log: what a node must not forget, and the stores that keep it.

`Journal` is the log as the engine sees it: a list in memory, and operations
that become durable together at the next `Journal.sync`.  A `Store` makes one
`Batch` durable, whole or not at all.  `SqliteStore` is the real one,
`MemoryStore` forgets with the process, and the simulation brings its own.

After a failed write or sync the pages in the kernel's cache can no longer be
trusted to say what is on disk (Rebello et al., "Can Applications Recover from
fsync Failures?", USENIX ATC 2020): the journal stays failed until the process
has been restarted and the file read again.
"""

from __future__ import annotations

import json
import logging
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cyoloctl.errors import InternalError, StorageError
from cyoloctl.metrics.counts import Histogram
from cyoloctl.raft.disks import SyncTimes
from cyoloctl.raft.turns import Steps
from cyoloctl.text import canonical_json

__all__ = [
    "BASE_COMMAND",
    "REPLACE",
    "Batch",
    "Entry",
    "Journal",
    "MemoryStore",
    "Record",
    "Store",
    "StoredState",
    "verify",
]

Entry = tuple[bytes, int, int]
"""(command, index, term); the vendor's order."""

BASE_COMMAND = b"\x01"

SLOW_SYNC_S = 1.0
"""A sync that takes longer is told of: elections begin, and clients wait."""
SLOW_SHOWN_S = 15.0
"""How long `status` shows a slow sync."""

_MAX_INTEGER = 2**63 - 1

_log = logging.getLogger("cyoloctl.raft")

# A damaged log must never be patched or restored from a copy: what this member acknowledged or
# voted is then forgotten, which is what majorities rest on.
REPLACE = (
    "this node must not continue with it: on a healthy node run `cyoloctl member remove NAME` for this "
    "member, then join again under a new name with an empty data directory"
)


@dataclass(frozen=True, slots=True)
class Record:
    """Everything durable that is not an entry.

    term: current term, 0 or more.  vote: whom this node voted for in it.
    first_index, last_index: the entries that the store holds, 0 and 0 for none.
    identity: canonical JSON object, string to string.
    """

    term: int = 0
    vote: str | None = None
    commit_index: int = 0
    first_index: int = 0
    last_index: int = 0
    identity: str = "{}"

    def crc(self) -> int:
        """CRC-32 of the canonical JSON array of the fields."""
        fields = [self.term, self.vote, self.commit_index, self.first_index, self.last_index, self.identity]
        return zlib.crc32(canonical_json(fields).encode("ascii"))


@dataclass(frozen=True, slots=True)
class StoredState:
    """Content of a store when it was opened."""

    record: Record
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Batch:
    """One transaction, applied in the order of the fields.

    cut_from: delete the entries at and above this index; None: none.
    drop_before: delete the entries below this index; None: none.
    entries: insert these, ascending, without gaps.
    record: replaces the record.
    """

    cut_from: int | None
    drop_before: int | None
    entries: Sequence[Entry]
    record: Record


class Store(Protocol):
    """The durable side of a journal.  One thread at a time."""

    def load(self) -> StoredState | None:
        """The last committed state; None if nothing was ever committed.

        Raises StorageError (damaged) or VersionMismatch (written by a newer release).
        """

    def commit(self, batch: Batch) -> None:
        """Make the batch durable, whole or not at all, before returning.

        Raises StorageError; the caller then never calls commit again.
        """

    def is_short(self) -> bool:
        """True since a commit found no room but a reserve, until `find_room` finds some."""

    def find_room(self) -> bool:
        """Fill the reserve up, where there is room for it; whether the store is not short."""

    def close(self) -> None:
        """Release the store.  Idempotent; never raises for what was committed."""


def verify(state: StoredState, where: str) -> None:
    """Check a store's content: raises StorageError unless the record describes one contiguous log."""
    record, entries = state.record, state.entries
    first, last = (entries[0][1], entries[-1][1]) if entries else (0, 0)
    if (record.first_index, record.last_index) != (first, last):
        raise StorageError(
            f"{where} is damaged: it should hold the log entries {record.first_index} to "
            f"{record.last_index} and holds {first} to {last}; {REPLACE}"
        )
    expected, term = first, 0
    for _, index, entry_term in entries:
        if index != expected:
            raise StorageError(f"{where} is damaged: log entry {expected} is missing; {REPLACE}")
        if entry_term < term:
            raise StorageError(
                f"{where} is damaged: the term falls from {term} to {entry_term} at log entry {index}; "
                f"{REPLACE}"
            )
        expected, term = index + 1, entry_term


class MemoryStore:
    """A store that lives as long as the object (``storage: memory``)."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._record: Record | None = None

    def load(self) -> StoredState | None:
        """See Store."""
        if self._record is None:
            return None
        return StoredState(self._record, [self._entries[index] for index in sorted(self._entries)])

    def commit(self, batch: Batch) -> None:
        """See Store."""
        old = self._record or Record()
        if batch.cut_from is not None:
            for index in range(batch.cut_from, old.last_index + 1):
                self._entries.pop(index, None)
        if batch.drop_before is not None:
            for index in range(old.first_index, batch.drop_before):
                self._entries.pop(index, None)
        for entry in batch.entries:
            self._entries[entry[1]] = entry
        self._record = batch.record

    def record(self) -> Record:
        """The record that was committed last: everything durable beside the entries."""
        return self._record or Record()

    def is_short(self) -> bool:
        """See Store."""
        return False

    def find_room(self) -> bool:
        """See Store."""
        return True

    def entry(self, index: int) -> Entry | None:
        """The committed entry at an index."""
        return self._entries.get(index)

    def close(self) -> None:
        """See Store."""


class Journal:
    """The Raft log, current term, vote, commit index and identity of one node.

    Changes are visible in memory at once and durable after `sync`; whatever the
    engine tells another node must wait for it (Raft, figure 2: "updated on
    stable storage before responding to RPCs").  All changes since the last sync
    become one transaction, so a tick costs one fdatasync.

    store: where it lives; the journal owns it and closes it, also when this raises.
    clock: seconds, monotonic; only for `fsync_p99_ms`, `sync_ms`, `slow_sync_ms` and `syncs`.
    Raises what `Store.load` raises, and StorageError if what it returns is not
    one contiguous log.  A stored commit index is brought into first_index..last_index.

    One thread at a time.  After a failure `failed` is set, and every mutating
    call and every sync raises that same StorageError.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._store = store
        self._clock = clock
        self._durations_s: deque[float] = deque(maxlen=512)
        self._sync_times = SyncTimes()
        self.syncs = Histogram()
        """How long each took, since the start."""
        self._slow: tuple[float, float] | None = None  # when a sync was slow last, and how long it took
        self._closed = False
        self.failed: StorageError | None = None
        try:
            state = store.load() or StoredState(Record(), [])
            verify(state, "the journal")
            self._meta = _identity_of(state.record.identity)
        except BaseException:
            store.close()
            raise
        record = state.record
        self.entries: list[Entry] = list(state.entries)
        self.byte_size = sum(len(entry[0]) for entry in self.entries)
        self.term = record.term
        self.vote = record.vote
        # Never above the last entry: what comes to stand there later need not be committed (a tail may
        # have been lost).  Never below the base, which is committed by definition.
        self.commit_index = min(max(record.commit_index, self.first_index), self.last_index)
        self._identity = record.identity
        self._durable = record
        # Entries up to here are in the store as they are in memory.
        self._clean_to = record.last_index
        self._pending = self._flush_is_due = False
        self._writing: _Writing | None = None

    @property
    def first_index(self) -> int:
        """Index of the base; 0 while the journal is empty."""
        return self.entries[0][1] if self.entries else 0

    @property
    def last_index(self) -> int:
        """Index of the last entry, which may be the base; 0 while the journal is empty."""
        return self.entries[-1][1] if self.entries else 0

    @property
    def last_term(self) -> int:
        """Term of the last entry; 0 while the journal is empty."""
        return self.entries[-1][2] if self.entries else 0

    @property
    def fsync_p99_ms(self) -> float:
        """99th percentile of the last 512 commits, checkpoints included, in milliseconds; 0.0 without any."""
        if not self._durations_s:
            return 0.0
        ordered = sorted(self._durations_s)
        return ordered[(len(ordered) * 99 - 1) // 100] * 1000.0

    def slow_sync_ms(self) -> float | None:
        """How long the last slow sync took, or takes, in milliseconds; None when all were fast for
        `SLOW_SHOWN_S`.
        """
        now = self._clock()
        writing = self._writing
        if writing is not None and writing.began_at is not None and now - writing.began_at >= SLOW_SYNC_S:
            return (now - writing.began_at) * 1000.0
        if self._slow is None or now - self._slow[0] > SLOW_SHOWN_S:
            return None
        return self._slow[1] * 1000.0

    def sync_ms(self) -> float | None:
        """How long a sync takes at present, in milliseconds: see `SyncTimes`."""
        return self._sync_times.typical_ms(self._clock())

    def is_slower_than(self, limit_ms: float) -> bool:
        """Whether a sync takes longer at present, which is looked at after every few of them."""
        return self._sync_times.lately_ms >= limit_ms

    def entry(self, index: int) -> Entry | None:
        """The entry at an index, the base included; None outside the log."""
        if not self.entries:
            return None
        position = index - self.entries[0][1]
        return self.entries[position] if 0 <= position < len(self.entries) else None

    def is_term_durable(self) -> bool:
        """Whether a restart, at any moment, finds the present term."""
        return self.term == self._durable.term

    def append(self, index: int, term: int, command: bytes) -> None:
        """Add one entry.  In an empty journal it becomes the base, which is committed.

        index: last_index + 1.  term: at least last_term.
        Raises InternalError, nothing changed, for any other.
        """
        self._check()
        if not 0 < index <= _MAX_INTEGER or (self.entries and index != self.entries[-1][1] + 1):
            raise InternalError(f"log entry {index} does not follow entry {self.last_index}")
        if not self.last_term <= term <= _MAX_INTEGER:
            raise InternalError(f"log entry {index} has term {term} after term {self.last_term}")
        if not self.entries:
            self.commit_index = index
        self.entries.append((command, index, term))
        self.byte_size += len(command)
        self._pending = True

    def truncate_from(self, index: int) -> None:
        """Delete the entries at and above an index; none above last_index.

        Raises InternalError, nothing changed, if that would delete the base.
        """
        self._check()
        if index > self.last_index:
            return
        if index <= self.first_index:
            raise InternalError(f"log entries from {index} cannot be deleted: the base is {self.first_index}")
        position = index - self.first_index
        self.byte_size -= sum(len(entry[0]) for entry in self.entries[position:])
        del self.entries[position:]
        self._clean_to = min(self._clean_to, index - 1)
        self._pending = True

    def compact_to(self, index: int) -> None:
        """Delete the entries below an index; the one at it becomes the base.

        The caller holds a durable snapshot of everything up to index.
        Nothing happens at or below the present base.
        Raises InternalError, nothing changed, above last_index.
        """
        self._check()
        if index > self.last_index:
            raise InternalError(f"the log cannot be cut below {index}: its last entry is {self.last_index}")
        if index <= self.first_index:
            return
        position = index - self.first_index
        self.byte_size -= sum(len(entry[0]) for entry in self.entries[:position])
        del self.entries[:position]
        self._pending = True

    def reset(self, index: int, term: int) -> None:
        """Replace the whole log by one base, the last entry of an installed snapshot.

        index: 1 or more.  term: of that entry.  The commit index becomes index.
        Durable on return, in one transaction with everything pending.
        Raises StorageError; InternalError, nothing changed, for numbers out of range.
        """
        self._check()
        if not 0 < index <= _MAX_INTEGER or not 0 <= term <= _MAX_INTEGER:
            raise InternalError(f"the log cannot begin at entry {index} of term {term}")
        self.entries[:] = [(BASE_COMMAND, index, term)]
        self.byte_size = len(BASE_COMMAND)
        self.commit_index = index
        self._clean_to = 0
        self._pending = True
        self.sync()

    def set_term(self, term: int, vote: str | None) -> None:
        """Set the current term and the vote in it.

        Raises InternalError, nothing changed, if the term would fall or a vote
        in the same term would change: that is a second leader (Raft 5.2).
        """
        self._check()
        if not self.term <= term <= _MAX_INTEGER:
            raise InternalError(f"the term cannot change from {self.term} to {term}")
        if term == self.term and self.vote is not None and vote != self.vote:
            raise InternalError(f"the vote for {self.vote} in term {term} cannot change")
        if (term, vote) != (self.term, self.vote):
            self.term, self.vote = term, vote
            self._pending = True

    def set_commit_index(self, index: int) -> None:
        """Remember the commit index; it rides with the next sync, or `flush`.

        It may be lost: a node that restarts learns it again from the leader.
        """
        self._check()
        self.commit_index = index

    def get_meta(self, key: str) -> str | None:
        """A value of the identity (cluster id, node name...), or None."""
        return self._meta.get(key)

    def set_meta(self, key: str, value: str) -> None:
        """Set a value of the identity; durable after the next sync."""
        self._check()
        if self._meta.get(key) != value:
            self._meta[key] = value
            self._identity = canonical_json(self._meta)
            self._pending = True

    def is_short(self) -> bool:
        """True while the disk has no room for entries: what is written lives on the store's reserve."""
        return self._store.is_short()

    def find_room(self) -> bool:
        """Fill the reserve up where there is room; whether the disk has room for entries."""
        if self._writing is not None:  # the store is not ours now
            return not self._store.is_short()
        return self.failed is None and self._store.find_room()

    def sync(self) -> None:
        """Make every change durable, except a commit index that changed alone.

        Nothing pending: returns at once.  Raises StorageError, from then on with every call.
        """
        for write in self.writes():
            write()

    def writes(self) -> Steps:
        """As `sync`: gives what writes, if anything is pending, and expects it run before it goes on.

        It may be run in another thread; until then nothing here may change.
        """
        self._check()
        if self._pending or (self._flush_is_due and self.commit_index != self._durable.commit_index):
            yield from self._commit()
        self._flush_is_due = False

    def flush_later(self) -> None:
        """Let the next sync store a commit index that changed alone too.  Call it once a second."""
        self._flush_is_due = True

    def flush(self) -> None:
        """Like sync, and for a commit index that changed alone too."""
        self._check()
        if self._pending or self.commit_index != self._durable.commit_index:
            for write in self._commit():
                write()

    def close(self) -> None:
        """Flush, unless failed or being written, and release the store.  Idempotent.

        Raises StorageError if the flush fails; the store is closed all the same.
        """
        if self._closed:
            return
        try:
            if self.failed is None and self._writing is None:
                self.flush()
        finally:
            self._closed = True
            self._store.close()

    def _check(self) -> None:
        if self.failed is not None:
            raise self.failed.with_traceback(None)
        if self._closed:
            raise InternalError("the journal is closed")
        if self._writing is not None:
            raise InternalError("the journal changes while it is written")

    def _commit(self) -> Steps:
        first, last, clean_to, durable = self.first_index, self.last_index, self._clean_to, self._durable
        record = Record(self.term, self.vote, self.commit_index, first, last, self._identity)
        begin = max(clean_to + 1, first)
        batch = Batch(
            cut_from=clean_to + 1 if durable.last_index > clean_to else None,
            drop_before=first if durable.first_index < first and durable.first_index <= clean_to else None,
            entries=self.entries[begin - first :] if begin <= last else (),
            record=record,
        )
        writing = self._writing = _Writing(self._store, batch, self._clock)
        yield writing.run
        self._writing = None
        error, now, took_s = writing.error, writing.ended_at, writing.took_s
        if error is not None or now is None:
            # Whatever stopped it, the store may hold the batch or not: only a restart can tell.
            self.failed = _failure_of(error)
            if error is None or isinstance(error, Exception):
                raise self.failed from (None if error is self.failed else error)
            raise error
        self._durations_s.append(took_s)
        self._sync_times.observe(now, took_s)
        self.syncs.observe(took_s)
        if took_s >= SLOW_SYNC_S:
            self._slow = (now, took_s)
            _log.warning("the disk is slow", extra={"sync_s": round(took_s, 1)})
        self._durable = record
        self._clean_to = last
        self._pending = False


class _Writing:
    """A batch on its way into the store."""

    def __init__(self, store: Store, batch: Batch, clock: Callable[[], float]) -> None:
        self._store, self._batch, self._clock = store, batch, clock
        self.began_at: float | None = None
        self.ended_at: float | None = None
        self.took_s = 0.0
        self.error: BaseException | None = None

    def run(self) -> None:
        """Write it; what that raises is told where the write is waited for."""
        self.began_at = began_at = self._clock()
        try:
            self._store.commit(self._batch)
        except BaseException as error:
            self.error = error
        self.ended_at = self._clock()
        self.took_s = self.ended_at - began_at


def _failure_of(error: BaseException | None) -> StorageError:
    """What stops the journal."""
    if isinstance(error, StorageError):
        return error
    if error is None:
        return StorageError("the journal was closed while it was written: restart the node")
    if isinstance(error, MemoryError):
        return StorageError(
            "the journal cannot be written, as memory ran out: give the node more, and restart it"
        )
    return StorageError(f"the journal cannot be written ({error!r}): restart the node")


def _identity_of(text: str) -> dict[str, str]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise StorageError(f"the journal is damaged: its identity is not readable; {REPLACE}")
    return value
