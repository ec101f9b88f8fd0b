"""The report of benchmarks.growth in Markdown with its plots, made of the JSON of a run and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plot import Axis, Bar, bars, lines
from benchmarks.report import plural
from benchmarks.tables import conditions, table, write_report

__all__ = ["growth", "growth_plots", "write_growth"]

Json = Mapping[str, Any]

_TITLES = {
    "nodes": "With more nodes",
    "keys": "With more keys",
    "history": "With a longer history",
}
_HEADS = {"nodes": "nodes", "keys": "keys", "history": "increments before"}
_COMMAND = "python -m benchmarks.growth"


def _points(report: Json, section: str) -> list[Json]:
    return [point for point in report["points"] if point["section"] == section]


def _section(section: str, points: Sequence[Json]) -> list[str]:
    head = [_HEADS[section], "operation", "clients", "per second", "p50, p99, ms", "processor time, µs"]
    rows = [
        [
            f"{point['at']:,}",
            point["operation"],
            str(point["clients"]),
            f"{point['cell']['rate']:,.0f}",
            f"{point['cell']['p50_ms']:.2f}, {point['cell']['p99_ms']:.2f}",
            f"{point['cell']['cpu_ms'] * 1000:,.0f}",
        ]
        for point in points
    ]
    return [f"## {_TITLES[section]}", "", *table(head, rows), ""]


def growth(report: Json) -> str:
    """The tables of a run."""
    out = ["# Growth", "", conditions(report["machine"], _COMMAND), ""]
    out += ["Processor time is that of all members together for one write, with what they do besides.", ""]
    for note in report["notes"]:
        out += [f"**Note:** {note}.", ""]
    plots = growth_plots(report)
    for section, title in _TITLES.items():
        points = _points(report, section)
        if points:
            out += _section(section, points)
            out += [f"![{title}]({name})\n" for name in plots if name == f"growth-{section}.svg"]
    if report["events"]:
        head = ["meanwhile", "seconds", "puts", "p50, ms", "p99.9, ms", "longest, ms"]
        rows = [
            [
                *(name, f"{said['seconds']:.1f}", f"{said['puts']:,.0f}"),
                *(f"{said[key]:.1f}" for key in ("p50_ms", "p99.9_ms", "max_ms")),
            ]
            for name, said in report["events"].items()
        ]
        title = "A put while something else goes on"
        out += [f"## {title}", "", *table(head, rows), "", f"![{title}](growth-events.svg)", ""]
    return "\n".join(out)


def growth_plots(report: Json) -> dict[str, str]:
    """By file name, the plots that a run suffices for."""
    made: dict[str, str] = {}
    nodes, keys, history = (_points(report, section) for section in _TITLES)
    cost = Axis("µs of processor time per write, all members", log=True)
    if nodes:
        at = tuple(float(n) for n in sorted({point["at"] for point in nodes}))
        title = "An increment at the leader, by the number of nodes"
        made["growth-nodes.svg"] = lines(title, Axis("nodes", at=at), cost, _by_clients(nodes))
    if keys:
        title = "A put of 100 bytes at the leader, by the number of keys"
        across = Axis("keys in the cluster", log=True)
        made["growth-keys.svg"] = lines(title, across, cost, _by_clients(keys))
    if history:
        title = "Increments of 100 clients, by how many there were before"
        series = {
            "p50": [(point["at"], point["cell"]["p50_ms"]) for point in history],
            "p99": [(point["at"], point["cell"]["p99_ms"]) for point in history],
        }
        made["growth-history.svg"] = lines(title, Axis("increments before"), Axis("milliseconds"), series)
    if report["events"]:
        said = report["events"]
        made["growth-events.svg"] = bars(
            "One put every 10 ms: p50, and p99.9 as the thin line",
            "meanwhile",
            Axis("milliseconds", log=True),
            [str(name) for name in said],
            {"puts of 100 bytes": [Bar(one["p50_ms"], one["p99.9_ms"]) for one in said.values()]},
        )
    return made


def _by_clients(points: Sequence[Json]) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        place = (float(point["at"]), point["cell"]["cpu_ms"] * 1000)
        series.setdefault(plural(point["clients"]), []).append(place)
    return series


def write_growth(directory: Path, report: Json) -> None:
    """The report of benchmarks.growth, with its data."""
    write_report(directory, "growth", report, growth(report), growth_plots(report))
