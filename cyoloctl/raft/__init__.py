"""Replication: pysyncobj inside an adapter that closes its holes.  See DESIGN.md here.

What the rest of cyoloctl may use is listed below; pysyncobj never leaves this
package.
"""

from cyoloctl.raft._engine import Engine
from cyoloctl.raft._journal import Journal, MemoryStore, SqliteStore
from cyoloctl.raft._replica import Limits, ReplicaStatus, StateMachine, Timing
from cyoloctl.raft._snapshot import SnapshotStore
from cyoloctl.raft._storage import create_storage, memory_storage, open_storage
from cyoloctl.raft._transport import PeerIdentity, PeerInfo

__all__ = [
    "Engine",
    "Journal",
    "Limits",
    "MemoryStore",
    "PeerIdentity",
    "PeerInfo",
    "ReplicaStatus",
    "SnapshotStore",
    "SqliteStore",
    "StateMachine",
    "Timing",
    "create_storage",
    "memory_storage",
    "open_storage",
]
