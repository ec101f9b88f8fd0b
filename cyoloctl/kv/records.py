"""Keys, their values and their changes, and the checks of what commands say about them."""

from __future__ import annotations

import re
from binascii import Error as BadBase64
from binascii import a2b_base64, b2a_base64
from operator import eq, gt, lt, ne
from typing import Any, Literal, NamedTuple

from cyoloctl.replicated.command import Malformed
from cyoloctl.text import Json

__all__ = [
    "KEY_RULE",
    "MAX_KEY_BYTES",
    "MAX_RESEALED",
    "MAX_STEPS",
    "MAX_TTL_MS",
    "MAX_VALUE_BYTES",
    "MIN_TTL_MS",
    "NOT_IN_KEYS",
    "SEALED_OVERHEAD",
    "SEALED_START",
    "Comparison",
    "Entry",
    "Event",
    "Kind",
    "Place",
    "Put",
    "Removal",
    "Step",
    "check_blob",
    "check_blobs",
    "check_comparisons",
    "check_digest",
    "check_key",
    "check_prefix",
    "check_reseals",
    "check_steps",
    "check_ttl",
    "check_value",
    "encode_value",
    "holds",
    "key_bytes",
    "key_id_of",
    "plain_size",
    "with_blobs",
]

MAX_KEY_BYTES = 512
MAX_VALUE_BYTES = 256 * 1024
MAX_STEPS = 64
"""Comparisons, and changes in each branch, of a transaction."""
MAX_RESEALED = 50
"""Values that one command seals again."""
MIN_TTL_MS = 1000
MAX_TTL_MS = 366 * 86_400_000

# Control characters and what else ends a line, so that a list of keys is one to a line; lone surrogates.
NOT_IN_KEYS = "\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff"
KEY_RULE = "1 to 512 bytes of UTF-8 without control characters"
_KEY = re.compile(f"[^{NOT_IN_KEYS}]+")

SEALED_START = b"\x56\x01"
"""Format and version of a sealed value; the four bytes of the key's id follow.  See `kv.sealing`."""
SEALED_OVERHEAD = 46
"""Bytes of a sealed value beside those that it holds."""
_MAX_SEALED_BYTES = MAX_VALUE_BYTES + SEALED_OVERHEAD
_DIGEST = re.compile("[0-9a-f]{32}")

_COMPARE = {"=": eq, "!=": ne, "<": lt, ">": gt}

Kind = Literal["put", "delete", "expire"]

Place = tuple[str, int]
"""A key and the revision that gave it a value: no other value has the same."""


class Entry(NamedTuple):
    """A key's value.

    revision: of its last change.  created_revision: of the change that made
    it.  version: its changes since then, from 1.  ttl_ms: how long it lives
    from when that was last said; None: until it is deleted.  sealed: the value
    is one of `kv.sealing`, which this machine cannot open.
    """

    value: bytes
    revision: int
    created_revision: int
    version: int
    ttl_ms: int | None
    expires_unix_ms: int | None
    sealed: bool = False

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
    """A change of a transaction: give a key a value.

    sealed: whether the value is a sealed one; None: it is not, and the key's must not be either.
    """

    key: str
    value: bytes
    ttl_ms: int | None
    sealed: bool | None = None


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
    if type(value) is str:
        if value.isascii():
            # Printable ASCII is all of it but the control characters.
            if value.isprintable() and 0 < len(value) <= MAX_KEY_BYTES:
                return value
        elif _KEY.fullmatch(value) and len(value.encode()) <= MAX_KEY_BYTES:
            return value
    raise Malformed(f"the key is not valid: use {KEY_RULE}")


def key_bytes(key: str) -> int:
    """How many bytes a key has, in UTF-8."""
    return len(key) if key.isascii() else len(key.encode())


def check_prefix(value: object) -> str:
    """What keys may begin with; empty for all."""
    return "" if value == "" and type(value) is str else check_key(value)


def check_value(value: object) -> bytes:
    """The bytes of a value in base64."""
    decoded = _bytes_of(value, MAX_VALUE_BYTES)
    if decoded is None:
        raise Malformed(f"the value is not valid: use at most {MAX_VALUE_BYTES} bytes, in base64")
    return decoded


def check_blob(value: object) -> bytes:
    """The bytes of a sealed value in base64; who can open it is told by its first bytes alone."""
    decoded = _bytes_of(value, _MAX_SEALED_BYTES)
    if (
        decoded is None
        or len(decoded) < SEALED_OVERHEAD
        or not decoded.startswith(SEALED_START)
        or decoded[2] != 0xFC
    ):
        raise Malformed("the sealed value is not valid: use what a node has sealed, in base64")
    return decoded


