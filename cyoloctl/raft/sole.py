"""One stopped node's log, made to go on without the other voters: the last resort when they are lost.

No vote and no majority stands behind it, so whoever uses it must know that
the others never come back as what they were.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cyoloctl.errors import Conflict, InternalError
from cyoloctl.model import NO_STAMP, RaftId
from cyoloctl.raft.applying import apply_commands
from cyoloctl.raft.batch import encode_batch
from cyoloctl.raft.journal import Journal
from cyoloctl.raft.machine import StateMachine
from cyoloctl.raft.membership import Configuration
from cyoloctl.raft.snapshot import SnapshotStore
from cyoloctl.raft.vendor import decode_membership, encode_membership

__all__ = ["Replayed", "become_sole_voter", "replay"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """Everything that a log says, its last entries too, which may not be committed.

    certain_index: up to here it was committed for certain.
    """

    configuration: Configuration
    certain_index: int
    last_index: int
    last_term: int


def replay(journal: Journal, snapshots: SnapshotStore, machine: StateMachine) -> Replayed:
    """Bring a fresh machine to the end of the log.  Changes no file.

    Raises StorageError and VersionMismatch for what this release cannot read,
    InternalError for an empty log.
    """
    if not journal.entries:
        raise InternalError("the log is empty: this node was never part of a cluster")
    configuration, applied, applied_term = Configuration(frozenset(), frozenset()), 1, 0
    with snapshots.load() as loaded:
        if loaded is not None:
            meta, data = loaded
            machine.prepare_restore(data)()
            configuration = Configuration(frozenset(meta.voters), frozenset(meta.removed))
            applied, applied_term = meta.index, meta.term
    for command, index, _ in journal.entries:
        if index > applied:
            change = decode_membership(command)
            if change is not None:
                configuration = configuration.after(change)
            else:
                apply_commands(machine, index, command)
    last = max(applied, journal.last_index)
    term = applied_term if journal.last_index < applied else journal.last_term
    return Replayed(configuration, max(applied, journal.commit_index), last, term)


def become_sole_voter(
    journal: Journal, replayed: Replayed, raft_id: RaftId, *, without: Collection[RaftId], command: bytes
) -> None:
    """Append what makes raft_id the only voter, and a command; durable on return.

    without: every other member, voter or not.  The entries are of a new term,
    and are committed when the node starts, as are those before them.  They move no
    clock: time goes on from where it stood.

    Raises Conflict for a node that was removed, StorageError.
    """
    if raft_id in replayed.configuration.removed:
        raise Conflict(f"{raft_id} was removed from the cluster: use another disk")
    if journal.last_index < replayed.last_index:
        journal.reset(replayed.last_index, replayed.last_term)  # stopped between snapshot and cut
    term = max(journal.term, replayed.last_term) + 1
    index = journal.last_index
    changes = [] if raft_id in replayed.configuration.voters else [encode_membership("add", raft_id)]
    changes += [encode_membership("remove", other) for other in sorted(without)]
    for entry in (*changes, encode_batch([(command, index)], NO_STAMP)):
        index += 1
        journal.append(index, term, entry)
    journal.set_term(term, raft_id)
    journal.sync()
