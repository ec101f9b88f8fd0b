"""The Raft log on disk: what a node must not forget, in one SQLite file.

`Journal` is the log as the engine sees it: a list in memory, and operations
that become durable together at the next `Journal.sync`.  A `Store` makes one
`Batch` durable, whole or not at all.  `SqliteStore` is the real one,
`MemoryStore` forgets with the process, and the simulation brings its own.

File format, version 2 (``DIR/raft.db`` and ``DIR/raft.db-wal``, mode 0600):
SQLite 3, ``application_id`` 0x6379726c (``cyrl``), ``user_version`` = format
version, and two tables.

``entries(position INTEGER PRIMARY KEY, term, command BLOB, crc)``
    One row an entry, position = log index, without gaps.  crc = CRC-32 of
    index and term (8 bytes each, big-endian) and command.  The lowest row is
    the base: the entry before the first retained one, or the no-op that every
    log begins with.

``record(id INTEGER PRIMARY KEY, term, vote, commit_index, first_index, last_index, identity, crc)``
    One row, id 1, written in every transaction: current term, vote or NULL,
    commit index, the range of indexes that ``entries`` must hold (0 and 0:
    none), identity as a canonical JSON object of strings.  crc = CRC-32 of the
    canonical JSON array of these six.  The range makes rows that vanished at
    either end visible.  Measured: a transaction of two pages costs what one of
    one page costs.

Version 1, of release 0.1.0, is the same with entries that carry no time; it
becomes version 2 when it is opened (see `upgrade`).

Durability: WAL, ``synchronous=FULL``.  SQLite writes the pages of a
transaction to the WAL, the commit mark with the last one, and calls fdatasync
before COMMIT returns, so all of one transaction is on disk before a byte of
the next is written (https://www.sqlite.org/fileformat2.html section 4).
Checkpoints are ours, not SQLite's: its automatic one ignores a failed fsync.

After a failed write or sync the pages in the kernel's cache can no longer be
trusted to say what is on disk (Rebello et al., "Can Applications Recover from
fsync Failures?", USENIX ATC 2020): the journal stays failed until the process
has been restarted and the file read again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sqlite3
import struct
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from cyoloctl.errors import Conflict, InternalError, StorageError, VersionMismatch
from cyoloctl.text import canonical_json

__all__ = [
    "Batch",
    "Entry",
    "Journal",
    "MemoryStore",
    "Record",
    "SqliteStore",
    "Store",
    "StoredState",
    "check_wal",
]

Entry = tuple[bytes, int, int]
"""(command, index, term); the vendor's order."""

FORMAT_VERSION = 2
_OLD_FORMAT_VERSION = 1  # release 0.1.0: the same tables, entries without stamps
BASE_COMMAND = b"\x01"

_APPLICATION_ID = 0x6379726C
_MAX_INTEGER = 2**63 - 1
_PAGE_BYTES = 4096
# 512 frames are 2 MiB: a checkpoint of that takes under a millisecond here, so no sync stands out,
# and a start after a crash verifies them in a tenth of a second.
_CHECKPOINT_FRAMES = 512
_INDEX_AND_TERM = struct.Struct(">QQ")

# A damaged log must never be patched or restored from a copy: what this member acknowledged or
# voted is then forgotten, which is what majorities rest on.
_REPLACE = (
    "this node must not continue with it: on a healthy node run `cyoloctl member remove NAME` for this "
    "member, then join again under a new name with an empty data directory"
)
_RESTART = "then restart the node"


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
    """What a store held when it was opened."""

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

    def close(self) -> None:
        """Release the store.  Idempotent; never raises for what was committed."""


