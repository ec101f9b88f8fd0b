"""Connections of strangers and impostors to a node: what they send is the point, not who they are."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import socket
import ssl
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cyoloctl.model import ClusterId, NodeName
from cyoloctl.paths import control_socket_path
from cyoloctl.pki.ca import issue_certificate
from cyoloctl.pki.files import PKI_DIRECTORY, read_ca
from cyoloctl.pki.identity import Identity
from cyoloctl.pki.requests import make_request
from cyoloctl.pki.tls import ALPN_RAFT
from cyoloctl.raft.messages import FrameReader, decode, encode
from tests.support.cluster import Node

__all__ = ["Peer", "cluster_id_of", "http_exchange", "issue_node", "tls_connect", "unix_connect"]


def tls_connect(
    port: int,
    *,
    alpn: Sequence[str] = (),
    certificate: tuple[Path, Path] | None = None,
    timeout_s: float = 30.0,
) -> ssl.SSLSocket:
    """A TLS connection that trusts anybody: what a stranger would send is the point."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if certificate is not None:
        context.load_cert_chain(*certificate)
    plain = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
    try:
        return context.wrap_socket(plain)
    except BaseException:
        plain.close()
        raise


def unix_connect(node: Node, timeout_s: float = 30.0) -> socket.socket:
    """A connection to the control socket."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)
    connection.connect(str(control_socket_path(node.directory)))
    return connection


def http_exchange(
    connection: socket.socket, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, Any]:
    """One request on a fresh connection, which is closed: status and body, JSON or text."""
    http_connection = http.client.HTTPConnection("localhost")
    http_connection.sock = connection
    try:
        http_connection.request(method, path, body=body, headers=headers)
        response = http_connection.getresponse()
        raw = response.read()
        is_text = str(response.headers["Content-Type"]).startswith("text/")
        return response.status, raw.decode() if is_text else json.loads(raw)
    finally:
        http_connection.close()


def issue_node(holder: Node, name: str, where: Path, *, role: str = "node") -> tuple[Path, Path]:
    """A key and a certificate for any name, from a cluster's own CA: (certificate file, key file)."""
    ca, ca_key = read_ca(holder.directory / PKI_DIRECTORY)
    cluster_id = cluster_id_of(holder)
    pending = make_request(name, cluster_id)
    identity = Identity(NodeName(name), role, ClusterId(cluster_id))  # type: ignore[arg-type]
    certificate = issue_certificate(ca, ca_key, pending.request_pem, identity, now=datetime.now(UTC))
    where.mkdir(exist_ok=True)
    paths = where / f"{name}.crt", where / f"{name}.key"
    paths[0].write_text(certificate)
    paths[1].write_text(pending.node_key_pem)
    return paths


def cluster_id_of(node: Node) -> str:
    for line in (node.directory / "node.yaml").read_text().splitlines():
        if line.strip().startswith("id:"):
            return line.split('"')[1]
    raise AssertionError("node.yaml names no cluster")


_BOOTS = itertools.count(10**9)


class Peer:
    """A program that speaks the peer protocol with a node certificate, and says what a test wants."""

    def __init__(
        self, node: Node, certificate: tuple[Path, Path], *, alpn: Sequence[str] = (ALPN_RAFT,)
    ) -> None:
        self.connection = tls_connect(node.port, alpn=alpn, certificate=certificate)
        self._reader = FrameReader()
        self._messages: list[dict[str, Any]] = []

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.connection.close()

    def hello(self, name: str, cluster_id: str, **changes: Any) -> None:
        message = {
            "type": "hello",
            "version": 3,
            "cluster_id": cluster_id,
            "name": name,
            "raft_id": name,
            "boot": os.urandom(8).hex(),
            "address": "127.0.0.1:1",
            "release": "0.0.0",
            # As the latest process on the node's own disk would: else the register keeps it out.
            "boots": next(_BOOTS),
            "term": 0,
            "last_index": 10**9,
        }
        self.send({**message, **changes})

    def send(self, message: dict[str, Any]) -> None:
        self.connection.sendall(encode(message))

    def messages(self) -> Iterator[dict[str, Any]]:
        """Messages of the node, until it closes or says nothing for the connection's timeout."""
        while True:
            while self._messages:
                yield self._messages.pop(0)
            try:
                data = self.connection.recv(65536)
            except (ConnectionError, ssl.SSLError):
                return
            if not data:
                return
            self._messages += [decode(frame) for frame in self._reader.feed(data)]

    def wait_closed(self) -> list[dict[str, Any]]:
        """Everything until the node closes; TimeoutError when it does not."""
        return list(self.messages())

    def wait_message(self, kind: str) -> dict[str, Any]:
        for message in self.messages():
            if message["type"] == kind:
                return message
        raise AssertionError(f"the node closed without {kind}")
