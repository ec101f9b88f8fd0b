"""The API of the metrics of a node: the route, and the operation behind it."""

from __future__ import annotations

from typing import Protocol

from cyoloctl.web.schema import Route

__all__ = ["METRICS_TYPE", "ROUTES", "HasMetrics", "MetricsApi"]

#: Of Prometheus's text format.
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsApi(Protocol):
    """Operations of a node for callers of this API."""

    async def show(self, *, timeout_s: float) -> str:
        """All of this node's metrics; never waits for another node."""


class HasMetrics(Protocol):
    """A node with the operations behind this API."""

    @property
    def metrics(self) -> MetricsApi:
        """The operations."""


ROUTES: tuple[Route[HasMetrics], ...] = (
    Route(
        "GET",
        "/metrics",
        "viewer",
        "metrics",
        "The node's metrics, in Prometheus's text format",
        answer=str,
        handler=lambda node: node.metrics.show,
        media=METRICS_TYPE,
        local=True,
    ),
)
