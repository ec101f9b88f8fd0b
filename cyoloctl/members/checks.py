"""Checks of the commands and snapshots of the members machine.

Each check returns the clean value or raises Malformed.  Only ASCII reaches the
parsers: what is printable beyond it depends on the interpreter's Unicode version.
"""

from __future__ import annotations

import re
from typing import Any, cast

from cyoloctl.errors import InvalidInput
from cyoloctl.members.records import (
    Gateway,
    Invitation,
    Member,
    MemberLimits,
)
from cyoloctl.model import parse_address, parse_hostname
from cyoloctl.replicated.checks import Check, checked, exact, integer, member_name, sealing_key, text
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, Malformed, is_request_id
from cyoloctl.text import Json, decode_base64, parse_rfc3339

__all__ = [
    "ARGUMENTS",
    "INVITATION",
    "MEMBER",
    "SECRET_INVITATION",
    "are_ways_coherent",
    "check_address",
    "check_date",
    "check_digest",
    "check_flag",
    "check_gateway",
    "check_host",
    "check_optional_digest",
    "check_optional_gateway",
    "check_optional_host",
    "check_public_key",
    "check_raft_id",
    "check_role",
    "check_time",
    "invitation",
    "is_coherent",
    "or_witness",
    "stored_member",
]


_SHA256 = re.compile(r"[0-9a-f]{64}")


_PUBLIC_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")


_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def check_address(value: object) -> str:
    if type(value) is not str or not value.isascii() or len(value) > 300:
        raise Malformed("the address is not valid: use HOST:PORT (or [IPV6]:PORT), port 1 to 65535")
    try:
        return str(parse_address(value))
    except InvalidInput as error:
        raise Malformed(error.message) from None


def check_host(value: object) -> str:
    if type(value) is not str or not value.isascii():
        raise Malformed("the host is not valid: use a host name in lower case ascii")
    try:
        return parse_hostname(value)
    except InvalidInput as error:
        raise Malformed(error.message) from None


def check_optional_host(value: object) -> str | None:
    return None if value is None else check_host(value)


def check_digest(value: object) -> str:
    if type(value) is not str or not _SHA256.fullmatch(value):
        raise Malformed("a digest is not valid: use the 64 hex digits of a sha-256")
    return value


def stored_member(name: str, fields: dict[str, Any]) -> Member:
    known = {**MEMBER, **{key: check for key, check in _LEFT_OUT.items() if key in fields}}
    return Member(name=member_name(name), **checked(fields, known))


def check_optional_digest(value: object) -> str | None:
    return None if value is None else check_digest(value)


def check_public_key(value: object) -> str:
    """An Ed25519 public key in base64, in its one spelling: 32 bytes."""
    try:
        if type(value) is str and _PUBLIC_KEY.fullmatch(value):
            decode_base64(value)
            return value
    except ValueError:
        pass
    raise Malformed("the public key is not valid: use an ed25519 public key in base64")


def check_raft_id(value: object) -> str:
    if not is_request_id(value):
        raise Malformed("the raft id is not valid: use 1 to 128 printable ascii characters without spaces")
    return cast("str", value)


def check_role(value: object) -> str:
    if type(value) is not str or value not in ("voter", "learner"):
        raise Malformed("the role is not valid: use voter or learner")
    return value


def check_date(value: object) -> str | None:
    if value is None:
        return None
    try:
        if type(value) is str and _DATE.fullmatch(value):
            parse_rfc3339(value)  # 9999-99-99 looks like a date, and nobody could count with it
            return value
    except ValueError:
        pass
    raise Malformed("the end of the certificate is not valid: use YYYY-MM-DDTHH:MM:SSZ or null")


def check_flag(value: object) -> bool:
    if type(value) is not bool:
        raise Malformed("learner is not valid: use true or false")
    return value


def check_true(value: object) -> bool:
    """A flag that is left out while it is false."""
    if value is not True:
        raise Malformed("witness is not valid: use true, or leave it out")
    return True


def invitation(name: str, fields: dict[str, Any]) -> Invitation:
    """An invitation of a snapshot.  Raises ValueError, Malformed."""
    made = Invitation(name=member_name(name), **checked(fields, or_witness(INVITATION, fields)))
    if made.witness and made.learner:
        raise Malformed("a witness is no learner")
    return made


def or_witness(known: dict[str, Check], fields: dict[str, Any]) -> dict[str, Check]:
    """These checks, and that of ``witness`` where the field is there."""
    return {**known, **({"witness": check_true} if "witness" in fields else {})}


