"""The links of a node with its peers: every decision, and neither socket nor task nor clock.

A `Link` is what one authenticated connection carries: hello first, then
messages, pings and calls, until either end closes it.  `Links` is all of
them: at most one live link per peer, whom to dial and when, which calls wait
for an answer.  Input is calls of their methods, output is calls of the `Wire`
under a link, of the `LinkHandler` above it and of what the constructor
was given.  `transport.py` puts sockets under this, `cyoloctl/sim` simulated
ones.

Every node dials every peer that it knows an address of and has no link
with, the greater name a little later, so that pairs seldom dial at once.  The
addresses are tried in turn: what the caller gave, what the peer itself said
last, and what other peers say.  An address is only a hint where to dial; the
certificate decides who was found there.

When two links with the same process of a peer meet, both ends keep the one
that the smaller name dialled.  Another process of the peer has started since
(`boots` is higher), or it runs on a copy of its disk.  A process that started
no later is the copy.  One that started later waits until the present one did
not answer a ping within `_CONTEST_S`: a process that answers is alive, so the
newcomer runs on a copy of its disk and is refused.  Members whose log is in
memory count no boots; with them the newer connection wins (row 24).

Duties of the caller: `Link.lost` exactly once for each link, never from
within a call of its wire; `Links.dial_failed` for a dial that led to no
connection; `Links.tick` no later than `next_deadline` says, which may come
closer with every call of `wake`.

It is more than 700 lines: `Link` and `Links` are one state machine, and each
looks into the other.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from cyoloctl.errors import CyoloctlError, InternalError, NoLeader, OutcomeUnknown, Unavailable
from cyoloctl.model import RaftId, name_of
from cyoloctl.raft.absences import Absences
from cyoloctl.raft.messages import MAX_CALL_BYTES, FrameReader, PeerProtocolError, decode, encode
from cyoloctl.raft.vantage import View

__all__ = [
    "COPY",
    "DIAL_TIMEOUT_S",
    "DISK_FAILED",
    "MAX_UNSENT_BYTES",
    "NO_MEMORY",
    "OLDER",
    "PROTOCOL_VERSION",
    "REFUSALS",
    "REMOVED",
    "Hello",
    "Link",
    "LinkHandler",
    "Links",
    "PeerIdentity",
    "PeerInfo",
    "Pong",
    "Refusal",
    "Wire",
]

PROTOCOL_VERSION = 3

REMOVED, COPY, OLDER = "removed", "copy", "older disk"
REFUSALS = (REMOVED, COPY, OLDER)
"""Reasons of a goodbye that keep a process out, whichever node it asks: it was removed from the cluster,
another process runs under its name, its disk forgot what the node had acknowledged."""

DISK_FAILED, NO_MEMORY = "its disk failed", "it ran out of memory"
_FAILURES = (DISK_FAILED, NO_MEMORY)
"""Reasons of a goodbye by which a node that stops tells its peers what stopped it."""

DIAL_TIMEOUT_S = 3.0
"""A dial that led to no connection by then has failed."""

MAX_UNSENT_BYTES = 64 * 2**20

_HELLO_TIMEOUT_S = 5.0
_PING_PERIOD_S = 1.0
_SILENCE_LIMIT_S = 4.0
_SILENT_S = 2.5
"""A peer that was not heard for so long is told of."""
_STALL_S = 1.0
"""A tick that comes so much too late was not kept by the peers: this node stood still."""
_ANSWERED_S = 2.0
"""A link works both ways, as far as others are told, when the peer has answered a ping within this time."""
_BACKOFF_FIRST_S = 0.1
_BACKOFF_LAST_S = 1.0
_GREATER_NAME_DELAY_S = 0.4
_FIRST_DELAY_S = 0.05
"""The same for the first dial: a peer that runs does not dial a node that has just started, which somebody
waits for."""
_CONTEST_S = 1.5
_HELD_MESSAGES = 10_000
_MAX_ADDRESSES = 256
_LOG_PERIOD_S = 60.0
_LOGGED = 1024
_SHOWN_S = 30.0
"""How long a refusal is shown after it was said last."""
_MAX_CALLS = 1024
_MAX_REASON = 500

_log = logging.getLogger("cyoloctl.peer")

Done = Callable[[bytes | None, CyoloctlError | None], None]
"""Called at most once, with the answer or with why there is none."""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Identity of this process towards its peers.

    boot: random, new with every process.  boots: how often this disk was
    started, the present start included; 0 where nobody counts.
    """

    name: str
    raft_id: RaftId
    cluster_id: str
    boot: str
    address: str
    release: str
    boots: int = 0


