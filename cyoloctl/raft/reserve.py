"""A file that keeps space on the disk for the moment when there is none left.

A member whose disk is full must still be able to store its term and its vote,
or it has to end, though a majority may be counting on it.  The file has no
content; it is shortened when the journal finds no room, and filled up again
when there is.  On a file system that promises space without keeping it (ZFS,
a thin volume) it is of no use, and does no harm.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cyoloctl.paths import hand_to_owner_of

__all__ = ["RESERVE_NAME", "Reserve"]

RESERVE_NAME = "reserve"

_LARGEST_BYTES = 4 * 2**20
_STEP_BYTES = 16 * 2**10


class Reserve:
    """The reserve of one data directory.  One thread at a time.  Nothing here raises.

    path: the file, made when there is room for it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size_bytes = _LARGEST_BYTES
        """How much it is to hold; known since `hold`."""

    def hold(self) -> bool:
        """Take the space, where that leaves as much again for others; whether it is held.

        A small disk has a small one: a sixteenth part.
        """
        try:
            disk = os.statvfs(self._path.parent)
            wanted = self.size_bytes = min(_LARGEST_BYTES, disk.f_blocks * disk.f_frsize // 16)
            held = self._held()
            if held > wanted:  # of a larger disk
                os.truncate(self._path, wanted)
            if held < wanted:
                if disk.f_bavail * disk.f_frsize < 2 * (wanted - held):
                    return False
                self._extend(held, wanted)
        except OSError:
            return False
        return True

    def give(self, needed_bytes: int) -> bool:
        """Give some of it back to the file system, for whoever takes it first; False when nothing is left."""
        try:
            held = self._held()
            if held == 0:
                return False
            os.truncate(self._path, max(0, held - max(needed_bytes, _STEP_BYTES)))
        except OSError:
            return False
        return True

    def _held(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def _extend(self, held: int, wanted: int) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            hand_to_owner_of(self._path.parent, descriptor)
            os.posix_fallocate(descriptor, held, wanted - held)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, held)  # some of it may have been taken
            raise
        finally:
            os.close(descriptor)
