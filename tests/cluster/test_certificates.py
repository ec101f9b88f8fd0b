"""Certificates that are renewed, and a CA that is exchanged, on nodes that go on meanwhile."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.model import ClusterId, NodeName
from cyoloctl.pki import exchange
from cyoloctl.pki.ca import issue_certificate
from cyoloctl.pki.files import read_authorities
from cyoloctl.pki.identity import Identity
from cyoloctl.pki.requests import make_request
from cyoloctl.pki.x509 import certificate_der, certificate_sha256, is_issued_by, public_key_sha256
from tests.support.cluster import (
    Cluster,
    Node,
    NotYet,
    Writers,
    assert_refused,
    run,
    wait_until,
)
from tests.support.connections import tls_connect

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

    def done() -> str:
        status = pki_status(node)
        (only,) = status["authorities"] if len(status["authorities"]) == 1 else ({"sha256": old},)
        sha256 = str(only["sha256"])
        under = {member["ca_sha256"] for member in status["members"] if member["connected"]}
        if status["rotation"] is not None or sha256 == old or under != {sha256}:
            raise NotYet(str(status))
        return sha256

    return wait_until("the CA to be exchanged", done, 120.0)


def wait_files(node: Node, sha256: str, *, key: bool) -> None:
    """Until the directory trusts this CA alone and holds its key, or none."""
    pki_dir = node.directory / "pki"

    def done() -> bool:
        trusted = [certificate_sha256(pem) for pem in read_authorities(pki_dir)]
        held = list(exchange.held(pki_dir))
        return trusted == [sha256] and held == [sha256] * key and not (pki_dir / "ca-next.key").exists()

    wait_until(f"the files of {node.name}", done)


def handshake(node: Node, certificate: Path, key: Path) -> None:
    """Connect with a certificate and say something.  Raises OSError where it is refused."""
    with tls_connect(node.port, certificate=(certificate, key)) as connection:
        connection.sendall(b"GET /v1/health HTTP/1.1\r\nhost: n1\r\n\r\n")
        if not connection.recv(1):  # TLS 1.3: only now is it told
            raise ConnectionResetError("closed without an answer: reset")


def form_with_clocks(cluster: Cluster, *options: str, learner: bool = False) -> Cluster:
    """Three voters, and perhaps a learner l1, on machines whose clocks `set_clocks` moves."""
    for name in ("n1", "n2", "n3", *(["l1"] if learner else [])):
        node = cluster.new_node(name)
        node.step_clock(0)
        if name == "n1":
            made = node.cli("cluster", "init", "--name", "n1", "--listen", node.address, *options)
        else:
            token = cluster.invite(name, through="n1", learner=name == "l1")
            given = ("--name", name, "--listen", node.address, "--token-file", "-")
            made = node.cli("node", "join", *given, stdin=token)
        assert made.returncode == 0, made.stderr
        node.start()
        cluster.wait_settled(voters=len(cluster.nodes) - (name == "l1"))
    return cluster


def set_clocks(cluster: Cluster, offset_s: int) -> None:
    for node in cluster.nodes.values():
        node.step_clock(offset_s)


def ends(cluster: Cluster) -> dict[str, datetime]:
    """When the certificates of the members end, as the cluster knows."""
    rows = cluster.client().status()["members"]
    return {row["name"]: datetime.fromisoformat(row["certificate_expires_at"]) for row in rows}


def wait_renewed(cluster: Cluster, offset_s: int, *, away: str = "") -> None:
    """Until every member has announced a certificate that was issued after a step of the clocks."""
    after = datetime.now(UTC) + timedelta(seconds=offset_s + 23 * HOUR_S)
    wait_until(
        "every certificate renewed",
        lambda: all(end > after for name, end in ends(cluster).items() if name != away),
        120.0,
    )
    for node in cluster.running():
        assert serving(node) == certificate(node)


def test_certificates_are_renewed_twice_and_the_ca_once_without_a_restart(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        form_with_clocks(cluster, "--certificate-days", "1", learner=True)
        n1 = cluster["n1"]
        pids = {name: node.pid for name, node in cluster.nodes.items()}
        keys = {name: public_key_sha256(certificate(node)) for name, node in cluster.nodes.items()}
        assert pki_status(n1)["certificate_days"] == 1
        old = str(pki_status(n1)["authorities"][0]["sha256"])
        with Writers(cluster) as writers:
            for offset_s in (17 * HOUR_S, 35 * HOUR_S):
                set_clocks(cluster, offset_s)
                wait_renewed(cluster, offset_s)
                writers.wait_more(20)
            n1.json("pki", "rotate-ca", "--overlap", "0s", "--yes")
            wait_exchanged(cluster, n1, old)
            set_clocks(cluster, 52 * HOUR_S)
            wait_renewed(cluster, 52 * HOUR_S)
            writers.wait_more(20)
            writers.finish()
        writers.assert_exact(n1.client().counters.get("default")["value"])
        assert {name: node.pid for name, node in cluster.nodes.items() if node.running()} == pids
        assert {name: public_key_sha256(certificate(node)) for name, node in cluster.nodes.items()} == keys
        wait_until("a clean bill", lambda: n1.cli("status", "--check").returncode == 0)


def test_learner_whose_certificate_ended_while_it_was_off_is_renewed_by_file(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        form_with_clocks(cluster, "--certificate-days", "1", learner=True)
        learner, n1 = cluster["l1"], cluster["n1"]
        assert learner.terminate() == 0
        # Past two thirds first: what has ended is refused by the members, renewed or not.
        for offset_s in (17 * HOUR_S, 36 * HOUR_S):
            set_clocks(cluster, offset_s)
            wait_renewed(cluster, offset_s, away="l1")
        learner.launch()
        wait_until(
            "a member saying why",
            lambda: any(
                "certificate of node l1 ended" in str(event.get("reason")) for event in n1.log_events()
            ),
        )
        assert "certificate has ended" in learner.log_path.read_text()
        assert_refused(
            learner.cli("node", "renew"), 78, "no CA key", "--request FILE", "member grant", "--grant FILE"
        )
        request, grant = tmp_path / "request", tmp_path / "grant"
        assert learner.json("node", "renew", "--request", request)["request"] == str(request)
        assert_refused(
            cluster["n2"].cli("member", "grant", "--request", tmp_path / "n1" / "node.yaml"), 65, "request"
        )
        made = cluster["n2"].cli("member", "grant", "--request", request, "--out", grant)
        assert made.returncode == 0, made.stderr
        assert_refused(n1.cli("node", "renew", "--grant", grant), 65, "'l1'", "not for n1")
        assert learner.json("node", "renew", "--grant", grant)["name"] == "l1"
        wait_until(
            "the learner back",
            lambda: [r["reachable"] for r in n1.client().status()["members"] if r["name"] == "l1"] == [True],
        )


YEARS_S = 3 * 365 * 24 * HOUR_S


def test_cluster_that_lay_switched_off_for_three_years_renews_before_it_takes_up_the_time(
    tmp_path: Path,
) -> None:
    with Cluster(tmp_path) as cluster:
        form_with_clocks(cluster, learner=True)
        n1 = cluster["n1"]
        assert n1.client().counters.incr("default", 7)["value"] == 7
        sizes = {name: node.log_size() for name, node in cluster.nodes.items()}
        cluster.stop_all()
        set_clocks(cluster, YEARS_S)
        cluster.start_all()
        later = datetime.now(UTC) + timedelta(seconds=YEARS_S)

        def taken_up() -> bool:
            status = n1.client().status()
            now = datetime.fromisoformat(status["cluster"]["time"])
            if now < later or not status["cluster"]["healthy"]:
                raise NotYet(str(status))
            return True

        wait_until("the time of today", taken_up, 120.0)
        wait_until("every certificate renewed", lambda: all(end > later for end in ends(cluster).values()))
        assert n1.client().counters.incr("default", 1)["value"] == 8
        wait_until("a clean bill", lambda: n1.cli("status", "--check").returncode == 0)
        for name, node in cluster.nodes.items():
            refused = [e for e in node.log_events(sizes[name]) if "ended at" in str(e.get("reason"))]
            assert refused == [], name  # the time came after the certificates


def test_voter_that_was_off_until_its_certificate_ended_renews_it_when_nobody_lets_it_in(
    tmp_path: Path,
) -> None:
    with Cluster(tmp_path) as cluster:
        form_with_clocks(cluster, "--certificate-days", "1")
        n1, n3 = cluster["n1"], cluster["n3"]
        assert n3.terminate() == 0
        for offset_s in (17 * HOUR_S, 35 * HOUR_S):
            set_clocks(cluster, offset_s)
            wait_renewed(cluster, offset_s, away="n3")
        n3.start()
        cluster.wait_settled(3, 120.0)
        assert any("certificate of node n3 ended" in str(e.get("reason")) for e in n1.log_events())


def test_rotation_goes_on_whoever_ends_in_the_middle_of_it(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.form(3)
        n1 = cluster["n1"]
        old = str(pki_status(n1)["authorities"][0]["sha256"])
        with Writers(cluster) as writers:
            n1.json("pki", "rotate-ca", "--overlap", "0s", "--yes")
            # Whoever began it ends at once, then the others one after the other, wherever they are.
            for name in ("n1", "n2", "n3", "n1", "n2", "n3"):
                cluster[name].kill()
                cluster[name].start()
            wait_exchanged(cluster, n1, old)
            writers.finish()
        writers.assert_exact(n1.client().counters.get("default")["value"])
        new = str(pki_status(n1)["authorities"][0]["sha256"])
        for node in cluster.nodes.values():
            wait_files(node, new, key=True)


def test_member_that_is_away_holds_a_rotation_up_and_its_removal_makes_another_one_due(
    tmp_path: Path,
) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.form(3)
        n1, n3 = cluster["n1"], cluster["n3"]
        assert n1.cli("status", "--check").returncode == 0
        n3.kill()
        begun = n1.json("pki", "rotate-ca", "--overlap", "0s", "--yes")
        assert begun["away"] == ["n3"]
        rotation = wait_until(
            "the others waiting",
            lambda: r if (r := pki_status(n1)["rotation"])["waiting_for"] == ["n3"] else None,
        )
        assert rotation["step"] == "distributing"
        removed = n1.json("member", "remove", "n3", "--yes")
        assert removed["ca_rotation_due"]
        first = wait_exchanged(cluster, n1, begun["sha256"][::-1])
        assert first == begun["sha256"]
        # It was sealed the key of the new one: that one is to be exchanged too.
        assert pki_status(n1)["rotation_due"]
        unhappy = n1.cli("status", "--check")
        assert unhappy.returncode == 4
        assert "n3 was removed and has had the key" in unhappy.stderr
        n1.json("pki", "rotate-ca", "--overlap", "0s", "--yes")
        wait_exchanged(cluster, n1, first)
        wait_until("a clean bill", lambda: n1.cli("status", "--check").returncode == 0)


def test_what_is_issued_during_the_overlap_works_after_it_and_what_was_before_does_not(
    tmp_path: Path,
) -> None:
    with Cluster(tmp_path) as cluster:
        form_with_clocks(cluster)
        n1 = cluster["n1"]
        old = str(pki_status(n1)["authorities"][0]["sha256"])
        before, during = tmp_path / "before", tmp_path / "during"
        for name, file in (("ann", tmp_path / "ann"), ("bob", before)):
            made = n1.cli("credentials", "create", "--role", "viewer", "--name", name, "--out", file)
            assert made.returncode == 0, made.stderr

        def counters(file: Path) -> int:
            endpoint = f"https://n1@{n1.address}"
            return run("counter", "list", "-e", endpoint, "--credentials", file).returncode

        assert counters(before) == 0
        early = cluster.invite("n4", through="n1", ttl_s=6 * HOUR_S)
        n1.json("pki", "rotate-ca", "--overlap", "1h", "--yes")
        status = wait_until(
            "the overlap",
            lambda: s if (s := pki_status(n1))["rotation"]["step"] == "overlap" else None,
        )
        assert {"ann", "bob"} <= set(status["credentials_to_renew"])
        renewed = n1.cli("credentials", "renew", "ann", "--out", during)
        assert renewed.returncode == 0, renewed.stderr
        assert "ann" not in pki_status(n1)["credentials_to_renew"]
        assert [counters(before), counters(during)] == [0, 0]
        late = cluster.invite("n5", through="n1", ttl_s=6 * HOUR_S)
        for name, token in (("n4", early), ("n5", late)):
            if name == "n5":
                set_clocks(cluster, 2 * HOUR_S)
                new = wait_exchanged(cluster, n1, old)
                assert [counters(before), counters(during)] == [77, 0]
            node = cluster.new_node(name)
            node.step_clock(2 * HOUR_S if name == "n5" else 0)
            given = ("--name", name, "--listen", node.address, "--token-file", "-")
            joined = node.cli("node", "join", *given, stdin=token)
            assert joined.returncode == 0, joined.stderr
            node.start()
            cluster.wait_settled(len(cluster.nodes))
        for node in cluster.nodes.values():
            wait_files(node, new, key=True)


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
            assert_refused(n1.cli("pki", "rotate-ca", "--yes"), 4, "already under way", "pki status")
            new = wait_exchanged(cluster, n1, old)
            assert begun["sha256"] == new
            writers.wait_more(20)
            writers.finish()
        writers.assert_exact(n1.client().counters.get("default")["value"])
        for name, node in cluster.nodes.items():
            wait_files(node, new, key=name != "l1")
            shown = certificate_der(serving(node))
            assert any(is_issued_by(shown, ca) for ca in read_authorities(node.directory / "pki"))
        assert pki_status(n1)["members"][0]["name"] == "l1"

        # Whoever has the old CA's key makes certificates for everybody, and no TLS with any of them.
        identity = Identity(NodeName("n3"), "node", ClusterId(n1.json("status")["cluster"]["id"]))
        request = make_request("n3", identity.cluster_id)
        stolen = issue_certificate(
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
        # A learner never had the key.
        assert not n1.json("member", "remove", "l1", "--yes")["ca_rotation_due"]
        assert not pki_status(n1)["rotation_due"]
