"""Sessions between nodes: dialling, one live session a peer, frames in and out.

TLS is the caller's: it hands in connections that are authenticated, and a
function that reads the peer's name from the certificate.  Nothing of a peer
is parsed before that (row 25).

Who dials is decided here: every node dials every peer that it knows an
address of and has no session with, the greater name a little later, so that
pairs seldom dial at once.  When two sessions with the same process of a peer
meet, both ends keep the one that the smaller name dialled; a session with
another process of the peer (it restarted) replaces the old one at once (row 24).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from cyoloctl.errors import CyoloctlError, InternalError, NoLeader, OutcomeUnknown, Unavailable
from cyoloctl.raft._wire import FrameReader, PeerProtocolError, decode, encode

__all__ = [
    "PROTOCOL_VERSION",
    "Connector",
    "Identify",
    "PeerHandler",
    "PeerIdentity",
    "PeerInfo",
    "PeerNetwork",
]

PROTOCOL_VERSION = 1

_HELLO_TIMEOUT_S = 5.0
_PING_PERIOD_S = 1.0
_SILENCE_LIMIT_S = 4.0
_DIAL_TIMEOUT_S = 3.0
_BACKOFF_FIRST_S = 0.1
_BACKOFF_LAST_S = 1.0
_GREATER_NAME_DELAY_S = 0.4
_MAX_UNSENT_BYTES = 64 * 2**20
_MAX_CALLS = 1024
_MAX_CALL_BYTES = 2 * 2**20

_log = logging.getLogger("cyoloctl.peer")

Identify = Callable[[Any], str | None]
"""Name of the node at the other end, from the TLS object of a connection; None to refuse it."""

Connector = Callable[[str, Callable[[], asyncio.Protocol]], Awaitable[Any]]
"""Opens an authenticated connection to an address HOST:PORT and puts the protocol on it."""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who this process is to its peers.  boot: random, new with every process."""

    name: str
    raft_id: str
    cluster_id: str
    boot: str
    address: str
    release: str


@dataclass(slots=True)
class PeerInfo:
    """What a connected peer last said about itself."""

    address: str
    release: str
    info: dict[str, Any] = field(default_factory=dict)
    clock_skew_ms: float | None = None
    """The peer's clock less ours, to within half of `round_trip_ms`."""
    round_trip_ms: float | None = None


class PeerHandler(Protocol):
    """What the network tells its owner.  Nothing of a session comes after its disconnected."""

    def on_peer_connected(self, raft_id: str) -> None: ...
    def on_peer_disconnected(self, raft_id: str) -> None: ...
    def on_peer_message(self, raft_id: str, message: dict[str, Any]) -> None: ...
    def is_removed(self, name: str) -> bool: ...
    def on_removed(self, name: str) -> None: ...
    def describe(self) -> dict[str, Any]: ...
    async def on_call(self, name: str, body: bytes) -> bytes: ...


