"""Ends what waited too long, with one timer for all: a timer each costs more than the rest of waiting.

What is over is taken out at once, so that its memory serves the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["LOOK_EVERY_S", "Deadlines"]

LOOK_EVERY_S = 0.05
"""How much later than its deadline something ends at most."""

_Waiting = TypeVar("_Waiting")


class Deadlines(Generic[_Waiting]):
    """Deadlines of one loop.  Without any there is soon no timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, end: Callable[[_Waiting, float], None]) -> None:
        """end: told what waited too long, and for how many seconds it was to wait."""
        self._loop = loop
        self._end = end
        self._waiting: dict[_Waiting, tuple[float, float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, waiting: _Waiting, timeout_s: float) -> None:
        """End this after so many seconds, unless it is removed by then."""
        self._waiting[waiting] = self._loop.time() + timeout_s, timeout_s
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)

    def remove(self, waiting: _Waiting) -> None:
        """It waits no more, or was ended.  Idempotent."""
        self._waiting.pop(waiting, None)

    def stop(self) -> None:
        """No call after this."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        due = [(each, timeout_s) for each, (at, timeout_s) in self._waiting.items() if now >= at]
        for each, _ in due:
            del self._waiting[each]
        self._timer = self._loop.call_later(LOOK_EVERY_S, self._look) if self._waiting else None
        for each, timeout_s in due:
            self._end(each, timeout_s)
