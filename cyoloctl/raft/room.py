"""Whether a replica takes new entries: whether there is room on its disk, and on those of a majority."""

from __future__ import annotations

from cyoloctl.raft.core import Core
from cyoloctl.raft.forwarding import Forwarding
from cyoloctl.raft.handover import Handover

__all__ = ["Room"]

_HELD_S = 0.6
"""A leader whose disk has run short has looked for another one within this time, and begun to hand over."""


class Room:
    """Space on the disk of one replica, and what a leader does without."""

    def __init__(self, core: Core, handover: Handover, forwarding: Forwarding) -> None:
        self._core, self._handover, self._forwarding = core, handover, forwarding
        self._had_room_at = core.clock()

    def measured(self, *, is_short: bool, free_bytes: int | None) -> None:
        """The disk was looked at.

        is_short: it has too little space for new entries, so that votes find
        some.  free_bytes: for people; None where that is not known.
        """
        self._core.set_space(is_short=is_short, free_bytes=free_bytes)

    def is_short(self) -> bool:
        """True while this node's disk takes no new entries."""
        return self._core.is_short()

    def refuses(self) -> bool:
        """As leader: whether nothing new is appended now, because of a disk.

        What waits is refused, unless this node's disk has run short just now:
        then a voter that has room may lead in a moment.
        """
        now, is_short, lack = self._core.clock(), self._core.is_short(), self._handover.lack
        if not is_short:
            self._had_room_at = now
        if lack is not None and (not is_short or now - self._had_room_at >= _HELD_S):
            self._forwarding.refuse(lack)
        return is_short or lack is not None
