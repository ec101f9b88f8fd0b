"""The snapshot on disk: one file, replaced as a whole, streamed in chunks.

File format, version 2 (``DIR/snapshot``, mode 0600; integers big-endian):

======================  ==========================================================
8 bytes                 magic ``cyolosnp``
1 byte                  format version, 2
4 bytes                 length of the header in bytes, at most 4 MiB
header                  canonical JSON (ASCII, sorted keys, no spaces):
                        ``{"index","removed":[name...],"term","voters":[name...]}``
data                    what the state machine made of its state, in parts
32 bytes                SHA-256 of everything before it
======================  ==========================================================

The data is as long as what is left for it.  Version 1 had ``total``, its
length, in the header, so that it had to be whole in memory before it was written.

Every later version keeps the first nine bytes and the last 32, so that damage
(the digest is wrong) and a newer version (the digest is right) are never taken
for each other.  A transfer to another node carries these same bytes.

A new snapshot is written to ``snapshot.N.tmp``, synced, renamed over
``snapshot``, and the directory is synced: a crash leaves the old one or the
new one, and at worst a temporary file, which the next start removes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import json
import os
import struct
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol, TypeVar

from cyoloctl.errors import InternalError, InvalidInput, StorageError, VersionMismatch
from cyoloctl.model import RaftId
from cyoloctl.paths import SteadyWriter
from cyoloctl.text import canonical_json

__all__ = [
    "MAX_SNAPSHOT_BYTES",
    "Files",
    "Receiver",
    "SnapshotData",
    "SnapshotMeta",
    "SnapshotStore",
    "Transfer",
    "is_shortage",
    "read_meta",
]

MAX_SNAPSHOT_BYTES = 2**33
"""The largest snapshot file, header and digest included."""

_LARGE_BYTES = 64 * 2**20

FORMAT_VERSION = 2
_WITH_TOTAL = 1

_NAME = "snapshot"
_MAGIC = b"cyolosnp"
_PREFIX = struct.Struct(">8sBI")
_DIGEST_BYTES = 32
_MAX_HEADER_BYTES = 4 * 2**20
_MIN_FILE_BYTES = _PREFIX.size + _DIGEST_BYTES
_READ_BYTES = 2**20
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC})
_MAX_INTEGER = 2**63 - 1

_T = TypeVar("_T")

_REPLACE = (
    "this node cannot continue without it: on a healthy node run `cyoloctl member remove NAME` for this "
    "member, then join again under a new name with an empty data directory"
)


@dataclass(frozen=True)
class SnapshotMeta:
    """Description of a snapshot.

    index, term: of the last log entry that it contains.
    voters: the configuration at that entry.  removed: names that may never return.
    """

    index: int
    term: int
    voters: tuple[RaftId, ...]
    removed: tuple[RaftId, ...]


def is_shortage(error: BaseException | None) -> bool:
    """Whether an error means that no descriptor, thread, memory or space was left: it may be tried again."""
    cause = error.__cause__ if isinstance(error, StorageError) else error
    return isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno in _SHORTAGES)


class _DamagedError(Exception):
    """The bytes are not a whole snapshot; the caller knows whose they are."""


def _encode_head(meta: SnapshotMeta, *, total: int | None = None) -> bytes:
    """Everything before the data.  total: its length, in version 1.  Raises InvalidInput: too many names."""
    fields = {
        "index": meta.index,
        "removed": list(meta.removed),
        "term": meta.term,
        "voters": list(meta.voters),
    }
    if total is not None:
        fields["total"] = total
    header = canonical_json(fields).encode("ascii")
    if len(header) > _MAX_HEADER_BYTES:
        raise InvalidInput(f"the snapshot lists too many members: its header has {len(header)} bytes")
    version = FORMAT_VERSION if total is None else _WITH_TOTAL
    return _PREFIX.pack(_MAGIC, version, len(header)) + header


def _decode_head(file: BinaryIO, size: int) -> tuple[SnapshotMeta, int]:
    """Meta and length of the data; leaves the file at the data.

    The caller has verified the digest.  Raises _DamagedError or VersionMismatch.
    """
    prefix = file.read(_PREFIX.size)
    if size < _MIN_FILE_BYTES or len(prefix) < _PREFIX.size:
        raise _DamagedError("it is too short")
    magic, version, header_bytes = _PREFIX.unpack(prefix)
    if magic != _MAGIC:
        raise _DamagedError("it is not a snapshot")
    if version > FORMAT_VERSION:
        raise VersionMismatch(
            f"the snapshot has format version {version}, this release reads up to {FORMAT_VERSION}: "
            "start a newer release"
        )
    most = min(_MAX_HEADER_BYTES, size - _MIN_FILE_BYTES)
    if version not in (_WITH_TOTAL, FORMAT_VERSION) or header_bytes > most:
        raise _DamagedError("its header is wrong")
    header = file.read(header_bytes)
    try:
        value = json.loads(header)
        meta = SnapshotMeta(value["index"], value["term"], tuple(value["voters"]), tuple(value["removed"]))
        data_bytes = size - _MIN_FILE_BYTES - header_bytes
        # Decoded strictly: encoding again must give the same bytes, so there is one form only.
        total = data_bytes if version == _WITH_TOTAL else None
        exact = header == _encode_head(meta, total=total)[_PREFIX.size :]
    except (ValueError, TypeError, KeyError, RecursionError, InvalidInput) as error:
        raise _DamagedError("its header is wrong") from error
    numbers = all(type(number) is int and 0 <= number <= _MAX_INTEGER for number in (meta.index, meta.term))
    names = all(isinstance(name, str) for name in meta.voters + meta.removed)
    if not (exact and numbers and names):
        raise _DamagedError("its header is wrong")
    return meta, data_bytes


def _digest_of(file: BinaryIO, size: int) -> tuple[bytes, bytes]:
    """The digest that the bytes have, and the one that they end with; from the start of the file."""
    if size < _MIN_FILE_BYTES:
        raise _DamagedError("it is too short")
    if size > MAX_SNAPSHOT_BYTES:
        raise _DamagedError("it is too long")
    found = hashlib.sha256()
    left = size - _DIGEST_BYTES
    while left:
        chunk = file.read(min(left, _READ_BYTES))
        if not chunk:
            raise _DamagedError("it is too short")
        found.update(chunk)
        left -= len(chunk)
    return found.digest(), file.read(_DIGEST_BYTES)


def _verify(file: BinaryIO, size: int) -> tuple[SnapshotMeta, int, bytes]:
    """Meta, length of the data, digest; leaves the file at the data."""
    found, stored = _digest_of(file, size)
    if found != stored:
        raise _DamagedError("its digest is wrong")
    file.seek(0)
    return *_decode_head(file, size), found


def read_meta(path: Path) -> SnapshotMeta | None:
    """What a snapshot file says that it stands for; None where there is none.

    Its content is not verified.  Changes nothing, so that it may be read beside
    the node whose it is.  Raises StorageError, VersionMismatch.
    """
    try:
        with open(path, "rb") as file:
            return _decode_head(file, os.fstat(file.fileno()).st_size)[0]
    except FileNotFoundError:
        return None
    except _DamagedError as error:
        raise StorageError(f"{path} is damaged: {error}; {_REPLACE}") from None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}; check the disk") from error


class SnapshotData:
    """The data of an open snapshot file: `read` is all that is needed of it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        """file: open at the first of so many bytes."""
        self._file = file
        self._left = size

    def read(self, size: int, /) -> bytes:
        """Up to so many of the next bytes; none at the end.  Raises OSError."""
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data


