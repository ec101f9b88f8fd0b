"""Sealed values on a node: sealed before they are proposed, opened before they are answered."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import NamedTuple

from cyoloctl.errors import KeyMissing, StorageError, Unavailable
from cyoloctl.keys.keyring import Key
from cyoloctl.keys.operations import KeyOperations
from cyoloctl.kv.machine import KvMachine
from cyoloctl.kv.records import MAX_RESEALED, MAX_VALUE_BYTES, Entry, Place, encode_value, key_id_of
from cyoloctl.kv.sealing import digest, open_value, seal_value
from cyoloctl.text import Json

__all__ = ["Clear", "Values", "sealed_under"]

_log = logging.getLogger("cyoloctl.kv")


class Clear(NamedTuple):
    """A value that is to be sealed, and the key that it is for.  Never printed."""

    name: str
    value: bytes

    def __repr__(self) -> str:
        return f"Clear({self.name!r}, value=(hidden))"


class Values:
    """Seals and opens with the ring that this node holds."""

    def __init__(self, keys: KeyOperations, kv: KvMachine) -> None:
        self._keys = keys
        self._kv = kv
        self._damaged: set[Place] = set()

    # -- opening ----------------------------------------------------------------------------------

    async def ready(self, entries: Iterable[Entry], *, timeout_s: float) -> None:
        """Return when this node holds the keys of these values, or after 2 s: a new member is given them.

        Raises Unavailable on a witness, which is given none.
        """
        lacking = {key_id_of(entry.value) for entry in entries if entry.sealed}
        if lacking and not all(self._ring_key(key_id) for key_id in lacking):
            await self._keys.wait_whole(timeout_s=timeout_s)

    def open(self, name: str, entry: Entry) -> bytes:
        """The value as it was given.

        Raises Unavailable where another node can open it, KeyMissing where
        none can, and StorageError for a damaged one.
        """
        if not entry.sealed:
            return entry.value
        key_id = key_id_of(entry.value)
        key = self._ring_key(key_id)
        if key is not None:
            return open_value(key, name, entry.value)
        if self._kv.has_key(key_id):
            raise Unavailable(f"this node does not hold the key {key_id} yet: try again, or ask another node")
        raise KeyMissing(
            f"the value of {name!r} is sealed under the key {key_id}, which this cluster does not have: "
            "import the ring of then (`cyoloctl key import FILE --adopt`), or delete it"
        )

    def _ring_key(self, key_id: str) -> Key | None:
        return self._keys.ring().get(bytes.fromhex(key_id))

    # -- sealing ----------------------------------------------------------------------------------

    async def primary(self, *, timeout_s: float) -> Key:
        """The key under which values are sealed now.  Raises Unavailable."""
        await self._keys.wait_primary(timeout_s=timeout_s)
        key = self._keys.ring().primary
        if key is None:
            raise Unavailable(
                "this node has no primary key yet: try again, or see who holds the keys (key status)"
            )
        return key

    def others(self) -> list[Key]:
        """The keys of the ring besides the primary one."""
        ring = self._keys.ring()
        return [key for key in ring.keys if key is not ring.primary]

    def to_reseal(self) -> list[Json]:
        """Some values of older keys, under the primary one, as the machine takes them.

        Bounded in number and bytes: the leader asks until there are none.
        """
        ring = self._keys.ring()
        primary = ring.primary
        if primary is None:
            return []
        found: list[Json] = []
        size = 0
        for key_id in self._kv.sealing_keys():
            key = ring.get(bytes.fromhex(key_id))
            if key is None or key is primary:
                continue
            wanted = self._kv.sealed_under(key_id, MAX_RESEALED + len(self._damaged))
            for (name, revision), entry in wanted.items():
                size += len(entry.value)
                if found and (len(found) == MAX_RESEALED or size > MAX_VALUE_BYTES):
                    return found
                blob = self._again(key, primary, (name, revision), entry)
                if blob is not None:
                    found.append(
                        {
                            "name": encode_value(name.encode()),
                            "revision": revision,
                            "blob": encode_value(blob),
                        }
                    )
        return found

    def _again(self, key: Key, primary: Key, place: Place, entry: Entry) -> bytes | None:
        if place in self._damaged:
            return None
        try:
            value = open_value(key, place[0], entry.value)
        except StorageError as error:
            self._damaged.add(place)
            _log.error(
                "a sealed value cannot be sealed again", extra={"key": place[0], "reason": error.message}
            )
            return None
        return seal_value(primary, place[0], value, random=os.urandom)


def sealed_under(key: Key, clear: Clear, request_id: str) -> tuple[str, str]:
    """A value under a key, in base64, and its digest."""
    blob = seal_value(key, clear.name, clear.value, random=os.urandom)
    return encode_value(blob), digest(key, clear.name, request_id, clear.value)
