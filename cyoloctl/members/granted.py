"""Nodes that may come in by their keys, because an operator granted their request by file.

Part of the members machine: pure and replicated.  A node is a member once it
announces itself; until then nothing waits for it and a grant can be withdrawn.
"""

from __future__ import annotations

from typing import Any

from cyoloctl.errors import Conflict, NotFound
from cyoloctl.members.checks import check_digest, check_flag, check_time, or_witness
from cyoloctl.members.records import Granted, Member
from cyoloctl.replicated.checks import Check, checked, integer, json_object, member_name, sealing_key
from cyoloctl.replicated.command import Refused
from cyoloctl.text import Json

__all__ = ["GRANT", "GRANT_WITNESS", "MAX_GRANT_S", "Grants"]

MAX_GRANT_S = 90 * 86_400
"""The longest time for which a node may be on its way, in seconds."""

_WITNESS: dict[str, Check] = {
    "request_sha256": check_digest,
    "key_hash": check_digest,
    "sealing_key": sealing_key,
}
_REQUEST: dict[str, Check] = {"learner": check_flag, **_WITNESS}
_GRANTED: dict[str, Check] = {**_REQUEST, "created_unix_ms": check_time, "expires_unix_ms": check_time}

_TTL = {"ttl_s": integer(60, MAX_GRANT_S, "the lifetime of a grant")}
GRANT: dict[str, Check] = {"name": member_name, **_REQUEST, **_TTL}
"""Arguments of ``grant``."""

GRANT_WITNESS: dict[str, Check] = {"name": member_name, **_WITNESS, **_TTL}
"""Arguments of ``grant_witness``."""


class Grants:
    """The grants, by name: at most one for each."""

    def __init__(self, grants: dict[str, Granted] | None = None) -> None:
        self._grants = grants or {}

    def all(self) -> list[Granted]:
        """By name; expired ones too."""
        return [granted for _, granted in sorted(self._grants.items())]

    def names(self) -> set[str]:
        """Their names, of expired ones too."""
        return set(self._grants)

    def open(self, name: str, now_unix_ms: int) -> Granted | None:
        """The grant on which a node of this name may come in now."""
        found = self._grants.get(name)
        return found if found is not None and found.is_open(now_unix_ms) else None

    def drop(self, name: str) -> bool:
        """Forget the grant of a name; whether there was one."""
        return self._grants.pop(name, None) is not None

    def count(self, now_unix_ms: int, *, besides: str) -> int:
        """How many are open, that of one name left out."""
        return sum(1 for each in self._grants.values() if each.name != besides and each.is_open(now_unix_ms))

    def put(self, given: dict[str, Any], now_unix_ms: int) -> tuple[Granted, bool]:
        """Grant a request; whether an open grant of another request for the name is replaced.

        Those that admit nobody any more are forgotten.
        """
        older = self.open(given["name"], now_unix_ms)
        self._grants = {name: each for name, each in self._grants.items() if each.is_open(now_unix_ms)}
        fields = {key: given[key] for key in ("name", *_REQUEST)}
        expires_ms = (now_unix_ms // 1000 + given["ttl_s"]) * 1000
        witness = given.get("witness", False)
        made = Granted(**fields, created_unix_ms=now_unix_ms, expires_unix_ms=expires_ms, witness=witness)
        self._grants[made.name] = made
        return made, older is not None and older.request_sha256 != made.request_sha256

    def member_of(self, given: dict[str, Any], now_unix_ms: int) -> Member:
        """The member that a node becomes with its first announcement.

        Raises Refused: not_found, or conflict for other keys.
        """
        name = given["name"]
        granted = self.open(name, now_unix_ms)
        if granted is None:
            raise Refused(NotFound(f"there is no member {name}: see member list"))
        if (given["key_hash"], given["sealing_key"]) != (granted.key_hash, granted.sealing_key):
            raise Refused(Conflict(f"the grant for {name} is for other keys than this node's"))
        return Member(**given, role=granted.role, witness=granted.witness)

    def export(self) -> Json:
        """The grants for the snapshot."""
        return {name: granted.to_state() for name, granted in self._grants.items()}

    @classmethod
    def restored(cls, state: object) -> Grants:
        """Exported grants, checked.  Raises ValueError, Malformed."""
        grants = {
            name: Granted(name=member_name(name), **checked(fields, or_witness(_GRANTED, fields)))
            for name, fields in json_object(state).items()
        }
        if any(granted.witness and granted.learner for granted in grants.values()):
            raise ValueError("a witness is no learner")
        return cls(grants)