class Transfer:
    """One version of the snapshot, opened for sending; a newer one does not disturb it.

    meta: what it stands for.  total: its length in bytes.  digest: hex SHA-256,
    to be announced with every chunk.
    """

    def __init__(self, file: BinaryIO, meta: SnapshotMeta, total: int, digest: str, name: str) -> None:
        self.meta = meta
        self.total = total
        self.digest = digest
        self._file = file
        self._name = name

    def read(self, offset: int, size: int) -> bytes:
        """Up to size bytes from offset; fewer only at the end, none at or after it.

        Raises StorageError, and InternalError once closed.
        """
        if self._file.closed:
            raise InternalError("the snapshot transfer is closed")
        wanted = max(0, min(size, self.total - offset))
        try:
            self._file.seek(offset)
            data = self._file.read(wanted)
        except OSError as error:
            _raise_snapshot_error(self._name, error)
        if len(data) != wanted:
            raise StorageError(f"{self._name} is damaged: it is too short; {_REPLACE}")
        return data

    def close(self) -> None:
        """Let go of the file.  Idempotent."""
        self._file.close()


class Files(Protocol):
    """The directory that a `SnapshotStore` lives in: a real one, or a simulated disk.

    Every method may raise OSError.  name: what error messages call the snapshot.
    """

    name: str

    def leftovers(self) -> list[str]:
        """The temporary files of an earlier run."""
        ...

    def open(self, name: str) -> BinaryIO:
        """To read.  Raises FileNotFoundError."""
        ...

    def create(self, name: str) -> BinaryIO:
        """A new file, to write and read."""
        ...

    def sync(self, file: BinaryIO) -> None:
        """Make the content of a created file durable; its name need not be."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Replace, atomically; durable after `sync_names`."""
        ...

    def sync_names(self) -> None:
        """The names are durable."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file."""
        ...


