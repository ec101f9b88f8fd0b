"""Counting on hot paths: plain arithmetic, an eighth of what the counters of Prometheus's library take.

Sans-io and without a clock: who counts has measured.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

__all__ = ["REQUEST_BOUNDS_S", "SYNC_BOUNDS_S", "Histogram", "Requests"]

#: Upper bounds of the buckets, in seconds: of answers to requests.
REQUEST_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
#: The same of syncs and commits, which take a fraction of a millisecond on a good disk.
SYNC_BOUNDS_S = (0.0001, 0.00025, 0.0005, *REQUEST_BOUNDS_S)


class Histogram:
    """Durations by bucket.

    bounds: upper bounds of the buckets in seconds, ascending; what is longer is in one more.
    counts: of each bucket alone.  sum_s: of all durations.
    """

    __slots__ = ("bounds", "counts", "sum_s")

    def __init__(self, bounds: Sequence[float] = SYNC_BOUNDS_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum_s += seconds


class _Route:
    __slots__ = ("durations", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.durations: Histogram | None = None


class Requests:
    """Requests by route and status, with the time to answer them by route; labels: what names a route."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, ...], _Route] = {}

    def observe(self, labels: tuple[str, ...], status: int, seconds: float | None) -> None:
        """Count a request that was answered; seconds: None where the time says nothing, as for a watch."""
        route = self._routes.get(labels)
        if route is None:
            route = self._routes[labels] = _Route()
        route.statuses[status] = route.statuses.get(status, 0) + 1
        if seconds is not None:
            if route.durations is None:
                route.durations = Histogram(REQUEST_BOUNDS_S)
            route.durations.observe(seconds)

    def counts(self) -> dict[tuple[str, ...], float]:
        """The numbers by labels and status."""
        return dict(sorted(self._counts()))

    def _counts(self) -> Iterator[tuple[tuple[str, ...], int]]:
        for labels, route in self._routes.items():
            for status, count in route.statuses.items():
                yield (*labels, str(status)), count

    def durations(self) -> dict[tuple[str, ...], Histogram]:
        """The times by labels."""
        found = sorted(self._routes.items())
        return {labels: route.durations for labels, route in found if route.durations is not None}
