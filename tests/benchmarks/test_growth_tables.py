"""The report of a cluster that grows is made of its JSON, each section of those that were run."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.growth import main
from benchmarks.growth_tables import growth, growth_plots
from benchmarks.report import Cell
from tests.benchmarks.test_tables import MACHINE


def _point(section: str, at: int, clients: int, operation: str = "increment") -> dict[str, Any]:
    cell = asdict(Cell(1000.0 / at, 1.5, 2.5, 0.25, 0.1, [1.0]))
    return {"section": section, "at": at, "operation": operation, "clients": clients, "cell": cell}


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "schema_version": 1,
        "machine": MACHINE,
        "notes": ["something to know"],
        "points": [
            *(_point("nodes", nodes, clients) for nodes in (3, 5, 7) for clients in (1, 100)),
            *(_point("keys", keys, clients) for keys in (1, 1000, 1_000_000) for clients in (1, 100)),
            *(_point("history", at, 100) for at in (1, 40_000, 990_000)),
        ],
        "events": {
            name: {"puts": 900, "p50_ms": 2.0, "p99.9_ms": 30.0, "max_ms": 31.0, "seconds": 9.5}
            for name in ("nothing else", "join of a node")
        },
    }


def test_growth_has_a_row_for_each_point_and_event(report: dict[str, Any]) -> None:
    text = growth(report)
    assert "| 5 | increment | 100 | 200 | 1.50, 2.50 | 250 |" in text
    assert "| 1,000,000 | increment | 1 | 0 | 1.50, 2.50 | 250 |" in text
    assert "| join of a node | 9.5 | 900 | 2.0 | 30.0 | 31.0 |" in text
    assert "**Note:** something to know." in text
    assert "2026-01-02" in text


def test_growth_of_one_section_shows_only_that(report: dict[str, Any]) -> None:
    report["points"] = [point for point in report["points"] if point["section"] == "keys"]
    report["events"] = {}
    assert list(growth_plots(report)) == ["growth-keys.svg"]
    assert "nodes" not in growth(report).split("## ", 1)[1]


def test_growth_from_a_file_writes_table_and_plots_that_it_shows(
    report: dict[str, Any], tmp_path: Path
) -> None:
    source, out = tmp_path / "run.json", tmp_path / "results"
    source.write_text(json.dumps(report))
    assert main(["--from", str(source), "--report", str(out)]) == 0
    plots = {path.name for path in out.glob("*.svg")}
    assert plots == {f"growth-{name}.svg" for name in ("nodes", "keys", "history", "events")}
    text = (out / "growth.md").read_text()
    for name in plots:
        assert f"]({name})" in text
        assert "polyline" in (out / name).read_text() or name == "growth-events.svg"
        assert ET.fromstring((out / name).read_text()).tag.endswith("svg")
