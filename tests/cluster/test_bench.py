"""`cyoloctl bench` against real nodes: every operation, what it leaves, and with which rights it runs."""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl.bench.run import OPERATIONS
from tests.support.cluster import Cluster, Node, assert_refused, run

pytestmark = pytest.mark.cluster

CLIENTS = 4


def bench(node: Node, *options: str) -> dict[str, Any]:
    return node.json("bench", "--clients", str(CLIENTS), "--seconds", "0.5", *options)


def test_every_operation_is_measured_and_leaves_only_its_own_names(cluster: Cluster) -> None:
    node = cluster["n1"]
    # Reads first: what they read they have to make.
    for operation in sorted(OPERATIONS, key=lambda name: not name.startswith("get")):
        before = value(node)
        shown = bench(node, "--op", operation)
        assert (shown["failed"], shown["errors"], shown["complete"]) == (0, {}, True), shown
        assert shown["succeeded"] > CLIENTS
        assert sum(bar["count"] for bar in shown["histogram"]) == shown["succeeded"]
        latency = shown["latency_ms"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99_9"] <= latency["max"]
        assert 0 < shown["generator_cpu"] <= 1.5
        if operation == "incr":  # what was measured, and one of each client before
            assert value(node) == before + shown["succeeded"] + CLIENTS
        elif before:
            assert value(node) == before
    assert [each["name"] for each in node.json("counter", "list")["counters"]] == ["bench"]
    assert [each["key"] for each in node.json("kv", "list")["entries"]] == ["bench"]
    assert node.json("token", "revocations")["revocations"] == []


def value(node: Node) -> int:
    found = {each["name"]: each["value"] for each in node.json("counter", "list")["counters"]}
    return int(found.get("bench", 0))


def test_bench_over_tls_has_the_rights_of_its_credentials_and_survives_a_node(cluster: Cluster) -> None:
    node = cluster["n1"]
    urls = [f"https://{each.address}" for each in cluster.running()]
    asks = [word for url in urls for word in ("-e", url)]
    viewer = ["--credentials", str(cluster.viewer()), *asks]
    assert bench(node, "--op", "incr", "--rate", "50", *asks, "--credentials", str(cluster.credentials()))[
        "succeeded"
    ]
    assert_refused(run("bench", "--seconds", "0.5", *viewer), 77)
    cluster[cluster.followers()[0]].kill()
    shown = bench(node, "--op", "get", *viewer)
    assert (shown["failed"], shown["endpoints"]) == (0, urls)
    for each in cluster.running():
        each.kill()
    assert_refused(run("bench", "--op", "get-stale", "--seconds", "0.5", *viewer), 69, "could be reached")
