"""The WAL of SQLite, read before SQLite reads it: damage in the middle must not pass for a torn end.

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
  commit: a transaction writes each page once, and each of ours writes the
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
"""

from __future__ import annotations

import struct
from pathlib import Path

from cyoloctl.errors import StorageError
from cyoloctl.raft.journal import REPLACE

__all__ = ["check_wal", "checksum"]

_WAL_HEADER = struct.Struct(">8I")
_FRAME_HEADER = struct.Struct(">6I")
_WAL_MAGIC = 0x377F0682  # the lowest bit says that the checksums read big-endian words


def checksum(words: tuple[int, ...], s0: int, s1: int) -> tuple[int, int]:
    """The checksum of SQLite's WAL, seeded with (s0, s1) (file format, section 4.2)."""
    for i in range(0, len(words), 2):
        s0 = (s0 + words[i] + s1) & 0xFFFFFFFF
        s1 = (s1 + words[i + 1] + s0) & 0xFFFFFFFF
    return s0, s1


def _read_header(path: Path, data: bytes) -> tuple[str, int, tuple[int, int], tuple[int, int]] | None:
    """Byte order, page size, salts and checksum of a WAL; None when it holds nothing."""
    magic, version, page_bytes, _, salt0, salt1, sum0, sum1 = _WAL_HEADER.unpack_from(data)
    order = ">" if magic & 1 else "<"
    good = (
        magic & ~1 == _WAL_MAGIC
        and version == 3007000
        and checksum(struct.unpack_from(f"{order}6I", data), 0, 0) == (sum0, sum1)
    )
    if good:
        return order, page_bytes, (salt0, salt1), (sum0, sum1)
    if any(data):
        raise StorageError(f"{path} is damaged: its header is not valid; {REPLACE}")
    return None


def check_wal(path: Path) -> bool:
    """Refuse a WAL that is damaged before its last transaction; whether it ends with a whole one.

    See the module.

    path: the ``-wal`` file; a missing or empty one is fine.
    Raises StorageError that names it; OSError if it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return True
    if len(data) < _WAL_HEADER.size + _FRAME_HEADER.size:
        return True
    header = _read_header(path, data)
    if header is None:
        return True
    order, page_bytes, salts, seed = header
    page = struct.Struct(f"{order}{page_bytes // 4}I")
    start = struct.Struct(f"{order}2I")
    frame_bytes = _FRAME_HEADER.size + page_bytes
    bad = False
    pages: set[int] = set()  # since the last good commit; at the end, of what is torn or was never committed
    repeated = committed = False  # seen among the frames since the first bad one
    for offset in range(_WAL_HEADER.size, len(data) - frame_bytes + 1, frame_bytes):
        number, commit, frame_salt0, frame_salt1, stored0, stored1 = _FRAME_HEADER.unpack_from(data, offset)
        salted = (frame_salt0, frame_salt1) == salts
        valid = salted and number > 0
        if valid:
            found = checksum(start.unpack_from(data, offset), *seed)
            found = checksum(page.unpack_from(data, offset + _FRAME_HEADER.size), *found)
            valid = found == (stored0, stored1)
        seed = (stored0, stored1)
        if bad and salted and number in pages:
            repeated = True
        if bad and valid and (committed or repeated):
            raise StorageError(
                f"{path} is damaged at byte {offset}, before its last transaction: acknowledged writes "
                f"are lost; {REPLACE}"
            )
        bad = bad or not valid
        if salted:
            pages.add(number)
        if bad:
            committed = committed or (salted and commit != 0)
        elif commit:
            pages.clear()
    return not pages
