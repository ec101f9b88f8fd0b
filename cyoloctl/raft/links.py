"""The links of a node with its peers: every decision, and neither socket nor task nor clock.

A `Link` is what one authenticated connection carries: hello first, then
messages, pings and calls, until either end closes it.  `Links` is all of
them: at most one live link per peer, whom to dial (`dialling.py`), which
calls wait for an answer (`calls.py`).  Input is calls of their methods, output is calls of the `Wire`
under a link, of the `LinkHandler` above it and of what the constructor
was given.  `transport.py` puts sockets under this, `cyoloctl/sim` simulated
ones.

When two links with the same process of a peer meet, both ends keep the one
that the smaller name dialled.  Another process of the peer has started since
(`boots` is higher), or it runs on a copy of its disk.  A process that started
no later is the copy.  One that started later waits until the present one did
not answer a ping within `_CONTEST_S`: a process that answers is alive, so the
newcomer runs on a copy of its disk and is refused.  Members whose log is in
memory count no boots; with them the newer connection wins (row 24).

Duties of the caller: `Link.lost` exactly once for each link, never from
within a call of its wire; `Dialling.failed` for a dial that led to no
connection; `Links.tick` no later than `next_deadline` says, which may come
closer with every call of `wake`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from cyoloctl.errors import InternalError, NoLeader, OutcomeUnknown
from cyoloctl.model import RaftId, name_of
from cyoloctl.raft.calls import MAX_CALLS, Calls, Done
from cyoloctl.raft.dialling import Dialling
from cyoloctl.raft.disks import disk_told
from cyoloctl.raft.messages import MAX_CALL_BYTES, FrameReader, PeerProtocolError, decode, encode
from cyoloctl.raft.peers import (
    COPY,
    FAILURES,
    PROTOCOL_VERSION,
    REFUSALS,
    Hello,
    LinkHandler,
    PeerIdentity,
    PeerInfo,
    Pong,
    Wire,
)
from cyoloctl.raft.refusals import Refusals
from cyoloctl.raft.vantage import View

__all__ = ["MAX_UNSENT_BYTES", "Link", "Links"]

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
_CONTEST_S = 1.5
_HELD_MESSAGES = 10_000
_MAX_REASON = 500

_log = logging.getLogger("cyoloctl.peer")


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
                    **({"level": identity.level} if identity.level > 1 else {}),
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
        removal = self._links.handler.removal(raft_id)
        if removal is not None:
            self._keep_out(removal)
        return removal is not None

    def _keep_out(self, reason: str) -> None:
        """Tell the process why, so that a majority can convince it, and remember it for `status`."""
        links = self._links
        self.write({"type": "goodbye", "reason": reason})
        links.refusals.add(self.name, reason, self.info.address)
        self._refuse(REFUSALS[reason], lasting=True)

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
            self.info = PeerInfo(message["address"], message["release"], last_index=message["last_index"])
            self.info.level = message["level"]
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
                message["level"],
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
            if self.live and message["reason"] in FAILURES:
                self._links.dialling.left(self.name, message["reason"])
            level = self._links.refusals.level_for(self.name, message["reason"])
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
                "addresses": links.dialling.to_tell(),
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
        if links._serving >= MAX_CALLS:
            raise PeerProtocolError("too many calls at once")
        links._serving += 1
        links.serve(self, message["id"], message["body"])

    def _on_reply(self, message: dict[str, Any]) -> None:
        self._links._calls.answered(self.name, message)

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
        level = self._links.refusals.level_for(self.name, reason) if same else logging.WARNING
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
        self._wake = wake
        self.opened_count = 0
        self._live: dict[str, Link] = {}
        self._waiting: dict[Link, float] = {}  # for a hello, until
        self._contests: dict[str, tuple[int, float]] = {}  # name -> the ping to be answered, until when
        self._processes: dict[str, str] = {}  # name -> boot of its last live link
        self.refusals = Refusals(clock)
        self.dialling = Dialling(
            identity.name, dial=dial, live=self._live.keys(), wake=wake, clock=clock, jitter=jitter
        )
        self._calls = Calls(first_call)
        self._serving = 0
        self._parted = False
        self._ping_at = clock() + _PING_PERIOD_S

    # Time.

    def next_deadline(self) -> float:
        """When `tick` has something to do at the latest, on the clock."""
        return min(
            self._ping_at,
            *self._waiting.values(),
            self.dialling.next_deadline(),
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
        self.dialling.tick(now)

    def _ping_now(self, now: float) -> dict[str, Any]:
        return {"type": "ping", "sent_ms": int(now * 1000)}

    def _ping(self, now: float, late_s: float) -> None:
        ping, stood_still = self._ping_now(now), late_s >= _STALL_S
        if stood_still:
            # What the peers sent meanwhile is not read yet: their silence would be this node's own.
            reason = "its disk, processor or memory did not let it run"
            _log.warning("this node stood still", extra={"for_s": round(late_s, 1), "reason": reason})
        for link in list(self._live.values()):
            if stood_still:
                link.answered_at = now
            silent_s = 0.0 if stood_still else now - link.last_received
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
        if self._parted:
            link.close()  # a hello would say that this node came back
        elif link._open(version, refusal):
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
        kept_out = frozenset(refusal.name for refusal in self.refusals.lately())
        return View(reached, told, kept_out, {name: disk_told(self._live[name].info.info) for name in told})

    def wire(self, name: str) -> Wire:
        """The wire of the live link with a connected peer."""
        return self._live[name]._wire

    def last_process(self, name: str) -> str | None:
        """`boot` of the process that the last link with this peer was with."""
        return self._processes.get(name)

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
        """Tell every peer what stops this node, and end the links; there are no others from here on."""
        self._parted = True
        self.dialling.stop()
        for link in [*self._live.values(), *self._waiting]:
            link.write({"type": "goodbye", "reason": reason})
            link.close()

    def reconnect(self, name: str) -> None:
        """End the link with a peer; what was written still leaves, and both ends dial again."""
        link = self._live.get(name)
        if link is not None:
            link.close()

    def stop(self) -> None:
        """End every link without a word to the handler; calls are not answered."""
        self.dialling.stop()
        self._calls.fail(None, OutcomeUnknown("the node stopped before the answer came"))
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
        self.dialling.told(link.name, message["addresses"])
        contest = self._contests.get(link.name)
        if contest is not None and contest[0] == message["sent_ms"]:
            self._decide(link.name, alive=True)

    def _establish(self, link: Link) -> None:
        """Make a link the live one, or end it."""
        name = link.name
        link.said_hello = True
        self._waiting.pop(link, None)
        self.dialling.greeted(name, dialled=link.dialled)
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
        link.live = True
        link.info.dialled = link.dialled
        link.since = link.answered_at = link.last_received
        self._live[name] = link
        self._processes[name] = link.boot
        self.dialling.linked(name, link.info.address)
        _log.info("peer connected", extra={"peer": name, "dialled": link.dialled})
        self.handler.on_peer_connected(link.raft_id)
        link.write(self._ping_now(self.clock()))
        contest = self._contests.get(name)
        if contest is not None:  # the same process in a new link: it is asked again
            link.write({**self._ping_now(self.clock()), "sent_ms": contest[0]})
        link._deliver_held()

    def _preferred(self, new: Link, old: Link) -> bool:
        """Both ends choose the same one: each knows who dialled which."""
        return new.dialled in (old.dialled, self.identity.name < new.name)

    def _drop(self, link: Link) -> None:
        """Deliver nothing further of it."""
        link.live = False
        del self._live[link.name]
        name = link.name
        self.dialling.unlinked(name)
        self._calls.fail(name, OutcomeUnknown(f"the connection to {name} broke before it answered"))
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
            self.dialling.lost(link.name, self.clock() - link.since)
        elif link.expected is not None and not link.said_hello:
            self.dialling.failed(
                link.expected, link.ending or reason or "it ended the connection without a word"
            )

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
        identifier = self._calls.add(name, done)
        link.write({"type": "call", "id": identifier, "body": body})
        return identifier

    def forget(self, identifier: int) -> None:
        """Give up waiting for the answer.  Idempotent."""
        self._calls.forget(identifier)
