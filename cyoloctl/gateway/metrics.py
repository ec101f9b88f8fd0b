"""The text of /metrics, by the exposition format 0.0.4 of Prometheus.  Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Metrics"]

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Counts of the gateway, and all of /metrics as Prometheus text (exposition format 0.0.4)."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}

    def observe(self, route: str, status: int, seconds: float) -> None:
        self.requests[route, status] += 1
        buckets = self._buckets.setdefault(route, [0] * (len(_BUCKETS_S) + 1))
        buckets[bisect_left(_BUCKETS_S, seconds)] += 1
        self._seconds[route] = self._seconds.get(route, 0.0) + seconds

    def text(self, facts: Mapping[str, Any], connections: int) -> str:
        lines: list[str] = []

        def family(name: str, kind: str, help: str, samples: Iterable[tuple[str, float]]) -> None:
            lines.append(f"# HELP cyoloctl_{name} {help}")
            lines.append(f"# TYPE cyoloctl_{name} {kind}")
            lines.extend(f"cyoloctl_{name}{suffix} {value:.10g}" for suffix, value in samples)

        info = {key: facts[key] for key in ("name", "cluster", "version", "storage")}
        # Names of the contract: lower case letters, digits, dashes and dots, nothing to escape.
        labels = ",".join(f'{key}="{value}"' for key, value in info.items())
        family("node_info", "gauge", "Always 1; what this node is.", [(f"{{{labels}}}", 1)])
        family("uptime_seconds", "gauge", "Time since the node started.", [("", facts["uptime_s"])])
        family(
            "raft_role",
            "gauge",
            "1 for the role that this node has.",
            [
                (f'{{role="{role}"}}', role == facts["role"])
                for role in ("leader", "follower", "candidate", "learner")
            ],
        )
        family("raft_is_leader", "gauge", "Whether this node leads.", [("", facts["is_leader"])])
        family("raft_has_leader", "gauge", "Whether a leader is known.", [("", facts["has_leader"])])
        family("raft_term", "gauge", "The Raft term.", [("", facts["term"])])
        family("raft_commit_index", "gauge", "Last committed log index.", [("", facts["commit_index"])])
        family("raft_applied_index", "gauge", "Last applied log index.", [("", facts["applied_index"])])
        lag = max(0, facts["commit_index"] - facts["applied_index"])
        family("raft_apply_lag_entries", "gauge", "Committed entries that are not applied yet.", [("", lag)])
        family("raft_voters", "gauge", "Members that vote.", [("", facts["voters"])])
        family("raft_peers_reachable", "gauge", "Other members with a session.", [("", facts["peers"])])
        family(
            "journal_fsync_p99_seconds",
            "gauge",
            "99th percentile of recent fsync calls of the journal.",
            [("", facts["fsync_p99_s"])],
        )
        family(
            "tokens_total",
            "counter",
            "Session tokens by what was done with them.",
            [(f'{{result="{result}"}}', count) for result, count in sorted(facts["tokens"].items())],
        )
        family(
            "rendezvous",
            "gauge",
            "Rendezvous by state; those that ended are kept for a day.",
            [
                (f'{{state="{state}"}}', facts["rendezvous"].get(state, 0))
                for state in ("pending", "claimed", "approved", "denied", "consumed", "expired", "cancelled")
            ],
        )
        family("gateway_connections", "gauge", "Open connections.", [("", connections)])
        family(
            "gateway_requests_total",
            "counter",
            "Requests by route and status.",
            [
                (f'{{route="{route}",status="{status}"}}', count)
                for (route, status), count in sorted(self.requests.items())
            ],
        )
        histogram: list[tuple[str, float]] = []
        for route, buckets in sorted(self._buckets.items()):
            total = 0
            for bound, count in zip((*map(str, _BUCKETS_S), "+Inf"), buckets, strict=True):
                total += count
                histogram.append((f'_bucket{{route="{route}",le="{bound}"}}', total))
            histogram.append((f'_sum{{route="{route}"}}', self._seconds[route]))
            histogram.append((f'_count{{route="{route}"}}', total))
        family("gateway_request_duration_seconds", "histogram", "Time to answer a request.", histogram)
        return "\n".join(lines) + "\n"
