"""Status of the cluster and of its members, as this node knows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cyoloctl import __version__
from cyoloctl.errors import InvalidInput
from cyoloctl.members.api import Disk, HistoryBreak, Member, Problem, ShownRole, Status
from cyoloctl.members.facts import Facts
from cyoloctl.members.levels import LevelMachine
from cyoloctl.members.machine import MemberMachine
from cyoloctl.members.peer_problems import voters_up
from cyoloctl.members.problems import find_problems, time_ahead_ms
from cyoloctl.members.records import Member as Record
from cyoloctl.members.standing import Standing, failures_tolerated, link_rows, missing_links
from cyoloctl.model import LocalNode, majority, name_of, parse_dialable_address
from cyoloctl.raft import Engine, PeerInfo, ReplicaStatus
from cyoloctl.replicated.history import Break, HistoryMachine
from cyoloctl.replicated.levels import THIS
from cyoloctl.text import Json, rfc3339

__all__ = ["MemberStatus"]

_FACTS: dict[str, tuple[type, ...]] = {
    "role": (str,),
    "leader": (str,),
    "term": (int,),
    "commit_index": (int,),
    "applied_index": (int,),
    "uptime_s": (int, float),
    "version": (str,),
    "storage": (str,),
    "fsync_p99_ms": (int, float),
    "disk_free_bytes": (int,),
    "disk_total_bytes": (int,),
    "disk_reserve_bytes": (int,),
    "disk_days_left": (int, float),
    "certificate_expires_at": (str,),
    "slow_sync_ms": (int, float),
    "disk_read_only": (bool,),
    "dialled": (str,),
}

_SETTLED = 3
"""Pongs, one per second: a node that has just started has this long to find the others."""


def _shown_facts(info: Mapping[str, Any]) -> Json:
    """The facts that a peer reports about itself, as far as they have the right types and can be shown."""
    return {
        key: info[key]
        for key, kinds in _FACTS.items()
        if type(info.get(key)) in kinds and (str not in kinds or info[key].isprintable())
    }


def _disk(info: Mapping[str, Any]) -> Disk | None:
    free, total, reserve = (info.get(f"disk_{what}_bytes") for what in ("free", "total", "reserve"))
    if free is None or total is None or reserve is None:
        return None  # a member of an earlier release does not say
    days = info.get("disk_days_left")
    return {"free_bytes": free, "total_bytes": total, "reserve_bytes": reserve, "days_left": days}


def _shown_break(one: Break) -> HistoryBreak:
    return {
        "epoch": one.epoch,
        "kind": one.kind,
        "index": one.index,
        "at": rfc3339(one.time_unix_ms / 1000),
        "by": one.by,
        "left_behind": list(one.lost),
        "earlier_cluster_id": one.cluster_id,
    }


@dataclass(frozen=True, slots=True)
class _Look:
    """The members at one moment, each asked for once: an idle node looks several times per second.

    told: what each connected member, this node included, says about itself.
    names: the members, those of the register, the voters and this node.
    voters: by name.  leader: its name.
    """

    status: ReplicaStatus
    peers: Mapping[str, PeerInfo]
    told: Mapping[str, Json]
    names: Collection[str]
    voters: Collection[str]
    leader: str | None

    def newest(self) -> int:
        """The newest commit index that is known."""
        told: Iterable[int] = (info.get("commit_index", 0) for info in self.told.values())
        return max([self.status.commit_index, *told])


def _where(member: Record | None, peer: PeerInfo | None) -> str:
    """The address of another member: as an operator set it, as it says itself, or as it said last."""
    if peer is not None and (member is None or member.announced is None):
        with suppress(InvalidInput):
            return str(parse_dialable_address(peer.address))
    return "" if member is None else member.address


class MemberStatus:
    """Status of this node and the others, for callers and for peers.

    certificates: facts about this node's certificate.  problems: those of
    other subjects.  disk: facts about this node's file system, as far as they
    are known.  disk_read_only: whether it takes no writes.
    own_address: where the others reach this node; None: as it is configured.
    """

    def __init__(
        self,
        engine: Engine,
        node: LocalNode,
        members: MemberMachine,
        *,
        certificates: Callable[[], Json],
        problems: Callable[[], Iterable[Problem]],
        disk: Callable[[], Json] = dict,
        disk_read_only: Callable[[], bool] = lambda: False,
        history: HistoryMachine | None = None,
        levels: LevelMachine | None = None,
        own_address: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._node = node
        self._members = members
        self._certificates = certificates
        self._problems = problems
        self._disk = disk
        self._disk_read_only = disk_read_only
        self._history = history or HistoryMachine()
        self._levels = levels or LevelMachine(members, THIS)
        self._own_address = own_address or (lambda: str(node.advertise))
        self._clock = clock
        self._started_at = clock()
        self._standing = Standing()

    def describe(self) -> Json:
        """Facts about itself that this node sends to its peers, once per second."""
        status, peers = self._engine.status(), self._engine.peers()
        own = self._own(status, peers)
        self._observe(self._look_at(status, peers, own))
        return own

    def _own(self, status: ReplicaStatus, peers: Mapping[str, PeerInfo]) -> Json:
        return {
            "role": status.role,
            "leader": None if status.leader is None else name_of(status.leader),
            "term": status.term,
            "commit_index": status.commit_index,
            "applied_index": status.applied_index,
            "uptime_s": round(self._clock() - self._started_at, 1),
            "version": __version__,
            "storage": self._node.storage,
            "fsync_p99_ms": round(self._engine.fsync_p99_ms(), 2),
            **self._disk(),
            "slow_sync_ms": self._engine.slow_sync_ms(),
            "sync_ms": self._engine.sync_ms(),
            "disk_short": self._engine.is_short(),
            "disk_read_only": self._disk_read_only(),
            **self._certificates(),
            "pending_unix_ms": self._engine.clock.pending_unix_ms(),
            "dialled": " ".join(name for name, peer in peers.items() if peer.dialled),
        }

    def _look(self, status: ReplicaStatus) -> _Look:
        peers = self._engine.peers()
        return self._look_at(status, peers, self._own(status, peers))

    def _look_at(self, status: ReplicaStatus, peers: Mapping[str, PeerInfo], own: Json) -> _Look:
        said = {name: peer.info for name, peer in peers.items()}
        voters = {name_of(raft_id) for raft_id in status.voters}
        names = {member.name for member in self._members.members()} | {self._node.name} | voters
        return _Look(
            status,
            peers,
            {name: _shown_facts(facts) for name, facts in {**said, self._node.name: own}.items()},
            names - set(self._members.removed()),
            voters,
            None if status.leader is None else name_of(status.leader),
        )

    def _links(self, look: _Look) -> dict[str, Collection[str]]:
        """The links of each member that reports them, this one included."""
        heard = {name: peer for name, peer in look.peers.items() if not peer.silent}
        reported = {name: peer.links for name, peer in heard.items() if peer.pongs >= _SETTLED}
        return {self._node.name: frozenset(heard), **reported}

    def _observe(self, look: _Look) -> dict[str, Collection[str]]:
        """Note how the members stand now; returns their links."""
        told = {name: facts for name, facts in look.told.items() if name in look.names}
        links = self._links(look)
        self._standing.observe(
            self._clock(),
            applied={
                name: facts["applied_index"] for name, facts in told.items() if "applied_index" in facts
            },
            committed=max(
                [look.status.commit_index, *(facts.get("commit_index", 0) for facts in told.values())]
            ),
            astray=[
                name
                for name, facts in told.items()
                if name in look.voters and look.leader is not None and facts.get("leader") != look.leader
            ],
            apart=missing_links(links, look.voters, look.names),
        )
        return links

    def rows(self, status: ReplicaStatus) -> list[Member]:
        """The members by name.  status: of the engine, which the caller may use too."""
        return self._rows(self._look(status))

    def _rows(self, look: _Look) -> list[Member]:
        status, leader = look.status, look.leader
        members = {member.name: member for member in self._members.members()}
        newest = look.newest()
        skews = self._engine.clock.skews_ms() if self._engine.clock.now_unix_ms() else {}
        rows: list[Member] = []
        for name in sorted(look.names):
            member = members.get(name)
            peer = look.peers.get(name)
            info = look.told.get(name, {})
            skew = skews.get(name)
            if name == self._node.name:
                reachable, address = True, self._own_address()
            else:
                # A member in memory that came back is no voter yet, and its vote is not up.
                ids = [raft_id for raft_id in status.voters if name_of(raft_id) == name]
                reachable = peer is not None and (not ids or any(i in status.connected for i in ids))
                address = _where(member, peer)
            is_witness = self._members.is_witness(name)
            role: ShownRole = "leader" if name == leader else "follower" if name in look.voters else "learner"
            if role == "follower" and info.get("role") == "candidate":
                role = "candidate"
            elif role == "follower" and is_witness:
                role = "witness"
            applied = info.get("applied_index")
            rows.append(
                {
                    "name": name,
                    "role": role,
                    "witness": is_witness,
                    "address": address,
                    "reachable": reachable,
                    "term": info.get("term"),
                    "commit_index": info.get("commit_index"),
                    "applied_index": applied,
                    "lag": max(0, newest - applied) if type(applied) is int else None,
                    "uptime_s": info.get("uptime_s"),
                    "version": info.get("version"),
                    "level": self._levels.understood(name),
                    "storage": info.get("storage"),
                    "fsync_p99_ms": info.get("fsync_p99_ms"),
                    "disk_free_bytes": info.get("disk_free_bytes"),
                    "disk": _disk(info),
                    "certificate_expires_at": info.get("certificate_expires_at")
                    or (None if member is None else member.certificate_expires_at),
                    "clock_skew_ms": None if skew is None else round(skew, 1),
                }
            )
        return rows

    def standing(self) -> tuple[set[str], set[str], list[tuple[str, str]]]:
        """The members that this node reaches, those that run, and the pairs without a link, by name."""
        status = self._engine.status()
        look = self._look(status)
        rows = self._rows(look)
        facts = self._facts(look, rows)
        linked = {str(row["name"]) for row in rows if row["reachable"]}
        return linked, linked | self._up(status, facts), list(facts.apart)

    def problems(self) -> list[Problem]:
        """The problems that `status` shows, for less: the log asks every second."""
        look = self._look(self._engine.status())
        return find_problems(self._facts(look, self._rows(look)), self._problems())

    def status(self) -> Status:
        """The cluster, its members and their problems."""
        status = self._engine.status()
        look = self._look(status)
        rows, leader = self._rows(look), look.leader
        quorum = majority(len(status.voters))
        reachable = voters_up(status)
        now_ms, ahead_ms = self._engine.clock.now_unix_ms(), time_ahead_ms(self._engine)
        facts = self._facts(look, rows)
        dialled = {name: told["dialled"].split() for name, told in look.told.items() if "dialled" in told}
        problems = find_problems(facts, self._problems())
        return {
            "cluster": {
                "name": self._node.cluster,
                "id": self._node.cluster_id,
                "leader": leader,
                "term": status.term,
                "voters": len(status.voters),
                "learners": sum(1 for row in rows if row["role"] == "learner"),
                "witnesses": sum(1 for row in rows if row["witness"]),
                "quorum": quorum,
                # How many more voters may fail now, not how many could if all were up and linked.
                "failure_tolerance": failures_tolerated(self._up(status, facts), facts.apart, quorum),
                "healthy": (
                    leader is not None
                    and all(row["reachable"] for row in rows)
                    and reachable == len(status.voters)
                    and not (facts.apart or facts.astray or facts.lagging)
                ),
                "commit_index": status.commit_index,
                "epoch": self._history.epoch,
                "storage": self._node.storage,
                "time": rfc3339(now_ms / 1000) if now_ms else None,
                "time_ahead_s": None if ahead_ms is None or not now_ms else round(ahead_ms / 1000, 1),
                "level": self._levels.level,
            },
            "members": rows,
            "links": link_rows(facts.links, dialled, sorted(str(row["name"]) for row in rows)),
            "problems": problems,
            "history": [_shown_break(one) for one in self._history.breaks()],
        }

    def _up(self, status: ReplicaStatus, facts: Facts) -> set[str]:
        """Names of the voters that run: those linked with this node, and those that others reach."""
        present = (status.raft_id, *status.connected)
        connected = {name_of(raft_id) for raft_id in status.voters if raft_id in present}
        elsewhere = {name for pair in facts.apart if self._node.name in pair for name in pair}
        return connected | elsewhere.intersection(map(name_of, status.voters))

    def _facts(self, look: _Look, rows: list[Member]) -> Facts:
        links, now = self._observe(look), self._clock()
        told = {name: facts for name, facts in look.told.items() if name in look.names}
        both = [(a, b) for a in links for b in links if a < b and self._node.name not in (a, b)]
        return Facts(
            self._engine,
            tuple(rows),
            str(self._node.name),
            apart=self._standing.apart(now, at_once=both),
            lagging=self._standing.lagging(now),
            astray=self._standing.astray(now),
            links=links,
            silent={name for name, peer in look.peers.items() if peer.silent},
            slow_syncs={
                name: facts["slow_sync_ms"] for name, facts in told.items() if "slow_sync_ms" in facts
            },
            read_only={name for name, facts in told.items() if facts.get("disk_read_only")},
        )
