"""Replication: pysyncobj inside an adapter that closes its holes.  See DESIGN.md here.

What the rest of cyoloctl may use is listed below; pysyncobj never leaves this
package.
"""

from cyoloctl.raft._clock import ClusterClock, is_a_time
from cyoloctl.raft._engine import Engine, Register
from cyoloctl.raft._journal import Journal, MemoryStore, SqliteStore
from cyoloctl.raft._replica import Limits, ReplicaStatus, StateMachine, Timing, Trouble
from cyoloctl.raft._sessions import COPY, OLDER, REMOVED, Refusal
from cyoloctl.raft._snapshot import SnapshotStore
from cyoloctl.raft._storage import count_start, create_storage, memory_storage, open_storage
from cyoloctl.raft._transport import PeerIdentity, PeerInfo

__all__ = [
    "COPY",
    "OLDER",
    "REMOVED",
    "ClusterClock",
    "Engine",
    "Journal",
    "Limits",
    "MemoryStore",
    "PeerIdentity",
    "PeerInfo",
    "Refusal",
    "Register",
    "ReplicaStatus",
    "SnapshotStore",
    "SqliteStore",
    "StateMachine",
    "Timing",
    "Trouble",
    "count_start",
    "create_storage",
    "is_a_time",
    "memory_storage",
    "open_storage",
]
