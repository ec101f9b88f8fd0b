"""Metrics of real nodes: who may read them, and that they follow what happens."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cyoloctl.metrics.families import NODE
from tests.support.cluster import MACHINES, Cluster, Node, wait_until
from tests.support.connections import tls_connect, unix_connect

pytestmark = pytest.mark.cluster

Samples: TypeAlias = "dict[tuple[str, ...], float]"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("metrics")) as cluster:
        cluster.form(3)
        for node in cluster.running():
            node.give_machine("hits:Hits", MACHINES / "hits.py").terminate()
            node.start()
        cluster["n1"].wait_machine()
        cluster.wait_healthy()
        yield cluster


def ask(connection: socket.socket) -> tuple[int, str, str]:
    """Status, type and body of /metrics."""
    client = http.client.HTTPConnection("localhost")
    client.sock = connection
    try:
        client.request("GET", "/metrics")
        answer = client.getresponse()
        return answer.status, str(answer.headers["Content-Type"]), answer.read().decode()
    finally:
        client.close()


def scrape(node: Node) -> Samples:
    """name and label values -> value, by the control socket."""
    status, _, text = ask(unix_connect(node))
    assert status == 200
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(samples: Samples, name: str) -> float:
    """The sum over all labels."""
    return sum(value for key, value in samples.items() if key[0] == name)


def pem_files(credentials: Path) -> tuple[Path, Path]:
    held = yaml.safe_load(credentials.read_text())
    files = credentials.with_suffix(".crt"), credentials.with_suffix(".key")
    for file, pem in zip(files, (held["certificate_pem"], held["key_pem"]), strict=True):
        file.write_text(pem)
    return files


def test_metrics_are_read_with_a_viewers_certificate_and_by_no_stranger(cluster: Cluster) -> None:
    for node in cluster.running():
        viewer = pem_files(cluster.viewer())
        status, kind, text = ask(tls_connect(node.port, alpn=["http/1.1"], certificate=viewer))
        assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert f'name="{node.name}"' in text
        status, kind, text = ask(tls_connect(node.port, alpn=["http/1.1"]))
        assert (status, kind) == (403, "application/json")
        assert "cyoloctl_" not in text
    assert "cyoloctl_raft_term" in cluster.client("n2").metrics()


def test_metrics_count_what_was_asked_of_this_node(cluster: Cluster) -> None:
    node, other = cluster["n1"], cluster["n2"]
    before, before_there = scrape(node), scrape(other)
    for _ in range(20):
        node.client().counters.incr("seen")
    node.client().counters.get("seen")
    after, after_there = scrape(node), scrape(other)

    def grew(name: str) -> float:
        return total(after, name) - total(before, name)

    increments = ("cyoloctl_api_requests_total", "write", "POST", "/v1/counters/{name}/increment", "200")
    assert after[increments] - before.get(increments, 0) == 20
    assert grew("cyoloctl_api_request_duration_seconds_count") >= 21
    assert grew("cyoloctl_commit_duration_seconds_count") >= 20
    # Two others are a majority: one sync may bring several entries here.
    assert grew("cyoloctl_journal_sync_duration_seconds_count") > 0
    assert 0 < grew("cyoloctl_commit_duration_seconds_sum") < 60
    # The other one applied them, synced them, and was not asked.
    assert increments not in after_there
    synced = "cyoloctl_journal_sync_duration_seconds_count"
    assert total(after_there, synced) > total(before_there, synced)
    assert after["cyoloctl_state_entries", "counters"] == 1


def test_every_metric_that_is_declared_has_a_sample_on_some_node(cluster: Cluster) -> None:
    """But for the codes of problems: there are none yet."""
    seen = {name for node in cluster.running() for name, *_ in scrape(node)}
    declared = {
        f"{family.shown_name}_bucket" if family.kind == "histogram" else family.shown_name for family in NODE
    }
    assert declared - seen == {"cyoloctl_cluster_problems"}


def test_metrics_of_the_survivors_tell_of_a_killed_leader(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    others = [node for node in cluster.running() if node.name != leader]
    behind = {key[1] for key in scrape(cluster[leader]) if key[0] == "cyoloctl_raft_peer_behind_entries"}
    assert behind == {node.name for node in others}
    before = {node.name: scrape(node) for node in others}
    for samples in before.values():
        assert samples["cyoloctl_cluster_failure_tolerance",] == 1
        assert samples["cyoloctl_member_reachable", leader] == 1
        assert "cyoloctl_raft_peer_behind_entries" not in {key[0] for key in samples}
    cluster[leader].kill()

    def told() -> dict[str, Samples] | None:
        after = {node.name: scrape(node) for node in others}
        led = sum(samples["cyoloctl_raft_is_leader",] for samples in after.values())
        gone = all(samples["cyoloctl_member_reachable", leader] == 0 for samples in after.values())
        shown = all(total(samples, "cyoloctl_cluster_problems") for samples in after.values())
        changes = ("cyoloctl_raft_leader_changes_total",)
        seen = all(samples[changes] > before[name][changes] for name, samples in after.items())
        return after if led == 1 and gone and shown and seen else None

    after = wait_until("another leader, which both have seen, and the problem", told)
    assert after is not None
    for samples in after.values():
        assert samples["cyoloctl_cluster_failure_tolerance",] == 0
        assert samples["cyoloctl_cluster_healthy",] == 0
    elections = ("cyoloctl_raft_elections_total",)
    assert sum(after[name][elections] - before[name][elections] for name in after) >= 1
    cluster[leader].start()
    cluster.wait_healthy()
