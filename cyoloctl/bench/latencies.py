"""How long operations took: percentiles and a histogram, in memory that does not grow with their number."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

__all__ = ["Bar", "Latencies"]

# A latency keeps so many of its leading binary digits: it is off by less than 0.1 %.
_DIGITS = 11
# Ends of bars in a decade, the finest first; preferred numbers (ISO 3), so that bars look equally wide.
_SERIES = (
    (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0),
    (1.0, 1.6, 2.5, 4.0, 6.3),
    (1.0, 2.0, 5.0),
    (1.0,),
)
_MOST_BARS = 16


@dataclass(frozen=True, slots=True)
class Bar:
    """How many latencies were at most up_to_ms, and longer than the bar before."""

    up_to_ms: float
    count: int


class Latencies:
    """Latencies of any number of operations."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._max_us = 0
        self.count = 0

    def add(self, seconds: float) -> None:
        """Add one.  A negative one counts as 0, a clock's rounding."""
        us = max(0, round(seconds * 1_000_000))
        dropped = max(0, us.bit_length() - _DIGITS)
        # The end of its cell, not the beginning: rounding never makes a cluster look faster.
        cell = (((us >> dropped) + 1) << dropped) - 1
        self._counts[cell] = self._counts.get(cell, 0) + 1
        self._max_us = max(self._max_us, us)
        self.count += 1

    @property
    def max_ms(self) -> float | None:
        """The longest, None without any."""
        return self._max_us / 1000 if self.count else None

    def percentile_ms(self, percent: float) -> float | None:
        """The shortest latency that percent (above 0, at most 100) of all do not exceed; None without any.

        By nearest rank: one of those that were added, rounded up by less than 0.1 %.
        """
        # In thousandths of a percent, which are whole numbers: 99.9 % of 1,000 are 999, not 1,000.
        rank = -(-round(percent * 1000) * self.count // 100_000)
        seen = 0
        for cell in sorted(self._counts):
            seen += self._counts[cell]
            if seen >= rank:
                return min(cell, self._max_us) / 1000
        return None

    def bars(self) -> list[Bar]:
        """The histogram, the shortest first: at most sixteen bars over what was found, empty ones within.

        The ends are on a logarithmic scale: latencies spread over powers of ten.
        """
        if not self.count:
            return []
        low, high = min(*self._counts, self._max_us), self._max_us
        for series in _SERIES:
            ends = _ends(series, max(1, low), max(1, high))
            if len(ends) <= _MOST_BARS:
                break
        counts = [0] * len(ends)
        for cell, count in self._counts.items():
            counts[bisect_left(ends, min(cell, self._max_us))] += count
        return [Bar(end / 1000, count) for end, count in zip(ends, counts, strict=True)]


def _ends(series: tuple[float, ...], low: int, high: int) -> list[float]:
    """The ends of bars from the first that is not below low to the first that is not below high."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 2)
    ends = [round(step * 10**decade, 2) for decade in decades for step in series]
    return ends[bisect_left(ends, low) : bisect_left(ends, high) + 1]
