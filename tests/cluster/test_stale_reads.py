"""Without a majority: what one node still shows to whoever asks for its own state."""

from __future__ import annotations

import json

import pytest

from cyoloctl.control import table
from tests.support.cluster import Cluster
from tests.support.tokens import call, wait_keys

pytestmark = pytest.mark.cluster


def test_lists_without_quorum_show_what_the_node_knows_and_say_that_it_is_stale(cluster: Cluster) -> None:
    primary = wait_keys(cluster)
    node = cluster["n1"]
    begun = call(node, "rendezvous_start", kind="mfa")["id"]
    call(node, "member_set_host", "n2", host="app-2.example.com")
    call(node, "member_invite", name="n9")
    call(node, "token_revoke", sub="mallory")
    call(node, "counter_increment", "orders", by=3)
    node.client(10.0).counters.get("orders")  # so this node has applied all of it
    for name in ("n2", "n3"):
        cluster[name].kill()
    reads = {
        ("member", "list"): "n3",
        ("member", "show", "n2"): "n2",
        ("member", "invitations"): "n9",
        ("key", "list"): primary,
        ("route", "list"): "app-2.example.com",
        ("rendezvous", "list"): begun,
        ("rendezvous", "show", begun): begun,
        ("token", "revocations"): "mallory",
        ("credentials", "list"): "n2",
        ("counter", "list"): "orders",
        ("counter", "get", "orders"): "orders",
    }
    for arguments, known in reads.items():
        shown = node.json(*arguments, "--stale")
        assert shown["stale"] is True, arguments
        assert known in json.dumps(shown), arguments
    human = node.cli("member", "list", "--stale")
    assert (human.returncode, human.stderr.startswith("stale: ")) == (0, True), human.stderr
    refused = node.cli("member", "list", "--timeout", "0.5")
    assert (refused.returncode, refused.stdout) == (75, "")


def test_every_list_of_replicated_state_can_be_read_stale() -> None:
    lists = {
        route.operation
        for route in table.routes()
        if route.method == "GET" and route.operation.endswith(("_list", "_invitations", "_revocations"))
    }
    stale = {route.operation for route in table.routes() if "consistency" in route.query_fields}
    assert lists <= stale
