"""Status of a replica, as it reports itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cyoloctl.model import RaftId, Role
from cyoloctl.raft.tally import Tally

__all__ = ["ReplicaStatus", "Trouble"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """A dispute that this replica and a peer cannot settle between themselves; for people.

    code: ``snapshot_refused`` (the peer refuses ours), ``snapshot_unusable``
    (we refuse the peer's) or ``log_differs``.
    """

    code: str
    peer: RaftId
    message: str


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A snapshot of what this replica knows.  `match` is only known to a leader.

    changing: a change of the voters is in its log and not applied yet.
    tally: the one that goes on being written.
    """

    raft_id: RaftId
    role: Role
    term: int
    leader: RaftId | None
    first_index: int
    last_index: int
    commit_index: int
    applied_index: int
    snapshot_index: int
    voters: tuple[RaftId, ...]
    learners: tuple[RaftId, ...]
    removed: tuple[RaftId, ...]
    connected: tuple[RaftId, ...]
    match: Mapping[RaftId, int]
    troubles: tuple[Trouble, ...] = ()
    changing: bool = False
    tally: Tally = field(default_factory=Tally)
