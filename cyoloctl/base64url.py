"""Base64url without padding (RFC 4648 5), of which each text has exactly one spelling.

The decoders of the standard library drop foreign characters, take padding or not
and ignore the bits that are left over, so that one message has thousands of
spellings: whatever tells messages apart by their text is then told lies.
"""

from __future__ import annotations

import base64

__all__ = ["decode", "encode"]


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def decode(text: str) -> bytes:
    """The bytes of exactly what `encode` gives.  Raises ValueError for every other text."""
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if encode(data) != text:
        raise ValueError("not base64url as it is written here")
    return data
