"""What is on disk, and before what: the snapshot, its name, the journal that is cut to it, the answer.

The calls of the operating system are recorded, each with what the file held by then.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyoloctl import paths
from cyoloctl.errors import CyoloctlError, StorageError, VersionMismatch
from cyoloctl.model import Source
from cyoloctl.raft.journal import Batch
from cyoloctl.raft.snapshot import SnapshotData, SnapshotMeta, SnapshotStore
from tests.support.raft_ours import OurCluster, append, lagging
from tests.support.snapshots import whole

pytestmark = pytest.mark.fault


class Recorder:
    """Steps towards durability, in order, by this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        self.synced: dict[str, bytes] = {}
        self._fsync, self._rename = os.fsync, os.rename
        monkeypatch.setattr(os, "fsync", self._on_fsync)
        monkeypatch.setattr(os, "rename", self._on_rename)

    def _on_fsync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            self.steps.append("sync directory")
        else:
            self.steps.append(f"sync {path.name}")
            self.synced[path.name] = path.read_bytes()
        self._fsync(descriptor)

    def _on_rename(self, old: Path, new: Path) -> None:
        self.steps.append(f"rename {old.name} to {new.name}")
        assert self.synced.get(old.name) == old.read_bytes(), "not all of it is on disk"
        self._rename(old, new)


SAVED = ["sync snapshot.1.tmp", "rename snapshot.1.tmp to snapshot", "sync directory"]


def test_saved_snapshot_is_on_disk_before_its_name_and_its_name_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    store = SnapshotStore(tmp_path)
    metas: list[SnapshotMeta | None] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        metas.append(store.meta)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    assert store.save(SnapshotMeta(7, 2, ("a",), ()), b"state")
    assert recorder.steps == SAVED
    assert recorder.synced["snapshot.1.tmp"] == (tmp_path / "snapshot").read_bytes()
    assert metas == [None, None]
    assert store.meta is not None


def test_received_snapshot_is_on_disk_before_its_name_and_its_name_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SnapshotStore(None)
    source.save(SnapshotMeta(7, 2, ("a",), ()), b"state")
    transfer = source.open_transfer()
    assert transfer is not None
    recorder = Recorder(monkeypatch)
    store = SnapshotStore(tmp_path)
    receiver = store.begin_receive(transfer.meta, transfer.total, transfer.digest)
    receiver.write(0, transfer.read(0, transfer.total))
    assert recorder.steps == []

    def read(data: SnapshotData) -> None:
        recorder.steps.append(f"read {whole(data).decode()}")
        assert store.meta is None

    receiver.verify(read)
    assert recorder.steps == ["read state", *SAVED[:1]]
    assert receiver.install()
    assert recorder.steps == ["read state", *SAVED]


def _recorded(monkeypatch: pytest.MonkeyPatch, cluster: OurCluster, name: str) -> Recorder:
    """Steps of one node, those of its journal and its state machine among them."""
    recorder = Recorder(monkeypatch)
    store, machine = cluster.machines[name].disk.store, cluster.machines[name].engine.machine
    commit: Callable[[Batch], None] = store.commit
    prepare: Callable[[Source], Callable[[], None]] = machine.prepare_restore

    def recorded_commit(batch: Batch) -> None:
        if batch.drop_before is not None or batch.cut_from is not None:
            recorder.steps.append("cut journal")
        commit(batch)

    def recorded_prepare(source: Source) -> Callable[[], None]:
        restore = prepare(source)

        def recorded_restore() -> None:
            recorder.steps.append("restore")
            restore()

        recorder.steps.append("read")
        return recorded_restore

    store.commit, machine.prepare_restore = recorded_commit, recorded_prepare
    return recorder


def test_journal_is_cut_only_to_a_snapshot_that_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = OurCluster("a", directory=tmp_path)
    cluster.elect("a")
    cluster.write("a", b"x1", b"x2")
    recorder = _recorded(monkeypatch, cluster, "a")
    cluster.compact("a")
    assert recorder.steps == [*SAVED, "cut journal"]


