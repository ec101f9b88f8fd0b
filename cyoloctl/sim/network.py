"""A simulated network: connections between nodes, and the rules of the real sessions on them.

A connection delivers bytes in order in each direction, after a delay.  A cut
direction holds them back, as TCP does until it gives up.  A connection that
breaks loses a suffix of what was in flight, at any byte; each side learns of
it in its own time, so that one may have dialled anew and said hello before
the other has read all of the old connection.

`End` follows ``raft/_transport.py``: hello first, one live session a peer, the
newer process's session or the lower name's dial wins, and nothing of a
session that was superseded or ended is delivered.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from cyoloctl.raft._wire import FrameReader, decode, encode

if TYPE_CHECKING:
    from cyoloctl.sim.world import Node, World

__all__ = ["End", "Network"]

PING_PERIOD_S = 1.0
SILENCE_LIMIT_S = 4.0
_BACKOFF_FIRST_S = 0.1
_BACKOFF_LAST_S = 1.0
_GREATER_NAME_DELAY_S = 0.4


class _Pipe:
    """One direction of a connection."""

    def __init__(self, source: End, target: End) -> None:
        self.source, self.target = source, target
        self.queue: deque[tuple[float, float, bytes | None]] = deque()  # due, sent at, bytes or end
        self.last_due = 0.0
        self.shut = False


class End:
    """One node's side of a connection: a session once both said hello."""

    def __init__(self, node: Node, peer: Node, *, dialled: bool) -> None:
        self.node, self.peer, self.dialled = node, peer, dialled
        self.life, self.boot = node.life, -1
        self.reader = FrameReader()
        self.live = self.said_hello = self.closed = False
        self.last_received = node.world.now
        self.out: _Pipe

    def write(self, message: dict[str, Any]) -> None:
        self.write_frames(encode(message))

    def write_frames(self, data: bytes) -> None:
        if not self.closed:
            self.node.world.network.post(self.out, data)

    def opened(self) -> None:
        """See _Session.connection_made."""
        if self.peer.name in self.node.removed_peers():
            self.write({"type": "goodbye", "reason": "removed"})
            self.close()
            return
        self.write(
            {
                "type": "hello",
                "version": 1,
                "cluster_id": "simulation",
                "name": self.node.name,
                "raft_id": self.node.name,
                "boot": str(self.node.life),
                "address": "simulated:1",
                "release": "0",
            }
        )

    def data(self, data: bytes) -> None:
        """See _Session.data_received."""
        world = self.node.world
        if self.closed and not world.network.late:
            world.count("late bytes of an ended session")
            return
        self.last_received = world.now
        for frame in self.reader.feed(data):
            message = decode(frame)
            kind = message["type"]
            if kind == "hello":
                if self.closed:
                    continue
                self.said_hello, self.boot = True, int(message["boot"])
                self._establish()
            elif kind == "goodbye":
                self.node.was_removed = True
                self.close()
            elif kind == "ping":
                continue
            elif self.live or world.network.late:
                if not self.live:
                    world.count("late message")
                self.node.receive(self.peer.name, message)
            if self.closed and not world.network.late:
                return

    def _establish(self) -> None:
        """See PeerNetwork.establish."""
        current = self.node.ends.get(self.peer.name)
        if current is not None:
            if current.boot == self.boot and not self._preferred(current):
                self.close()
                return
            current.retire()
        self.live = True
        self.node.ends[self.peer.name] = self
        self.node.connected(self.peer.name)

    def _preferred(self, old: End) -> bool:
        if self.dialled == old.dialled:
            return True
        return self.dialled == (self.node.name < self.peer.name)

    def retire(self) -> None:
        """Nothing of it is delivered any more."""
        if self.live:
            self.live = False
            if self.node.ends.get(self.peer.name) is self:
                del self.node.ends[self.peer.name]
                self.node.disconnected(self.peer.name)
        self.close()

    def close(self) -> None:
        """End it on this side; the other side learns it when what is in flight has arrived."""
        if not self.closed:
            self.closed = True
            self.node.world.network.post(self.out, None)
            self.lost()

    def lost(self) -> None:
        """See PeerNetwork.lost."""
        self.closed = True
        if self.live:
            self.live = False
            if self.node.ends.get(self.peer.name) is self:
                del self.node.ends[self.peer.name]
                self.node.disconnected(self.peer.name)
        self.node.world.network.redial(self.node, self.peer, _BACKOFF_FIRST_S)


