"""Connections that a client keeps between calls, as long as its ``with`` block lasts."""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyoloctl.control.endpoints import Endpoint
    from cyoloctl.web.steps import Wire

__all__ = ["Idle"]

_EACH = 8
"""Connections for each endpoint: more calls at once have connections of their own."""
_LONGEST_S = 10.0
"""What lay longer may be cut somewhere on the way, where neither end hears of it."""


class Idle:
    """Connections by endpoint, for any number of threads; a process that is forked has none of them."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._wires: dict[Endpoint, list[tuple[Wire, float]]] = {}
        self._closed = False

    def take(self, endpoint: Endpoint) -> Wire | None:
        """A connection on which the node waits for a request; None: make one."""
        if os.getpid() != self._pid:
            # They are the parent's: what two processes send on one would be one request.  Its ends stay open.
            self._drop()
            self._pid = os.getpid()
        kept = self._wires.get(endpoint, [])
        while True:
            try:
                wire, since = kept.pop()
            except IndexError:
                return None
            if time.monotonic() - since < _LONGEST_S and not _has_news(wire):
                return wire
            _close(wire)

    def give(self, endpoint: Endpoint, wire: Wire) -> None:
        """Keep a connection whose last answer was read to its end."""
        kept = self._wires.setdefault(endpoint, [])
        if self._closed or os.getpid() != self._pid or len(kept) >= _EACH:
            _close(wire)
        else:
            kept.append((wire, time.monotonic()))

    def close(self) -> None:
        """Close all of them, and keep none from now on.  Idempotent."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        for kept in self._wires.values():
            while kept:
                _close(kept.pop()[0])


def _has_news(wire: Wire) -> bool:
    """Whether there is something to read before anything was asked: the end, as a rule."""
    poll = select.poll()
    poll.register(wire.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _close(wire: Wire) -> None:
    with contextlib.suppress(OSError):
        wire.close()
