"""The TLS identity of a running node: what the next connection uses after files were exchanged."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cyoloctl.errors import ConfigError
from cyoloctl.pki.ca import new_cluster_id
from cyoloctl.pki.files import PKI_DIRECTORY, check_private_files, read_ca
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.tls import TlsIdentity
from tests.support.authorities import renew_own

NOW = datetime.now(UTC)


def _node(where: Path, cluster_id: str | None = None) -> Path:
    new_cluster(where, name="n1", cluster="c", now=NOW, cluster_id=cluster_id)
    return where / PKI_DIRECTORY


async def _handshake(tls: TlsIdentity, client: ssl.SSLContext) -> tuple[bytes, bytes]:
    """The certificates that client and server showed each other."""
    shown: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown.set_result(writer.get_extra_info("ssl_object").getpeercert(True))
        writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls.listening)
    port = server.sockets[0].getsockname()[1]
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="")
        of_server = writer.get_extra_info("ssl_object").getpeercert(True)
        of_client = await asyncio.wait_for(shown, 5)
        writer.close()
    finally:
        server.close()
    return of_client, of_server


def _der(pki_dir: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert((pki_dir / "node.crt").read_text())


def test_listener_after_a_renewal_shows_the_new_certificate(tmp_path: Path) -> None:
    pki_dir = _node(tmp_path / "a")
    tls = TlsIdentity(pki_dir)
    old = _der(pki_dir)
    assert asyncio.run(_handshake(tls, tls.client)) == (old, old)

    renew_own(pki_dir)
    assert asyncio.run(_handshake(tls, tls.client)) == (old, old)  # not reloaded yet
    tls.reload()
    new = _der(pki_dir)
    assert new != old
    assert asyncio.run(_handshake(tls, tls.client)) == (new, new)


def test_listener_after_a_second_ca_trusts_both_and_after_the_drop_only_one(tmp_path: Path) -> None:
    cluster_id = new_cluster_id()
    pki_dir = _node(tmp_path / "a", cluster_id)
    other_dir = _node(tmp_path / "b", cluster_id)
    tls, other = TlsIdentity(pki_dir), TlsIdentity(other_dir)
    both = (pki_dir / "ca.crt").read_text() + (other_dir / "ca.crt").read_text()
    with pytest.raises((ssl.SSLError, OSError)):
        asyncio.run(_handshake(tls, other.client))

    for directory in (pki_dir, other_dir):
        (directory / "ca.crt").write_text(both)
    tls.reload()
    other.reload()
    assert asyncio.run(_handshake(tls, other.client)) == (_der(other_dir), _der(pki_dir))
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
        asyncio.run(_handshake(tls, other.client))


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
