"""Questions to peers that wait for their answers.  Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cyoloctl.errors import CyoloctlError, Unavailable

__all__ = ["MAX_CALLS", "Calls", "Done"]

MAX_CALLS = 1024
"""Calls that may wait at once, here and at a peer."""

Done = Callable[[bytes | None, CyoloctlError | None], None]
"""Called at most once, with the answer or with why there is none."""


class Calls:
    """Calls of one node, each with the peer that was asked."""

    def __init__(self, first: int) -> None:
        """first: where their ids begin."""
        self._calls: dict[int, tuple[str, Done]] = {}
        self._next_call = first

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, name: str, done: Done) -> int:
        """Wait for an answer of this peer; returns the call's id.  Raises Unavailable when too many wait."""
        if len(self._calls) >= MAX_CALLS:
            raise Unavailable("too many requests to peers wait for their answers: try again later")
        self._next_call += 1
        self._calls[self._next_call] = (name, done)
        return self._next_call

    def forget(self, identifier: int) -> None:
        """Give up waiting for the answer.  Idempotent."""
        self._calls.pop(identifier, None)

    def fail(self, name: str | None, error: CyoloctlError) -> None:
        """Those to a peer, or all of them."""
        for identifier, (owner, done) in list(self._calls.items()):
            if name in (owner, None):
                del self._calls[identifier]
                done(None, error)

    def answered(self, name: str, message: dict[str, Any]) -> None:
        """A peer's reply: it counts for the call that this very peer was asked."""
        found = self._calls.get(message["id"])
        if found is not None and found[0] == name:
            del self._calls[message["id"]]
            found[1](message["body"], None)
