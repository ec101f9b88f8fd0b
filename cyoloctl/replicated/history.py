"""Breaks in a cluster's history: when its state went on in another log than the one that everybody had.

An index means the same entry to everybody only within one epoch.  A new one
begins where an operator made one disk the cluster (``cluster recover``), or
began a new cluster with an old state (``cluster init --from-snapshot``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

from cyoloctl.errors import Conflict
from cyoloctl.replicated.checks import exact, integer, member_name, text
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, Malformed, Refused
from cyoloctl.replicated.machine import NO_ROWS, Machine, Operations, Rows
from cyoloctl.text import Json

__all__ = ["MAX_BREAKS", "MAX_LOST", "Break", "HistoryMachine"]

MAX_BREAKS = 100
"""Breaks that are remembered; the first ones and the last."""

MAX_LOST = 10_000
"""Members that one break may leave behind."""

Kind = Literal["recovered", "restored"]


@dataclass(frozen=True, slots=True)
class Break:
    """One break.

    epoch: the one that it began.  kind: ``recovered`` or ``restored``.  index,
    time_unix_ms: of its entry.  by: the node that went on.  lost: members that
    were left behind, and never belong to it again.  cluster_id: of the log
    that went before.
    """

    epoch: int
    kind: Kind
    index: int
    time_unix_ms: int
    by: str
    lost: tuple[str, ...]
    cluster_id: str


class HistoryMachine(Machine):
    """Operations and their answers:

    ``replace {kind, epoch, by, lost, cluster_id}`` -> the same, with the new
    epoch: the history breaks here.  epoch: the present one.  conflict for
    another.  Only what works on the files of a stopped node writes it.
    """

    NAME = "history"
    PROPOSERS: ClassVar[dict[str, str]] = {"replace": "nobody"}

    def __init__(self) -> None:
        super().__init__(_OPERATIONS)
        self._breaks: tuple[Break, ...] = ()

    @property
    def epoch(self) -> int:
        """The present epoch; 1 in a cluster whose history never broke."""
        return self._breaks[-1].epoch if self._breaks else 1

    def breaks(self) -> tuple[Break, ...]:
        """All that are remembered, the oldest first."""
        return self._breaks

    def left_behind(self, name: str) -> bool:
        """Whether a recovery left a node of this name behind: it may still live in the old history."""
        return any(name in one.lost for one in self._breaks if one.kind == "recovered")

    def is_new(self) -> bool:
        """See Machine."""
        return not self._breaks

    def _replace(self, given: Json, index: int, now_unix_ms: int) -> Json:
        if given["epoch"] != self.epoch:
            raise Refused(Conflict("the history broke meanwhile: look at the status first"))
        done = Break(
            self.epoch + 1,
            given["kind"],
            index,
            now_unix_ms,
            given["by"],
            given["lost"],
            given["cluster_id"],
        )
        kept = (*self._breaks, done)
        if len(kept) > MAX_BREAKS:
            kept = (*kept[: MAX_BREAKS // 2], *kept[-MAX_BREAKS // 2 :])
        self._breaks = kept
        return {**given, "epoch": done.epoch, "lost": list(done.lost)}

    def export_state(self) -> dict[str, Any]:
        """The state for the snapshot."""
        return {
            "breaks": [
                [one.epoch, one.kind, one.index, one.time_unix_ms, one.by, list(one.lost), one.cluster_id]
                for one in self._breaks
            ]
        }

    def prepare_restore(self, state: object, tables: Rows = NO_ROWS) -> Callable[[], None]:
        """Checks an exported state; the returned function puts it in place.  Raises ValueError."""
        listed = exact(state, {"breaks"})["breaks"]
        try:
            if type(listed) is not list or len(listed) > MAX_BREAKS:
                raise ValueError("the history is not a list")
            breaks = tuple(
                Break(
                    _epoch(epoch), _kind(kind), _count(index), _time(time), _by(by), _lost(lost), _id(before)
                )
                for epoch, kind, index, time, by, lost, before in listed
            )
        except (Malformed, TypeError):
            raise ValueError("the history is not valid") from None
        if any(later.epoch <= earlier.epoch for earlier, later in pairwise(breaks)):
            raise ValueError("the history is out of order")

        def commit() -> None:
            self._breaks = breaks

        return commit


_count = integer(0, 2**63 - 1, "the number")
_epoch = integer(1, 2**53, "the epoch")
_time = integer(0, MAX_TIME_UNIX_MS, "the time")
_by = member_name
_id = text(r"[0-9a-f]{32}", "the cluster id is not valid: use 32 hexadecimal digits")
_kind = text(r"recovered|restored", "the kind of break is not valid: use recovered or restored")


def _lost(value: object) -> tuple[str, ...]:
    """Names, in order, none twice."""
    if type(value) is not list or len(value) > MAX_LOST:
        raise Malformed(f"the members left behind are not valid: use a list of at most {MAX_LOST} names")
    names = [member_name(name) for name in value]
    if names != sorted(set(names)):
        raise Malformed("the members left behind are not valid: use names in order, none twice")
    return tuple(names)


_OPERATIONS: Operations = {
    "replace": (
        {"kind": _kind, "epoch": _epoch, "by": _by, "lost": _lost, "cluster_id": _id},
        HistoryMachine._replace,
    )
}
