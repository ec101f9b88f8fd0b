"""Commands from a node that does not lead to the leader, and their results back.

Each is sent to one leader at a time, once.  When that one changes, or the link
with it breaks, it is sent again to the next one: it may be in a log by then,
so the state machine applies a command once however often it is logged.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

from cyoloctl.errors import CyoloctlError, InternalError, NoLeader, NoRoom, OutcomeUnknown, Overloaded
from cyoloctl.model import name_of
from cyoloctl.raft.core import Core
from cyoloctl.raft.machine import PeerRole, StateMachine
from cyoloctl.raft.messages import Message
from cyoloctl.raft.progress import NEVER
from cyoloctl.raft.proposals import Done, Proposal, ProposalQueue
from cyoloctl.raft.vendor import Node

__all__ = ["Forwarding"]

_ITEM_OVERHEAD_BYTES = 12
_NO_ROOM = "no room: "
"""Begins the leader's refusal of a message of commands; a member of an earlier release asks again."""

_log = logging.getLogger("cyoloctl.raft")


@dataclass(slots=True)
class _Forwarded:
    """Commands that the leader was asked to log, and the results that have come back."""

    target: Node
    batch: list[Proposal]
    size: int
    results: list[bytes] = field(default_factory=list)


class Forwarding:
    """Both sides: what this node sent to the leader, and what peers sent to this node."""

    def __init__(self, core: Core, pending: ProposalQueue, machine: StateMachine) -> None:
        """pending: what waits at this node, its own and, while it leads, its peers'."""
        self._core = core
        self.pending = pending
        self._machine = machine
        self._forwarded: dict[int, _Forwarded] = {}
        self._bytes = 0
        self._last_id = core.rng.getrandbits(62)  # row 9: never an id of an earlier boot
        self._not_before = NEVER

    def take_batch(self) -> list[Proposal]:
        """The next proposals that fit one log entry or message; none when all were cancelled."""
        committed = max(self._core.heard_commit, self._core.engine.commit_index())
        return self.pending.take_batch(self._core.limits.entry_bytes, _ITEM_OVERHEAD_BYTES, committed)

    def forward(self) -> None:
        """Not the leader: hand what waits to the leader, once."""
        if not self.pending:
            return
        leader = self._core.live_leader()
        for proposal in self.pending.take_for_leader():
            proposal.settle(None, NoLeader("not the leader"))
        if leader is None or self._core.clock() < self._not_before:
            return
        while self.pending and self._bytes < self._core.limits.window_bytes:
            batch = self.take_batch()
            if batch:
                size = sum(len(proposal.command) for proposal in batch)
                self._last_id += 1
                self._forwarded[self._last_id] = _Forwarded(leader, batch, size)
                self._bytes += size
                self._core.send(
                    leader,
                    {
                        "type": "forward",
                        "id": self._last_id,
                        "commands": [p.command for p in batch],
                        "after": [p.after for p in batch],
                    },
                )

    def refuse(self, reason: str) -> None:
        """As leader: what waits finds no room on the disks of the voters, now or soon."""
        for proposal in self.pending.take_all():
            _refuse(proposal, reason, sends=0)

    def leader_changed(self) -> None:
        """Send everything again, to the next leader, as soon as it is known."""
        self._take_back(None)
        self._not_before = NEVER

    def disconnected(self, node: Node) -> None:
        """The link with a peer ended: what it was sent, and has not answered, is sent again."""
        self._take_back(node)

    def next_deadline(self) -> float:
        """When what waits is to be sent again; inf when nothing waits for that."""
        if self.pending and self._not_before > self._core.clock():
            return self._not_before
        return math.inf

    def take_all(self) -> list[Proposal]:
        """Remove and return all forwarded proposals that were not answered: their answers are not awaited."""
        held = [proposal for forwarded in self._forwarded.values() for proposal in forwarded.batch]
        self._forwarded.clear()
        self._bytes = 0
        return held

    def _take_back(self, node: Node | None) -> None:
        for key in sorted(self._forwarded, reverse=True):
            if node is None or self._forwarded[key].target == node:
                self.pending.hold_again(self._end(key).batch)

    def _end(self, key: int) -> _Forwarded:
        forwarded = self._forwarded.pop(key)
        self._bytes -= forwarded.size
        return forwarded

    def on_forward(self, node: Node, message: Message) -> None:
        """A peer's commands: what may be logged waits with this node's own; all are answered together."""
        identifier, commands, afters = message["id"], message["commands"], message["after"]
        if len(commands) != len(afters):
            _log.warning("a peer forwards commands without their place", extra={"peer": node.id})
            return
        if not self._core.engine.is_leader():
            self._answer_forward(node, identifier, [], "not_leader")
            return
        if self.pending.is_full():
            self._answer_forward(node, identifier, [], "overloaded")
            return
        results: list[bytes] = [b""] * len(commands)
        left = len(commands)
        failures: list[CyoloctlError | None] = []

        def settled(position: int) -> Done:
            def done(result: bytes | None, error: CyoloctlError | None) -> None:
                nonlocal left
                left -= 1
                if error is not None or result is None:
                    failures.append(error)
                else:
                    results[position] = result
                if left == 0:
                    failed = _failure(failures, len(commands)) if failures else None
                    self._answer_forward(node, identifier, [] if failures else results, failed)

            return done

        name = name_of(node.id)
        role: PeerRole = "voter" if node in self._core.engine.others() else "learner"
        for position, command in enumerate(commands):
            if len(command) > self._core.limits.entry_bytes - 64:
                settled(position)(None, InternalError("command too large"))
                continue
            refusal = self._machine.admit(command, name, role)
            if refusal is not None:
                _log.warning("a peer's command is refused", extra={"peer": name, "role": role})
                settled(position)(refusal, None)
            else:
                self.pending.append(Proposal(command, settled(position), remote=True, after=afters[position]))

    def _answer_forward(self, node: Node, identifier: int, results: list[bytes], error: str | None) -> None:
        """Send the results, in messages well below the largest frame; the last one says that it is."""
        start = 0
        while True:
            end, size = start, 0
            while end < len(results) and (
                end == start or size + len(results[end]) <= self._core.limits.result_bytes
            ):
                size += len(results[end])
                end += 1
            last = end == len(results)
            self._core.send(
                node,
                {
                    "type": "forward_result",
                    "id": identifier,
                    "results": results[start:end],
                    "last": last,
                    "error": error,
                },
            )
            if last:
                return
            start = end

    def on_forward_result(self, node: Node, message: Message) -> None:
        """The leader's answer, or a part of it."""
        forwarded = self._forwarded.get(message["id"])
        if forwarded is None or forwarded.target != node:
            return
        forwarded.results.extend(message["results"])
        if not message["last"] and len(forwarded.results) <= len(forwarded.batch):
            return
        self._end(message["id"])
        batch, results, error = forwarded.batch, forwarded.results, message["error"]
        if error is None and len(results) == len(batch):
            for proposal, result in zip(batch, results, strict=True):
                if proposal.sends > 1 and self._machine.refused_unlogged(result):
                    # Not logged this time; what was sent before may be.
                    proposal.settle(None, OutcomeUnknown("the leader refuses now what may be in its log"))
                else:
                    proposal.settle(result, None)
            return
        again = []
        for proposal in batch:
            if error == "overloaded" and proposal.sends == 1:
                proposal.settle(None, Overloaded("the leader is overloaded: try again later"))
            elif error is not None and error.startswith(_NO_ROOM):
                _refuse(proposal, error.removeprefix(_NO_ROOM), sends=1)
            else:
                # It may be in a log already, or the node has stopped leading: the next is known soon.
                again.append(proposal)
        if again:
            self._not_before = self._core.clock() + self._core.timing.transfer_retry_s
            self.pending.hold_again(again)


def _failure(failures: list[CyoloctlError | None], count: int) -> str:
    """The word for what became of a message of commands that were not all logged and applied."""
    lacking = [failure for failure in failures if isinstance(failure, NoRoom)]
    return f"{_NO_ROOM}{lacking[0].message}" if len(lacking) == count else "not_leader"


def _refuse(proposal: Proposal, reason: str, *, sends: int) -> None:
    """It finds no room.  sends: how often it was sent without being in a log."""
    text = reason[:500] if reason.isprintable() else "a member's disk has too little space left"
    if proposal.sends > sends:
        unknown = f"it was sent before, and may or may not have been applied; now {text}"
        proposal.settle(None, OutcomeUnknown(unknown))
    else:
        proposal.settle(None, NoRoom(text))
