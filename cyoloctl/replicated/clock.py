"""Cluster time as the log says it, and how operators have set it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cyoloctl.errors import Conflict
from cyoloctl.model import NO_STAMP, Stamp
from cyoloctl.replicated.checks import exact, integer, text
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, Malformed, Refused
from cyoloctl.replicated.machine import NO_ROWS, Machine, Operations, Rows
from cyoloctl.text import Json

__all__ = ["LATEST_UNIX_MS", "MAX_HISTORY", "ClockMachine", "TimeSet"]

LATEST_UNIX_MS = MAX_TIME_UNIX_MS // 2
"""Where cluster time stops: whatever ends after it still ends at a time that a record can hold."""

MAX_HISTORY = 100
"""Settings of the time that are remembered; the first ones and the last."""


@dataclass(frozen=True, slots=True)
class TimeSet:
    """Once an operator set the time.  by: the caller's name.  index: of the log entry."""

    epoch: int
    index: int
    from_unix_ms: int
    to_unix_ms: int
    by: str


class ClockMachine(Machine):
    """Operations and their answers:

    ``set {to_unix_ms, epoch, by}`` -> ``{epoch, from_unix_ms, to_unix_ms}``:
    cluster time is to_unix_ms from here on and a new epoch begins.  epoch:
    the present one, so that of two settings at once one wins: conflict.

    Time otherwise moves with the stamps of the entries (`advance`), and never
    goes back within an epoch.
    """

    NAME = "clock"

    def __init__(self) -> None:
        super().__init__(_OPERATIONS)
        self._stamp: Stamp = NO_STAMP
        self._history: tuple[TimeSet, ...] = ()

    @property
    def stamp(self) -> Stamp:
        """The time now.  Neither of its two times is set beyond `LATEST_UNIX_MS`."""
        return self._stamp

    @stamp.setter
    def stamp(self, stamp: Stamp) -> None:
        time_ms, steady_ms = min(stamp.time_unix_ms, LATEST_UNIX_MS), min(stamp.steady_ms, LATEST_UNIX_MS)
        self._stamp = Stamp(stamp.epoch, time_ms, steady_ms)

    def advance(self, stamp: Stamp) -> None:
        """An entry of this stamp is applied."""
        present = self.stamp
        time_ms = present.time_unix_ms
        if stamp.epoch == present.epoch:
            time_ms = max(time_ms, stamp.time_unix_ms)
        # Of another epoch: appended before the entry that set the time was applied.
        steady_ms = max(present.steady_ms, stamp.steady_ms)
        self.stamp = Stamp(present.epoch, time_ms, steady_ms)

    def history(self) -> tuple[TimeSet, ...]:
        """Settings of the time by operators, the oldest first."""
        return self._history

    def _set(self, given: Json, index: int, now_unix_ms: int) -> Json:
        present = self.stamp
        if given["epoch"] != present.epoch:
            raise Refused(Conflict("the time was set meanwhile: look at the status, then set it again"))
        self.stamp = Stamp(present.epoch + 1, given["to_unix_ms"], present.steady_ms)
        done = TimeSet(self.stamp.epoch, index, present.time_unix_ms, self.stamp.time_unix_ms, given["by"])
        kept = (*self._history, done)
        if len(kept) > MAX_HISTORY:
            kept = (*kept[: MAX_HISTORY // 2], *kept[-MAX_HISTORY // 2 :])
        self._history = kept
        return {"epoch": done.epoch, "from_unix_ms": done.from_unix_ms, "to_unix_ms": done.to_unix_ms}

    def export_state(self) -> dict[str, Any]:
        """The state for the snapshot."""
        return {
            "epoch": self.stamp.epoch,
            "time_unix_ms": self.stamp.time_unix_ms,
            "steady_ms": self.stamp.steady_ms,
            "history": [
                [one.epoch, one.index, one.from_unix_ms, one.to_unix_ms, one.by] for one in self._history
            ],
        }

    def prepare_restore(self, state: object, tables: Rows = NO_ROWS) -> Callable[[], None]:
        """Checks an exported state; the returned function puts it in place.  Raises ValueError."""
        top = exact(state, {"epoch", "time_unix_ms", "steady_ms", "history"})
        try:
            stamp = Stamp(_count(top["epoch"]), _time(top["time_unix_ms"]), _count(top["steady_ms"]))
            if type(top["history"]) is not list or len(top["history"]) > MAX_HISTORY:
                raise ValueError("the history of the time is not a list")
            history = tuple(
                TimeSet(_count(epoch), _count(index), _time(before), _time(after), _by(by))
                for epoch, index, before, after, by in top["history"]
            )
        except (Malformed, TypeError):
            raise ValueError("the clock is not valid") from None

        def commit() -> None:
            self.stamp = stamp
            self._history = history

        return commit


_count = integer(0, 2**63 - 1, "the number")
_time = integer(0, MAX_TIME_UNIX_MS, "the time")
_by = text(r"[!-~]{0,80}", "the name of whoever sets the time is invalid: use 80 printable ascii characters")

_OPERATIONS: Operations = {"set": ({"to_unix_ms": _time, "epoch": _count, "by": _by}, ClockMachine._set)}
