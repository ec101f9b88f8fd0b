"""The text of /metrics, written by Prometheus's own library.

Nobody imports this module before the first scrape: the library takes a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from cyoloctl.metrics.counts import Histogram
from cyoloctl.metrics.families import Family, Figures, Value

__all__ = ["page"]


def page(families: Iterable[Family], figures: Figures) -> str:
    """The page (exposition format 0.0.4) of these families, and of the process.

    A family without a figure is left out.  Raises KeyError for figures that no family has.
    """
    left = dict(figures)
    known = [(family, left.pop(family.name, None)) for family in families]
    if left:
        raise KeyError(next(iter(left)))
    registry = CollectorRegistry()
    registry.register(_Families([_metric(each, value) for each, value in known if value is not None]))
    ProcessCollector(registry=registry)
    return generate_latest(registry).decode("utf-8")


class _Families(Collector):
    """Families that were made for one page."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _metric(family: Family, value: Value) -> Metric:
    samples = {(): value} if isinstance(value, int | float | Histogram) else value
    name = f"cyoloctl_{family.name}"
    if family.kind == "histogram":
        durations = HistogramMetricFamily(name, family.help, labels=family.labels)
        for labels, one in samples.items():
            assert isinstance(one, Histogram)
            bounds = [*map(str, one.bounds), "+Inf"]
            cumulative = zip(bounds, map(float, accumulate(one.counts)), strict=True)
            durations.add_metric(labels, list(cumulative), one.sum_s)
        return durations
    kind = GaugeMetricFamily if family.kind == "gauge" else CounterMetricFamily
    found = kind(name, family.help, labels=family.labels)
    for labels, one in samples.items():
        assert not isinstance(one, Histogram)
        found.add_metric(labels, one)
    return found
