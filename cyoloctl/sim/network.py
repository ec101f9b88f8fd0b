"""A simulated network: connections between nodes, and the real links on them.

A connection delivers bytes in order in each direction, after a delay.  A cut
direction holds them back, as TCP does until it gives up.  A connection that
breaks loses a suffix of what was in flight, at any byte.  Each side learns of
it in its own time, so one side may have dialled again and said hello before
the other has read everything from the old connection.

When to dial, hello, which of two links lives, pings and calls are not decided
here but in `raft/links.py`, as in a real node.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from cyoloctl.model import RaftId
from cyoloctl.raft.dialling import DIAL_TIMEOUT_S
from cyoloctl.raft.links import Link, Links
from cyoloctl.raft.messages import FrameReader, decode
from cyoloctl.sim.timeline import Timeline

__all__ = ["End", "Host", "Network"]

_DELAY_S = (0.0002, 0.002)
_LATEST_S = 1.0
"""What was on its way when a connection broke comes no later."""
_PIECE_S = 0.25
"""A narrow link hands over what takes longer in pieces, as TCP does."""
_OF_LINKS = ("hello", "goodbye", "ping", "pong", "call", "reply")


class Host(Protocol):
    """A node as the network knows it.

    life: the number of its process, which grows when one ends.  elapsed:
    seconds since the present turn began.  reading: the connection whose bytes
    are being handled.
    """

    reading: End | None

    @property
    def name(self) -> str: ...
    @property
    def life(self) -> int: ...
    @property
    def elapsed(self) -> float: ...
    @property
    def links(self) -> Links: ...

    def is_up(self) -> bool:
        """True while it has a process."""
        ...

    def is_paused(self) -> bool:
        """True while its process stands still."""
        ...

    def step(self, what: str) -> None:
        """One step of the process.  Raises Crash when it dies here."""

    def put(self, life: int, call: Callable[[], object]) -> None:
        """Give input to a process; its next turn handles it."""

    def said_hello(self, end: End) -> None:
        """A peer's hello on this connection was accepted."""

    def receive_late(self, peer: RaftId, message: dict[str, Any]) -> None:
        """A message has come on a link that had ended."""


class _Pipe:
    """One direction of a connection."""

    def __init__(self, source: End, target: End) -> None:
        self.source, self.target = source, target
        self.queue: deque[tuple[float, float, bytes | None]] = deque()  # due, sent at, bytes or end
        self.last_due = 0.0
        self.free_at = 0.0  # when a narrow link has sent everything before
        self.shut = False

    def names(self) -> tuple[str, str]:
        """From which node to which."""
        return self.source.node.name, self.target.node.name


class End:
    """One node's side of a connection: the wire of a real link (see Wire)."""

    def __init__(self, network: Network, node: Host, peer: Host, *, dialled: bool) -> None:
        self._network = network
        self.node, self.peer, self.dialled = node, peer, dialled
        self.life, self.peer_life = node.life, peer.life
        self.closed = False
        self.link: Link
        self.out: _Pipe
        self._over = self._heard = False
        self._copy = FrameReader()  # of what comes in, for messages that are delivered late

    # Called by the link.

    def write(self, data: bytes, /) -> None:
        """See Wire."""
        self._network.post(self.out, data)

    def close(self) -> None:
        """See Wire.  The other side learns of it after everything in flight has arrived."""
        if not self.closed:
            self.closed = True
            self._network.shut(self, broken=False)

    def abort(self) -> None:
        """See Wire."""
        if not self.closed:
            self.closed = True
            self._network.shut(self, broken=True)

    def is_closing(self) -> bool:
        """See Wire."""
        return self.closed

    def get_write_buffer_size(self) -> int:
        """See Wire."""
        return self._network.held_back(self.out)

    # Called by the network, as input of the node.

    def opened(self) -> None:
        """The connection is authenticated."""
        expected = self.peer.name if self.dialled else None
        self.link = self.node.links.opened(self, self.peer.name, expected=expected)

    def data(self, data: bytes) -> None:
        """Bytes have come.  A link that has ended gets them too, and must ignore them."""
        node, time, late = self.node, self._network.time, self._network.late
        frames = self._copy.feed(data) if late else []
        if self.closed:
            time.count("late bytes of an ended link")
            for message in map(decode, frames):
                if message["type"] not in _OF_LINKS:
                    time.count("late message")
                    node.receive_late(self.link.raft_id, message)
        node.reading = self
        self.link.received(data)
        node.reading = None
        if self.link.said_hello and not self._heard:
            self._heard = True
            node.said_hello(self)
        if self.link.refused is not None and "protocol" in self.link.refused:
            time.fail("link", f"{node.name} refuses {self.peer.name}: {self.link.refused}")

    def lost(self) -> None:
        """The connection is gone."""
        if not self._over:
            self._over = True
            if not self.closed:
                self.closed = True
                self._network.post(self.out, None)
            self.link.lost()


