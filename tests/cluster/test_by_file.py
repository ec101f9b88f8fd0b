"""Nodes that join by file, while neither side reaches the other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, Node, assert_refused, wait_until

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three voters and a learner, all running."""
    with Cluster(tmp_path_factory.mktemp("ours")) as cluster:
        cluster.form(3)
        cluster.join("l1", through="n1", learner=True)
        yield cluster


def _ask(cluster: Cluster, name: str) -> tuple[Node, Path]:
    """A new node with its request; it has no address of anybody, and nobody has its own."""
    node, out = cluster.new_node(name), cluster.base / f"{name}.request"
    made = node.cli("node", "request", "--name", name, "--listen", node.address, "--out", out)
    assert made.returncode == 0, made.stderr
    return node, out


def _grant(node: Node, request: Path, *options: str, out: str = "") -> tuple[Path, dict[str, Any]]:
    grant = request.with_name(out or f"{request.stem}.grant")
    return grant, node.json("member", "grant", "--request", request, "--out", grant, *options)


def _names(node: Node) -> list[str]:
    return [row["name"] for row in node.client().member_list()["members"]]


def _invitations(node: Node) -> list[tuple[str, str, str]]:
    found = node.json("member", "invitations")["invitations"]
    return [(each["name"], each["by"], each["state"]) for each in found]


def test_fourth_node_joins_by_file_and_becomes_a_voter_that_can_admit_others(ours: Cluster) -> None:
    n4, request = _ask(ours, "n4")
    unused = request.with_name("unused")
    refused = ours["l1"].cli("member", "grant", "--request", request, "--out", unused)
    assert_refused(refused, 77, "learner")
    before = ours["n2"].client().status()["cluster"]["healthy"]
    grant, made = _grant(ours["n2"], request, "--request-id", "once")
    assert (made["name"], made["learner"], made["replaced"]) == ("n4", False, False)
    assert _invitations(ours["n1"]) == [("n4", "file", "open")]
    assert "n4" not in _names(ours["n2"]), "nobody waits for a node that is on its way"
    assert ours["n2"].client().status()["cluster"]["healthy"] is before
    again = ours["n3"].json("member", "grant", "--request", request, "--out", grant.with_name("again"),
                            "--request-id", "once")  # fmt: skip
    assert again["expires_at"] == made["expires_at"]

    accepted = n4.json("node", "accept", "--grant", grant)
    assert accepted["ca_sha256"] == made["ca_sha256"]
    n4.start()
    wait_until("four voters", lambda: ours["n1"].client().status()["cluster"]["voters"] == 4)
    assert n4.json("node", "accept", "--grant", grant)["name"] == "n4"
    assert _invitations(n4) == []
    wait_until(
        "the CA's key at the new voter",
        lambda: "n4" in n4.json("pki", "status")["authorities"][0]["key_holders"],
    )
    assert_refused(n4.cli("member", "grant", "--request", request, "--out", unused), 4, "a member n4")
    # Its own grant admits the next one, a learner.
    l5, asked = _ask(ours, "l5")
    granted, _ = _grant(n4, asked, "--learner")
    assert l5.json("node", "accept", "--grant", granted)["learner"] is True
    l5.start()
    wait_until("the learner", lambda: "l5" in _names(n4))
    assert not (l5.directory / "pki" / "ca.key").exists()
    for name in ("l5", "n4"):
        ours["n1"].json("member", "remove", name, "--yes", "--timeout", "20")


def test_grant_that_was_withdrawn_expired_or_stolen_lets_nobody_in(ours: Cluster) -> None:
    n6, request = _ask(ours, "n6")
    grant, _ = _grant(ours["n1"], request)
    # The thief has request and grant, and keys of their own.
    thief, _ = _ask(ours, "n6-thief")
    assert_refused(thief.cli("node", "accept", "--grant", grant), 77, "another request")
    changed = json.loads(grant.read_text()) | {"cluster_id": "f" * 32}
    (broken := grant.with_name("broken")).write_text(json.dumps(changed))
    assert_refused(n6.cli("node", "accept", "--grant", broken), 65, "damaged")
    assert_refused(ours["n1"].cli("node", "accept", "--grant", grant), 4, "already holds a node")

    assert n6.cli("node", "accept", "--grant", grant).returncode == 0
    assert ours["n3"].cli("member", "uninvite", "n6").returncode == 0
    n6.launch()
    wait_until("a refusal", lambda: "no member as far as this node knows" in n6.log_path.read_text())
    assert "member grant" in n6.log_path.read_text()
    assert "n6" not in _names(ours["n1"])
    # Granted again, the node that waits comes in by the same keys and files.
    _grant(ours["n1"], request, out="second")
    wait_until("the node", lambda: "n6" in _names(ours["n1"]))
    ours["n1"].json("member", "remove", "n6", "--yes", "--timeout", "20")


def test_request_that_was_stolen_or_changed_admits_nobody_else(ours: Cluster, tmp_path: Path) -> None:
    n7, request = _ask(ours, "n7")
    value = json.loads(request.read_text())
    for change in ({"address": "203.0.113.9:7700"}, {"name": "n8"}, {"sealing_key": "A" * 43 + "="}):
        changed = tmp_path / "changed"
        changed.write_text(json.dumps(value | change))
        assert_refused(
            ours["n1"].cli("member", "grant", "--request", changed, "--out", tmp_path / "no"), 65, "request"
        )
    assert not (tmp_path / "no").exists()
    # The same file in other hands gets a grant that only the rightful node can open.
    grant, _ = _grant(ours["n1"], request)
    thief = ours.new_node("n7-thief")
    done = thief.cli("node", "request", "--name", "n7", "--listen", thief.address, "--out", tmp_path / "own")
    assert done.returncode == 0
    shutil.copy(n7.directory / "pki" / "node.csr", thief.directory / "pki" / "node.csr")
    assert_refused(thief.cli("node", "accept", "--grant", grant), 65, "not sealed for this node")
    assert not (thief.directory / "node.yaml").exists()
    assert ours["n1"].cli("member", "uninvite", "n7").returncode == 0
    assert_refused(ours["n1"].cli("member", "uninvite", "n7"), 3, "no invitation")
