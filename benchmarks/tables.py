"""Reports in Markdown with their plots, made of the JSON of a run and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.operations import INCREMENT, PUT, READ, STALE
from benchmarks.plot import Axis, Bar, bars, lines

__all__ = ["comparison", "comparison_plots", "conditions", "table", "write_comparison", "write_report"]

Json = Mapping[str, Any]

_NAMES = ("cyoloctl", "etcd", "nats")
_TITLES = {
    "writes": "Writes at the leader",
    "followers": "Writes through a follower",
    "reads": "Reads at the leader",
    "values": "Large values and transactions",
    "disks": "Slow disks",
}
_CLIENTS = (1.0, 10.0, 100.0, 500.0)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    made = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return made + ["| " + " | ".join(row) + " |" for row in rows]


def conditions(machine: Json, command: str) -> str:
    """The sentence that names the machine, the versions, the date and the command."""
    known = [str(machine[name]) for name in _NAMES if name in machine]
    return (
        f"One run of `{command}` on {machine['date']}: {machine['cores']} cores of {machine['processor']},"
        f" Linux {machine['kernel']}, load {machine['load_before']} before,"
        f" {machine['file_system']} with an `fdatasync` of {machine['fdatasync_median_ms']} ms,"
        f" Python {machine['python']}; {', '.join(known)}."
    )


def _shown(report: Json, name: str) -> str:
    """A system's name beside its figures; what does not sync its writes says so wherever it stands."""
    if name == "nats":
        return "NATS" if report["machine"].get("nats_syncs") else "NATS (not synced)"
    return name


def _rate(cell: Json | None) -> str:
    return f"{cell['rate']:,.0f}" if cell else ""


def _times(cell: Json | None) -> str:
    if not cell:
        return ""
    # Without any answer in the measured time there is no latency to tell.
    return f"{cell['p50_ms']:.2f}, {cell['p99_ms']:.2f}" if cell["rate"] else "none"


def _rows_of(report: Json, section: str) -> list[Json]:
    return [row for row in report["rows"] if row["section"] == section]


def _systems(rows: Iterable[Json]) -> list[str]:
    present = {name for row in rows for name in row["cells"]}
    return [name for name in _NAMES if name in present]


def _section(report: Json, section: str, rows: Sequence[Json]) -> list[str]:
    systems = _systems(rows)
    head = ["operation", *(["sync, ms more"] if section == "disks" else []), "clients"]
    for name in systems:
        head += [f"{_shown(report, name)}, per second", "p50, p99, ms"]
    ratio = "etcd" in systems
    made = []
    for row in rows:
        cells = row["cells"]
        line = [
            row["operation"],
            *([f"{row['sync_ms']:g}"] if section == "disks" else []),
            str(row["clients"]),
        ]
        for name in systems:
            line += [_rate(cells.get(name)), _times(cells.get(name))]
        if ratio:
            ours, theirs = cells.get("cyoloctl"), cells.get("etcd")
            line.append(f"{ours['rate'] / theirs['rate']:.2f}" if ours and theirs and theirs["rate"] else "")
        made.append(line)
    return [f"## {_TITLES[section]}", "", *table([*head, *(["times etcd"] if ratio else [])], made), ""]


def comparison(report: Json, command: str) -> str:
    """The table of a comparison."""
    out = ["# Beside etcd and NATS JetStream", "", conditions(report["machine"], command), ""]
    for note in report["notes"]:
        out += [f"**Note:** {note}.", ""]
    plots = comparison_plots(report)
    for section, title in _TITLES.items():
        rows = _rows_of(report, section)
        if rows:
            out += _section(report, section, rows)
            out += [f"![{title}]({name})\n" for name in plots if name.startswith(section)]
    figures = [
        [
            figure["name"],
            f"{figure['value']:,.2f} {figure['unit']}",
            f"{figure['op']} {figure['target']:g}" if figure["op"] else "",
            "" if not figure["op"] else "met" if figure["ok"] else "missed",
            figure["what"],
        ]
        for figure in report["figures"]
    ]
    if figures:
        out += ["## Figures and targets", "", *table(["figure", "value", "target", "", "how"], figures), ""]
    return "\n".join(out)


def comparison_plots(report: Json) -> dict[str, str]:
    """By file name, the plots that the rows of a comparison suffice for."""
    made: dict[str, str] = {}
    writes = _rows_of(report, "writes")
    if writes:
        series = {
            f"{_shown(report, name)}, puts": [
                (row["clients"], row["cells"][name]["rate"])
                for row in writes
                if row["operation"] == PUT and name in row["cells"]
            ]
            for name in _systems(writes)
        }
        series["cyoloctl, increments"] = [
            (row["clients"], row["cells"]["cyoloctl"]["rate"])
            for row in writes
            if row["operation"] == INCREMENT
        ]
        made["writes.svg"] = lines(
            "Writes at the leader: increments, and puts of 100 bytes",
            Axis("clients, each with one request in flight", log=True, at=_CLIENTS),
            Axis("writes per second"),
            series,
        )
    for section, title, groups in (
        ("followers", "Writes through a follower", (INCREMENT, PUT)),
        ("reads", "Reads of 100 bytes at the leader", (READ, STALE)),
    ):
        rows = [row for row in _rows_of(report, section) if row["operation"] in groups]
        if rows:
            made[f"{section}.svg"] = bars(
                title,
                "",
                Axis("operations per second"),
                [
                    f"{row['operation']}\n{row['clients']} client{'s' if row['clients'] > 1 else ''}"
                    for row in rows
                ],
                {
                    _shown(report, name): [_bar(row["cells"].get(name), "rate") for row in rows]
                    for name in _systems(rows)
                },
            )
    made.update(_disk_plots(report, _rows_of(report, "disks")))
    return made


def _bar(cell: Json | None, value: str, upper: str | None = None) -> Bar | None:
    if cell is None or not cell["rate"]:
        return None
    return Bar(cell[value], cell[upper] if upper else None)


def _disk_plots(report: Json, rows: Sequence[Json]) -> dict[str, str]:
    if not rows:
        return {}
    ordered = sorted(rows, key=lambda row: [PUT, READ, STALE].index(row["operation"]))
    short = {PUT: "put", READ: "read", STALE: "stale read"}
    plot = bars(
        "20 writers and two readers at the leader: p50, and p99 as the thin line",
        "milliseconds that each sync takes longer",
        Axis("milliseconds", log=True),
        [f"{short[row['operation']]}\n+{row['sync_ms']:g} ms" for row in ordered],
        {
            _shown(report, name): [_bar(row["cells"].get(name), "p50_ms", "p99_ms") for row in ordered]
            for name in _systems(rows)
        },
    )
    return {"disks.svg": plot}


def write_report(directory: Path, name: str, report: Json, text: str, plots: Mapping[str, str]) -> None:
    """Write the data, the text (both by that name) and the plots into a directory, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (directory / f"{name}.md").write_text(text, encoding="utf-8")
    for file, plot in plots.items():
        (directory / file).write_text(plot, encoding="utf-8")


def write_comparison(directory: Path, report: Json) -> None:
    """The report of benchmarks.compare, with its data."""
    text = comparison(report, "python -m benchmarks.compare")
    write_report(directory, "compare", report, text, comparison_plots(report))
