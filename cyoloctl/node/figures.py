"""The figures of one node for its metrics, and the text of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from typing import get_args

from cyoloctl import __version__
from cyoloctl.authorities.operations import AuthorityOperations
from cyoloctl.members.api import Member, Status
from cyoloctl.metrics.families import NODE, ROLES, Family, Figures, by
from cyoloctl.model import LocalNode, name_of
from cyoloctl.raft import Engine
from cyoloctl.rendezvous.records import State
from cyoloctl.state import ClusterState
from cyoloctl.text import Json, parse_rfc3339
from cyoloctl.tokens.operations import TokenOperations

__all__ = ["NodeFigures"]

_ALL = 1 << 30


class NodeFigures:
    """Implements `metrics.api.MetricsApi`, and gives the gateway its page.

    status: of the cluster, as this node knows it.  own: facts about this node.
    api: the part of the server of the API, set once there is one.
    """

    def __init__(
        self,
        engine: Engine,
        node: LocalNode,
        state: ClusterState,
        *,
        status: Callable[[], Status],
        own: Callable[[], Json],
        tokens: TokenOperations,
        authorities: AuthorityOperations,
    ) -> None:
        self._engine = engine
        self._node = node
        self._state = state
        self._status = status
        self._own = own
        self._tokens = tokens
        self._authorities = authorities
        self.api: Callable[[], Figures] = dict

    async def show(self, *, timeout_s: float) -> str:
        """All of this node's metrics; never waits for another node."""
        return await self.page()

    async def page(self, more: Iterable[Family] = (), figures: Figures | None = None) -> str:
        """The text of this node's metrics and of more, whose figures are given."""
        # In a thread: the library takes a tenth of a second the first time, which is a heartbeat.
        write = await asyncio.to_thread(_writer)
        return write(chain(NODE, more), {**self.figures(), **(figures or {})})

    def figures(self) -> Figures:
        """The figures of this moment."""
        status, own = self._status(), self._own()
        return {
            **self._node_figures(own),
            **_cluster_figures(status),
            "ca_certificate_expires_timestamp_seconds": by(self._authorities.ends_unix_s()),
            "credentials_expire_timestamp_seconds": self._credentials(),
            **self._raft_figures(own),
            **self._state_figures(),
            **self.api(),
        }

    def _node_figures(self, own: Json) -> Figures:
        node = self._node
        return {
            "node_info": {(str(node.name), str(node.cluster), __version__, node.storage): 1},
            "uptime_seconds": own["uptime_s"],
            "journal_sync_duration_seconds": self._engine.syncs(),
            "journal_fsync_p99_seconds": own["fsync_p99_ms"] / 1000,
            "snapshot_bytes": self._engine.snapshot_bytes(),
            **{name: own.get(name) for name in ("disk_free_bytes", "disk_total_bytes", "disk_reserve_bytes")},
        }

    def _raft_figures(self, own: Json) -> Figures:
        status = self._engine.status()
        return {
            "raft_is_leader": self._engine.is_leader(),
            "raft_has_leader": status.leader is not None,
            "raft_role": by({role: role == status.role for role in ROLES}),
            "raft_term": status.term,
            "raft_commit_index": status.commit_index,
            "raft_applied_index": status.applied_index,
            "raft_apply_lag_entries": max(0, status.commit_index - status.applied_index),
            "raft_log_entries": status.last_index - status.first_index,
            "raft_voters": len(status.voters),
            "raft_peers_reachable": len(self._engine.peers()),
            "raft_peer_behind_entries": by(
                {name_of(peer): max(0, status.last_index - match) for peer, match in status.match.items()}
            ),
            "raft_elections": status.tally.elections,
            "raft_leader_changes": status.tally.leader_changes,
            "commit_duration_seconds": self._engine.commits(),
        }

    def _state_figures(self) -> Figures:
        state, now_ms = self._state, self._engine.clock.now_unix_ms()
        rendezvous = state.rendezvous.counts(now_ms)
        machines = state.machines.in_force()
        entries = {
            "counters": len(state.counters),
            "keys": len(state.kv),
            "locks": len(state.locks.list(None, _ALL, now_ms)),
            "revocations": len(state.sessions),
            "members": len(state.members.members()),
            "invitations": len(state.members.invitations()),
            "credentials": sum(each.is_live(now_ms) for each in state.credentials.entries()),
            "machines": len(machines),
        }
        return {
            "state_entries": by(entries),
            "machine_rows": by({name: state.machines.rows(name) for name in machines}),
            "kv_bytes": state.kv.size,
            "kv_quota_bytes": state.kv.quota,
            "tokens": by(self._tokens.counts),
            "rendezvous": by({each: rendezvous[each] for each in get_args(State)}),
        }

    def _credentials(self) -> dict[tuple[str, ...], float]:
        now_ms = self._engine.clock.now_unix_ms()
        first: dict[str, float] = {}
        for each in self._state.credentials.entries():
            if each.is_live(now_ms):
                end_s = each.expires_unix_ms / 1000
                first[each.role] = min(end_s, first.get(each.role, end_s))
        return by(first)


def _cluster_figures(status: Status) -> Figures:
    cluster, members = status["cluster"], status["members"]
    problems: dict[str, int] = {}
    for problem in status["problems"]:
        problems[problem["code"]] = problems.get(problem["code"], 0) + 1
    return {
        "cluster_healthy": cluster["healthy"],
        "cluster_failure_tolerance": cluster["failure_tolerance"],
        "cluster_quorum": cluster["quorum"],
        "cluster_problems": by(problems),
        "cluster_time_ahead_seconds": cluster["time_ahead_s"],
        "member_reachable": by({member["name"]: member["reachable"] for member in members}),
        "member_lag_entries": _of_members(members, lambda member: member["lag"]),
        "member_clock_skew_seconds": _of_members(
            members, lambda member: _divided(member["clock_skew_ms"], 1000)
        ),
        "member_certificate_expires_timestamp_seconds": _of_members(
            members, lambda member: _unix_s(member["certificate_expires_at"])
        ),
    }


def _of_members(
    members: Iterable[Member], value: Callable[[Member], float | None]
) -> dict[tuple[str, ...], float]:
    """A figure of each member of which it is known."""
    found = {member["name"]: value(member) for member in members}
    return by({name: known for name, known in found.items() if known is not None})


def _divided(value: float | None, by: float) -> float | None:
    return None if value is None else value / by


def _unix_s(text: str | None) -> float | None:
    """None for what a member told wrongly, too."""
    with suppress(ValueError):
        return None if text is None else parse_rfc3339(text).timestamp()
    return None


def _writer() -> Callable[[Iterable[Family], Figures], str]:
    from cyoloctl.metrics.text import page

    return page
