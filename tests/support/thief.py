"""A thief with a copy of somebody's files, a compiler of certificates and a place in the network.

Written against what is on the wire and on the disk, with `cryptography`, `ssl` and
`http.client` alone: nothing of this product is imported, so a mistake in its own code
cannot hide in here.  What it forges is as good as a thief can make it: names and
extensions are cloned from a genuine certificate, and signed with the stolen key of the
CA where there is one.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.x509.oid import NameOID

__all__ = [
    "Answer",
    "Credentials",
    "Forged",
    "Forger",
    "Loot",
    "PeerPort",
    "Trap",
    "credentials_of_file",
    "request_for",
    "steal",
]

PEER_PROTOCOL = 3
PEER_ALPN = "cyoloctl-raft/3"

# The extension of a node's request that carries its sealing key.
_SEALING_OID = x509.ObjectIdentifier(f"2.25.{0xC4B0F4A26E0D4D589A8F31B7B1B9F2D6}")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate and its key, as files that `ssl` can load."""

    certificate: Path
    key: Path

    def context(self, alpn: str) -> ssl.SSLContext:
        """For a client that shows this certificate and trusts anybody."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([alpn])
        context.load_cert_chain(self.certificate, self.key)
        return context

    def connect(self, port: int, alpn: str = "http/1.1", timeout_s: float = 30.0) -> ssl.SSLSocket:
        """Connect.  Raises OSError (`ssl.SSLError` is one) when the handshake is refused."""
        plain = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        try:
            return self.context(alpn).wrap_socket(plain)
        except BaseException:
            plain.close()
            raise

    def ask(self, port: int, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        """One request over a connection of its own."""
        try:
            with self.connect(port) as connection:
                return exchange(connection, method, path, body)
        except OSError as error:
            return Answer(None, {"error": {"code": "no TLS", "message": str(error)}})


@dataclass(frozen=True, slots=True)
class Answer:
    """status: of HTTP, or None where not even TLS came about (or the node closed without an answer)."""

    status: int | None
    body: dict[str, Any]

    @property
    def shut_out(self) -> bool:
        """Refused for what the asker is, and for no other reason."""
        code = self.body.get("error", {}).get("code")
        return self.status is None or (self.status in (401, 403) and code == "access_denied")


def exchange(connection: ssl.SSLSocket, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
    """One request and its answer; the connection is kept open.  OSError when the node closes instead."""
    client = http.client.HTTPConnection("localhost")
    client.sock = connection
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} if data is not None else {}
    try:
        client.request(method, path, body=data, headers=headers)
        response = client.getresponse()
        text = response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"closed without an answer: {error!r}") from error
    return Answer(response.status, json.loads(text))


# --- files --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loot:
    """A copy of a node's data directory."""

    directory: Path

    @property
    def node(self) -> Credentials:
        """Credentials that the node itself shows."""
        return Credentials(self.directory / "pki" / "node.crt", self.directory / "pki" / "node.key")

    @property
    def cluster_id(self) -> str:
        """As its certificate has it."""
        return _cluster_of(x509.load_pem_x509_certificate(self.node.certificate.read_bytes()))

    def operator(self) -> Credentials:
        """The operator's credentials beside the node's files."""
        return credentials_of_file(self.directory / "operator.yaml", self.directory)

    def forge(self, name: str, role: str) -> Credentials:
        """A certificate for any name and role, signed by the stolen key of the CA."""
        return Forger(self.directory / "pki").certificate(name, role).write(self.directory, f"{name}-{role}")


@dataclass(frozen=True, slots=True)
class Forged:
    """A certificate and its key, PEM."""

    certificate_pem: str
    key_pem: str

    @property
    def der(self) -> bytes:
        certificate = x509.load_pem_x509_certificate(self.certificate_pem.encode())
        return certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_hash(self) -> str:
        """SHA-256 of the public key, as the register keeps it."""
        public_key = x509.load_pem_x509_certificate(self.certificate_pem.encode()).public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return sha256(public_key.public_bytes(serialization.Encoding.DER, form)).hexdigest()

    def write(self, directory: Path, stem: str = "forged") -> Credentials:
        """As files of this directory."""
        directory.mkdir(parents=True, exist_ok=True)
        paths = directory / f"{stem}.crt", directory / f"{stem}.key"
        paths[0].write_text(self.certificate_pem)
        paths[1].write_text(self.key_pem)
        return Credentials(*paths)


