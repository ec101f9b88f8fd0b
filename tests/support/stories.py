"""Pieces of the stories about a replica's lines of defence (tests/engine/test_defences_*.py)."""

from __future__ import annotations

from typing import Any

from cyoloctl.model import Stamp
from cyoloctl.raft.batch import encode_batch
from cyoloctl.raft.journal import Journal, MemoryStore
from cyoloctl.raft.settings import Limits
from cyoloctl.raft.snapshot import SnapshotMeta, SnapshotStore
from tests.support.raft_ours import OurCluster, append

__all__ = [
    "LATE",
    "LOG",
    "NO_OP",
    "entry",
    "follower_with_log",
    "hear",
    "leader_and_slow_peer",
    "leader_with_learner",
    "said",
    "start_with",
]

NO_OP = b"\x01"


def entry(command: bytes) -> bytes:
    """The log entry of one command."""
    return encode_batch([(command, 2)], Stamp(0, 0, 0))


def hear(cluster: OurCluster, target: str, source: str, *messages: Any) -> None:
    """`target` gets these as if `source` had sent them, and ticks after each."""
    for message in messages:
        cluster.inject(target, source, message)
        cluster.tick(target)


def said(cluster: OurCluster, mark: int, source: str, kind: str, target: str | None = None) -> list[Any]:
    return [
        envelope.message
        for envelope in cluster.sent[mark:]
        if envelope.source == source
        and envelope.message["type"] == kind
        and target in (None, envelope.target)
    ]


def start_with(
    entries: list[tuple[bytes, int, int]], snapshot: tuple[int, int] | None, commit: int = 1
) -> OurCluster:
    """`a` starts with this log, and a snapshot that ends at this index and term."""
    cluster = OurCluster("abc")
    cluster.crash("a")
    disk = cluster.machines["a"].disk
    disk.store, disk.snapshots = MemoryStore(), SnapshotStore(None)
    journal = Journal(disk.store)
    for command, index, term in entries:
        journal.append(index, term, command)
    if entries:
        journal.set_term(entries[-1][2], None)
        journal.set_commit_index(commit)
    journal.close()
    if snapshot is not None:
        state = len(b"of the snapshot").to_bytes(4, "big") + b"of the snapshot"
        disk.snapshots.save(SnapshotMeta(*snapshot, tuple("abcd"), ("x",)), state)
    cluster.start("a")
    return cluster


LOG = [(NO_OP, 1, 0), (NO_OP, 2, 1), (entry(b"x1"), 3, 1), (entry(b"x2"), 4, 1)]


def follower_with_log(commit: int) -> OurCluster:
    """`b` holds `LOG`, of term 1, committed up to this index; `c` will lead term 2."""
    cluster = OurCluster("abc")
    hear(cluster, "b", "a", append(1, (1, 0), *LOG[1:], commit=commit))
    assert cluster.log("b") == LOG
    assert cluster.commit_index("b") == commit
    return cluster


LATE = Stamp(0, 1_780_000_000_000 + 3_600_000, 7_200_000)


def leader_and_slow_peer(**limits: int) -> OurCluster:
    """`a` leads; from now on nothing that it sends to `c` arrives."""
    cluster = OurCluster("abc", limits=Limits(keep_entries=1000, **limits))
    cluster.elect("a")
    cluster.write("a", b"first")
    cluster.run(0.3)
    cluster.hold("a", "c")
    return cluster


def leader_with_learner(**limits: int) -> OurCluster:
    cluster = OurCluster("abc", limits=Limits(**limits))
    cluster.elect("a")
    cluster.start_joiner("l", "abc")
    cluster.run(0.3)
    return cluster
