"""Setting cluster time to what the members' clocks show."""

from __future__ import annotations

import logging

from cyoloctl.caller import CALLER
from cyoloctl.errors import Conflict
from cyoloctl.replicated.peer_calls import PeerCalls
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.state import ClusterState
from cyoloctl.text import Json, rfc3339

__all__ = ["ClusterTime"]

_log = logging.getLogger("cyoloctl.node")


class ClusterTime:
    """The operator's way to set cluster time, which touches what every subject has dated."""

    def __init__(self, proposer: Proposer, state: ClusterState, calls: PeerCalls) -> None:
        self._proposer = proposer
        self._engine = proposer.engine
        self._state = state
        self._calls = calls
        calls.offer(
            "set_time",
            {"dry_run": bool, "by": str, "request_id": (str, type(None))},
            lambda peer, given, timeout_s: self._set_here(**given, timeout_s=timeout_s),
            to="voters of the leader",
        )

    async def set(self, *, dry_run: bool, request_id: str | None, timeout_s: float) -> Json:
        """Set cluster time to what a majority of the members' clocks show.

        dry_run: only say what it would do.  Raises Conflict while a majority's
        clocks are not known, NoLeader.
        """
        by = CALLER.get().name.replace(" ", "-")
        return await self._calls.at_leader(
            "set_time",
            {"dry_run": dry_run, "by": by, "request_id": request_id},
            self._set_here,
            timeout_s,
        )

    async def _set_here(self, dry_run: bool, by: str, request_id: str | None, timeout_s: float) -> Json:
        await self._engine.read_barrier(timeout_s=timeout_s)
        clock, state = self._engine.clock, self._state
        to_ms = clock.majority_unix_ms(self._engine.voter_names())
        if to_ms is None:
            raise Conflict(
                "the clocks of a majority of the voters are not known, or show no time: start the members, "
                "set their clocks, and try again in a few seconds"
            )
        from_ms, epoch = clock.now_unix_ms(), state.clock.stamp.epoch
        if not dry_run:
            await self._proposer.apply(
                "clock",
                "set",
                {"to_unix_ms": to_ms, "epoch": epoch, "by": by},
                request_id=request_id,
                timeout_s=timeout_s,
            )
            _log.warning(
                "cluster time was set", extra={"from": rfc3339(from_ms / 1000), "to": rfc3339(to_ms / 1000)}
            )
        low, high = min(from_ms, to_ms), max(from_ms, to_ms)

        def between(unix_ms: int | None) -> bool:
            return unix_ms is not None and low < unix_ms <= high

        return {
            "dry_run": dry_run,
            "from": rfc3339(from_ms / 1000),
            "to": rfc3339(to_ms / 1000),
            "moves_s": round((to_ms - from_ms) / 1000, 1),
            "epoch": epoch + (not dry_run),
            # Forward: these would expire.  Back: they would live longer.
            "affected": {
                "rendezvous": sum(between(r.expires_unix_ms) for r in state.rendezvous.live(low)),
                "invitations": sum(between(i.expires_unix_ms) for i in state.members.invitations()),
                "keys": sum(between(k.free_unix_ms) for k in state.keys.records() if k.free_unix_ms),
                "revocations": state.sessions.ending_between(low, high),
            },
        }