class Forger:
    """Holds the ``pki`` directory of a node, with the key of the CA: signs anything.

    What it makes is a clone of the node's own certificate: what that does not have, no check of the chain
    can miss.
    """

    def __init__(self, pki_dir: Path) -> None:
        self.ca_pem = (pki_dir / "ca.crt").read_text()
        self._ca = x509.load_pem_x509_certificate(self.ca_pem.encode())
        self._key = _private_key((pki_dir / "ca.key").read_text())
        self._model = x509.load_pem_x509_certificate((pki_dir / "node.crt").read_bytes())
        self.cluster_id = _cluster_of(self._model)

    def certificate(
        self, name: str, role: str, *, days: float = 300.0, key_pem: str | None = None, sans: int = 1
    ) -> Forged:
        """A certificate for any name and role.  key_pem: None: a fresh key; sans: how often it is named."""
        key = ec.generate_private_key(ec.SECP256R1()) if key_pem is None else _private_key(key_pem)
        changed = {NameOID.COMMON_NAME: name, NameOID.ORGANIZATIONAL_UNIT_NAME: role}
        subject = [x509.NameAttribute(e.oid, changed.get(e.oid, str(e.value))) for e in self._model.subject]
        ends = min(datetime.now(UTC) + timedelta(days=days), self._ca.not_valid_after_utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self._model.issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(datetime.now(UTC), ends) - timedelta(days=1))
            .not_valid_after(ends)
        )
        san = x509.DNSName(f"{name}.{role}.{self.cluster_id}.cyoloctl")
        for extension in self._model.extensions:
            value = extension.value
            if isinstance(value, x509.SubjectAlternativeName):
                value = x509.SubjectAlternativeName([san] * sans)
            elif isinstance(value, x509.SubjectKeyIdentifier):
                value = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
            builder = builder.add_extension(value, critical=extension.critical)
        certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        key_text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Forged(certificate.decode(), key_text.decode())

    def credentials(self, path: Path, name: str, role: str, forged: Forged | None = None) -> Path:
        """A credentials file with a forged certificate, mode 0600."""
        forged = forged or self.certificate(name, role)
        path.touch(0o600)
        path.write_text(
            json.dumps(
                {
                    "schema_version": 1,
                    "role": role,
                    "name": name,
                    "cluster_id": self.cluster_id,
                    "ca_pem": self.ca_pem,
                    "certificate_pem": forged.certificate_pem,
                    "key_pem": forged.key_pem,
                }
            )
        )
        return path


def _cluster_of(certificate: x509.Certificate) -> str:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)[0].split(".")[2]


def _private_key(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def steal(directory: Path, where: Path) -> Loot:
    """A copy of everything in a data directory but its socket, made while nobody looks."""
    shutil.copytree(
        directory, where, ignore=lambda _, names: [name for name in names if name.endswith(".sock")]
    )
    return Loot(where)


def credentials_of_file(path: Path, where: Path) -> Credentials:
    """Content of a credentials file, as PEM files."""
    fields = json.loads(path.read_text())
    stem = f"{path.stem}-{os.urandom(4).hex()}"
    paths = where / f"{stem}.crt", where / f"{stem}.key"
    paths[0].write_text(fields["certificate_pem"])
    paths[1].write_text(fields["key_pem"])
    return Credentials(*paths)


def request_for(name: str) -> tuple[str, str]:
    """A certificate request for a name with keys of the thief's own: (request PEM, sealing key base64)."""
    sealing = x25519.X25519PrivateKey.generate().public_key().public_bytes_raw()
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "cyoloctl"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "node"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(x509.UnrecognizedExtension(_SEALING_OID, b"\x04\x20" + sealing), critical=False)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.PEM).decode(), base64.b64encode(sealing).decode()


