"""NATS JetStream as it is measured: three servers, a bucket of keys with three replicas in files."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.load import HELLO, messages
from benchmarks.operations import BUCKET
from benchmarks.systems import Base, BenchmarkError, Member, free_ports, until

__all__ = ["Nats"]


class Nats(Base):
    """Three servers with mutual TLS between them.

    syncs: whether each write is on the disk before it is acknowledged.  That needs ``sync_interval:
    always``, which servers before 2.10 do not know: they write to the page cache, acknowledge, and sync
    now and then (2.9.10 made no sync during 2,680 puts that strace watched).
    """

    def __init__(self, scratch: Path, *, before: Sequence[str] = ()) -> None:
        super().__init__(scratch, "nats", before=list(before))
        # Debian installs it where only root's PATH looks.
        binary = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/sbin")
        if binary is None:
            raise BenchmarkError(
                "nats-server is not installed; run apt-get install nats-server, or say --peers etcd"
            )
        self._binary = binary
        ports = free_ports(6)
        self._routes = ports[:3]
        for number, port in enumerate(ports[3:]):
            directory = scratch / f"n{number}"
            directory.mkdir()
            address = f"127.0.0.1:{port}"
            self.members.append(Member(f"n{number}", directory, f"tcp:{address}", address))
        _write_certificate(scratch)
        self.syncs = self._accepts(self._configuration(0, syncs=True))

    @property
    def version(self) -> str:
        """As ``nats-server --version`` prints it."""
        done = subprocess.run([self._binary, "--version"], capture_output=True, text=True, check=True)
        return (done.stdout or done.stderr).strip()

    def _accepts(self, configuration: str) -> bool:
        file = self.scratch / "nats-try.conf"
        file.write_text(configuration)
        done = subprocess.run([self._binary, "-t", "-c", str(file)], capture_output=True, check=False)
        return done.returncode == 0

    def _configuration(self, number: int, *, syncs: bool) -> str:
        member = self.members[number]
        others = ", ".join(f'"nats-route://127.0.0.1:{port}"' for port in self._routes)
        certificate = self.scratch / "nats.crt"
        return "\n".join(
            (
                f"server_name: {member.name}",
                f'listen: "{member.address}"',
                "jetstream {",
                f'  store_dir: "{member.directory}/data"',
                *(["  sync_interval: always"] if syncs else []),
                "}",
                "cluster {",
                "  name: bench",
                f'  listen: "127.0.0.1:{self._routes[number]}"',
                f"  routes: [{others}]",
                "  tls {",
                f'    cert_file: "{certificate}"',
                f'    key_file: "{self.scratch}/nats.key"',
                f'    ca_file: "{certificate}"',
                "    verify: true",
                "    timeout: 5",
                "  }",
                "}",
                "",
            )
        )

    def start(self) -> None:
        """Start three servers, make the bucket, wait until its stream has a leader and two replicas."""
        for number, member in enumerate(self.members):
            file = self.scratch / f"{member.name}.conf"
            file.write_text(self._configuration(number, syncs=self.syncs))
            self.spawn(member, [self._binary, "-c", str(file)])
        until("the NATS bucket is made", self._make_bucket)
        until("NATS healthy", self._healthy)

    def _ask(self, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of JetStream, by whichever member answers; empty when none does."""
        self.check_alive()
        for member in self.members:
            with contextlib.suppress(OSError):
                return _request(member, subject, body)
        return {}

    def _make_bucket(self) -> bool:
        # What the clients of NATS make for a bucket with a history of one.
        answer = self._ask(
            f"$JS.API.STREAM.CREATE.KV_{BUCKET}",
            {
                "name": f"KV_{BUCKET}",
                "subjects": [f"$KV.{BUCKET}.>"],
                "retention": "limits",
                "storage": "file",
                "num_replicas": 3,
                "max_msgs_per_subject": 1,
                "discard": "new",
                "allow_rollup_hdrs": True,
                "deny_delete": True,
                "allow_direct": True,
            },
        )
        return "config" in answer

    def _cluster(self) -> dict[str, Any]:
        cluster: dict[str, Any] = self._ask(f"$JS.API.STREAM.INFO.KV_{BUCKET}", {}).get("cluster", {})
        return cluster

    def _healthy(self) -> bool:
        cluster = self._cluster()
        replicas = cluster.get("replicas") or []
        return bool(cluster.get("leader")) and sum(1 for one in replicas if one.get("current")) == 2

    def leader(self) -> Member | None:
        """The server that leads the bucket's stream."""
        name = self._cluster().get("leader")
        return next((member for member in self.members if member.name == name), None)


def _request(member: Member, subject: str, body: dict[str, Any]) -> dict[str, Any]:
    """One request on a connection of its own.  Raises OSError, of timeouts too, when there is no answer."""
    host, _, port = member.address.rpartition(":")
    payload = json.dumps(body).encode()
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        publish = f"SUB _INBOX.ask 1\r\nPUB {subject} _INBOX.ask {len(payload)}\r\n"
        connection.sendall(HELLO + publish.encode() + payload + b"\r\n")
        data = b""
        while chunk := connection.recv(65536):
            try:
                answers, _, data = messages(data + chunk)
            except ValueError as error:
                raise ConnectionError(str(error)) from None
            if answers:
                answer: dict[str, Any] = json.loads(answers[0] or b"{}")  # empty: nobody listens yet
                return answer
    raise ConnectionError(f"{member.name} closed the connection")


def _write_certificate(scratch: Path) -> None:
    """A certificate of the three servers, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nats")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (scratch / "nats.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    file = scratch / "nats.key"
    file.touch(mode=0o600)
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
