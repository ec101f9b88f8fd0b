"""Certificates, requests, grants, join tokens and TLS, with real keys and real handshakes."""

from __future__ import annotations

import base64
import json
import os
import ssl
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from cyoloctl.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigError,
    Conflict,
    InvalidInput,
    VersionMismatch,
)
from cyoloctl.model import Address, NodeName
from cyoloctl.pki.ca import create_ca, issue_certificate, make_credentials
from cyoloctl.pki.files import check_private_files, read_authorities, read_ca, write_credentials
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.grants import Grant, accept_grant, decode_grant, make_grant
from cyoloctl.pki.identity import AccessRole, Identity, identity_from_peer, parse_cluster_id, parse_identity
from cyoloctl.pki.requests import (
    NodeRequest,
    PendingRequest,
    check_request,
    csr_sha256,
    decode_request,
    encode_request,
    make_request,
    prepare_request,
)
from cyoloctl.pki.seal import open_sealed, seal
from cyoloctl.pki.tls import peer_context, presented, server_context
from cyoloctl.pki.x509 import certificate_expires_at, certificate_sha256, public_key_sha256
from tests.support.authorities import renew_own

# The TLS library reads the real clock, so the certificates here are made around it.
NOW = datetime.now(UTC)
ID = "0123456789abcdef0123456789abcdef"
OTHER_ID = "f" * 32


@dataclass(frozen=True)
class Cluster:
    """A CA and the directory of its first node."""

    id: str
    directory: Path
    ca: str
    key: str

    @property
    def pki_dir(self) -> Path:
        return self.directory / "pki"

    def identity(self, name: str, role: AccessRole) -> Identity:
        return Identity(NodeName(name), role, parse_cluster_id(self.id))

    def certified(
        self, name: str, role: AccessRole = "node", *, now: datetime = NOW, days: int = 30
    ) -> tuple[str, str]:
        """A fresh key with a certificate: (certificate PEM, key PEM)."""
        request = make_request(name)
        certificate = issue_certificate(
            self.ca, self.key, request.request_pem, self.identity(name, role), now=now, days=days
        )
        return certificate, request.node_key_pem


def make_cluster(directory: Path, cluster_id: str, now: datetime = NOW) -> Cluster:
    new_cluster(directory, name="n1", cluster="demo", now=now, cluster_id=cluster_id)
    return Cluster(cluster_id, directory, *read_ca(directory / "pki"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    return make_cluster(tmp_path_factory.mktemp("one"), ID)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    return make_cluster(tmp_path_factory.mktemp("two"), OTHER_ID)


@pytest.fixture
def fresh(tmp_path: Path) -> Cluster:
    """One that a test may spoil."""
    return make_cluster(tmp_path / "data", ID)


# -- identities ---------------------------------------------------------------------------------


def test_identity_and_its_dns_name_are_one_to_one() -> None:
    identity = Identity(NodeName("n-1"), "viewer", parse_cluster_id(ID))
    assert str(identity) == f"n-1.viewer.{ID}.cyoloctl"
    assert parse_identity(str(identity)) == identity


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"n1.root.{ID}.cyoloctl",
        f"n1.node.{ID}.cyoloctl.",
        f"n1.node.{ID}.cyoloctl\n",
        f"n1.node.{ID}x.cyoloctl",
        f"n1.node.{ID.upper()}.cyoloctl",
        f"N1.node.{ID}.cyoloctl",
        f"*.node.{ID}.cyoloctl",
        f"a.n1.node.{ID}.cyoloctl",
        f"n1.node.{ID}.cyoloctl.evil.example",
        f".node.{ID}.cyoloctl",
        f"{'n' * 64}.node.{ID}.cyoloctl",
    ],
)
def test_parse_identity_of_anything_else_is_none(text: str) -> None:
    assert parse_identity(text) is None


@pytest.mark.parametrize(
    ("name", "role", "cluster_id"), [("N", "node", ID), ("n", "root", ID), ("n", "node", "1")]
)
def test_identity_of_invalid_parts_raises_invalid_input(name: Any, role: Any, cluster_id: Any) -> None:
    with pytest.raises(InvalidInput):
        Identity(name, role, cluster_id)


class Presented:
    """The certificate of a finished handshake, as the TLS library tells it."""

    def __init__(self, certificate: object) -> None:
        self._certificate = certificate

    def getpeercert(self) -> object:
        return self._certificate


NAME = f"n1.node.{ID}.cyoloctl"


@pytest.mark.parametrize(
    "certificate",
    [
        {},
        {"subject": ((("commonName", NAME),),)},
        {"subjectAltName": ()},
        {"subjectAltName": (("DNS", NAME), ("DNS", NAME))},
        {"subjectAltName": (("DNS", NAME), ("IP Address", "127.0.0.1"))},
        {"subjectAltName": (("URI", NAME),)},
        {"subjectAltName": (("DNS", "localhost"),)},
        {"subjectAltName": (("DNS", f"n1.node.{OTHER_ID}.cyoloctl"),)},
    ],
)
def test_identity_from_peer_of_another_form_or_cluster_raises_access_denied(certificate: object) -> None:
    with pytest.raises(AccessDenied):
        identity_from_peer(Presented(certificate), cluster_id=ID)


