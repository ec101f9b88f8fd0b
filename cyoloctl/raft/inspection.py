"""Reading a node's log from its files, also beside the node that writes them.

A running node holds its journal to itself: SQLite's own readers wait, and could
keep it from starting.  Here the files are copied without any lock, and the copy
is read.  It is consistent, by how SQLite's WAL works (file format, section 4):

- the WAL only grows, until it starts over with other salts in its header;
- a checkpoint writes nothing into the database file that the WAL does not hold.

So what was copied while the header of the WAL stayed the same is whole: the
pages that a checkpoint wrote meanwhile, torn or not, are in the copy of the WAL,
which is read after them and taken before them.  A transaction that was cut off
at the end counts as not committed, as after a crash.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cyoloctl.errors import ConfigError, StorageError, Unavailable
from cyoloctl.model import RaftId, Stamp
from cyoloctl.paths import file_error
from cyoloctl.raft.batch import decode_batch, stamp_of
from cyoloctl.raft.journal import Entry, Record
from cyoloctl.raft.membership import Configuration
from cyoloctl.raft.snapshot import SnapshotMeta, read_meta
from cyoloctl.raft.sqlite_store import read_entries, read_record
from cyoloctl.raft.vendor import NO_OP, decode_membership

__all__ = ["JournalCopy", "LogEntry", "copy_journal", "inspect_journal"]

_WAL_HEADER_BYTES = 32
_ATTEMPTS = 50
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of a log.

    change: operation and raft id of a membership entry.  stamp: when the
    leader appended it, None for an entry that has none.  commands: the bytes
    of each.  whole: whether it is what its checksum says.
    """

    index: int
    term: int
    size_bytes: int
    change: tuple[str, RaftId] | None
    stamp: Stamp | None
    commands: tuple[bytes, ...]
    no_op: bool
    whole: bool


@dataclass(frozen=True, slots=True)
class JournalCopy:
    """A node's log and what it rests on, as they were at one moment.

    record: None in an empty journal, or where it is damaged.  configuration:
    voters and removed members by snapshot and log.  last_term: of the last entry.
    """

    record: Record | None
    snapshot: SnapshotMeta | None
    configuration: Configuration
    last_term: int
    format_version: int
    journal_bytes: int
    wal_bytes: int
    _path: Path

    def entries(self, first: int, last: int) -> Iterator[LogEntry]:
        """Entries of this range of indexes that the log holds, ascending.  Raises StorageError."""
        with _reading(self._path) as connection:
            for entry, whole in read_entries(connection, first, last):
                yield _described(entry, whole)


def _described(entry: Entry, whole: bool) -> LogEntry:
    command, index, term = entry
    return LogEntry(
        index=index,
        term=term,
        size_bytes=len(command),
        change=decode_membership(command),
        stamp=stamp_of(command),
        commands=tuple(item.command for item in decode_batch(command)),
        no_op=command == NO_OP,
        whole=whole,
    )


def _wal_header(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_WAL_HEADER_BYTES)
    except FileNotFoundError:
        return b""


def _copy(source: Path, target: Path) -> None:
    with (
        open(source, "rb") as data,
        open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as to,
    ):
        while piece := data.read(1 << 20):
            to.write(piece)


def copy_journal(journal: Path, target: Path) -> None:
    """A consistent copy of a journal as one SQLite file; its node may run or not, and notices nothing.

    target: must not exist; made 0600.  Raises ConfigError where this user may
    not, InvalidInput for a place that is not there, StorageError where a file
    cannot be read or written, Unavailable when
    the node wrote too fast each time.
    """
    wal, target_wal = _wal_of(journal), _wal_of(target)
    try:
        for _ in range(_ATTEMPTS):
            before = _wal_header(wal)
            _copy(journal, target)
            if before:
                with contextlib.suppress(FileNotFoundError):  # the node stopped meanwhile: seen below
                    _copy(wal, target_wal)
            if _wal_header(wal) == before:
                break
            target.unlink()
            target_wal.unlink(missing_ok=True)
            time.sleep(_PAUSE_S)
        else:
            raise Unavailable(f"{journal} changed too fast to be copied: try again")
        with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as connection:
            # Takes what the WAL holds into the file: there is only one afterwards.
            connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    except PermissionError as error:
        raise ConfigError(
            f"cannot open {error.filename}: permission denied; run this as the user that runs the node, "
            "or as root"
        ) from error
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, OSError) and error.filename is not None and Path(error.filename) == target:
            raise file_error(target, error, "write") from error
        raise StorageError(
            f"cannot copy {journal} to {target}: {error}; check both, then try again"
        ) from error


def _wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise StorageError(f"the journal is damaged: {error}") from error


@contextlib.contextmanager
def inspect_journal(journal: Path, snapshot: Path) -> Iterator[JournalCopy]:
    """The log of a node, read from a copy that goes at the end.  Raises as copy_journal does."""
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="cyoloctl-"))
        except OSError as error:
            raise StorageError(
                f"there is no directory for the copy ({error.strerror}): make room in /tmp, or set TMPDIR"
            ) from error
        path = Path(directory, "journal")
        wal_bytes = _size(_wal_of(journal))
        copy_journal(journal, path)
        # Afterwards: a compaction drops entries only when the snapshot that holds them is there.
        meta = read_meta(snapshot)
        with _reading(path) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            record = read_record(connection)
            configuration = Configuration(frozenset(), frozenset())
            base = last_term = 0
            if meta is not None:
                configuration, base = (
                    Configuration(frozenset(meta.voters), frozenset(meta.removed)),
                    meta.index,
                )
            for (command, index, term), _whole in read_entries(connection, 0, 2**63 - 1):
                last_term = term
                change = decode_membership(command)
                if change is not None and index > base:
                    configuration = configuration.after(change)
        yield JournalCopy(
            record=record,
            snapshot=meta,
            configuration=configuration,
            last_term=last_term,
            format_version=version,
            journal_bytes=_size(journal),
            wal_bytes=wal_bytes,
            _path=path,
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
