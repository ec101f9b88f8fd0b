"""Checks that several machines make of what a command or a snapshot holds.

Each check returns the clean value or raises Malformed; ``exact`` and what is
below it are for snapshots and raise ValueError.  Only ASCII reaches the
parsers: what is printable beyond it depends on the interpreter's Unicode
version.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from cyoloctl.errors import InvalidInput
from cyoloctl.model import parse_name
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, Malformed

__all__ = [
    "Check",
    "checked",
    "exact",
    "flag",
    "integer",
    "json_object",
    "member_name",
    "sealing_key",
    "text",
]

Check = Callable[[object], Any]

_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")


def member_name(value: object) -> str:
    """A node's name."""
    if type(value) is not str or not value.isascii():
        raise Malformed("the member name is not valid: use 1 to 63 of a-z, 0-9 and '-'")
    try:
        return parse_name(value, "member name")
    except InvalidInput as error:
        raise Malformed(error.message) from None


def sealing_key(value: object) -> str:
    """An X25519 public key in base64."""
    if type(value) is not str or not _KEY.fullmatch(value):
        raise Malformed("the sealing key is not valid: use an x25519 public key in base64")
    return value


def text(pattern: str, rule: str) -> Check:
    """A check for text that a regular expression matches as a whole."""
    compiled = re.compile(pattern, re.ASCII)

    def check(value: object) -> str:
        if type(value) is not str or not compiled.fullmatch(value):
            raise Malformed(rule)
        return value

    return check


def integer(low: int, high: int, what: str, *, optional: bool = False) -> Check:
    """A check for an integer from low to high; None too where it is optional."""
    limit = "2**53" if high == MAX_TIME_UNIX_MS else str(high)
    rule = f"{what} is not valid: use an integer from {low} to {limit}" + (" or null" if optional else "")

    def check(value: object) -> int | None:
        if value is None and optional:
            return None
        if type(value) is not int or not low <= value <= high:
            raise Malformed(rule)
        return value

    return check


def flag(what: str) -> Check:
    """A check for a boolean."""

    def check(value: object) -> bool:
        if type(value) is not bool:
            raise Malformed(f"{what} is not valid: use true or false")
        return value

    return check


def json_object(value: object) -> dict[str, Any]:
    """The object.  Raises ValueError."""
    if type(value) is not dict:
        raise ValueError("an object is missing")
    return value


def exact(value: object, keys: set[str]) -> dict[str, Any]:
    """The object with exactly these keys.  Raises ValueError."""
    found = json_object(value)
    if found.keys() != keys:
        raise ValueError("an object has other fields than it should")
    return found


def checked(value: object, checks: dict[str, Check]) -> dict[str, Any]:
    """The clean fields of an object.  Raises ValueError for other fields, Malformed for their values."""
    fields = exact(value, set(checks))
    return {key: check(fields[key]) for key, check in checks.items()}
