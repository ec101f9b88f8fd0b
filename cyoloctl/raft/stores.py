"""A member's durable state in its data directory, and how it begins.

The configuration of a cluster is what its log says and nothing else: the
founder's log begins with the entry that makes the founder a voter, a joiner's
is empty until a leader sends it that entry, or a snapshot that holds it.  A
node whose log does not name it never campaigns (rows 4 and 10), so a lost or
hand-edited configuration file cannot make a second cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from cyoloctl.errors import AlreadyExists, ConfigError, StorageError
from cyoloctl.model import NO_STAMP, RaftId
from cyoloctl.raft.batch import encode_batch
from cyoloctl.raft.journal import Journal, MemoryStore
from cyoloctl.raft.reserve import RESERVE_NAME, Reserve
from cyoloctl.raft.snapshot import SnapshotMeta, SnapshotStore
from cyoloctl.raft.sqlite_store import SqliteStore
from cyoloctl.raft.upgrade import back_up_old
from cyoloctl.raft.vendor import NO_OP, encode_membership

__all__ = [
    "JOURNAL_NAME",
    "count_start",
    "create_storage",
    "create_storage_from",
    "memory_storage",
    "open_storage",
]

JOURNAL_NAME = "raft.db"

_log = logging.getLogger("cyoloctl.raft")


def _begin(journal: Journal, founder: RaftId | None) -> None:
    journal.append(1, 0, NO_OP)
    if founder is not None:
        journal.append(2, 0, encode_membership("add", founder))
    journal.sync()


def create_storage(data_dir: Path, *, cluster_id: str, name: str, founder: bool) -> None:
    """Make the journal of a new member.

    founder: it is the first member of a new cluster.  A joiner's journal that
    is there already, and still empty, is kept: joining was interrupted.
    Raises AlreadyExists when there is another journal, StorageError.
    """
    path = data_dir / JOURNAL_NAME
    existed = path.exists()
    journal = Journal(SqliteStore(path))
    try:
        if existed and journal.entries:
            same = (journal.get_meta("cluster_id"), journal.get_meta("name")) == (cluster_id, name)
            if founder or not same or journal.last_index > 1:
                raise AlreadyExists(f"{path} exists: this directory holds a node already")
            return
        journal.set_meta("cluster_id", cluster_id)
        journal.set_meta("name", name)
        _begin(journal, RaftId(name) if founder else None)
    finally:
        journal.close()


def create_storage_from(
    data_dir: Path,
    meta: SnapshotMeta,
    state: bytes | Iterable[bytes],
    *,
    cluster_id: str,
    founder: RaftId,
    command: bytes,
) -> None:
    """Make the journal and the snapshot of a new cluster's first member, which begins with an old state.

    meta: index and term with which the old log ended; the new one goes on from
    there.  state: what the machine's snapshot was, whole or in parts.  command: applied first.
    Raises AlreadyExists, StorageError.
    """
    path = data_dir / JOURNAL_NAME
    if path.exists():
        raise AlreadyExists(f"{path} exists: this directory holds a node already")
    with closing(Journal(SqliteStore(path))) as journal:
        SnapshotStore(data_dir).save(SnapshotMeta(meta.index, meta.term, (), ()), state)
        journal.set_meta("cluster_id", cluster_id)
        journal.set_meta("name", str(founder))
        journal.set_term(meta.term, None)
        journal.reset(meta.index, meta.term)
        journal.append(meta.index + 1, meta.term, encode_membership("add", founder))
        journal.append(meta.index + 2, meta.term, encode_batch([(command, meta.index)], NO_STAMP))
        journal.sync()


def open_storage(data_dir: Path, *, cluster_id: str, name: str) -> tuple[Journal, SnapshotStore]:
    """The journal and snapshots of a member.

    Raises StorageError when the journal is missing (a node that lost its log
    must not vote again under its name) or damaged, ConfigError when it is
    another node's, VersionMismatch when a newer release wrote it, Conflict
    when another process uses it.  What release 0.1.0 wrote is backed up first.
    """
    path = data_dir / JOURNAL_NAME
    if not path.exists():
        raise StorageError(
            f"{path} is missing: a node that lost its log must not come back under its name; "
            f"on a healthy node run `cyoloctl member remove {name}`, then invite and join a new name"
        )
    backup = back_up_old(data_dir, JOURNAL_NAME)
    if backup is not None:
        _log.warning("upgraded the data of release 0.1.0", extra={"backup": str(backup)})
    reserve = Reserve(data_dir / RESERVE_NAME)
    reserve.hold()
    journal = Journal(SqliteStore(path, reserve))
    try:
        found = journal.get_meta("cluster_id"), journal.get_meta("name")
        if found != (cluster_id, name):
            raise ConfigError(
                f"{path} belongs to node {found[1]!r} of cluster {found[0]}, node.yaml says {name!r} of "
                f"{cluster_id}: use the right data directory"
            )
        return journal, SnapshotStore(data_dir)
    except BaseException:
        journal.close()
        raise


def count_start(journal: Journal) -> int:
    """One more start of this disk; returns how many there were, durably.

    Two processes that were counted alike, or one that was counted less than
    the cluster knows of its node, run on a copy.  Raises StorageError.
    """
    before = journal.get_meta("boots") or "0"
    boots = int(before) + 1 if before.isdecimal() else 1
    journal.set_meta("boots", str(boots))
    journal.sync()
    return boots


def memory_storage(*, founder: RaftId | None) -> tuple[Journal, SnapshotStore]:
    """The same in memory, gone with the process.  founder: raft id of the only voter of a new log."""
    journal = Journal(MemoryStore())
    _begin(journal, founder)
    return journal, SnapshotStore(None)
