"""Going on from one disk when the majority of the voters is lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from cyoloctl.caller import offline_origin
from cyoloctl.errors import ConfigError, Conflict, InvalidInput, StorageError
from cyoloctl.model import NodeName, RaftId, name_of
from cyoloctl.node.config import CONFIG_NAME, Config, load_config
from cyoloctl.node.inspection import inspect_node
from cyoloctl.node.level_file import refuse_higher_level
from cyoloctl.paths import file_error, sync_directory
from cyoloctl.pki.files import CA_KEY, PKI_DIRECTORY
from cyoloctl.raft import Journal, Replayed, SnapshotStore, become_sole_voter, open_storage, replay
from cyoloctl.replicated.command import encode_command
from cyoloctl.state import ClusterState

__all__ = ["Recovered", "compare", "go_on_alone", "recover"]

_MAX_BYTES = 4 * 2**20


def _recoverable(data_dir: Path) -> Config:
    config = load_config(data_dir / CONFIG_NAME)
    if config.storage != "disk":
        raise ConfigError(
            f"node {config.name} keeps its state in memory, so nothing is left to recover from: if every "
            "member is gone, begin a new cluster (`cyoloctl cluster init`)"
        )
    return config


def recover(data_dir: Path, *, dry_run: bool) -> dict[str, Any]:
    """Make the node of this directory the whole cluster, in a new epoch of its history; offline.

    dry_run: only tell what it would do.  The journal is copied to
    ``DIR/backup-before-epoch-N`` first.  Repeated: does nothing more.

    Raises Conflict for a running or removed node, ConfigError, StorageError,
    VersionMismatch.
    """
    config = _recoverable(data_dir)
    refuse_higher_level(data_dir)
    journal, snapshots = open_storage(data_dir, cluster_id=config.cluster_id, name=config.name)
    backup: Path | None = None

    def back_up(epoch: int) -> None:
        nonlocal backup
        backup = data_dir / f"backup-before-epoch-{epoch}"
        _back_up(data_dir, backup)

    with closing(journal):
        done = go_on_alone(
            journal,
            snapshots,
            name=config.name,
            cluster_id=config.cluster_id,
            before=None if dry_run else back_up,
        )
    found, lost = done.found, done.lost
    return {
        "schema_version": 1,
        "name": config.name,
        "cluster": {"name": config.cluster, "id": config.cluster_id},
        "changed": done.changed,
        "dry_run": dry_run,
        "epoch": done.epoch,
        "left_behind": lost,
        "last_index": found.last_index,
        "last_term": found.last_term,
        # What follows it may or may not have been acknowledged to whoever wrote it; it counts from now on.
        "certain_index": min(found.certain_index, found.last_index),
        "has_ca_key": (data_dir / PKI_DIRECTORY / CA_KEY).exists(),
        "backup": None if backup is None else str(backup),
    }


class Recovered(NamedTuple):
    """What a recovery did, or would do: the log as it was, who is left behind, and the epoch after it."""

    found: Replayed
    lost: list[str]
    epoch: int
    changed: bool


def go_on_alone(
    journal: Journal,
    snapshots: SnapshotStore,
    *,
    name: NodeName,
    cluster_id: str,
    before: Callable[[int], None] | None,
) -> Recovered:
    """Make the node of this journal the whole cluster, in a new epoch.

    before: called with that epoch before the journal is changed; None: only tell.
    Raises Conflict for a node from which no cluster can go on.
    """
    state, me = ClusterState(), RaftId(name)
    found = replay(journal, snapshots, state)
    others = found.configuration.voters - {me}
    members = {member.name: member.raft_id for member in state.members.members()}
    without = others | {raft_id for other, raft_id in members.items() if other != name}
    lost = sorted({name_of(raft_id) for raft_id in without})
    changed = bool(without)
    epoch = state.history.epoch + changed
    _refuse_unfit(state, name)
    if changed and before is not None:
        before(epoch)
        given = {
            "kind": "recovered",
            "epoch": state.history.epoch,
            "by": name,
            "lost": lost,
            "cluster_id": cluster_id,
        }
        command = encode_command(
            "history",
            "replace",
            given,
            request_id=os.urandom(16).hex(),
            kind="node",
            origin=offline_origin(os.getuid(), name),
        )
        become_sole_voter(journal, found, me, without=without, command=command)
    return Recovered(found, lost, epoch, changed)


def _refuse_unfit(state: ClusterState, name: str) -> None:
    """Raises Conflict for a node from which no cluster can go on."""
    if state.members.is_removed(name):
        raise Conflict(f"{name} was removed from the cluster: use another disk")
    if state.members.is_witness(name):
        raise Conflict(
            f"{name} is a witness: it holds neither the token keys nor the key of the CA, so no cluster can "
            "go on from it alone; recover the disk of another voter, or start it, save its state "
            "(`cyoloctl snapshot save FILE --stale`) and begin a new cluster with that "
            "(`cyoloctl cluster init --from-snapshot FILE`)"
        )


def _back_up(data_dir: Path, backup: Path) -> None:
    """Copy the state as it was.  An interrupted recovery's copy gives way: the node may have run since."""
    unfinished = backup.with_name(backup.name + ".tmp")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        for name in ("raft.db", "raft.db-wal", "snapshot", CONFIG_NAME):
            if (data_dir / name).exists():
                with open(data_dir / name, "rb") as source:
                    descriptor = os.open(unfinished / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                    with open(descriptor, "wb") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
                        target.flush()
                        os.fsync(target.fileno())
        shutil.rmtree(backup, ignore_errors=True)
        os.rename(unfinished, backup)
        sync_directory(backup.parent)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise StorageError(
            f"the journal cannot be copied to {backup}: {error.strerror}; make room"
        ) from error


def compare(data_dir: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Which of several surviving disks has got furthest: this one, or one that a file describes.

    files: what ``cyoloctl node inspect -o json`` printed about the others.
    The furthest one is that whose last entry is of the highest term, and then
    has the highest index: every write that was acknowledged by a majority
    which that disk belonged to is on it.

    Raises InvalidInput for other files, Conflict for another cluster's,
    ConfigError, StorageError.
    """
    described = [_described(path) for path in files]
    config = _recoverable(data_dir)
    disks = [inspect_node(data_dir), *described]
    for found, path in zip(disks[1:], files, strict=True):
        if found["cluster"]["id"] != config.cluster_id:
            raise Conflict(f"{path} is of another cluster ({found['cluster']['id']}): leave it out")
    rows = [
        {
            "name": d["name"],
            "last_term": d["last_term"],
            "last_index": d["last_index"],
            "problem": d["problem"],
        }
        for d in disks
    ]
    names = [row["name"] for row in rows]
    if len(set(names)) != len(names):
        raise InvalidInput("two of the disks have the same name: describe every disk once")
    whole = [row for row in rows if row["problem"] is None and type(row["last_index"]) is int]
    if not whole:
        raise StorageError("none of these disks is whole: the state is lost, begin a new cluster")
    best = max(whole, key=lambda row: (row["last_term"], row["last_index"], row["name"] == config.name))
    return {"best": best["name"], "disks": rows}


def _described(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_BYTES)
    except OSError as error:
        raise file_error(path, error, "read") from None
    wrong = InvalidInput(
        f"{path} does not describe a disk: write it with `cyoloctl node inspect -o json -d DIR` there"
    )
    try:
        found = json.loads(raw)
        numbers = found["last_term"], found["last_index"]
        texts = found["name"], found["cluster"]["id"], found["problem"] or ""
    except (ValueError, TypeError, KeyError, RecursionError):
        raise wrong from None
    if not all(type(n) is int and n >= 0 for n in numbers) or not all(type(t) is str for t in texts):
        raise wrong
    return dict(found)
