"""Waiting for changes of things that have names."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = ["PrefixWatchers", "Turns", "Watchers"]

_AT_ONCE = 64
"""Callers who go on in one turn of the loop."""

_PAUSE_FACTOR = 9.0
_LONGEST_PAUSE_S = 1.0


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


class PrefixWatchers:
    """Events of those who wait for names that begin in some way.  Belongs to one loop."""

    def __init__(self) -> None:
        self._watchers = Watchers()
        self._lengths: dict[int, int] = {}  # of the prefixes, with how many have it

    @contextmanager
    def watch(self, prefix: str) -> Iterator[asyncio.Event]:
        """An event that is set at each change of a name that begins with prefix, until the block is left."""
        length = len(prefix)
        self._lengths[length] = self._lengths.get(length, 0) + 1
        try:
            with self._watchers.watch(prefix) as event:
                yield event
        finally:
            self._lengths[length] -= 1
            if not self._lengths[length]:
                del self._lengths[length]

    @property
    def is_watching(self) -> bool:
        """Whether anybody waits."""
        return bool(self._lengths)

    def changed(self, names: Iterable[str]) -> None:
        """Wake those who wait for one of these names."""
        for prefix in {name[:length] for name in names for length in self._lengths}:
            self._watchers.changed(prefix)

    def all_changed(self) -> None:
        """Wake everybody."""
        self._watchers.all_changed()


class Turns:
    """Lets callers do something that costs, few at a time, in a tenth of the loop's time.

    First come, first served.  A lone caller waits for one turn of the loop, and
    nine times as long as that took before the next.
    """

    def __init__(self) -> None:
        self._queue: deque[asyncio.Future[None]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def take(self, timeout_s: float) -> bool:
        """Wait for the caller's turn; false when it does not come in time.

        What the caller does before it next waits is what is measured.
        """
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._queue.append(turn)
        if self._task is None:
            self._task = loop.create_task(self._run(loop))
        try:
            async with asyncio.timeout(timeout_s):
                await turn
        except TimeoutError:
            return turn.done() and not turn.cancelled()  # it came at the same moment
        return True

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._queue:
            began = loop.time()
            given = 0
            while self._queue and given < _AT_ONCE:
                turn = self._queue.popleft()
                if not turn.done():  # else its caller has gone, and takes nobody's turn
                    turn.set_result(None)
                    given += 1
            await asyncio.sleep(0)  # they run now
            await asyncio.sleep(0)
            await asyncio.sleep(min(_PAUSE_FACTOR * (loop.time() - began), _LONGEST_PAUSE_S))
        self._task = None
