"""Files that a run leaves: summary.json, report.md, latency.svg, history.jsonl, history.edn."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.chaos.history import History, Record
from tests.chaos.linearizability import Verdict
from tests.chaos.nemesis import Event
from tests.chaos.workload import LAST

__all__ = ["Outcome", "latency_svg", "write_report"]


@dataclass(slots=True)
class Outcome:
    """Everything that a run found.

    problems: each is a failed promise, and the run fails when there is any.
    """

    nodes: int
    seconds: float
    seed: int
    events: list[Event]
    verdicts: list[Verdict]
    exactly_once: list[dict[str, Any]]
    promises: dict[str, int]
    data: dict[str, int]
    snapshots: dict[str, list[str]]
    transitions: dict[str, Any]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.problems


def write_report(directory: Path, history: History, outcome: Outcome) -> dict[str, Any]:
    """Write the files; returns the summary."""
    directory.mkdir(parents=True, exist_ok=True)
    history.write(directory / "history.jsonl")
    history.write_edn(directory / "history.edn")
    summary = _summary(history, outcome)
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    (directory / "latency.svg").write_text(latency_svg(history.records, outcome.events))
    (directory / "report.md").write_text(_markdown(summary, outcome))
    return summary


def _summary(history: History, outcome: Outcome) -> dict[str, Any]:
    records = history.records
    kinds = Counter(record.outcome for record in records)
    answers = Counter(answer for record in records for _, answer in record.sends)
    latencies = sorted((r.end_s - r.start_s) * 1000 for r in records if r.outcome == "ok")
    at = {
        f"p{share:g}": round(latencies[min(len(latencies) - 1, int(len(latencies) * share / 100))], 2)
        for share in (50, 99, 99.9)
        if latencies
    }
    return {
        "schema_version": 1,
        "passed": outcome.passed,
        "nodes": outcome.nodes,
        "seconds": round(outcome.seconds, 1),
        "seed": outcome.seed,
        "operations": len(records),
        "increments": sum(record.by > 0 for record in records),
        "reads": sum(record.by == 0 for record in records),
        "sends": sum(len(record.sends) for record in records),
        "outcomes": dict(sorted(kinds.items())),
        "answers": dict(answers.most_common()),
        "latency_ms": at,
        "longest_without_answer_s": round(_longest_gap(records), 2),
        "faults": dict(sorted(Counter(event.fault for event in outcome.events).items())),
        "linearizable": {verdict.key: verdict.linearizable for verdict in outcome.verdicts},
        "exactly_once": outcome.exactly_once,
        "promises": outcome.promises,
        "data": outcome.data,
        "snapshots": outcome.snapshots,
        "transitions": outcome.transitions,
        "problems": outcome.problems,
        "notes": outcome.notes,
        "events": [asdict(event) for event in outcome.events],
    }


def _longest_gap(records: Sequence[Record]) -> float:
    ends = sorted(record.end_s for record in records if record.outcome == "ok" and record.client != LAST)
    return max((b - a for a, b in pairwise(ends)), default=0.0)


def _markdown(summary: dict[str, Any], outcome: Outcome) -> str:
    faults = summary["faults"]
    lines = [
        f"# {'PASSED' if outcome.passed else 'FAILED'}: {outcome.nodes} nodes, {summary['seconds']:g} s, "
        f"seed {outcome.seed}",
        "",
        f"{summary['operations']} operations ({summary['increments']} increments, {summary['reads']} reads), "
        f"sent {summary['sends']} times. Outcomes: "
        + ", ".join(f"{count} {kind}" for kind, count in summary["outcomes"].items())
        + ".",
        "",
        f"Latency of answered operations in ms: {summary['latency_ms']}; longest time in which no "
        f"operation was answered: {summary['longest_without_answer_s']} s.",
        "",
        f"Faults: {', '.join(f'{count} {name}' for name, count in faults.items()) or 'none'}.",
        "",
        "![latency over time, with the faults](latency.svg)",
        "",
        "## Verdicts",
        "",
        "| counter | operations | linearizable |",
        "|---|---|---|",
        *(f"| {v.key} | {v.operations} | {'yes' if v.linearizable else 'NO'} |" for v in outcome.verdicts),
        "",
        "| counter | distinct ids acknowledged | value at the end | after all restarted | exactly once |",
        "|---|---|---|---|---|",
        *(
            f"| {row['counter']} | {row['ids']} | {row['before']} | {row['after']} | "
            f"{'yes' if row['exact'] else 'NO'} |"
            for row in outcome.exactly_once
        ),
        "",
        "| promise, asked through every node | times |",
        "|---|---|",
        *(f"| {what} | {count} |" for what, count in outcome.promises.items()),
        "",
        "| data and locks, asked through every node | times |",
        "|---|---|",
        *(f"| {what} | {count} |" for what, count in outcome.data.items()),
        "",
        *_transitions(outcome.transitions),
        f"Snapshots at the end: {outcome.snapshots}",
        "",
        "## Problems",
        "",
        *([f"```\n{problem}\n```" for problem in outcome.problems] or ["None."]),
        "",
        *(["## Notes", "", *(f"- {note}" for note in outcome.notes), ""] if outcome.notes else []),
        "## Faults in order",
        "",
        "| from s | to s | fault | on |",
        "|---|---|---|---|",
        *(
            f"| {event.start_s:.2f} | {math.nan if event.end_s is None else event.end_s:.2f} | {event.fault} "
            f"| {event.detail} |"
            for event in outcome.events
        ),
        "",
    ]
    return "\n".join(lines)


def _transitions(rows: dict[str, Any]) -> list[str]:
    if not rows:
        return []
    lines = [
        "| change | kills in the middle | longest until it had ended, s "
        "| kills without another fault | writes went on after, s: median | worst |",
        "|---|---|---|---|---|---|",
    ]
    for change, row in rows.items():
        seconds = row["writes_went_on_s"] or {"median": "-", "worst": "-"}
        lines.append(
            f"| {change} | {row['kills']} | {row['longest_s']} | {row['alone']} | {seconds['median']} "
            f"| {seconds['worst']} |"
        )
    return [*lines, ""]


# --- the picture ------------------------------------------------------------------------------------

_WIDTH, _LEFT, _RIGHT, _TOP, _PLOT, _ROW = 1400, 90, 20, 40, 380, 16
_LOW_MS, _HIGH_MS = 0.5, 60_000.0
_COLOURS = ["#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f",
            "#86bcb6", "#d37295", "#8cd17d", "#499894", "#79706e"]  # fmt: skip


def latency_svg(records: Sequence[Record], events: Sequence[Event]) -> str:
    """Latency over time (logarithmic), unanswered operations below, and a row for each kind of fault."""
    records = [record for record in records if record.client != LAST]
    answered = [record for record in records if record.outcome == "ok"]
    last_s = max([r.end_s for r in answered] + [e.end_s or e.start_s for e in events] + [1.0])
    kinds = list(dict.fromkeys(event.fault for event in events))
    colours = {kind: _COLOURS[index % len(_COLOURS)] for index, kind in enumerate(kinds)}
    bottom = _TOP + _PLOT
    rows = bottom + 50
    height = rows + _ROW * max(1, len(kinds)) + 34

    def x(at_s: float) -> float:
        return _LEFT + at_s / last_s * (_WIDTH - _LEFT - _RIGHT)

    def y(ms: float) -> float:
        share = math.log(max(_LOW_MS, min(_HIGH_MS, ms)) / _LOW_MS) / math.log(_HIGH_MS / _LOW_MS)
        return bottom - share * _PLOT

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        f'font-size="11"><rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">latency of answered operations; faults shaded and named '
        "below</text>",
    ]
    for event in events:
        width = max(1.5, x(event.end_s or last_s) - x(event.start_s))
        out.append(
            f'<rect x="{x(event.start_s):.1f}" y="{_TOP}" width="{width:.1f}" height="{_PLOT}" '
            f'fill="{colours[event.fault]}" opacity="0.15"/>'
        )
    for ms in (1, 10, 100, 1000, 10_000):
        label = f"{ms} ms" if ms < 1000 else f"{ms // 1000} s"
        out.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(ms):.1f}" y2="{y(ms):.1f}" stroke="#ccc"/>'
            f'<text x="{_LEFT - 6}" y="{y(ms) + 4:.1f}" text-anchor="end">{label}</text>'
        )
    step_s = next(
        step for step in (1, 2, 5, 10, 30, 60, 120, 300, 600, 3600) if last_s / step <= 24 or step == 3600
    )
    for number in range(int(last_s / step_s) + 1):
        at = x(number * step_s)
        out.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{height - 26}" stroke="#eee"/>'
            f'<text x="{at:.1f}" y="{height - 10}" text-anchor="middle">{number * step_s} s</text>'
        )
    out += _curves(answered, last_s, x, y)
    out += _ticks(records, x, bottom + 12, bottom + 28)
    for row, kind in enumerate(kinds):
        top = rows + row * _ROW
        out.append(f'<text x="{_LEFT - 6}" y="{top + 11}" text-anchor="end">{escape(kind)}</text>')
        out += [
            f'<rect x="{x(event.start_s):.1f}" y="{top + 2}" height="{_ROW - 4}" fill="{colours[kind]}" '
            f'width="{max(1.5, x(event.end_s or last_s) - x(event.start_s)):.1f}">'
            f"<title>{escape(event.detail)}</title></rect>"
            for event in events
            if event.fault == kind
        ]
    return "\n".join([*out, "</svg>\n"])


def _curves(answered: Sequence[Record], last_s: float, x: Any, y: Any) -> list[str]:
    """Median and 99th percentile of operations by when they began, and each slow one as a dot."""
    count = 600
    slices: list[list[float]] = [[] for _ in range(count + 1)]
    for record in answered:
        slices[int(record.start_s / last_s * count)].append((record.end_s - record.start_s) * 1000)
    out = []
    for share, colour in ((0.99, "#d62728"), (0.5, "#1f3a93")):
        path = ""
        before_s = -math.inf
        for index, part in enumerate(slices):
            if part:
                at_s = (index + 0.5) / count * last_s
                # No line over a time in which nothing was asked or answered.
                move = "M" if at_s - before_s > max(1.0, 3 * last_s / count) else "L"
                path += f"{move}{x(at_s):.1f} {y(sorted(part)[int(len(part) * share)]):.1f}"
                before_s = at_s
        out.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1"/>')
    slow = [record for record in answered if record.end_s - record.start_s > 0.2][:5000]
    out += [
        f'<circle cx="{x(record.start_s):.1f}" cy="{y((record.end_s - record.start_s) * 1000):.1f}" r="1.4" '
        'fill="#d62728" opacity="0.5"/>'
        for record in slow
    ]
    out.append(
        f'<text x="{_WIDTH - _RIGHT}" y="20" text-anchor="end"><tspan fill="#1f3a93">median</tspan>  '
        '<tspan fill="#d62728">99th percentile; dots: above 200 ms</tspan></text>'
    )
    return out


def _ticks(records: Sequence[Record], x: Any, refused_y: float, unknown_y: float) -> list[str]:
    out = []
    for outcome, at, colour in (("refused", refused_y, "#888"), ("unknown", unknown_y, "#d62728")):
        out.append(f'<text x="{_LEFT - 6}" y="{at + 4}" text-anchor="end">{outcome}</text>')
        places = sorted({round(x(record.start_s)) for record in records if record.outcome == outcome})
        if places:
            path = " ".join(f"M{place} {at - 5}v10" for place in places)
            out.append(f'<path d="{path}" stroke="{colour}" fill="none"/>')
    return out
