"""What a replica tells about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cyoloctl.model import Role

__all__ = ["ReplicaStatus", "Trouble"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """What this replica and a peer cannot settle between themselves; for people.

    code: ``snapshot_refused`` (the peer refuses ours), ``snapshot_unusable``
    (we refuse the peer's) or ``log_differs``.
    """

    code: str
    peer: str
    message: str


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A snapshot of what this replica knows.  `match` is only known to a leader."""

    raft_id: str
    role: Role
    term: int
    leader: str | None
    first_index: int
    last_index: int
    commit_index: int
    applied_index: int
    snapshot_index: int
    voters: tuple[str, ...]
    learners: tuple[str, ...]
    removed: tuple[str, ...]
    connected: tuple[str, ...]
    match: Mapping[str, int]
    troubles: tuple[Trouble, ...] = ()