def test_snapshot_that_is_not_saved_yet_cuts_nothing(tmp_path: Path) -> None:
    cluster = OurCluster("a", directory=tmp_path)
    cluster.elect("a")
    cluster.write("a", b"x1", b"x2")
    cluster.held_saves["a"] = []
    before = cluster.log("a")
    cluster.compact("a")
    cluster.run(1.0)
    assert cluster.log("a") == before
    for job in cluster.held_saves.pop("a"):
        job()
    cluster.tick("a")
    assert len(cluster.log("a")) == 1


def test_received_snapshot_is_restored_then_on_disk_then_the_journal_is_cut_then_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = lagging(tmp_path)
    cluster.cut("b", "c")
    recorder = _recorded(monkeypatch, cluster, "c")
    post = cluster.post

    def recorded_post(source: str, target: str, message: Any) -> bool:
        if source == "c" and message["type"] == "append_response" and message["success"]:
            recorder.steps.append("acknowledge")
        return post(source, target, message)

    monkeypatch.setattr(cluster, "post", recorded_post)
    cluster.heal(("a", "c"))
    assert cluster.run_until(lambda: len(cluster.state("c")) == 11, within=2.0)
    cluster.run(0.1)
    assert recorder.steps[:7] == ["read", *SAVED, "restore", "cut journal", "acknowledge"]


@pytest.mark.parametrize("error", [StorageError("it is damaged"), VersionMismatch("it is newer")])
def test_received_snapshot_that_cannot_be_restored_takes_no_place_on_disk(
    tmp_path: Path, error: CyoloctlError
) -> None:
    cluster = lagging(tmp_path)
    before = cluster.log("c")

    def refuse(source: Source) -> Callable[[], None]:
        raise error

    cluster.machines["c"].engine.machine.prepare_restore = refuse
    cluster.heal()
    assert cluster.run_until(lambda: cluster.replica("c").status().troubles != (), within=2.0)
    assert os.listdir(tmp_path / "c") == []
    assert cluster.log("c") == before
    cluster.restart("c")
    assert cluster.errors("c") == []


def test_start_cuts_the_journal_where_the_entry_of_the_snapshot_has_another_term(tmp_path: Path) -> None:
    """The process ended between the received snapshot and the cut: its tail is of another leader."""
    cluster = OurCluster("abc", directory=tmp_path)
    tail = [(b"\x01", 2, 1), (b"\x00mine3", 3, 1), (b"\x00mine4", 4, 1), (b"\x00mine5", 5, 1)]
    cluster.inject("b", "a", append(1, (1, 0), *tail))
    cluster.tick("b")
    cluster.crash("b")
    SnapshotStore(tmp_path / "b").save(SnapshotMeta(4, 2, ("a", "b", "c"), ()), b"")
    cluster.start("b")
    assert [(index, term) for _, index, term in cluster.log("b")] == [(4, 2)]
    assert cluster.commit_index("b") == 4
    cluster.restart("b")
    assert [(index, term) for _, index, term in cluster.log("b")] == [(4, 2)]


def test_start_keeps_what_follows_the_entry_of_the_snapshot(tmp_path: Path) -> None:
    """It was acknowledged: the snapshot is of this node's own log."""
    cluster = OurCluster("abc", directory=tmp_path)
    tail = [(b"\x01", 2, 1), (b"\x00mine3", 3, 1), (b"\x00mine4", 4, 2), (b"\x00mine5", 5, 2)]
    cluster.inject("b", "a", append(2, (1, 0), *tail))
    cluster.tick("b")
    cluster.crash("b")
    SnapshotStore(tmp_path / "b").save(SnapshotMeta(4, 2, ("a", "b", "c"), ()), b"")
    cluster.start("b")
    assert cluster.log("b")[-1][1:] == (5, 2)


def test_large_snapshot_is_synced_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once it would be in front of the journal's next sync, which every write waits for."""
    monkeypatch.setattr(paths, "SYNCED_BYTES", 100)
    recorder = Recorder(monkeypatch)
    SnapshotStore(tmp_path).save(SnapshotMeta(7, 2, ("a",), ()), (bytes(50) for _ in range(4)))
    assert recorder.steps == ["sync snapshot.1.tmp", "sync snapshot.1.tmp", *SAVED]