class _Session(asyncio.Protocol):
    """One connection to a peer."""

    def __init__(self, network: PeerNetwork, expected: str | None) -> None:
        """expected: the name that was dialled; None for a connection that came in."""
        self._network = network
        self.dialled = expected is not None
        self._expected = expected
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._hello_timer: asyncio.TimerHandle | None = None
        self.name = ""
        self.raft_id = ""
        self.boot = ""
        self.live = False
        self.said_hello = False
        self.connected = False
        self.closed = asyncio.get_running_loop().create_future()
        self.last_received = 0.0
        self.info = PeerInfo("", "")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.connected = True
        name = self._identify(transport)
        self.last_received = time.monotonic()
        if name is None:
            self.refuse("no node certificate of this cluster")
            return
        self.name = name
        if self._expected is not None and name != self._expected:
            self.refuse(f"expected {self._expected} at this address, found {name}")
            return
        if self._network.handler.is_removed(name):
            self.write({"type": "goodbye", "reason": "removed"})
            self.refuse("it was removed from the cluster")
            return
        identity = self._network.identity
        self.write(
            {
                "type": "hello",
                "version": PROTOCOL_VERSION,
                "cluster_id": identity.cluster_id,
                "name": identity.name,
                "raft_id": identity.raft_id,
                "boot": identity.boot,
                "address": identity.address,
                "release": identity.release,
            }
        )
        self._hello_timer = asyncio.get_running_loop().call_later(_HELLO_TIMEOUT_S, self._no_hello)

    def _identify(self, transport: asyncio.BaseTransport) -> str | None:
        try:
            return self._network.identify(transport.get_extra_info("ssl_object"))
        except Exception:
            _log.critical("a certificate could not be read", exc_info=True)
            return None

    def _no_hello(self) -> None:
        if not self.said_hello:
            self.refuse("no hello in time")

    def refuse(self, reason: str) -> None:
        _log.warning("peer refused", extra={"peer": self.name or None, "reason": reason})
        self.close()

    def close(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def write(self, message: dict[str, Any]) -> None:
        self.write_frames(encode(message))

    def write_frames(self, frames: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            _log.warning("peer reads too slowly", extra={"peer": self.name})
            transport.abort()
            return
        transport.write(frames)

    def data_received(self, data: bytes) -> None:
        self.last_received = time.monotonic()
        try:
            for frame in self._reader.feed(data):
                self._on_message(decode(frame))
                if self._transport is None or self._transport.is_closing():
                    return
        except PeerProtocolError as error:
            self.refuse(f"protocol error: {error}")
            self.abort()
        except Exception:
            # A bug on the way of a peer's message must not take the node down.
            _log.critical("a peer's message could not be handled", extra={"peer": self.name}, exc_info=True)
            self.abort()

    def _on_message(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if not self.said_hello:
            if kind == "goodbye":
                self._on_goodbye(message)
                return
            if kind != "hello":
                raise PeerProtocolError("the first message must be hello")
            self._on_hello(message)
        elif kind == "goodbye":
            self._on_goodbye(message)
        elif self.live:
            self._network.on_message(self, message)

    def _on_goodbye(self, message: dict[str, Any]) -> None:
        self.close()
        if message["reason"] == "removed":
            self._network.handler.on_removed(self.name)
        else:
            _log.warning("peer says goodbye", extra={"peer": self.name, "reason": message["reason"]})

    def _on_hello(self, message: dict[str, Any]) -> None:
        identity = self._network.identity
        if message["version"] != PROTOCOL_VERSION:
            self.write({"type": "goodbye", "reason": f"protocol version {PROTOCOL_VERSION} is spoken here"})
            self.refuse(f"it speaks protocol version {message['version']}")
        elif message["cluster_id"] != identity.cluster_id:
            self.refuse("it belongs to another cluster")
        elif message["name"] != self.name:
            self.refuse(f"it claims to be {message['name']!r}, its certificate says {self.name!r}")
        elif self.name == identity.name:
            self.refuse("it has this node's own name")
        elif message["raft_id"].split("~")[0] != self.name:
            self.refuse("its raft id is not its name")
        else:
            self.said_hello = True
            self.raft_id, self.boot = message["raft_id"], message["boot"]
            self.info = PeerInfo(message["address"], message["release"])
            self._network.establish(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        if not self.closed.done():
            self.closed.set_result(None)
        self._network.lost(self)


class PeerNetwork:
    """All sessions of this node."""

    def __init__(
        self,
        identity: PeerIdentity,
        handler: PeerHandler,
        *,
        identify: Identify,
        connect: Connector,
        rng: random.Random,
    ) -> None:
        self.identity = identity
        self.handler = handler
        self.identify = identify
        self._connect = connect
        self._rng = rng
        self._sessions: dict[str, _Session] = {}
        self._others: set[_Session] = set()
        self._addresses: dict[str, str] = {}
        self._dialers: dict[str, asyncio.Task[None]] = {}
        self._calls: dict[int, tuple[str, asyncio.Future[bytes]]] = {}
        self._next_call = rng.getrandbits(62)
        self._serving: set[asyncio.Task[None]] = set()
        self._pinger: asyncio.Task[None] | None = None
        self._wake_dialer: dict[str, asyncio.Event] = {}
        self._stopped = False

    def start(self) -> None:
        """Begin to dial and to watch the sessions."""
        self._pinger = asyncio.get_running_loop().create_task(self._ping_forever())
        for name in self._addresses:
            self._start_dialer(name)

    async def stop(self) -> None:
        """End every session and task."""
        self._stopped = True
        tasks: list[asyncio.Task[None]] = [*self._dialers.values(), *self._serving]
        if self._pinger is not None:
            tasks.append(self._pinger)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for session in [*self._sessions.values(), *self._others]:
            session.close()
        self._sessions.clear()

    def set_addresses(self, addresses: Mapping[str, str]) -> None:
        """Where peers may be dialled: name to HOST:PORT.  The own name is ignored."""
        wanted = {name: address for name, address in addresses.items() if name != self.identity.name}
        for name in set(self._dialers) - set(wanted):
            self._dialers.pop(name).cancel()
        self._addresses = wanted
        if self._pinger is not None:
            for name in wanted:
                self._start_dialer(name)

    def addresses(self) -> dict[str, str]:
        """Where peers are dialled now."""
        return dict(self._addresses)

    def accept(self) -> asyncio.Protocol:
        """The protocol for a peer connection that came in."""
        session = _Session(self, None)
        self._others.add(session)
        return session

    def disconnect(self, name: str, *, reason: str) -> None:
        """End the session with a peer and tell it why."""
        session = self._sessions.get(name)
        if session is not None:
            session.write({"type": "goodbye", "reason": reason})
            session.close()

    def peers(self) -> dict[str, PeerInfo]:
        """The connected peers, by name."""
        return {name: session.info for name, session in self._sessions.items()}

    def send_frames(self, raft_id: str, frames: bytes) -> None:
        """Write encoded frames to a peer; dropped when there is no session."""
        session = self._sessions.get(raft_id.partition("~")[0])
        if session is not None and session.raft_id == raft_id:
            session.write_frames(frames)

    async def call(self, name: str, body: bytes, *, timeout_s: float) -> bytes:
        """Ask a peer's `PeerHandler.on_call` and return its answer.

        Raises NoLeader when there is no session (nothing was sent) and
        OutcomeUnknown when no answer came.
        """
        session = self._sessions.get(name)
        if session is None:
            raise NoLeader(f"{name} is not connected: try again")
        if len(body) > _MAX_CALL_BYTES:
            raise InternalError("a request to a peer is too large")
        if len(self._calls) >= _MAX_CALLS:
            raise Unavailable("too many requests to peers wait for their answers: try again later")
        self._next_call += 1
        identifier = self._next_call
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[identifier] = (name, future)
        session.write({"type": "call", "id": identifier, "body": body})
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise OutcomeUnknown(f"{name} did not answer within {timeout_s:g} s") from None
        finally:
            self._calls.pop(identifier, None)

    # Sessions report here.

    def establish(self, session: _Session) -> None:
        """A session said a valid hello: make it the live one, or refuse it."""
        self._others.discard(session)
        current = self._sessions.get(session.name)
        if current is not None:
            if current.boot == session.boot and not self._prefer(session, current):
                session.close()
                return
            self._retire(current)
        session.live = True
        self._sessions[session.name] = session
        _log.info("peer connected", extra={"peer": session.name, "dialled": session.dialled})
        self.handler.on_peer_connected(session.raft_id)

    def _prefer(self, new: _Session, old: _Session) -> bool:
        if new.dialled == old.dialled:
            return True
        return new.dialled == (self.identity.name < new.name)

    def _retire(self, session: _Session) -> None:
        """Nothing of it is delivered any more."""
        session.live = False
        if self._sessions.get(session.name) is session:
            del self._sessions[session.name]
            self._fail_calls(session.name)
            self.handler.on_peer_disconnected(session.raft_id)
        session.close()

    def lost(self, session: _Session) -> None:
        """The connection of a session is gone."""
        self._others.discard(session)
        if session.live:
            session.live = False
            if self._sessions.get(session.name) is session:
                del self._sessions[session.name]
                _log.info("peer disconnected", extra={"peer": session.name})
                self._fail_calls(session.name)
                self.handler.on_peer_disconnected(session.raft_id)
        event = self._wake_dialer.get(session.name)
        if event is not None:
            event.set()

    def _fail_calls(self, name: str) -> None:
        for owner, future in self._calls.values():
            if owner == name and not future.done():
                future.set_exception(OutcomeUnknown(f"the connection to {name} broke before it answered"))

    def on_message(self, session: _Session, message: dict[str, Any]) -> None:
        """A decoded message of a live session."""
        kind = message["type"]
        if kind == "ping":
            session.write(
                {
                    "type": "pong",
                    "sent_ms": message["sent_ms"],
                    "wall_unix_ms": time.time_ns() // 1_000_000,
                    "info": self.handler.describe(),
                }
            )
        elif kind == "pong":
            now_ms = int(time.monotonic() * 1000)
            trip = now_ms - message["sent_ms"]
            if 0 <= trip < 60_000:
                session.info.round_trip_ms = float(trip)
                wall_then = time.time_ns() / 1e6 - trip / 2
                session.info.clock_skew_ms = message["wall_unix_ms"] - wall_then
            session.info.info = message["info"]
        elif kind == "call":
            if len(self._serving) >= _MAX_CALLS:
                raise PeerProtocolError("too many calls at once")
            task = asyncio.get_running_loop().create_task(self._serve_call(session, message))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        elif kind == "reply":
            found = self._calls.get(message["id"])
            if found is not None and found[0] == session.name and not found[1].done():
                found[1].set_result(message["body"])
        elif kind != "hello":
            self.handler.on_peer_message(session.raft_id, message)

    async def _serve_call(self, session: _Session, message: dict[str, Any]) -> None:
        body = await self.handler.on_call(session.name, message["body"])
        session.write({"type": "reply", "id": message["id"], "body": body})

    # Dialling and watching.

    def _start_dialer(self, name: str) -> None:
        if name not in self._dialers and not self._stopped:
            self._wake_dialer[name] = asyncio.Event()
            self._dialers[name] = asyncio.get_running_loop().create_task(self._dial_forever(name))

    async def _dial_forever(self, name: str) -> None:
        backoff = _BACKOFF_FIRST_S
        event = self._wake_dialer[name]
        if self.identity.name > name:
            await asyncio.sleep(_GREATER_NAME_DELAY_S)
        while True:
            event.clear()
            session = self._sessions.get(name)
            if session is not None:
                backoff = _BACKOFF_FIRST_S
                await asyncio.shield(session.closed)
                if self.identity.name > name:
                    await self._pause(event, _GREATER_NAME_DELAY_S)
                continue
            try:
                await self._dial(name)
            except Exception:
                _log.critical("dialling failed by a bug", extra={"peer": name}, exc_info=True)
            if name not in self._sessions:
                await self._pause(event, backoff * (0.5 + self._rng.random()))
                backoff = min(backoff * 2, _BACKOFF_LAST_S)

    async def _pause(self, event: asyncio.Event, seconds: float) -> None:
        event.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
        if event.is_set():
            # A session came and went meanwhile: not at once again.
            await asyncio.sleep(_BACKOFF_FIRST_S)

    async def _dial(self, name: str) -> None:
        """One attempt; returns when a session is live, or the attempt is over."""
        session: _Session | None = None

        def factory() -> asyncio.Protocol:
            nonlocal session
            session = _Session(self, name)
            self._others.add(session)
            return session

        try:
            async with asyncio.timeout(_DIAL_TIMEOUT_S):
                await self._connect(self._addresses[name], factory)
        except (OSError, TimeoutError, CyoloctlError, ValueError) as error:
            _log.debug("cannot dial", extra={"peer": name, "error": str(error)})
            return
        finally:
            if session is not None and not session.connected:
                self._others.discard(session)
        deadline = asyncio.get_running_loop().time() + _HELLO_TIMEOUT_S
        while (
            session is not None
            and not session.closed.done()
            and not session.said_hello
            and asyncio.get_running_loop().time() < deadline
        ):
            await asyncio.wait([session.closed], timeout=0.02)

    async def _ping_forever(self) -> None:
        while True:
            await asyncio.sleep(_PING_PERIOD_S)
            now = time.monotonic()
            for session in list(self._sessions.values()):
                if now - session.last_received > _SILENCE_LIMIT_S:
                    _log.warning("peer is silent", extra={"peer": session.name})
                    session.abort()
                    continue
                session.write(
                    {
                        "type": "ping",
                        "sent_ms": int(now * 1000),
                        "wall_unix_ms": time.time_ns() // 1_000_000,
                    }
                )
