"""Certificates that are renewed, and a CA that is exchanged, on nodes that go on meanwhile."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cyoloctl import authority, pki
from cyoloctl.identity import Identity
from cyoloctl.model import ClusterId, NodeName
from tests.support.cluster import Cluster, Node, Writers, assert_refused, tls_connect, wait_until

HOUR_S = 3600


def certificate(node: Node) -> str:
    return (node.directory / "pki" / "node.crt").read_text()


def serving(node: Node) -> str:
    """The certificate that the node shows whoever connects, in PEM."""
    return ssl.get_server_certificate(("127.0.0.1", node.port))


def pki_status(node: Node) -> dict[str, Any]:
    return node.client().call("pki_status")


def wait_exchanged(cluster: Cluster, node: Node, old: str) -> str:
    """The new CA's SHA-256, once only it counts and every member is under it."""

    def done() -> str | None:
        status = pki_status(node)
        (only,) = status["authorities"] if len(status["authorities"]) == 1 else ({"sha256": old},)
        sha256 = str(only["sha256"])
        under = {member["ca_sha256"] for member in status["members"] if member["connected"]}
        return sha256 if status["rotation"] is None and sha256 != old and under == {sha256} else None

    found = wait_until("the CA to be exchanged", done, 60.0)
    assert found is not None
    return found


def wait_files(node: Node, sha256: str, *, key: bool) -> None:
    """Until the directory trusts this CA alone and holds its key, or none."""
    pki_dir = node.directory / "pki"

    def done() -> bool:
        trusted = [pki.certificate_sha256(pem) for pem in pki.read_authorities(pki_dir)]
        held = list(authority.held(pki_dir))
        return trusted == [sha256] and held == [sha256] * key and not (pki_dir / "ca-next.key").exists()

    wait_until(f"the files of {node.name}", done)


def handshake(node: Node, certificate: Path, key: Path) -> None:
    """Connect with a certificate and say something.  Raises OSError where it is refused."""
    with tls_connect(node.port, certificate=(certificate, key)) as connection:
        connection.sendall(b"GET /v1/health HTTP/1.1\r\nhost: n1\r\n\r\n")
        if not connection.recv(1):  # TLS 1.3: only now is it told
            raise ConnectionResetError("closed without an answer: reset")


def test_ca_is_exchanged_under_writes_and_what_the_old_one_vouches_for_counts_no_more(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.form(3)
        cluster.join("l1", learner=True)
        n1 = cluster["n1"]
        before = pki_status(n1)
        old = str(before["authorities"][0]["sha256"])
        assert before["authorities"][0]["key_holders"] == ["n1", "n2", "n3"]
        assert not before["rotation_due"]
        loot = tmp_path / "loot"
        loot.mkdir()
        for file in ("ca.crt", "ca.key"):
            (loot / file).write_bytes((n1.directory / "pki" / file).read_bytes())

        with Writers(cluster) as writers:
            planned = n1.json("pki", "rotate-ca", "--dry-run")
            assert planned["members"] == ["l1", "n1", "n2", "n3"]
            assert pki_status(n1)["rotation"] is None
            begun = cluster["n2"].json("pki", "rotate-ca", "--overlap", "0s", "--yes")
            assert_refused(n1.cli("pki", "rotate-ca", "--yes"), 4, "goes on already", "pki status")
            new = wait_exchanged(cluster, n1, old)
            assert begun["sha256"] == new
            writers.wait_more(20)
            writers.finish()
        writers.assert_exact(n1.client().counter_get("default")["value"])
        for name, node in cluster.nodes.items():
            wait_files(node, new, key=name != "l1")
            assert authority.issuer_of(serving(node), pki.read_authorities(node.directory / "pki"))
        assert pki_status(n1)["members"][0]["name"] == "l1"

        # Whoever has the old CA's key makes certificates for everybody, and no TLS with any of them.
        identity = Identity(NodeName("n3"), "node", ClusterId(n1.json("status")["cluster"]["id"]))
        request = pki.make_request("n3", identity.cluster_id)
        stolen = pki.issue(
            (loot / "ca.crt").read_text(),
            (loot / "ca.key").read_text(),
            request.request_pem,
            identity,
            now=datetime.now(UTC),
        )
        (loot / "n3.crt").write_text(stolen)
        (loot / "n3.key").write_text(request.node_key_pem)
        with pytest.raises(OSError, match=r"(?i)unknown ca|reset|eof"):
            handshake(n1, loot / "n3.crt", loot / "n3.key")

        cluster.join("n4")
        cluster.wait_settled(4)
        wait_files(cluster["n4"], new, key=True)
        for node in cluster.nodes.values():
            assert node.terminate() == 0
        cluster.start_all()
        cluster.wait_settled(4)
