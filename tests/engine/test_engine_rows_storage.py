"""Rows of the engine's hole table about disks, and the pin of the vendor's source."""

from __future__ import annotations

import hashlib
import inspect
import multiprocessing
import os
import signal
from pathlib import Path

import pysyncobj
import pysyncobj.journal as vendor_journal
import pysyncobj.syncobj as vendor
import pytest

from cyoloctl.errors import CyoloctlError, StorageError
from cyoloctl.raft import vendor as adapter
from cyoloctl.raft.journal import Journal
from cyoloctl.raft.sqlite_store import SqliteStore
from tests.support.engine_harness import Crash
from tests.support.raft_ours import OurCluster
from tests.support.raft_stock import QuietFile, StockCluster

pytestmark = pytest.mark.fault


# -- row 12 -----------------------------------------------------------------------------------


def test_row12_stock_leads_with_an_empty_machine_after_an_unreadable_dump(tmp_path: Path) -> None:
    cluster = StockCluster("abc", directory=tmp_path)
    cluster.elect("a")
    cluster.write("a", *[b"x%d" % n for n in range(10)])
    cluster.run(0.5)
    for name in "abc":
        cluster.compact(name)
    cluster.write("a", b"after")
    cluster.run(1.5)
    cluster.crash("a", "b", "c")
    cluster.dump_path("a").write_bytes(b"not a dump")
    cluster.restart("a", "b", "c")
    cluster.elect("a")
    cluster.run(1.0)
    assert cluster.is_leader("a")
    assert len(cluster.missing("a")) >= 9
    assert cluster.missing("b") == []


@pytest.mark.parametrize("damage", ["garbage", "empty", "flipped", "truncated", "missing"])
def test_row12_damaged_snapshot_refuses_to_start(tmp_path: Path, damage: str) -> None:
    cluster = OurCluster("abc", directory=tmp_path)
    cluster.elect("a")
    cluster.write("a", *[b"x%d" % n for n in range(10)])
    cluster.run(0.5)
    cluster.compact("a")
    cluster.crash("a")
    path = tmp_path / "a" / "snapshot"
    data = bytearray(path.read_bytes())
    match damage:
        case "garbage":
            path.write_bytes(b"not a snapshot")
        case "empty":
            path.write_bytes(b"")
        case "flipped":
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        case "truncated":
            path.write_bytes(data[:-1])
        case "missing":
            path.unlink()
    with pytest.raises(StorageError):
        cluster.start("a")


# -- row 14 -----------------------------------------------------------------------------------


def test_row14_stock_torn_meta_file_forgets_term_and_vote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vendor_journal, "open", QuietFile, raising=False)
    path = str(tmp_path / "journal")
    journal = vendor_journal.FileJournal(path)
    journal.add(b"\x01", 1, 0)
    journal.setCurrentTerm(7, "a")
    journal._destroy()
    meta = Path(path + ".meta")
    meta.write_bytes(meta.read_bytes()[: len(meta.read_bytes()) // 2])  # rename without fsync
    journal = vendor_journal.FileJournal(path)
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (0, None)
    journal._destroy()


def test_row14_stock_votes_twice_in_one_term_after_a_torn_meta_file(tmp_path: Path) -> None:
    cluster = StockCluster("abc", directory=tmp_path, file_journal=True)
    request = {"type": "request_vote", "term": 7, "last_log_index": 9, "last_log_term": 6}
    cluster.inject("b", "a", request)
    assert len(cluster.in_flight("b", "a", "vote_response")) == 1
    cluster.crash("b")
    meta = Path(cluster.machines["b"].disk + ".meta")
    meta.write_bytes(b"")
    cluster.restart("b")
    cluster.inject("b", "c", request)
    assert len(cluster.in_flight("b", "c", "vote_response")) == 1


def test_row14_vote_is_on_disk_before_the_answer_leaves() -> None:
    cluster = OurCluster("abc")
    request = {"type": "request_vote", "term": 7, "last_log_index": 9, "last_log_term": 6}
    cluster.inject("b", "a", request)
    assert not cluster.in_flight("b", "a", "vote_response")  # only a tick lets it go
    cluster.tick("b")
    assert len(cluster.in_flight("b", "a", "vote_response")) == 1
    cluster.restart("b")
    cluster.inject("b", "c", request)
    cluster.tick("b")
    assert not cluster.in_flight("b", "c", "vote_response")


def test_row14_vote_that_was_not_synced_was_not_sent() -> None:
    cluster = OurCluster("abc")
    request = {"type": "request_vote", "term": 7, "last_log_index": 9, "last_log_term": 6}
    cluster.inject("b", "a", request)
    cluster.restart("b")  # the vote is gone, and nobody was told of it
    assert not any(e.message["type"] == "vote_response" for e in cluster.sent)
    cluster.inject("b", "c", request)
    cluster.tick("b")
    assert len(cluster.in_flight("b", "c", "vote_response")) == 1


def test_row14_stock_kill_inside_compaction_loses_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "journal")
    journal = vendor_journal.FileJournal(path)
    for index in range(1, 61):
        journal.add(b"x", index, 1)
    add, calls = vendor_journal.FileJournal.add, []
    monkeypatch.setattr(vendor_journal, "open", QuietFile, raising=False)

    def dying_add(self: vendor_journal.FileJournal, *entry: object) -> None:
        if len(calls) == 3:
            raise Crash
        calls.append(entry)
        add(self, *entry)

    monkeypatch.setattr(vendor_journal.FileJournal, "add", dying_add)
    with pytest.raises(Crash):
        journal.deleteEntriesTo(0)
    journal._destroy()
    monkeypatch.setattr(vendor_journal.FileJournal, "add", add)
    journal = vendor_journal.FileJournal(path)
    assert len(journal) == 3
    journal._destroy()


def _compact_for_ever(path: str, started: object) -> None:
    journal = Journal(SqliteStore(Path(path)))
    started.set()  # type: ignore[attr-defined]
    while True:
        last = journal.last_index
        for index in range(last + 1, last + 40):
            journal.append(index, 1, b"x" * 2000)
        journal.sync()
        journal.compact_to(journal.last_index - 30)
        journal.sync()


@pytest.mark.parametrize("after_s", [0.05, 0.11, 0.17])
def test_row14_kill_inside_compaction_loses_nothing(tmp_path: Path, after_s: float) -> None:
    path = tmp_path / "raft.db"
    journal = Journal(SqliteStore(path))
    journal.append(1, 0, b"\x01")
    for index in range(2, 61):
        journal.append(index, 1, b"x")
    journal.set_term(7, "a")
    journal.sync()
    journal.close()
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_compact_for_ever, args=(str(path), started))
    process.start()
    try:
        assert started.wait(30)
        process.join(after_s)  # the moment of death is the machine's choice
        assert process.is_alive()
    finally:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    journal = Journal(SqliteStore(path))
    assert (journal.term, journal.vote) == (7, "a")
    assert journal.last_index >= 60
    assert [e[1] for e in journal.entries] == list(range(journal.first_index, journal.last_index + 1))
    assert len(journal.entries) >= 30
    journal.close()


