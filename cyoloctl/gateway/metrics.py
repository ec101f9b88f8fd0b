"""The text of /metrics: requests are counted here, and Prometheus's own library writes the text.

Counting is plain arithmetic, since it is on the path of every request; the
library's counters take eight times as long.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

__all__ = ["Metrics"]

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_ROLES = ("leader", "follower", "candidate", "learner")
_RENDEZVOUS_STATES = ("pending", "claimed", "approved", "denied", "consumed", "expired", "cancelled")

# (name, help, key of the facts); all gauges.
_GAUGES = (
    ("uptime_seconds", "Time since the node started.", "uptime_s"),
    ("raft_is_leader", "Whether this node leads.", "is_leader"),
    ("raft_has_leader", "Whether a leader is known.", "has_leader"),
    ("raft_term", "The Raft term.", "term"),
    ("raft_commit_index", "Last committed log index.", "commit_index"),
    ("raft_applied_index", "Last applied log index.", "applied_index"),
    ("raft_voters", "Members that vote.", "voters"),
    ("raft_peers_reachable", "Other members with a link.", "peers"),
    ("journal_fsync_p99_seconds", "99th percentile of recent fsync calls of the journal.", "fsync_p99_s"),
)


class Metrics:
    """Counts of the gateway, and all of /metrics as Prometheus text (exposition format 0.0.4)."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self.requests[route, status] += 1
        buckets = self._buckets.setdefault(route, [0] * (len(_BUCKETS_S) + 1))
        buckets[bisect_left(_BUCKETS_S, seconds)] += 1
        self._seconds[route] = self._seconds.get(route, 0.0) + seconds

    def text(self, facts: Mapping[str, Any], connections: int) -> str:
        """The page.  facts: see `GatewayNode.facts`."""
        registry = CollectorRegistry()
        registry.register(_Families([*_node(facts), *self._gateway(connections)]))
        return generate_latest(registry).decode("utf-8")

    def _gateway(self, connections: int) -> Iterator[Metric]:
        yield GaugeMetricFamily("cyoloctl_gateway_connections", "Open connections.", connections)
        requests = CounterMetricFamily(
            "cyoloctl_gateway_requests", "Requests by route and status.", labels=["route", "status"]
        )
        for (route, status), count in sorted(self.requests.items()):
            requests.add_metric([route, str(status)], count)
        yield requests
        durations = HistogramMetricFamily(
            "cyoloctl_gateway_request_duration_seconds", "Time to answer a request.", labels=["route"]
        )
        bounds = [*map(str, _BUCKETS_S), "+Inf"]
        for route, buckets in sorted(self._buckets.items()):
            cumulative = zip(bounds, map(float, accumulate(buckets)), strict=True)
            durations.add_metric([route], list(cumulative), self._seconds[route])
        yield durations


class _Families(Collector):
    """Families that were made for one page."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _node(facts: Mapping[str, Any]) -> Iterator[Metric]:
    info = {key: str(facts[key]) for key in ("name", "cluster", "version", "storage")}
    yield InfoMetricFamily("cyoloctl_node", "Always 1; what this node is.", info)
    for name, text, key in _GAUGES:
        yield GaugeMetricFamily(f"cyoloctl_{name}", text, facts[key])
    lag = max(0, facts["commit_index"] - facts["applied_index"])
    yield GaugeMetricFamily(
        "cyoloctl_raft_apply_lag_entries", "Committed entries that are not applied yet.", lag
    )
    role = GaugeMetricFamily("cyoloctl_raft_role", "1 for the role that this node has.", labels=["role"])
    for each in _ROLES:
        role.add_metric([each], each == facts["role"])
    yield role
    tokens = CounterMetricFamily(
        "cyoloctl_tokens", "Session tokens by what was done with them.", labels=["result"]
    )
    for result, count in sorted(facts["tokens"].items()):
        tokens.add_metric([result], count)
    yield tokens
    rendezvous = GaugeMetricFamily(
        "cyoloctl_rendezvous", "Rendezvous by state; those that ended are kept for a day.", labels=["state"]
    )
    for state in _RENDEZVOUS_STATES:
        rendezvous.add_metric([state], facts["rendezvous"].get(state, 0))
    yield rendezvous
