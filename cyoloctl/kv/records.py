"""Keys, their values and their changes, and the checks of what commands say about them."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from operator import eq, gt, lt, ne
from typing import Any, Literal, NamedTuple

from cyoloctl.replicated.command import Malformed
from cyoloctl.text import Json

__all__ = [
    "KEY_RULE",
    "MAX_KEY_BYTES",
    "MAX_STEPS",
    "MAX_TTL_MS",
    "MAX_VALUE_BYTES",
    "MIN_TTL_MS",
    "NOT_IN_KEYS",
    "Comparison",
    "Entry",
    "Event",
    "Kind",
    "Put",
    "Removal",
    "Step",
    "check_comparisons",
    "check_key",
    "check_prefix",
    "check_steps",
    "check_ttl",
    "check_value",
    "encode_value",
    "holds",
]

MAX_KEY_BYTES = 512
MAX_VALUE_BYTES = 256 * 1024
MAX_STEPS = 64
"""Comparisons, and changes in each branch, of a transaction."""
MIN_TTL_MS = 1000
MAX_TTL_MS = 366 * 86_400_000

# Control characters and what else ends a line, so that a list of keys is one to a line; lone surrogates.
NOT_IN_KEYS = "\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff"
KEY_RULE = "1 to 512 bytes of UTF-8 without control characters"
_KEY = re.compile(f"[^{NOT_IN_KEYS}]+")

_COMPARE = {"=": eq, "!=": ne, "<": lt, ">": gt}

Kind = Literal["put", "delete", "expire"]


class Entry(NamedTuple):
    """A key's value.

    revision: of its last change.  created_revision: of the change that made
    it.  version: its changes since then, from 1.  ttl_ms: how long it lives
    from when that was last said; None: until it is deleted.
    """

    value: bytes
    revision: int
    created_revision: int
    version: int
    ttl_ms: int | None
    expires_unix_ms: int | None

    def is_due(self, now_unix_ms: int) -> bool:
        """Whether its time is over."""
        return self.expires_unix_ms is not None and self.expires_unix_ms <= now_unix_ms


class Event(NamedTuple):
    """One change of one key.  entry: after it; previous: before it; None where there is none."""

    revision: int
    kind: Kind
    key: str
    entry: Entry | None
    previous: Entry | None


class Put(NamedTuple):
    """A change of a transaction: give a key a value."""

    key: str
    value: bytes
    ttl_ms: int | None


class Removal(NamedTuple):
    """A change of a transaction: delete a key, if it is there."""

    key: str


Step = Put | Removal


class Comparison(NamedTuple):
    """What a transaction asks of a key before it chooses its branch."""

    key: str
    target: str
    op: str
    value: Any


def check_key(value: object) -> str:
    """A key."""
    if type(value) is not str or not _KEY.fullmatch(value) or len(value.encode()) > MAX_KEY_BYTES:
        raise Malformed(f"the key is not valid: use {KEY_RULE}")
    return value


def check_prefix(value: object) -> str:
    """What keys may begin with; empty for all."""
    return "" if value == "" and type(value) is str else check_key(value)


def check_value(value: object) -> bytes:
    """The bytes of a value in base64."""
    if type(value) is not str or len(value) > -(-MAX_VALUE_BYTES // 3) * 4 or not value.isascii():
        raise Malformed(f"the value is not valid: use at most {MAX_VALUE_BYTES} bytes, in base64")
    try:
        decoded = b64decode(value, validate=True)
    except BadBase64:
        decoded = None
    # One spelling for each value: what is compared and kept on every node is the same text.
    if decoded is None or len(decoded) > MAX_VALUE_BYTES or encode_value(decoded) != value:
        raise Malformed(f"the value is not valid: use at most {MAX_VALUE_BYTES} bytes, in base64")
    return decoded


def encode_value(value: bytes) -> str:
    """A value as commands and snapshots hold it."""
    return b64encode(value).decode("ascii")


def check_ttl(value: object) -> int | None:
    """Milliseconds to live, or None."""
    if value is not None and (type(value) is not int or not MIN_TTL_MS <= value <= MAX_TTL_MS):
        raise Malformed("the time to live is not valid: use 1 second to 366 days, or null")
    return value


def check_steps(value: object) -> tuple[Step, ...]:
    """A branch of a transaction.  No key is changed twice: both changes would have the same revision."""
    steps = tuple(_step(each) for each in _list_of_objects(value))
    if len({step.key for step in steps}) < len(steps):
        raise Malformed("a key is changed twice in one branch: keep one of the two")
    return steps


def check_comparisons(value: object) -> tuple[Comparison, ...]:
    """The comparisons of a transaction."""
    return tuple(_comparison(each) for each in _list_of_objects(value))


def holds(comparison: Comparison, entry: Entry | None) -> bool:
    """Whether a comparison is true of a key's entry; None: the key is not there, and has no value."""
    if comparison.target == "exists":
        return (entry is not None) == bool(comparison.value)
    if comparison.target == "value":
        found: Any = None if entry is None else entry.value
        return bool(found == comparison.value) == (comparison.op == "=")
    # As in etcd: the numbers of a key that is not there are 0.
    number = 0 if entry is None else getattr(entry, comparison.target)
    return bool(_COMPARE[comparison.op](number, comparison.value))


def _list_of_objects(value: object) -> list[Json]:
    if type(value) is not list or len(value) > MAX_STEPS or any(type(each) is not dict for each in value):
        raise Malformed(f"a part of the transaction is not valid: use a list of at most {MAX_STEPS} objects")
    return value


def _step(given: Json) -> Step:
    if given.keys() == {"op", "key", "value", "ttl_ms"} and given["op"] == "put":
        return Put(check_key(given["key"]), check_value(given["value"]), check_ttl(given["ttl_ms"]))
    if given.keys() == {"op", "key"} and given["op"] == "delete":
        return Removal(check_key(given["key"]))
    raise Malformed("a change is not valid: use op put with key, value and ttl_ms, or op delete with key")


def _comparison(given: Json) -> Comparison:
    if given.keys() != {"key", "target", "op", "value"}:
        raise Malformed("a comparison is not valid: use key, target, op and value")
    key, target, op, value = check_key(given["key"]), given["target"], given["op"], given["value"]
    if type(target) is not str or type(op) is not str:
        raise Malformed("a comparison is not valid: target and op are text")
    if target == "exists":
        if op != "=" or type(value) is not bool:
            raise Malformed("exists compares with op = and true or false")
    elif target == "value":
        if op not in ("=", "!="):
            raise Malformed("a value compares with op = or !=")
        value = check_value(value)
    elif target in ("revision", "created_revision", "version"):
        if op not in ("=", "!=", "<", ">") or type(value) is not int or not 0 <= value < 2**63:
            raise Malformed(f"a {target} compares with op =, !=, < or > and a number from 0")
    else:
        raise Malformed("a target is not valid: use exists, value, revision, created_revision or version")
    return Comparison(key, target, op, value)
