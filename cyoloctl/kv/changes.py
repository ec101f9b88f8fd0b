"""The latest changes of the keys: what watchers read, and how keys were at a recent revision."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from cyoloctl.kv.entries import Entries
from cyoloctl.kv.records import Entry, Event, Place, key_bytes

__all__ = ["Changes", "entries_after"]

_OVERHEAD_BYTES = 64


class Changes:
    """Changes by ascending revision, of which the oldest are forgotten; those of one revision together.

    most: how many are kept.  most_bytes: of their keys and of the values that
    they replaced.  first_revision: from here on every change is known.
    """

    def __init__(
        self, most: int, most_bytes: int, first_revision: int = 0, events: Iterable[Event] = ()
    ) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._events = list(events)
        self._size = sum(map(_size, self._events))
        self.first_revision = first_revision

    def __len__(self) -> int:
        return len(self._events)

    def is_too_much(self) -> bool:
        """Whether more is known than is kept."""
        return len(self._events) > self._most or self._size > self._most_bytes

    def add(self, event: Event) -> None:
        """The next change: of the last revision, or of a later one."""
        self._events.append(event)
        self._size += _size(event)

    def trim(self) -> list[Event]:
        """Forget the oldest where there are too many: an eighth more than that, so that it is seldom done.

        Returns those that are forgotten now.
        """
        if not self.is_too_much():
            return []
        least, size = len(self._events) - self._most * 7 // 8, self._most_bytes * 7 // 8
        number = 0
        while number < len(self._events) and (
            number < least
            or self._size > size
            or (number and self._events[number].revision == self._events[number - 1].revision)
        ):
            self._size -= _size(self._events[number])
            number += 1
        self.first_revision = self._events[number - 1].revision + 1
        forgotten = self._events[:number]
        del self._events[:number]
        return forgotten

    def since(self, revision: int, limit: int) -> list[Event]:
        """Changes of this revision and later: about ``limit`` of them, those of one revision never parted."""
        start = bisect_left(self._events, revision, key=_revision)
        end = min(len(self._events), start + limit)
        while 0 < end < len(self._events) and self._events[end].revision == self._events[end - 1].revision:
            end += 1
        return self._events[start:end]

    def undone(self, revision: int) -> dict[str, Entry | None]:
        """The entries of a revision, of those keys that were changed after it."""
        found: dict[str, Entry | None] = {}
        for event in self._events[bisect_left(self._events, revision + 1, key=_revision) :]:
            found.setdefault(event.key, event.previous)
        return found

    def replaced(self, places: Collection[Place]) -> dict[Place, Entry]:
        """Those of these values that a change which is known replaced or took away."""
        return {
            (event.key, event.previous.revision): event.previous
            for event in self._events
            if event.previous is not None and (event.key, event.previous.revision) in places
        }

    def reseal(self, blobs: Mapping[Place, bytes]) -> None:
        """Put other bytes, as many as before, in the place of these values."""

        def other(key: str, entry: Entry | None) -> Entry | None:
            blob = None if entry is None else blobs.get((key, entry.revision))
            return entry if entry is None or blob is None else entry._replace(value=blob)

        for number, event in enumerate(self._events):
            entry, previous = other(event.key, event.entry), other(event.key, event.previous)
            if entry is not event.entry or previous is not event.previous:
                self._events[number] = event._replace(entry=entry, previous=previous)

    def copy(self) -> list[Event]:
        """All that are known."""
        return self._events.copy()


def entries_after(present: Entries, changes: list[tuple[int, Any, str, Entry | None]]) -> list[Event]:
    """Events from what is stored of them, their previous entries: what each left is what the next one found.

    Raises ValueError where the entries do not fit together.
    """
    now: dict[str, Entry | None] = {}
    events = []
    for revision, kind, key, previous in reversed(changes):
        entry = now[key] if key in now else present.get(key)
        if (entry is None) is (kind == "put") or (entry is not None and entry.revision != revision):
            raise ValueError("a change does not fit the entries")
        if previous is not None and previous.revision >= revision:
            raise ValueError("a change is older than what it replaced")
        events.append(Event(revision, kind, key, entry, previous))
        now[key] = previous
    events.reverse()
    return events


def _revision(event: Event) -> int:
    return event.revision


def _size(event: Event) -> int:
    _, _, key, _, previous = event
    replaced = 0 if previous is None else len(previous.value)
    return _OVERHEAD_BYTES + key_bytes(key) + replaced
