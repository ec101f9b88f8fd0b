"""The sessions of a node with its peers: every decision, and neither socket nor task nor clock.

A `Session` is what one authenticated connection carries: hello first, then
messages, pings and calls, until either end closes it.  `Sessions` is all of
them: at most one live session a peer, whom to dial and when, which calls wait
for an answer.  Input is calls of their methods, output is calls of the `Wire`
under a session, of the `SessionHandler` above it and of what the constructor
was given.  `_transport.py` puts sockets under this, `cyoloctl/sim` simulated
ones.

Every node dials every peer that it knows an address of and has no session
with, the greater name a little later, so that pairs seldom dial at once.  When
two sessions with the same process of a peer meet, both ends keep the one that
the smaller name dialled; a session with another process of the peer (it
restarted) replaces the old one at once (row 24).

Duties of the caller: `Session.lost` exactly once for each session, never from
within a call of its wire; `Sessions.dial_failed` for a dial that led to no
connection; `Sessions.tick` no later than `next_deadline` says, which may come
closer with every call of `wake`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cyoloctl.errors import CyoloctlError, InternalError, NoLeader, OutcomeUnknown, Unavailable
from cyoloctl.raft._wire import MAX_CALL_BYTES, FrameReader, PeerProtocolError, decode, encode

__all__ = [
    "DIAL_TIMEOUT_S",
    "MAX_UNSENT_BYTES",
    "PROTOCOL_VERSION",
    "PeerIdentity",
    "PeerInfo",
    "Session",
    "SessionHandler",
    "Sessions",
    "Wire",
]

PROTOCOL_VERSION = 1

DIAL_TIMEOUT_S = 3.0
"""A dial that led to no connection by then has failed."""

MAX_UNSENT_BYTES = 64 * 2**20

_HELLO_TIMEOUT_S = 5.0
_PING_PERIOD_S = 1.0
_SILENCE_LIMIT_S = 4.0
_BACKOFF_FIRST_S = 0.1
_BACKOFF_LAST_S = 1.0
_GREATER_NAME_DELAY_S = 0.4
_MAX_CALLS = 1024

_log = logging.getLogger("cyoloctl.peer")

Done = Callable[[bytes | None, CyoloctlError | None], None]
"""Called at most once, with the answer or with why there is none."""


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


class Wire(Protocol):
    """The connection under a session: what it needs of an `asyncio.Transport`.

    close: what was written still leaves.  abort: at once.  Neither returns
    with `Session.lost` called.
    """

    def write(self, data: bytes, /) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool: ...
    def get_write_buffer_size(self) -> int: ...


class SessionHandler(Protocol):
    """What the sessions tell their owner.  Nothing of a session comes after its disconnected."""

    def on_peer_connected(self, raft_id: str, /) -> None: ...
    def on_peer_disconnected(self, raft_id: str, /) -> None: ...
    def on_peer_message(self, raft_id: str, message: dict[str, Any], /) -> None: ...
    def is_removed(self, raft_id: str, /) -> bool: ...
    def on_removed(self, name: str, /) -> None: ...
    def describe(self) -> dict[str, Any]: ...


class Session:
    """One connection to a peer: made by `Sessions.opened`."""

    __slots__ = (
        "_on_peer_message",
        "_reader",
        "_sessions",
        "_wire",
        "boot",
        "expected",
        "info",
        "last_received",
        "live",
        "name",
        "number",
        "raft_id",
        "refused",
        "said_hello",
        "since",
    )

    def __init__(self, sessions: Sessions, wire: Wire, name: str, expected: str | None) -> None:
        self._sessions = sessions
        self._wire = wire
        self._reader = FrameReader()
        self._on_peer_message = sessions.handler.on_peer_message
        self.name = name
        self.expected = expected
        """The name that was dialled; None for a connection that came in."""
        self.raft_id = self.boot = ""
        self.said_hello = self.live = False
        self.since = self.last_received = sessions.clock()
        sessions.opened_count += 1
        self.number = sessions.opened_count
        """In the order in which connections came to be."""
        self.info = PeerInfo("", "")
        self.refused: str | None = None
        """Why this node ended it, when the peer broke a rule."""

    @property
    def dialled(self) -> bool:
        """True when this node opened the connection."""
        return self.expected is not None

    def received(self, data: bytes) -> None:
        """Bytes of the peer, in order.

        Raises nothing but what the handler raises: then `abort` it, as its
        messages were not all handled.
        """
        # What arrives after this end closed it is of a session that is over.
        if self._wire.is_closing():
            return
        self.last_received = self._sessions.clock()
        try:
            for frame in self._reader.feed(data):
                message = decode(frame)
                if self.live:
                    handle = _OF_SESSIONS.get(message["type"])
                    if handle is None:
                        self._on_peer_message(self.raft_id, message)
                    else:
                        handle(self, message)
                else:
                    self._before_live(message)
                if self._wire.is_closing():
                    return
        except PeerProtocolError as error:
            self._refuse(f"protocol error: {error}")
            self.abort()

    def lost(self) -> None:
        """The connection is gone."""
        self._sessions._lost(self)

    def write(self, message: dict[str, Any]) -> None:
        """Send a message, unless the session is over."""
        self.write_frames(encode(message))

    def write_frames(self, frames: bytes) -> None:
        """Send encoded messages, unless the session is over; a peer that reads too slowly is cut off."""
        wire = self._wire
        if wire.is_closing():
            return
        if wire.get_write_buffer_size() > self._sessions.max_unsent_bytes:
            _log.warning("peer reads too slowly", extra={"peer": self.name})
            wire.abort()
            return
        wire.write(frames)

    def answer(self, identifier: int, body: bytes | None) -> None:
        """The answer to a call that `serve` was given, exactly once; None: there is none."""
        self._sessions._serving -= 1
        if body is not None and len(body) > MAX_CALL_BYTES:
            _log.error("an answer is too large to be sent", extra={"peer": self.name})
        elif body is not None:
            self.write({"type": "reply", "id": identifier, "body": body})

    def close(self) -> None:
        """End it; what was written still leaves."""
        if not self._wire.is_closing():
            self._wire.close()

    def abort(self) -> None:
        """End it at once."""
        self._wire.abort()

    def closing(self) -> bool:
        """True when it is over, or will be once what was written has left."""
        return self._wire.is_closing()

    # The state machine: opened, then hello of the peer, then live; any of them to closing.

    def _open(self) -> bool:
        """Say hello; False when the peer is refused."""
        sessions = self._sessions
        identity = sessions.identity
        if not self.name:
            self._refuse("no node certificate of this cluster")
        elif self.expected is not None and self.name != self.expected:
            self._refuse(f"expected {self.expected} at this address, found {self.name}")
        elif not self._is_removed(self.name):
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
            return True
        return False

    def _is_removed(self, raft_id: str) -> bool:
        if not self._sessions.handler.is_removed(raft_id):
            return False
        self.write({"type": "goodbye", "reason": "removed"})
        self._refuse("it was removed from the cluster")
        return True

    def _before_live(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "goodbye":
            self._on_goodbye(message)
        elif kind == "hello":
            self._on_hello(message)
        else:
            raise PeerProtocolError("the first message must be hello")

    def _on_hello(self, message: dict[str, Any]) -> None:
        identity = self._sessions.identity
        raft_id = message["raft_id"]
        if message["version"] != PROTOCOL_VERSION:
            self.write({"type": "goodbye", "reason": f"protocol version {PROTOCOL_VERSION} is spoken here"})
            self._refuse(f"it speaks protocol version {message['version']}")
        elif message["cluster_id"] != identity.cluster_id:
            self._refuse("it belongs to another cluster")
        elif message["name"] != self.name:
            self._refuse(f"it claims to be {message['name']!r}, its certificate says {self.name!r}")
        elif self.name == identity.name:
            self._refuse("it has this node's own name")
        elif raft_id.partition("~")[0] != self.name:
            self._refuse("its raft id is not its name")
        elif not self._is_removed(raft_id):
            self.said_hello = True
            self.raft_id, self.boot = raft_id, message["boot"]
            self.info = PeerInfo(message["address"], message["release"])
            self._sessions._establish(self)

    def _on_goodbye(self, message: dict[str, Any]) -> None:
        self.close()
        if message["reason"] == "removed":
            self._sessions.handler.on_removed(self.name)
        else:
            _log.warning("peer says goodbye", extra={"peer": self.name, "reason": message["reason"]})

    def _on_second_hello(self, message: dict[str, Any]) -> None:
        pass

    def _on_ping(self, message: dict[str, Any]) -> None:
        sessions = self._sessions
        self.write(
            {
                "type": "pong",
                "sent_ms": message["sent_ms"],
                "wall_unix_ms": int(sessions.wall_clock() * 1000),
                "info": sessions.handler.describe(),
            }
        )

    def _on_pong(self, message: dict[str, Any]) -> None:
        trip = int(self.last_received * 1000) - message["sent_ms"]
        if 0 <= trip < 60_000:
            self.info.round_trip_ms = float(trip)
            wall_then = self._sessions.wall_clock() * 1000 - trip / 2
            self.info.clock_skew_ms = message["wall_unix_ms"] - wall_then
        self.info.info = message["info"]

    def _on_call(self, message: dict[str, Any]) -> None:
        sessions = self._sessions
        if sessions._serving >= _MAX_CALLS:
            raise PeerProtocolError("too many calls at once")
        sessions._serving += 1
        sessions.serve(self, message["id"], message["body"])

    def _on_reply(self, message: dict[str, Any]) -> None:
        self._sessions._on_reply(self.name, message)

    def _refuse(self, reason: str) -> None:
        self.refused = reason
        _log.warning("peer refused", extra={"peer": self.name or None, "reason": reason, "_seldom": True})
        self._sessions._waiting.pop(self, None)
        self.close()


# Messages that are the session's own; all others are the handler's.
_OF_SESSIONS: dict[str, Callable[[Session, dict[str, Any]], None]] = {
    "hello": Session._on_second_hello,
    "goodbye": Session._on_goodbye,
    "ping": Session._on_ping,
    "pong": Session._on_pong,
    "call": Session._on_call,
    "reply": Session._on_reply,
}


@dataclass(slots=True)
class _Dialled:
    """A peer that is dialled.  due: inf while there is a session or an attempt."""

    due: float
    backoff_s: float = _BACKOFF_FIRST_S
    busy: bool = False


class Sessions:
    """All sessions of a node."""

    def __init__(
        self,
        identity: PeerIdentity,
        handler: SessionHandler,
        *,
        dial: Callable[[str, str], None],
        serve: Callable[[Session, int, bytes], None],
        wake: Callable[[], None],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        jitter: Callable[[], float],
        first_call: int,
        max_unsent_bytes: int = MAX_UNSENT_BYTES,
    ) -> None:
        """dial: begin to connect to a name at an address HOST:PORT.

        serve: answer a call with `Session.answer`.  wake: `next_deadline` came
        closer.  clock, wall_clock: seconds, monotonic and since 1970.  jitter:
        uniform from 0 to 1.  first_call: where the ids of calls begin, at
        random, so that no reply belongs to a call of an earlier process.
        max_unsent_bytes: a peer for which more waits is cut off.
        """
        self.identity = identity
        self.handler = handler
        self.serve = serve
        self.clock = clock
        self.wall_clock = wall_clock
        self.max_unsent_bytes = max_unsent_bytes
        self._dial = dial
        self._wake = wake
        self._jitter = jitter
        self.opened_count = 0
        self._live: dict[str, Session] = {}
        self._waiting: dict[Session, float] = {}  # for a hello, until
        self._addresses: dict[str, str] = {}
        self._dials: dict[str, _Dialled] = {}
        self._calls: dict[int, tuple[str, Done]] = {}
        self._next_call = first_call
        self._serving = 0
        self._ping_at = clock() + _PING_PERIOD_S

    # Time.

    def next_deadline(self) -> float:
        """When `tick` has something to do at the latest, on the clock."""
        return min(
            self._ping_at, *self._waiting.values(), *(dial.due for dial in self._dials.values()), math.inf
        )

    def tick(self) -> None:
        """Do what is due: dial, ping, end what is silent."""
        now = self.clock()
        for session, until in list(self._waiting.items()):
            if now >= until:
                session._refuse("no hello in time")
        if now >= self._ping_at:
            self._ping_at = now + _PING_PERIOD_S
            self._ping(now)
        for name, dial in list(self._dials.items()):
            if now >= dial.due:
                dial.due, dial.busy = math.inf, True
                self._dial(name, self._addresses[name])

    def _ping(self, now: float) -> None:
        ping = {
            "type": "ping",
            "sent_ms": int(now * 1000),
            "wall_unix_ms": int(self.wall_clock() * 1000),
        }
        for session in list(self._live.values()):
            if now - session.last_received > _SILENCE_LIMIT_S:
                _log.warning("peer is silent", extra={"peer": session.name})
                session.abort()
            else:
                session.write(ping)

    # Dialling.

    def set_addresses(self, addresses: Mapping[str, str]) -> None:
        """Where peers may be dialled: name to HOST:PORT.  The own name is ignored."""
        wanted = {name: address for name, address in addresses.items() if name != self.identity.name}
        self._addresses = wanted
        for name in list(self._dials):
            if name not in wanted:
                del self._dials[name]
        for name in wanted:
            if name not in self._dials:
                live = name in self._live
                self._dials[name] = _Dialled(math.inf if live else self.clock() + self._courtesy_s(name))
                self._wake()

    def addresses(self) -> dict[str, str]:
        """Where peers are dialled now."""
        return dict(self._addresses)

    def dial_failed(self, name: str) -> None:
        """A dial is over and there is no connection: again a little later, unless the peer came itself."""
        dial = self._dials.get(name)
        if dial is not None:
            dial.busy = False
            if name not in self._live:
                self._back_off(dial)

    def _courtesy_s(self, name: str) -> float:
        return _GREATER_NAME_DELAY_S if self.identity.name > name else 0.0

    def _back_off(self, dial: _Dialled) -> None:
        dial.due = self.clock() + dial.backoff_s * (0.5 + self._jitter())
        dial.backoff_s = min(2 * dial.backoff_s, _BACKOFF_LAST_S)
        self._wake()

    # The set of sessions.

    def opened(self, wire: Wire, name: str | None, *, expected: str | None = None) -> Session:
        """A connection came to be.  name: the peer's, by its certificate; None: it has no valid one.

        expected: the name that was dialled; None when it came in.
        """
        session = Session(self, wire, name or "", expected)
        if session._open():
            self._waiting[session] = session.since + _HELLO_TIMEOUT_S
            self._wake()
        return session

    def peers(self) -> dict[str, PeerInfo]:
        """The connected peers, by name."""
        return {name: session.info for name, session in self._live.items()}

    def send_frames(self, raft_id: str, frames: bytes) -> None:
        """Write encoded messages to a peer; dropped when there is no session."""
        session = self._live.get(raft_id.partition("~")[0])
        if session is not None and session.raft_id == raft_id:
            session.write_frames(frames)

    def disconnect(self, name: str, *, reason: str) -> None:
        """End the session with a peer and tell it why."""
        session = self._live.get(name)
        if session is not None:
            session.write({"type": "goodbye", "reason": reason})
            session.close()

    def reconnect(self, name: str) -> None:
        """End the session with a peer; what was written still leaves, and both ends dial again."""
        session = self._live.get(name)
        if session is not None:
            session.close()

    def stop(self) -> None:
        """End every session; the handler hears of none of them any more, calls are not answered."""
        self._dials.clear()
        self._fail_calls(None, OutcomeUnknown("the node stopped before the answer came"))
        sessions = [*self._live.values(), *self._waiting]
        self._live.clear()
        self._waiting.clear()
        for session in sessions:
            session.live = False
            session.close()

    def _establish(self, session: Session) -> None:
        """A session said a valid hello: make it the live one, or end it."""
        name = session.name
        self._waiting.pop(session, None)
        dial = self._dials.get(name)
        if dial is not None and session.dialled:
            dial.busy = False
        current = self._live.get(name)
        if current is not None:
            if (
                not current.closing()
                and current.boot == session.boot
                and not self._preferred(session, current)
            ):
                session.close()
                return
            if not current.closing() and current.boot != session.boot and session.number < current.number:
                # What a process that ended had sent comes late: its successor is here already.
                session.close()
                return
            self._drop(current)
            current.close()
        if dial is not None:
            dial.due = math.inf
        session.live = True
        session.since = session.last_received
        self._live[name] = session
        _log.info("peer connected", extra={"peer": name, "dialled": session.dialled})
        self.handler.on_peer_connected(session.raft_id)

    def _preferred(self, new: Session, old: Session) -> bool:
        """Both ends choose the same one: each knows who dialled which."""
        if new.dialled == old.dialled:
            return True
        return new.dialled == (self.identity.name < new.name)

    def _drop(self, session: Session) -> None:
        """Nothing of it is delivered any more."""
        session.live = False
        del self._live[session.name]
        name = session.name
        self._fail_calls(name, OutcomeUnknown(f"the connection to {name} broke before it answered"))
        self.handler.on_peer_disconnected(session.raft_id)

    def _lost(self, session: Session) -> None:
        self._waiting.pop(session, None)
        if session.live:
            _log.info("peer disconnected", extra={"peer": session.name})
            self._drop(session)
            dial = self._dials.get(session.name)
            if dial is None or dial.busy:
                return
            if self.clock() - session.since < _BACKOFF_LAST_S:
                self._back_off(
                    dial
                )  # it did not last: a peer that ends every session is not dialled in a loop
                return
            dial.backoff_s = _BACKOFF_FIRST_S
            dial.due = self.clock() + self._courtesy_s(session.name)
            self._wake()
        elif session.expected is not None and not session.said_hello:
            self.dial_failed(session.expected)

    # Calls.

    def call(self, name: str, body: bytes, done: Done) -> int:
        """Ask a peer; returns the call's id, for `forget`.

        Raises NoLeader when there is no session, Unavailable when too many
        calls wait, InternalError when the body is too large: nothing was sent.
        done: OutcomeUnknown when the session ended before the answer.
        """
        session = self._live.get(name)
        if session is None or session.closing():
            raise NoLeader(f"{name} is not connected: try again")
        if len(body) > MAX_CALL_BYTES:
            raise InternalError("a request to a peer is too large")
        if len(self._calls) >= _MAX_CALLS:
            raise Unavailable("too many requests to peers wait for their answers: try again later")
        self._next_call += 1
        self._calls[self._next_call] = (name, done)
        session.write({"type": "call", "id": self._next_call, "body": body})
        return self._next_call

    def forget(self, identifier: int) -> None:
        """Nobody waits for the answer any more.  Idempotent."""
        self._calls.pop(identifier, None)

    def _fail_calls(self, name: str | None, error: CyoloctlError) -> None:
        """Those to a peer, or all of them."""
        for identifier, (owner, done) in list(self._calls.items()):
            if name in (owner, None):
                del self._calls[identifier]
                done(None, error)

    def _on_reply(self, name: str, message: dict[str, Any]) -> None:
        found = self._calls.get(message["id"])
        if found is not None and found[0] == name:
            del self._calls[message["id"]]
            found[1](message["body"], None)
