"""Virtual time: the events of one run, in order, and what was noted of them."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from cyoloctl.errors import CyoloctlError
from cyoloctl.raft.settings import Timing

__all__ = ["HANDOVER", "RIGHT_MS", "UNJUDGED", "Timeline"]

_START_UNIX_MS = 1_767_225_600_000
_TRACED = 400  # events

HANDOVER = "handover"
"""Noted as a disturbance when leadership is handed over: writes wait for that, as they should, for
`Timing.transfer_limit_s` at the most."""

UNJUDGED = "unjudged"
"""Kind of the end of a run of which nothing more is promised: no violation."""

RIGHT_MS = 100
"""A right wall clock differs from the true time by no more than this."""


class Witness(Protocol):
    """Whoever judges what the nodes say of faults; see `Causes`."""

    def ended(self, name: str, error: CyoloctlError) -> None:
        """The disk ended this node's process."""


class Timeline:
    """The clock of a run; everything happens in `run_until`, in order of time.

    now: seconds since the beginning.  counts: how often what happened.  trace:
    the latest events, as time, text and values.  broken: the first invariant
    that broke, as kind and claim.  slept_ms: how much of the time of day the
    monotonic clocks have not seen.  monotonic_faults: some monotonic clock runs
    fast, slow or leaps, and nothing is promised of cluster time.  acting: the
    node whose turn it is, whose log lines these are.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.counts: Counter[str] = Counter()
        self.trace: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=_TRACED)
        self.broken: tuple[str, str] | None = None
        self.slept_ms = 0
        self.monotonic_faults = False
        self.acting = ""
        self.witness: Witness | None = None
        self.led_at: dict[str, float] = {}
        """Node -> when it began to lead last."""
        self._disturbed: dict[object, float] = {}
        self.handing_over_until = 0.0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._number = 0

    # Events.

    def at(self, when: float, call: Callable[[], object]) -> None:
        """Call at a time, but not before now; equal times keep the order of the calls of `at`."""
        self._number += 1
        heapq.heappush(self._events, (when, self._number, call))

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Call after this many seconds."""
        self.at(self.now + seconds, call)

    def run_until(self, when: float) -> None:
        """Let time pass up to a moment, or until an invariant breaks."""
        events = self._events
        while events and events[0][0] <= when and self.broken is None:
            at, _, call = heapq.heappop(events)
            self.now = max(self.now, at)
            call()
        if self.broken is None:
            self.now = max(self.now, when)

    # Peace.

    def disturb(self, what: object, *, for_s: float = 0.0) -> None:
        """Note that a fault of a node (its name) or of a link (both names) begins, ends, or lasts so long."""
        self._disturbed[what] = max(self._disturbed.get(what, 0.0), self.now + for_s)

    def begin_handover(self) -> None:
        """Leadership is being handed over: writes may wait for it as long as that may take."""
        self.disturb(HANDOVER)
        self.handing_over_until = self.now + Timing().transfer_limit_s

    def disturbed_at(self, what: object) -> float:
        """When the latest fault of a node or link began or ended; 0 where there was none."""
        return self._disturbed.get(what, 0.0)

    # The time of day.

    def true_unix_ms(self) -> int:
        """The true time of day."""
        return _START_UNIX_MS + self.slept_ms + int(self.now * 1000)

    def latest_right_unix_ms(self) -> int:
        """The time on the latest of all right wall clocks."""
        return self.true_unix_ms() + RIGHT_MS

    def earliest_right_unix_ms(self) -> int:
        """The time on the earliest of all right wall clocks."""
        return self.true_unix_ms() - RIGHT_MS

    # Notes.

    def count(self, what: str) -> None:
        """Count one more of something."""
        self.counts[what] += 1

    def log(self, text: str, *values: object) -> None:
        """Add an event to the trace; it is formatted only when it is shown."""
        self.trace.append((self.now, text, values))

    def give_up(self, why: str) -> None:
        """End the run without a judgement: nothing is promised from here on."""
        if self.broken is None:
            self.count(why)
            self.broken = (UNJUDGED, why)

    def fail(self, kind: str, claim: str) -> None:
        """Note a broken invariant.  Nothing is raised: the code under test handles some exceptions itself."""
        if self.broken is None:
            self.broken = (kind, claim)
