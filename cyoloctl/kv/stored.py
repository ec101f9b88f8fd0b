"""Entries and changes as snapshots hold them."""

from __future__ import annotations

from typing import Any

from cyoloctl.kv.records import Entry, check_blob, check_key, check_ttl, check_value, encode_value
from cyoloctl.replicated.checks import integer
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS

__all__ = ["check_list", "check_revision", "read_change", "read_entry", "read_fields", "stored"]


def stored(fields: tuple[Any, ...]) -> list[Any]:
    """The fields of an entry in a snapshot: six, and a seventh where the value is sealed."""
    return [encode_value(fields[0]), *fields[1:6], *([True] if fields[6] else [])]


check_revision = integer(0, 2**63 - 1, "the revision")
_end = integer(0, MAX_TIME_UNIX_MS, "the end")


def check_list(value: object) -> list[Any]:
    """The list.  Raises ValueError."""
    if type(value) is not list:
        raise ValueError("a list is missing")
    return value


def read_fields(fields: object, last: int) -> tuple[Any, ...]:
    """The fields of an entry, in the order of `Entry`.  last: the latest revision that there is.

    Raises ValueError, Malformed.
    """
    if type(fields) is not list or len(fields) not in (6, 7):
        raise ValueError("a value has other fields than it should")
    value, revision, created, version, ttl, end, *more = fields
    sealed = bool(more)
    if sealed and more[0] is not True:
        raise ValueError("a value is neither sealed nor not")
    if not type(revision) is type(created) is type(version) is int:
        raise ValueError("the revisions of a value are no numbers")
    if not (1 <= created <= revision <= last and 1 <= version < 2**63):
        raise ValueError("the revisions of a value are wrong")
    if (ttl is None) is not (end is None):
        raise ValueError("a value has an end without a time to live")
    if ttl is not None:
        check_ttl(ttl)
        _end(end)
    return (check_blob(value) if sealed else check_value(value)), revision, created, version, ttl, end, sealed


def read_entry(fields: object, last: int) -> Entry:
    """An entry.  Raises as `read_fields`."""
    return Entry(*read_fields(fields, last))


def read_change(fields: object, first: int, last: int) -> tuple[int, Any, str, Entry | None]:
    """Revision, kind, key and previous entry of a change.  first, last: the known revisions.

    Raises ValueError, Malformed.
    """
    if type(fields) is not list or len(fields) != 4:
        raise ValueError("a change has other fields than it should")
    revision, kind, key, previous = fields
    if kind not in ("put", "delete", "expire"):
        raise ValueError("a change is of no known kind")
    if not max(first, 1) <= check_revision(revision) <= last:
        raise ValueError("a change has a wrong revision")
    before = None if previous is None else read_entry(previous, last)
    if kind != "put" and before is None:
        raise ValueError("what was not there was taken away")
    return revision, kind, check_key(key), before
