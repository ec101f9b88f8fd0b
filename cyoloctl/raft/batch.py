"""Commands that arrive together travel as one log entry, with the time at which it was appended.

Layout: 0x03, the stamp (epoch 4 bytes, time 8, steady 8), then for each
command its length as 4 bytes, the index after which it was sent first as 8,
and its bytes.  All integers are big-endian.

Release 0.1.0 wrote 0x00, then for each command its length and its bytes: such
entries have no stamp, and their commands carry a time of their own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from cyoloctl.model import Stamp

__all__ = ["BatchItem", "decode_batch", "encode_batch", "stamp_of"]

_LENGTH = struct.Struct(">I")
_ITEM = struct.Struct(">IQ")
_HEAD = struct.Struct(">BIQQ")
_STAMPED, _UNSTAMPED = 3, 0


class BatchItem(NamedTuple):
    """A command in an entry.

    after: the highest index that whoever sent it first knew to be committed
    then: what was applied at or below it cannot have been this command.  None
    in entries of release 0.1.0.
    """

    command: bytes
    after: int | None


def encode_batch(items: Iterable[tuple[bytes, int]], stamp: Stamp) -> bytes:
    """One regular entry of these (command, after), in order."""
    parts = [_HEAD.pack(_STAMPED, *stamp)]
    for command, after in items:
        parts.append(_ITEM.pack(len(command), after))
        parts.append(command)
    return b"".join(parts)


def stamp_of(entry: bytes) -> Stamp | None:
    """The stamp of an entry; None for an entry without one."""
    if len(entry) < _HEAD.size or entry[0] != _STAMPED:
        return None
    _, epoch, time_unix_ms, steady_ms = _HEAD.unpack_from(entry)
    return Stamp(epoch, time_unix_ms, steady_ms)


def decode_batch(entry: bytes) -> list[BatchItem]:
    """The commands of a regular entry.

    Total and deterministic: bytes after the last whole command are ignored,
    alike on every node.
    """
    items = []
    end = len(entry)
    after: int | None
    if entry[:1] == bytes((_STAMPED,)):
        position, head = _HEAD.size, _ITEM.size
    elif entry[:1] == bytes((_UNSTAMPED,)):
        position, head = 1, _LENGTH.size
    else:
        return []
    while position + head <= end:
        if head == _ITEM.size:
            length, after = _ITEM.unpack_from(entry, position)
        else:
            (length,), after = _LENGTH.unpack_from(entry, position), None
        position += head
        if position + length > end:
            break
        items.append(BatchItem(entry[position : position + length], after))
        position += length
    return items