def test_identity_from_peer_without_a_certificate_or_tls_is_none() -> None:
    assert identity_from_peer(Presented(None), cluster_id=ID) is None
    assert identity_from_peer(None, cluster_id=ID) is None


# -- certificates -------------------------------------------------------------------------------


def test_issue_of_each_role_verifies_with_openssl_in_strict_mode(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(cluster.ca)
    roles: list[tuple[AccessRole, str, bool]] = [
        ("node", "sslserver", True),
        ("node", "sslclient", True),
        ("operator", "sslclient", True),
        ("operator", "sslserver", False),
        ("viewer", "sslclient", True),
        ("viewer", "sslserver", False),
    ]
    for role, purpose, good in roles:
        (tmp_path / "leaf.pem").write_text(cluster.certified("n1", role)[0])
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.pem", "leaf.pem"]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (found.returncode == 0) is good, (role, purpose, found.stderr)


def test_issue_starts_a_day_early_and_ends_after_the_days(cluster: Cluster) -> None:
    now = NOW + timedelta(days=10)
    certificate = x509.load_pem_x509_certificate(cluster.certified("n1", now=now, days=825)[0].encode())
    second = now.replace(microsecond=0)
    assert certificate.not_valid_before_utc == second - timedelta(days=1)
    assert certificate.not_valid_after_utc == second + timedelta(days=825)


def test_issue_near_the_end_of_the_ca_ends_with_it(cluster: Cluster) -> None:
    certificate, _ = cluster.certified("n1", now=NOW + timedelta(days=3600), days=825)
    assert certificate_expires_at(certificate) == certificate_expires_at(cluster.ca)
    assert certificate_expires_at(cluster.ca).tzinfo is UTC


@pytest.mark.parametrize("days", [-2, 3650])
def test_issue_outside_the_life_of_the_ca_raises_config_error(cluster: Cluster, days: int) -> None:
    with pytest.raises(ConfigError, match="set the clock"):
        cluster.certified("n1", now=NOW + timedelta(days=days))


@pytest.mark.parametrize("days", [0, -1, 826])
def test_issue_for_too_many_or_few_days_raises_invalid_input(cluster: Cluster, days: int) -> None:
    with pytest.raises(InvalidInput, match="use 1 to 825"):
        cluster.certified("n1", days=days)


def test_issue_for_another_cluster_or_with_another_key_raises_config_error(
    cluster: Cluster, other: Cluster
) -> None:
    with pytest.raises(ConfigError, match="of another cluster"):
        replace(cluster, id=OTHER_ID).certified("n1")
    with pytest.raises(ConfigError, match="does not belong"):
        replace(cluster, key=other.key).certified("n1")
    leaf, leaf_key = cluster.certified("n1")
    with pytest.raises(ConfigError, match="not the CA"):
        replace(cluster, ca=leaf, key=leaf_key).certified("n2")


def test_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        create_ca(ID, "demo", datetime(2026, 1, 1))


def test_key_id_is_the_same_in_key_request_and_certificate_and_differs_between_keys(cluster: Cluster) -> None:
    request = make_request("n1")
    certificate = issue_certificate(
        cluster.ca, cluster.key, request.request_pem, cluster.identity("n1", "node"), now=NOW
    )
    private = serialization.load_pem_private_key(request.node_key_pem.encode(), None)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert (
        public_key_sha256(request.request_pem)
        == public_key_sha256(certificate)
        == public_key_sha256(public.decode())
    )
    assert public_key_sha256(certificate) != public_key_sha256(cluster.ca)


@pytest.mark.parametrize(
    "text", ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "\u00e9"]
)
def test_certificate_helpers_of_other_texts_raise_invalid_input(text: str) -> None:
    with pytest.raises(InvalidInput):
        certificate_expires_at(text)
    with pytest.raises(InvalidInput):
        public_key_sha256(text)


# -- TLS ----------------------------------------------------------------------------------------


def client_context(ca: str, certified: tuple[str, str] | None, directory: Path) -> ssl.SSLContext:
    """A dialling side with any CA and certificate, as somebody else might write it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=ca)
    if certified is not None:
        (directory / "client.pem").write_text("".join(certified))
        context.load_cert_chain(directory / "client.pem")
    return context


def server_with(certified: tuple[str, str], ca: str, directory: Path) -> ssl.SSLContext:
    """A listening side with any certificate; it verifies clients as a node does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=ca)
    (directory / "server.pem").write_text("".join(certified))
    context.load_cert_chain(directory / "server.pem")
    return context


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A whole handshake in memory, (client, server); raises what the first side raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    waiting = list(sides)
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
        if not waiting:
            return sides[0], sides[1]
    raise AssertionError("the handshake does not end")


