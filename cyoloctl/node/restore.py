"""A new cluster that begins with the state of a snapshot file, and what such a file holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cyoloctl.caller import offline_origin
from cyoloctl.errors import InvalidInput, StorageError
from cyoloctl.keys import ring_file
from cyoloctl.keys.operations import RESTORED_KEYS
from cyoloctl.locks.machine import MAX_LOCKS
from cyoloctl.model import RaftId
from cyoloctl.node.config import Config
from cyoloctl.paths import file_error, write_private
from cyoloctl.pki.files import PKI_DIRECTORY, NodeFiles
from cyoloctl.raft import SnapshotMeta, create_storage_from
from cyoloctl.replicated.command import encode_command
from cyoloctl.snapshots.file import Saved, open_snapshot_file
from cyoloctl.state import ClusterState
from cyoloctl.text import rfc3339

__all__ = ["init_from_snapshot", "inspect_snapshot"]


def _state_of(path: Path, saved: Saved) -> ClusterState:
    state = ClusterState()
    try:
        state.restore(saved.state())
    except OSError as error:
        raise file_error(path, error, "read") from None
    except StorageError as error:
        raise StorageError(f"{path} is damaged: {_cause(error)}; use another copy of it") from None
    return state


def inspect_snapshot(path: Path) -> dict[str, Any]:
    """What a snapshot file holds, as JSON; verified, offline.

    Raises InvalidInput, StorageError, VersionMismatch.
    """
    with open_snapshot_file(path) as saved:
        state, head = _state_of(path, saved), saved.head
    keys = [record for record in state.keys.records() if record.state != "destroyed"]
    return {
        "schema_version": 1,
        "file": str(path),
        "cluster": {"name": head.cluster, "id": head.cluster_id},
        "epoch": head.epoch,
        "index": head.index,
        "term": head.term,
        "taken_at": rfc3339(head.time_unix_ms / 1000),
        "node": head.node,
        "release": head.release,
        "state_bytes": head.state_bytes,
        "sha256": saved.sha256,
        "key_ring": head.keys or None,
        "members": [member.name for member in state.members.members()],
        "counters": sum(1 for _ in state.counters.list(None, 2**31)),
        "keys": len(keys),
        "rendezvous": len(state.rendezvous.live(head.time_unix_ms)),
        "kv": {"keys": len(state.kv), "bytes": state.kv.size, "revision": state.kv.revision},
        "locks": len(state.locks.list(None, MAX_LOCKS, head.time_unix_ms)),
        "machines": sorted(state.machines.in_force()),
        "digest": state.digest(),
    }


def _cause(error: StorageError) -> str:
    return error.message.partition(";")[0]


def init_from_snapshot(
    path: Path,
    passphrase: str | None,
    data_dir: Path,
    make: Callable[[Callable[[Config, NodeFiles], None]], dict[str, Any]],
) -> dict[str, Any]:
    """A new cluster with an old state: another id, another CA, a new epoch, none of the old members.

    passphrase: of the key ring in the file; None: its keys stay behind, and
    its sessions end.  make: `create.init_cluster` in data_dir, but for what makes the state.

    Raises as it does, and as `inspect_snapshot`; AccessDenied for a wrong
    passphrase.
    """
    with open_snapshot_file(path) as saved:
        return _begun(path, saved, passphrase, data_dir, make)


def _begun(
    path: Path,
    saved: Saved,
    passphrase: str | None,
    data_dir: Path,
    make: Callable[[Callable[[Config, NodeFiles], None]], dict[str, Any]],
) -> dict[str, Any]:
    """As `init_from_snapshot`, of a file that was verified."""
    state, head = _state_of(path, saved), saved.head
    if passphrase is not None and head.keys != "passphrase":
        held = "a key ring for one node" if head.keys else "no key ring"
        raise InvalidInput(f"{path} holds {held}: leave --passphrase-file out")
    ring = None if passphrase is None else ring_file.import_ring(saved.key_ring(), passphrase=passphrase)

    def found(config: Config, files: NodeFiles) -> None:
        command = encode_command(
            "history",
            "replace",
            {
                "kind": "restored",
                "epoch": state.history.epoch,
                "by": config.name,
                "lost": [],
                "cluster_id": head.cluster_id,
            },
            request_id=os.urandom(16).hex(),
            kind="node",
            origin=offline_origin(os.getuid(), config.name),
        )
        create_storage_from(
            data_dir,
            SnapshotMeta(head.index, head.term, (), ()),
            saved.parts(),
            cluster_id=config.cluster_id,
            founder=RaftId(config.name),
            command=command,
        )
        if ring is not None:
            kept = ring_file.keep_ring(ring, sealing_key=files.sealing_key)
            write_private(data_dir / PKI_DIRECTORY / RESTORED_KEYS, kept.encode("ascii"), exclusive=True)

    made = make(found)
    return {
        **made,
        "epoch": state.history.epoch + 1,
        "index": head.index,
        "keys": 0 if ring is None else len(ring.keys),
        "from": {"name": head.cluster, "id": head.cluster_id, "taken_at": rfc3339(head.time_unix_ms / 1000)},
    }
