"""What the register of credentials and the list of destroyed keys forget to make room, written down naively.

Where nothing is full they forget nothing, and what was revoked or destroyed stays so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Destroyed", "Register"]


class Destroyed:
    """Ids of destroyed keys; the one that was destroyed first makes room."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._times: dict[str, int] = {}

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._times

    def add(self, key_id: str, now_ms: int) -> None:
        """A key was destroyed, perhaps before."""
        if key_id in self._times:
            return
        if len(self._times) >= self._most:
            del self._times[min(self._times, key=lambda other: (self._times[other], other))]
        self._times[key_id] = now_ms

    def set_back(self, to_ms: int) -> None:
        """Cluster time was set back: nothing was destroyed later than now."""
        self._times = {key_id: min(at_ms, to_ms) for key_id, at_ms in self._times.items()}


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    created_ms: int
    expires_ms: int
    revoked_ms: int | None

    def ended_ms(self) -> int:
        return self.expires_ms if self.revoked_ms is None else min(self.revoked_ms, self.expires_ms)


class Register:
    """Credentials by the hash of their key; the one that ended first makes room."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: dict[str, _Entry] = {}

    def is_revoked(self, key_hash: str) -> bool:
        """Whether it was revoked, and is remembered."""
        known = self._entries.get(key_hash)
        return known is not None and known.revoked_ms is not None

    def put(self, value: dict[str, Any], now_ms: int, *, renewed: bool) -> str | None:
        """An entry was made, was there, or was renewed, perhaps with another key; what is wrong with that.

        It has to be refused where it is one too many.
        """
        key_hash = value["key_hash"]
        entry = _Entry(
            value["name"], value["created_unix_ms"], value["expires_unix_ms"], value["revoked_unix_ms"]
        )
        if key_hash not in self._entries:
            if renewed:
                self._entries = {key: one for key, one in self._entries.items() if not _is_former(one, entry)}
            if len(self._entries) >= self._most:
                ended = [
                    (one.ended_ms(), key)
                    for key, one in self._entries.items()
                    if one.revoked_ms is not None or one.expires_ms <= now_ms
                ]
                if not ended:
                    return f"{entry.name} is one too many: {self._most} credentials count"
                del self._entries[min(ended)[1]]
        self._entries[key_hash] = entry
        return None

    def revoke(self, name: str, now_ms: int) -> None:
        """Whatever has this name was revoked."""
        for key, one in self._entries.items():
            if one.name == name and one.revoked_ms is None:
                self._entries[key] = replace(one, revoked_ms=now_ms)


def _is_former(old: _Entry, new: _Entry) -> bool:
    return (old.name, old.created_ms, old.revoked_ms) == (new.name, new.created_ms, None)
