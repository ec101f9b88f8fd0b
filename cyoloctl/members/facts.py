"""The facts that problems are found by, the form of a problem, and the codes that there are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from cyoloctl.members.api import Member, Problem
from cyoloctl.raft import Engine

__all__ = ["CODES", "Facts", "problem"]

CODES: dict[str, str] = {
    "member_away": "this node has no link with a member",
    "link": "two members run and do not reach each other",
    "address": "a member is not where the others are told that it is",
    "not_following": "a voter runs and does not follow the leader",
    "lagging": "a member has not applied what was committed a while ago",
    "disk_filling": "a member's disk has little space left, or will be full within days",
    "disk_full": "a member's disk has hardly any space left",
    "disk_slow": "a member's disk takes seconds to sync",
    "disk_failed": "a member's disk failed or is read-only",
    "memory": "a member stopped because memory ran out",
    "copy": "a process on a copy of a member's disk is kept out",
    "older_disk": "a process on an older copy of a member's disk is kept out",
    "kept_out": "another member keeps this node out",
    "left_behind": "a node that a recovery left behind still runs",
    "history_replaced": "a member was recovered as a cluster of its own, without this node",
    "vote_lost": "a member in memory came back and cannot vote yet",
    "snapshot_refused": "a member refuses this node's snapshot",
    "snapshot_unusable": "this node cannot use a member's snapshot",
    "log_differs": "two logs contradict each other",
    "clock": "a clock is off",
    "time_ahead": "cluster time is ahead of a majority's clocks",
    "key_lacking": "a member cannot open a token key",
    "certificate_refused": "a member's certificate is not accepted by another",
    "certificate_expiring": "a member's certificate ends soon",
    "certificate_expired": "a member's certificate has ended",
    "certificate_renewal_failed": "this node cannot renew its certificate",
    "ca_exchange_failed": "this node does not follow the exchange of the CA",
    "ca_rotation_due": "the CA must be exchanged",
    "credentials_expiring": "somebody's credentials end soon",
    "level_behind": "every member understands a higher level than the cluster is at",
    "audit_not_exported": "lines of the audit log are about to be cut that were not exported",
    "kv_quota": "keys and values come near their quota",
    "snapshot_failed": "this node cannot save the snapshots of its policy",
}
"""Every code that a problem may have, with its meaning."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts that problems are found by.

    rows: the members as `status` shows them.  apart: pairs without a link.
    lagging, astray: members behind, and voters that do not follow the leader.
    silent: connected members that were not heard for a while.  slow_syncs: the
    milliseconds of a slow sync, and read_only, of those that report it.
    """

    engine: Engine
    rows: tuple[Member, ...]
    name: str
    apart: Collection[tuple[str, str]] = ()
    lagging: Collection[str] = ()
    astray: Collection[str] = ()
    links: Mapping[str, Collection[str]] = field(default_factory=dict)
    silent: Collection[str] = ()
    slow_syncs: Mapping[str, float] = field(default_factory=dict)
    read_only: Collection[str] = ()


def problem(code: str, member: str | None, message: str, command: str | None) -> Problem:
    """One problem.  code: one of `CODES`.  member: whom it concerns, None for the cluster."""
    return {"code": code, "member": member, "message": message, "command": command}
