"""Telling what became of proposals: after the turn in which it was found, and many at once.

Whoever hears of it may propose again, or write to a socket: nothing of that
belongs into a replica's turn, and an event of the loop for each would cost as
much as the telling.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from cyoloctl.errors import CyoloctlError
from cyoloctl.raft.proposals import Done

__all__ = ["Telling"]

_log = logging.getLogger("cyoloctl.raft")


class Telling:
    """What is found and not told yet, in one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._found: list[tuple[Done, Any, CyoloctlError | None]] = []
        self._in_turn = False

    def add(self, done: Done, result: Any, error: CyoloctlError | None) -> None:
        """Tell this later: after the turn, where one runs."""
        if not self._found and not self._in_turn:
            self._loop.call_soon(self._tell)
        self._found.append((done, result, error))

    def after(self, turn: Callable[[], None]) -> None:
        """Take a turn, then tell what it found.  Raises what the turn does, when that was told."""
        self._in_turn = True
        try:
            turn()
        finally:
            self._in_turn = False
            if self._found:
                self._tell()

    def _tell(self) -> None:
        found, self._found = self._found, []
        for done, result, error in found:
            try:
                done(result, error)
            except Exception:  # a bug of one must not keep the others waiting
                _log.critical("a proposal's callback raised", exc_info=True)
