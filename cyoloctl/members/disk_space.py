"""Space on a member's disk: the marks at which something is done, and how long the rest will last.  Pure."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

__all__ = ["FILLING_DAYS", "SAMPLE_S", "SpaceHistory", "low_bytes", "reserve_bytes"]

FILLING_DAYS = 7.0
"""A disk that will be full within so many days needs a hand."""

SAMPLE_S = 300.0
"""Between two samples of the free space."""
_SAMPLES = 73  # six hours
_FEWEST = 7  # half an hour
_LONGEST_DAYS = 3650.0

_LARGEST_RESERVE_BYTES = 64 * 2**20


def reserve_bytes(total_bytes: int, snapshot_bytes: int = 0) -> int:
    """Space below which a node takes no new entries, so that votes and one snapshot still find room.

    total_bytes: of the file system.  snapshot_bytes: size of the present snapshot.
    """
    return min(_LARGEST_RESERVE_BYTES, total_bytes // 16) + min(snapshot_bytes, total_bytes // 4)


def low_bytes(reserve: int) -> int:
    """Space below which people are warned and the log is compacted early; reserve: see `reserve_bytes`."""
    return 4 * reserve


class SpaceHistory:
    """Free space over the last hours, and what it says of the days to come."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)

    def observe(self, now: float, free_bytes: int) -> None:
        """Note the free space; what comes sooner than `SAMPLE_S` after the last sample is not kept.

        now: seconds, monotonic.
        """
        if not self._samples or now - self._samples[-1][0] >= SAMPLE_S:
            self._samples.append((now, free_bytes))

    def days_left(self, free_bytes: int) -> float | None:
        """Days until nothing is left at the present rate; None: not known yet, or it is not filling.

        The rate is the mean of the changes between samples without the most
        extreme tenth at either end, so that a file that comes or goes at once,
        whatever its size, tells nothing about the rate.
        """
        if len(self._samples) < _FEWEST:
            return None
        samples = list(self._samples)
        rates = sorted(
            (before - after) / (later - earlier) for (earlier, before), (later, after) in pairwise(samples)
        )
        cut = max(1, len(rates) // 10)
        kept = rates[cut:-cut]
        rate = sum(kept) / len(kept)
        if rate <= 0:
            return None
        days = free_bytes / rate / 86_400
        return round(days, 1) if days <= _LONGEST_DAYS else None
