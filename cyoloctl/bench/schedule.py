"""When operations are to begin: as soon as a client is free, or by a plan that waits for nobody.

A client that waits for its answer before it sends the next request leaves out exactly what it would have
sent while the cluster stood still, and its percentiles do not show the stall (coordinated omission).  The
closed loop is such a client, and says so.  In the open loop the begin of each operation is planned
beforehand, and its latency counts from there, however late it could be sent.
"""

from __future__ import annotations

import math
from typing import Protocol

__all__ = ["Closed", "Open", "Schedule"]


class Schedule(Protocol):
    """Begins of operations, in seconds since the begin of the run.  One for all clients."""

    def next(self, now_s: float) -> float | None:
        """When the next operation begins, perhaps in the past; None: no other one does."""

    def unsent(self) -> list[float]:
        """When those were to begin that nobody has taken."""


class Closed:
    """Each client begins as soon as it is free."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def next(self, now_s: float) -> float | None:
        """Now, while there is time."""
        return now_s if now_s < self._seconds else None

    def unsent(self) -> list[float]:
        """None: nothing was planned."""
        return []


class Open:
    """So many each second, evenly, whatever became of those before."""

    def __init__(self, seconds: float, rate: float) -> None:
        self._seconds = seconds
        self._rate = rate
        # Those whose begin is before the end; a product such as 0.1 * 30 is a little above 3.
        self._planned = math.ceil(round(seconds * rate, 6))
        self._taken = 0

    def next(self, now_s: float) -> float | None:
        """The begin of the next one, also when it should have begun long ago; None when time is over."""
        if self._taken >= self._planned or now_s >= self._seconds:
            return None
        self._taken += 1
        return (self._taken - 1) / self._rate

    def unsent(self) -> list[float]:
        """Those for which no client was free before time was over."""
        return [number / self._rate for number in range(self._taken, self._planned)]