def test_peer_handshake_between_nodes_names_both_and_is_tls_1_3(cluster: Cluster, tmp_path: Path) -> None:
    join(cluster, tmp_path, "n2")
    client, server = handshake(peer_context(tmp_path), server_context(cluster.pki_dir))
    assert identity_from_peer(server, cluster_id=ID) == cluster.identity("n2", "node")
    assert identity_from_peer(client, cluster_id=ID) == cluster.identity("n1", "node")
    assert client.version() == server.version() == "TLSv1.3"
    assert client.selected_alpn_protocol() == server.selected_alpn_protocol() == "cyoloctl-raft/2"


def test_server_context_without_a_client_certificate_serves_http_to_nobody_in_particular(
    cluster: Cluster, tmp_path: Path
) -> None:
    context = client_context(cluster.ca, None, tmp_path)
    context.set_alpn_protocols(["http/1.1"])
    client, server = handshake(context, server_context(cluster.pki_dir))
    assert identity_from_peer(server, cluster_id=ID) is None
    assert server.selected_alpn_protocol() == "http/1.1"
    assert identity_from_peer(client, cluster_id=ID) == cluster.identity("n1", "node")


@pytest.mark.parametrize("role", ["node", "operator", "gateway", "viewer"])
def test_server_context_takes_name_and_role_from_the_certificate(
    cluster: Cluster, tmp_path: Path, role: AccessRole
) -> None:
    context = client_context(cluster.ca, cluster.certified("who", role), tmp_path)
    _, server = handshake(context, server_context(cluster.pki_dir))
    assert identity_from_peer(server, cluster_id=ID) == cluster.identity("who", role)


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


def forge(cluster: Cluster, certificate_pem: str, changed: x509.ExtensionType) -> str:
    """A certificate with one extension changed, signed again: what a stolen CA key might make."""
    ca = x509.load_pem_x509_certificate(cluster.ca.encode())
    ca_key = serialization.load_pem_private_key(cluster.key.encode(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    good = x509.load_pem_x509_certificate(certificate_pem.encode())
    builder = x509.CertificateBuilder(
        ca.subject, good.subject, good.public_key(), 7, good.not_valid_before_utc, good.not_valid_after_utc
    )
    for extension in good.extensions:
        value = changed if extension.oid == changed.oid else extension.value
        builder = builder.add_extension(value, extension.critical)
    return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


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


# -- sealing ------------------------------------------------------------------------------------


def test_open_sealed_with_the_key_and_info_gives_the_plaintext_back() -> None:
    request = make_request("n1")
    sealed = seal(request.sealing_key, b"plain", b"info")
    assert open_sealed(request.sealing_key_pem, sealed, b"info") == b"plain"
    assert seal(request.sealing_key, b"plain", b"info") != sealed


def test_open_sealed_with_another_key_info_or_text_raises_one_error() -> None:
    request, stranger = make_request("n1"), make_request("n1")
    sealed = seal(request.sealing_key, b"plain", b"info")
    raw = base64.b64decode(sealed)
    damaged = base64.b64encode(raw[:-1] + bytes([raw[-1] ^ 1])).decode()
    messages = set()
    for key, text, info in [
        (stranger, sealed, b"info"),
        (request, sealed, b"other"),
        (request, damaged, b"info"),
        (request, sealed + "\n", b"info"),
        (request, "", b"info"),
        (request, "\u00e9", b"info"),
    ]:
        with pytest.raises(InvalidInput) as caught:
            open_sealed(key.sealing_key_pem, text, info)
        messages.add(caught.value.message)
    assert len(messages) == 1


@pytest.mark.parametrize("key", ["", "AAAA", base64.b64encode(bytes(32)).decode(), "\u00e9"])
def test_seal_to_something_that_is_no_key_raises_invalid_input(key: str) -> None:
    with pytest.raises(InvalidInput, match="sealing key"):
        seal(key, b"plain", b"info")


# -- requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster_id", [None, ID])
def test_check_request_of_what_make_request_made_passes(cluster_id: str | None) -> None:
    request = make_request("n2", cluster_id)
    check_request(request.request_pem, "n2", request.sealing_key, ID)


def test_check_request_for_another_name_key_or_cluster_raises_invalid_input() -> None:
    request, stranger = make_request("n2", ID), make_request("n2", ID)
    for name, sealing_key, cluster_id, part in [
        ("n3", request.sealing_key, ID, "not for 'n3'"),
        ("n2", stranger.sealing_key, ID, "sealing key is another"),
        ("n2", request.sealing_key, OTHER_ID, "another cluster"),
    ]:
        with pytest.raises(InvalidInput, match=part):
            check_request(request.request_pem, name, sealing_key, cluster_id)


def test_check_request_signed_by_another_key_raises_invalid_input() -> None:
    # The same request with one bit of its signature, at the end of the DER, flipped.
    request = make_request("n2")
    der = bytearray(
        x509.load_pem_x509_csr(request.request_pem.encode()).public_bytes(serialization.Encoding.DER)
    )
    der[-1] ^= 1
    body = base64.b64encode(der).decode()
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    forged = f"-----BEGIN CERTIFICATE REQUEST-----\n{lines}\n-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(InvalidInput, match="signature is wrong"):
        check_request(forged, "n2", request.sealing_key, None)


@pytest.mark.parametrize(
    "make_key", [ed25519.Ed25519PrivateKey.generate, lambda: ec.generate_private_key(ec.SECP384R1())]
)
def test_check_request_for_a_key_of_another_kind_raises_invalid_input(make_key: Callable[[], Any]) -> None:
    request = make_request("n2")
    good = x509.load_pem_x509_csr(request.request_pem.encode())
    key = make_key()
    builder = x509.CertificateSigningRequestBuilder().subject_name(good.subject)
    for extension in good.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    text = builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(InvalidInput, match="P-256"):
        check_request(text, "n2", request.sealing_key, None)


def test_check_request_without_a_sealing_key_raises_invalid_input() -> None:
    request = make_request("n2")
    subject = x509.load_pem_x509_csr(request.request_pem.encode()).subject
    bare = x509.CertificateSigningRequestBuilder().subject_name(subject)
    text = bare.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    with pytest.raises(InvalidInput, match="damaged"):
        check_request(text.public_bytes(serialization.Encoding.PEM).decode(), "n2", request.sealing_key, None)


def test_prepare_request_twice_gives_the_same_request_and_keys(tmp_path: Path) -> None:
    first = prepare_request(tmp_path / "pki", "n2", ID)
    assert prepare_request(tmp_path / "pki", "n2", ID) == first
    assert csr_sha256(first.request_pem) == csr_sha256((tmp_path / "pki" / "node.csr").read_text())
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "pki").iterdir()} == {0o600}
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700


