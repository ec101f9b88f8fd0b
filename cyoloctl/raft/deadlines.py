"""Ends what waited too long, with one timer for all: a timer each costs more than the rest of waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

__all__ = ["LOOK_EVERY_S", "Deadlines", "Waiting"]

LOOK_EVERY_S = 0.05
"""How much later than its deadline something ends at most."""


class Waiting(Protocol):
    """What waits.  cancelled: nobody waits for it any more."""

    cancelled: bool


_Item = tuple[float, Waiting, Callable[[], None]]


class Deadlines:
    """Deadlines of one loop.  Without any there is no timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[_Item] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, waiting: Waiting, timeout_s: float, end: Callable[[], None]) -> None:
        """Call ``end`` after so many seconds, unless nobody waits by then."""
        self._waiting.append((self._loop.time() + timeout_s, waiting, end))
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)

    def stop(self) -> None:
        """No call after this."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        due: list[_Item] = []
        left: list[_Item] = []
        for each in self._waiting:
            if not each[1].cancelled:
                (due if now >= each[0] else left).append(each)
        self._waiting = left
        self._timer = self._loop.call_later(LOOK_EVERY_S, self._look) if left else None
        for _, _, end in due:
            end()