def test_row14_failed_sync_silences_the_replica_for_ever() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    store = cluster.machines["b"].disk.store

    def full(batch: object) -> None:
        raise StorageError("the disk is full: free space")

    commit, store.commit = store.commit, full
    outcome = cluster.propose("a", b"x2")
    mark = len(cluster.sent)
    cluster.run(0.5)
    store.commit = commit
    cluster.run(0.5)
    assert outcome.ok  # a and c
    assert isinstance(cluster.replica("b").failed, StorageError)
    answers = [e.message for e in cluster.sent[mark:] if e.source == "b"]
    assert all(m.get("next_index", 0) <= 4 for m in answers)
    refused = cluster.propose("b", b"x3")
    assert refused.status == "error"
    assert isinstance(refused.error, CyoloctlError)


# -- the pin ----------------------------------------------------------------------------------


def vendor_names_overridden() -> set[str]:
    """Names of the vendor's class that the adapter's subclass defines again."""
    own = vars(adapter.VendorEngine)
    ignored = {"__module__", "__doc__", "__firstlineno__", "__static_attributes__", "__dict__", "__weakref__"}
    return {name for name in own if name in vars(vendor.SyncObj)} - ignored


def test_pin_vendor_version_is_the_one_that_was_read() -> None:
    assert pysyncobj.version.VERSION == "0.3.17"


def test_pin_vendor_source_is_the_one_that_was_read() -> None:
    source = Path(inspect.getfile(vendor)).read_bytes()
    assert hashlib.sha256(source).hexdigest() == adapter.VENDOR_SHA256


def test_pin_every_override_is_in_the_table() -> None:
    assert vendor_names_overridden() <= set(adapter.OVERRIDDEN)


@pytest.mark.parametrize("name", sorted(adapter.OVERRIDDEN))
def test_pin_vendor_method_is_the_one_that_was_read(name: str) -> None:
    source = inspect.getsource(vars(vendor.SyncObj)[name])
    assert hashlib.sha256(source.encode()).hexdigest() == adapter.OVERRIDDEN[name]


def test_pin_no_override_misses_its_target() -> None:
    """A private name that the subclass defines and the vendor no longer has would silently do nothing."""
    own = [name for name in vars(adapter.VendorEngine) if name.startswith("_SyncObj__")]
    assert own
    assert [name for name in own if name not in vars(vendor.SyncObj)] == []


def test_pin_private_attributes_that_the_adapter_reads_exist() -> None:
    cluster = OurCluster("a")
    there = vars(cluster.replica("a")._engine).keys() | vars(vendor.SyncObj).keys()
    names: set[str] = set()
    for function in vars(adapter.VendorEngine).values():
        code = getattr(function, "__code__", None)
        if code is not None:
            names.update(n for n in code.co_names if n.startswith("_SyncObj__"))
    stock = vars(StockCluster("a").machines["a"].engine).keys() | vars(vendor.SyncObj).keys()
    assert names
    assert names <= there
    assert names <= stock  # none is the adapter's own invention