@pytest.mark.parametrize("lost", ["node.csr", "sealing.key", "node.key"])
def test_prepare_request_after_a_crash_keeps_the_keys_that_are_there(tmp_path: Path, lost: str) -> None:
    prepare_request(tmp_path, "n2", ID)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    (tmp_path / lost).unlink()
    again = prepare_request(tmp_path, "n2", ID)
    check_request(again.request_pem, "n2", again.sealing_key, ID)
    for key in {"node.key", "sealing.key"} - {lost}:
        assert (tmp_path / key).read_text() == before[key]


def test_prepare_request_for_another_cluster_makes_another_request_for_the_same_key(tmp_path: Path) -> None:
    first = prepare_request(tmp_path, "n2", ID)
    second = prepare_request(tmp_path, "n2", OTHER_ID)
    assert second.request_pem != first.request_pem
    assert second.node_key_pem == first.node_key_pem


def test_pending_request_repr_shows_no_private_key() -> None:
    request = make_request("n2")
    assert "PRIVATE" not in repr(request)


def test_decode_request_of_an_encoded_one_is_the_same() -> None:
    pending = make_request("n2")
    request = NodeRequest(NodeName("n2"), Address("10.0.0.2", 7700), pending.request_pem, pending.sealing_key)
    text = encode_request(request)
    assert decode_request(text) == request
    assert "PRIVATE" not in text
    with pytest.raises(VersionMismatch, match="upgrade"):
        decode_request(text.replace('"schema_version": 1', '"schema_version": 2, "more": 1'))
    for wrong in [
        "",
        "[]",
        "{}",
        text[:-3],
        text.replace('"n2"', '"n3"'),
        text.replace('"n2"', "2"),
        "[" * 9999,
    ]:
        with pytest.raises(InvalidInput):
            decode_request(wrong)
    with pytest.raises(InvalidInput):
        decode_request(text.replace('"name"', '"name": "n2", "name"'))


# -- grants -------------------------------------------------------------------------------------


def answer(
    cluster: Cluster, pending: PendingRequest, *, learner: bool = False, **changes: Any
) -> dict[str, Any]:
    """The cluster's grant for a request."""
    arguments: dict[str, Any] = {
        "ca_cert_pem": cluster.ca,
        "ca_key_pem": cluster.key,
        "request_pem": pending.request_pem,
        "sealing_key": pending.sealing_key,
        "name": pending.name,
        "cluster": "demo",
        "learner": learner,
        "storage": "disk",
        "peers": {"n1": Address("10.0.0.1", 7700)},
        "now": NOW,
    }
    value: dict[str, Any] = json.loads(json.dumps(make_grant(**(arguments | changes))))
    return value


