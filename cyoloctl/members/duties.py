"""Duties of a node towards the members: what it writes about them, and when.  Pure.

`Upkeep` and `MemoryVotes` do what is due, again and again, until nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import NamedTuple

from cyoloctl.members.levels import LevelMachine
from cyoloctl.members.machine import MemberMachine
from cyoloctl.members.presence import Presence
from cyoloctl.members.records import Member
from cyoloctl.model import RaftId, is_in_memory, name_of
from cyoloctl.raft import ReplicaStatus
from cyoloctl.text import Json

__all__ = [
    "Change",
    "announcement_due",
    "changes_due",
    "end_of_memory",
    "has_place",
    "level_due",
    "level_of_founder",
    "process_due",
    "reach_due",
]


class Change(NamedTuple):
    """A change that the leader owes the members.

    what: ``promote`` or ``demote`` a raft id, ``hand_over`` leadership because the leader of this raft id is
    to be demoted, or ``forget`` the name of a member whose removal was left half done.
    """

    what: str
    target: str


def has_place(members: MemberMachine, name: str, now_unix_ms: int, *, leads: bool) -> bool:
    """Whether a node may announce itself: it was admitted, as far as it has applied, or is the founder."""
    if members.is_removed(name):
        return False
    if members.grants.open(name, now_unix_ms) is not None:
        return True
    return members.get(name) is not None or (leads and not members.members())


def announcement_due(known: Member | None, wanted: Member) -> bool:
    """Whether a node has to announce its record: it says something else than it did.

    Where an operator has said that it is elsewhere, its own address is kept beside that one.
    """
    if known is None:
        return True
    return replace(known, address=known.announced or known.address, announced=None) != wanted


def process_due(name: str, boots: int, boot: str, known: Presence | None, applied: int) -> Json | None:
    """The arguments of ``presence boot``, with which a process on a disk announces itself; None: known."""
    if not boots or (known is not None and known.boots >= boots):
        return None
    return {"name": name, "boots": boots, "boot": boot, "index": applied}


def level_due(name: str, members: MemberMachine, levels: LevelMachine) -> Json | None:
    """The arguments of ``levels announce``, with which a member says what it understands; None: known."""
    if members.get(name) is None or levels.understood(name) == levels.own.level:
        return None
    return {"name": name, "level": levels.own.level}


def level_of_founder(members: MemberMachine, levels: LevelMachine, *, leads: bool) -> Json | None:
    """The arguments of ``levels raise``, before the founder's record is made; None: nothing to raise.

    A new cluster begins at the level of the release that makes it: nobody could go back from there.
    """
    if not leads or members.members() or levels.level >= levels.own.level:
        return None
    return {"to": levels.own.level, "release": levels.own.first(levels.own.level)}


def reach_due(
    status: ReplicaStatus,
    presence: Callable[[str], Presence | None],
    acknowledged: Callable[[RaftId], int],
    last_process: Callable[[str], str | None],
) -> Json | None:
    """The arguments of ``presence reached``: how far a voter that is away had got; None when all is known.

    So that a copy of a disk, or an older one that comes back, is known as such by every node.
    last_process: with which process of it the last link was.  What a process acknowledged that the
    register does not know yet says nothing of the one that it knows: the later one began with less.
    """
    for raft_id in status.voters:
        index, known = acknowledged(raft_id), presence(raft_id)
        if raft_id in status.connected or known is None or last_process(name_of(raft_id)) != known.boot:
            continue
        if index > known.index:
            return {"name": raft_id, "index": index}
    return None


def changes_due(
    status: ReplicaStatus, members: Iterable[Member], *, stepped_out: Collection[str]
) -> tuple[list[Change], bool]:
    """What the leader has to change, in order, and whether a voter is still waiting to become one.

    status: the leader's.  stepped_out: raft ids of members that gave their vote back and are stopping.
    """
    members = list(members)
    known = {member.raft_id for member in members}
    due, waiting = [], False
    if len(status.voters) > 1:
        # A member that keeps its log in memory came back under a new raft id.  Its old one goes first:
        # beside the new one it would be a dead voter more, and the member's next fault could end the cluster.
        due += [
            Change("demote", raft_id)
            for raft_id in status.voters
            if raft_id not in known and raft_id != status.raft_id and is_in_memory(raft_id)
        ]
    for member in members:
        if member.raft_id in status.removed:
            # Not before the removal is applied: another leader may replace it, and the member stays a voter.
            if not status.changing:
                due.append(Change("forget", member.name))
        elif member.role == "voter" and member.raft_id not in status.voters:
            waiting = True
            if member.raft_id in status.learners and member.raft_id not in stepped_out:
                due.append(Change("promote", member.raft_id))
    if len(status.voters) > 1:
        # Last: such a change may be refused for as long as too few of the others are reachable.
        due += [
            Change("hand_over" if member.raft_id == status.raft_id else "demote", member.raft_id)
            for member in members
            if member.role == "learner" and member.raft_id in status.voters
        ]
    return due, waiting


def end_of_memory(status: ReplicaStatus, name: str, members: int) -> str | None:
    """Why stopping a member in memory would end its cluster, whose state is in memory only; otherwise None.

    status: its own.  members: how many the cluster has.
    """
    if not is_in_memory(status.raft_id) or status.raft_id not in status.voters:
        return None
    left = [raft_id for raft_id in status.voters if raft_id != status.raft_id]
    if not left:
        if members < 2:
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
