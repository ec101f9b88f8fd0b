"""No descriptor, memory or space for a snapshot: the log is whole, so the node lives and tries again."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import InternalError, StorageError
from cyoloctl.raft import snapshot
from cyoloctl.raft.settings import Limits
from cyoloctl.raft.snapshot import SnapshotMeta, SnapshotStore
from tests.support.raft_ours import ListMachine, OurCluster
from tests.support.snapshots import loaded

pytestmark = pytest.mark.fault

LIMITS = Limits(compact_entries=8, keep_entries=0, chunk_bytes=64)


class Scarcity:
    """An operation fails while `error` is set; counts the attempts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.error: BaseException | None = None
        self.attempts = 0
        original: Callable[..., Any] = getattr(owner, name)

        def call(*arguments: Any) -> Any:
            if self.error is not None:
                self.attempts += 1
                raise self.error
            return original(*arguments)

        monkeypatch.setattr(owner, name, call)


def _lack(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _write(cluster: OurCluster, count: int) -> None:
    for _ in range(count):
        (outcome,) = cluster.write("a", b"w%d" % len(cluster.state("a")))
        assert outcome.ok


def _compacted(cluster: OurCluster, name: str) -> int:
    return cluster.replica(name).status().snapshot_index


@pytest.mark.parametrize(
    "error",
    [_lack(errno.EMFILE), _lack(errno.ENFILE), _lack(errno.ENOMEM), _lack(errno.ENOSPC), MemoryError()],
    ids=repr,
)
def test_snapshot_that_lacks_descriptors_or_memory_is_saved_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    caplog.set_level(logging.INFO, "cyoloctl")
    scarcity = Scarcity(monkeypatch, snapshot._Directory, "create")
    cluster = OurCluster("abc", directory=tmp_path, limits=LIMITS)
    cluster.elect("a")
    scarcity.error = error
    for _ in range(10):
        _write(cluster, 4)
        cluster.run(1.0)
    assert cluster.running() == ["a", "b", "c"]
    assert _compacted(cluster, "a") == 1
    # Each of three nodes tries again with longer and longer pauses, and tells it once.
    assert 6 <= scarcity.attempts <= 24
    told = [r for r in caplog.records if r.msg == "the snapshot cannot be saved now, it is tried again"]
    assert len(told) == 3
    scarcity.error = None
    cluster.run(60.0)
    _write(cluster, 1)
    cluster.run(1.0)
    assert all(_compacted(cluster, name) > 30 for name in "abc")
    assert cluster.replica("a").status().first_index > 30
    cluster.crash("a")
    cluster.restart("a")
    cluster.run(3.0)
    assert cluster.diverged() == []


def test_snapshot_is_saved_within_a_minute_however_long_it_could_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scarcity = Scarcity(monkeypatch, snapshot._Directory, "create")
    cluster = OurCluster("a", directory=tmp_path, limits=LIMITS)
    cluster.elect("a")
    scarcity.error = _lack(errno.ENFILE)
    _write(cluster, 20)
    for _ in range(30):
        cluster.advance(1000.0)
        cluster.tick("a")
    assert _compacted(cluster, "a") == 1
    scarcity.error = None
    cluster.advance(61.0)
    cluster.tick("a")
    cluster.tick("a")
    assert _compacted(cluster, "a") > 15


def test_snapshot_of_a_state_that_memory_is_lacking_for_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scarcity = Scarcity(monkeypatch, ListMachine, "begin_snapshot")
    cluster = OurCluster("abc", directory=tmp_path, limits=LIMITS)
    cluster.elect("a")
    scarcity.error = MemoryError()
    _write(cluster, 20)
    assert cluster.running() == ["a", "b", "c"]
    assert [cluster.errors(name) for name in "abc"] == [[], [], []]
    scarcity.error = None
    cluster.run(60.0)
    _write(cluster, 1)
    cluster.run(1.0)
    assert _compacted(cluster, "a") > 15


def test_snapshot_for_which_no_thread_can_be_started_is_saved_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scarcity = Scarcity(monkeypatch, OurCluster, "_run_in_background")
    cluster = OurCluster("abc", directory=tmp_path, limits=LIMITS)
    cluster.elect("a")
    scarcity.error = RuntimeError("can't start new thread")
    _write(cluster, 20)
    assert cluster.running() == ["a", "b", "c"]
    scarcity.error = None
    cluster.run(60.0)
    _write(cluster, 1)
    cluster.run(1.0)
    assert _compacted(cluster, "a") > 15


@pytest.mark.parametrize("operation", ["open", "create"])
def test_snapshot_that_cannot_be_opened_for_a_follower_or_by_it_is_sent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    cluster = OurCluster("abc", directory=tmp_path, limits=LIMITS)
    cluster.elect("a")
    cluster.isolate("c")
    _write(cluster, 20)
    scarcity = Scarcity(monkeypatch, snapshot._Directory, operation)
    scarcity.error = _lack(errno.EMFILE)
    cluster.heal(("a", "c"), ("b", "c"))
    cluster.run(5.0)
    assert cluster.running() == ["a", "b", "c"]
    assert scarcity.attempts > 0
    assert cluster.state("c") != cluster.state("a")
    scarcity.error = None
    assert cluster.run_until(lambda: cluster.state("c") == cluster.state("a"), within=10.0)


def test_snapshot_on_a_failing_disk_ends_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scarcity = Scarcity(monkeypatch, snapshot._Directory, "create")
    cluster = OurCluster("abc", directory=tmp_path, limits=LIMITS)
    cluster.elect("a")
    scarcity.error = _lack(errno.EIO)
    for n in range(20):
        if "a" in cluster.running():
            cluster.propose("a", b"w%d" % n)
        cluster.run(0.2)
    assert "a" not in cluster.running()
    assert "check the disk" in str(cluster.errors("a")[0])


def test_saving_a_snapshot_needs_no_descriptor_between_rename_and_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SnapshotStore(tmp_path)
    assert store.save(SnapshotMeta(5, 1, ("a",), ()), b"one")
    real = os.open
    used: list[str] = []

    def last_one(path: Any, flags: int, *more: Any) -> int:
        used.append(str(path))
        if len(used) > 1:
            raise _lack(errno.EMFILE)
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", last_one)
    assert store.save(SnapshotMeta(9, 1, ("a",), ()), b"two")
    monkeypatch.undo()
    found = loaded(store)
    assert found is not None
    assert found[1] == b"two"


def test_store_that_lacks_descriptors_at_the_start_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SnapshotStore(tmp_path).save(SnapshotMeta(5, 1, ("a",), ()), b"one")
    scarcity = Scarcity(monkeypatch, snapshot._Directory, "open")
    scarcity.error = _lack(errno.EMFILE)
    with pytest.raises(StorageError, match="ulimit -n"):
        SnapshotStore(tmp_path)


@pytest.mark.parametrize("error", [MemoryError(), RecursionError()], ids=repr)
def test_command_that_one_node_lacks_memory_to_apply_stops_it_before_it_differs_from_the_others(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    _write(cluster, 2)
    cluster.run(0.3)
    apply = ListMachine.apply

    def lacking(machine: ListMachine, index: int, command: bytes, after: int | None = None) -> bytes:
        if machine is cluster.machines["b"].engine.machine and command == b"w2":
            raise error
        return apply(machine, index, command, after)

    monkeypatch.setattr(ListMachine, "apply", lacking)
    applied = cluster.replica("b").applied_index()
    _write(cluster, 1)
    assert cluster.run_until(lambda: cluster.replica("b").failed is not None, within=1.0)
    failed = cluster.replica("b").failed
    assert isinstance(failed, InternalError)
    assert f"applying entry {applied + 1} failed on this node" in failed.message
    assert cluster.replica("b").applied_index() == applied
    mark = len(cluster.sent)
    _write(cluster, 1)
    cluster.run(0.5)
    assert cluster.running() == ["a", "c"]
    assert not [e for e in cluster.sent[mark:] if e.source == "b"]
    monkeypatch.undo()
    cluster.restart("b")
    assert cluster.run_until(lambda: cluster.state("b") == [b"w0", b"w1", b"w2", b"w3"], within=2.0)
