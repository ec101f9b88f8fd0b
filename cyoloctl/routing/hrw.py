"""Rendezvous hashing: which member answers for a key, agreed on without any shared state.

Highest random weight (Thaler and Ravishankar, IEEE/ACM ToN 6(1), 1998).  The
weight of a member for a key is ``SHA-256(key || 00 || name)``, both in UTF-8,
read as one big-endian number of 256 bits; the greatest weight comes first, and
of equal ones the name that sorts first.  A name holds no zero byte, so no two
pairs hash the same bytes.  The order of n1, n2 and n3 for app.example.com,
without this program:

    for name in n1 n2 n3; do
        printf 'app.example.com\\0%s' "$name" | sha256sum | sed "s/-/$name/"
    done | sort -r

A member that goes takes only its own keys along, each to the next in that
key's order; one that comes takes a fair share from each of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from cyoloctl.errors import InvalidInput

__all__ = ["order", "which"]


def order(key: str, members: Iterable[str]) -> list[str]:
    """The members by descending weight for the key, each once.

    members: names, in any order; the caller leaves out those that are not
    live.  Raises InvalidInput for a key that is no Unicode text (half of a
    surrogate pair, say, which stands for a byte that was no UTF-8).
    """
    try:
        prefix = key.encode() + b"\0"
    except UnicodeEncodeError:
        raise InvalidInput("the key is not valid: use text in utf-8") from None
    weights = {name: hashlib.sha256(prefix + name.encode()).digest() for name in members}
    return sorted(sorted(weights), key=weights.__getitem__, reverse=True)


def which(key: str, members: Iterable[str]) -> str | None:
    """The first in order(key, members); None without members."""
    return next(iter(order(key, members)), None)
