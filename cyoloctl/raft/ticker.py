"""Calls `Replica.tick` when something happened or is due; there is no polling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Ticker"]

_SHORTEST_S = 0.001
"""A deadline that lies in the past is served this much later, so that a bug cannot spin."""


class Ticker:
    """Runs a tick in the event loop.

    Many `wake` calls before the loop comes round are one tick: all input that
    one poll of the sockets brought is persisted together (group commit).
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tick: Callable[[], None], next_deadline: Callable[[], float]
    ) -> None:
        """next_deadline: seconds on the loop's clock."""
        self._loop = loop
        self._tick = tick
        self._next_deadline = next_deadline
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def wake(self) -> None:
        """Tick as soon as the loop has handed over what it has read."""
        if self._soon is None and not self._stopped:
            self._soon = self._loop.call_soon(self._run)

    def stop(self) -> None:
        """No tick after this."""
        self._stopped = True
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()

    def _run(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
        self._soon = None
        if self._stopped:
            return
        try:
            self._tick()
        finally:
            if not self._stopped:
                now = self._loop.time()
                at = max(self._next_deadline(), now + _SHORTEST_S)
                # Most ticks come from input and most deadlines only move on:
                # keep a timer that is early enough.
                if self._timer is None or not now < self._timer.when() <= at:
                    if self._timer is not None:
                        self._timer.cancel()
                    self._timer = self._loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._run()
