"""Clusters of the pki tests: a CA and its first node, handshakes in memory, nodes that join."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cyoloctl.model import Address, NodeName
from cyoloctl.pki.ca import issue_certificate
from cyoloctl.pki.files import read_ca
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.grants import Grant, accept_grant, make_grant
from cyoloctl.pki.identity import AccessRole, Identity, parse_cluster_id
from cyoloctl.pki.requests import PendingRequest, make_request, prepare_request
from cyoloctl.pki.tls import presented
from cyoloctl.pki.x509 import certificate_sha256

__all__ = [
    "ID",
    "NOW",
    "OTHER_ID",
    "Cluster",
    "answer",
    "client_context",
    "forge",
    "handshake",
    "join",
    "make_cluster",
    "server_with",
]

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


def identity_of(side: ssl.SSLObject) -> Identity | None:
    """Identity of the other side of a finished handshake."""
    found = presented(side, cluster_id=ID)
    return None if found is None else found.identity


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
