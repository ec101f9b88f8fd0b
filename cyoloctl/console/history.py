"""What a cluster did in the last hour, as the console saw it.  Bounded; no clock, no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from cyoloctl.metrics.reading import Buckets, Scrape, doing, grown, quantile

__all__ = [
    "KEEP_S",
    "MOST_MARKS",
    "MOST_POINTS",
    "POINT_S",
    "Between",
    "Figures",
    "History",
    "State",
    "figures",
]

#: How long a point is kept, and how far two are apart: 720 of them at most.
KEEP_S = 3600.0
POINT_S = 5.0
MOST_POINTS = round(KEEP_S / POINT_S)
#: A cluster whose leader changes more often than once per 18 seconds shows the latest of its changes.
MOST_MARKS = 200

_COMMITS = "cyoloctl_commit_duration_seconds"

State: TypeAlias = Literal["led", "leaderless", "silent"]
"""Whether a leader was known; silent: no node answered."""


class Between(NamedTuple):
    """Two pages of one node's metrics, elapsed_s (above 0) apart.  own_reads: those of the console itself."""

    before: Scrape
    after: Scrape
    elapsed_s: float
    own_reads: int


class Figures(NamedTuple):
    """What all nodes did.  None where nothing was measured."""

    writes_per_s: float | None
    reads_per_s: float | None
    commit_p50_ms: float | None
    commit_p99_ms: float | None
    sync_p99_ms: float | None


_NOTHING = Figures(None, None, None, None, None)


def figures(nodes: Iterable[Between]) -> Figures:
    """The cluster's figures: rates add up, commits are those through any node, the slowest disk's sync.

    What the console asked itself is no read.
    """
    pairs = list(nodes)
    if not pairs:
        return _NOTHING
    did = [doing(each.before, each.after, each.elapsed_s) for each in pairs]
    own = [each.own_reads / each.elapsed_s for each in pairs]
    commits = _added(grown(_COMMITS, each.before, each.after) for each in pairs)
    syncs = [one.sync_p99_ms for one in did if one.sync_p99_ms is not None]
    return Figures(
        round(sum(one.writes_per_s for one in did), 2),
        round(sum(max(0.0, one.reads_per_s - asked) for one, asked in zip(did, own, strict=True)), 2),
        _ms(quantile(0.5, commits)),
        _ms(quantile(0.99, commits)),
        round(max(syncs), 2) if syncs else None,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def _added(histograms: Iterable[Buckets]) -> Buckets:
    """Several histograms as one."""
    total: dict[float, float] = {}
    for buckets in histograms:
        for bound, count in buckets:
            total[bound] = total.get(bound, 0.0) + max(0.0, count)
    return sorted(total.items())


@dataclass(frozen=True, slots=True)
class _Point:
    at_unix_s: float
    state: State
    figures: Figures


@dataclass(frozen=True, slots=True)
class _Mark:
    at_unix_s: float
    leader: str
    term: int


class History:
    """Points and changes of leader of the last hour, at most `MOST_POINTS` and `MOST_MARKS`.

    since_unix_s: when the console began to look.
    """

    def __init__(self, since_unix_s: float) -> None:
        self.since_unix_s = since_unix_s
        self._points: deque[_Point] = deque(maxlen=MOST_POINTS)
        self._marks: deque[_Mark] = deque(maxlen=MOST_MARKS)
        self._led: tuple[str, int] | None = None

    def add(self, at_unix_s: float, state: State, shown: Figures = _NOTHING) -> None:
        """A point, later than those before."""
        self._points.append(_Point(at_unix_s, state, shown))

    def led_by(self, at_unix_s: float, leader: str | None, term: int) -> None:
        """Note who leads.  The first leader that is seen is no change, and none is a gap between two."""
        if leader is None or (leader, term) == self._led:
            return
        if self._led is not None:
            self._marks.append(_Mark(at_unix_s, leader, term))
        self._led = (leader, term)

    def points(self, now_unix_s: float) -> Iterator[tuple[float | str | None, ...]]:
        """The points of the last hour: time, state, and the figures in their order."""
        for each in self._points:
            if now_unix_s - each.at_unix_s <= KEEP_S:
                yield (round(each.at_unix_s, 1), each.state, *each.figures)

    def marks(self, now_unix_s: float) -> Iterator[dict[str, float | str | int]]:
        """The changes of leader in the last hour."""
        for each in self._marks:
            if now_unix_s - each.at_unix_s <= KEEP_S:
                yield {"at_unix_s": round(each.at_unix_s, 1), "leader": each.leader, "term": each.term}