# --- the peer port ------------------------------------------------------------------------------


class PeerPort:
    """A connection to a node's peer port.  Frames: two big-endian lengths, a JSON header, raw bytes."""

    def __init__(self, port: int, who: Credentials) -> None:
        self.connection = who.connect(port, PEER_ALPN)
        self._data = b""

    def __enter__(self) -> PeerPort:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.connection.close()

    def send(self, header: dict[str, Any], tail: bytes = b"") -> None:
        """One frame; silently nothing when the node has closed."""
        head = json.dumps(header, separators=(",", ":")).encode()
        with contextlib.suppress(OSError):
            self.connection.sendall(struct.pack(">II", 4 + len(head) + len(tail), len(head)) + head + tail)

    def hello(self, name: str, cluster_id: str, **changes: Any) -> None:
        """Claim to be somebody."""
        self._name = name
        claims = {
            "type": "hello",
            "version": PEER_PROTOCOL,
            "cluster_id": cluster_id,
            "name": name,
            "raft_id": name,
            "boot": os.urandom(8).hex(),
            "boots": 1_000_000,
            "term": 1,
            "last_index": 1_000_000,
            "address": "127.0.0.1:1",
            "release": "0.0.0",
        }
        self.send({**claims, **changes})

    def forward(self, machine: str, operation: str, arguments: dict[str, Any]) -> None:
        """Hand in a command for the log, as a member does for its callers."""
        origin = f"operator - - {self._name}"
        fields = [machine, operation, arguments, os.urandom(8).hex(), "client", "mallory", origin]
        command = b"\x02" + json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()
        self.send({"type": "forward", "id": 1, "commands": [len(command)], "after": [0]}, command)

    def call(self, operation: str, arguments: dict[str, Any]) -> None:
        """Ask for an operation that only the leader carries out."""
        body = json.dumps({"operation": operation, "arguments": arguments, "timeout_s": 2}).encode()
        self.send({"type": "call", "id": 7, "body": len(body)}, body)

    def heard(self) -> Iterator[dict[str, Any]]:
        """Headers of what the node says until it closes; TimeoutError when it only listens."""
        while True:
            while len(self._data) >= 8:
                length, head = struct.unpack(">II", self._data[:8])
                if len(self._data) < 4 + length:
                    break
                yield json.loads(self._data[8 : 8 + head])
                self._data = self._data[4 + length :]
            try:
                data = self.connection.recv(65536)
            except (ConnectionError, ssl.SSLError):
                return
            if not data:
                return
            self._data += data

    def is_answered(self) -> bool:
        """Whether the node treats the other end as a peer: a ping has its pong."""
        self.send({"type": "ping", "sent_ms": 1})
        return any(header["type"] == "pong" for header in self.heard())


# --- an address that somebody used to have --------------------------------------------------------


@dataclass
class Trap:
    """A TLS server at somebody's old address: passes on what is public, and keeps what it is told.

    relay_to: the port of a node, which is asked what the victim asks as long as that gives nothing away.
    """

    port: int
    shown: Credentials
    relay_to: int
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> Trap:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.shown.certificate, self.shown.key)
        self._context.set_alpn_protocols(["http/1.1"])
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.settimeout(0.1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10.0)
        self._listener.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                plain, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.connections += 1
            plain.settimeout(5.0)
            with (
                contextlib.suppress(OSError, ValueError),
                self._context.wrap_socket(plain, True) as connection,
            ):
                self._answer(connection)
            with contextlib.suppress(OSError):
                plain.close()

    def _answer(self, connection: ssl.SSLSocket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        while len(body) < length:
            body += connection.recv(65536)
        answer = Answer(503, {"schema_version": 1, "error": {"code": "no_leader", "message": "ask again"}})
        if body:
            self.bodies.append(body)
        else:
            method, path, _ = head.decode("ascii").split(" ", 2)
            answer = self.shown.ask(self.relay_to, method, path)
        text = json.dumps(answer.body).encode()
        fields = f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        connection.sendall(f"HTTP/1.1 {answer.status or 502} -\r\n{fields}".encode() + text)