def join(cluster: Cluster, directory: Path, name: str, *, learner: bool = False) -> Grant:
    pending = prepare_request(directory, name, cluster.id)
    value = answer(cluster, pending, learner=learner)
    return accept_grant(
        directory, value, name=name, cluster_id=cluster.id, ca_sha256=certificate_sha256(cluster.ca)
    )


def test_accept_grant_of_a_voter_makes_a_node_that_can_admit_others(cluster: Cluster, tmp_path: Path) -> None:
    granted = join(cluster, tmp_path / "n2", "n2")
    assert (granted.cluster_id, granted.cluster, granted.name) == (ID, "demo", "n2")
    assert (granted.learner, granted.has_ca_key, granted.storage) == (False, True, "disk")
    assert granted.peers == {"n1": Address("10.0.0.1", 7700)}
    files = check_private_files(tmp_path / "n2", name="n2", cluster_id=ID, now=NOW)
    assert files.has_ca_key
    assert files.certificate_expires_at == granted.certificate_expires_at
    assert read_ca(tmp_path / "n2") == (cluster.ca, cluster.key)
    second = replace(cluster, directory=tmp_path, ca=cluster.ca, key=read_ca(tmp_path / "n2")[1])
    assert join(second, tmp_path / "n3", "n3").has_ca_key


def test_accept_grant_of_a_learner_or_with_an_offline_ca_brings_no_ca_key(
    cluster: Cluster, tmp_path: Path
) -> None:
    assert not join(cluster, tmp_path / "n2", "n2", learner=True).has_ca_key
    with pytest.raises(ConfigError, match="cannot issue certificates"):
        read_ca(tmp_path / "n2")
    pending = prepare_request(tmp_path / "n3", "n3")
    value = answer(cluster, pending, hand_over_ca_key=False)
    assert value["ca_key_sealed"] is None
    assert not accept_grant(tmp_path / "n3", value, name="n3").has_ca_key
    assert not check_private_files(tmp_path / "n3", name="n3", cluster_id=ID).has_ca_key


def test_accept_grant_twice_is_the_same(cluster: Cluster, tmp_path: Path) -> None:
    pending = prepare_request(tmp_path, "n2")
    value = answer(cluster, pending)
    first = accept_grant(tmp_path, value, name="n2")
    assert accept_grant(tmp_path, value, name="n2") == first


def test_grant_seals_the_ca_key_so_that_another_node_cannot_open_it(cluster: Cluster) -> None:
    pending, stranger = make_request("n2"), make_request("n2")
    value = answer(cluster, pending)
    assert "PRIVATE" not in json.dumps(value)
    info = b"\0".join([b"cyoloctl ca-key 1", ID.encode(), b"n2"])
    opened = open_sealed(pending.sealing_key_pem, value["ca_key_sealed"], info)
    assert opened.decode() == cluster.key
    with pytest.raises(InvalidInput, match="not sealed for this node"):
        open_sealed(stranger.sealing_key_pem, value["ca_key_sealed"], info)
    for other_info in (info.replace(b"n2", b"n3"), info.replace(ID.encode(), OTHER_ID.encode())):
        with pytest.raises(InvalidInput, match="not sealed for this node"):
            open_sealed(pending.sealing_key_pem, value["ca_key_sealed"], other_info)


def test_grant_for_a_sealing_key_that_the_request_did_not_sign_is_refused(cluster: Cluster) -> None:
    pending, thief = make_request("n2"), make_request("n2")
    with pytest.raises(InvalidInput, match="sealing key is another"):
        answer(cluster, pending, sealing_key=thief.sealing_key)


def test_grant_for_another_name_or_cluster_than_requested_is_refused(cluster: Cluster) -> None:
    with pytest.raises(InvalidInput, match="not for 'n3'"):
        answer(cluster, make_request("n2"), name="n3")
    with pytest.raises(InvalidInput, match="another cluster"):
        answer(cluster, make_request("n2", OTHER_ID))


@pytest.mark.parametrize("key", ["absent", "null"])
@pytest.mark.parametrize(
    "field",
    [
        "cluster_id",
        "cluster",
        "name",
        "learner",
        "certificate_pem",
        "ca_pem",
        "storage",
        "peers",
        "schema_version",
    ],
)
def test_accept_grant_without_a_field_writes_nothing(
    cluster: Cluster, tmp_path: Path, field: str, key: str
) -> None:
    pending = prepare_request(tmp_path, "n2")
    value = answer(cluster, pending) | {field: None}
    if key == "absent":
        del value[field]
    with pytest.raises(InvalidInput):
        accept_grant(tmp_path, value, name="n2")
    assert sorted(os.listdir(tmp_path)) == ["node.csr", "node.key", "sealing.key"]


