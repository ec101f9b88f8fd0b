"""A simulated network: connections between nodes, and the real links on them.

A connection delivers bytes in order in each direction, after a delay.  A cut
direction holds them back, as TCP does until it gives up.  A connection that
breaks loses a suffix of what was in flight, at any byte; each side learns of
it in its own time, so that one may have dialled anew and said hello before
the other has read all of the old connection.

Who dials when, hello, which of two links lives, pings and calls are not
here: `raft/links.py` decides them, as in a real node.
"""

from __future__ import annotations

import random
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from cyoloctl.raft.links import DIAL_TIMEOUT_S, Link
from cyoloctl.raft.messages import FrameReader, decode

if TYPE_CHECKING:
    from cyoloctl.sim.world import Node, World

__all__ = ["End", "Network"]


class _Pipe:
    """One direction of a connection."""

    def __init__(self, source: End, target: End) -> None:
        self.source, self.target = source, target
        self.queue: deque[tuple[float, float, bytes | None]] = deque()  # due, sent at, bytes or end
        self.last_due = 0.0
        self.shut = False


class End:
    """One node's side of a connection: the wire of a real link (see Wire)."""

    def __init__(self, node: Node, peer: Node, *, dialled: bool) -> None:
        self.node, self.peer, self.dialled = node, peer, dialled
        self.life, self.peer_life = node.life, peer.life
        self.closed = False
        self.link: Link
        self.out: _Pipe
        self._over = self._heard = False
        self._copy = FrameReader()  # of what comes in, for messages that are delivered late

    # What the link calls.

    def write(self, data: bytes, /) -> None:
        """See Wire."""
        self.node.world.network.post(self.out, data)

    def close(self) -> None:
        """See Wire.  The other side learns it when what is in flight has arrived."""
        if not self.closed:
            self.closed = True
            self.node.world.network.shut(self, broken=False)

    def abort(self) -> None:
        """See Wire."""
        if not self.closed:
            self.closed = True
            self.node.world.network.shut(self, broken=True)

    def is_closing(self) -> bool:
        """See Wire."""
        return self.closed

    def get_write_buffer_size(self) -> int:
        """See Wire."""
        return self.node.world.network.held_back(self.out)

    # What the network calls, as input of the node.

    def opened(self) -> None:
        """The connection is authenticated."""
        expected = self.peer.name if self.dialled else None
        self.link = self.node.links.opened(self, self.peer.name, expected=expected)

    def data(self, data: bytes) -> None:
        """Bytes have come; to a link that ended, too, which must ignore them."""
        node, late = self.node, self.node.world.network.late
        frames = self._copy.feed(data) if late else []
        if self.closed:
            node.world.count("late bytes of an ended link")
            for message in map(decode, frames):
                if message["type"] not in ("hello", "goodbye", "ping", "pong", "call", "reply"):
                    node.world.count("late message")
                    node.receive_late(self.link.raft_id, message)
        node.reading = self
        self.link.received(data)
        node.reading = None
        if self.link.said_hello and not self._heard:
            self._heard = True
            node.said_hello(self)
        if self.link.refused is not None and "protocol" in self.link.refused:
            node.world.fail("link", f"{node.name} refuses {self.peer.name}: {self.link.refused}")

    def lost(self) -> None:
        """The connection is gone."""
        if not self._over:
            self._over = True
            if not self.closed:
                self.closed = True
                self.node.world.network.post(self.out, None)
            self.link.lost()


