"""A node's server over a service in memory, on a unix socket and on TLS."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from cyoloctl.control.server import build_server
from tests.support.service import Authority, MemoryService, identify

__all__ = ["Live", "refusing", "running"]

LOGGER = logging.getLogger("test.control")


class Live:
    """A node: our server over a memory service, on a unix socket and on TLS."""

    def __init__(self, service: MemoryService, path: Path, port: int) -> None:
        self.service = service
        self.unix = f"unix://{path}"
        self.https = f"https://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def running(
    authority: Authority, directory: Path, name: str = "control.sock", context: ssl.SSLContext | None = None
) -> AsyncIterator[Live]:
    service = MemoryService()
    service.cluster_id, service.ca_certificates = authority.cluster_id, [authority.ca_pem]
    server = build_server(service, logger=LOGGER, identify=identify)
    await server.start_unix(directory / name)
    listener = await asyncio.get_running_loop().create_server(
        server.protocol_factory, "127.0.0.1", 0, ssl=context or authority.server_context(directory)
    )
    try:
        yield Live(service, directory / name, listener.sockets[0].getsockname()[1])
    finally:
        service.release.set()
        listener.close()
        await server.close(timeout_s=0.1)


@contextlib.contextmanager
def refusing(authority: Authority, directory: Path) -> Iterator[str]:
    """The endpoint of a node that refuses the certificate of its one caller, and says so by an alert."""
    context = Authority().server_context(directory)  # verifies us against another CA ...
    certificate, key = authority.issue("a", "node")
    path = directory / "node.pem"
    path.write_text(certificate + key)
    context.load_cert_chain(path)  # ... and is a node of ours all the same
    listener = socket.create_server(("127.0.0.1", 0))
    refused: list[str] = []
    told = threading.Event()

    def refuse() -> None:
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as tls:
            try:
                tls.do_handshake()
            except ssl.SSLError as error:
                refused.append(error.reason)
            told.wait(5)

    thread = threading.Thread(target=refuse)
    thread.start()
    try:
        with listener:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        told.set()
        thread.join()
    assert refused