def test_accept_grant_of_a_wrong_grant_writes_nothing(
    cluster: Cluster, other: Cluster, tmp_path: Path
) -> None:
    pending = prepare_request(tmp_path, "n2")
    good = answer(cluster, pending)
    foreign = answer(other, pending)
    info = b"\0".join([b"cyoloctl ca-key 1", ID.encode(), b"n2"])
    viewer = issue_certificate(
        cluster.ca, cluster.key, pending.request_pem, cluster.identity("n2", "viewer"), now=NOW
    )
    client_only = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    wrong: list[tuple[Any, str]] = [
        (None, "not a grant"),
        ([], "not a grant"),
        (good | {"more": 1}, "not a grant"),
        (good | {"learner": 0}, "not a grant"),
        (good | {"schema_version": True}, "not a grant"),
        (good | {"storage": 1}, "not a grant"),
        (good | {"storage": "tape"}, "neither disk nor memory"),
        (good | {"peers": {"N1": "a:1"}}, "not valid"),
        (good | {"peers": {"n1": "nowhere"}}, "HOST:PORT"),
        (good | {"name": "n3"}, "not for 'n2'"),
        (good | {"cluster_id": OTHER_ID}, "another cluster"),
        (foreign, "another cluster"),
        (foreign | {"cluster_id": ID}, "another cluster"),
        (good | {"ca_pem": foreign["ca_pem"]}, "another cluster"),
        (good | {"ca_pem": good["certificate_pem"]}, "not the CA of"),
        (good | {"ca_pem": good["ca_pem"] + good["ca_pem"]}, "not the CA of"),
        (good | {"ca_pem": good["ca_pem"] + foreign["ca_pem"]}, "another cluster"),
        (good | {"certificate_pem": foreign["certificate_pem"]}, "another CA"),
        (good | {"certificate_pem": good["ca_pem"]}, "no purpose or no name|another name"),
        (good | {"certificate_pem": "x"}, "not a certificate"),
        (good | {"certificate_pem": viewer}, "another name"),
        (good | {"certificate_pem": forge(cluster, good["certificate_pem"], client_only)}, "not a node's"),
        (
            good | {"certificate_pem": answer(cluster, make_request("n2"))["certificate_pem"]},
            "another key",
        ),
        (
            good | {"certificate_pem": answer(cluster, make_request("n3"))["certificate_pem"]},
            "another name",
        ),
        (good | {"ca_key_sealed": answer(cluster, make_request("n2"))["ca_key_sealed"]}, "not sealed"),
        (good | {"ca_key_sealed": "AAAA"}, "not sealed"),
        (
            good | {"ca_key_sealed": seal(pending.sealing_key, other.key.encode(), info)},
            "does not belong",
        ),
        (good | {"ca_key_sealed": seal(pending.sealing_key, b"\xff", info)}, "does not belong"),
        (good | {"learner": True}, "learner gets no CA key"),
    ]
    for value, part in wrong:
        with pytest.raises(InvalidInput, match=part):
            accept_grant(tmp_path, value, name="n2", cluster_id=ID, ca_sha256=certificate_sha256(cluster.ca))
    with pytest.raises(VersionMismatch):
        accept_grant(tmp_path, good | {"schema_version": 2}, name="n2")
    assert sorted(os.listdir(tmp_path)) == ["node.csr", "node.key", "sealing.key"]


