"""What a start makes of journal and snapshot: state, configuration and log that fit each other."""

from __future__ import annotations

from cyoloctl.errors import StorageError
from cyoloctl.raft.journal import Journal
from cyoloctl.raft.machine import StateMachine
from cyoloctl.raft.membership import Membership
from cyoloctl.raft.snapshot import SnapshotStore
from cyoloctl.raft.vendor import NO_OP

__all__ = ["restore"]


def restore(journal: Journal, snapshots: SnapshotStore, machine: StateMachine, membership: Membership) -> int:
    """Restore from snapshot and journal; returns the index that the state has reached.

    Raises StorageError when they do not fit each other (rows 5, 12, 13, 18)
    and VersionMismatch when a newer release wrote them.
    """
    with snapshots.load() as loaded:
        if not journal.entries:
            if loaded is not None:
                raise StorageError(
                    "the journal is empty but a snapshot exists: the journal was lost; "
                    "remove this member on a healthy node and join again under a new name"
                )
            journal.append(1, 0, NO_OP)
            journal.sync()
        if loaded is None:
            if journal.first_index != 1:
                raise StorageError(
                    f"the journal begins at index {journal.first_index} but its snapshot is missing: "
                    "remove this member on a healthy node and join again under a new name"
                )
            applied = 1
        else:
            meta, data = loaded
            if meta.index < journal.first_index:
                raise StorageError(
                    f"the snapshot ends at index {meta.index}, the journal begins at "
                    f"{journal.first_index}: remove this member on a healthy node and join again "
                    "under a new name"
                )
            machine.prepare_restore(data)()
            entry = journal.entry(meta.index)
            if entry is None or entry[2] != meta.term:
                journal.reset(meta.index, meta.term)  # row 5: stopped between snapshot and cut
            membership.rebase(meta)
            applied = meta.index
    if journal.commit_index > journal.last_index:
        journal.set_commit_index(journal.last_index)  # row 18
    return applied
