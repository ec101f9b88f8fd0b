"""A simulated disk: what a node finds again after its process, or the power, is gone.

The journal above it is the real one.  Here a transaction of its SQLite file is
one batch, whole or not at all: ``SqliteStore`` promises that, and its own
tests prove it with torn files.  Snapshot files are bytes: content that was not
synced is torn, and names that were not synced may be the old ones.

Every operation is a *step*, and the process may die at each step.  After a
failed sync nothing may be written before a restart (Rebello et al., "Can
Applications Recover from fsync Failures?", USENIX ATC 2020); a commit after a
failed one is noted in `broken`.
"""

from __future__ import annotations

import copy
import errno
import io
import random
import sqlite3
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO, NamedTuple, cast

from cyoloctl.errors import StorageError
from cyoloctl.raft.journal import Batch, MemoryStore, Record, StoredState
from cyoloctl.raft.sqlite_store import read_entries

__all__ = ["Crash", "Disk", "DiskFiles", "DiskStore"]

_SYNC_S = (0.0001, 0.0005)
_RESERVE = 12  # commits for which a full disk has room


class Crash(BaseException):
    """The process dies here.  Not an Exception: nothing may handle it."""


class Image(NamedTuple):
    """What a disk held at some moment, durably."""

    journal: MemoryStore
    contents: dict[int, bytes]
    names: dict[str, int]


class Disk:
    """The disk of one node; it outlives the node's processes.

    full: writes fail, but those for which the journal's reserve has room.
    low: it has too little room for new entries.  fail_sync: the next sync
    fails.  sync_s: duration of a sync, at least and at most.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.journal = MemoryStore()
        self.pending: Batch | None = None  # written, not synced
        self.full = self.low = False
        self.reserve = _RESERVE
        self.fail_sync = False
        self.sync_s = _SYNC_S
        self.failures = 0  # injected since the last start
        self.broken: str | None = None  # a rule that the code above broke
        self._lied = False
        self.turned: tuple[int, bytes] | None = None  # a log entry with a wrong bit, as it is read
        self._contents: dict[int, bytes] = {}  # durable content by file
        self._written: dict[int, _File] = {}  # created by this process
        self._names: dict[str, int] = {}
        self._durable_names: dict[str, int] = {}
        self._changes: list[tuple[str, int | None]] = []  # of names, not synced
        self._count = 0
        self.life = 0

    def heal(self) -> None:
        """Every fault ends."""
        self.full = self.low = self.fail_sync = False
        self.sync_s = _SYNC_S

    def is_sound(self) -> bool:
        """True while no fault is on it."""
        return not self.full and not self.low and not self.fail_sync and self.sync_s == _SYNC_S

    def is_honest(self) -> bool:
        """True when it has always kept what it had synced."""
        return not self._lied

    def facts(self) -> dict[str, int]:
        """What a node tells of its space."""
        free = 0 if self.full else 2**20 if self.low else 2**34
        return {"disk_free_bytes": free, "disk_total_bytes": 2**36, "disk_reserve_bytes": 2**26}

    # Lies, while no process runs: see `Dishonesty`.

    def image(self) -> Image:
        """A copy of what is durable."""
        contents = {
            number: self._written[number].synced if number in self._written else self._contents[number]
            for number in self._durable_names.values()
        }
        return Image(copy.deepcopy(self.journal), contents, dict(self._durable_names))

    def roll_back(self, image: Image) -> None:
        """Everything is as it was."""
        self._lied = True
        self.journal = copy.deepcopy(image.journal)
        self._contents, self._names = dict(image.contents), dict(image.names)
        self._durable_names = dict(image.names)

    def lose_tail(self, count: int, covered: int) -> None:
        """The last entries of the journal are gone; none that the snapshot covers, nor the base."""
        self._lied = True
        record = self.record()
        last = max(record.last_index - count, record.first_index, min(covered, record.last_index))
        record = replace(record, last_index=last, commit_index=min(record.commit_index, last))
        self.journal.commit(Batch(last + 1, None, (), record))

    def rot(self, what: str, rng: random.Random) -> str:
        """A bit of the snapshot turns, or of the journal where there is none; says of which."""
        self._lied = True
        number = self._names.get("snapshot")
        if what == "snapshot" and number is not None:
            self._contents[number] = _turn(self._contents[number], rng)
            return "snapshot"
        record = self.record()
        index = rng.randint(record.first_index, record.last_index)
        entry = self.journal.entry(index)
        assert entry is not None
        self.turned = index, _turn(entry[0], rng)
        return "journal"

    def record(self) -> Record:
        """The record in the durable journal."""
        return self.journal.record()

    def sync(self) -> float:
        """Duration of a sync in seconds.  Raises OSError when it fails."""
        if self.fail_sync:
            self.fail_sync = False
            self.failures += 1
            raise OSError(errno.EIO, "simulated failure of fsync")
        return self._rng.uniform(*self.sync_s)

    def stop(self, *, power: bool) -> None:
        """The process is gone, and without power everything that was not synced."""
        self.life += 1
        self.broken = None
        pending, self.pending = self.pending, None
        if pending is not None and self._rng.random() < 0.5:
            self.journal.commit(pending)  # all of it had reached the disk; otherwise it is torn
        for number, file in self._written.items():
            data = file.kept()
            if power and file.synced != data:
                data = self._tear(data)
            self._contents[number] = data
        self._written.clear()
        if power:
            self._names = self._durable_names
            self._apply(self._changes[: self._rng.randint(0, len(self._changes))], self._names)
        self._changes.clear()
        self._durable_names = dict(self._names)
        used = set(self._names.values())
        self._contents = {number: data for number, data in self._contents.items() if number in used}

    def _tear(self, data: bytes) -> bytes:
        cut = self._rng.randint(0, len(data))
        return data[:cut] + bytes(len(data) - cut) * self._rng.randint(0, 1)

    @staticmethod
    def _apply(changes: list[tuple[str, int | None]], names: dict[str, int]) -> None:
        for name, number in changes:
            if number is None:
                names.pop(name, None)
            else:
                names[name] = number

    # Files, for DiskFiles.

    def change(self, *changes: tuple[str, int | None]) -> None:
        self._apply(list(changes), self._names)
        # One operation on names is atomic; here that is a rename's pair, old name last: it may stay.
        self._changes.extend(changes)

    def sync_names(self) -> None:
        self._durable_names = dict(self._names)
        self._changes.clear()

    def create(self, name: str, step: Callable[[str], None]) -> _File:
        if self.full:
            self.failures += 1
            raise OSError(errno.ENOSPC, "simulated full disk")
        self._count += 1
        file = self._written[self._count] = _File(self, step)
        self.change((name, self._count))
        return file

    def number(self, name: str) -> int:
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, name)
        return self._names[name]

    def read(self, name: str) -> bytes:
        number = self.number(name)
        written = self._written.get(number)
        return self._contents[number] if written is None else written.kept()

    def names(self) -> list[str]:
        return sorted(self._names)


class _File(io.BytesIO):
    """A file that this process created."""

    def __init__(self, disk: Disk, step: Callable[[str], None]) -> None:
        super().__init__()
        self._disk = disk
        self._step = step
        self._closed_with: bytes | None = None
        self.synced = b""

    def kept(self) -> bytes:
        return self.getvalue() if self._closed_with is None else self._closed_with

    def write(self, data: object, /) -> int:
        self._step("snapshot write")
        if self._disk.full:
            self._disk.failures += 1
            raise OSError(errno.ENOSPC, "simulated full disk")
        return super().write(cast(bytes, data))

    def close(self) -> None:
        if not self.closed:
            self._closed_with = self.getvalue()
        super().close()


class DiskStore:
    """`Store` of one process's journal."""

    def __init__(self, disk: Disk, step: Callable[[str], None], took: Callable[[float], None]) -> None:
        self._disk = disk
        self._step = step
        self._took = took
        self._failed = self._is_short = False

    def load(self) -> StoredState | None:
        """See Store."""
        if self._disk.turned is not None:
            _read_turned(self._disk.journal, *self._disk.turned)
        return self._disk.journal.load()

    def commit(self, batch: Batch) -> None:
        """See Store."""
        disk = self._disk
        if self._failed:
            disk.broken = "the journal was written again after it had failed"
        self._failed = True
        self._step("journal write")
        if disk.full:
            if not disk.reserve:
                disk.failures += 1
                raise StorageError("the simulated disk is full")
            disk.reserve -= 1
            self._is_short = True
        disk.pending = batch
        self._step("journal sync")
        try:
            self._took(disk.sync())
        except OSError as error:
            raise StorageError("a sync of the simulated disk failed") from error
        disk.journal.commit(batch)
        disk.pending = None
        self._failed = False
        self._step("journal synced")

    def is_short(self) -> bool:
        """See Store."""
        return self._is_short

    def find_room(self) -> bool:
        """See Store."""
        if not self._disk.full:
            self._disk.reserve, self._is_short = _RESERVE, False
        return not self._is_short

    def close(self) -> None:
        """See Store."""


