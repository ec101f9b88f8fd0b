"""The files of monitoring/: Prometheus takes them, and every metric in them is one that nodes tell."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cyoloctl.metrics.families import NODE
from tests.docs.reading import ROOT, pages
from tools.dashboard import PANELS

MONITORING = ROOT / "monitoring"
RULES: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
QUERIES = [query for panel in PANELS for query, _ in panel.shown_queries()]


def promtool(*arguments: object) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("ALERTS AND DASHBOARD ARE NOT CHECKED BY PROMTOOL: apt-get install prometheus")
    ran = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def names(query: str) -> set[str]:
    """The metrics of ours that a query asks for."""
    return set(re.findall(r"\bcyoloctl_\w+", query))


@pytest.mark.parametrize("query", [*QUERIES, *(rule["expr"] for rule in RULES)])
def test_metric_of_a_query_is_one_that_nodes_tell_with_these_labels(query: str) -> None:
    """tests/cluster/test_metrics.py holds what is declared against what nodes tell."""
    told: dict[str, tuple[str, ...]] = {}
    for family in NODE:
        if family.kind == "histogram":
            told |= {f"{family.shown_name}_{part}": family.labels for part in ("bucket", "sum", "count")}
        else:
            told[family.shown_name] = family.labels
    assert names(query) - set(told) == set()
    labels = {label for name in names(query) for label in told[name]} | {"job", "instance", "le"}
    grouped = {label for group in re.findall(r"\bby \(([\w, ]+)\)", query) for label in group.split(", ")}
    selected = set(re.findall(r"[{,] ?(\w+)=", query))
    assert grouped | selected <= labels


def test_alerts_are_rules_of_prometheus() -> None:
    promtool("check", "rules", MONITORING / "alerts.yaml")


def test_alerts_fire_when_they_should_and_not_before() -> None:
    promtool("test", "rules", ROOT / "tests" / "fixtures" / "alerts.test.yaml")


def test_queries_of_the_dashboard_are_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(QUERIES)
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", path)


def test_scrape_example_is_a_configuration_of_prometheus(tmp_path: Path) -> None:
    text = (MONITORING / "scrape.yaml").read_text()
    for name in ("ca", "certificate", "key"):
        (tmp_path / f"{name}.pem").write_text("")
    path = tmp_path / "prometheus.yml"
    path.write_text(text.replace("/etc/prometheus/cyoloctl", str(tmp_path)))
    promtool("check", "config", "--syntax-only", path)


def test_every_alert_has_its_row_on_the_page_and_no_other_does() -> None:
    told = re.findall(r"^\| `(Cyoloctl\w+)` \|", pages()["docs/monitoring.md"], re.MULTILINE)
    assert told == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["command"].startswith("cyoloctl ")
