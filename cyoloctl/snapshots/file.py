"""Snapshots of the whole replicated state in files, from which a new cluster may begin.

File format, version 1 (mode 0600; integers big-endian):

======================  ==========================================================
8 bytes                 magic ``cyolosav``
1 byte                  format version, 1
4 bytes                 length of the head in bytes, at most 1 MiB
head                    canonical JSON, the fields of `Head`
state                   what ``ClusterState.begin_snapshot`` made
key ring                what ``key export`` prints, or nothing
32 bytes                SHA-256 of everything before it
======================  ==========================================================

Every later version keeps the first nine bytes and the last 32, so that damage
and a newer version are never taken for each other.  The state holds token keys
only sealed to the members of its cluster.  So without a key ring nobody can
open its sessions any more.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from cyoloctl.errors import InvalidInput, StorageError, VersionMismatch
from cyoloctl.paths import SteadyWriter, exists_error, file_error, sync_directory
from cyoloctl.pki.identity import parse_cluster_id
from cyoloctl.text import canonical_json

__all__ = [
    "Head",
    "Saved",
    "StateReader",
    "encode_head",
    "is_snapshot",
    "new_snapshot_file",
    "open_snapshot_file",
    "verify_snapshot",
]

FORMAT_VERSION = 1
MAX_FILE_BYTES = 2**33 + 2**24
"""Largest file that is read: the largest state of a node, and room for the rest."""

_MAGIC = b"cyolosav"
_PREFIX = struct.Struct(">8sBI")
_DIGEST_BYTES = 32
_MAX_HEAD_BYTES = 2**20
_READ_BYTES = 2**20
_KINDS = {"cluster_id": str, "cluster": str, "node": str, "release": str, "keys": str}


@dataclass(frozen=True, slots=True)
class Head:
    """Description of a snapshot.

    cluster_id, cluster: whose state it is.  node, release: who made it.
    epoch, index, term: up to which log entry of which history.  time_unix_ms:
    cluster time then.  keys: how its key ring is sealed, ``passphrase`` or
    ``node``, empty where it has none.  state_bytes, keys_bytes: lengths.
    """

    cluster_id: str
    cluster: str
    node: str
    release: str
    epoch: int
    index: int
    term: int
    time_unix_ms: int
    keys: str
    state_bytes: int
    keys_bytes: int


class Saved:
    """A snapshot that was verified, and whose file is open.

    sha256: of the file without its last 32 bytes, in hex.
    """

    def __init__(self, file: BinaryIO, path: str, head: Head, start: int, sha256: str) -> None:
        """start: where in the file the state begins."""
        self.head, self.sha256 = head, sha256
        self._file, self._path, self._start = file, path, start
        self._state_digest: bytes | None = None

    def state(self) -> StateReader:
        """The state, from its first byte on; one that is read by `ClusterState.restore`."""
        self._file.seek(self._start)
        return StateReader(self._file, self.head.state_bytes, self._same)

    def parts(self) -> Iterator[bytes]:
        """The state in parts.  Raises StorageError where it is not what was read before."""
        source = self.state()
        try:
            while part := source.read(_READ_BYTES):
                yield part
        except ValueError as error:
            raise StorageError(f"{self._path} is damaged, {error}: use another copy of it") from None
        except OSError as error:
            raise file_error(Path(self._path), error, "read") from None

    def key_ring(self) -> bytes:
        """What its key ring is, or nothing."""
        self._file.seek(self._start + self.head.state_bytes)
        return self._file.read(self.head.keys_bytes)

    def _same(self, digest: bytes) -> bool:
        """Whether the state is what it was when it was read first."""
        if self._state_digest is None:
            self._state_digest = digest
        return digest == self._state_digest


class StateReader:
    """The state in an open file: a source to be read once."""

    def __init__(self, file: BinaryIO, size: int, is_right: Callable[[bytes], bool]) -> None:
        """is_right: asked at the end about the SHA-256 of all."""
        self._file, self._left, self._is_right = file, size, is_right
        self._digest = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        """Up to so many of the next bytes; none at the end.

        Raises OSError, and ValueError where they are not what they were before.
        """
        data = self._file.read(min(size, self._left))
        self._digest.update(data)
        self._left -= len(data)
        cut = not data and size and self._left
        if cut or (data and not self._left and not self._is_right(self._digest.digest())):
            raise ValueError("it was changed while it was read")
        return data


def encode_head(head: Head) -> bytes:
    """Everything before the state."""
    text = canonical_json(asdict(head)).encode("ascii")
    return _PREFIX.pack(_MAGIC, FORMAT_VERSION, len(text)) + text


@contextmanager
def new_snapshot_file(path: Path) -> Iterator[Callable[[bytes], None]]:
    """A new file of mode 0600 that appears whole under its name, or not at all.

    Yields the function that appends to it; the digest follows at the end.
    Raises AlreadyExists where there is anything at path, and what file_error gives.
    """
    if os.path.lexists(path):
        raise exists_error(path, "snapshot")
    path = path.absolute()
    temporary = path.with_name(f".{path.name[:64]}.{os.urandom(8).hex()}")
    digest = hashlib.sha256()
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            writer = SteadyWriter(file)

            def write(data: bytes) -> None:
                digest.update(data)
                try:
                    writer.write(data)
                except OSError as error:
                    raise file_error(path, error, "write") from None

            yield write
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike rename, fails where path exists
        except FileExistsError:
            raise
        except OSError:  # a stick without hard links
            os.rename(temporary, path)
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        sync_directory(path.parent)
    except FileExistsError:
        raise exists_error(path, "snapshot") from None
    except OSError as error:
        raise file_error(path, error, "write") from None
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def is_snapshot(path: Path) -> bool:
    """Whether a file begins as a snapshot does.  False where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


