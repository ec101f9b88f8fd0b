"""Votes of members: changes that wait for others, and votes that live in memory only."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from cyoloctl.errors import AccessDenied, Conflict, CyoloctlError, NotFound
from cyoloctl.members.duties import end_of_memory
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
        self.stepped_out: set[str] = set()
        """Raft ids of members that have given their vote back and are stopping."""
        calls.offer("step_out", {"raft_id": str}, self._answer_step_out, to="members of the leader")

    def end_of_memory(self) -> str | None:
        """Why stopping this member would end its cluster, whose state is in memory only; otherwise None."""
        return end_of_memory(self._engine.status(), self._node.name, len(self._members.members()))

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
        self.stepped_out.add(raft_id)
        try:
            await patiently(partial(self._engine.demote, raft_id), deadline)
        except NotFound:
            pass
        except BaseException:
            self.stepped_out.discard(raft_id)
            raise
        _log.info("a member in memory gave its vote back", extra={"member": name_of(raft_id)})
        return {"raft_id": raft_id}
