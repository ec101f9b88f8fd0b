"""Prometheus itself scrapes a node by the example, and every query of the dashboard finds something."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.reading import ROOT
from tests.support.cluster import Cluster, free_port, wait_until
from tests.support.connections import cluster_id_of
from tools.dashboard import PANELS

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def _configuration(cluster: Cluster, where: Path) -> Path:
    """monitoring/scrape.yaml with what stands for its words, and with one node."""
    held = json.loads(cluster.viewer().read_text())
    for part in ("ca", "certificate", "key"):
        (where / f"{part}.pem").write_text(held[f"{part}_pem"])
    text = (ROOT / "monitoring" / "scrape.yaml").read_text()
    for word, value in {
        "CLUSTER_ID": cluster_id_of(cluster["n1"]),
        "/etc/prometheus/cyoloctl": str(where),
        "10.0.0.1:7700": cluster["n1"].address,
    }.items():
        assert word in text
        text = text.replace(word, value)
    whole = {"global": {"scrape_interval": "1s"}, **yaml.safe_load(text)}
    whole["scrape_configs"] = whole["scrape_configs"][:1]
    whole["rule_files"] = [str(ROOT / "monitoring" / "alerts.yaml")]
    path = where / "prometheus.yml"
    path.write_text(yaml.safe_dump(whole))
    return path


Ask = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    """A Prometheus that scrapes a node with something to tell, as a function from a query to its result."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("THE DASHBOARD IS NOT TRIED AGAINST A REAL SCRAPE: apt-get install prometheus")
    with Cluster(tmp_path) as cluster:
        node = cluster.init("n1")
        wait_until("a voter that registers credentials", cluster.viewer)
        where = tmp_path / "prometheus"
        where.mkdir()
        address = f"127.0.0.1:{free_port()}"
        command = [
            *(program, f"--config.file={_configuration(cluster, where)}"),
            *(f"--storage.tsdb.path={where / 'data'}", f"--web.listen-address={address}"),
        ]
        with (where / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=where)

        def find(query: str) -> list[dict[str, Any]]:
            node.client().counters.incr("seen")  # rates are of what happens meanwhile
            url = f"http://{address}/api/v1/query?query={urllib.parse.quote(query)}"
            try:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            except OSError:
                return []
            return found

        try:
            yield find
        finally:
            process.kill()
            process.wait()


def test_every_query_of_the_dashboard_finds_something_in_a_real_scrape(ask: Ask) -> None:
    wait_until("the node scraped", lambda: ask("up == 1"))
    for panel in PANELS:
        for query, _ in panel.shown_queries():
            asked = query.replace("$job", "cyoloctl").replace("$__rate_interval", "30s")
            found = wait_until(f"{panel.title}: {asked}", lambda asked=asked: ask(asked))  # type: ignore[misc]
            assert all(each["value"][1] not in ("", "+Inf") for each in found), (panel.title, found)
    assert {each["metric"]["instance"] for each in ask("cyoloctl_node_info")} == {"n1"}