def _verify(state: StoredState, where: str) -> None:
    """Raises StorageError unless the entries are one contiguous log that the record describes."""
    record, entries = state.record, state.entries
    first, last = (entries[0][1], entries[-1][1]) if entries else (0, 0)
    if (record.first_index, record.last_index) != (first, last):
        raise StorageError(
            f"{where} is damaged: it should hold the log entries {record.first_index} to "
            f"{record.last_index} and holds {first} to {last}; {_REPLACE}"
        )
    expected, term = first, 0
    for _, index, entry_term in entries:
        if index != expected:
            raise StorageError(f"{where} is damaged: log entry {expected} is missing; {_REPLACE}")
        if entry_term < term:
            raise StorageError(
                f"{where} is damaged: the term falls from {term} to {entry_term} at log entry {index}; "
                f"{_REPLACE}"
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
        """What was committed last, beside the entries."""
        return self._record or Record()

    def entry(self, index: int) -> Entry | None:
        """The committed entry at an index."""
        return self._entries.get(index)

    def close(self) -> None:
        """See Store."""


# --- the WAL, read before SQLite reads it ------------------------------------------------------

_WAL_HEADER = struct.Struct(">8I")
_FRAME_HEADER = struct.Struct(">6I")
_WAL_MAGIC = 0x377F0682  # the lowest bit says that the checksums read big-endian words


def _wal_checksum(words: tuple[int, ...], s0: int, s1: int) -> tuple[int, int]:
    """The checksum of SQLite's WAL, seeded with (s0, s1) (file format, section 4.2)."""
    for i in range(0, len(words), 2):
        s0 = (s0 + words[i] + s1) & 0xFFFFFFFF
        s1 = (s1 + words[i + 1] + s0) & 0xFFFFFFFF
    return s0, s1


def check_wal(path: Path) -> None:
    """Refuse a WAL that is damaged before its last transaction.

    SQLite ends its recovery at the first frame whose checksum is wrong and
    silently forgets all that follow, which were acknowledged.  What a crash
    alone can do is less: a transaction is synced before the next one begins,
    so only frames of the last transaction can be missing or torn.

    Each frame stores a checksum that covers it and is seeded with the one
    stored in the frame before, so a frame can be verified against its
    predecessor even behind a bad one.  Salts change each time the WAL starts
    over, so frames of an earlier use do not count.  Behind the first bad frame:

    - no frame verifies: a torn tail, SQLite drops the last transaction;
    - a frame verifies and one with a commit mark lies before it: two
      transactions, so the bad one had been synced;
    - a frame verifies and a page number occurs twice since the last good
      commit: a transaction writes a page once, and each of ours writes the
      record's page, so again two transactions;
    - otherwise one transaction of which the middle did not reach the disk:
      SQLite drops it.

    What stays ambiguous: damage inside the very last transaction looks like a
    crash while it was written, and a WAL that was cut off between two
    transactions, or removed, like one that never had more.  Then the node
    returns to an earlier transaction, as after a lost write; nothing in the
    file can tell.
    A header that is wrong with frames behind it is refused: it is 32 bytes at
    the start of a sector, written once and synced before the first frame.

    path: the ``-wal`` file; a missing or empty one is fine.
    Raises StorageError that names it; OSError if it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    if len(data) < _WAL_HEADER.size + _FRAME_HEADER.size:
        return
    magic, version, page_bytes, _, salt0, salt1, sum0, sum1 = _WAL_HEADER.unpack_from(data)
    order = ">" if magic & 1 else "<"
    good_header = (
        magic & ~1 == _WAL_MAGIC
        and version == 3007000
        and _wal_checksum(struct.unpack_from(f"{order}6I", data), 0, 0) == (sum0, sum1)
    )
    if not good_header:
        if any(data):
            raise StorageError(f"{path} is damaged: its header is not valid; {_REPLACE}")
        return
    page = struct.Struct(f"{order}{page_bytes // 4}I")
    start = struct.Struct(f"{order}2I")
    frame_bytes = _FRAME_HEADER.size + page_bytes
    seed = (sum0, sum1)
    bad = False
    pages: set[int] = set()  # since the last good commit
    repeated = committed = False  # seen among the frames since the first bad one
    for offset in range(_WAL_HEADER.size, len(data) - frame_bytes + 1, frame_bytes):
        number, commit, frame_salt0, frame_salt1, stored0, stored1 = _FRAME_HEADER.unpack_from(data, offset)
        salted = (frame_salt0, frame_salt1) == (salt0, salt1)
        valid = salted and number > 0
        if valid:
            found = _wal_checksum(start.unpack_from(data, offset), *seed)
            found = _wal_checksum(page.unpack_from(data, offset + _FRAME_HEADER.size), *found)
            valid = found == (stored0, stored1)
        seed = (stored0, stored1)
        if bad and salted and number in pages:
            repeated = True
        if bad and valid and (committed or repeated):
            raise StorageError(
                f"{path} is damaged at byte {offset}, before its last transaction: acknowledged writes "
                f"are lost; {_REPLACE}"
            )
        bad = bad or not valid
        if salted:
            pages.add(number)
        if bad:
            committed = committed or (salted and commit != 0)
        elif commit:
            pages.clear()


# --- SQLite ------------------------------------------------------------------------------------

_SCHEMA = (
    "CREATE TABLE entries(position INTEGER PRIMARY KEY, term INTEGER NOT NULL, "
    "command BLOB NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE record(id INTEGER PRIMARY KEY, term INTEGER NOT NULL, vote TEXT, "
    "commit_index INTEGER NOT NULL, first_index INTEGER NOT NULL, last_index INTEGER NOT NULL, "
    "identity TEXT NOT NULL, crc INTEGER NOT NULL)",
)


class SqliteStore:
    """A store in one SQLite file, for one process at a time.

    path: the file; its directory must exist.  Created, mode 0600, if missing.
    Raises Conflict if another process has it open, VersionMismatch if a newer
    release wrote it, StorageError if it is damaged, is no journal, or cannot be
    written; the message names the file and the remedy.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._frames = 0
        self._connection: sqlite3.Connection | None = None
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            _raise_storage(path, error)
        try:
            self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, (OSError, sqlite3.Error)):
                _raise_storage(path, error)
            raise

    def _open(self) -> None:
        self._lock()
        os.fchmod(self._descriptor, 0o600)
        wal = self.path.with_name(self.path.name + "-wal")
        if os.fstat(self._descriptor).st_size == 0:
            # SQLite would delete the WAL of an empty file without a word.
            if wal.exists() and wal.stat().st_size > 0:
                raise StorageError(f"{self.path} is damaged: it is empty, but {wal} is not; {_REPLACE}")
        else:
            check_wal(wal)
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=0)
        self._connection = connection
        for pragma in (
            f"page_size={_PAGE_BYTES}",
            # Before the WAL is first used: then its index is in our memory and there is no -shm file.
            "locking_mode=EXCLUSIVE",
            "journal_mode=WAL",
            "synchronous=FULL",
            "fullfsync=ON",  # macOS: fsync alone does not reach the platter
            "checkpoint_fullfsync=ON",
            "wal_autocheckpoint=0",
            "cache_size=-512",  # KiB; the log itself is mirrored in memory
            "cache_spill=OFF",  # check_wal relies on it: a transaction writes each page once
            "mmap_size=0",
            "temp_store=MEMORY",
            "secure_delete=OFF",  # compaction would write every page that it frees
            "cell_size_check=ON",
            "trusted_schema=OFF",
        ):
            answer = connection.execute(f"PRAGMA {pragma}").fetchone()
            if pragma == "journal_mode=WAL" and answer != ("wal",):
                raise StorageError(f"{self.path} cannot be switched to WAL: use a local file system")
        self._check_format(connection)
        # SQLite would go on in the recovered WAL, among what is left of a torn transaction, under the same
        # salts.  Start it over: then check_wal finds the traces of one crash at most.
        if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] != 0:
            raise StorageError(f"{self.path} is busy: stop the programs that read it, {_RESTART}")

    def _lock(self) -> None:
        """One process at a time, held until close.

        Not SQLite's lock, which comes too late for check_wal and is lost when
        the process closes any other descriptor of the file.
        """
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"{self.path} is in use by another process: stop that node, or choose another data directory"
            ) from error
        except OSError as error:
            # No flock on this file system: SQLite's own exclusive lock remains.
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise

    def _check_format(self, connection: sqlite3.Connection) -> None:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if (application, version, tables) == (0, 0, 0):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={FORMAT_VERSION}")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("COMMIT")
            _sync_directory(self.path.parent)
            return
        if application != _APPLICATION_ID:
            raise StorageError(f"{self.path} is not a journal of cyoloctl: choose another data directory")
        if version > FORMAT_VERSION:
            raise VersionMismatch(
                f"{self.path} has format version {version}, this release reads up to {FORMAT_VERSION}: "
                "start the newer release again"
            )
        if version == _OLD_FORMAT_VERSION:
            # From now on that release must not read it: what follows would mean nothing to it.
            connection.execute(f"PRAGMA user_version={FORMAT_VERSION}")
        elif version != FORMAT_VERSION:
            raise StorageError(f"{self.path} is damaged: format version {version}; {_REPLACE}")

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            raise InternalError(f"{self.path} is closed")
        return self._connection

    def load(self) -> StoredState | None:
        """See Store.  Reads and verifies everything: 100,000 entries take about half a second."""
        connection = self._connected()
        try:
            answer = connection.execute("PRAGMA quick_check(1)").fetchone()
            if answer != ("ok",):
                raise StorageError(f"{self.path} is damaged: {answer[0]}; {_REPLACE}")
            rows = connection.execute(
                "SELECT id, term, vote, commit_index, first_index, last_index, identity, crc FROM record"
            ).fetchall()
            entries: list[Entry] = []
            for index, term, command, crc in connection.execute(
                "SELECT position, term, command, crc FROM entries ORDER BY position"
            ):
                if not _entry_is_whole(index, term, command, crc):
                    raise StorageError(f"{self.path} is damaged: log entry {index} is wrong; {_REPLACE}")
                entries.append((command, index, term))
        except (sqlite3.Error, UnicodeError, OverflowError) as error:
            _raise_storage(self.path, error)
        if not rows and not entries:
            return None
        record = _record_of(rows)
        if record is None:
            raise StorageError(f"{self.path} is damaged: its record is missing or wrong; {_REPLACE}")
        state = StoredState(record, entries)
        _verify(state, str(self.path))
        return state

    def commit(self, batch: Batch) -> None:
        """See Store.  One fdatasync; every 512 pages or so a checkpoint, two more."""
        connection = self._connected()
        record = batch.record
        try:
            connection.execute("BEGIN IMMEDIATE")
            if batch.cut_from is not None:
                connection.execute("DELETE FROM entries WHERE position >= ?", (batch.cut_from,))
            if batch.drop_before is not None:
                connection.execute("DELETE FROM entries WHERE position < ?", (batch.drop_before,))
            if batch.entries:
                connection.executemany(
                    "INSERT INTO entries(position, term, command, crc) VALUES(?, ?, ?, ?)",
                    [
                        (index, term, command, _entry_crc(command, index, term))
                        for command, index, term in batch.entries
                    ],
                )
            connection.execute(
                "REPLACE INTO record(id, term, vote, commit_index, first_index, last_index, identity, crc) "
                "VALUES(1, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.term,
                    record.vote,
                    record.commit_index,
                    record.first_index,
                    record.last_index,
                    record.identity,
                    record.crc(),
                ),
            )
            connection.execute("COMMIT")
            # An estimate of the frames just written; deletions touch pages that it does not see.
            self._frames += 3 + sum(len(entry[0]) + 40 for entry in batch.entries) // _PAGE_BYTES
            if self._frames >= _CHECKPOINT_FRAMES or batch.drop_before or batch.cut_from:
                self._checkpoint(connection)
        except (sqlite3.Error, OSError) as error:
            _raise_storage(self.path, error)

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self._frames = 0

    def close(self) -> None:
        """See Store."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
        # Last: closing a descriptor of the file drops SQLite's locks on it.
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _entry_crc(command: bytes, index: int, term: int) -> int:
    return zlib.crc32(command, zlib.crc32(_INDEX_AND_TERM.pack(index, term)))


def _entry_is_whole(index: object, term: object, command: object, crc: object) -> bool:
    return (
        isinstance(index, int)
        and isinstance(term, int)
        and isinstance(command, bytes)
        and index > 0
        and term >= 0
        and crc == _entry_crc(command, index, term)
    )


def _record_of(rows: list[tuple[object, ...]]) -> Record | None:
    """The one record, or None if it is not one whole record."""
    if len(rows) != 1:
        return None
    identifier, term, vote, commit_index, first_index, last_index, identity, crc = rows[0]
    numbers = (identifier, term, commit_index, first_index, last_index)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        return None
    if not (vote is None or isinstance(vote, str)) or not isinstance(identity, str):
        return None
    record = Record(term, vote, commit_index, first_index, last_index, identity)  # type: ignore[arg-type]  # numbers, above
    return record if identifier == 1 and crc == record.crc() else None


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise_storage(path: Path, error: Exception) -> NoReturn:
    """The one place where errors of SQLite and of the system become ours."""
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    number = error.errno if isinstance(error, OSError) else 0
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        raise Conflict(
            f"{path} is in use by another process: stop that node, or choose another data directory"
        ) from error
    if primary == sqlite3.SQLITE_FULL or number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        text = f"{path} cannot be written, the disk is full: free space, {_RESTART}"
    elif primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM) or number in (
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
    ):
        text = (
            f"{path} cannot be written, it or its disk is read-only: make it writable for this user, "
            f"{_RESTART}"
        )
    elif number == errno.ENOENT:
        text = f"{path} cannot be created: create its directory, {_RESTART}"
    elif primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) or number:
        text = (
            f"{path} cannot be read or written ({error}): check the disk and its free space, {_RESTART}; "
            "if the disk is lost, remove this member with `cyoloctl member remove NAME` on a healthy node "
            "and join again under a new name"
        )
    else:
        text = f"{path} is damaged ({error}); {_REPLACE}"
    raise StorageError(text) from error


# --- the log -----------------------------------------------------------------------------------


class Journal:
    """The Raft log, current term, vote, commit index and identity of one node.

    Changes are visible in memory at once and durable after `sync`; whatever the
    engine tells another node must wait for it (Raft, figure 2: "updated on
    stable storage before responding to RPCs").  All changes since the last sync
    become one transaction, so a tick costs one fdatasync.

    store: where it lives; the journal owns it and closes it, also when this raises.
    clock: seconds, monotonic; only for `fsync_p99_ms`.
    Raises what `Store.load` raises, and StorageError if what it returns is not
    one contiguous log.  A stored commit index is brought into first_index..last_index.

    One thread at a time.  After a failure `failed` is set, and every mutating
    call and every sync raises that same StorageError.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._store = store
        self._clock = clock
        self._durations_s: deque[float] = deque(maxlen=512)
        self._closed = False
        self.failed: StorageError | None = None
        try:
            state = store.load() or StoredState(Record(), [])
            _verify(state, "the journal")
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
        self._pending = False

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

    def entry(self, index: int) -> Entry | None:
        """The entry at an index, the base included; None outside the log."""
        if not self.entries:
            return None
        position = index - self.entries[0][1]
        return self.entries[position] if 0 <= position < len(self.entries) else None

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

    def sync(self) -> None:
        """Make every change durable, except a commit index that changed alone.

        Nothing pending: returns at once.  Raises StorageError, now and for ever after.
        """
        self._check()
        if self._pending:
            self._commit()

    def flush(self) -> None:
        """Like sync, and for a commit index that changed alone too.  Call it once a second."""
        self._check()
        if self._pending or self.commit_index != self._durable.commit_index:
            self._commit()

    def close(self) -> None:
        """Flush, unless failed, and release the store.  Idempotent.

        Raises StorageError if the flush fails; the store is closed all the same.
        """
        if self._closed:
            return
        try:
            if self.failed is None:
                self.flush()
        finally:
            self._closed = True
            self._store.close()

    def _check(self) -> None:
        if self.failed is not None:
            raise self.failed.with_traceback(None)
        if self._closed:
            raise InternalError("the journal is closed")

    def _commit(self) -> None:
        first, last, clean_to, durable = self.first_index, self.last_index, self._clean_to, self._durable
        record = Record(self.term, self.vote, self.commit_index, first, last, self._identity)
        begin = max(clean_to + 1, first)
        batch = Batch(
            cut_from=clean_to + 1 if durable.last_index > clean_to else None,
            drop_before=first if durable.first_index < first and durable.first_index <= clean_to else None,
            entries=self.entries[begin - first :] if begin <= last else (),
            record=record,
        )
        started = self._clock()
        try:
            self._store.commit(batch)
        except BaseException as error:
            # Whatever stopped it, the store may hold the batch or not: only a restart can tell.
            self.failed = (
                error
                if isinstance(error, StorageError)
                else StorageError(f"the journal cannot be written ({error!r}): restart the node")
            )
            if isinstance(error, Exception):
                raise self.failed from (None if error is self.failed else error)
            raise
        self._durations_s.append(self._clock() - started)
        self._durable = record
        self._clean_to = last
        self._pending = False


def _identity_of(text: str) -> dict[str, str]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise StorageError(f"the journal is damaged: its identity is not readable; {_REPLACE}")
    return value
