"""What leaves a line in the audit log, in which chain, and what a line calls its subject.

Every operation of every machine is here: what changes trust, members or keys,
whoever asked for it; what an operator writes; and what leaves none, because it
reports progress, is done by the leader as time passes, or renews a lease.

Never a value, a token, a claim or a secret: a subject is the name of what was
written, and a digest where the name itself opens something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from cyoloctl.audit.lines import Chain, clipped

__all__ = ["NO_LINE", "Entry", "entry_of"]

Subject = Callable[[Mapping[str, Any]], str]
"""From the arguments of a command, of which nobody has checked any."""

Entry = tuple[Chain, Subject]


def _text(value: object) -> str:
    if type(value) is not str:
        return ""
    # A lone surrogate is no text, and nobody has checked the value.
    return clipped(value if value.isascii() else value.encode("utf-8", "replace").decode())


def _named(name: str) -> Subject:
    return lambda given: _text(given.get(name))


def _hidden(name: str) -> Subject:
    """For what opens something by its name: tells two apart, and no more."""

    def subject(given: Mapping[str, Any]) -> str:
        value = given.get(name)
        if type(value) is not str:
            return ""
        return f"sha256:{sha256(value.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"

    return subject


def _of_transaction(given: Mapping[str, Any]) -> str:
    """The keys that a transaction may change."""
    steps = [
        step
        for branch in (given.get("then"), given.get("otherwise"))
        if type(branch) is list
        for step in branch
    ]
    keys = [_text(step.get("key")) for step in steps if type(step) is dict]
    return clipped(", ".join(dict.fromkeys(keys)))


def _of_machine(given: Mapping[str, Any]) -> str:
    return clipped(f"{_text(given.get('machine'))} {_text(given.get('operation'))}")


def _of_import(given: Mapping[str, Any]) -> str:
    keys = given.get("keys")
    found = keys if type(keys) is list else []
    return clipped(", ".join(_text(each.get("key_id")) for each in found if type(each) is dict))


_name, _key_id, _sha256, _host = _named("name"), _named("key_id"), _named("sha256"), _named("host")
_key, _id = _named("key"), _hidden("id")


def _nothing(given: Mapping[str, Any]) -> str:
    return ""


_MEMBER_OPERATIONS = (
    *("admit", "announce", "grant", "grant_witness", "invite", "invite_for", "invite_witness"),
    *("issue_invitation", "put", "redeem", "remove", "set_address", "set_gateway", "set_host"),
    *("set_role", "uninvite"),
)

_TRUST: Mapping[str, Subject] = {
    **{f"members.{operation}": _name for operation in _MEMBER_OPERATIONS},
    "members.share_host": _host,
    "members.unshare_host": _host,
    **{f"credentials.{operation}": _name for operation in ("bootstrap", "create", "renew", "revoke")},
    **{f"authorities.{operation}": _sha256 for operation in ("abandon", "advance", "finish", "wrap")},
    "authorities.begin": _nothing,
    "authorities.exchange": _nothing,
    "authorities.exempt": _name,
    "authorities.set_certificate_days": _nothing,
    **{
        f"keys.{operation}": _key_id
        for operation in ["destroy", "disable", "enable", "generate", "make", "promote", "rotate", "wrap"]
    },
    "keys.announce": _name,
    "keys.import": _of_import,
    "keys.policy": _nothing,
    "rendezvous.set_policy": _named("kind"),
    "clock.set": _nothing,
    "history.replace": _named("by"),
    "levels.raise": _named("release"),
    "machines.register": _named("machine"),
    "answers.keep": _named("operation"),
}
"""Whoever asked for it."""

_DATA: Mapping[str, Subject] = {
    "counter.add": _name,
    "counter.reset": _name,
    "lock.acquire": _name,
    "lock.break": _name,
    "lock.release": _name,
    **{f"kv.{operation}": _key for operation in ("put", "put_clear", "put_sealed", "delete")},
    "kv.delete_prefix": _named("prefix"),
    "kv.txn": _of_transaction,
    "kv.txn_sealed": _of_transaction,
    "machines.apply": _of_machine,
    "sessions.advance": _named("sid"),
    "sessions.advance_to": _named("sid"),
    "sessions.revoke_sid": _named("sid"),
    "sessions.revoke_sub": _named("sub"),
    "rendezvous.begin": _id,
    "rendezvous.start": _id,
    **{
        f"rendezvous.{operation}": _id
        for operation in ["approve", "approve_as", "cancel", "claim", "claim_as", "consume", "deny"]
    },
    "audit.acknowledge": _named("chain"),
}
"""Where an operator asked for it."""

NO_LINE: Mapping[str, str] = {
    "authorities.confirm": "progress of an exchange",
    "authorities.reissued": "progress of an exchange",
    "keys.confirm": "progress of a new key",
    "keys.reject": "progress of a new key",
    "presence.boot": "a start of a process",
    "presence.reached": "what is known of a member that is away",
    "levels.announce": "a start of a process",
    "machines.announce": "a start of a process",
    "kv.expire": "time passed",
    "kv.reseal": "the same values under another key",
    "kv.keep": "a lease goes on",
    "lock.keep": "a lease goes on",
    "rendezvous.attempt": "a guess is counted",
    "rendezvous.try_code": "a guess is counted",
}
"""What leaves none, and why."""


def entry_of(machine: str, operation: str, role: str) -> Entry | None:
    """The chain of such a line, and what tells its subject; None where there is none.

    role: of the caller, as in the origin of a command.
    """
    name = f"{machine}.{operation}"
    subject = _TRUST.get(name)
    if subject is not None:
        return "trust", subject
    subject = _DATA.get(name)
    return None if subject is None or role != "operator" else ("data", subject)
