"""A cluster whose CA is kept offline, on real nodes: nodes come in by file alone, and no disk can vouch."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, Node, assert_refused, wait_until

pytestmark = pytest.mark.cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        yield cluster


def _found(cluster: Cluster, stick: Path) -> Node:
    node = cluster.new_node("n1")
    made = node.json(
        "cluster", "init", "--name", "n1", "--listen", node.address, "--offline-ca", "--ca-file", stick
    )
    assert made["offline_ca"] == str(stick)
    node.start()
    return node


def _let_in(cluster: Cluster, name: str, through: Node, stick: Path) -> Node:
    node = cluster.new_node(name)
    request, grant = cluster.base / f"{name}.request", cluster.base / f"{name}.grant"
    node.json("node", "request", "--name", name, "--listen", node.address, "--out", request)
    assert_refused(
        through.cli("member", "grant", "--request", request, "--out", grant),
        78,
        "kept offline",
        "--ca-file FILE",
    )
    through.json("member", "grant", "--request", request, "--ca-file", stick, "--out", grant)
    node.json("node", "accept", "--grant", grant)
    node.start()
    return node


def _key_bytes(stick: Path) -> list[bytes]:
    """The CA's private key as it may lie on a disk: lines of PEM, and the 32 bytes that they hold."""
    text = stick.read_text().split("-----BEGIN PRIVATE KEY-----")[1].split("-----END")[0]
    lines = text.split()  # the third one has the public key
    return [lines[0].encode(), lines[1].encode(), base64.b64decode("".join(lines))[36:68]]


def test_nodes_come_in_with_the_file_of_the_ca_alone_and_no_disk_holds_its_key(
    cluster: Cluster, tmp_path: Path
) -> None:
    stick = tmp_path / "stick" / "ca.pem"
    stick.parent.mkdir()
    n1 = _found(cluster, stick)
    assert_refused(
        n1.cli("member", "invite", "--name", "n2"), 4, "kept offline", "member grant --ca-file FILE"
    )
    n2 = _let_in(cluster, "n2", n1, stick)
    cluster.wait_settled(voters=2)
    _let_in(cluster, "n3", n2, stick)
    cluster.wait_settled(voters=3)
    assert n2.json("pki", "status")["authorities"][0]["key_holders"] == []
    assert_refused(n1.cli("pki", "rotate-ca", "--yes"), 4, "kept offline")

    # Credentials, and a certificate renewed by file and in place.
    ann = tmp_path / "ann.yaml"
    create = ("credentials", "create", "--name", "ann", "--role", "operator", "--out", ann)
    assert_refused(n1.cli(*create), 78, "kept offline", "--ca-file FILE")
    assert not ann.exists()
    n1.json(*create, "--ca-file", stick)
    over_tls = ("-e", f"https://n3@{cluster['n3'].address}", "--credentials", ann)
    assert n1.cli("status", *over_tls).returncode == 0
    n1.json("credentials", "renew", "ann", "--out", ann, "--ca-file", stick, "--new-key")
    assert n1.cli("status", *over_tls).returncode == 0
    request, grant = tmp_path / "renewal", tmp_path / "renewed"
    before = (n2.directory / "pki" / "node.crt").read_text()
    n2.json("node", "renew", "--request", request)
    assert_refused(n1.cli("member", "grant", "--request", request, "--out", grant), 78, "--ca-file FILE")
    n1.json("member", "grant", "--request", request, "--ca-file", stick, "--out", grant)
    n2.json("node", "renew", "--grant", grant)
    cluster["n3"].json("node", "renew", "--ca-file", stick)
    assert (n2.directory / "pki" / "node.crt").read_text() != before

    # Nobody who leaves has known the key: nothing has to be exchanged.
    removed = n1.json("member", "remove", "n2", "--yes")
    assert not removed["ca_rotation_due"]
    wait_until("healthy", lambda: n1.cli("status", "--check").returncode == 0)
    cluster.stop_all()
    for node in cluster.nodes.values():
        for path in node.directory.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert not any(part in data for part in _key_bytes(stick)), path


def test_file_of_another_ca_admits_nobody(cluster: Cluster, tmp_path: Path) -> None:
    stick, other = tmp_path / "ca.pem", tmp_path / "other.pem"
    n1 = _found(cluster, stick)
    elsewhere = cluster.new_node("m1")
    elsewhere.json(
        "cluster", "init", "--name", "m1", "--listen", elsewhere.address, "--offline-ca", "--ca-file", other
    )
    n2 = cluster.new_node("n2")
    request, grant = tmp_path / "n2.request", tmp_path / "n2.grant"
    n2.json("node", "request", "--name", "n2", "--listen", n2.address, "--out", request)
    refused = n1.cli("member", "grant", "--request", request, "--ca-file", other, "--out", grant)
    assert_refused(refused, 65, "another CA")
    assert not grant.exists()
    assert n1.json("member", "invitations")["invitations"] == []
    assert_refused(n1.cli("node", "renew", "--ca-file", other), 65, "is not the CA of this node's cluster")
    for wrong, status, text in (
        (tmp_path / "nowhere", 65, "check the path"),
        (n1.directory / "pki" / "ca.crt", 78, "cluster init --offline-ca"),
    ):
        refused = n1.cli("member", "grant", "--request", request, "--ca-file", wrong, "--out", grant)
        assert_refused(refused, status, text)
    os.chmod(stick, 0o644)
    refused = n1.cli("member", "grant", "--request", request, "--ca-file", stick, "--out", grant)
    assert_refused(refused, 78, "chmod 600")
