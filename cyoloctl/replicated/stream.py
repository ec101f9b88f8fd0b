"""The state as a stream: frames of bytes, rows in frames, and a checksum at the end.

Neither writing nor reading holds more than a frame at a time, and no step of
either takes long, so that both may run in a thread beside a busy node.

A frame is its length (4 bytes, big endian) and so many bytes, at least one.
Rows are frames of canonical JSON, each a list of some rows, and a frame of no
bytes after the last.  The stream ends with the SHA-256 of all before.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from typing import Any

from cyoloctl.fastjson import canonical_bytes, decode_canonical
from cyoloctl.model import Source

__all__ = ["DIGEST_BYTES", "BytesSource", "StreamReader", "frame", "row_frames", "sealed"]

DIGEST_BYTES = 32

_LENGTH = struct.Struct(">I")
_ROWS = 32
"""Rows of a frame: an encoder's call holds the interpreter, whatever thread it runs in."""
_FRAME_BYTES = 64 * 1024
"""A reader wants so much at once."""


def frame(content: bytes) -> bytes:
    """A frame of at least one byte."""
    return _LENGTH.pack(len(content)) + content


def row_frames(rows: Iterable[Any]) -> Iterator[bytes]:
    """The frames of a table."""
    rest = iter(rows)
    while batch := list(islice(rest, _ROWS)):
        yield frame(canonical_bytes(batch))
    yield _LENGTH.pack(0)


def sealed(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The parts, a few joined at a time, and their SHA-256."""
    digest = sha256()
    joined: list[bytes] = []
    size = 0
    for part in parts:
        joined.append(part)
        size += len(part)
        if size >= _FRAME_BYTES:
            whole = b"".join(joined)
            digest.update(whole)
            yield whole
            joined, size = [], 0
    whole = b"".join(joined)
    digest.update(whole)
    yield whole + digest.digest()


class BytesSource:
    """Bytes in memory, to be read as a file is."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self, size: int, /) -> bytes:
        """Up to so many of the next bytes; none at the end."""
        found = self._data[self._at : self._at + size]
        self._at += len(found)
        return found


class StreamReader:
    """Reads what `sealed` made.  Nothing that it gave is sure before `finish`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._digest = sha256()
        self._held = b""  # read ahead
        self._at = 0

    def take(self, size: int) -> bytes:
        """So many bytes.  Raises ValueError at the end."""
        if len(self._held) - self._at < size:
            parts, have = [self._held[self._at :]], len(self._held) - self._at
            while have < size:
                part = self._source.read(max(size - have, _FRAME_BYTES))
                if not part:
                    raise ValueError("it is cut short")
                parts.append(part)
                have += len(part)
            self._held, self._at = b"".join(parts), 0
        found = self._held[self._at : self._at + size]
        self._at += size
        self._digest.update(found)
        return found

    def frame(self) -> bytes:
        """The content of the next frame.  Raises ValueError."""
        (length,) = _LENGTH.unpack(self.take(_LENGTH.size))
        return self.take(length)

    def rows(self) -> Iterator[Any]:
        """The rows of the next table.  Raises ValueError, RecursionError."""
        while content := self.frame():
            batch = decode_canonical(content)
            if type(batch) is not list or not 0 < len(batch) <= _ROWS:
                raise ValueError("rows are not in lists")
            yield from batch

    def rest(self) -> bytes:
        """All bytes that are left."""
        parts = [self._held[self._at :]]
        while part := self._source.read(_FRAME_BYTES):
            parts.append(part)
        self._held, self._at = b"", 0
        return b"".join(parts)

    def finish(self, *, sealed: bool = True) -> None:
        """All was as it was made, and nothing follows.  sealed: a checksum ends it.  Raises ValueError."""
        expected = self._digest.digest()
        if sealed and self.take(DIGEST_BYTES) != expected:
            raise ValueError("its checksum is wrong")
        if self._at != len(self._held) or self._source.read(1):
            raise ValueError("something follows its end")
