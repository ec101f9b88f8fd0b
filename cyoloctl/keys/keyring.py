"""Token keys in the memory of a process, and the ring of them.  Sans-io."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn, SupportsIndex

from cyoloctl.errors import InvalidInput
from cyoloctl.pki.identity import parse_cluster_id
from cyoloctl.text import pre_auth_encoding, utf8_or_none

__all__ = ["Key", "KeyState", "Keyring", "context_bytes", "new_key"]

_KEY_ID_FIRST = 0xFC
_MAX_CONTEXT_BYTES = 255


def context_bytes(text: str, what: str) -> bytes:
    """A part of what tokens are bound to as bytes, 255 at most.  Raises InvalidInput that names it."""
    data = utf8_or_none(text)
    if data is None or len(data) > _MAX_CONTEXT_BYTES:
        raise InvalidInput(
            f"the {what} is not Unicode, or is longer than {_MAX_CONTEXT_BYTES} bytes of UTF-8"
        )
    return data


class KeyState(StrEnum):
    """pending and enabled open, primary mints too, disabled refuses, destroyed has lost its secret."""

    PENDING = "pending"
    PRIMARY = "primary"
    ENABLED = "enabled"
    DISABLED = "disabled"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True)
class Key:
    """One token key.  Never prints its secret and cannot be pickled.

    key_id: 4 bytes, the first 0xFC.
    secret: 32 bytes; empty when and only when the key is destroyed.
    state: a KeyState or its text.
    cluster_id: goes into the derivation, so a ring adopted from another cluster keeps that cluster's;
    1 to 255 bytes of UTF-8.

    Raises InvalidInput for anything else.
    """

    key_id: bytes
    secret: bytes
    state: KeyState
    cluster_id: str

    def __post_init__(self) -> None:
        if self.state not in KeyState.__members__.values():
            raise InvalidInput("the key has no such state: use " + ", ".join(KeyState))
        object.__setattr__(self, "state", KeyState(self.state))
        if type(self.key_id) is not bytes or len(self.key_id) != 4 or self.key_id[0] != _KEY_ID_FIRST:
            raise InvalidInput("the key id is not 4 bytes that begin with fc")
        if type(self.secret) is not bytes or len(self.secret) != 32 * (self.state != KeyState.DESTROYED):
            raise InvalidInput("a key has 32 bytes, and none when it is destroyed")
        if not self.cluster_id:
            raise InvalidInput("the key has no cluster id")
        context_bytes(self.cluster_id, "cluster id")

    def __repr__(self) -> str:
        return f"Key({self.key_id_hex}, secret=(hidden), {self.state}, cluster_id={self.cluster_id!r})"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a key is never pickled or copied: wrap it for the node that needs it")

    @property
    def key_id_hex(self) -> str:
        """The key id as 8 hexadecimal digits, such as ``fc01aabb``."""
        return self.key_id.hex()

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that tell two secrets under one key id apart; empty for a destroyed key.

        The first half of SHA-256(PAE("cyoloctl key fingerprint v1", cluster id, key id, secret)).  Tells
        nothing about the secret, which is 32 random bytes.
        """
        if self.state is KeyState.DESTROYED:
            return ""
        from hashlib import sha256

        parts = (b"cyoloctl key fingerprint v1", self.cluster_id.encode(), self.key_id, self.secret)
        return sha256(pre_auth_encoding(*parts)).hexdigest()[:32]


class Keyring:
    """Keys by id, at most one of them primary.  Immutable; prints ids and states only.

    Raises InvalidInput when two keys have one id, or two are primary.
    """

    __slots__ = ("_by_id", "_primary")

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        by_id: dict[bytes, Key] = {}
        primary: Key | None = None
        for key in keys:
            if by_id.setdefault(key.key_id, key) is not key:
                raise InvalidInput(f"the keyring holds the key id {key.key_id_hex} twice")
            if key.state is KeyState.PRIMARY:
                if primary is not None:
                    raise InvalidInput(
                        f"the keyring has two primaries, {primary.key_id_hex} and {key.key_id_hex}"
                    )
                primary = key
        self._by_id = by_id
        self._primary = primary

    @property
    def keys(self) -> tuple[Key, ...]:
        """Every key, in the order in which they were given."""
        return tuple(self._by_id.values())

    @property
    def primary(self) -> Key | None:
        """The key that mints, if there is one."""
        return self._primary

    def get(self, key_id: bytes) -> Key | None:
        """The key of this id, in whatever state."""
        return self._by_id.get(key_id)

    def __repr__(self) -> str:
        return f"Keyring({', '.join(f'{key.key_id_hex} {key.state}' for key in self._by_id.values())})"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a keyring is never pickled or copied: export it")


def new_key(
    cluster_id: str, *, random: Callable[[int], bytes] = os.urandom, taken: Collection[str] = ()
) -> Key:
    """A new pending key: 32 random bytes under a random id.

    cluster_id: 32 hexadecimal digits.  taken: ids (hexadecimal) that it must not get.
    """
    parse_cluster_id(cluster_id)
    while (key_id := b"\xfc" + random(3)).hex() in taken:
        pass
    return Key(key_id, random(32), KeyState.PENDING, cluster_id)
