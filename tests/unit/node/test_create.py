"""A removed learner's certificate and key, at the address where a member was: what a joiner tells it.

The impostor is the standard library and nothing of ours; the certificate is a
real one of the cluster.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cyoloctl.errors import AccessDenied
from cyoloctl.model import ClusterId, NodeName, parse_address
from cyoloctl.node import create
from cyoloctl.pki import join_token
from cyoloctl.pki.ca import issue_certificate
from cyoloctl.pki.files import read_ca
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.identity import Identity
from cyoloctl.pki.requests import make_request
from cyoloctl.pki.x509 import certificate_sha256

ID = "0123456789abcdef0123456789abcdef"


class Impostor:
    """A TLS server that tells anybody the cluster's CA, which is public, and notes all that it is sent."""

    def __init__(self, certificate: Path, key: Path, ca_pem: str) -> None:
        self.heard: list[bytes] = []
        self._ca = json.dumps({"schema_version": 1, "cluster_id": ID, "certificates": [ca_pem]}).encode()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._context.set_alpn_protocols(["http/1.1"])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            plain.settimeout(10)
            with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as tls:
                asked = tls.recv(65536)
                self.heard.append(asked)
                if asked.startswith(b"GET /v1/ca"):
                    head = f"Content-Type: application/json\r\nContent-Length: {len(self._ca)}\r\n\r\n"
                    tls.sendall(b"HTTP/1.1 200 OK\r\n" + head.encode() + self._ca)


@pytest.fixture
def ca(tmp_path: Path) -> tuple[str, str]:
    new_cluster(tmp_path / "n1", name="n1", cluster="demo", now=datetime.now(UTC), cluster_id=ID)
    return read_ca(tmp_path / "n1" / "pki")


@pytest.fixture
def learner(ca: tuple[str, str], tmp_path: Path) -> Iterator[Impostor]:
    """Holds what is left of the learner n9, which was removed since; it is at the address of n1."""
    pending = make_request("n9", ID)
    identity = Identity(NodeName("n9"), "node", ClusterId(ID))
    certificate, key = tmp_path / "n9.crt", tmp_path / "n9.key"
    certificate.write_text(issue_certificate(*ca, pending.request_pem, identity, now=datetime.now(UTC)))
    key.write_text(pending.node_key_pem)
    impostor = Impostor(certificate, key, ca[0])
    yield impostor
    impostor.close()


def test_join_at_an_address_that_a_removed_learner_took_tells_it_nothing(
    ca: tuple[str, str], learner: Impostor, tmp_path: Path
) -> None:
    token = join_token.JoinToken(
        cluster_id=ClusterId(ID),
        cluster=NodeName("demo"),
        ca_sha256=certificate_sha256(ca[0]),
        name=NodeName("n4"),
        learner=False,
        secret=join_token.new_secret(),
        expires_unix_s=1_900_000_000,
        members=((NodeName("n1"), parse_address(learner.address)),),
    )
    with pytest.raises(AccessDenied, match="n9 answers there, not n1"):
        create.join(tmp_path / "n4", "n4", "127.0.0.1:1", None, join_token.encode_token(token), 5.0)
    assert not (tmp_path / "n4").exists()
    asked = [heard.split(b" HTTP/", 1)[0] for heard in learner.heard if heard]
    assert len(asked) == 1
    assert asked[0].startswith(b"GET /v1/ca?")
    heard = b"".join(learner.heard)
    for what in (token.secret, "n4", join_token.public_key(token.secret, ID, "n4"), "REQUEST"):
        assert what.encode() not in heard
