"""Linearizable reads without the log: ReadIndex (Ongaro, dissertation 6.4).

As leader, reads wait for a round.  It fixes the commit index of its beginning,
asks the voters whether they still take this node for the leader of its term,
and is served when a majority has answered and that index is applied.  A read
that arrives joins the next round, never the running one.  Elsewhere, reads
wait for an index that the leader gives, which it gets by a read of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from cyoloctl.errors import CyoloctlError, NoLeader, Overloaded
from cyoloctl.model import RaftId, majority
from cyoloctl.raft.core import Core
from cyoloctl.raft.messages import Message
from cyoloctl.raft.proposals import Done, no_leader
from cyoloctl.raft.vendor import Node

__all__ = ["ReadIndex", "ReadRequest"]


_ASK_AGAIN_HEARTBEATS = 5
"""Heartbeats without an answer after which the leader is asked again."""


@dataclass(slots=True, eq=False)
class ReadRequest:
    """A linearizable read on its way.  The callback gets the index that is applied."""

    callback: Done
    remote: bool = False
    """A peer asks; it is told when this node does not lead."""
    cancelled: bool = False
    index: int = 0

    def settle(self, index: int | None, error: CyoloctlError | None) -> None:
        """Tell whoever reads, once."""
        if not self.cancelled:
            self.cancelled = True
            self.callback(index, error)

    def give_up(self, leader: RaftId | None, timeout_s: float) -> None:
        """Tell whoever reads that no leader confirmed it in time.  leader: as far as this node knows."""
        self.settle(None, no_leader(leader, timeout_s))


@dataclass(slots=True)
class _Round:
    """Reads that are confirmed together."""

    sequence: int
    term: int
    index: int
    requests: list[ReadRequest]
    sent_at: float
    confirmed: set[Node] = field(default_factory=set)


@dataclass(slots=True)
class _Question:
    """A question to the leader: one request for an index, for all reads that wait."""

    identifier: int
    leader: Node
    requests: list[ReadRequest]
    again_at: float
    """When the answer is given up and the leader, which may be another one by then, is asked again."""


class ReadIndex:
    """The reads that wait at one replica."""

    def __init__(self, core: Core, *, tell_commit: Callable[[Node], None]) -> None:
        """tell_commit: send a peer the commit index, which it must apply before it can serve its reads."""
        self._core = core
        self._tell_commit = tell_commit
        self._waiting: list[ReadRequest] = []
        self._round: _Round | None = None
        self._sequence = core.rng.getrandbits(62)
        self._asked: _Question | None = None
        self._next_question = core.rng.getrandbits(62)
        self._ready: list[ReadRequest] = []

    def read(self, callback: Done) -> ReadRequest:
        """Linearizable barrier (dissertation 6.4): callback(index, error) once that index is applied.

        Held across changes of leader; the caller bounds the time and then sets `cancelled`.
        """
        request = ReadRequest(callback)
        if self._core.failed is not None:
            request.settle(None, self._core.failed)
        elif len(self._waiting) >= self._core.limits.pending_reads:
            request.settle(None, Overloaded("too many reads are waiting: try again later"))
        else:
            self._waiting.append(request)
        return request

    def lead(self, now: float) -> None:
        """As leader, in each tick: begin a round, ask again, or end it."""
        engine = self._core.engine
        reading = self._round
        if reading is not None:
            # The voters may have become fewer since the last confirmation.
            if self._is_confirmed(reading):
                self._complete()
            elif now - reading.sent_at >= self._core.timing.heartbeat_s:
                self._send_round(reading, now)
            return
        if not self._waiting or engine.applied_index() < engine.no_op_index():
            return
        requests = [request for request in self._waiting if not request.cancelled]
        self._waiting = []
        if not requests:
            return
        # Reads that arrive from here on belong to the next round: this one's index is fixed now.
        self._sequence += 1
        self._round = _Round(self._sequence, engine.term(), engine.commit_index(), requests, now)
        if self._is_confirmed(self._round):
            self._complete()
        else:
            self._send_round(self._round, now)

    def _send_round(self, reading: _Round, now: float) -> None:
        reading.sent_at = now
        for node in self._core.engine.others():
            if node not in reading.confirmed and node in self._core.engine.connected:
                self._core.send(node, {"type": "read_confirm", "seq": reading.sequence, "term": reading.term})

    def on_read_confirm(self, node: Node, message: Message) -> None:
        """The leader asks whether this node still follows it in its term; silence means no."""
        engine = self._core.engine
        if message["term"] == engine.term() and engine.leader() == node and not engine.is_leader():
            self._core.send(node, {"type": "read_confirmed", "seq": message["seq"], "term": message["term"]})

    def on_read_confirmed(self, node: Node, message: Message) -> None:
        """A voter confirms; what is no answer to the running round counts for nothing."""
        engine, reading = self._core.engine, self._round
        if (
            reading is None
            or not engine.is_leader()
            or message["term"] != engine.term()
            or reading.term != engine.term()
            or message["seq"] != reading.sequence
            or node not in engine.others()
        ):
            return
        reading.confirmed.add(node)
        if self._is_confirmed(reading):
            self._complete()

    def _is_confirmed(self, reading: _Round) -> bool:
        voters = self._core.engine.others()
        return 1 + len(reading.confirmed & voters) >= majority(len(voters) + 1)

    def _complete(self) -> None:
        reading = self._round
        if reading is None:
            return
        self._round = None
        for request in reading.requests:
            request.index = reading.index
        self._ready.extend(reading.requests)

    def serve(self) -> None:
        """Answer the reads whose index is applied by now."""
        if not self._ready:
            return
        applied = self._core.engine.applied_index()
        ready = [request for request in self._ready if request.index <= applied]
        if ready:
            self._ready = [r for r in self._ready if r.index > applied and not r.cancelled]
            for request in ready:
                request.settle(request.index, None)

    def ask(self, now: float) -> None:
        """Not the leader: ask it for an index, one request for all reads that wait."""
        if self._asked is None and not self._waiting:
            return
        engine = self._core.engine
        self._refuse_remote()
        if self._asked is not None:
            if self._asked.leader == engine.leader() and now < self.asks_again_at():
                return
            self._take_back()
        leader = self._core.live_leader()
        if not self._waiting or leader is None:
            return
        requests = [request for request in self._waiting if not request.cancelled]
        self._waiting = []
        if requests:
            self._next_question += 1
            again_at = now + _ASK_AGAIN_HEARTBEATS * self._core.timing.heartbeat_s
            self._asked = _Question(self._next_question, leader, requests, again_at)
            self._core.send(leader, {"type": "read_index", "id": self._next_question})

    def _refuse_remote(self) -> None:
        """This node has stopped leading: peers ask the next leader themselves."""
        if any(request.remote for request in self._waiting):
            remote = [request for request in self._waiting if request.remote]
            self._waiting = [request for request in self._waiting if not request.remote]
            for request in remote:
                request.settle(None, NoLeader("not the leader"))

    def on_read_index(self, node: Node, message: Message) -> None:
        """A peer has reads that wait: it gets an index by a read of its own here."""
        identifier = message["id"]
        if not self._core.engine.is_leader() or len(self._waiting) >= self._core.limits.pending_reads:
            self._core.send(node, {"type": "read_index_result", "id": identifier, "index": None})
            return

        def done(index: int | None, error: CyoloctlError | None) -> None:
            if (
                index is not None
                and self._core.engine.is_leader()
                and node in self._core.peers
                and self._core.progress[node].told_commit < index
            ):
                self._tell_commit(node)
            self._core.send(node, {"type": "read_index_result", "id": identifier, "index": index})

        self._waiting.append(ReadRequest(done, remote=True))

    def on_read_index_result(self, node: Node, message: Message) -> None:
        """The leader's answer: the reads are served once that index is applied here."""
        asked = self._asked
        if asked is None or asked.identifier != message["id"] or asked.leader != node:
            return
        index = message["index"]
        if index is None:
            # It has stopped leading: ask again soon, or at once when another leader is known.
            asked.again_at = self._core.clock() + self._core.timing.transfer_retry_s
            return
        self._asked = None
        for request in asked.requests:
            request.index = index
        self._ready.extend(asked.requests)

    # What the replica reports.

    def asks_again_at(self) -> float:
        """When an answer of the leader is given up; inf while none is awaited."""
        return math.inf if self._asked is None else self._asked.again_at

    def stop_leading(self) -> None:
        """The running round has become worthless; its reads wait for the next leader."""
        if self._round is not None:
            self._waiting = self._round.requests + self._waiting
            self._round = None
        self._refuse_remote()

    def disconnected(self, node: Node) -> None:
        """The link with a peer ended: what it was asked must be asked again."""
        if self._asked is not None and self._asked.leader == node:
            self._take_back()

    def drop_cancelled(self) -> None:
        """Forget reads for which nobody waits."""
        self._waiting = [request for request in self._waiting if not request.cancelled]
        self._ready = [request for request in self._ready if not request.cancelled]

    def abandon(self, error: CyoloctlError) -> None:
        """Answer every read with the error."""
        reads = self._waiting + self._ready
        if self._round is not None:
            reads += self._round.requests
        if self._asked is not None:
            reads += self._asked.requests
        self._waiting, self._ready, self._round, self._asked = [], [], None, None
        for read in reads:
            read.settle(None, error)

    def _take_back(self) -> None:
        if self._asked is not None:
            self._waiting = self._asked.requests + self._waiting
            self._asked = None
