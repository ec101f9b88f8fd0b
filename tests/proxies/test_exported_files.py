"""The exported files with TLS on both sides, as fragments, for Debian's services, and for large clusters."""

from __future__ import annotations

import ipaddress
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cyoloctl.routing.table import Backend, ExportOptions, RoutingTable
from tests.support.proxies import EXPORTS, NAMES, SHARED, Kind, host_of, require, site

KINDS = pytest.mark.parametrize("kind", ["nginx", "haproxy"])


@dataclass(frozen=True)
class Certificates:
    """A CA and a chain with its key, valid for some hosts, as files that anybody may read."""

    directory: Path
    ca: Path
    chain: Path

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3  # which nginx 1.22 does not offer unless told
        context.load_cert_chain(self.chain)
        return context

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context


def certificates(directory: Path, hosts: list[str]) -> Certificates:
    now = datetime.now(UTC)

    def issue(
        subject: str, extension: x509.ExtensionType, signer: ec.EllipticCurvePrivateKey | None
    ) -> tuple[bytes, bytes, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test CA")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(extension, critical=subject == "test CA")
            .sign(signer or key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return made.public_bytes(pem), private, key

    ca, _, ca_key = issue("test CA", x509.BasicConstraints(ca=True, path_length=None), None)
    leaf, leaf_key, _ = issue("node", x509.SubjectAlternativeName(list(map(x509.DNSName, hosts))), ca_key)
    (directory / "ca.pem").write_bytes(ca)
    (directory / "chain.pem").write_bytes(leaf + leaf_key)
    return Certificates(directory, directory / "ca.pem", directory / "chain.pem")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that nobody (the user) can reach, unlike tmp_path of root."""
    path = Path(tempfile.mkdtemp(prefix="cyoloctl-proxy-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


HOSTS = [SHARED, *map(host_of, NAMES)]


@KINDS
async def test_proxy_with_tls_on_both_sides_routes_checks_and_marks_its_cookie_secure(
    kind: Kind, directory: Path
) -> None:
    made = certificates(directory, HOSTS)
    async with site(
        kind,
        node_tls=made.server(),
        client_tls=made.client(),
        tls_certificate=str(made.chain),
        backend_tls_ca=str(made.ca),
    ) as proxy:
        if kind == "haproxy":

            async def checked() -> bool:
                return all(len(node.checks) >= 3 for node in proxy.nodes.values())

            await proxy.until("every node was checked over TLS", checked)
            assert {host for node in proxy.nodes.values() for host in node.checks} == {SHARED}
        for name in NAMES:
            assert (await proxy.ask(host_of(name))).node == name
        [(_, _, headers)] = proxy.nodes["n1"].received
        assert headers["x-forwarded-proto"] == "https"
        answer = await proxy.ask(SHARED)
        assert answer.cookie == answer.node is not None
        assert "; secure" in answer.headers["set-cookie"].lower()
        await proxy.nodes["n1"].stop()
        for method in ("GET", "POST"):
            assert (await proxy.ask(host_of("n1"), method)).node == proxy.next_of("n1")
        proxy.nodes["n2"].behaviour = "die"
        assert (await proxy.ask(host_of("n2"), "POST")).status == 502
        assert proxy.received("POST") == 2


@KINDS
@pytest.mark.parametrize("wrong", ["name", "ca"])
async def test_node_whose_certificate_is_not_for_the_host_receives_nothing(
    kind: Kind, wrong: str, directory: Path
) -> None:
    other = directory / "other"
    other.mkdir()
    # The shared host stays good, so that the proxy starts and its checks succeed.
    trusted = certificates(directory, HOSTS)
    shown = certificates(other, [SHARED] if wrong == "name" else HOSTS)
    ca = shown.ca if wrong == "name" else trusted.ca
    async with site(
        kind, ready_status=200 if wrong == "name" else 503, node_tls=shown.server(), backend_tls_ca=str(ca)
    ) as proxy:
        for method in ("GET", "POST"):
            assert (await proxy.ask(host_of("n1"), method)).status == 503
        assert proxy.received("GET") == proxy.received("POST") == 0


def check(kind: Kind, *files: Path) -> subprocess.CompletedProcess[str]:
    program = require(kind)
    if kind == "nginx":
        command = [program, "-e", "stderr", "-t", "-c", str(files[0])]
    else:
        command = [program, "-c", *(word for file in files for word in ("-f", str(file)))]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def table(size: int = 3, **longer: bool) -> RoutingTable:
    def name(number: int) -> str:
        return f"n{number}".ljust(63, "x") if longer else f"n{number}"

    def host(number: int) -> str:
        labels = [f"app-{number}", "example"]
        if longer:
            labels[1:1] = ["y" * 63] * 3
            labels.insert(1, "z" * (253 - len(".".join([*labels, ""]))))
        return ".".join(labels)

    backends = [
        Backend(
            name=name(number),
            host=host(number),
            address=f"[{ipaddress.IPv6Address('fd00::') + number}]:80"
            if number % 2
            else f"10.0.0.{number}:80",
            alive=True,
            role="follower",
        )
        for number in range(1, size + 1)
    ]
    return RoutingTable(tuple(backends), tuple(host(number) for number in range(900, 902)))


@KINDS
def test_file_for_many_members_with_the_longest_names_is_accepted(kind: Kind, tmp_path: Path) -> None:
    many = table(50, longer=True)
    assert {len(backend.host or "") for backend in many.backends} == {253}
    file = tmp_path / "many.conf"
    file.write_text(EXPORTS[kind](many, ExportOptions(run_dir=str(tmp_path))))
    done = check(kind, file)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr.lower()


@KINDS
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may open the log files of Debian's services")
@pytest.mark.parametrize("pin", ["soft", "strict"])
def test_file_for_the_service_and_its_fragment_are_accepted(kind: Kind, pin: str, tmp_path: Path) -> None:
    file = tmp_path / "whole.conf"
    file.write_text(EXPORTS[kind](table(), ExportOptions(pin=pin)))
    done = check(kind, file)
    assert (done.returncode, "warn" in done.stderr.lower()) == (0, False), done.stderr
    fragment = tmp_path / "fragment.conf"
    fragment.write_text(
        EXPORTS[kind](table(), ExportOptions(pin=pin, fragment=True, listen="127.0.0.1:8080"))
    )
    outer = tmp_path / "outer.conf"
    if kind == "nginx":
        # As Debian's nginx.conf does, with a site of the operator's own beside it.
        outer.write_text(
            f"events {{}}\nhttp {{\n  include {fragment};\n  server {{ listen 8081; return 204; }}\n}}\n"
        )
        done = check(kind, outer)
    else:
        outer.write_text("global\n    log /dev/log local0\ndefaults\n    mode http\n    timeout connect 5s\n")
        done = check(kind, outer, fragment)
    assert (done.returncode, "warn" in done.stderr.lower()) == (0, False), done.stderr