def test_accept_grant_trusts_no_authority_that_the_token_does_not_name(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Whoever answers a joiner may be a member whose key was stolen: it must not bring a CA of its own."""
    rogue = create_ca(ID, "demo", NOW)
    pinned = certificate_sha256(cluster.ca)
    pending = prepare_request(tmp_path, "n2", ID)
    good = answer(cluster, pending)
    identity = cluster.identity("n2", "node")
    forged = issue_certificate(*rogue, pending.request_pem, identity, now=NOW)
    for ca_pem in (rogue[0], cluster.ca + rogue[0], rogue[0] + cluster.ca):
        with pytest.raises(InvalidInput):
            accept_grant(
                tmp_path,
                good | {"ca_pem": ca_pem, "certificate_pem": forged, "ca_key_sealed": None},
                name="n2",
                cluster_id=ID,
                ca_sha256=pinned,
            )
    assert sorted(os.listdir(tmp_path)) == ["node.csr", "node.key", "sealing.key"]
    accept_grant(
        tmp_path, good | {"ca_pem": cluster.ca + rogue[0]}, name="n2", cluster_id=ID, ca_sha256=pinned
    )
    assert read_authorities(tmp_path) == (cluster.ca,)


def test_accept_grant_while_the_ca_is_exchanged_trusts_both_that_the_token_names(
    cluster: Cluster, tmp_path: Path
) -> None:
    newer = create_ca(ID, "demo", NOW)
    pinned = ",".join(certificate_sha256(pem) for pem in (cluster.ca, newer[0]))
    good = answer(cluster, prepare_request(tmp_path, "n2", ID))
    accept_grant(
        tmp_path, good | {"ca_pem": cluster.ca + newer[0]}, name="n2", cluster_id=ID, ca_sha256=pinned
    )
    assert read_authorities(tmp_path) == (cluster.ca, newer[0])


def test_accept_grant_of_another_cluster_into_a_node_raises_conflict(
    cluster: Cluster, other: Cluster, tmp_path: Path
) -> None:
    join(cluster, tmp_path, "n2")
    value = answer(other, make_request("n2"))
    with pytest.raises(Conflict, match="empty data directory"):
        accept_grant(tmp_path, value, name="n2")


def test_decode_grant_of_a_grant_is_the_object(cluster: Cluster) -> None:
    value = answer(cluster, make_request("n2"))
    assert decode_grant(json.dumps(value)) == value
    for wrong in ["", "[]", '{"a":1,"a":2}', "\ud800"]:
        with pytest.raises(InvalidInput):
            decode_grant(wrong)


# -- the directory ------------------------------------------------------------------------------


def test_new_cluster_writes_private_files_that_belong_together(fresh: Cluster) -> None:
    names = {
        "ca.crt",
        "ca.key",
        "node.crt",
        "node.key",
        "node.csr",
        "sealing.key",
        "operator.crt",
        "operator.key",
    }
    assert set(os.listdir(fresh.pki_dir)) == names
    assert set(os.listdir(fresh.directory)) == {"pki", "operator.yaml"}
    assert stat.S_IMODE(fresh.pki_dir.stat().st_mode) == 0o700
    for path in [*fresh.pki_dir.iterdir(), fresh.directory / "operator.yaml"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    files = check_private_files(fresh.pki_dir, name="n1", cluster_id=ID, now=NOW)
    assert files.identity == fresh.identity("n1", "node")
    assert files.has_ca_key
    sealed = seal(files.sealing_key, b"plain", b"")
    assert open_sealed((fresh.pki_dir / "sealing.key").read_text(), sealed, b"") == b"plain"


def test_new_cluster_operator_file_is_json_that_opens_a_connection(fresh: Cluster, tmp_path: Path) -> None:
    bundle = json.loads((fresh.directory / "operator.yaml").read_text())
    assert bundle.keys() == {
        "schema_version", "role", "name", "cluster_id", "ca_pem", "certificate_pem", "key_pem",
    }  # fmt: skip
    assert (bundle["schema_version"], bundle["role"], bundle["cluster_id"]) == (1, "operator", ID)
    context = client_context(bundle["ca_pem"], (bundle["certificate_pem"], bundle["key_pem"]), tmp_path)
    _, server = handshake(context, server_context(fresh.pki_dir))
    assert identity_from_peer(server, cluster_id=ID) == fresh.identity(bundle["name"], "operator")


def test_credentials_of_a_viewer_written_exclusively_are_private(cluster: Cluster, tmp_path: Path) -> None:
    bundle = make_credentials(cluster.ca, cluster.key, name="grafana", role="viewer", now=NOW, days=30)
    path = tmp_path / "viewer.yaml"
    write_credentials(path, bundle, exclusive=True)
    assert json.loads(path.read_text()) == bundle
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(AlreadyExists):
        write_credentials(path, bundle, exclusive=True)


def test_new_cluster_over_a_node_raises_already_exists_and_changes_nothing(fresh: Cluster) -> None:
    before = {path: path.read_bytes() for path in fresh.directory.rglob("*") if path.is_file()}
    with pytest.raises(AlreadyExists, match="another data directory"):
        new_cluster(fresh.directory, name="n1", cluster="demo", now=NOW)
    assert {path: path.read_bytes() for path in fresh.directory.rglob("*") if path.is_file()} == before


def test_new_cluster_with_an_offline_ca_keeps_its_key_out_of_the_node(tmp_path: Path) -> None:
    offline = tmp_path / "offline.key"
    files = new_cluster(tmp_path / "n1", name="n1", cluster="demo", now=NOW, offline_ca_key=offline)
    assert not files.has_ca_key
    directory = tmp_path / "n1" / "pki"
    assert not (directory / "ca.key").exists()
    assert stat.S_IMODE(offline.stat().st_mode) == 0o600
    pair = read_ca(directory, ca_key=offline)
    make_credentials(*pair, name="who", role="viewer", now=NOW)
    offline.chmod(0o644)
    with pytest.raises(ConfigError, match=r"chmod 600 .*offline\.key"):
        read_ca(directory, ca_key=offline)


def test_new_cluster_that_fails_leaves_no_directory(tmp_path: Path) -> None:
    (tmp_path / "offline.key").write_text("mine")
    with pytest.raises(AlreadyExists):
        new_cluster(
            tmp_path / "n1", name="n1", cluster="demo", now=NOW, offline_ca_key=tmp_path / "offline.key"
        )
    with pytest.raises(InvalidInput):
        new_cluster(tmp_path / "n1", name="N1", cluster="demo", now=NOW)
    assert os.listdir(tmp_path / "n1") == []
    assert (tmp_path / "offline.key").read_text() == "mine"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o700 | 0o001])
@pytest.mark.parametrize(
    "file", ["pki/node.key", "pki/sealing.key", "pki/ca.key", "pki/operator.key", "operator.yaml"]
)
def test_check_private_files_of_an_open_key_gives_the_command_that_closes_it(
    fresh: Cluster, file: str, mode: int
) -> None:
    path = fresh.directory / file
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)
    assert caught.value.exit_status == 78
    command = caught.value.message.split("`")[1]
    assert command == f"chmod 600 {path}"
    subprocess.run(command, shell=True, check=True)
    check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)


@pytest.mark.parametrize("file", ["node.key", "sealing.key", "ca.key", "node.crt", "ca.crt"])
def test_check_private_files_of_a_symbolic_link_is_refused(fresh: Cluster, tmp_path: Path, file: str) -> None:
    path = fresh.pki_dir / file
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="symbolic link"):
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)


@pytest.mark.parametrize("file", ["node.key", "ca.crt"])
def test_check_private_files_of_a_pipe_does_not_wait(fresh: Cluster, file: str) -> None:
    path = fresh.pki_dir / file
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="is not a file"):
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two users")
def test_check_private_files_of_a_key_of_another_user_is_refused(fresh: Cluster) -> None:
    os.chown(fresh.pki_dir / "node.key", 12345, 12345)
    with pytest.raises(ConfigError, match="chown 0"):
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)


def test_server_context_of_a_key_that_others_may_read_is_refused(fresh: Cluster) -> None:
    (fresh.pki_dir / "node.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        server_context(fresh.pki_dir)


def test_check_private_files_command_quotes_the_path(tmp_path: Path) -> None:
    spoiled = make_cluster(tmp_path / "it's; here", ID)
    spoiled.pki_dir.chmod(0o770)
    with pytest.raises(ConfigError) as caught:
        check_private_files(spoiled.pki_dir, name="n1", cluster_id=ID)
    subprocess.run(caught.value.message.split("`")[1], shell=True, check=True)
    assert stat.S_IMODE(spoiled.pki_dir.stat().st_mode) == 0o700


@pytest.mark.parametrize("content", [b"", b"\xff", b"x" * 70000])
@pytest.mark.parametrize("file", ["node.key", "sealing.key", "ca.key", "ca.crt", "node.crt"])
def test_check_private_files_of_a_damaged_file_names_it(fresh: Cluster, file: str, content: bytes) -> None:
    (fresh.pki_dir / file).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)
    assert str(fresh.pki_dir / file) in caught.value.message


@pytest.mark.parametrize("file", ["node.key", "sealing.key", "ca.crt", "node.crt"])
def test_check_private_files_of_a_missing_file_names_it(fresh: Cluster, file: str) -> None:
    (fresh.pki_dir / file).unlink()
    with pytest.raises(ConfigError) as caught:
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)
    assert f"cannot read {fresh.pki_dir / file}" in caught.value.message


def test_check_private_files_of_a_missing_directory_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*/none: No such file"):
        check_private_files(tmp_path / "none", name="n1", cluster_id=ID)


@pytest.mark.parametrize("file", ["node.key", "node.crt", "ca.crt", "ca.key"])
def test_check_private_files_with_a_file_of_another_cluster_raises_config_error(
    fresh: Cluster, other: Cluster, file: str
) -> None:
    (fresh.pki_dir / file).write_bytes((other.pki_dir / file).read_bytes())
    with pytest.raises(ConfigError, match="restore the right"):
        check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)


@pytest.mark.parametrize(("name", "cluster_id"), [("n2", ID), ("n1", OTHER_ID)])
def test_check_private_files_of_another_name_or_cluster_raises_config_error(
    cluster: Cluster, name: str, cluster_id: str
) -> None:
    with pytest.raises(ConfigError, match=r"node\.yaml"):
        check_private_files(cluster.pki_dir, name=name, cluster_id=cluster_id)


@pytest.mark.parametrize(("days", "part"), [(826, "cyoloctl node renew"), (-2, "set the clock")])
def test_check_private_files_of_a_certificate_outside_its_dates_says_what_to_do(
    cluster: Cluster, days: int, part: str
) -> None:
    with pytest.raises(ConfigError, match=part):
        check_private_files(cluster.pki_dir, name="n1", cluster_id=ID, now=NOW + timedelta(days=days))


def test_renew_node_certificate_moves_the_end_and_keeps_the_key(fresh: Cluster) -> None:
    before = check_private_files(fresh.pki_dir, name="n1", cluster_id=ID)
    later = NOW + timedelta(days=800)
    end = renew_own(fresh.pki_dir, later)
    after = check_private_files(fresh.pki_dir, name="n1", cluster_id=ID, now=later)
    assert after.certificate_expires_at == end > before.certificate_expires_at
    assert public_key_sha256(after.certificate_pem) == public_key_sha256(before.certificate_pem)
