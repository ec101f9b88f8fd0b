"""Who answers now: asked before the voters change, so that those who are counted upon are alive.

When a voter answered last says little. A leader that was just elected counts everybody as heard, one that
stood still reads old answers as if they were new, and a process that lost its power is missed only after
seconds.  A member in memory that is gone never comes back as the voter that it was: a change that is left
without a majority ends the cluster.  So those who answer a question that was asked after the change was
wanted are counted, and nobody else.

The question is that of a read: `read_confirm` (`reads.py`), under a number of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from cyoloctl.errors import CyoloctlError
from cyoloctl.raft.core import Core
from cyoloctl.raft.messages import Message
from cyoloctl.raft.vendor import Node

__all__ = ["RollCall"]


@dataclass(slots=True)
class _Call:
    sequence: int
    term: int
    asked: frozenset[Node]
    enough: Callable[[Collection[Node]], bool]
    done: Callable[[CyoloctlError | None], None]
    refusal: CyoloctlError
    until: float
    sent_at: float
    answered: set[Node] = field(default_factory=set)


class RollCall:
    """The one question of this kind that a leader may have open."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._sequence = core.rng.getrandbits(62)
        self._call: _Call | None = None

    def is_open(self) -> bool:
        """True while answers are awaited."""
        return self._call is not None

    def begin(
        self,
        asked: Collection[Node],
        enough: Callable[[Collection[Node]], bool],
        done: Callable[[CyoloctlError | None], None],
        *,
        refusal: CyoloctlError,
    ) -> None:
        """Ask these peers.  done(None) as soon as those who answered are enough.

        done(refusal) when they are not within `Timing.leader_fallback_s`, or too few have a link.
        """
        if enough(()):
            done(None)
            return
        if not enough([node for node in asked if node in self._core.engine.connected]):
            done(refusal)
            return
        now = self._core.clock()
        self._sequence += 1
        until = now + self._core.timing.leader_fallback_s
        term = self._core.engine.term()
        self._call = _Call(self._sequence, term, frozenset(asked), enough, done, refusal, until, now)
        self._ask(self._call, now)

    def _ask(self, call: _Call, now: float) -> None:
        call.sent_at = now
        for node in sorted(call.asked - call.answered, key=lambda node: node.id):
            if node in self._core.engine.connected:
                self._core.send(node, {"type": "read_confirm", "seq": call.sequence, "term": call.term})

    def lead(self, now: float) -> None:
        """As leader, in each tick: ask again, or give up."""
        call = self._call
        if call is None:
            return
        if now >= call.until:
            self.end(call.refusal)
        elif now - call.sent_at >= self._core.timing.heartbeat_s:
            self._ask(call, now)

    def ahead_of(self, reads: Callable[[Node, Message], None]) -> Callable[[Node, Message], None]:
        """The handler of `read_confirmed`.  reads: gets what is no answer to this question."""

        def on_read_confirmed(node: Node, message: Message) -> None:
            call = self._call
            if call is None or message["seq"] != call.sequence:
                reads(node, message)
            elif message["term"] == call.term == self._core.engine.term() and node in call.asked:
                call.answered.add(node)
                if call.enough(call.answered):
                    self.end(None)

        return on_read_confirmed

    def end(self, error: CyoloctlError | None) -> None:
        """Close the question, with an error unless it was answered."""
        call, self._call = self._call, None
        if call is not None:
            call.done(error)
