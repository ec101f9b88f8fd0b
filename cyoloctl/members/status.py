"""Status of the cluster and of its members, as this node knows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cyoloctl import __version__
from cyoloctl.members.api import Member, Problem, Status
from cyoloctl.members.facts import Facts
from cyoloctl.members.machine import MemberMachine
from cyoloctl.members.peer_problems import missing_links, voters_up
from cyoloctl.members.problems import find_problems, time_ahead_ms
from cyoloctl.model import LocalNode, Role, majority, name_of
from cyoloctl.raft import Engine, ReplicaStatus
from cyoloctl.text import Json, rfc3339

__all__ = ["MemberStatus"]

_FACTS: dict[str, tuple[type, ...]] = {
    "role": (str,),
    "term": (int,),
    "commit_index": (int,),
    "applied_index": (int,),
    "uptime_s": (int, float),
    "version": (str,),
    "storage": (str,),
    "fsync_p99_ms": (int, float),
    "certificate_expires_at": (str,),
}


def _shown_facts(info: Mapping[str, Any]) -> Json:
    """The facts that a peer reports about itself, as far as they have the right types and can be shown."""
    return {
        key: info[key]
        for key, kinds in _FACTS.items()
        if type(info.get(key)) in kinds and (str not in kinds or info[key].isprintable())
    }


class MemberStatus:
    """Status of this node and the others, for callers and for peers.

    certificates: facts about this node's certificate.  problems: those of
    other subjects.
    """

    def __init__(
        self,
        engine: Engine,
        node: LocalNode,
        members: MemberMachine,
        *,
        certificates: Callable[[], Json],
        problems: Callable[[], Iterable[Problem]],
    ) -> None:
        self._engine = engine
        self._node = node
        self._members = members
        self._certificates = certificates
        self._problems = problems
        self._started_at = time.monotonic()

    def describe(self) -> Json:
        """Facts about itself that this node sends to its peers, once per second."""
        status = self._engine.status()
        return {
            "role": status.role,
            "leader": None if status.leader is None else name_of(status.leader),
            "term": status.term,
            "commit_index": status.commit_index,
            "applied_index": status.applied_index,
            "uptime_s": round(time.monotonic() - self._started_at, 1),
            "version": __version__,
            "storage": self._node.storage,
            "fsync_p99_ms": round(self._engine.fsync_p99_ms(), 2),
            **self._certificates(),
            "pending_unix_ms": self._engine.clock.pending_unix_ms(),
        }

    def rows(self, status: ReplicaStatus) -> list[Member]:
        """The members by name.  status: of the engine, which the caller may use too."""
        members = {member.name: member for member in self._members.members()}
        names = set(members) | {name_of(raft_id) for raft_id in status.voters} | {self._node.name}
        names -= set(self._members.removed())
        voters = {name_of(raft_id) for raft_id in status.voters}
        leader = None if status.leader is None else name_of(status.leader)
        peers = self._engine.peers()
        known = [status.commit_index]
        reported = {name: _shown_facts(peer.info) for name, peer in peers.items()}
        known += [info["commit_index"] for info in reported.values() if "commit_index" in info]
        newest = max(known)
        skews = self._engine.clock.skews_ms() if self._engine.clock.now_unix_ms() else {}
        rows: list[Member] = []
        for name in sorted(names):
            member = members.get(name)
            peer = peers.get(name)
            info: Mapping[str, Any]
            skew = skews.get(name)
            if name == self._node.name:
                info, reachable = self.describe(), True
                address = str(self._node.advertise)
            else:
                info = reported.get(name, {})
                # A member in memory that came back is no voter yet, and its vote is not up.
                ids = [raft_id for raft_id in status.voters if name_of(raft_id) == name]
                reachable = peer is not None and (not ids or any(i in status.connected for i in ids))
                address = "" if peer is None or not peer.address.isprintable() else peer.address
            role: Role = "leader" if name == leader else "follower" if name in voters else "learner"
            if role == "follower" and info.get("role") == "candidate":
                role = "candidate"
            applied = info.get("applied_index")
            rows.append(
                {
                    "name": name,
                    "role": role,
                    "address": member.address if member is not None else address,
                    "reachable": reachable,
                    "term": info.get("term"),
                    "commit_index": info.get("commit_index"),
                    "applied_index": applied,
                    "lag": max(0, newest - applied) if type(applied) is int else None,
                    "uptime_s": info.get("uptime_s"),
                    "version": info.get("version"),
                    "storage": info.get("storage"),
                    "fsync_p99_ms": info.get("fsync_p99_ms"),
                    "certificate_expires_at": info.get("certificate_expires_at")
                    or (None if member is None else member.certificate_expires_at),
                    "clock_skew_ms": None if skew is None else round(skew, 1),
                }
            )
        return rows

    def status(self) -> Status:
        """The cluster, its members and their problems."""
        status = self._engine.status()
        rows = self.rows(status)
        quorum = majority(len(status.voters))
        reachable = voters_up(status)
        linked = not missing_links(
            self._node.name,
            (name_of(raft_id) for raft_id in status.voters),
            (row["name"] for row in rows),
            self._engine.peers(),
        )
        leader = None if status.leader is None else name_of(status.leader)
        now_ms, ahead_ms = self._engine.clock.now_unix_ms(), time_ahead_ms(self._engine)
        facts = Facts(self._engine, tuple(rows), str(self._node.name))
        return {
            "cluster": {
                "name": self._node.cluster,
                "id": self._node.cluster_id,
                "leader": leader,
                "term": status.term,
                "voters": len(status.voters),
                "learners": sum(1 for row in rows if row["role"] == "learner"),
                "quorum": quorum,
                # How many more voters may fail now, not how many could if all were up.
                "failure_tolerance": max(0, reachable - quorum),
                "healthy": (
                    leader is not None
                    and all(row["reachable"] for row in rows)
                    and reachable == len(status.voters)
                    and linked
                ),
                "commit_index": status.commit_index,
                "storage": self._node.storage,
                "time": rfc3339(now_ms / 1000) if now_ms else None,
                "time_ahead_s": None if ahead_ms is None or not now_ms else round(ahead_ms / 1000, 1),
            },
            "members": rows,
            "problems": find_problems(facts, self._problems()),
        }
