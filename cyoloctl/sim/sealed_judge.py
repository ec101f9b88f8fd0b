"""A judge of sealed values, who knows what each says and what each key of a state opens.

After every command on keys or on the ring, and at every read: what is under a
key, and what was there at every revision that is remembered, is what somebody
put there, sealed if that was asked for, and opens with the ring of the same state.
Nothing that was to be sealed stands in clear in a log, a snapshot or a message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cyoloctl.errors import StorageError
from cyoloctl.keys.keyring import Key, Keyring
from cyoloctl.kv.records import Entry, Place, check_value, key_id_of
from cyoloctl.kv.sealing import open_value
from cyoloctl.replicated.command import Command
from cyoloctl.sim.kv_operations import Table
from cyoloctl.sim.sealers import Sealers, ring_of, tells
from cyoloctl.state import ClusterState
from cyoloctl.text import Json

__all__ = ["SealedJudge"]

_ALL = 10_000


class SealedJudge:
    """What was put where, so far; it is told of every command that was carried out, once."""

    def __init__(self, sealers: Sealers, table: Callable[[], Table]) -> None:
        """table: what is under which key, by another judge."""
        self._sealers, self._table = sealers, table
        self._values: dict[Place, tuple[bytes, bool]] = {}  # with whether it was to be sealed
        self._opened: dict[tuple[bytes, str, bytes], bytes | None] = {}

    def applied(self, request: Command, answer: Json, state: ClusterState) -> str | None:
        """What is wrong with the state after a command that was carried out just now; None: nothing."""
        if request.machine not in ("kv", "keys"):
            return None
        if request.machine == "kv" and "value" in answer:
            self._note(request, answer["value"])
        return self.wrong(state) or self._lost(state)

    def _note(self, request: Command, value: Json) -> None:
        given, operation = request.arguments, request.operation
        if operation in ("put", "put_clear", "put_sealed"):
            self._put(given["key"], value["revision"], given.get("value"), given.get("blob"))
        elif operation in ("txn", "txn_sealed"):
            blobs = iter(given.get("blobs", ()))
            for branch in ("then", "otherwise"):
                for step in given[branch]:
                    blob = next(blobs) if "digest" in step else None
                    if step["op"] == "put" and value["succeeded"] is (branch == "then"):
                        self._put(step["key"], value["revision"], step.get("value"), blob)

    def _put(self, key: str, revision: int, value: str | None, blob: str | None) -> None:
        said = check_value(value) if blob is None else self._sealers.said[blob].clear.value
        self._values[key, revision] = (said, blob is not None)

    def wrong(self, state: ClusterState) -> str | None:
        """What is wrong with the values that a state has, and remembers; None: nothing."""
        ring, kv = ring_of(state.keys), state.kv
        there: list[tuple[str, Entry | None]] = list(kv.page("", None, _ALL))
        for event in kv.changes(kv.first_revision, _ALL):
            there += [(event.key, event.entry), (event.key, event.previous)]
        for key, entry in there:
            if entry is None:
                continue
            expected = self._values.get((key, entry.revision))
            found = self._open(ring, key, entry), entry.sealed
            if found != expected:
                return f"the value of {key} of revision {entry.revision} is {found}, not {expected}"
        return None

    def _open(self, ring: Keyring, name: str, entry: Entry) -> bytes | None:
        if not entry.sealed:
            return entry.value
        key = ring.get(bytes.fromhex(key_id_of(entry.value)))
        if key is None:
            return None
        place = (key.secret, name, entry.value)
        if place not in self._opened:
            self._opened[place] = _opened(key, name, entry.value)
        return self._opened[place]

    def _lost(self, state: ClusterState) -> str | None:
        """What should be under a key and is not."""
        for key, expected in self._table().live(state.time_unix_ms).items():
            entry = state.kv.get(key)
            found = None
            if entry is not None:
                found = entry.revision, entry.created_revision, entry.version, entry.expires_unix_ms
            if found != expected:
                return f"{key} is {found} and not {expected}"
        return None

    def tells(self, what: Any) -> bool:
        """Whether a value that was to be sealed can be read in this, or in a part of it."""
        if isinstance(what, dict):
            return any(self.tells(part) for part in what.values())
        if isinstance(what, list | tuple):
            return any(self.tells(part) for part in what)
        if isinstance(what, str):
            return tells(what.encode())
        return isinstance(what, bytes) and tells(what)


def _opened(key: Key, name: str, blob: bytes) -> bytes | None:
    try:
        return open_value(key, name, blob)
    except StorageError:
        return None