@dataclass(frozen=True, slots=True)
class Hello:
    """A peer's first message, about its process.

    term, last_index: of its log when the connection was made.
    """

    name: str
    raft_id: RaftId
    boots: int
    boot: str
    address: str
    term: int
    last_index: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A process that was kept out.  reason: one of `REFUSALS`.  at: on the clock."""

    name: str
    reason: str
    address: str
    at: float


@dataclass(slots=True)
class PeerInfo:
    """A connected peer's latest description of itself."""

    address: str
    release: str
    info: dict[str, Any] = field(default_factory=dict)
    round_trip_ms: float | None = None
    links: frozenset[str] = frozenset()
    """Names of the nodes that the peer has links with, and that answered it lately."""
    voters: frozenset[RaftId] = frozenset()
    """Raft ids of the voters in the peer's log."""
    boots: int = 0
    boot: str = ""
    """Of the peer's process, see `PeerIdentity`."""
    silent: bool = False
    """It was not heard for a while: the link may be cut, or the peer stands still."""
    pongs: int = 0
    """How often the peer has answered a ping, once a second: from the first on `info`, `links` and
    `voters` are its own."""


class Pong(NamedTuple):
    """Readings of a peer's clocks when it answered a ping.

    wall_unix_ms: its wall clock.  epoch, cluster_unix_ms: cluster time as it
    knows it.  trip_s: seconds from the question to the answer, by our clock.
    """

    wall_unix_ms: int
    epoch: int
    cluster_unix_ms: int
    trip_s: float


class Wire(Protocol):
    """The connection under a link: what it needs of an `asyncio.Transport`.

    close: what was written still leaves.  abort: at once.  Neither returns
    with `Link.lost` called.
    """

    def write(self, data: bytes, /) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool: ...
    def get_write_buffer_size(self) -> int: ...


class LinkHandler(Protocol):
    """Owner of the links, as they call it.

    `on_peer_disconnected` is the last call about a link.
    """

    def on_peer_connected(self, raft_id: RaftId, /) -> None: ...
    def on_peer_disconnected(self, raft_id: RaftId, /) -> None: ...
    def on_peer_message(self, raft_id: RaftId, message: dict[str, Any], /) -> None: ...
    def is_removed(self, raft_id: RaftId, /) -> bool: ...
    def refusal(self, hello: Hello, /) -> str | None:
        """One of `REFUSALS` when this process must be kept out."""

    def on_refused(self, name: str, reason: str, /) -> None:
        """A peer keeps this process out.  It is one peer's word."""

    def progress(self) -> tuple[int, int]:
        """Term and last index of this node's log."""
        ...

    def voters(self) -> Sequence[str]:
        """Raft ids of the voters in this node's log."""
        ...

    def describe(self) -> dict[str, Any]: ...
    def cluster_time(self) -> tuple[int, int]: ...
    def on_pong(self, raft_id: RaftId, pong: Pong, /) -> None: ...


