"""Reports are made of the JSON of a run, and say what has to stand beside the figures."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import main
from benchmarks.operations import INCREMENT, PUT, READ, STALE
from benchmarks.report import Cell, Figure, Report, Row
from benchmarks.tables import comparison, comparison_plots

MACHINE = {
    "date": "2026-01-02",
    "cores": 2,
    "processor": "a processor",
    "kernel": "6.1",
    "load_before": 0.1,
    "python": "3.11",
    "file_system": "ext4",
    "fdatasync_median_ms": 0.13,
    "cyoloctl": "cyoloctl 9",
    "etcd": "etcd 3",
    "nats": "nats-server 2",
    "nats_syncs": False,
}


def cell(rate: float) -> Cell:
    return Cell(rate, 1.25, 3.5, 0.2, 0.1, [rate])


@pytest.fixture
def report() -> dict[str, Any]:
    made = Report(machine=dict(MACHINE), notes=["something to know"])
    both = {"cyoloctl": cell(2000), "etcd": cell(1000)}
    for clients in (1, 10, 100, 500):
        made.rows.append(Row("writes", INCREMENT, clients, both))
        made.rows.append(Row("writes", PUT, clients, {**both, "nats": cell(4000)}))
    for clients in (1, 100):
        made.rows.append(Row("followers", INCREMENT, clients, both))
        made.rows.append(Row("reads", READ, clients, both))
        made.rows.append(Row("reads", STALE, clients, {**both, "nats": cell(5000)}))
    for operation, clients in ((PUT, 20), (READ, 1), (STALE, 1)):
        made.rows.append(Row("disks", operation, clients, both, 5.0))
    made.figures.append(Figure("a figure", 0.5, "x etcd", ">=", 1.0, "how"))
    data: dict[str, Any] = json.loads(json.dumps(made.as_json()))
    return data


def test_comparison_names_machine_versions_date_and_command(report: dict[str, Any]) -> None:
    text = comparison(report, "python -m a.command")
    for part in ("python -m a.command", "2026-01-02", "a processor", "0.13 ms", "cyoloctl 9", "etcd 3"):
        assert part in text
    assert "**Note:** something to know." in text


def test_comparison_row_holds_rates_latencies_and_ratio(report: dict[str, Any]) -> None:
    text = comparison(report, "")
    assert (
        "| put of 100 bytes | 10 | 2,000 | 1.25, 3.50 | 1,000 | 1.25, 3.50 | 4,000 | 1.25, 3.50 | 2.00 |"
        in text
    )
    assert "| linearizable read | 1 | 2,000 | 1.25, 3.50 | 1,000 | 1.25, 3.50 |  |  | 2.00 |" in text
    assert "| a figure | 0.50 x etcd | >= 1 | missed | how |" in text


def test_peer_that_does_not_sync_says_so_at_its_figures(report: dict[str, Any]) -> None:
    assert "NATS (not synced), per second" in comparison(report, "")
    assert all("NATS (not synced)" in comparison_plots(report)[name] for name in ("writes.svg", "reads.svg"))
    report["machine"]["nats_syncs"] = True
    assert "not synced" not in comparison(report, "")


def test_round_without_an_answer_gives_no_latency_and_no_bar(report: dict[str, Any]) -> None:
    before = comparison_plots(report)["followers.svg"].count("<rect")
    row = next(row for row in report["rows"] if row["section"] == "followers")
    row["cells"]["etcd"].update(rate=0.0, p50_ms=0.0, p99_ms=0.0)
    assert "| 0 | none |" in comparison(report, "")
    assert comparison_plots(report)["followers.svg"].count("<rect") == before - 1


def test_report_from_a_file_writes_table_and_plots_that_it_shows(
    report: dict[str, Any], tmp_path: Path
) -> None:
    source, out = tmp_path / "run.json", tmp_path / "results"
    source.write_text(json.dumps(report))
    assert main(["--from", str(source), "--report", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("compare.json", "compare.md"),
        *("writes.svg", "followers.svg", "reads.svg", "disks.svg"),
    }
    text = (out / "compare.md").read_text()
    for name in names - {"compare.json", "compare.md"}:
        assert f"]({name})" in text
        assert ET.fromstring((out / name).read_text()).tag.endswith("svg")
    assert json.loads((out / "compare.json").read_text()) == report
