"""The register of credentials: which keys of operators, gateways and viewers count.

Nodes are in the machine of members.  A certificate of the cluster's CA opens
nothing by itself: its key must stand here, not revoked and not expired, and
the role is the one that stands here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, cast

from cyoloctl.errors import AlreadyExists, Conflict, InvalidInput, NotFound, Overloaded
from cyoloctl.replicated.checks import (
    Check,
    checked,
    exact,
    flag,
    integer,
    json_object,
    member_name,
    text,
)
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, Malformed, Refused
from cyoloctl.replicated.machine import NO_ROWS, Machine, Operations, Rows

__all__ = [
    "MAX_CREDENTIALS",
    "MAX_LIFETIME_MS",
    "Credential",
    "CredentialLimits",
    "CredentialMachine",
    "CredentialRole",
]

MAX_CREDENTIALS = 1_000
"""Entries, those that ended included: these make room, the one that ended first before the others."""

MAX_LIFETIME_MS = 825 * 86_400_000


@dataclass(frozen=True, slots=True)
class CredentialLimits:
    """credentials: how many entries there can be, see `MAX_CREDENTIALS`."""

    credentials: int = MAX_CREDENTIALS


_LIMITS = CredentialLimits()

CredentialRole = Literal["viewer", "gateway", "operator"]


@dataclass(frozen=True, slots=True)
class Credential:
    """An entry of the register.

    key_hash: SHA-256 of the SubjectPublicKeyInfo, 64 lower-case hex digits.
    created_by: the caller who had it made.  expires_unix_ms: it counts before
    this cluster time.  lifetime_ms: what was granted when it was made or an
    operator renewed it; its holder can renew it for no longer.
    revoked_unix_ms: None while it was not.
    """

    name: str
    role: CredentialRole
    key_hash: str
    created_unix_ms: int
    created_by: str
    expires_unix_ms: int
    lifetime_ms: int
    revoked_unix_ms: int | None

    def is_live(self, now_unix_ms: int) -> bool:
        """Whether it counts at this cluster time."""
        return self.revoked_unix_ms is None and now_unix_ms < self.expires_unix_ms

    def ended_unix_ms(self) -> int:
        """Time when it stopped, or will stop, counting."""
        if self.revoked_unix_ms is None:
            return self.expires_unix_ms
        return min(self.revoked_unix_ms, self.expires_unix_ms)

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {"key_hash": self.key_hash, **self._fields()}

    def _fields(self) -> dict[str, Any]:
        return {
            "created_by": self.created_by,
            "created_unix_ms": self.created_unix_ms,
            "expires_unix_ms": self.expires_unix_ms,
            "lifetime_ms": self.lifetime_ms,
            "name": self.name,
            "revoked_unix_ms": self.revoked_unix_ms,
            "role": self.role,
        }


class MemberNames(Protocol):
    """The members machine, as far as the register needs it."""

    def get(self, name: str, /) -> Any: ...
    def is_removed(self, name: str, /) -> bool: ...


class CredentialMachine(Machine):
    """Operations; the answer of each is the entry, all its fields.

    ``create {name, role, key_hash, ttl_ms, latest_unix_ms, created_by}``: a
    new entry, which expires after ttl_ms or at latest_unix_ms, whichever comes
    first.  The same name, role and key again, while it counts, gives the entry
    that is there, unchanged.  already_exists for a name that counts or a
    member's, and for a key that is registered; conflict for a key that was
    revoked or has expired, and for the name of a removed member;
    invalid_input when it would have expired already; overloaded beyond 1,000
    that count.
    ``renew {name, from_key_hash, key_hash, ttl_ms, latest_unix_ms}``: another
    expiry and, where key_hash is another, another key; the former key no
    longer counts.  from_key_hash: the key that the holder has, null where an
    operator renews; conflict where the register has another by now.  ttl_ms:
    null for the lifetime that it had; the holder gets at most that one.
    not_found, conflict for one that was revoked, and as create.
    ``revoke {name}``: it no longer counts.  Idempotent.  not_found.
    ``bootstrap {name, key_hash, expires_unix_ms}``: the founder's operator.
    conflict once the register has ever had an operator, except for the same
    key, whose entry is given.  Its name may be that of a member: both are
    chosen by ``cluster init``.
    """

    NAME = "credentials"
    PROPOSERS: ClassVar[dict[str, str]] = {
        "bootstrap": "voter",
        "create": "voter",
        "renew": "voter",
        "revoke": "voter",
    }

    def __init__(self, members: MemberNames, limits: CredentialLimits = _LIMITS) -> None:
        """members: whose names nobody else may have; read, never changed."""
        super().__init__(_OPERATIONS)
        self._limits = limits
        self._members = members
        self._entries: dict[str, Credential] = {}  # by key hash
        self._had_operator = False

    @property
    def had_operator(self) -> bool:
        """Whether the register has ever had an operator."""
        return self._had_operator

    def find(self, key_hash: str) -> Credential | None:
        """The entry with this key, whether it counts or not."""
        return self._entries.get(key_hash)

    def get(self, name: str) -> Credential | None:
        """The entry of this name: the one that was not revoked if there is one, otherwise the latest."""
        named = [entry for entry in self._entries.values() if entry.name == name]
        return max(named, key=_precedence, default=None)

    def entries(self) -> list[Credential]:
        """All entries, by name, then by age."""
        return sorted(self._entries.values(), key=lambda e: (e.name, e.created_unix_ms, e.key_hash))

    def _create(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name, role, key_hash = given["name"], given["role"], given["key_hash"]
        same = self._entries.get(key_hash)
        if same is not None and (same.name, same.role) == (name, role) and same.is_live(now_unix_ms):
            return same.to_json()
        self._refuse_name(name)
        current = self.get(name)
        if current is not None and current.is_live(now_unix_ms):
            raise Refused(
                AlreadyExists(
                    f"there are credentials of the name {name} already: choose another name, "
                    "or see credentials renew and credentials revoke"
                )
            )
        self._refuse_key(key_hash, now_unix_ms)
        lifetime_ms = given["ttl_ms"]
        expires_ms = _expiry(now_unix_ms, lifetime_ms, given["latest_unix_ms"])
        entry = Credential(
            name, role, key_hash, now_unix_ms, given["created_by"], expires_ms, lifetime_ms, None
        )
        self._put(entry, now_unix_ms)
        return entry.to_json()

    def _renew(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name, former, key_hash = given["name"], given["from_key_hash"], given["key_hash"]
        current = self._existing(name)
        if current.revoked_unix_ms is not None:
            raise Refused(
                Conflict(f"the credentials {name} were revoked: make new ones (credentials create)")
            )
        lifetime_ms = given["ttl_ms"] or current.lifetime_ms
        if former is not None:
            if current.key_hash == key_hash != former:
                return current.to_json()  # the holder asks again for the answer that was lost
            if current.key_hash != former:
                raise Refused(
                    Conflict(
                        f"the credentials {name} have another key by now: somebody renewed them; use the new "
                        "file, or revoke them if that was not you (credentials revoke)"
                    )
                )
            lifetime_ms = min(lifetime_ms, current.lifetime_ms)
        if key_hash != current.key_hash:
            self._refuse_key(key_hash, now_unix_ms)
        expires_ms = _expiry(now_unix_ms, lifetime_ms, given["latest_unix_ms"])
        entry = replace(
            current,
            key_hash=key_hash,
            expires_unix_ms=expires_ms,
            lifetime_ms=current.lifetime_ms if former is not None else lifetime_ms,
        )
        self._put(entry, now_unix_ms, instead_of=current)
        return entry.to_json()

    def _revoke(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        current = self._existing(given["name"])
        open_ = [e for e in self._entries.values() if e.name == current.name and e.revoked_unix_ms is None]
        if open_:
            self._entries = self._entries | {
                entry.key_hash: replace(entry, revoked_unix_ms=now_unix_ms) for entry in open_
            }
        return self._entries[current.key_hash].to_json()

    def _bootstrap(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        key_hash, expires_ms = given["key_hash"], given["expires_unix_ms"]
        same = self._entries.get(key_hash)
        if same is not None:
            return same.to_json()
        if self._had_operator:
            raise Refused(Conflict("the register has had an operator: make others with credentials create"))
        lifetime_ms = min(max(expires_ms - now_unix_ms, 1), MAX_LIFETIME_MS)
        entry = Credential(
            given["name"], "operator", key_hash, now_unix_ms, "cluster init", expires_ms, lifetime_ms, None
        )
        self._put(entry, now_unix_ms)
        return entry.to_json()

    def _existing(self, name: str) -> Credential:
        entry = self.get(name)
        if entry is None:
            if self._members.get(name) is not None:
                raise Refused(NotFound(f"{name} is a node, not credentials: see member list"))
            raise Refused(NotFound(f"there are no credentials of the name {name}: see credentials list"))
        return entry

    def _refuse_name(self, name: str) -> None:
        if self._members.get(name) is not None:
            raise Refused(AlreadyExists(f"there is a member {name}: choose another name"))
        if self._members.is_removed(name):
            raise Refused(Conflict(f"{name} is the name of a removed member: choose another name"))

    def _refuse_key(self, key_hash: str, now_unix_ms: int) -> None:
        other = self._entries.get(key_hash)
        if other is None:
            return
        if other.is_live(now_unix_ms):
            raise Refused(AlreadyExists(f"this key is that of {other.name}: make a new key"))
        raise Refused(Conflict(f"this key was that of {other.name} and no longer counts: make a new key"))

    def _put(self, entry: Credential, now_unix_ms: int, *, instead_of: Credential | None = None) -> None:
        """Store an entry; makes room by forgetting the one that ended first.  Raises Refused."""
        entries = {key: e for key, e in self._entries.items() if e is not instead_of}
        if entry.key_hash not in entries and len(entries) >= self._limits.credentials:
            ended = [e for e in entries.values() if not e.is_live(now_unix_ms)]
            if not ended:
                raise Refused(
                    Overloaded(
                        f"{self._limits.credentials} credentials count already: "
                        "revoke one (credentials revoke)"
                    )
                )
            del entries[min(ended, key=lambda e: (e.ended_unix_ms(), e.key_hash)).key_hash]
        entries[entry.key_hash] = entry
        self._entries = entries
        self._had_operator = self._had_operator or entry.role == "operator"

    def export_state(self) -> dict[str, Any]:
        """The state for the snapshot, the same for the same state whatever its history."""
        return {
            "entries": {key: entry._fields() for key, entry in self._entries.items()},
            "had_operator": self._had_operator,
        }

    def prepare_restore(self, state: object, tables: Rows = NO_ROWS) -> Callable[[], None]:
        """Checks an exported state; the returned function puts it in place.  Raises ValueError."""
        top = exact(state, {"entries", "had_operator"})
        try:
            had_operator = _flag(top["had_operator"])
            entries = {
                _digest(key): Credential(key_hash=key, **checked(fields, _FIELDS))
                for key, fields in json_object(top["entries"]).items()
            }
        except Malformed:
            raise ValueError("an entry of the register is not valid") from None
        if len(entries) > self._limits.credentials or (
            not had_operator and any(entry.role == "operator" for entry in entries.values())
        ):
            raise ValueError("the register contradicts itself")

        def commit() -> None:
            self._entries = entries
            self._had_operator = had_operator

        return commit


def _precedence(entry: Credential) -> tuple[bool, int, int, str]:
    return (entry.revoked_unix_ms is None, entry.expires_unix_ms, entry.created_unix_ms, entry.key_hash)


def _expiry(now_unix_ms: int, ttl_ms: int, latest_unix_ms: int) -> int:
    expires_ms = min(now_unix_ms + ttl_ms, latest_unix_ms)
    if expires_ms <= now_unix_ms:
        raise Refused(
            InvalidInput("the credentials would have expired already: the CA has ended, see pki status")
        )
    return expires_ms


def _role(value: object) -> CredentialRole:
    if type(value) is not str or value not in ("viewer", "gateway", "operator"):
        raise Malformed("the role is not valid: use viewer, gateway or operator")
    return cast("CredentialRole", value)


_digest = text(r"[0-9a-f]{64}", "the hash of the key is not valid: use the 64 hex digits of a sha-256")


def _optional_digest(value: object) -> str | None:
    return None if value is None else cast("str", _digest(value))


_flag = flag("had_operator")
_creator = text(r"[ -~]{0,128}", "the creator is not valid: use up to 128 printable ascii characters")
_time = integer(0, MAX_TIME_UNIX_MS, "the time")
_optional_time = integer(0, MAX_TIME_UNIX_MS, "the time", optional=True)
_ttl = integer(1, MAX_LIFETIME_MS, "the lifetime")
_optional_ttl = integer(1, MAX_LIFETIME_MS, "the lifetime", optional=True)

_FIELDS: dict[str, Check] = {
    "created_by": _creator,
    "created_unix_ms": _time,
    "expires_unix_ms": _time,
    "lifetime_ms": _ttl,
    "name": member_name,
    "revoked_unix_ms": _optional_time,
    "role": _role,
}
_OPERATIONS: Operations = {
    "create": (
        {
            "name": member_name,
            "role": _role,
            "key_hash": _digest,
            "ttl_ms": _ttl,
            "latest_unix_ms": _time,
            "created_by": _creator,
        },
        CredentialMachine._create,
    ),
    "renew": (
        {
            "name": member_name,
            "from_key_hash": _optional_digest,
            "key_hash": _digest,
            "ttl_ms": _optional_ttl,
            "latest_unix_ms": _time,
        },
        CredentialMachine._renew,
    ),
    "revoke": ({"name": member_name}, CredentialMachine._revoke),
    "bootstrap": (
        {"name": member_name, "key_hash": _digest, "expires_unix_ms": _time},
        CredentialMachine._bootstrap,
    ),
}
