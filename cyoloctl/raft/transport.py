"""Sockets, timers and tasks under the links of `links.py`, which decides everything.

TLS is the caller's: it hands in connections that are authenticated, and a
function that reads the peer's name from the certificate.  Nothing of a peer
is parsed before that (row 25).
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Protocol, cast

from cyoloctl.errors import AccessDenied, CyoloctlError, OutcomeUnknown
from cyoloctl.raft.absences import CERTIFICATE
from cyoloctl.raft.dialling import DIAL_TIMEOUT_S
from cyoloctl.raft.links import Link, Links
from cyoloctl.raft.peers import PROTOCOL_VERSION, LinkHandler, PeerIdentity, PeerInfo, Refusal
from cyoloctl.raft.ticker import Ticker
from cyoloctl.raft.vantage import View

__all__ = [
    "PROTOCOL_VERSION",
    "Connector",
    "Identify",
    "PeerHandler",
    "PeerIdentity",
    "PeerInfo",
    "PeerNetwork",
]

_log = logging.getLogger("cyoloctl.peer")

Identify = Callable[[Any], str | None]
"""Name of the node at the other end, from the TLS object of a connection; None to refuse it.

May raise AccessDenied: then the other end is told why.
"""

Connector = Callable[[str, Callable[[], asyncio.Protocol]], Awaitable[Any]]
"""Opens an authenticated connection to an address HOST:PORT and puts the protocol on it."""


class PeerHandler(LinkHandler, Protocol):
    """Owner of the network, as the network calls it."""

    async def on_call(self, name: str, body: bytes) -> bytes: ...


_PARTING_S = 0.2
"""How long the last words to a peer may take when the node stops."""


class _Stream(asyncio.Protocol):
    """One connection to a peer: hands its bytes to a link, which writes to the transport itself."""

    _received: Callable[[bytes], None]

    def __init__(
        self,
        links: Links,
        identify: Identify,
        expected: str | None,
        streams: set[_Stream],
        left: Callable[[], None] = lambda: None,
    ) -> None:
        """expected: the name that was dialled; None for a connection that came in.

        streams: where it is as long as it is connected.  left: called at its end.
        """
        self._links = links
        self._streams = streams
        self.ssl_object: Any = None
        self._identify = identify
        self._expected = expected
        self._left = left
        self.link: Link | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.ssl_object = transport.get_extra_info("ssl_object")
        self._streams.add(self)
        refusal = None
        try:
            name = self._identify(self.ssl_object)
        except AccessDenied as error:
            name, refusal = None, error.message
        except Exception:
            _log.critical("a certificate could not be read", exc_info=True)
            name = None
        wire = cast(asyncio.Transport, transport)
        version = _spoken(self.ssl_object)
        self.link = self._links.opened(wire, name, expected=self._expected, version=version, refusal=refusal)
        self._received = self.link.received

    def data_received(self, data: bytes) -> None:
        try:
            self._received(data)
        except Exception:
            # A bug on the way of a peer's message must not take the node down.
            link = cast(Link, self.link)
            _log.critical("a peer's message could not be handled", extra={"peer": link.name}, exc_info=True)
            link.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._streams.discard(self)
        self._left()
        if self.link is not None:
            self.link.lost(None if exc is None else _reason(exc))

    def abort(self) -> None:
        """End the connection at once."""
        if self.link is not None:
            self.link.abort()


def _spoken(tls: Any) -> int:
    """Version of the protocol that both ends agreed on in their handshake: N of ``cyoloctl-raft/N``."""
    selected = getattr(tls, "selected_alpn_protocol", None)
    number = str(selected()).rpartition("/")[2] if callable(selected) else ""
    return int(number) if number.isdecimal() else PROTOCOL_VERSION


def _reason(error: Exception) -> str:
    """Why there is no connection, for the operator of either end."""
    if isinstance(error, TimeoutError):
        return str(error) or "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: its certificate is not accepted here: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).replace("_", " ").lower()
        # "unknown ca" is an alert of the other end, too.
        about = f", so this node's {CERTIFICATE} is not accepted there" if "alert" in reason else ""
        return f"TLS: {reason}{about}"
    if isinstance(error, socket.gaierror):
        return f"its name cannot be resolved: {error.strerror or error}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()  # asyncio has words of its own
    return str(error) or type(error).__name__


class PeerNetwork:
    """All links of this node."""

    def __init__(
        self,
        identity: PeerIdentity,
        handler: PeerHandler,
        *,
        identify: Identify,
        connect: Connector,
        rng: random.Random,
    ) -> None:
        """Belongs to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._handler = handler
        self._identify = identify
        self._connect = connect
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: set[_Stream] = set()
        self._started = False
        self._links = Links(
            identity,
            handler,
            dial=lambda name, address: self._start(self._dial(name, address)),
            serve=lambda link, identifier, body: self._start(self._serve(link, identifier, body)),
            wake=self._wake,
            clock=time.monotonic,
            wall_clock=time.time,
            jitter=rng.random,
            first_call=rng.getrandbits(62),
        )
        self._ticker = Ticker(self._loop, self._links.tick, self._links.next_deadline)
        self.send_frames = self._links.send_frames  # no call in between: it is hot

    def start(self) -> None:
        """Begin to dial and to watch the links."""
        self._started = True
        self._wake()

    async def stop(self) -> None:
        """End every link and task; on return no connection is open.

        What was written has a moment to leave: a peer that is silent must not hold the end up.
        """
        self._ticker.stop()
        self._links.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        deadline = self._loop.time() + _PARTING_S
        while self._streams and self._loop.time() < deadline:
            await asyncio.sleep(0.005)
        for stream in tuple(self._streams):
            stream.abort()
        deadline += _PARTING_S
        while self._streams and self._loop.time() < deadline:
            await asyncio.sleep(0)

    def set_addresses(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """Set the addresses to dial: name to one or more HOST:PORT.  The own name is ignored."""
        self._links.dialling.set_addresses(addresses)

    def addresses(self) -> dict[str, tuple[str, ...]]:
        """Addresses at which peers are dialled now."""
        return self._links.dialling.addresses()

    def accept(self, left: Callable[[], None]) -> asyncio.Protocol:
        """The protocol for a peer connection that came in; left: called at its end."""
        return _Stream(self._links, self._identify, None, self._streams, left)

    def disconnect(self, name: str, *, reason: str) -> None:
        """End the link with a peer and tell it why."""
        self._links.disconnect(name, reason=reason)

    def reconnect(self, name: str) -> None:
        """End the link with a peer; both ends dial again."""
        self._links.reconnect(name)

    def recheck(self, judge: Callable[[Any], str]) -> list[tuple[str, str]]:
        """Judge the certificates of the live links again: the peers that are refused now, and why.

        judge: the peer's name, from the TLS object; raises AccessDenied.
        """
        refused = []
        for stream in self._streams:
            link = stream.link
            if link is not None and link.live:
                try:
                    judge(stream.ssl_object)
                except AccessDenied as error:
                    refused.append((link.name, error.message))
        return refused

    def peers(self) -> dict[str, PeerInfo]:
        """The connected peers, by name."""
        return self._links.peers()

    def view(self) -> View:
        """Whom this node reaches, and whom those reach by their own word."""
        return self._links.view()

    def refusals(self) -> list[Refusal]:
        """Processes that were kept out lately."""
        return self._links.refusals.lately()

    def absences(self) -> dict[str, str]:
        """Why peers that were dialled have no link: name -> addresses and reasons."""
        return self._links.dialling.absences()

    def farewells(self) -> dict[str, str]:
        """Peers that said what stopped them, and have not come back."""
        return self._links.dialling.farewells()

    def part(self, reason: str) -> None:
        """Tell every peer what stops this node, and end the links; there are no others from here on."""
        self._links.part(reason)

    def all_tried(self, names: Collection[str]) -> bool:
        """Whether each peer to dial, and each of these, has a link, or an attempt at it has ended."""
        return self._links.dialling.all_tried(names)

    def last_process(self, name: str) -> str | None:
        """`boot` of the process that the last link with this peer was with."""
        return self._links.last_process(name)

    async def call(self, name: str, body: bytes, *, timeout_s: float) -> bytes:
        """Ask a peer's `PeerHandler.on_call` and return its answer.

        Raises NoLeader when there is no link (nothing was sent) and
        OutcomeUnknown when no answer came.
        """
        future: asyncio.Future[bytes] = self._loop.create_future()

        def done(body: bytes | None, error: CyoloctlError | None) -> None:
            if future.done():
                return
            if body is None:
                future.set_exception(cast(CyoloctlError, error))
            else:
                future.set_result(body)

        identifier = self._links.call(name, body, done)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise OutcomeUnknown(f"{name} did not answer within {timeout_s:g} s") from None
        finally:
            self._links.forget(identifier)

    # What the links ask for.

    def _wake(self) -> None:
        if self._started:
            self._ticker.wake()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _dial(self, name: str, address: str) -> None:
        stream = _Stream(self._links, self._identify, name, self._streams)
        reason = None
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                await self._connect(address, lambda: stream)
        except (OSError, TimeoutError, CyoloctlError, ValueError) as error:
            reason = _reason(error)
        except Exception:
            _log.critical("dialling failed by a bug", extra={"peer": name}, exc_info=True)
        finally:
            if stream.link is None:
                self._links.dialling.failed(name, reason)

    async def _serve(self, link: Link, identifier: int, body: bytes) -> None:
        answer = None
        try:
            answer = await self._handler.on_call(link.name, body)
        finally:
            link.answer(identifier, answer)
