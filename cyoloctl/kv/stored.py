"""Entries and changes as snapshots hold them."""

from __future__ import annotations

from typing import Any

from cyoloctl.kv.records import Entry, check_blob, check_key, check_ttl, check_value, encode_value
from cyoloctl.replicated.checks import integer
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS

__all__ = ["check_list", "check_revision", "read_change", "read_entry", "stored"]


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


def read_entry(fields: object, last: int) -> Entry:
    """An entry.  last: the latest revision that there is.  Raises ValueError, Malformed."""
    if type(fields) is not list or len(fields) not in (6, 7):
        raise ValueError("a value has other fields than it should")
    value, revision, created, version, ttl, end, *more = fields
    sealed = bool(more)
    if sealed and more[0] is not True:
        raise ValueError("a value is neither sealed nor not")
    entry = Entry(
        check_blob(value) if sealed else check_value(value),
        check_revision(revision),
        check_revision(created),
        check_revision(version),
        check_ttl(ttl),
        None if end is None else _end(end),
        sealed,
    )
    if not 1 <= entry.created_revision <= entry.revision <= last or entry.version < 1:
        raise ValueError("the revisions of a value are wrong")
    if (entry.ttl_ms is None) is not (entry.expires_unix_ms is None):
        raise ValueError("a value has an end without a time to live")
    return entry


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
