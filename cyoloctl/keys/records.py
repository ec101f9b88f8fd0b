"""Keys, sealing keys and the policy of rotation as the cluster keeps them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

__all__ = [
    "DEFAULT_KEEP_S",
    "LEEWAY_MS",
    "MAX_DESTROYED",
    "MAX_KEYS",
    "MAX_PERIOD_S",
    "MIN_PERIOD_S",
    "KeyLimits",
    "KeyPolicy",
    "KeyRecord",
    "NodeKey",
    "StateName",
    "sorted_names",
]


MAX_KEYS = 64


"""Keys that are not destroyed."""


MAX_DESTROYED = 256


"""Records of destroyed keys; the oldest is forgotten."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """keys, destroyed: see `MAX_KEYS`, `MAX_DESTROYED`."""

    keys: int = MAX_KEYS
    destroyed: int = MAX_DESTROYED


MIN_PERIOD_S, MAX_PERIOD_S = 3_600, 366 * 86_400


DEFAULT_KEEP_S = 604_800


LEEWAY_MS = 60_000


StateName = Literal["pending", "primary", "enabled", "disabled", "destroyed"]


@dataclass(frozen=True, slots=True)
class NodeKey:
    """A node's sealing key, X25519 in base64, and the proof: its certificate and that key's signature."""

    sealing_key: str
    certificate_pem: str
    signature: str


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """rotate_every_s: seconds between rotations; None for none.

    keep_s: how long a retired key is kept at least, and the longest that any
    token may live (``abs - iat``) that a node mints.  Both 1 hour to 366 days.
    """

    rotate_every_s: int | None = None
    keep_s: int = DEFAULT_KEEP_S


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The replicated part of one key.

    key_id: 8 hexadecimal digits.  cluster_id: of the cluster where the key was
    made; it goes into the derivation of tokens.  fingerprint: 32 hexadecimal
    digits.  Times in replicated Unix milliseconds: promoted, the last time it
    became primary; retired, when it stopped to be; tokens_until, see the
    module, None while no token was ever under it; destroyed.
    wrapped: node -> the key sealed to it.  holders: the nodes that confirmed
    that they opened theirs.  known_to: the members that were ever given one.
    compromised_by: the same of removed members.  All names in order.
    """

    key_id: str
    cluster_id: str
    fingerprint: str
    state: StateName
    created_unix_ms: int
    promoted_unix_ms: int | None = None
    retired_unix_ms: int | None = None
    tokens_until_unix_ms: int | None = None
    destroyed_unix_ms: int | None = None
    wrapped: dict[str, str] = field(default_factory=dict, repr=False)
    holders: tuple[str, ...] = ()
    known_to: tuple[str, ...] = ()
    compromised_by: tuple[str, ...] = ()

    @property
    def free_unix_ms(self) -> int | None:
        """From when on it may be disabled or destroyed without force; 0: at once; None: not while primary."""
        if self.state == "primary":
            return None
        return 0 if self.tokens_until_unix_ms is None else self.tokens_until_unix_ms + LEEWAY_MS

    def to_json(self) -> dict[str, Any]:
        """All fields but the sealed keys and known_to."""
        return {
            "key_id": self.key_id,
            "cluster_id": self.cluster_id,
            "fingerprint": self.fingerprint,
            "state": self.state,
            "created_unix_ms": self.created_unix_ms,
            "promoted_unix_ms": self.promoted_unix_ms,
            "retired_unix_ms": self.retired_unix_ms,
            "tokens_until_unix_ms": self.tokens_until_unix_ms,
            "destroyed_unix_ms": self.destroyed_unix_ms,
            "holders": list(self.holders),
            "compromised_by": list(self.compromised_by),
        }

    def to_state(self) -> dict[str, Any]:
        return {
            "wrapped": self.wrapped,
            "known_to": list(self.known_to),
            **{name: value for name, value in self.to_json().items() if name != "key_id"},
        }

    def with_blobs(self, blobs: dict[str, str]) -> KeyRecord:
        # A member that gets another blob must show again that it can open it.
        new = {name for name, blob in blobs.items() if self.wrapped.get(name) != blob}
        return replace(
            self,
            wrapped={**self.wrapped, **blobs},
            holders=sorted_names(set(self.holders) - new),
            known_to=sorted_names({*self.known_to, *blobs}),
        )

    def without(self, name: str) -> KeyRecord:
        return replace(
            self,
            wrapped={node: blob for node, blob in self.wrapped.items() if node != name},
            holders=tuple(node for node in self.holders if node != name),
        )


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))