class Link:
    """One connection to a peer: made by `Links.opened`."""

    __slots__ = (
        "_held",
        "_links",
        "_on_peer_message",
        "_reader",
        "_wire",
        "answered_at",
        "boot",
        "boots",
        "contested",
        "ending",
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

    def __init__(self, links: Links, wire: Wire, name: str, expected: str | None) -> None:
        self._links = links
        self._wire = wire
        self._reader = FrameReader()
        self._on_peer_message = links.handler.on_peer_message
        self.name = name
        self.expected = expected
        """The name that was dialled; None for a connection that came in."""
        self.raft_id, self.boot = RaftId(""), ""
        self.boots = 0
        self.said_hello = self.live = False
        self.contested = False
        """It said hello, and waits until it is known whether another process of the peer lives."""
        self._held: list[dict[str, Any]] = []
        self.since = self.last_received = self.answered_at = links.clock()
        """answered_at: when the peer answered a ping last, or else when the link began."""
        links.opened_count += 1
        self.number = links.opened_count
        """Number of the connection, in the order in which they were made."""
        self.info = PeerInfo("", "")
        self.refused: str | None = None
        """Why this node ended it, when the peer broke a rule."""
        self.ending: str | None = None
        """Why it did not become live, as far as an end said."""

    @property
    def dialled(self) -> bool:
        """True when this node opened the connection."""
        return self.expected is not None

    def received(self, data: bytes) -> None:
        """Bytes of the peer, in order.

        Raises nothing but what the handler raises: then `abort` it, as its
        messages were not all handled.
        """
        # What arrives after this end closed it is of a link that is over.
        if self._wire.is_closing():
            return
        self.last_received = self._links.clock()
        try:
            for frame in self._reader.feed(data):
                message = decode(frame)
                if self.live:
                    handle = _OF_LINKS.get(message["type"])
                    if handle is None:
                        self._on_peer_message(self.raft_id, message)
                    else:
                        handle(self, message)
                elif self.contested and message["type"] != "goodbye":
                    if len(self._held) >= _HELD_MESSAGES:
                        raise PeerProtocolError("too many messages before the link began")
                    self._held.append(message)
                else:
                    self._before_live(message)
                if self._wire.is_closing():
                    return
        except PeerProtocolError as error:
            self._refuse(f"protocol error: {error}")
            self.abort()

    def lost(self, reason: str | None = None) -> None:
        """The connection is gone.  reason: what the connection says about it, if anything."""
        self._links._lost(self, reason)

    def write(self, message: dict[str, Any]) -> None:
        """Send a message, unless the link is over."""
        self.write_frames(encode(message))

    def write_frames(self, frames: bytes) -> None:
        """Send encoded messages, unless the link is over; a peer that reads too slowly is cut off."""
        wire = self._wire
        if wire.is_closing():
            return
        if wire.get_write_buffer_size() > self._links.max_unsent_bytes:
            _log.warning("peer reads too slowly", extra={"peer": self.name})
            self.ending = "it reads too slowly"
            wire.abort()
            return
        wire.write(frames)

    def answer(self, identifier: int, body: bytes | None) -> None:
        """The answer to a call that `serve` was given, exactly once; None: there is none."""
        self._links._serving -= 1
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

    def _open(self, version: int, refusal: str | None = None) -> bool:
        """Say hello; False when the peer is refused."""
        links = self._links
        identity = links.identity
        if version != PROTOCOL_VERSION:
            self._other_version(version)
        elif not self.name:
            if refusal is not None:
                self.write({"type": "goodbye", "reason": refusal[:_MAX_REASON]})
            self._refuse(refusal or "no node certificate of this cluster")
        elif self.expected is not None and self.name != self.expected:
            self._refuse(f"expected {self.expected} at this address, found {self.name}")
        elif not self._is_removed(RaftId(self.name)):
            term, last_index = links.handler.progress()
            self.write(
                {
                    "type": "hello",
                    "version": PROTOCOL_VERSION,
                    "cluster_id": identity.cluster_id,
                    "name": identity.name,
                    "raft_id": identity.raft_id,
                    "boot": identity.boot,
                    "boots": identity.boots,
                    "address": identity.address,
                    "release": identity.release,
                    "term": term,
                    "last_index": last_index,
                }
            )
            return True
        return False

    def _other_version(self, version: int) -> None:
        older = "this node" if version > PROTOCOL_VERSION else "your node"
        self.write(
            {
                "type": "goodbye",
                "reason": f"protocol version {PROTOCOL_VERSION} is spoken here, not {version}: "
                f"upgrade {older}, all nodes must run the same release",
            }
        )
        self._refuse(
            f"it speaks protocol version {version}, this node speaks {PROTOCOL_VERSION}: "
            "upgrade the older of the two, all nodes must run the same release",
            lasting=True,
        )

    def _is_removed(self, raft_id: RaftId) -> bool:
        if not self._links.handler.is_removed(raft_id):
            return False
        self._keep_out(REMOVED)
        return True

    def _keep_out(self, reason: str) -> None:
        """Tell the process why, so that a majority can convince it, and remember it for `status`."""
        links = self._links
        self.write({"type": "goodbye", "reason": reason})
        links._refusals[self.name] = Refusal(self.name, reason, self.info.address, links.clock())
        self._refuse(
            {
                REMOVED: "it was removed from the cluster",
                COPY: "another process runs under its name: two processes must never share a disk's copy",
                OLDER: "its disk is an older copy: the node had acknowledged more than it holds",
            }[reason],
            lasting=True,
        )

    def _before_live(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "goodbye":
            self._on_goodbye(message)
        elif kind == "hello":
            self._on_hello(message)
        else:
            raise PeerProtocolError("the first message must be hello")

    def _on_hello(self, message: dict[str, Any]) -> None:
        identity = self._links.identity
        raft_id = message["raft_id"]
        if message["version"] != PROTOCOL_VERSION:
            self._other_version(message["version"])
        elif message["cluster_id"] != identity.cluster_id:
            self._refuse("it belongs to another cluster")
        elif message["name"] != self.name:
            self._refuse(f"it claims to be {message['name']!r}, its certificate says {self.name!r}")
        elif self.name == identity.name:
            self._refuse("it has this node's own name")
        elif name_of(raft_id) != self.name:
            self._refuse("its raft id is not its name")
        else:
            self.info = PeerInfo(message["address"], message["release"])
            if self._is_removed(raft_id):
                return
            self.raft_id, self.boot, self.boots = raft_id, message["boot"], message["boots"]
            self.info.boot, self.info.boots = self.boot, self.boots
            said = Hello(
                self.name,
                raft_id,
                self.boots,
                self.boot,
                message["address"],
                message["term"],
                message["last_index"],
            )
            refusal = self._links.handler.refusal(said)
            if refusal is not None:
                self._keep_out(refusal)
            else:
                self._links._meet(self)

    def _on_goodbye(self, message: dict[str, Any]) -> None:
        self.ending = f"it says: {message['reason']}"
        self.close()
        if message["reason"] in REFUSALS:
            self._links.handler.on_refused(self.name, message["reason"])
        else:
            if self.live and message["reason"] in _FAILURES:
                self._links._farewells[self.name] = message["reason"]
            level = self._links._level_for(self.name, message["reason"])
            _log.log(level, "peer says goodbye", extra={"peer": self.name, "reason": message["reason"]})

    def _on_second_hello(self, message: dict[str, Any]) -> None:
        pass

    def _on_ping(self, message: dict[str, Any]) -> None:
        links = self._links
        epoch, cluster_unix_ms = links.handler.cluster_time()
        self.write(
            {
                "type": "pong",
                "sent_ms": message["sent_ms"],
                "wall_unix_ms": max(0, int(links.wall_clock() * 1000)),
                "epoch": epoch,
                "cluster_unix_ms": cluster_unix_ms,
                "info": links.handler.describe(),
                "links": sorted(links._answering()),
                "addresses": links._addresses_to_tell(),
                "voters": list(links.handler.voters()),
            }
        )

    def _on_pong(self, message: dict[str, Any]) -> None:
        self.answered_at = self.last_received
        trip = int(self.last_received * 1000) - message["sent_ms"]
        self.info.info = message["info"]
        if 0 <= trip < 60_000:
            self.info.round_trip_ms = float(trip)
            pong = Pong(message["wall_unix_ms"], message["epoch"], message["cluster_unix_ms"], trip / 1000)
            self._links.handler.on_pong(self.raft_id, pong)
        self.info.links = frozenset(message["links"])
        self.info.voters = frozenset(message["voters"])
        self.info.pongs += 1
        self._links._on_pong(self, message)

    def _on_call(self, message: dict[str, Any]) -> None:
        links = self._links
        if links._serving >= _MAX_CALLS:
            raise PeerProtocolError("too many calls at once")
        links._serving += 1
        links.serve(self, message["id"], message["body"])

    def _on_reply(self, message: dict[str, Any]) -> None:
        self._links._on_reply(self.name, message)

    def _deliver_held(self) -> None:
        """Handle the messages that came before it was decided which process of the peer lives."""
        held, self._held = self._held, []
        for message in held:
            if not self.live or self._wire.is_closing():
                return
            handle = _OF_LINKS.get(message["type"])
            if handle is None:
                self._on_peer_message(self.raft_id, message)
            else:
                handle(self, message)

    def _refuse(self, reason: str, *, lasting: bool = False) -> None:
        """lasting: it will be the same with every dial, and is logged once a minute.

        So is whatever a node of this cluster does.  The rest is limited by kind, as others can cause it.
        """
        self.refused = reason
        self.ending = f"refused here: {reason}"
        same = lasting or self.name != ""
        level = self._links._level_for(self.name, reason) if same else logging.WARNING
        extra = {"peer": self.name or None, "reason": reason, "_seldom": not lasting}
        _log.log(level, "peer refused", extra=extra)
        self._links._waiting.pop(self, None)
        self.close()


# Messages that are the link's own; all others are the handler's.
_OF_LINKS: dict[str, Callable[[Link, dict[str, Any]], None]] = {
    "hello": Link._on_second_hello,
    "goodbye": Link._on_goodbye,
    "ping": Link._on_ping,
    "pong": Link._on_pong,
    "call": Link._on_call,
    "reply": Link._on_reply,
}


@dataclass(slots=True)
class _Dialled:
    """A peer that is dialled.  due: inf while there is a link or an attempt.

    address: of the last attempt.  tried: an attempt has ended.
    """

    due: float
    address: str = ""
    tried: bool = False
    attempts: int = 0
    backoff_s: float = _BACKOFF_FIRST_S
    busy: bool = False


class Links:
    """All links of a node."""

    def __init__(
        self,
        identity: PeerIdentity,
        handler: LinkHandler,
        *,
        dial: Callable[[str, str], None],
        serve: Callable[[Link, int, bytes], None],
        wake: Callable[[], None],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        jitter: Callable[[], float],
        first_call: int,
        max_unsent_bytes: int = MAX_UNSENT_BYTES,
    ) -> None:
        """dial: begin to connect to a name at an address HOST:PORT.

        serve: answer a call with `Link.answer`.  wake: `next_deadline` came
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
        self._live: dict[str, Link] = {}
        self._waiting: dict[Link, float] = {}  # for a hello, until
        self._given: dict[str, tuple[str, ...]] = {}
        self._own_word: dict[str, str] = {}  # name -> address, as it said in its last hello
        self._peer_addresses: dict[str, dict[str, str]] = {}  # peer -> name -> address, as its last pong said
        self._contests: dict[str, tuple[int, float]] = {}  # name -> the ping to be answered, until when
        self._processes: dict[str, str] = {}  # name -> boot of its last live link
        self._refusals: dict[str, Refusal] = {}
        self._logged: dict[tuple[str, str], float] = {}
        self._dials: dict[str, _Dialled] = {}
        self._absences = Absences()
        self._farewells: dict[str, str] = {}  # peer -> what stopped it, as it said
        self._calls: dict[int, tuple[str, Done]] = {}
        self._next_call = first_call
        self._serving = 0
        self._ping_at = clock() + _PING_PERIOD_S

    # Time.

    def next_deadline(self) -> float:
        """When `tick` has something to do at the latest, on the clock."""
        return min(
            self._ping_at,
            *self._waiting.values(),
            *(dial.due for dial in self._dials.values()),
            *(until for _, until in self._contests.values()),
            math.inf,
        )

    def tick(self) -> None:
        """Do what is due: dial, ping, end what is silent."""
        now = self.clock()
        for link, until in list(self._waiting.items()):
            if now >= until:
                link._refuse("no hello in time")
        for name, (_, until) in list(self._contests.items()):
            if now >= until:
                self._decide(name, alive=False)
        if now >= self._ping_at:
            late_s, self._ping_at = now - self._ping_at, now + _PING_PERIOD_S
            self._ping(now, late_s)
        for name, dial in list(self._dials.items()):
            if now >= dial.due:
                dial.due, dial.busy = math.inf, True
                found = self._where(name)
                dial.attempts += 1
                dial.address = found[(dial.attempts - 1) % len(found)]
                self._dial(name, dial.address)

    def _ping_now(self, now: float) -> dict[str, Any]:
        return {"type": "ping", "sent_ms": int(now * 1000)}

    def _ping(self, now: float, late_s: float) -> None:
        ping = self._ping_now(now)
        if late_s >= _STALL_S:
            # What the peers sent meanwhile is not read yet: their silence would be this node's own.
            reason = "its disk, processor or memory did not let it run"
            _log.warning("this node stood still", extra={"for_s": round(late_s, 1), "reason": reason})
        for link in list(self._live.values()):
            if late_s >= _STALL_S:
                link.answered_at = now
            silent_s = 0.0 if late_s >= _STALL_S else now - link.last_received
            if silent_s > _SILENT_S and not link.info.silent:
                reason = "the link is cut, or the peer stands still"
                extra = {"peer": link.name, "for_s": round(silent_s, 1), "reason": reason}
                _log.warning("peer is silent", extra=extra)
            link.info.silent = silent_s > _SILENT_S
            if silent_s > _SILENCE_LIMIT_S:
                link.ending = f"silent for {_SILENCE_LIMIT_S:g} s: the link is cut, or the peer stands still"
                link.abort()
            else:
                link.write(ping)

    # Dialling.

    def set_addresses(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """Set the addresses to dial: name to one or more HOST:PORT.  The own name is ignored."""
        wanted = {
            name: tuple(given) for name, given in addresses.items() if given and name != self.identity.name
        }
        self._given = wanted
        for name in list(self._dials):
            if name not in wanted:
                del self._dials[name]
                self._own_word.pop(name, None)
                self._absences.forget(name)
                self._farewells.pop(name, None)
        for name in wanted:
            if name not in self._dials:
                live = name in self._live
                wait_s = _FIRST_DELAY_S if self.identity.name > name else 0.0
                self._dials[name] = _Dialled(math.inf if live else self.clock() + wait_s)
                self._wake()

    def addresses(self) -> dict[str, tuple[str, ...]]:
        """Addresses of the peers now, in the order in which they are tried."""
        return {name: self._where(name) for name in self._given}

    def _where(self, name: str) -> tuple[str, ...]:
        """Known addresses of a peer: its own word, the caller's, then other peers' words."""
        own = self._own_word.get(name)
        found = dict.fromkeys([] if own is None else [own])
        found.update(dict.fromkeys(self._given[name]))
        for _, told in sorted(self._peer_addresses.items()):
            if name in told:
                found[told[name]] = None
        return tuple(found)

    def _addresses_to_tell(self) -> dict[str, str]:
        """Peers' own addresses, to be passed on: each peer is the only source of its own."""
        return dict(sorted(self._own_word.items())[:_MAX_ADDRESSES])

    def dial_failed(self, name: str, reason: str | None = None) -> None:
        """A dial is over and there is no connection: again a little later, unless the peer came itself.

        reason: what an operator is told of it.
        """
        dial = self._dials.get(name)
        if dial is not None:
            dial.busy, dial.tried = False, True
            if name not in self._live:
                if reason is not None:
                    self._absences.failed(name, dial.address, reason, self.clock())
                self._back_off(dial)

    def absences(self) -> dict[str, str]:
        """Why peers that were dialled have no link: name -> addresses and reasons."""
        return self._absences.reasons()

    def farewells(self) -> dict[str, str]:
        """Peers that said what stopped them, and have not come back: name -> `DISK_FAILED` or `NO_MEMORY`."""
        return dict(self._farewells)

    def all_tried(self, names: Collection[str]) -> bool:
        """Whether each peer to dial, and each of these, has a link, or an attempt at it has ended."""
        tried = {name for name, dial in self._dials.items() if dial.tried} | self._live.keys()
        return tried >= {*self._dials, *names} - {self.identity.name}

    def _courtesy_s(self, name: str) -> float:
        return _GREATER_NAME_DELAY_S if self.identity.name > name else 0.0

    def _back_off(self, dial: _Dialled) -> None:
        dial.due = self.clock() + dial.backoff_s * (0.5 + self._jitter())
        dial.backoff_s = min(2 * dial.backoff_s, _BACKOFF_LAST_S)
        self._wake()

    # The set of links.

    def opened(
        self,
        wire: Wire,
        name: str | None,
        *,
        expected: str | None = None,
        version: int = PROTOCOL_VERSION,
        refusal: str | None = None,
    ) -> Link:
        """A connection was made.  name: the peer's, by its certificate; None: it has no valid one.

        expected: the name that was dialled; None when it came in.  version: of
        the protocol, as both ends agreed when they connected.  refusal: why
        there is no name, for the log here and the one of the other end.
        """
        link = Link(self, wire, name or "", expected)
        if link._open(version, refusal):
            self._waiting[link] = link.since + _HELLO_TIMEOUT_S
            self._wake()
        return link

    def peers(self) -> dict[str, PeerInfo]:
        """The connected peers, by name."""
        return {name: link.info for name, link in self._live.items()}

    def _answering(self) -> frozenset[str]:
        """Peers whose link works both ways."""
        since = self.clock() - _ANSWERED_S
        return frozenset(name for name, link in self._live.items() if link.answered_at >= since)

    def view(self) -> View:
        """Whom this node reaches, and whom those reach by their own word."""
        reached = self._answering()
        told = {name: self._live[name].info.links for name in reached if self._live[name].info.pongs}
        return View(reached, told, frozenset(refusal.name for refusal in self.refusals()))

    def wire(self, name: str) -> Wire:
        """The wire of the live link with a connected peer."""
        return self._live[name]._wire

    def _level_for(self, name: str, reason: str) -> int:
        """Level of a log line that repeats with every dial: a warning once a minute."""
        now, key = self.clock(), (name, reason)
        if now - self._logged.get(key, -math.inf) < _LOG_PERIOD_S:
            return logging.DEBUG
        if len(self._logged) >= _LOGGED:
            self._logged.clear()
        self._logged[key] = now
        return logging.WARNING

    def last_process(self, name: str) -> str | None:
        """`boot` of the process that the last link with this peer was with."""
        return self._processes.get(name)

    def refusals(self) -> list[Refusal]:
        """Processes that were kept out lately."""
        since = self.clock() - _SHOWN_S
        self._refusals = {name: found for name, found in self._refusals.items() if found.at >= since}
        return [found for _, found in sorted(self._refusals.items())]

    def send_frames(self, raft_id: RaftId, frames: bytes) -> None:
        """Write encoded messages to a peer; dropped when there is no link."""
        link = self._live.get(name_of(raft_id))
        if link is not None and link.raft_id == raft_id:
            link.write_frames(frames)

    def disconnect(self, name: str, *, reason: str) -> None:
        """End the link with a peer and tell it why."""
        link = self._live.get(name)
        if link is not None:
            link.write({"type": "goodbye", "reason": reason})
            link.close()

    def part(self, reason: str) -> None:
        """Tell every peer what stops this node, and end the links."""
        for name in list(self._live):
            self.disconnect(name, reason=reason)

    def reconnect(self, name: str) -> None:
        """End the link with a peer; what was written still leaves, and both ends dial again."""
        link = self._live.get(name)
        if link is not None:
            link.close()

    def stop(self) -> None:
        """End every link without a word to the handler; calls are not answered."""
        self._dials.clear()
        self._fail_calls(None, OutcomeUnknown("the node stopped before the answer came"))
        links = [*self._live.values(), *self._waiting]
        self._live.clear()
        self._waiting.clear()
        self._contests.clear()
        for link in links:
            link.live = False
            link.close()

    def _meet(self, link: Link) -> None:
        """A link said a valid hello: make it the live one, end it, or find out which process lives."""
        rival = self._live.get(link.name)
        if rival is None or rival.closing() or rival.boot == link.boot or not (rival.boots and link.boots):
            self._establish(link)
        elif link.boots <= rival.boots:
            link._keep_out(COPY)
        else:
            link.contested = True
            if link.name not in self._contests:
                now = self.clock()
                # Pings of this millisecond may be on their way already: this one is known by its number.
                ping = self._ping_now(now)
                ping["sent_ms"] += 1
                self._contests[link.name] = (ping["sent_ms"], now + _CONTEST_S)
                rival.write(ping)
            self._wake()

    def _decide(self, name: str, *, alive: bool) -> None:
        """The process that has the link answered, or it is gone: so the newcomers are copies, or it."""
        del self._contests[name]
        for link in [found for found in self._waiting if found.contested and found.name == name]:
            link.contested = False
            if link.closing():
                continue
            if alive:
                link._keep_out(COPY)
            else:
                self._establish(link)

    def _on_pong(self, link: Link, message: dict[str, Any]) -> None:
        self._peer_addresses[link.name] = message["addresses"]
        contest = self._contests.get(link.name)
        if contest is not None and contest[0] == message["sent_ms"]:
            self._decide(link.name, alive=True)

    def _establish(self, link: Link) -> None:
        """Make a link the live one, or end it."""
        name = link.name
        link.said_hello = True
        self._waiting.pop(link, None)
        dial = self._dials.get(name)
        self._absences.forget(name)
        self._farewells.pop(name, None)
        if dial is not None and link.dialled:
            dial.busy = False
        current = self._live.get(name)
        if current is not None:
            if not current.closing() and current.boot == link.boot and not self._preferred(link, current):
                link.close()
                return
            if not current.closing() and current.boot != link.boot and link.number < current.number:
                # What a process that ended had sent comes late: its successor is here already.
                link.close()
                return
            self._drop(current)
            current.close()
        if dial is not None:
            dial.due = math.inf
            dial.attempts = 0
        link.live = True
        link.since = link.answered_at = link.last_received
        self._live[name] = link
        self._processes[name] = link.boot
        self._own_word[name] = link.info.address
        _log.info("peer connected", extra={"peer": name, "dialled": link.dialled})
        self.handler.on_peer_connected(link.raft_id)
        link.write(self._ping_now(self.clock()))
        contest = self._contests.get(name)
        if contest is not None:  # the same process in a new link: it is asked again
            link.write({**self._ping_now(self.clock()), "sent_ms": contest[0]})
        link._deliver_held()

    def _preferred(self, new: Link, old: Link) -> bool:
        """Both ends choose the same one: each knows who dialled which."""
        if new.dialled == old.dialled:
            return True
        return new.dialled == (self.identity.name < new.name)

    def _drop(self, link: Link) -> None:
        """Deliver nothing further of it."""
        link.live = False
        del self._live[link.name]
        name = link.name
        self._peer_addresses.pop(name, None)
        self._fail_calls(name, OutcomeUnknown(f"the connection to {name} broke before it answered"))
        self.handler.on_peer_disconnected(link.raft_id)

    def _lost(self, link: Link, reason: str | None) -> None:
        self._waiting.pop(link, None)
        if link.live:
            _log.info("peer disconnected", extra={"peer": link.name, "reason": link.ending or reason})
            self._drop(link)
            if link.name in self._contests:
                self._decide(link.name, alive=False)
                if link.name in self._live:
                    return
            dial = self._dials.get(link.name)
            if dial is None or dial.busy:
                return
            if self.clock() - link.since < _BACKOFF_LAST_S:
                self._back_off(dial)  # it did not last: a peer that ends every link is not dialled in a loop
                return
            dial.backoff_s = _BACKOFF_FIRST_S
            dial.due = self.clock() + self._courtesy_s(link.name)
            self._wake()
        elif link.expected is not None and not link.said_hello:
            self.dial_failed(link.expected, link.ending or reason or "it ended the connection without a word")

    # Calls.

    def call(self, name: str, body: bytes, done: Done) -> int:
        """Ask a peer; returns the call's id, for `forget`.

        Raises NoLeader when there is no link, Unavailable when too many
        calls wait, InternalError when the body is too large: nothing was sent.
        done: OutcomeUnknown when the link ended before the answer.
        """
        link = self._live.get(name)
        if link is None or link.closing():
            raise NoLeader(f"{name} is not connected: try again")
        if len(body) > MAX_CALL_BYTES:
            raise InternalError("a request to a peer is too large")
        if len(self._calls) >= _MAX_CALLS:
            raise Unavailable("too many requests to peers wait for their answers: try again later")
        self._next_call += 1
        self._calls[self._next_call] = (name, done)
        link.write({"type": "call", "id": self._next_call, "body": body})
        return self._next_call

    def forget(self, identifier: int) -> None:
        """Give up waiting for the answer.  Idempotent."""
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