def _bytes_of(value: object, most: int) -> bytes | None:
    """At most so many bytes in base64; None for anything else."""
    if type(value) is not str or len(value) > -(-most // 3) * 4 or not value.isascii():
        return None
    try:
        decoded = a2b_base64(value, strict_mode=True)
    except BadBase64:
        return None
    if len(decoded) > most:
        return None
    # One spelling for each value: what is compared and kept on every node is the same text.
    # Only the last group can have two, and only where it is padded.
    if value.endswith("=") and encode_value(decoded[(len(decoded) - 1) // 3 * 3 :]) != value[-4:]:
        return None
    return decoded


def check_blobs(value: object) -> tuple[bytes, ...]:
    """The sealed values of a transaction."""
    if type(value) is not list or len(value) > 2 * MAX_STEPS:
        raise Malformed(f"the sealed values are not valid: use a list of at most {2 * MAX_STEPS}")
    return tuple(check_blob(each) for each in value)


def check_digest(value: object) -> str:
    """What tells two sealed values under one request id apart."""
    if type(value) is not str or not _DIGEST.fullmatch(value):
        raise Malformed("the digest is not valid: use 32 hex digits")
    return value


def check_reseals(value: object) -> dict[Place, bytes]:
    """Values that were sealed again, by where they are."""
    if type(value) is not list or not 1 <= len(value) <= MAX_RESEALED:
        raise Malformed(f"the values are not valid: use a list of 1 to {MAX_RESEALED}")
    found = {}
    for given in value:
        if type(given) is not dict or given.keys() != {"name", "revision", "blob"}:
            raise Malformed("a value is not valid: use name, revision and blob")
        revision = given["revision"]
        if type(revision) is not int or not 1 <= revision < 2**63:
            raise Malformed("the revision is not valid: use 1 to 2**63-1")
        found[_check_name(given["name"]), revision] = check_blob(given["blob"])
    if len(found) < len(value):
        raise Malformed("a value is there twice: keep one of the two")
    return found


def _check_name(value: object) -> str:
    """A key in base64: one command holds fifty, and only so many brackets, those of keys too."""
    encoded = _bytes_of(value, MAX_KEY_BYTES)
    try:
        return check_key(None if encoded is None else encoded.decode("utf-8"))
    except UnicodeDecodeError:
        return check_key(None)


def key_id_of(blob: bytes) -> str:
    """The id of the ring's key that opens a sealed value, 8 hexadecimal digits."""
    return blob[2:6].hex()


def plain_size(entry: Entry) -> int:
    """Bytes of the value that was given."""
    return len(entry.value) - SEALED_OVERHEAD * entry.sealed


def encode_value(value: bytes) -> str:
    """A value as commands and snapshots hold it."""
    return b2a_base64(value, newline=False).decode("ascii")


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


def with_blobs(branches: tuple[tuple[Step, ...], ...], blobs: tuple[bytes, ...]) -> list[tuple[Step, ...]]:
    """The branches of a transaction, their sealed puts with these values.  Raises Malformed."""
    left = list(reversed(blobs))
    found = []
    for steps in branches:
        filled: list[Step] = []
        for step in steps:
            if type(step) is Put and step.sealed:
                if not left:
                    raise Malformed("the transaction has fewer sealed values than puts of such")
                step = step._replace(value=left.pop())
            filled.append(step)
        found.append(tuple(filled))
    if left:
        raise Malformed("the transaction has more sealed values than puts of such")
    return found


def _list_of_objects(value: object) -> list[Json]:
    if type(value) is not list or len(value) > MAX_STEPS or any(type(each) is not dict for each in value):
        raise Malformed(f"a part of the transaction is not valid: use a list of at most {MAX_STEPS} objects")
    return value


def _step(given: Json) -> Step:
    sealed = given.get("sealed")
    if given.keys() - {"sealed"} == {"op", "key", "value", "ttl_ms"} and given["op"] == "put":
        if "sealed" in given and sealed is not False:
            raise Malformed("a change is not valid: a value that is given as it is has sealed false, or none")
        return Put(check_key(given["key"]), check_value(given["value"]), check_ttl(given["ttl_ms"]), sealed)
    if given.keys() == {"op", "key", "digest", "ttl_ms"} and given["op"] == "put":
        check_digest(given["digest"])
        return Put(check_key(given["key"]), b"", check_ttl(given["ttl_ms"]), sealed=True)
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