class Network:
    """Everything between the nodes.

    late: messages of ended sessions are delivered all the same, which the real sessions never do.
    """

    def __init__(self, world: World, rng: random.Random, *, late: bool) -> None:
        self.world, self.rng, self.late = world, rng, late
        self.cut: dict[tuple[str, str], int] = {}  # how many faults cut this direction
        self.slow: dict[tuple[str, str], tuple[float, float]] = {}
        self.delay_s = (0.0002, 0.002)
        self._pipes: list[tuple[_Pipe, _Pipe]] = []
        self._dialling: set[tuple[str, str]] = set()

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

    # Connections.

    def redial(self, node: Node, peer: Node, backoff_s: float) -> None:
        """As PeerNetwork._dial_forever: again and again until there is a session."""
        key = (node.name, peer.name)
        if key in self._dialling or node.replica is None:
            return
        self._dialling.add(key)
        wait = backoff_s * (0.5 + self.rng.random())
        if node.name > peer.name and backoff_s == _BACKOFF_FIRST_S:
            wait += _GREATER_NAME_DELAY_S
        if node.was_removed:
            wait += 1.0
        life = node.life

        def attempt() -> None:
            self._dialling.discard(key)
            if node.life != life or node.replica is None or peer.name in node.ends:
                return
            reachable = peer.replica is not None and not node.paused() and not peer.paused()
            if reachable and not self.cut.get(key) and not self.cut.get((peer.name, node.name)):
                trip = self._delay(*key) + self._delay(peer.name, node.name)
                self.world.at(self.world.now + trip, partial(self._open, node, life, peer, peer.life))
            self.redial(node, peer, min(2 * backoff_s, _BACKOFF_LAST_S))

        self.world.at(self.world.now + wait, attempt)

    def _open(self, node: Node, life: int, peer: Node, peer_life: int) -> None:
        if (node.life, peer.life) != (life, peer_life):
            return
        self._pipes = [p for p in self._pipes if any(pipe.queue or not pipe.shut for pipe in p)]
        here, there = End(node, peer, dialled=True), End(peer, node, dialled=False)
        here.out, there.out = _Pipe(here, there), _Pipe(there, here)
        self._pipes.append((here.out, there.out))
        node.put(node.life, here.opened)
        peer.put(peer.life, there.opened)

    def ping(self, node: Node) -> None:
        """See PeerNetwork._ping_forever."""
        for end in list(node.ends.values()):
            if self.world.now - end.last_received > SILENCE_LIMIT_S:
                self._break(end)
                end.lost()
            else:
                end.write({"type": "ping", "sent_ms": 0, "wall_unix_ms": 0})

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
        """Break the session of two nodes; each learns it in its own time."""
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
                    pipe.source.live = False
                    # What it would have sent after it was stopped was never sent.
                    kept = [item for item in pipe.queue if item[1] <= self.world.now]
                    pipe.queue = deque(kept)
                    if power:
                        pipe.shut = True
                    elif not pipe.shut:
                        self._break(pipe.source)
        node.ends.clear()

    def dial_all(self, node: Node, peers: list[Node], first_s: Callable[[], float]) -> None:
        """A node starts: it dials whom it knows, and they dial it."""
        for peer in peers:
            self._dialling.discard((node.name, peer.name))
            self.redial(node, peer, first_s())
            self.redial(peer, node, _BACKOFF_FIRST_S)
