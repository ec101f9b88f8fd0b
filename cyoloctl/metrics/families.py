"""The metrics of a node and of its gateway: names, kinds, help and labels (`docs/monitoring.md`).

A name or label that has been in a release stays: dashboards and alerts rest on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from cyoloctl.metrics.counts import Histogram

__all__ = ["GATEWAY", "NODE", "ROLES", "Family", "Figures", "Value", "by"]

#: A number or histogram, or one for each combination of labels; None: not known, so it is left out.
Value: TypeAlias = "float | Histogram | Mapping[tuple[str, ...], float] | Mapping[tuple[str, ...], Histogram]"
#: Values by the name of their family.
Figures: TypeAlias = "Mapping[str, Value | None]"

#: Every role has a sample: 1 for the present one, 0 for the others.
ROLES = ("leader", "follower", "candidate", "learner")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.  name: without `cyoloctl_`, and without `_total`, which the text adds to a counter."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def shown_name(self) -> str:
        """The name in the text and in queries; that of a histogram has `_bucket`, `_sum` and `_count`."""
        return f"cyoloctl_{self.name}" + ("_total" if self.kind == "counter" else "")


def by(values: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    """Values by their one label, in its order."""
    return {(name,): value for name, value in sorted(values.items())}


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family(name, "gauge", text, labels)


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(name, "counter", text, labels)


def _histogram(name: str, text: str, *labels: str) -> Family:
    return Family(name, "histogram", text, labels)


_ROUTE = ("method", "route", "kind")

NODE = (
    _gauge("node_info", "Always 1; what this node is.", "name", "cluster", "version", "storage"),
    _gauge("uptime_seconds", "Time since the node started."),
    # The cluster
    _gauge("cluster_healthy", "1 when a leader is known, and every member is up, linked and up to date."),
    _gauge("cluster_failure_tolerance", "Voters that may fail now before writes stop."),
    _gauge("cluster_quorum", "Voters that a write needs."),
    _gauge("cluster_problems", "Problems that `status` shows, by code; none has no sample.", "code"),
    _gauge("cluster_time_ahead_seconds", "How far cluster time is ahead of what a majority's clocks show."),
    _gauge("member_reachable", "1 while this node has a link with the member, and for itself.", "member"),
    _gauge("member_lag_entries", "Committed entries that the member has not applied.", "member"),
    _gauge("member_clock_skew_seconds", "How far the member's clock is ahead of cluster time.", "member"),
    _gauge(
        "member_certificate_expires_timestamp_seconds",
        "When the member's certificate ends, in Unix seconds.",
        "member",
    ),
    _gauge(
        "ca_certificate_expires_timestamp_seconds",
        "When the CA's certificate ends, in Unix seconds, by its hash.",
        "sha256",
    ),
    _gauge(
        "credentials_expire_timestamp_seconds",
        "When the first of the credentials of a role that still count ends, in Unix seconds.",
        "role",
    ),
    # Raft
    _gauge("raft_is_leader", "Whether this node leads."),
    _gauge("raft_has_leader", "Whether a leader is known."),
    _gauge("raft_role", "1 for the role that this node has.", "role"),
    _gauge("raft_term", "The Raft term."),
    _gauge("raft_commit_index", "Last committed log index."),
    _gauge("raft_applied_index", "Last applied log index."),
    _gauge("raft_apply_lag_entries", "Committed entries that are not applied yet."),
    _gauge("raft_log_entries", "Entries in the log, since the last snapshot and some before it."),
    _gauge("raft_voters", "Members that vote."),
    _gauge("raft_peers_reachable", "Other members with a link."),
    _gauge(
        "raft_peer_behind_entries",
        "Entries of the log that a peer lacks; told by the leader.",
        "peer",
    ),
    _counter("raft_elections", "Elections in which this node stood."),
    _counter("raft_leader_changes", "Times that a leader followed another, or itself in a later term."),
    _histogram(
        "commit_duration_seconds",
        "Time until a write through this node was applied, by whichever leader.",
    ),
    # The disk
    _histogram("journal_sync_duration_seconds", "Time of a sync of the journal."),
    _gauge("journal_fsync_p99_seconds", "99th percentile of recent fsync calls of the journal."),
    _gauge("snapshot_bytes", "Size of the newest snapshot."),
    _gauge("disk_free_bytes", "Space left on the file system of the data directory."),
    _gauge("disk_total_bytes", "Size of the file system of the data directory."),
    _gauge("disk_reserve_bytes", "Free space below which the node takes no new writes."),
    # The state
    _gauge("state_entries", "What the replicated state holds, by kind.", "kind"),
    _gauge("machine_rows", "Rows of each state machine of yours.", "machine"),
    _gauge("kv_bytes", "Bytes of keys and values that count for the quota."),
    _gauge("kv_quota_bytes", "The quota of keys and values."),
    _counter("tokens", "Session tokens by what was done with them.", "result"),
    _gauge("rendezvous", "Rendezvous by state; those that ended are kept for a day.", "state"),
    # The API
    _counter("api_requests", "Requests by route and status; kind is read or write.", *_ROUTE, "status"),
    _histogram(
        "api_request_duration_seconds",
        "Time to answer a request; watches do not count.",
        *_ROUTE,
    ),
    _gauge(
        "api_connections",
        "Open connections of the API: network, or control socket.",
        "listener",
    ),
    _gauge("api_open_watches", "Watches and long polls that are open."),
)

GATEWAY = (
    _gauge("gateway_connections", "Open connections."),
    _counter("gateway_requests", "Requests by route and status.", "route", "status"),
    _histogram("gateway_request_duration_seconds", "Time to answer a request.", "route"),
)
