"""Replication: pysyncobj inside an adapter that closes its holes.  See DESIGN.md here.

What the rest of cyoloctl may use is listed below; pysyncobj never leaves this
package.
"""

from cyoloctl.raft.absences import CERTIFICATE
from cyoloctl.raft.clock import MEASURED_S, ClusterClock, is_a_time
from cyoloctl.raft.engine import Engine
from cyoloctl.raft.inspection import JournalCopy, LogEntry, copy_journal, inspect_journal
from cyoloctl.raft.journal import Journal, MemoryStore
from cyoloctl.raft.machine import StateMachine
from cyoloctl.raft.peers import COPY, DISK_FAILED, LEFT_BEHIND, NO_MEMORY, OLDER, REMOVED, TOO_OLD, Refusal
from cyoloctl.raft.proposed import Proposed
from cyoloctl.raft.settings import Limits, Timing
from cyoloctl.raft.snapshot import SnapshotMeta, SnapshotStore
from cyoloctl.raft.sole import Replayed, become_sole_voter, replay
from cyoloctl.raft.sqlite_store import SqliteStore
from cyoloctl.raft.status import ReplicaStatus, Trouble
from cyoloctl.raft.stores import (
    count_start,
    create_storage,
    create_storage_from,
    memory_storage,
    open_storage,
)
from cyoloctl.raft.transport import PeerIdentity, PeerInfo
from cyoloctl.raft.verdicts import MembershipView

__all__ = [
    "CERTIFICATE",
    "COPY",
    "DISK_FAILED",
    "LEFT_BEHIND",
    "MEASURED_S",
    "NO_MEMORY",
    "OLDER",
    "REMOVED",
    "TOO_OLD",
    "ClusterClock",
    "Engine",
    "Journal",
    "JournalCopy",
    "Limits",
    "LogEntry",
    "MembershipView",
    "MemoryStore",
    "PeerIdentity",
    "PeerInfo",
    "Proposed",
    "Refusal",
    "Replayed",
    "ReplicaStatus",
    "SnapshotMeta",
    "SnapshotStore",
    "SqliteStore",
    "StateMachine",
    "Timing",
    "Trouble",
    "become_sole_voter",
    "copy_journal",
    "count_start",
    "create_storage",
    "create_storage_from",
    "inspect_journal",
    "is_a_time",
    "memory_storage",
    "open_storage",
    "replay",
]
