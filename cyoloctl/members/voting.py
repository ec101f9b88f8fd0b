"""Votes of members: changes that wait for others, and votes that live in memory only."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from cyoloctl.errors import AccessDenied, Conflict, CyoloctlError, NotFound
from cyoloctl.members.machine import MemberMachine
from cyoloctl.model import LocalNode, RaftId, is_in_memory, name_of
from cyoloctl.raft import Engine
from cyoloctl.replicated.peer_calls import PeerCalls
from cyoloctl.text import Json

__all__ = ["MemoryVotes", "patiently"]

_log = logging.getLogger("cyoloctl.node")


async def patiently(change: Callable[..., Awaitable[Any]], deadline: float) -> None:
    """Wait for another membership change to end; a permanent refusal lasts to the deadline."""
    while True:
        left = deadline - time.monotonic()
        try:
            await change(timeout_s=max(0.1, left))
            return
        except Conflict:
            if left <= 0.2:
                raise
            await asyncio.sleep(0.05)


class MemoryVotes:
    """Votes of members whose log is in memory, this node's among them.

    raft_id: this node's.
    """

    def __init__(
        self, engine: Engine, node: LocalNode, members: MemberMachine, calls: PeerCalls, raft_id: RaftId
    ) -> None:
        self._engine = engine
        self._node = node
        self._members = members
        self._calls = calls
        self._raft_id = raft_id
        self._stepped_out: set[str] = set()
        calls.offer("step_out", {"raft_id": str}, self._answer_step_out, to="members of the leader")

    def has_stepped_out(self, raft_id: RaftId) -> bool:
        """Whether a member has given its vote back and is stopping."""
        return raft_id in self._stepped_out

    def end_of_memory(self) -> str | None:
        """Why stopping this member would end its cluster, whose state is in memory only; otherwise None."""
        status = self._engine.status()
        if self._node.storage != "memory" or self._raft_id not in status.voters:
            return None
        left = [raft_id for raft_id in status.voters if raft_id != self._raft_id]
        name = self._node.name
        if not left:
            if len(self._members.members()) < 2:
                return None  # alone: it begins afresh, as it always does
            return f"{name} is the only voter of a cluster in memory: stopping it loses the whole state"
        up = sum(1 for raft_id in left if raft_id in status.connected)
        if up <= len(left) / 2:
            return (
                f"without {name} {up} of {len(left)} voters of a cluster in memory are up, no majority, and "
                "whoever restarts has forgotten its vote: the cluster could never go on; bring the others "
                "back, or remove those that are gone with `cyoloctl member remove NAME`"
            )
        return None

    async def give_vote_back(self, *, timeout_s: float) -> None:
        """Give up the vote of a member in memory before it stops, so that the others stay a majority.

        It will come back under another raft id, and its present vote never.  Raises nothing; what
        could not be done is in the log.
        """
        if self._raft_id not in self._engine.status().voters or self._engine.is_leader():
            reason = self.end_of_memory()
        else:
            try:
                arguments = {"raft_id": self._raft_id}
                await self._calls.at_leader("step_out", arguments, self._step_out, timeout_s)
                return
            except CyoloctlError as error:
                reason = self.end_of_memory() or error.message
        if reason is not None:
            _log.critical("a vote that lives in memory is lost", extra={"reason": reason})

    async def _answer_step_out(self, peer: str, arguments: Json, timeout_s: float) -> Json:
        raft_id = arguments["raft_id"]
        # Its own vote, and one that can never be used again.
        if not is_in_memory(raft_id) or name_of(raft_id) != peer:
            raise AccessDenied("a member gives back its own vote only, and only one in memory")
        return await self._step_out(raft_id, timeout_s)

    async def _step_out(self, raft_id: RaftId, timeout_s: float) -> Json:
        deadline = time.monotonic() + timeout_s
        self._stepped_out.add(raft_id)
        try:
            await patiently(partial(self._engine.demote, raft_id), deadline)
        except NotFound:
            pass
        except BaseException:
            self._stepped_out.discard(raft_id)
            raise
        _log.info("a member in memory gave its vote back", extra={"member": name_of(raft_id)})
        return {"raft_id": raft_id}
