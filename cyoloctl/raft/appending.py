"""How commands come into a leader's log: those that wait, many to one entry."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from cyoloctl.errors import InternalError, NoLeader, Overloaded
from cyoloctl.raft.batch import encode_batch
from cyoloctl.raft.clock import ClusterClock
from cyoloctl.raft.core import Core
from cyoloctl.raft.forwarding import Forwarding
from cyoloctl.raft.handover import Handover
from cyoloctl.raft.proposals import Done, Proposal
from cyoloctl.raft.room import Room
from cyoloctl.raft.vendor import SUCCESS

__all__ = ["Appending"]

_log = logging.getLogger("cyoloctl.raft")


class Appending:
    """Takes proposals, and logs them while this node leads."""

    def __init__(
        self,
        core: Core,
        forwarding: Forwarding,
        handover: Handover,
        room: Room,
        cluster_clock: ClusterClock,
    ) -> None:
        self._core = core
        self._pending = forwarding.pending
        self._forwarding = forwarding
        self._handover = handover
        self._room = room
        self._cluster_clock = cluster_clock

    def propose(
        self, command: bytes, callback: Done, *, lead: int = 0, behind: Proposal | None = None
    ) -> Proposal:
        """Replicate a command, through whichever node leads.

        callback(result, error) is called once: after the command was applied
        on the leader, or with Overloaded (not applied).  It is held and sent
        again across changes of leader; the caller bounds the time and then
        sets `cancelled` and looks at `sent`.

        lead: the term in which this node led when it proposed `behind`: the command is applied after that,
        or not at all.  So it ends with that lead: NoLeader where it is in no log, or OutcomeUnknown.
        """
        proposal = Proposal(command, callback, lead=lead, behind=behind)
        if self._core.failed is not None:
            proposal.settle(None, self._core.failed)
        elif len(command) > self._core.limits.entry_bytes - 64:
            proposal.settle(None, InternalError("command too large"))
        elif lead and lead != self._core.lead():
            proposal.settle(None, NoLeader("this node leads no more: send it again"))
        elif self._pending.is_full():
            proposal.settle(None, Overloaded("too many writes are waiting: try again later"))
        else:
            self._pending.append(proposal)
        return proposal

    def append_pending(self) -> None:
        """As leader, in each tick: what waits becomes log entries, many commands to one."""
        engine = self._core.engine
        if not engine.is_leader() or self._handover.is_going() or self._room.refuses():
            return
        if not self._pending and not self._cluster_clock.step_is_due():
            return
        uncommitted = self._core.journal.last_index - engine.commit_index()
        if uncommitted >= self._core.limits.uncommitted_entries:
            return  # what waits travels as one entry when the one before it is committed
        while self._pending:
            batch = self._forwarding.take_batch()
            if batch:
                entry = encode_batch(
                    [(proposal.command, proposal.after) for proposal in batch], self._cluster_clock.stamp()
                )
                engine.append_command(entry, self._settle_batch(batch))
        if self._cluster_clock.step_is_due():
            engine.append_command(encode_batch([], self._cluster_clock.stamp()), None)

    def _settle_batch(self, batch: list[Proposal]) -> Callable[[Any, int | None], None]:
        def done(results: list[bytes] | None, reason: int | None) -> None:
            if reason == SUCCESS and results is not None and len(results) == len(batch):
                for proposal, result in zip(batch, results, strict=True):
                    try:
                        proposal.settle(result, None)
                    except Exception:  # row 11: a caller's bug must not apply the entry again
                        _log.critical("a proposal's callback raised", exc_info=True)
            else:
                self._pending.hold_again(batch)

        return done
