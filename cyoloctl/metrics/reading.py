"""Reading a node's metrics again: what it did between two pages.  Sans-io, without a clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from cyoloctl.errors import InvalidInput

__all__ = ["Buckets", "Doing", "Scrape", "doing", "grown", "quantile"]

#: Upper bounds of a histogram, with how many are at or below each.
Buckets = list[tuple[float, float]]

#: Asked by whoever looks at a node, so no work that it does for anybody.
_LOOKING = frozenset({"/metrics", "/v1/status", "/v1/health", "/v1/openapi.json"})


class Scrape:
    """The samples of one page.  Raises InvalidInput for what is no such page."""

    def __init__(self, text: str) -> None:
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    self._samples.setdefault(sample.name, []).append((sample.labels, sample.value))
        except ValueError as error:
            raise InvalidInput(f"the metrics cannot be read: {error}") from None

    def total(self, name: str, wanted: Callable[[dict[str, str]], bool] = lambda labels: True) -> float:
        """The sum of a metric's samples whose labels are wanted; 0 without any."""
        return sum(value for labels, value in self._samples.get(name, ()) if wanted(labels))

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """The samples of a metric by their one label."""
        return {labels[label]: value for labels, value in self._samples.get(name, ())}

    def buckets(self, name: str) -> Buckets:
        """Upper bounds of a histogram without labels of its own, with how many are at or below each."""
        found = ((float(labels["le"]), value) for labels, value in self._samples.get(f"{name}_bucket", ()))
        return sorted(found)

    def label(self, name: str, label: str) -> str | None:
        """A label of a metric that has one sample, as those have that say what a node is."""
        found = self._samples.get(name)
        return None if found is None else found[0][0].get(label)


@dataclass(frozen=True, slots=True)
class Doing:
    """What a node did in a while.  Milliseconds are None where nothing was measured in it."""

    writes_per_s: float
    reads_per_s: float
    commit_p50_ms: float | None
    commit_p99_ms: float | None
    sync_p99_ms: float | None


def quantile(share: float, buckets: Sequence[tuple[float, float]]) -> float | None:
    """The value below which a share (0 to 1) of a histogram lies, as Prometheus's histogram_quantile has it.

    Within a bucket it is interpolated; past the last bound it is that bound.  None for an empty histogram.
    """
    if not buckets or buckets[-1][1] <= 0:
        return None
    wanted = share * buckets[-1][1]
    low = below = 0.0
    for bound, count in buckets:
        if count >= wanted:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound, count
    return low


def grown(name: str, before: Scrape, after: Scrape) -> Buckets:
    """What came into a histogram between two pages of a node; all of it where the node began anew."""
    earlier = {} if _began_anew(before, after) else dict(before.buckets(name))
    return [(bound, count - earlier.get(bound, 0.0)) for bound, count in after.buckets(name)]


def _began_anew(before: Scrape, after: Scrape) -> bool:
    started = "process_start_time_seconds"
    return before.total(started) != after.total(started)


def doing(before: Scrape, after: Scrape, elapsed_s: float) -> Doing:
    """What a node did between two pages, elapsed_s (above 0) apart; all of it where it began anew."""
    earlier = Scrape("") if _began_anew(before, after) else before

    def grew(name: str, wanted: Callable[[dict[str, str]], bool] = lambda labels: True) -> float:
        return max(0.0, after.total(name, wanted) - earlier.total(name, wanted))

    def passed_ms(share: float, name: str) -> float | None:
        found = quantile(share, grown(name, before, after))
        return None if found is None else found * 1000

    commits = "cyoloctl_commit_duration_seconds"
    return Doing(
        writes_per_s=grew(f"{commits}_count") / elapsed_s,
        reads_per_s=grew(
            "cyoloctl_api_requests_total",
            lambda labels: labels["kind"] == "read" and labels["route"] not in _LOOKING,
        )
        / elapsed_s,
        commit_p50_ms=passed_ms(0.5, commits),
        commit_p99_ms=passed_ms(0.99, commits),
        sync_p99_ms=passed_ms(0.99, "cyoloctl_journal_sync_duration_seconds"),
    )
