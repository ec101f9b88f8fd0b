"""Disks of the voters, and when leadership is worth moving to a better one.  Pure.

A leader syncs its own disk between reading two acknowledgements, so a slow
disk slows every write while it leads, and none while it follows: a majority of
the others is enough.  Every node tells once a second how long its syncs take
at present (`SyncTimes`).  A leader whose disk takes `SLOW_MS` or more, and
`TIMES` as long as that of another voter, hands leadership to the fastest:

- when that has lasted for `LASTING_S` without a break;
- when the other voter reaches the same members, or more (`vantage.py`), so
  that leadership never comes back for their sake;
- not soon after leadership was moved before: see `PAUSE_S`.

Where all disks are slow, none is `TIMES` as fast as another, and nothing moves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

__all__ = ["LASTING_S", "PAUSE_S", "SLOW_MS", "DiskChoice", "DiskState", "SyncTimes", "disk_told"]

SLOW_MS = 25.0
"""Syncs that take no longer are no reason to move: old disks that turn need half of it."""

TIMES = 4.0
"""A disk is faster when its syncs take no more than this part of the leader's."""

LASTING_S = 2.5
"""So long a leader's disk must have been slower without a break."""

PAUSE_S = 10.0
"""After leadership was moved it stays for so long."""

_RECENT_S = 30.0
_RECENT = 32
_FEWEST = 5


@dataclass(frozen=True, slots=True)
class DiskState:
    """What a node tells of its disk.  sync_ms: see `SyncTimes`."""

    sync_ms: float | None = None


def disk_told(facts: Mapping[str, Any]) -> DiskState:
    """What a peer tells of its disk.  It may be anything: what cannot be is not known."""
    sync_ms: Any = facts.get("sync_ms")
    if type(sync_ms) not in (int, float) or not 0 <= sync_ms < 1e9:  # so not NaN either
        return DiskState()
    return DiskState(float(sync_ms))


class SyncTimes:
    """How long the syncs of one disk take at present."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)

    def observe(self, now: float, took_s: float) -> None:
        """A sync ended.  now: seconds, monotonic."""
        self._recent.append((now, took_s))

    def typical_ms(self, now: float) -> float | None:
        """The median of the last syncs in milliseconds; None when too few were made lately to tell."""
        taken = [took_s for at, took_s in self._recent if now - at <= _RECENT_S]
        return median(taken) * 1000.0 if len(taken) >= _FEWEST else None


class DiskChoice:
    """What one leader has seen of faster disks."""

    def __init__(self) -> None:
        self._faster_since: dict[str, float] = {}

    def leads(self) -> None:
        """This node begins to lead: what it saw before counts no longer."""
        self._faster_since.clear()

    def better_disk(
        self,
        now: float,
        own: DiskState,
        others: Mapping[str, DiskState],
        may_lead: Callable[[str], bool],
        *,
        waited_s: float,
    ) -> str | None:
        """The voter to hand leadership to now; None: it stays.

        others: of the other voters that answer, by name.  may_lead: whether
        one holds nearly all of the leader's log and reaches as much.
        waited_s: since leadership was moved last.
        """
        faster: dict[str, float] = {}
        if own.sync_ms is not None and own.sync_ms >= SLOW_MS:
            faster = {
                name: disk.sync_ms
                for name, disk in sorted(others.items())
                if disk.sync_ms is not None and disk.sync_ms * TIMES <= own.sync_ms
            }
        self._faster_since = {name: self._faster_since.get(name, now) for name in faster}
        ready = [
            name
            for name in faster
            if now - self._faster_since[name] >= LASTING_S and waited_s >= PAUSE_S and may_lead(name)
        ]
        return min(ready, key=faster.__getitem__, default=None)
