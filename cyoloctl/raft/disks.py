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

A disk that is nearly full takes no new entries, so that votes find room on it
for as long as it may take.  A leader with such a disk hands leadership over at
once to a voter that has room; where that fails, to another one.  Where no
majority has room, the leader refuses what is new, and says whose disk it is
(`lack_of_room`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from cyoloctl.model import majority

__all__ = [
    "LASTING_S",
    "PAUSE_S",
    "SLOW_MS",
    "DiskChoice",
    "DiskState",
    "SyncTimes",
    "disk_told",
    "lack_of_room",
]

SLOW_MS = 25.0
"""Syncs that take no longer are no reason to move: old disks that turn need half of it."""

TIMES = 4.0
"""A disk is faster when its syncs take no more than this part of the leader's."""

LASTING_S = 2.5
"""So long a leader's disk must have been slower without a break."""

PAUSE_S = 10.0
"""After leadership was moved it stays for so long."""

SHORT_PAUSE_S = 2.0
"""The same between two attempts to leave a disk without room for that of the same voter."""

_RECENT_S = 30.0
_RECENT = 32
_FEWEST = 5
_LOOK_EVERY = 8


@dataclass(frozen=True, slots=True)
class DiskState:
    """What a node tells of its disk.

    sync_ms: see `SyncTimes`.  is_short: it takes no new entries.  free_bytes:
    None where that is not known.
    """

    sync_ms: float | None = None
    is_short: bool = False
    free_bytes: int | None = None


def disk_told(facts: Mapping[str, Any]) -> DiskState:
    """What a peer tells of its disk.  It may be anything: what cannot be is not known."""
    sync_ms: Any = facts.get("sync_ms")
    if type(sync_ms) not in (int, float) or not 0 <= sync_ms < 1e9:  # so not NaN either
        sync_ms = None
    free: Any = facts.get("disk_free_bytes")
    return DiskState(
        None if sync_ms is None else float(sync_ms),
        facts.get("disk_short") is True,
        free if type(free) is int and 0 <= free < 2**63 else None,
    )


def lack_of_room(
    me: str, own: DiskState, others: Mapping[str, DiskState], connected: Collection[str], voters: int
) -> str | None:
    """Why this leader takes no new commands; None: it does.

    others: what the other voters tell, by name.  connected: those of them that
    there is a link with.  voters: how many there are.
    """
    short = {name: disk for name, disk in others.items() if disk.is_short and name in connected}
    roomy = len(set(connected) - short.keys()) + (not own.is_short)
    if not own.is_short and (not short or roomy >= majority(voters)):
        return None
    named = {me: own, **short} if own.is_short else short
    left = " and ".join(f"the disk of {name} {_left(disk)}" for name, disk in sorted(named.items()))
    return f"{left}, too little for new writes: make space there, then repeat the command"


def _left(disk: DiskState) -> str:
    if not disk.free_bytes:
        return "is full"
    free = disk.free_bytes
    return f"has {free // 2**20} MiB left" if free >= 2**20 else f"has {free // 2**10} KiB left"


class SyncTimes:
    """How long the syncs of one disk take at present."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        self._count = 0
        self.lately_ms = 0.0
        """`typical_ms` when some syncs ago it was looked at, which costs more than a sync should."""

    def observe(self, now: float, took_s: float) -> None:
        """A sync ended.  now: seconds, monotonic."""
        self._recent.append((now, took_s))
        self._count += 1
        if self._count % _LOOK_EVERY == 0:
            typical_ms = self.typical_ms(now)
            self.lately_ms = self.lately_ms if typical_ms is None else typical_ms

    def typical_ms(self, now: float) -> float | None:
        """The median of the last syncs in milliseconds; None when too few were made lately to tell."""
        taken = [took_s for at, took_s in self._recent if now - at <= _RECENT_S]
        return median(taken) * 1000.0 if len(taken) >= _FEWEST else None


class DiskChoice:
    """What one leader has seen of faster disks."""

    def __init__(self) -> None:
        self._faster_since: dict[str, float] = {}
        self._left_for: dict[str, float] = {}  # because of room: a voter -> when it was to lead last

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
        if own.is_short:
            return self._roomy(now, others, may_lead)
        faster: dict[str, float] = {}
        if own.sync_ms is not None and own.sync_ms >= SLOW_MS:
            faster = {
                name: disk.sync_ms
                for name, disk in sorted(others.items())
                if disk.sync_ms is not None and disk.sync_ms * TIMES <= own.sync_ms
                if not disk.is_short
            }
        self._faster_since = {name: self._faster_since.get(name, now) for name in faster}
        ready = [
            name
            for name in faster
            if now - self._faster_since[name] >= LASTING_S and waited_s >= PAUSE_S and may_lead(name)
        ]
        return min(ready, key=faster.__getitem__, default=None)

    def _roomy(
        self, now: float, others: Mapping[str, DiskState], may_lead: Callable[[str], bool]
    ) -> str | None:
        """A voter that has room: nothing is written until it leads, and one that fails holds up no other."""
        self._left_for = {name: at for name, at in self._left_for.items() if now - at < SHORT_PAUSE_S}
        ready = [
            name
            for name, disk in sorted(others.items())
            if not disk.is_short and name not in self._left_for and may_lead(name)
        ]
        if not ready:
            return None
        chosen = min(ready, key=lambda name: others[name].sync_ms or 0.0)
        self._left_for[chosen] = now
        return chosen
