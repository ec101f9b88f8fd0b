"""TLS contexts of a node, and its identity while it runs, with real handshakes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cyoloctl.errors import AccessDenied, ConfigError
from cyoloctl.pki.ca import create_ca, new_cluster_id
from cyoloctl.pki.files import PKI_DIRECTORY, check_private_files, read_ca
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.identity import AccessRole
from cyoloctl.pki.tls import TlsIdentity, peer_context, presented, server_context
from cyoloctl.pki.x509 import certificate_der, certificate_expires_at, public_key_sha256
from tests.support.authorities import renew_own
from tests.support.pki import (
    ID,
    NOW,
    OTHER_ID,
    Cluster,
    client_context,
    forge,
    handshake,
    identity_of,
    join,
    make_cluster,
    server_with,
)


def test_peer_handshake_between_nodes_names_both_and_is_tls_1_3(cluster: Cluster, tmp_path: Path) -> None:
    join(cluster, tmp_path, "n2")
    client, server = handshake(peer_context(tmp_path), server_context(cluster.pki_dir))
    assert identity_of(server) == cluster.identity("n2", "node")
    assert identity_of(client) == cluster.identity("n1", "node")
    assert client.version() == server.version() == "TLSv1.3"
    assert client.selected_alpn_protocol() == server.selected_alpn_protocol() == "cyoloctl-raft/3"


def test_server_context_without_a_client_certificate_serves_http_to_nobody_in_particular(
    cluster: Cluster, tmp_path: Path
) -> None:
    context = client_context(cluster.ca, None, tmp_path)
    context.set_alpn_protocols(["http/1.1"])
    client, server = handshake(context, server_context(cluster.pki_dir))
    assert identity_of(server) is None
    assert server.selected_alpn_protocol() == "http/1.1"
    assert identity_of(client) == cluster.identity("n1", "node")


@pytest.mark.parametrize("role", ["node", "operator", "gateway", "viewer"])
def test_server_context_takes_name_and_role_from_the_certificate(
    cluster: Cluster, tmp_path: Path, role: AccessRole
) -> None:
    context = client_context(cluster.ca, cluster.certified("who", role), tmp_path)
    _, server = handshake(context, server_context(cluster.pki_dir))
    assert identity_of(server) == cluster.identity("who", role)


class _Der:
    """A finished handshake in which this certificate was shown."""

    def __init__(self, der: bytes | None) -> None:
        self._der = der

    def getpeercert(self, binary_form: bool, /) -> bytes | None:
        assert binary_form
        return self._der


_NAME = f"n1.node.{ID}.cyoloctl"


@pytest.mark.parametrize(
    "names",
    [
        [x509.DNSName(_NAME), x509.DNSName(_NAME)],
        [x509.DNSName(_NAME), x509.IPAddress(ip_address("127.0.0.1"))],
        [x509.UniformResourceIdentifier(_NAME)],
        [x509.DNSName("localhost")],
        [x509.DNSName(f"n1.node.{OTHER_ID}.cyoloctl")],
    ],
)
def test_certificate_with_names_of_another_form_or_cluster_is_refused(
    cluster: Cluster, names: list[x509.GeneralName]
) -> None:
    good = cluster.certified("n1", "node")[0]
    assert presented(_Der(certificate_der(good)), cluster_id=ID) is not None
    forged = forge(cluster, good, x509.SubjectAlternativeName(names))
    with pytest.raises(AccessDenied):
        presented(_Der(certificate_der(forged)), cluster_id=ID)


def test_certificate_without_a_name_and_what_is_none_are_refused(cluster: Cluster) -> None:
    for der in (certificate_der(cluster.ca), b"", b"no certificate"):
        with pytest.raises(AccessDenied):
            presented(_Der(der), cluster_id=ID)


def test_nobody_is_presented_without_a_certificate_or_tls() -> None:
    assert presented(_Der(None), cluster_id=ID) is None
    assert presented(None, cluster_id=ID) is None


def test_server_context_gives_no_ticket_so_that_each_connection_shows_its_certificate(
    cluster: Cluster, tmp_path: Path
) -> None:
    client, _ = handshake(client_context(cluster.ca, None, tmp_path), server_context(cluster.pki_dir))
    with pytest.raises(ssl.SSLWantReadError):
        client.read(1)  # a ticket would come after the handshake
    session = client.session
    assert session is not None
    assert not session.has_ticket


def test_server_context_refuses_tls_1_2(cluster: Cluster, tmp_path: Path) -> None:
    context = client_context(cluster.ca, None, tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)version|protocol"):
        handshake(context, server_context(cluster.pki_dir))


def test_server_context_refuses_a_client_of_another_ca(
    cluster: Cluster, other: Cluster, tmp_path: Path
) -> None:
    context = client_context(cluster.ca, other.certified("n2"), tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        handshake(context, server_context(cluster.pki_dir))


def test_server_context_refuses_a_client_of_a_second_ca_with_the_same_id_and_name(
    cluster: Cluster, tmp_path: Path
) -> None:
    forged = replace(cluster, ca="", key="")
    ca, key = create_ca(ID, "demo", NOW)
    context = client_context(cluster.ca, replace(forged, ca=ca, key=key).certified("n1"), tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, server_context(cluster.pki_dir))


def test_peer_context_refuses_a_server_of_another_cluster(cluster: Cluster, other: Cluster) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(peer_context(cluster.pki_dir), server_context(other.pki_dir))


def test_peer_context_refuses_a_stranger_that_takes_every_client(
    cluster: Cluster, other: Cluster, tmp_path: Path
) -> None:
    anybody = server_with(other.certified("n1"), other.ca, tmp_path)
    anybody.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(peer_context(cluster.pki_dir), anybody)


@pytest.mark.parametrize("role", ["operator", "gateway", "viewer"])
def test_peer_context_refuses_an_operator_or_viewer_as_server(
    cluster: Cluster, tmp_path: Path, role: AccessRole
) -> None:
    server = server_with(cluster.certified("n1", role), cluster.ca, tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(peer_context(cluster.pki_dir), server)


@pytest.mark.parametrize("days", [-100, 100], ids=["expired", "early"])
def test_contexts_leave_dates_to_the_judge_and_show_them_on_both_sides(tmp_path: Path, days: int) -> None:
    """Cluster time judges them: OpenSSL would ask the clock of this machine."""
    old = make_cluster(tmp_path / "old", ID, NOW - timedelta(days=1000))
    renew_own(old.pki_dir, NOW)
    certified = old.certified("n2", now=NOW + timedelta(days=days), days=30)
    _, server = handshake(client_context(old.ca, certified, tmp_path), server_context(old.pki_dir))
    client, _ = handshake(peer_context(old.pki_dir), server_with(certified, old.ca, tmp_path))
    for side in (server, client):
        shown = presented(side, cluster_id=ID)
        assert shown is not None
        assert shown.identity == old.identity("n2", "node")
        assert shown.key_hash == public_key_sha256(certified[0])
        assert shown.expires_unix_ms == certificate_expires_at(certified[0]).timestamp() * 1000


def test_server_context_refuses_a_certificate_that_a_ca_issued_outside_its_cluster(
    cluster: Cluster, tmp_path: Path
) -> None:
    certificate, key = cluster.certified("n2")
    elsewhere = x509.SubjectAlternativeName([x509.DNSName(f"n2.node.{OTHER_ID}.cyoloctl")])
    forged = forge(cluster, certificate, elsewhere)
    with pytest.raises(ssl.SSLCertVerificationError, match="subtree"):
        handshake(client_context(cluster.ca, (forged, key), tmp_path), server_context(cluster.pki_dir))


def test_context_of_an_encrypted_key_raises_config_error(fresh: Cluster) -> None:
    key = serialization.load_pem_private_key((fresh.pki_dir / "node.key").read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (fresh.pki_dir / "node.key").write_bytes(encrypted)
    for make in (server_context, peer_context):
        with pytest.raises(ConfigError, match=r"node\.key"):
            make(fresh.pki_dir)


def test_context_without_files_names_the_missing_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*ca\.crt"):
        server_context(tmp_path)


def test_server_context_of_a_key_that_others_may_read_is_refused(fresh: Cluster) -> None:
    (fresh.pki_dir / "node.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        server_context(fresh.pki_dir)


# ---- the identity of a running node: what the next connection uses after files were exchanged ----


def _node(where: Path, cluster_id: str | None = None) -> Path:
    new_cluster(where, name="n1", cluster="c", now=datetime.now(UTC), cluster_id=cluster_id)
    return where / PKI_DIRECTORY


async def _connect(tls: TlsIdentity, client: ssl.SSLContext) -> tuple[bytes, bytes]:
    """The certificates that client and server showed each other."""
    shown: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    ended = []

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown.set_result(writer.get_extra_info("ssl_object").getpeercert(True))
        writer.close()
        ended.append(writer)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls.listening)
    port = server.sockets[0].getsockname()[1]
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="")
        of_server = writer.get_extra_info("ssl_object").getpeercert(True)
        of_client = await asyncio.wait_for(shown, 5)
        writer.close()
        ended.append(writer)
        for each in ended:  # or the next test is blamed for what this one left open
            with contextlib.suppress(OSError):
                await each.wait_closed()
    finally:
        server.close()
    return of_client, of_server


def _der(pki_dir: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert((pki_dir / "node.crt").read_text())


def test_listener_after_a_renewal_shows_the_new_certificate(tmp_path: Path) -> None:
    pki_dir = _node(tmp_path / "a")
    tls = TlsIdentity(pki_dir)
    old = _der(pki_dir)
    assert asyncio.run(_connect(tls, tls.client)) == (old, old)

    renew_own(pki_dir)
    assert asyncio.run(_connect(tls, tls.client)) == (old, old)  # not reloaded yet
    tls.reload()
    new = _der(pki_dir)
    assert new != old
    assert asyncio.run(_connect(tls, tls.client)) == (new, new)


def test_listener_after_a_second_ca_trusts_both_and_after_the_drop_only_one(tmp_path: Path) -> None:
    cluster_id = new_cluster_id()
    pki_dir = _node(tmp_path / "a", cluster_id)
    other_dir = _node(tmp_path / "b", cluster_id)
    tls, other = TlsIdentity(pki_dir), TlsIdentity(other_dir)
    both = (pki_dir / "ca.crt").read_text() + (other_dir / "ca.crt").read_text()
    with pytest.raises((ssl.SSLError, OSError)):
        asyncio.run(_connect(tls, other.client))

    for directory in (pki_dir, other_dir):
        (directory / "ca.crt").write_text(both)
    tls.reload()
    other.reload()
    assert asyncio.run(_connect(tls, other.client)) == (_der(other_dir), _der(pki_dir))
    assert tls.is_trusted(_der(other_dir))
    assert len(tls.authorities) == 2
    for directory in (pki_dir, other_dir):
        check_private_files(directory, name="n1", cluster_id=cluster_id)
        assert read_ca(directory)[0] in tls.authorities

    (pki_dir / "ca.crt").write_text(tls.authorities[0])
    tls.reload()
    assert not tls.is_trusted(_der(other_dir))
    assert tls.is_trusted(_der(pki_dir))
    with pytest.raises((ssl.SSLError, OSError, TimeoutError)):
        asyncio.run(_connect(tls, other.client))


def test_connection_from_before_a_renewal_shows_the_old_certificate_and_one_after_a_second_ca_does_not(
    tmp_path: Path,
) -> None:
    pki_dir, other_dir = _node(tmp_path / "a"), _node(tmp_path / "b")
    tls = TlsIdentity(pki_dir)
    early = tls.client.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    (pki_dir / "ca.crt").write_text((pki_dir / "ca.crt").read_text() + (other_dir / "ca.crt").read_text())
    tls.reload()
    late = tls.client.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    assert tls.shows_present(early)
    assert tls.shows_present(late)
    renew_own(pki_dir)
    tls.reload()
    assert not tls.shows_present(early)
    assert not tls.shows_present(late)
    assert tls.shows_present(tls.server.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True))


def test_reload_of_files_that_do_not_fit_changes_nothing(tmp_path: Path) -> None:
    pki_dir = _node(tmp_path / "a")
    tls = TlsIdentity(pki_dir)
    before = tls.server, tls.client, tls.authorities
    (pki_dir / "node.crt").write_text("nothing")
    with pytest.raises(ConfigError):
        tls.reload()
    assert (tls.server, tls.client, tls.authorities) == before