def check_time(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_TIME_UNIX_MS:
        raise Malformed("the expiry is not valid: use milliseconds since 1970, 0 to 2**53")
    return value


_url = text(
    r"https?://[a-zA-Z0-9.\-\[\]:]{1,255}(/[a-zA-Z0-9._~/-]{0,200})?",
    "the url is not valid: use https://HOST or https://HOST:PORT, and a path if need be",
)


def check_gateway(value: object) -> Gateway:
    try:
        fields = exact(value, {"address", "url"})
    except ValueError:
        raise Malformed("the gateway is not valid: use an object of address and url, or null") from None
    return Gateway(check_address(fields["address"]), None if fields["url"] is None else _url(fields["url"]))


def check_optional_gateway(value: object) -> Gateway | None:
    return None if value is None else check_gateway(value)


INVITATION: dict[str, Check] = {
    "learner": check_flag,
    "public_key": check_public_key,
    "created_unix_ms": check_time,
    "expires_unix_ms": check_time,
    "used_by": check_optional_digest,
}


SECRET_INVITATION: dict[str, Check] = {
    "name": member_name,
    "learner": check_flag,
    "expires_unix_ms": check_time,
    "used_by": check_optional_digest,
}


MEMBER: dict[str, Check] = {
    "address": check_address,
    "role": check_role,
    "sealing_key": sealing_key,
    "raft_id": check_raft_id,
    "certificate_expires_at": check_date,
}

_LEFT_OUT: dict[str, Check] = {
    "key_hash": check_digest,
    "announced": check_address,
    "witness": check_true,
}
"""Fields of a member that are left out while they say nothing."""


ARGUMENTS: dict[str, dict[str, Check]] = {
    "issue_invitation": {
        "name": member_name,
        "learner": check_flag,
        "public_key": check_public_key,
        "expires_unix_ms": check_time,
    },
    "invite_for": {
        "name": member_name,
        "learner": check_flag,
        "public_key": check_public_key,
        "ttl_s": integer(60, 604_800, "the lifetime of an invitation"),
    },
    "invite_witness": {
        "name": member_name,
        "public_key": check_public_key,
        "ttl_s": integer(60, 604_800, "the lifetime of an invitation"),
    },
    "uninvite": {"name": member_name},
    "admit": {
        "name": member_name,
        "public_key": check_public_key,
        "request_sha256": check_digest,
        "address": check_address,
        "sealing_key": sealing_key,
        "raft_id": check_raft_id,
        "key_hash": check_digest,
    },
    "announce": {
        "name": member_name,
        "address": check_address,
        "sealing_key": sealing_key,
        "raft_id": check_raft_id,
        "certificate_expires_at": check_date,
        "key_hash": check_digest,
    },
    "invite": {
        "name": member_name,
        "learner": check_flag,
        "secret_sha256": check_digest,
        "expires_unix_ms": check_time,
    },
    "redeem": {
        "name": member_name,
        "secret_sha256": check_digest,
        "request_sha256": check_digest,
        "address": check_address,
        "sealing_key": sealing_key,
        "raft_id": check_raft_id,
    },
    "put": {"name": member_name, **MEMBER},
    "set_role": {"name": member_name, "role": check_role},
    "set_address": {"name": member_name, "address": check_address},
    "remove": {"name": member_name},
    "set_host": {"name": member_name, "host": check_optional_host},
    "set_gateway": {"name": member_name, "gateway": check_optional_gateway},
    "share_host": {"host": check_host},
    "unshare_host": {"host": check_host},
}
"""Arguments of the operations, by name; those of ``grant`` are in `granted`."""


def is_coherent(
    top: Json,
    members: dict[str, Member],
    removed: list[str],
    invited: set[str],
    tables: tuple[int, ...],
    limits: MemberLimits,
) -> bool:
    """Whether members, removed names and invitations of a snapshot fit together.

    invited: names with an invitation or a grant.  tables: how many each kind of those has.
    """
    gone = set(removed)
    key_hashes = [member.key_hash for member in members.values() if member.key_hash is not None]
    return (
        removed == sorted(gone)
        and gone.isdisjoint(members)
        and gone.isdisjoint(invited)
        and len(members) + len(gone) <= limits.names
        and max(tables) <= limits.invitations  # what is over goes only when more is put beside it
        and len(set(key_hashes)) == len(key_hashes)
        and len({member.raft_id for member in members.values()}) == len(members)
        # Addresses are kept in one spelling; another was never written here.
        and all(top["members"][name]["address"] == member.address for name, member in members.items())
        and all(top["members"][name].get("announced") == each.announced for name, each in members.items())
        and all(member.announced != member.address for member in members.values())
        and all(member.role == "voter" for member in members.values() if member.witness)
    )


def are_ways_coherent(
    top: Json,
    members: dict[str, Member],
    hosts: dict[str, str],
    shared: list[str],
    gateways: dict[str, Gateway],
    limits: MemberLimits,
) -> bool:
    """Whether hosts and gateways of a snapshot fit its members and each other."""
    return (
        len(set(hosts.values()) & members.keys()) == len(hosts)
        and gateways.keys() <= members.keys()
        and not any(members[name].witness for name in (*hosts.values(), *gateways))
        and all(top["gateways"][name]["address"] == value.address for name, value in gateways.items())
        and shared == sorted(set(shared))
        and len(shared) <= limits.shared_hosts
        and hosts.keys().isdisjoint(shared)
    )