class _Directory:
    """`Files` of the operating system."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.name = str(directory / _NAME)
        self._names: int | None = None

    def leftovers(self) -> list[str]:
        return [path.name for path in self._directory.glob("snapshot.*.tmp")]

    def open(self, name: str) -> BinaryIO:
        return open(self._directory / name, "rb")

    def create(self, name: str) -> BinaryIO:
        # What sync_names needs, before anything is changed: afterwards a lack of it could not be undone.
        if self._names is None:
            self._names = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._names)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return open(os.open(self._directory / name, flags, 0o600), "w+b")

    def sync(self, file: BinaryIO) -> None:
        os.fsync(file.fileno())

    def rename(self, old: str, new: str) -> None:
        with _freed_elsewhere(self._directory / new):
            os.rename(self._directory / old, self._directory / new)

    def sync_names(self) -> None:
        if self._names is not None:
            os.fsync(self._names)

    def remove(self, name: str) -> None:
        with _freed_elsewhere(self._directory / name):
            (self._directory / name).unlink()


@contextlib.contextmanager
def _freed_elsewhere(path: Path) -> Iterator[None]:
    """Where a large file loses its name within the block, its room is given back in another thread.

    A file system takes 0.3 to 1 s to free a gigabyte, and the node would answer nobody meanwhile.
    """
    held: int | None = None
    with contextlib.suppress(OSError):  # nothing there, or no descriptor left: then it is freed here
        held = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if held is not None and os.fstat(held).st_size < _LARGE_BYTES:
        os.close(held)
        held = None
    try:
        yield
    finally:
        if held is not None:
            try:
                threading.Thread(target=os.close, args=(held,), name="free", daemon=True).start()
            except RuntimeError:  # no thread can be started
                os.close(held)


class Receiver:
    """A snapshot on its way in.  Nothing is visible before `install` succeeded."""

    def __init__(self, store: SnapshotStore, meta: SnapshotMeta, total: int, digest: str) -> None:
        self.meta = meta
        self.total = total
        self.digest = digest
        self._store = store
        self._next = 0
        self._file, self._temporary = store._new_file()

    def write(self, offset: int, data: bytes) -> int:
        """Take one chunk; strictly in order.

        Returns the offset expected next.  A chunk that begins anywhere else is
        not written, so the answer is where the sender has to go on.
        Raises InvalidInput past the announced total, StorageError from the
        disk; both abort.  InternalError once it is over.
        """
        self._check()
        if offset != self._next:
            return self._next
        if offset + len(data) > self.total:
            self.abort()
            raise InvalidInput(f"the snapshot is longer than the announced {self.total} bytes: send it again")
        try:
            self._file.write(data)
        except OSError as error:
            self.abort()
            _raise_snapshot_error(self._store.name, error)
        self._next += len(data)
        return self._next

    def verify(self, prepare: Callable[[SnapshotData], _T]) -> _T:
        """Verify what came, and put it on the disk; it is not the snapshot yet.  For another thread.

        prepare: reads the data, so that a file that the state machine cannot
        read never takes the place of a good one; it raises StorageError or
        VersionMismatch, and changes nothing.

        Raises InvalidInput if it is not whole, not what was announced or
        not readable, VersionMismatch if the sender's format is newer,
        StorageError from the disk.  Over when it raises: a new transfer needs a new receiver.
        """
        self._check()
        try:
            return self._verify(prepare)
        except OSError as error:
            self.abort()
            _raise_snapshot_error(self._store.name, error)
        except BaseException:
            self.abort()
            raise

    def _verify(self, prepare: Callable[[SnapshotData], _T]) -> _T:
        if self._next != self.total:
            raise InvalidInput(f"the snapshot ended after {self._next} of {self.total} bytes: send it again")
        try:
            self._file.seek(0)
            meta, data_bytes, digest = _verify(self._file, self.total)
        except _DamagedError as error:
            raise InvalidInput(f"the snapshot was damaged on its way, {error}: send it again") from error
        if digest.hex() != self.digest or meta != self.meta:
            raise InvalidInput("the snapshot is not the one that was announced: send it again")
        try:
            prepared = prepare(SnapshotData(self._file, data_bytes))
        except StorageError as error:
            raise InvalidInput(error.message) from error
        self._store._sync(self._file)
        return prepared

    def install(self) -> bool:
        """Make what was verified the snapshot, durably.  Quick.

        Returns False, nothing changed, if a newer one is already there.
        Raises StorageError from the disk.  Over in every case.
        """
        self._check()
        try:
            return self._store._install(
                self._file, self._temporary, self.meta, self.total, bytes.fromhex(self.digest)
            )
        except OSError as error:
            _raise_snapshot_error(self._store.name, error)
        finally:
            self.abort()

    def abort(self) -> None:
        """Forget what came.  Idempotent, and harmless after `install`."""
        self._store._discard(self._file, self._temporary)

    def _check(self) -> None:
        if self._file.closed:
            raise InternalError("the snapshot transfer is over")


class SnapshotStore:
    """The one current snapshot of a node.

    directory: holds the file ``snapshot``; None keeps it in memory; the
    simulation brings its own `Files`.  One store a directory and process.
    Temporary files of an earlier run are removed.
    Raises StorageError (damaged or unreadable) or VersionMismatch, naming the
    file and the remedy: a node never starts beside a snapshot that it cannot
    read.  Reads the whole file once, about one second per GiB.

    Thread-safe: `save` and `Receiver.verify` may run in another thread while
    transfers are opened and read.  A single transfer or receiver belongs to
    one thread at a time.
    """

    def __init__(self, directory: Path | Files | None) -> None:
        self._files: Files | None = _Directory(directory) if isinstance(directory, Path) else directory
        self.name = "the snapshot in memory" if self._files is None else self._files.name
        self._lock = threading.Lock()
        self._count = 0
        self._memory: bytes | None = None
        self._current: tuple[SnapshotMeta, int, str] | None = None  # meta, total, digest
        if self._files is not None:
            try:
                for leftover in self._files.leftovers():
                    self._files.remove(leftover)
            except OSError as error:
                _raise_snapshot_error(self.name, error)
        self._current = self._look()

    @property
    def size_bytes(self) -> int:
        """Size of the newest snapshot's file; 0 without any."""
        current = self._current
        return 0 if current is None else current[1]

    @property
    def meta(self) -> SnapshotMeta | None:
        """Description of the current, durable snapshot; None if there is none."""
        current = self._current
        return None if current is None else current[0]

    @contextlib.contextmanager
    def load(self) -> Iterator[tuple[SnapshotMeta, SnapshotData] | None]:
        """The current snapshot, verified, to be read within the block; None if there is none.

        The data is read once more, so whoever uses it verifies it again: see `StateMachine.prepare_restore`.
        Raises StorageError or VersionMismatch, naming the file and the remedy.
        """
        with self._named_errors(), self._opened() as file:
            if file is None:
                found = None
            else:
                meta, data_bytes, _ = _verify(file, _size_of(file))
                found = meta, SnapshotData(file, data_bytes)
            yield found

    def save(self, meta: SnapshotMeta, data: bytes | Iterable[bytes]) -> bool:
        """Make this the snapshot, durably.  data: whole, or in parts.

        Returns False, nothing changed, if one with a higher index is there.
        Raises InvalidInput above MAX_SNAPSHOT_BYTES, StorageError from the
        disk (see `is_shortage`: it may be tried again); the old one then stays, and the log
        must not be compacted.
        """
        current = self.meta
        if current is not None and current.index > meta.index:
            return False
        digest, total = hashlib.sha256(), 0
        head = _encode_head(meta)
        file, temporary = self._new_file()
        writer = SteadyWriter(file, lambda: self._sync(file))
        try:
            for part in itertools.chain((head,), (data,) if isinstance(data, bytes) else data):
                total += len(part)
                if total > MAX_SNAPSHOT_BYTES - _DIGEST_BYTES:
                    raise InvalidInput(f"the snapshot has more than {MAX_SNAPSHOT_BYTES} bytes")
                digest.update(part)
                writer.write(part)
            file.write(digest.digest())
            self._sync(file)
            return self._install(file, temporary, meta, total + _DIGEST_BYTES, digest.digest())
        except OSError as error:
            _raise_snapshot_error(self.name, error)
        finally:
            self._discard(file, temporary)

    def open_transfer(self) -> Transfer | None:
        """The current snapshot, opened for sending; None if there is none.  Close it."""
        with self._lock:
            if self._current is None:
                return None
            meta, total, digest = self._current
            try:
                file = self._open()
            except OSError as error:
                _raise_snapshot_error(self.name, error)
            if file is None:
                raise StorageError(f"{self.name} is gone; {_REPLACE}")
        return Transfer(file, meta, total, digest, self.name)

    def begin_receive(self, meta: SnapshotMeta, total: int, digest: str) -> Receiver:
        """Begin to receive what a peer announced: its Transfer's meta, total and digest.

        Raises InvalidInput if that cannot be a snapshot, StorageError from the disk.
        """
        if not _MIN_FILE_BYTES <= total <= MAX_SNAPSHOT_BYTES:
            raise InvalidInput(
                f"a snapshot of {total} bytes was announced: "
                f"it must have {_MIN_FILE_BYTES} to {MAX_SNAPSHOT_BYTES}"
            )
        if len(digest) != 2 * _DIGEST_BYTES or set(digest) - set("0123456789abcdef"):
            raise InvalidInput("the announced digest of a snapshot is not a hex sha-256")
        return Receiver(self, meta, total, digest)

    # --- files ---

    def _open(self) -> BinaryIO | None:
        if self._files is None:
            return None if self._memory is None else io.BytesIO(self._memory)
        try:
            return self._files.open(_NAME)
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def _opened(self) -> Iterator[BinaryIO | None]:
        file = self._open()
        if file is None:
            if self._current is not None:
                raise StorageError(f"{self.name} is gone; {_REPLACE}")
            yield None
            return
        with file:
            yield file

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except _DamagedError as error:
            raise StorageError(f"{self.name} is damaged: {error}; {_REPLACE}") from error
        except VersionMismatch as error:
            raise VersionMismatch(f"{self.name}: {error.message}") from error
        except OSError as error:
            _raise_snapshot_error(self.name, error)

    def _look(self) -> tuple[SnapshotMeta, int, str] | None:
        """What is there, verified."""
        with self._named_errors(), self._opened() as file:
            if file is None:
                return None
            size = _size_of(file)
            meta, _, digest = _verify(file, size)
        return meta, size, digest.hex()

    def _new_file(self) -> tuple[BinaryIO, str | None]:
        if self._files is None:
            return io.BytesIO(), None
        with self._lock:
            self._count += 1
            temporary = f"{_NAME}.{self._count}.tmp"
        try:
            return self._files.create(temporary), temporary
        except OSError as error:
            _raise_snapshot_error(self.name, error)

    def _sync(self, file: BinaryIO) -> None:
        """The content of a whole file is durable.  Raises OSError."""
        file.flush()
        if self._files is not None:
            self._files.sync(file)

    def _install(
        self, file: BinaryIO, temporary: str | None, meta: SnapshotMeta, total: int, digest: bytes
    ) -> bool:
        """Rename a whole, verified, synced file.  Raises OSError."""
        with self._lock:
            if self._current is not None and self._current[0].index > meta.index:
                return False
            if self._files is None or temporary is None:
                file.seek(0)
                self._memory = file.read()
            else:
                self._files.rename(temporary, _NAME)
                self._files.sync_names()
            self._current = (meta, total, digest.hex())
        return True

    def _discard(self, file: BinaryIO, temporary: str | None) -> None:
        if file.closed:
            return
        with contextlib.suppress(OSError):
            file.close()
        if self._files is not None and temporary is not None:
            with contextlib.suppress(OSError):
                self._files.remove(temporary)


def _size_of(file: BinaryIO) -> int:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _raise_snapshot_error(name: str, error: OSError) -> NoReturn:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        text = f"{name} cannot be written, the disk is full: free space"
    elif error.errno in _SHORTAGES:
        text = (
            f"{name} cannot be read or written, the process or the machine has no descriptor or memory left "
            f"({error.strerror}): raise the limit of open files (ulimit -n, LimitNOFILE) or add memory"
        )
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        text = (
            f"{name} cannot be read or written, it or its disk is read-only or not this user's: "
            "make it readable and writable for this user, then restart the node"
        )
    else:
        text = f"{name} cannot be read or written ({error}): check the disk, then restart the node"
    raise StorageError(text) from error
