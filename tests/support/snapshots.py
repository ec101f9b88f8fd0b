"""Snapshots in tests: small enough to be held whole."""

from __future__ import annotations

from cyoloctl.raft.snapshot import Receiver, SnapshotData, SnapshotMeta, SnapshotStore

__all__ = ["finish", "loaded", "whole"]


def whole(data: SnapshotData) -> bytes:
    """All of the data."""
    parts = []
    while part := data.read(2**20):
        parts.append(part)
    return b"".join(parts)


def loaded(store: SnapshotStore) -> tuple[SnapshotMeta, bytes] | None:
    """What a store holds."""
    with store.load() as found:
        return None if found is None else (found[0], whole(found[1]))


def finish(receiver: Receiver) -> bool:
    """Verify what came, and make it the snapshot."""
    receiver.verify(whole)
    return receiver.install()
