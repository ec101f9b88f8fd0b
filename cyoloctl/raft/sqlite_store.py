"""The log on disk: one SQLite file.

File format, version 2 (``DIR/raft.db`` and ``DIR/raft.db-wal``, mode 0600):
SQLite 3, ``application_id`` 0x6379726c (``cyrl``), ``user_version`` = format
version, and two tables.

``entries(position INTEGER PRIMARY KEY, term, command BLOB, crc)``
    One row per entry, position = log index, without gaps.  crc = CRC-32 of
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
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from cyoloctl.errors import Conflict, InternalError, StorageError, VersionMismatch
from cyoloctl.paths import hand_to_owner_of
from cyoloctl.raft.journal import REPLACE, Batch, Entry, Record, StoredState, verify
from cyoloctl.raft.reserve import Reserve
from cyoloctl.raft.wal import check_wal

__all__ = ["FORMAT_VERSION", "SqliteStore", "read_entries", "read_record"]

_log = logging.getLogger("cyoloctl.raft")

FORMAT_VERSION = 2
_OLD_FORMAT_VERSION = 1  # release 0.1.0: the same tables, entries without stamps

_APPLICATION_ID = 0x6379726C
_PAGE_BYTES = 4096
# 512 frames are 2 MiB: a checkpoint of that takes under a millisecond here, so no sync stands out,
# and a start after a crash verifies them in a tenth of a second.
_CHECKPOINT_FRAMES = 512
_SELECT_RECORD = "SELECT id, term, vote, commit_index, first_index, last_index, identity, crc FROM record"
_BUSY_TIMEOUT_S = 5.0
_INDEX_AND_TERM = struct.Struct(">QQ")
_RECORD_BYTES = 8 * _PAGE_BYTES
"""More than a transaction takes that changes the record alone."""

_GROWTH_BYTES = 64 * 2**10
"""The file grows by so much, or the next part of the reserve follows."""

_RESTART = "then restart the node"

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
    reserve: space for the moment when the disk is full.
    Raises Conflict if another process has it open, VersionMismatch if a newer
    release wrote it, StorageError if it is damaged, is no journal, or cannot be
    written; the message names the file and the remedy.
    """

    def __init__(self, path: Path, reserve: Reserve | None = None) -> None:
        self.path = path
        self._reserve = reserve
        self._is_short = False
        self._frames = 0
        # What the WAL holds has to find room in the file, out of half the reserve in the end.
        half = _CHECKPOINT_FRAMES if reserve is None else reserve.size_bytes // 2 // _PAGE_BYTES
        self._checkpoint_frames = min(_CHECKPOINT_FRAMES, half)
        self._connection: sqlite3.Connection | None = None
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            _raise_journal_error(path, error)
        try:
            self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, (OSError, sqlite3.Error)):
                _raise_journal_error(path, error)
            raise

    def _open(self) -> None:
        is_alone, is_whole = self._lock(), True
        os.fchmod(self._descriptor, 0o600)
        if os.fstat(self._descriptor).st_size == 0:
            # SQLite gives the files beside it to the same user.
            hand_to_owner_of(self.path.parent, self._descriptor)
        wal = self.path.with_name(self.path.name + "-wal")
        if os.fstat(self._descriptor).st_size == 0:
            # SQLite would delete the WAL of an empty file without a word.
            if wal.exists() and wal.stat().st_size > 0:
                raise StorageError(f"{self.path} is damaged: it is empty, but {wal} is not; {REPLACE}")
        else:
            is_whole = check_wal(wal)
        try:
            connection = self._connect("EXCLUSIVE", timeout_s=0)
        except sqlite3.OperationalError as error:
            if not is_alone or _primary_code(error) != sqlite3.SQLITE_BUSY:
                raise
            # No other node: we hold the lock.  Somebody looks into the file, and must not keep us away.
            self._close_connection()
            connection = self._connect("NORMAL", timeout_s=_BUSY_TIMEOUT_S)
            _log.warning(
                "another program has the journal open: close it; `cyoloctl node log` and "
                "`cyoloctl node inspect --copy FILE` disturb nobody",
                extra={"file": str(self.path)},
            )
        self._check_format(connection)
        # SQLite would go on in the recovered WAL, among the remains of a torn transaction, under the same
        # salts.  Start it over: then check_wal finds the traces of one crash at most.
        if not self._start_over(connection) and not is_whole:
            raise StorageError(
                f"{self.path} is being read by another program, and a torn transaction at its end cannot be "
                f"cleared away meanwhile: close that program, {_RESTART}"
            )

    def _connect(self, locking_mode: str, *, timeout_s: float) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=timeout_s
        )
        self._connection = connection
        for pragma in (
            f"page_size={_PAGE_BYTES}",
            # Before the WAL is first used: then its index is in our memory and there is no -shm file.
            f"locking_mode={locking_mode}",
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
        return connection

    def _lock(self) -> bool:
        """One process at a time, held until close; False where the file system knows no such lock.

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
            return False
        return True

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
            raise StorageError(f"{self.path} is damaged: format version {version}; {REPLACE}")

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
                raise StorageError(f"{self.path} is damaged: {answer[0]}; {REPLACE}")
            rows = connection.execute(_SELECT_RECORD).fetchall()
            entries: list[Entry] = []
            for index, term, command, crc in connection.execute(
                "SELECT position, term, command, crc FROM entries ORDER BY position"
            ):
                if not _entry_is_whole(index, term, command, crc):
                    raise StorageError(f"{self.path} is damaged: log entry {index} is wrong; {REPLACE}")
                entries.append((command, index, term))
        except (sqlite3.Error, UnicodeError, OverflowError) as error:
            _raise_journal_error(self.path, error)
        if not rows and not entries:
            return None
        record = _record_of(rows)
        if record is None:
            raise StorageError(f"{self.path} is damaged: its record is missing or wrong; {REPLACE}")
        state = StoredState(record, entries)
        verify(state, str(self.path))
        return state

    def commit(self, batch: Batch) -> None:
        """See Store.  One fdatasync; every 512 pages or so a checkpoint, two more."""
        connection = self._connected()
        size = sum(len(entry[0]) + 40 for entry in batch.entries)
        try:
            # Twice the size: in the WAL, and soon in the file.
            self._with_room(lambda: self._transact(connection, batch), 2 * size + _RECORD_BYTES)
            # An estimate of the frames just written; deletions touch pages that it does not see.
            self._frames += 3 + size // _PAGE_BYTES
            if (
                self._frames >= self._checkpoint_frames
                or batch.drop_before
                or batch.cut_from
                or self._is_short  # then the WAL need not grow for the next one
            ):
                self._checkpoint(connection)
        except (sqlite3.Error, OSError) as error:
            _raise_journal_error(self.path, error)

    def _transact(self, connection: sqlite3.Connection, batch: Batch) -> None:
        record = batch.record
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

    def _with_room(self, do: Callable[[], None], needed_bytes: int) -> None:
        """Do something that writes; where there is no room for it, again with some of the reserve.

        Only a write that found no room (SQLITE_FULL) is repeated: SQLite has
        rolled it back, and no sync was asked for.  After a failed sync nobody
        knows what is on the disk; SQLite has another code for that.
        """
        is_first = True
        while True:
            try:
                return do()
            except sqlite3.OperationalError as error:
                if self._reserve is None or not _found_no_room(error):
                    raise
                self._note_shortage()
                connection = self._connected()
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                # Otherwise SQLite would go on among the remains of this attempt: see _open.
                if not self._start_over(connection):
                    raise
                if not self._reserve.give(needed_bytes) and not is_first:
                    raise
                is_first = False

    def _start_over(self, connection: sqlite3.Connection) -> bool:
        """Bring the content of the WAL into the file, and empty it; False while another program reads it.

        Where the file finds no room to grow, with some of the reserve.
        """
        while True:
            try:
                return bool(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
            except sqlite3.OperationalError as error:
                if not _found_no_room(error) or self._reserve is None:
                    raise
                self._note_shortage()
                if not self._reserve.give(_GROWTH_BYTES):
                    raise

    def _note_shortage(self) -> None:
        if not self._is_short:
            self._is_short = True
            _log.warning("the disk is full: the journal lives on its reserve", extra={"file": str(self.path)})

    def is_short(self) -> bool:
        """See Store."""
        return self._is_short

    def find_room(self) -> bool:
        """See Store."""
        if self._reserve is not None and self._reserve.hold():
            self._is_short = False
        return not self._is_short

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.OperationalError as error:
            if self._reserve is None or not _found_no_room(error):
                raise
            # The file cannot grow.  The WAL has it all, whole and synced; the next commit tries again.
            self._note_shortage()
            self._reserve.give(_GROWTH_BYTES)
            return
        self._frames = 0

    def _close_connection(self) -> None:
        """Close SQLite's side; the lock stays."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def close(self) -> None:
        """See Store."""
        self._close_connection()
        # Last: closing a descriptor of the file drops SQLite's locks on it.
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_record(connection: sqlite3.Connection) -> Record | None:
    """The record in a journal, None where it is missing or wrong.  Raises sqlite3.Error."""
    return _record_of(connection.execute(_SELECT_RECORD).fetchall())


def read_entries(connection: sqlite3.Connection, first: int, last: int) -> Iterator[tuple[Entry, bool]]:
    """Entries of a range of indexes in a journal, each with whether it is whole.  Raises sqlite3.Error."""
    for index, term, command, crc in connection.execute(
        "SELECT position, term, command, crc FROM entries WHERE position BETWEEN ? AND ? ORDER BY position",
        (first, last),
    ):
        whole = _entry_is_whole(index, term, command, crc)
        yield (
            (command if isinstance(command, bytes) else b"", index, term if isinstance(term, int) else 0),
            whole,
        )


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


def _primary_code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _found_no_room(error: sqlite3.Error) -> bool:
    return _primary_code(error) == sqlite3.SQLITE_FULL


def _raise_journal_error(path: Path, error: Exception) -> NoReturn:
    """The one place where errors of SQLite and of the system become ours."""
    primary = _primary_code(error)
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
        text = f"{path} is damaged ({error}); {REPLACE}"
    raise StorageError(text) from error
