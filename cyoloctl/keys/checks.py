"""Checks of the commands and snapshots of the key machine: each raises Malformed."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from cyoloctl.keys.records import MAX_DESTROYED, MAX_KEYS, MAX_PERIOD_S, MIN_PERIOD_S, KeyRecord
from cyoloctl.members.records import MAX_NAMES
from cyoloctl.replicated.checks import Check, checked, integer, member_name, sealing_key, text
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, Malformed

__all__ = [
    "NODE",
    "POLICY",
    "RECORD",
    "check_cluster_id",
    "check_fingerprint",
    "check_fingerprints",
    "check_imported",
    "check_key_id",
    "check_key_ids",
    "check_wrapped",
    "consistent",
]


def consistent(record: KeyRecord) -> KeyRecord:
    """A record as the operations leave it.  Raises ValueError."""
    known = set(record.known_to)
    if (
        (record.state == "destroyed") != (record.destroyed_unix_ms is not None)
        or (record.state == "destroyed" and (known or record.compromised_by))
        or not set(record.holders) <= record.wrapped.keys() <= known
        or known & set(record.compromised_by)
        or len(known) + len(record.compromised_by) > MAX_NAMES
    ):
        raise ValueError("a key contradicts itself")
    return record


def _wrapped(value: object) -> dict[str, str]:
    if type(value) is not dict or len(value) > MAX_NAMES:
        raise Malformed("the sealed keys are not valid: use an object of node names and sealed keys")
    # In order, so that of two wrong ones every node names the same.
    return {member_name(name): _blob(blob) for name, blob in sorted(value.items())}


def check_wrapped(value: object) -> dict[str, str]:
    wrapped = _wrapped(value)
    if not wrapped:
        raise Malformed("the key is sealed to nobody: seal it to one member at least")
    return wrapped


def check_fingerprints(value: object) -> dict[str, str]:
    if type(value) is not dict or len(value) > MAX_KEYS + MAX_DESTROYED:
        raise Malformed("the keys are not valid: use an object of key ids and fingerprints")
    return {check_key_id(key_id): check_fingerprint(item) for key_id, item in sorted(value.items())}


def check_key_ids(value: object) -> list[str]:
    ids = [check_key_id(item) for item in value] if type(value) is list else []
    if not ids or len(set(ids)) != len(ids):
        raise Malformed("the keys are not valid: use a list of key ids, each once")
    return ids


def check_imported(value: object) -> list[dict[str, Any]]:
    if type(value) is not list or not 0 < len(value) <= MAX_KEYS:
        raise Malformed(f"the keys are not valid: use a list of 1 to {MAX_KEYS}")
    try:
        items = [checked(item, _IMPORT) for item in value]
    except ValueError:
        raise Malformed(f"an imported key has {', '.join(sorted(_IMPORT))}") from None
    check_key_ids([item["key_id"] for item in items])
    return items


def _in_order(value: object) -> tuple[str, ...]:
    names = tuple(member_name(item) for item in value) if type(value) is list else ("",)
    if any(a >= b for a, b in zip(("", *names), names, strict=False)):
        raise Malformed("the names are not valid: use a list in order, each once")
    return names


check_key_id = text(r"fc[0-9a-f]{6}", "the key id is not valid: use 8 hex digits that begin with fc")


check_cluster_id = text(r"[0-9a-f]{32}", "the cluster id is not valid: use 32 hex digits")


check_fingerprint = text(r"[0-9a-f]{32}", "the fingerprint is not valid: use 32 hex digits")


# 80 bytes; the last character before the padding holds 4 bits only.
_blob = text(r"[A-Za-z0-9+/]{106}[AEIMQUYcgkosw048]=", "the sealed key is not valid: use 80 bytes in base64")


_certificate = text(
    r"(?=[\s\S]{1,4096}\Z)-----BEGIN CERTIFICATE-----\n"
    r"(?:[A-Za-z0-9+/=]{1,64}\n)+-----END CERTIFICATE-----\n",
    "the certificate is not valid: use one certificate in pem, of 4096 characters at most",
)


_signature = text(
    r"(?=.{12,96}\Z)(?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?",
    "the signature is not valid: use an ecdsa signature in base64",
)


_state = text("pending|primary|enabled|disabled|destroyed", "the state is not valid")


_imported_state = text("enabled|disabled", "the state is not valid: use enabled or disabled")


_time = integer(0, MAX_TIME_UNIX_MS, "a time")


_optional_time = integer(0, MAX_TIME_UNIX_MS, "a time", optional=True)


NODE: dict[str, Check] = {
    "sealing_key": sealing_key,
    "certificate_pem": _certificate,
    "signature": _signature,
}


POLICY: dict[str, Check] = {
    "rotate_every_s": integer(MIN_PERIOD_S, MAX_PERIOD_S, "rotate_every_s", optional=True),
    "keep_s": integer(MIN_PERIOD_S, MAX_PERIOD_S, "keep_s"),
}


_IMPORT: dict[str, Check] = {
    "key_id": check_key_id,
    "cluster_id": check_cluster_id,
    "fingerprint": check_fingerprint,
    "state": _imported_state,
    "created_unix_ms": _time,
    "retired_unix_ms": _time,
    "tokens_until_unix_ms": _time,
    "wrapped": check_wrapped,
}


RECORD: dict[str, Check] = {
    "cluster_id": check_cluster_id,
    "fingerprint": check_fingerprint,
    "state": _state,
    "created_unix_ms": _time,
    "promoted_unix_ms": _optional_time,
    "retired_unix_ms": _optional_time,
    "tokens_until_unix_ms": _optional_time,
    "destroyed_unix_ms": _optional_time,
    "wrapped": _wrapped,
    "holders": _in_order,
    "known_to": _in_order,
    "compromised_by": _in_order,
}

assert {"key_id", *RECORD} == {item.name for item in fields(KeyRecord)}
