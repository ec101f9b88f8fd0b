"""Connections that a node opens to its peers: names looked up, addresses tried, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

from cyoloctl.model import parse_address
from cyoloctl.pki.tls import TlsIdentity
from cyoloctl.web.lookup import Host, Place

__all__ = ["Dialer"]

_HANDSHAKE_TIMEOUT_S = 5.0
_PER_PLACE_S = 2.0


class Dialer:
    """Opens connections.  The caller bounds each dial in time; looking up the name is part of it."""

    def __init__(self, tls: TlsIdentity) -> None:
        self._tls = tls
        self._hosts: dict[str, Host] = {}

    async def connect(self, address: str, factory: Callable[[], asyncio.Protocol]) -> Any:
        """A connection with TLS to HOST:PORT: at the first of its addresses that takes one.

        While no name server answers, at the last one that was good.  Raises OSError, TimeoutError.
        """
        where = parse_address(address)
        host = self._hosts.setdefault(address, Host(where.host, where.port))
        problem: Exception = OSError(f"the name {where.host} has no address")
        for place in await self._places(host):
            try:
                connection = await self._connect(place, factory)
            except (OSError, TimeoutError) as error:
                problem = error
                continue
            host.worked(place)
            return connection
        raise problem

    async def _places(self, host: Host) -> list[Place]:
        lookup = host.begin()
        if lookup is None:
            return host.take(None, ended=True)
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def notify() -> None:
            # The loop may be closed by then: nobody waits for this thread.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(ended.set)

        lookup.notify(notify)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(host.patience_s(2 * _PER_PLACE_S)):
                await ended.wait()
        return host.take(lookup, ended=ended.is_set())

    async def _connect(self, place: Place, factory: Callable[[], asyncio.Protocol]) -> Any:
        loop = asyncio.get_running_loop()
        family, where = place
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            # Bytes, because uvloop encodes text as IDNA, for which Python loads half a megabyte of tables.
            numeric, *rest = where
            async with asyncio.timeout(_PER_PLACE_S):
                await loop.sock_connect(sock, (numeric.encode(), *rest))
            return await loop.create_connection(
                factory,
                sock=sock,
                ssl=self._tls.client,
                server_hostname="",
                ssl_handshake_timeout=_HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=1.0,
            )
        except BaseException:
            sock.close()
            raise