def _turn(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _read_turned(journal: MemoryStore, index: int, turned: bytes) -> None:
    """Read an entry with a wrong bit as the real store does.  Raises StorageError where that notices."""
    entry = journal.entry(index)
    assert entry is not None
    command, _, term = entry
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE TABLE entries(position INTEGER PRIMARY KEY, term, command BLOB, crc)")
        crc = zlib.crc32(struct.pack(">QQ", index, term) + command)
        connection.execute("INSERT INTO entries VALUES(?, ?, ?, ?)", (index, term, turned, crc))
        if not all(whole for _, whole in read_entries(connection, index, index)):
            raise StorageError(f"the simulated disk is damaged: log entry {index} is wrong")
    finally:
        connection.close()


class DiskFiles:
    """`Files` of one process's snapshots."""

    name = "the simulated snapshot"

    def __init__(self, disk: Disk, step: Callable[[str], None], took: Callable[[float], None]) -> None:
        self._disk = disk
        self._life = disk.life
        self._on_step = step
        self._took = took

    def _step(self, what: str) -> None:
        if self._gone():
            return
        self._on_step(what)

    def _gone(self) -> bool:
        return self._disk.life != self._life

    def leftovers(self) -> list[str]:
        """See Files."""
        return [name for name in self._disk.names() if name.endswith(".tmp")]

    def open(self, name: str) -> BinaryIO:
        """See Files."""
        return io.BytesIO(self._disk.read(name))

    def create(self, name: str) -> BinaryIO:
        """See Files."""
        self._step("snapshot create")
        return self._disk.create(name, self._step)

    def sync(self, file: BinaryIO) -> None:
        """See Files."""
        self._step("snapshot sync")
        self._took(self._disk.sync())
        cast(_File, file).synced = cast(_File, file).kept()
        self._step("snapshot synced")

    def rename(self, old: str, new: str) -> None:
        """See Files."""
        self._step("snapshot rename")
        self._disk.change((new, self._disk.number(old)), (old, None))
        self._step("snapshot renamed")

    def sync_names(self) -> None:
        """See Files."""
        self._took(self._disk.sync())
        self._disk.sync_names()
        self._step("snapshot in place")

    def remove(self, name: str) -> None:
        """See Files."""
        if not self._gone():  # a dead process does not clean up
            self._disk.number(name)
            self._disk.change((name, None))