class Network:
    """Everything between the nodes.

    hosts: the nodes by name; they may become more.  late: messages from links
    that have ended are delivered all the same, which the real links never do.
    """

    def __init__(self, time: Timeline, rng: random.Random, hosts: Mapping[str, Host], *, late: bool) -> None:
        self.time, self.hosts, self.late = time, hosts, late
        self._rng = rng
        self._cuts: dict[tuple[str, str], int] = {}  # how many faults cut this direction
        self._cut_at: dict[tuple[str, str], float] = {}
        self._slow: dict[tuple[str, str], tuple[float, float]] = {}
        self._narrow: dict[tuple[str, str], float] = {}  # bytes a second
        self._pipes: list[tuple[_Pipe, _Pipe]] = []
        self._lost_until: dict[frozenset[str], float] = {}

    # Faults.

    def cut(self, source: str, target: str) -> None:
        """Hold back what is sent in one direction."""
        if not self._cuts.get((source, target)):
            self._cut_at[source, target] = self.time.now
        self._cuts[source, target] = self._cuts.get((source, target), 0) + 1
        self._disturb(source, target)

    def mend(self, source: str, target: str) -> None:
        """Undo one `cut`; after the last one, what was held back arrives."""
        self._cuts[source, target] = left = max(0, self._cuts.get((source, target), 0) - 1)
        self._disturb(source, target)
        if not left:
            self._wake()

    def cut_off(self) -> frozenset[tuple[str, str]]:
        """The directions that are cut, each from one node to another."""
        return frozenset(pair for pair, cuts in self._cuts.items() if cuts)

    def slow(self, source: str, target: str, delay_s: tuple[float, float] | None) -> None:
        """Delay one direction by this much, at least and at most; None: as usual."""
        if delay_s is None:
            self._slow.pop((source, target), None)
        else:
            self._slow[source, target] = delay_s
        self._disturb(source, target)

    def narrow(self, source: str, target: str, bytes_per_s: float | None) -> None:
        """Let one direction carry so many bytes a second; None: any number."""
        if bytes_per_s is None:
            self._widen(source, target)
        else:
            self._narrow[source, target] = bytes_per_s
        self._disturb(source, target)

    def _widen(self, source: str, target: str) -> None:
        if self._narrow.pop((source, target), None) is None:
            return
        for pipe in (pipe for pair in self._pipes for pipe in pair if pipe.names() == (source, target)):
            pipe.queue = deque((min(due, self.time.now), sent, data) for due, sent, data in pipe.queue)
            pipe.last_due = pipe.free_at = self.time.now
        self._wake()

    def cut_ways(self) -> list[tuple[str, str, float]]:
        """The directions that are cut: from whom to whom, since when."""
        return [(*way, self._cut_at[way]) for way, count in self._cuts.items() if count]

    def is_sound(self, one: str, other: str) -> bool:
        """True while no fault is on the link of two nodes, in either direction."""
        return not any(
            self._cuts.get(way) or way in self._slow or way in self._narrow
            for way in ((one, other), (other, one))
        )

    def lost_until(self, one: str, other: str) -> float:
        """When the last attempt to connect two nodes that a cut swallowed gave up, or will; 0: never."""
        return self._lost_until.get(frozenset((one, other)), 0.0)

    def _disturb(self, source: str, target: str) -> None:
        self.time.disturb(frozenset((source, target)))

    def heal(self) -> None:
        """End every cut, every unusual delay and every narrow place."""
        for way in {*self.cut_off(), *self._slow, *self._narrow}:
            self._disturb(*way)
        for key in self._cuts:
            self._cuts[key] = 0
        self._slow.clear()
        for source, target in list(self._narrow):
            self._widen(source, target)
        self._wake()

    def drop(self, node: Host, peer: Host) -> None:
        """Break the connections of two nodes; each learns of it in its own time."""
        self.time.disturb(frozenset((node.name, peer.name)), for_s=_LATEST_S)
        pairs = [
            (a, b)
            for a, b in self._pipes
            if {a.source.node, b.source.node} == {node, peer} and not (a.shut and b.shut)
        ]
        for pair in pairs:
            for pipe in pair:
                if not pipe.source.closed and not pipe.shut:
                    self._silently(pipe)

    def gone(self, node: Host, *, power: bool) -> None:
        """A process is gone.  Its system closes the sockets, unless the power went too."""
        for pair in self._pipes:
            for pipe in pair:
                if pipe.source.node is node and pipe.source.life == node.life:
                    pipe.source.closed = True
                    # What it would have sent after it was stopped was never sent.
                    kept = [item for item in pipe.queue if item[1] <= self.time.now]
                    pipe.queue = deque(kept)
                    if power:
                        pipe.shut = True
                    elif not pipe.shut:
                        self._break(pipe.source)

    # Bytes.

    def post(self, pipe: _Pipe, data: bytes | None) -> None:
        """Send bytes, or the end of the stream."""
        if pipe.shut:
            return
        node = pipe.source.node
        if data is not None:
            node.step("send")
        else:
            pipe.shut = True
        sent_at = self.time.now + node.elapsed
        delay, rate = self._delay(*pipe.names()), self._narrow.get(pipe.names())
        pieces = [data]
        if rate is not None and data:
            size = max(1, int(rate * _PIECE_S))
            pieces = [data[at : at + size] for at in range(0, len(data), size)]
        for piece in pieces:
            if rate is not None and piece:
                pipe.free_at = max(pipe.free_at, sent_at) + len(piece) / rate
            due = pipe.last_due = max(pipe.last_due, pipe.free_at, sent_at + delay)
            pipe.queue.append((due, sent_at, piece))
            self.time.at(due, partial(self._pump, pipe))

    def held_back(self, pipe: _Pipe) -> int:
        """Bytes that a cut, or a narrow link, keeps from leaving."""
        if not self._cuts.get(pipe.names()) and pipe.names() not in self._narrow:
            return 0
        return sum(len(data or b"") for _, _, data in pipe.queue)

    def _delay(self, source: str, target: str) -> float:
        return self._rng.uniform(*self._slow.get((source, target), _DELAY_S))

    def _pump(self, pipe: _Pipe) -> None:
        key = pipe.names()
        while pipe.queue and pipe.queue[0][0] <= self.time.now and not self._cuts.get(key):
            data = pipe.queue.popleft()[2]
            target = pipe.target
            if data is None:
                target.node.put(target.life, target.lost)
            else:
                target.node.put(target.life, partial(target.data, data))

    def _wake(self) -> None:
        """Let messages that were held back arrive soon, in order."""
        for pair in self._pipes:
            for pipe in pair:
                if pipe.queue:
                    self.time.later(self._rng.uniform(0.0, 0.2), partial(self._pump, pipe))

    # Connections.

    def dial(self, node: Host, name: str) -> None:
        """Connect a node to another one, or fail: at once where nobody listens, else after a while."""
        peer = self.hosts[name]
        wait = self._delay(node.name, name) + self._delay(name, node.name)
        if peer.is_up() and not self._reaches(node, peer):
            wait = self._rng.uniform(0.2, DIAL_TIMEOUT_S)
            pair = frozenset((node.name, name))
            self._lost_until[pair] = max(self._lost_until.get(pair, 0.0), self.time.now + wait)
        self.time.at(self.time.now + node.elapsed + wait, partial(self._connect, node, node.life, peer))

    def _reaches(self, node: Host, peer: Host) -> bool:
        there, back = (node.name, peer.name), (peer.name, node.name)
        up = peer.is_up() and not peer.is_paused()
        return up and not self._cuts.get(there) and not self._cuts.get(back)

    def _connect(self, node: Host, life: int, peer: Host) -> None:
        if node.life != life:
            return
        if not self._reaches(node, peer):
            node.put(life, partial(node.links.dialling.failed, peer.name, "no answer in time"))
            return
        self._pipes = [p for p in self._pipes if any(pipe.queue or not pipe.shut for pipe in p)]
        here, there = End(self, node, peer, dialled=True), End(self, peer, node, dialled=False)
        here.out, there.out = _Pipe(here, there), _Pipe(there, here)
        self._pipes.append((here.out, there.out))
        node.put(node.life, here.opened)
        peer.put(peer.life, there.opened)

    def shut(self, end: End, *, broken: bool) -> None:
        """A node ends its connection, which takes a moment: it waits for the end of TLS."""
        if broken:
            self._break(end)
        else:
            self.post(end.out, None)
        wait = self._rng.uniform(0.0, 1.0) if self._rng.random() < 0.2 else 0.0
        self.time.later(wait, lambda: end.node.put(end.life, end.lost))

    def _break(self, end: End) -> None:
        """The stream from this end is cut off at any byte, then it ends."""
        pipe = end.out
        if pipe.queue:
            keep = self._rng.randint(0, len(pipe.queue))
            items = list(pipe.queue)
            pipe.queue = deque(items[:keep])
            if keep < len(items) and items[keep][2] is not None and self._rng.random() < 0.5:
                due, sent, data = items[keep]
                assert data is not None
                pipe.queue.append((due, sent, data[: self._rng.randint(0, len(data))]))
            pipe.last_due = pipe.queue[-1][0] if pipe.queue else self.time.now
        if not pipe.shut:
            self.post(pipe, None)

    def _silently(self, pipe: _Pipe) -> None:
        self._break(pipe.source)
        if self._rng.random() < 0.5:  # the rest comes so late that a new connection may be there
            late = self._rng.uniform(0.1, _LATEST_S)
            pipe.queue = deque((due + late, sent, data) for due, sent, data in pipe.queue)
            for due, _, _ in pipe.queue:
                self.time.at(due, partial(self._pump, pipe))
