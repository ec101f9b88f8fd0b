"""Checks of the commands and snapshots of rendezvous: each returns the value or raises Malformed."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from cyoloctl.errors import InvalidInput
from cyoloctl.model import NAME_PATTERN
from cyoloctl.rendezvous.records import (
    ENDED_STATES,
    LEVELS,
    LIVE_STATES,
    MAX_ATTEMPTS,
    MAX_BEGUN_BY,
    MAX_CALLER_ATTEMPTS,
    MAX_DATA_BYTES,
    MAX_DATA_ENTRIES,
    MAX_REQUIRED,
    MAX_SEALED_LENGTH,
    MAX_TEXT,
    MAX_TTL_MS,
    MAX_VALUE_BYTES,
    MIN_TTL_MS,
    Rendezvous,
    RendezvousLimits,
    decode64,
    id_of_public_key,
)
from cyoloctl.replicated.checks import Check, checked, flag, integer, json_object, member_name, text
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, Malformed
from cyoloctl.text import canonical_json

__all__ = [
    "APPROVAL",
    "APPROVER",
    "POLICY",
    "START",
    "STEP",
    "check_begun_by",
    "check_claims",
    "check_counted",
    "check_data",
    "check_digest",
    "check_id",
    "check_kind",
    "check_line",
    "check_sealed",
    "exported",
    "optional",
    "restored",
    "restored_miss",
    "restored_table",
]


_DATA_KEY = re.compile(r"[a-z0-9_.-]{1,64}")


# People judge by these texts: nothing may hide, reorder or begin a new line.  Ranges, not str.isprintable,
# which depends on the interpreter's Unicode version; the last one is what UTF-8 cannot hold.
_UNCLEAN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def exported(record: Rendezvous) -> dict[str, Any]:
    begun_by = {"begun_by": list(record.begun_by)} if record.begun_by else {}
    return {name: getattr(record, name) for name in _RECORD} | begun_by


def restored(id: str, given: object) -> Rendezvous:
    """A record of an exported state.  Raises ValueError, Malformed."""
    state = dict(json_object(given))
    begun_by = state.pop("begun_by", None)
    if begun_by == []:
        raise ValueError("a field that is left out when it is empty is there")
    known = () if begun_by is None else tuple(check_begun_by(begun_by))
    return Rendezvous(id=id, **checked(state, _RECORD), begun_by=known)


def restored_table(level: str, given: object, limits: RendezvousLimits) -> dict[str, tuple[int, int]]:
    """The counters of a level.  Raises ValueError, Malformed."""
    if level not in LEVELS or type(given) is not list or not 0 < len(given) <= limits.size(level):
        raise ValueError("a table of wrong codes is not valid")
    found: dict[str, tuple[int, int]] = {}
    before_ms = 0
    for entry in given:
        if type(entry) is not list or len(entry) != 3:
            raise ValueError("a count of wrong codes is not valid")
        who, count, since_ms = check_digest(entry[0]), entry[1], _time(entry[2])
        integer(1, LEVELS[level].limit, "a count")(count)
        if who in found or since_ms < before_ms:
            raise ValueError("wrong codes are out of order")
        found[who] = (count, since_ms)
        before_ms = since_ms
    return found


def _one_of(values: tuple[str, ...], what: str) -> Check:
    def check(value: object) -> str:
        if type(value) is not str or value not in values:
            raise Malformed(what)
        return value

    return check


def optional(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def check_line(value: object) -> str:
    if type(value) is not str or not 0 < len(value) <= MAX_TEXT or _UNCLEAN.search(value):
        raise Malformed(f"a subject or origin is not valid: use 1 to {MAX_TEXT} characters on one line")
    return value


def check_data(value: object) -> dict[str, str]:
    if type(value) is not dict or len(value) > MAX_DATA_ENTRIES:
        raise Malformed(f"the data is not valid: use an object of at most {MAX_DATA_ENTRIES} texts")
    for key, said in value.items():
        if not _DATA_KEY.fullmatch(key):
            raise Malformed("a data key is not valid: use 1 to 64 of a-z, 0-9, '_', '.' and '-'")
        if type(said) is not str or _UNCLEAN.search(said) or len(said.encode()) > MAX_VALUE_BYTES:
            raise Malformed(
                f"a data value is not valid: use one line of text of at most {MAX_VALUE_BYTES} bytes"
            )
    if len(canonical_json(value)) > MAX_DATA_BYTES:
        raise Malformed(f"the data is longer than {MAX_DATA_BYTES} bytes as ascii json: send less")
    return value


def _digests(most: int) -> Check:
    """Digests in ascending order, each once: one way to write them."""

    def check(value: object) -> list[str]:
        if type(value) is not list or len(value) > most:
            raise Malformed(f"use a list of at most {most} sha-256 digests")
        found = [check_digest(item) for item in value]
        if found != sorted(set(found)):
            raise Malformed("the digests are not in ascending order, each once: sort them")
        return found

    return check


def check_claims(value: object) -> dict[str, bool | int | str]:
    if type(value) is not dict or len(value) > MAX_REQUIRED:
        raise Malformed(f"the claims are not valid: use an object of at most {MAX_REQUIRED} claims")
    for name, said in value.items():
        if not 0 < len(name) <= MAX_TEXT or _UNCLEAN.search(name):
            raise Malformed("a claim's name is not valid: use one line of text")
        if type(said) is str and len(said) <= MAX_TEXT and not _UNCLEAN.search(said):
            continue
        if type(said) is not bool and (type(said) is not int or abs(said) > MAX_TIME_UNIX_MS):
            raise Malformed("a claim's value is not valid: use true, false, an integer or one line of text")
    return value


def check_counted(value: object) -> list[tuple[str, str]]:
    if type(value) is not list or not 0 < len(value) <= len(LEVELS):
        raise Malformed("nobody is named for whom a wrong code would count")
    found: dict[str, str] = {}
    for item in value:
        if type(item) is not list or len(item) != 2 or _level(item[0]) in found:
            raise Malformed("a wrong code counts for pairs of level and digest, one for a level")
        found[item[0]] = check_digest(item[1])
    return list(found.items())


def _public_key(value: object) -> str:
    if type(value) is str:
        with suppress(InvalidInput):
            id_of_public_key(value)
            return value
    raise Malformed("the public key is not valid: use an x25519 public key in base64")


def check_sealed(value: object) -> str:
    if type(value) is not str or not 0 < len(value) <= MAX_SEALED_LENGTH or decode64(value) is None:
        raise Malformed(f"the sealed result is not valid: use base64, {MAX_SEALED_LENGTH} characters at most")
    return value


def restored_miss(value: object) -> tuple[int, int]:
    if type(value) is not list or len(value) != 2:
        raise Malformed("a count of wrong codes is not valid")
    return integer(1, MAX_CALLER_ATTEMPTS, "a count")(value[0]), _time(value[1])


check_id = text(r"[0-9a-f]{32}", "the id is not valid: use the 32 hex digits of a rendezvous")


check_kind = text(NAME_PATTERN, "the kind is not valid: use 1 to 63 of a-z, 0-9 and inner dashes")


check_digest = text(r"[0-9a-f]{64}", "a digest is not valid: use the 64 hex digits of a sha-256")


_time = integer(0, MAX_TIME_UNIX_MS + MAX_TTL_MS, "a time")


_level = _one_of(tuple(LEVELS), "the level of a count is not valid: upgrade every node")


check_begun_by = _digests(MAX_BEGUN_BY)


_state = _one_of((*LIVE_STATES, *ENDED_STATES), "the state is not valid: use one that a rendezvous can have")


_BEGINNING: dict[str, Check] = {
    "kind": check_kind,
    "node": member_name,
    "initiator": check_line,
    "origin": optional(check_line),
    "data": check_data,
    "initiator_public_key": optional(_public_key),
}


_RECORD: dict[str, Check] = {
    **_BEGINNING,
    "state": _state,
    "user_code_sha256": optional(check_digest),
    "claimed_by": optional(check_line),
    "answer": optional(check_data),
    "sealed_result": optional(check_sealed),
    "redemption_sha256": optional(check_digest),
    "failed_attempts": integer(0, MAX_ATTEMPTS, "a count"),
    "created_unix_ms": _time,
    "expires_unix_ms": _time,
    "changed_unix_ms": _time,
}


POLICY: dict[str, Check] = {"require": check_claims, "allow_self": flag("allow_self")}


APPROVER: dict[str, Check] = {"actors": check_begun_by, "claims": check_claims}


STEP: dict[str, Check] = {"id": check_id, "expected": optional(_state)}


START: dict[str, Check] = {
    "id": check_id,
    "user_code_sha256": check_digest,
    "ttl_ms": integer(MIN_TTL_MS, MAX_TTL_MS, "the ttl in ms"),
    **_BEGINNING,
}


APPROVAL: dict[str, Check] = {
    **STEP,
    "by": check_line,
    "answer": optional(check_data),
    "sealed_result": optional(check_sealed),
}
