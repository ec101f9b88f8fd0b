"""Status of a replica, as it reports itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cyoloctl.model import RaftId, Role
from cyoloctl.raft.tally import Tally

if TYPE_CHECKING:
    from cyoloctl.raft.core import Core
    from cyoloctl.raft.elections import Elections
    from cyoloctl.raft.membership import Membership

__all__ = ["ReplicaStatus", "Trouble", "report"]


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


def report(
    core: Core,
    membership: Membership,
    elections: Elections,
    *,
    snapshot_index: int,
    unusable: tuple[RaftId, str] | None,
    disputed: tuple[RaftId, int, int] | None,
) -> ReplicaStatus:
    """The status of a replica.  unusable, disputed: see `Snapshotting` and `Following`."""
    engine, journal, current = core.engine, core.journal, membership.current
    return ReplicaStatus(
        raft_id=core.raft_id,
        role=_role(core, membership, elections),
        term=engine.term(),
        leader=core.leader(),
        first_index=journal.first_index,
        last_index=journal.last_index,
        commit_index=engine.commit_index(),
        applied_index=engine.applied_index(),
        snapshot_index=snapshot_index,
        voters=tuple(sorted(current.voters)),
        learners=tuple(sorted(node.id for node in engine.readonly())),
        removed=tuple(sorted(current.removed)),
        connected=tuple(sorted(node.id for node in engine.connected)),
        match={node.id: progress.match_index for node, progress in core.progress.items()}
        if engine.is_leader()
        else {},
        troubles=tuple(_troubles(core, unusable, disputed)),
        changing=membership.is_changing(),
        tally=core.tally,
    )


def _role(core: Core, membership: Membership, elections: Elections) -> Role:
    engine = core.engine
    if engine.is_leader():
        return "leader"
    if not membership.is_voter():
        return "learner"
    if engine.is_candidate() or (elections.is_asking() and engine.leader() is None):
        return "candidate"
    return "follower"


def _troubles(
    core: Core, unusable: tuple[RaftId, str] | None, disputed: tuple[RaftId, int, int] | None
) -> Iterator[Trouble]:
    for node, progress in sorted(core.progress.items(), key=lambda item: item[0].id):
        if progress.refused is not None:
            yield Trouble("snapshot_refused", node.id, progress.refused.reason)
    if unusable is not None:
        yield Trouble("snapshot_unusable", *unusable)
    if disputed is not None:
        peer, term, index = disputed
        text = f"its log of term {term} differs from this node's at committed index {index}"
        yield Trouble("log_differs", peer, text)
