"""Commands on their way into the log, and the bounded queue in which they wait.  Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cyoloctl.errors import CyoloctlError, NoLeader, OutcomeUnknown
from cyoloctl.model import RaftId

__all__ = ["Done", "Proposal", "ProposalQueue", "no_leader"]

_MAX_BATCH = 16_384

Done = Callable[[Any, "CyoloctlError | None"], None]
"""Called once, with a result or an error."""


@dataclass(slots=True, eq=False)
class Proposal:
    """A command on its way.  `callback` is called exactly once, unless `cancelled`.

    remote: a peer forwarded it, and is told when this node cannot place it.
    lead: the term of this node's lead in which alone it may be logged, 0: any, and any node's.
    behind: what it follows in that lead: it is not logged when that one was given up before it was.
    sends: into how many logs or messages it went; from the first on, giving
    up on it leaves the outcome unknown.
    after: the highest index known to be committed when it was sent first,
    -1 before: what was applied at or below it was something else.
    """

    command: bytes
    callback: Done
    remote: bool = False
    lead: int = 0
    behind: Proposal | None = None
    cancelled: bool = False
    sends: int = 0
    after: int = -1

    @property
    def sent(self) -> bool:
        """True when it may be in some log."""
        return self.sends > 0

    def settle(self, result: bytes | None, error: CyoloctlError | None) -> None:
        """Tell the proposer, once."""
        if not self.cancelled:
            self.cancelled = True
            self.callback(result, error)

    def give_up(self, leader: RaftId | None, timeout_s: float) -> None:
        """Tell the proposer, who waits no longer, what is known: it may be in a log, or it never will be.

        leader: as far as this node knows.
        """
        if self.sent:
            error = OutcomeUnknown(f"not confirmed within {timeout_s:g} s: it may still be applied")
            self.settle(None, error)
        else:
            self.settle(None, no_leader(leader, timeout_s))


def no_leader(leader: RaftId | None, timeout_s: float) -> NoLeader:
    """The error of what no leader did in time; leader: as far as this node knows."""
    if leader is None:
        return NoLeader(
            f"no leader within {timeout_s:.1f} s: a majority of the voters must be up and connected"
        )
    return NoLeader(f"the leader {leader} did not answer within {timeout_s:g} s: try again")


class ProposalQueue:
    """First in, first out, bounded by count and bytes; cancelled proposals do not count for long."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._items: deque[Proposal] = deque()
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def is_full(self) -> bool:
        """True when no further proposal is admitted; looks for cancelled ones first."""
        if len(self._items) < self._max_count and self._bytes < self._max_bytes:
            return False
        self.drop_cancelled()
        return len(self._items) >= self._max_count or self._bytes >= self._max_bytes

    def append(self, proposal: Proposal) -> None:
        """Add at the end, whatever the bounds: ask `is_full` before admitting."""
        self._items.append(proposal)
        self._bytes += len(proposal.command)

    def put_back(self, batch: list[Proposal]) -> None:
        """Put proposals that were taken back to the front, in their order."""
        self._items.extendleft(reversed(batch))
        self._bytes += sum(len(proposal.command) for proposal in batch)

    def hold_again(self, batch: list[Proposal]) -> None:
        """Not known to be applied: propose them again, for commands apply once.

        A peer proposes again itself what it forwarded.
        """
        again = []
        for proposal in batch:
            if proposal.remote:
                proposal.settle(None, NoLeader("the leader changed"))
            elif proposal.lead:
                proposal.settle(None, OutcomeUnknown("the leader changed: it may still be applied"))
            elif not proposal.cancelled:
                again.append(proposal)
        self.put_back(again)

    def take_batch(self, max_bytes: int, overhead_bytes: int, committed: int) -> list[Proposal]:
        """The next proposals whose commands together stay below max_bytes, at least one; marked as sent.

        committed: the highest index that is known to be committed.
        """
        batch: list[Proposal] = []
        size = 0
        while self._items and len(batch) < _MAX_BATCH:
            proposal = self._items[0]
            length = len(proposal.command)
            if not proposal.cancelled and batch and size + length + overhead_bytes > max_bytes:
                break
            self._items.popleft()
            self._bytes -= length
            behind = proposal.behind
            if behind is not None and behind.cancelled and not behind.sent:
                proposal.settle(None, NoLeader("what it follows was given up: send both again"))
            if proposal.cancelled:
                continue
            size += length + overhead_bytes
            proposal.sends += 1
            if proposal.after < 0:
                proposal.after = committed
            batch.append(proposal)
        return batch

    def take_for_leader(self) -> list[Proposal]:
        """Remove and return what only this node may log, as leader: what peers forwarded, or of one lead."""
        found = [proposal for proposal in self._items if proposal.remote or proposal.lead]
        if found:
            self._keep([proposal for proposal in self._items if not (proposal.remote or proposal.lead)])
        return found

    def take_all(self) -> list[Proposal]:
        """Empty the queue."""
        items = list(self._items)
        self._keep([])
        return items

    def drop_cancelled(self) -> None:
        """Forget proposals for which nobody waits."""
        if any(proposal.cancelled for proposal in self._items):
            self._keep([proposal for proposal in self._items if not proposal.cancelled])

    def _keep(self, items: list[Proposal]) -> None:
        self._items = deque(items)
        self._bytes = sum(len(proposal.command) for proposal in items)
