"""The Grafana dashboard (monitoring/grafana-dashboard.json), panel by panel; `make generate` writes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["PANELS", "Panel", "dashboard"]

_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_JOB = '{job="$job"}'


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    queries: (PromQL, legend), where JOB stands for the selector of the cluster.  kind: of Grafana's panels.
    warn, bad: from where on it is yellow and red; with falls, below which.
    """

    title: str
    about: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    warn: float | None = None
    bad: float | None = None
    falls: bool = False

    def shown_queries(self) -> tuple[tuple[str, str], ...]:
        """The queries as Grafana sends them, once it has put in its own variables."""
        return tuple((query.replace("JOB", _JOB), legend) for query, legend in self.queries)


def _quantile(share: float, histogram: str, by: str) -> str:
    return f"histogram_quantile({share:g}, sum by ({by}) (rate({histogram}_bucketJOB[$__rate_interval])))"


_FIRST_END = "min by (member) (cyoloctl_member_certificate_expires_timestamp_secondsJOB)"

PANELS = (
    Panel(
        "Failure tolerance",
        "Voters that may fail now before writes stop, as the best informed node sees it.",
        (("max(cyoloctl_cluster_failure_toleranceJOB)", "may fail"),),
        kind="stat",
        warn=1,
        falls=True,
    ),
    Panel(
        "Problems",
        "What `cyoloctl status --check` shows, by code.",
        (("max by (code) (cyoloctl_cluster_problemsJOB) or vector(0)", "{{code}}"),),
        kind="stat",
        warn=1,
    ),
    Panel(
        "Certificates",
        "Days until the certificate of each member, and the CA's, ends. They renew by themselves.",
        (
            (f"({_FIRST_END} - time()) / 86400", "{{member}}"),
            ("(min(cyoloctl_ca_certificate_expires_timestamp_secondsJOB) - time()) / 86400", "CA"),
        ),
        unit="d",
        kind="stat",
        warn=14,
        bad=3,
        falls=True,
    ),
    Panel(
        "Writes",
        "Writes per second that were committed, by the node that they came to.",
        (("rate(cyoloctl_commit_duration_seconds_countJOB[$__rate_interval])", "{{instance}}"),),
        unit="wps",
    ),
    Panel(
        "Commit latency",
        "Time until a write was applied.",
        (
            (_quantile(0.5, "cyoloctl_commit_duration_seconds", "le"), "50 %"),
            (_quantile(0.99, "cyoloctl_commit_duration_seconds", "le"), "99 %"),
        ),
        unit="s",
        warn=0.1,
        bad=0.5,
    ),
    Panel(
        "Sync latency",
        "99 % of the syncs of each node's journal: what its disk takes.",
        ((_quantile(0.99, "cyoloctl_journal_sync_duration_seconds", "instance, le"), "{{instance}}"),),
        unit="s",
        warn=0.025,
        bad=0.1,
    ),
    Panel(
        "API requests",
        "Requests per second, by read and write, and those that ended with 5xx.",
        (
            ("sum by (kind) (rate(cyoloctl_api_requests_totalJOB[$__rate_interval]))", "{{kind}}"),
            (
                'sum(rate(cyoloctl_api_requests_total{job="$job", status=~"5.."}[$__rate_interval])) '
                "or vector(0)",
                "5xx",
            ),
        ),
        unit="reqps",
    ),
    Panel(
        "API latency",
        "99 % of the answers of the five slowest routes.",
        (
            (
                f"topk(5, {_quantile(0.99, 'cyoloctl_api_request_duration_seconds', 'route, le')})",
                "{{route}}",
            ),
        ),
        unit="s",
    ),
    Panel(
        "Leaders",
        "Changes of leader in the last ten minutes, and elections in which each node stood.",
        (
            ("max(increase(cyoloctl_raft_leader_changes_totalJOB[10m]))", "changes"),
            ("increase(cyoloctl_raft_elections_totalJOB[10m])", "elections of {{instance}}"),
        ),
        warn=1,
        bad=4,
    ),
    Panel(
        "Lag",
        "Committed entries that each member has not applied, as the best informed node sees it.",
        (("max by (member) (cyoloctl_member_lag_entriesJOB)", "{{member}}"),),
        warn=1000,
    ),
    Panel(
        "Clocks",
        "How far each member's clock is from cluster time.",
        (("max by (member) (cyoloctl_member_clock_skew_secondsJOB)", "{{member}}"),),
        unit="s",
    ),
    Panel(
        "Space",
        "What is left on each disk, and what keys and values take of their quota.",
        (
            ("cyoloctl_disk_free_bytesJOB", "free on {{instance}}"),
            ("max(cyoloctl_kv_bytesJOB)", "keys and values"),
            ("max(cyoloctl_kv_quota_bytesJOB)", "their quota"),
        ),
        unit="bytes",
    ),
)


def _thresholds(panel: Panel) -> dict[str, Any]:
    if panel.falls:
        bounds = (("red", None), ("yellow", panel.bad), ("green", panel.warn))
    else:
        bounds = (("green", None), ("yellow", panel.warn), ("red", panel.bad))
    steps = [
        {"color": colour, "value": value}
        for place, (colour, value) in enumerate(bounds)
        if value is not None or place == 0
    ]
    return {"mode": "absolute", "steps": steps}


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": {
            "x": number % _COLUMNS * _WIDTH,
            "y": number // _COLUMNS * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            for at, (query, legend) in enumerate(panel.shown_queries())
        ],
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "thresholds": _thresholds(panel)},
            "overrides": [],
        },
    }
    if panel.kind == "stat":
        shown["options"] = {"colorMode": "value", "graphMode": "none", "textMode": "auto"}
    elif panel.warn is not None:
        shown["fieldConfig"]["defaults"]["custom"] = {"thresholdsStyle": {"mode": "line"}}
    return shown


def dashboard() -> str:
    """The dashboard as Grafana imports it."""
    document = {
        "uid": "cyoloctl",
        "title": "cyoloctl",
        "tags": ["cyoloctl"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"},
                {
                    "name": "job",
                    "label": "Cluster",
                    "type": "query",
                    "datasource": _SOURCE,
                    "query": {"query": "label_values(cyoloctl_node_info, job)", "refId": "job"},
                    "refresh": 1,
                    "sort": 1,
                },
            ]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }
    return json.dumps(document, indent=1) + "\n"