class Network:
    """Everything between the nodes.

    late: messages of ended links are delivered all the same, which the real links never do.
    """

    def __init__(self, world: World, rng: random.Random, *, late: bool) -> None:
        self.world, self.rng, self.late = world, rng, late
        self.cut: dict[tuple[str, str], int] = {}  # how many faults cut this direction
        self.slow: dict[tuple[str, str], tuple[float, float]] = {}
        self.delay_s = (0.0002, 0.002)
        self._pipes: list[tuple[_Pipe, _Pipe]] = []

    # Time.

    def _delay(self, source: str, target: str) -> float:
        return self.rng.uniform(*self.slow.get((source, target), self.delay_s))

    def post(self, pipe: _Pipe, data: bytes | None) -> None:
        """Bytes, or the end of the stream."""
        if pipe.shut:
            return
        node = pipe.source.node
        if data is not None:
            node.step("send")
        else:
            pipe.shut = True
        sent_at = self.world.now + node.elapsed
        due = max(pipe.last_due, sent_at + self._delay(node.name, pipe.target.node.name))
        pipe.last_due = due
        pipe.queue.append((due, sent_at, data))
        self.world.at(due, lambda: self._pump(pipe))

    def _pump(self, pipe: _Pipe) -> None:
        key = (pipe.source.node.name, pipe.target.node.name)
        while pipe.queue and pipe.queue[0][0] <= self.world.now and not self.cut.get(key):
            data = pipe.queue.popleft()[2]
            target = pipe.target
            if data is None:
                target.node.put(target.life, target.lost)
            else:
                target.node.put(target.life, partial(target.data, data))

    def block(self, source: str, target: str, change: int) -> None:
        """Cut one direction (+1), or heal it (-1)."""
        key = (source, target)
        left = max(0, self.cut.get(key, 0) + change)
        self.cut[key] = left
        if not left:
            self.wake()

    def wake(self) -> None:
        """What was held back arrives soon, in order."""
        for pair in self._pipes:
            for pipe in pair:
                if pipe.queue:
                    at = self.world.now + self.rng.uniform(0.0, 0.2)
                    self.world.at(at, partial(self._pump, pipe))

    def held_back(self, pipe: _Pipe) -> int:
        """Bytes that a cut keeps from leaving."""
        if not self.cut.get((pipe.source.node.name, pipe.target.node.name)):
            return 0
        return sum(len(data or b"") for _, _, data in pipe.queue)

    # Connections.

    def dial(self, node: Node, name: str) -> None:
        """A connection comes to be, or the dial fails: at once where nobody listens, else by and by."""
        peer = self.world.nodes[name]
        wait = self._delay(node.name, name) + self._delay(name, node.name)
        if peer.replica is not None and not self._reaches(node, peer):
            wait = self.rng.uniform(0.2, DIAL_TIMEOUT_S)
        self.world.at(self.world.now + node.elapsed + wait, partial(self._connect, node, node.life, peer))

    def _reaches(self, node: Node, peer: Node) -> bool:
        there, back = (node.name, peer.name), (peer.name, node.name)
        up = peer.replica is not None and not peer.paused()
        return up and not self.cut.get(there) and not self.cut.get(back)

    def _connect(self, node: Node, life: int, peer: Node) -> None:
        if node.life != life:
            return
        if not self._reaches(node, peer):
            node.put(life, partial(node.links.dial_failed, peer.name))
            return
        self._pipes = [p for p in self._pipes if any(pipe.queue or not pipe.shut for pipe in p)]
        here, there = End(node, peer, dialled=True), End(peer, node, dialled=False)
        here.out, there.out = _Pipe(here, there), _Pipe(there, here)
        self._pipes.append((here.out, there.out))
        node.put(node.life, here.opened)
        peer.put(peer.life, there.opened)

    def shut(self, end: End, *, broken: bool) -> None:
        """A node ends its connection, which takes a moment: the end of TLS is waited for."""
        if broken:
            self._break(end)
        else:
            self.post(end.out, None)
        wait = self.rng.uniform(0.0, 1.0) if self.rng.random() < 0.2 else 0.0
        self.world.at(self.world.now + wait, lambda: end.node.put(end.life, end.lost))

    def _break(self, end: End) -> None:
        """The stream from this end is cut off at any byte, then it ends."""
        pipe = end.out
        if pipe.queue:
            keep = self.rng.randint(0, len(pipe.queue))
            items = list(pipe.queue)
            pipe.queue = deque(items[:keep])
            if keep < len(items) and items[keep][2] is not None and self.rng.random() < 0.5:
                due, sent, data = items[keep]
                assert data is not None
                pipe.queue.append((due, sent, data[: self.rng.randint(0, len(data))]))
            pipe.last_due = pipe.queue[-1][0] if pipe.queue else self.world.now
        if not pipe.shut:
            self.post(pipe, None)

    def drop(self, node: Node, peer: Node) -> bool:
        """Break the link of two nodes; each learns it in its own time."""
        pairs = [
            (a, b)
            for a, b in self._pipes
            if {a.source.node, b.source.node} == {node, peer} and not (a.shut and b.shut)
        ]
        for pair in pairs:
            for pipe in pair:
                if not pipe.source.closed and not pipe.shut:
                    self._silently(pipe)
        return bool(pairs)

    def _silently(self, pipe: _Pipe) -> None:
        self._break(pipe.source)
        if self.rng.random() < 0.5:  # what is left of it comes so late that a new connection may be there
            late = self.rng.uniform(0.1, 1.0)
            pipe.queue = deque((due + late, sent, data) for due, sent, data in pipe.queue)
            for due, _, _ in pipe.queue:
                self.world.at(due, partial(self._pump, pipe))

    def gone(self, node: Node, *, power: bool) -> None:
        """The process is gone.  Its system closes the sockets, unless the power went too."""
        for pair in self._pipes:
            for pipe in pair:
                if pipe.source.node is node and pipe.source.life == node.life:
                    pipe.source.closed = True
                    # What it would have sent after it was stopped was never sent.
                    kept = [item for item in pipe.queue if item[1] <= self.world.now]
                    pipe.queue = deque(kept)
                    if power:
                        pipe.shut = True
                    elif not pipe.shut:
                        self._break(pipe.source)