@contextmanager
def open_snapshot_file(path: Path) -> Iterator[Saved]:
    """A file that was read once and verified; its state is read from it again, and never held.

    Raises StorageError for one that is damaged, InvalidInput for what is no
    snapshot, VersionMismatch for one of a newer release, and what file_error gives.
    """
    with ExitStack() as opened:
        try:
            file: BinaryIO = opened.enter_context(open(path, "rb"))
            status = os.fstat(file.fileno())
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):
                # What comes through a pipe comes once.
                file = BytesIO(_all_of(file, path))
                size = len(file.getbuffer())
            if size > MAX_FILE_BYTES:
                raise InvalidInput(f"{path} is no snapshot: it has {size} bytes")
            saved = verify_snapshot(file, size, str(path))
        except OSError as error:
            raise file_error(path, error, "read") from None
        yield saved


def _all_of(file: BinaryIO, path: Path) -> bytes:
    content = bytearray()
    while piece := file.read(_READ_BYTES):
        content += piece
        if len(content) > MAX_FILE_BYTES:
            raise InvalidInput(f"{path} is no snapshot: it does not end")
    return bytes(content)


def verify_snapshot(file: BinaryIO, size: int, path: str) -> Saved:
    """The snapshot in an open file of so many bytes.  path: of the file, for messages.

    Raises as `open_snapshot_file`, and OSError.
    """
    prefix = file.read(_PREFIX.size)
    if prefix[: len(_MAGIC)] != _MAGIC or size < _PREFIX.size + _DIGEST_BYTES:
        raise InvalidInput(f"{path} is no snapshot: use a file that `cyoloctl snapshot save` wrote")
    body_bytes = size - _DIGEST_BYTES
    digest, left = hashlib.sha256(prefix), body_bytes - _PREFIX.size
    while left and (piece := file.read(min(left, _READ_BYTES))):
        digest.update(piece)
        left -= len(piece)
    if digest.digest() != file.read(_DIGEST_BYTES):
        raise StorageError(f"{path} is damaged, its checksum is wrong: use another copy of it")
    _, version, length = _PREFIX.unpack(prefix)
    if version != FORMAT_VERSION:
        raise VersionMismatch(
            f"{path} has format version {version}, this release reads {FORMAT_VERSION}: use the release that "
            "wrote it, or a newer one"
        )
    start = _PREFIX.size + length
    file.seek(_PREFIX.size)
    head = _decode_head(file.read(length)) if length <= min(_MAX_HEAD_BYTES, body_bytes) else None
    if head is None or start + head.state_bytes + head.keys_bytes != body_bytes:
        raise StorageError(f"{path} is damaged, its head is wrong: use another copy of it")
    return Saved(file, path, head, start, digest.hexdigest())


def _decode_head(text: bytes) -> Head | None:
    names = [field.name for field in fields(Head)]
    try:
        value = json.loads(text)
        if value.keys() != set(names) or canonical_json(value).encode("ascii") != text:
            return None
        for name in names:
            found = value[name]
            if type(found) is not _KINDS.get(name, int) or (type(found) is int and not 0 <= found < 2**63):
                return None
        parse_cluster_id(value["cluster_id"])
    except (ValueError, TypeError, AttributeError, RecursionError, InvalidInput):
        return None
    return Head(**value) if value["keys"] in ("", "passphrase", "node") else None
