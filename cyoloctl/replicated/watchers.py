"""Waiting for changes of things that have names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Watchers"]


class Watchers:
    """Events of those who wait, by the name of what they wait for.  Belongs to one loop."""

    def __init__(self) -> None:
        self._events: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def watch(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set at each change of `name`, until the block is left."""
        event = asyncio.Event()
        self._events.setdefault(name, set()).add(event)
        try:
            yield event
        finally:
            events = self._events[name]
            events.discard(event)
            if not events:
                del self._events[name]

    def is_watched(self, name: str) -> bool:
        """Whether anybody waits for a change of `name`."""
        return name in self._events

    def names(self) -> list[str]:
        """The names for which anybody waits."""
        return list(self._events)

    def changed(self, name: str) -> None:
        """Wake those who wait for `name`."""
        for event in self._events.get(name, ()):
            event.set()

    def all_changed(self) -> None:
        """Wake everybody: the whole state was replaced."""
        for events in self._events.values():
            for event in events:
                event.set()
