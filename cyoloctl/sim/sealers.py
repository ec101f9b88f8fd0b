"""Who seals values in a run: draws them, knows what they say, and holds the ring of every node.

Simulated nodes hold no keys: the secret of one follows from what the register says of it, so that every
node has the whole ring at once.  What is sealed begins with `MARKER`, which nothing else in a run holds.
"""

from __future__ import annotations

import random
from base64 import b64encode
from hashlib import sha256
from typing import NamedTuple

from cyoloctl.keys.keyring import Key, Keyring, KeyState
from cyoloctl.keys.machine import KeyMachine
from cyoloctl.kv.values import Clear, sealed_under
from cyoloctl.sim.shares import share_of

__all__ = ["MARKER", "Sealers", "Sealing", "ring_of", "tells"]

MARKER = b"secret in clear"
_FORMS = (MARKER, MARKER.hex().encode(), *(b64encode(bytes(n) + MARKER)[4:-4] for n in range(3)))
"""As it would be found: as it is, in hexadecimal, and in base64 at each place of a group."""
_STRANGER = Key(b"\xfc\xff\xff\xff", bytes(32), KeyState.PRIMARY, "c" * 32)
"""Of no ring."""


class Sealing(NamedTuple):
    """What somebody has sealed, and under which key."""

    key: Key
    clear: Clear


def tells(data: bytes) -> bool:
    """Whether a value that was to be sealed can be read here."""
    return any(form in data for form in _FORMS)


def ring_of(keys: KeyMachine) -> Keyring:
    """The keys that this register has, with their secrets."""
    return Keyring(
        Key(
            bytes.fromhex(record.key_id),
            sha256(f"{record.key_id} {record.cluster_id} {record.fingerprint}".encode()).digest(),
            KeyState(record.state),
            record.cluster_id,
        )
        for record in keys.records()
        if record.state != "destroyed"
    )


class Sealers:
    """All who seal values in one run.  said: what is in each sealed value, in base64, that was proposed."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.said: dict[str, Sealing] = {}

    @classmethod
    def of(cls, seed: int) -> Sealers | None:
        """Those of a seed; None: nobody seals."""
        rng = share_of(seed, "sealed")
        return None if rng is None else cls(rng)

    def key(self, keys: KeyMachine) -> Key:
        """Mostly the key under which this register has values sealed; another one, or one that is gone."""
        ring, chance = ring_of(keys), self.rng.random()
        if ring.primary is None or chance < 0.05:
            return _STRANGER
        return ring.primary if chance < 0.85 else self.rng.choice(ring.keys)

    def seal(self, keys: KeyMachine, name: str) -> tuple[str, str]:
        """A value for a name, sealed, and its digest."""
        clear = Clear(name, MARKER + self.rng.randbytes(self.rng.randrange(12)))
        return self._seal(Sealing(self.key(keys), clear))

    def again(self, blob: str) -> tuple[str, str]:
        """The same value under the same key, as whoever repeats a request seals it."""
        return self._seal(self.said[blob])

    def _seal(self, sealing: Sealing) -> tuple[str, str]:
        key, clear = sealing
        blob, digest = sealed_under(key, clear, "", random=self.rng.randbytes)
        self.said[blob] = sealing
        return blob, digest
