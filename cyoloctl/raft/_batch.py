"""Commands that arrive together travel as one log entry.

Layout: 0x00, then for each command its length as four bytes, big-endian, and
its bytes.
"""

from __future__ import annotations

import struct

__all__ = ["decode_batch", "encode_batch"]

_LENGTH = struct.Struct(">I")


def encode_batch(commands: list[bytes]) -> bytes:
    """One regular entry of these commands, in order."""
    parts = [b"\x00"]
    for command in commands:
        parts.append(_LENGTH.pack(len(command)))
        parts.append(command)
    return b"".join(parts)


def decode_batch(entry: bytes) -> list[bytes]:
    """The commands of a regular entry.

    Total and deterministic: bytes after the last whole command are ignored,
    alike on every node.
    """
    commands = []
    position, end = 1, len(entry)
    while position + 4 <= end:
        (length,) = _LENGTH.unpack_from(entry, position)
        position += 4
        if position + length > end:
            break
        commands.append(entry[position : position + length])
        position += length
    return commands
