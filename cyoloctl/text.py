"""The written forms of bytes and moments, each in one spelling.

The decoders of the standard library drop foreign characters, take padding or not
and ignore the bits that are left over, so that one message has thousands of
spellings: whatever tells messages apart by their text is then told lies.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime

__all__ = [
    "decode_base64",
    "encode_base64",
    "from_unix_ms",
    "pre_auth_encoding",
    "to_unix_ms",
    "utf8_or_none",
]


def encode_base64(data: bytes) -> str:
    """Base64 with padding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str) -> bytes:
    """The bytes of exactly what `encode_base64` gives.  Raises ValueError for every other text."""
    data = base64.b64decode(text, validate=True)  # binascii.Error is a ValueError
    if encode_base64(data) != text:
        raise ValueError("not base64 as it is written here")
    return data


def to_unix_ms(moment: datetime) -> int:
    """Milliseconds since 1970, whole ones."""
    return int(moment.timestamp() * 1000)


def from_unix_ms(unix_ms: int) -> datetime:
    """The moment, in UTC."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC)


def pre_auth_encoding(*parts: bytes) -> bytes:
    """The parts as bytes that no other parts give: their number, then each after its length.

    Numbers are 4 bytes, big-endian (after the PAE of PASETO, with 32 bits).
    """
    encoded = [len(parts).to_bytes(4, "big")]
    for part in parts:
        encoded += len(part).to_bytes(4, "big"), part
    return b"".join(encoded)


def utf8_or_none(text: str) -> bytes | None:
    """None for half of a surrogate pair, which is no character.  Here, so that no error holds the text."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None
