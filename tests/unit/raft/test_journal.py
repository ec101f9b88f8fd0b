"""The journal: what was synced is there, or the node refuses to start.  Real files, real kills.

More than 700 lines, because the same journal is written, killed and damaged, with the same helpers.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cyoloctl.errors import Conflict, InternalError, StorageError, VersionMismatch
from cyoloctl.raft.journal import (
    SLOW_SHOWN_S,
    SLOW_SYNC_S,
    Batch,
    Entry,
    Journal,
    MemoryStore,
    Record,
    Store,
    StoredState,
)
from cyoloctl.raft.sqlite_store import SqliteStore
from cyoloctl.raft.wal import check_wal

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
REMEDY = "cyoloctl member remove"

State = tuple[tuple[Entry, ...], int, str | None, str | None]


def state_of(journal: Journal) -> State:
    return tuple(journal.entries), journal.term, journal.vote, journal.get_meta("name")


def open_state(path: Path) -> State:
    journal = Journal(SqliteStore(path))
    try:
        return state_of(journal)
    finally:
        journal.close()


def fill(journal: Journal, last: int, size: int = 50) -> None:
    """Entries up to last, of terms that rise; index 1 is the base."""
    for index in range(journal.last_index + 1, last + 1):
        journal.append(index, index // 4, b"\x00" + bytes([index % 256]) * size)


def stored(path: Path, last: int = 10) -> None:
    """A journal that was closed cleanly."""
    journal = Journal(SqliteStore(path))
    journal.set_meta("name", "a")
    journal.set_term(99, "b")
    fill(journal, last)
    journal.close()


def crash_image(source: Path, target: Path) -> None:
    """Remains of a crash at this moment: the files of a journal that is still open."""
    target.mkdir(exist_ok=True)
    for name in ("raft.db", "raft.db-wal"):
        (target / name).unlink(missing_ok=True)
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


@pytest.fixture(params=["sqlite", "memory"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Journal]]:
    """Crash (everything since the last sync is lost) and open again."""
    memory = MemoryStore()
    opened: list[Journal] = []
    count = 0

    def again() -> Journal:
        nonlocal count
        if request.param == "memory":
            return Journal(memory)
        directory = tmp_path / str(count)
        count += 1
        if opened:
            crash_image(tmp_path / str(count - 2), directory)
        else:
            directory.mkdir()
        opened.append(Journal(SqliteStore(directory / "raft.db")))
        return opened[-1]

    yield again
    for journal in opened:
        if journal.failed is None:
            journal.close()


# --- the log ---


def test_journal_new_is_empty(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    assert journal.entries == []
    assert (journal.first_index, journal.last_index, journal.last_term, journal.byte_size) == (0, 0, 0, 0)
    assert (journal.term, journal.vote, journal.commit_index) == (0, None, 0)
    assert journal.entry(0) is None
    assert journal.get_meta("name") is None


def test_journal_synced_changes_survive_a_crash(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    journal.set_meta("name", "a")
    journal.set_term(3, "b")
    fill(journal, 9)
    journal.set_commit_index(7)
    journal.sync()
    again = reopen()
    assert again.entries == journal.entries
    assert (again.term, again.vote, again.commit_index, again.get_meta("name")) == (3, "b", 7, "a")
    assert (again.first_index, again.last_index, again.last_term) == (1, 9, 2)
    assert again.byte_size == journal.byte_size == sum(len(entry[0]) for entry in journal.entries)
    assert again.entry(5) == journal.entries[4]
    assert again.entry(0) is None
    assert again.entry(10) is None


def test_journal_changes_after_the_last_sync_are_lost_in_a_crash(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    fill(journal, 5)
    journal.sync()
    fill(journal, 9)
    journal.truncate_from(3)
    journal.compact_to(2)
    journal.set_term(7, "a")
    again = reopen()
    assert (again.first_index, again.last_index, again.term) == (1, 5, 0)


def test_journal_first_entry_is_the_base_and_committed(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    journal.append(40, 2, b"\x01")
    journal.append(41, 2, b"\x00")
    assert journal.commit_index == 40


def test_journal_entry_alone_is_durable_after_sync(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    fill(journal, 3)
    journal.sync()
    fill(journal, 4)
    journal.sync()
    assert reopen().last_index == 4


def test_journal_cut_alone_is_durable_after_sync(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    fill(journal, 9)
    journal.sync()
    journal.truncate_from(6)
    journal.sync()
    assert reopen().last_index == 5


def test_journal_cut_above_what_is_stored_keeps_the_rest_to_be_written(
    reopen: Callable[[], Journal],
) -> None:
    journal = reopen()
    fill(journal, 3)
    journal.sync()
    fill(journal, 9)
    journal.truncate_from(8)
    journal.sync()
    assert [entry[1] for entry in reopen().entries] == [1, 2, 3, 4, 5, 6, 7]


def test_journal_term_alone_is_durable_after_sync(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    journal.set_term(4, None)
    journal.sync()
    assert reopen().term == 4


def test_journal_vote_in_a_term_that_it_knew_is_durable_after_sync(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    journal.set_term(4, None)
    journal.sync()
    journal.set_term(4, "a")
    journal.sync()
    again = reopen()
    assert (again.term, again.vote) == (4, "a")


def test_journal_identity_alone_is_durable_after_sync(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    journal.set_meta("boots", "1")
    journal.sync()
    assert reopen().get_meta("boots") == "1"


def test_journal_size_is_of_what_is_left_after_a_cut_and_a_compaction() -> None:
    journal = Journal(MemoryStore())
    fill(journal, 9)
    journal.truncate_from(7)
    journal.compact_to(3)
    assert journal.byte_size == sum(len(entry[0]) for entry in journal.entries)
    journal.reset(20, 9)
    assert journal.byte_size == 1


def test_journal_append_truncate_compact_in_one_tick_become_one_batch(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    fill(journal, 10)
    journal.sync()
    journal.truncate_from(6)
    journal.append(6, 20, b"\x00new")
    fill_from = journal.entries
    journal.compact_to(4)
    journal.truncate_from(6)
    journal.append(6, 21, b"\x00newer")
    journal.sync()
    again = reopen()
    assert [entry[1:] for entry in again.entries] == [(4, 1), (5, 1), (6, 21)]
    assert journal.entries is fill_from  # the adapter reads this very list


def test_journal_compaction_past_what_was_stored_keeps_the_new_entries(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    fill(journal, 5)
    journal.sync()
    journal.truncate_from(3)
    fill(journal, 12)
    journal.compact_to(9)
    journal.sync()
    again = reopen()
    assert [entry[1] for entry in again.entries] == [9, 10, 11, 12]
    assert again.entries == journal.entries


def test_journal_reset_replaces_everything_durably(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    fill(journal, 10)
    journal.sync()
    journal.set_term(8, "c")
    fill(journal, 12)
    journal.reset(100, 6)
    again = reopen()
    assert again.entries == [(b"\x01", 100, 6)]
    assert (again.term, again.vote, again.commit_index, again.byte_size) == (8, "c", 100, 1)
    fill_index = again.last_index + 1
    again.append(fill_index, 8, b"\x00x")
    again.sync()
    assert reopen().last_index == 101


def test_journal_reset_below_the_stored_entries_leaves_none_of_them(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    journal.append(50, 1, b"\x01")
    journal.append(51, 1, b"\x00x")
    journal.sync()
    journal.reset(20, 1)
    assert reopen().entries == [(b"\x01", 20, 1)]


def test_journal_gap_is_refused_and_changes_nothing(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    with pytest.raises(InternalError):
        journal.append(0, 0, b"\x01")
    fill(journal, 3)
    for index in (2, 3, 5):
        with pytest.raises(InternalError, match="does not follow"):
            journal.append(index, 5, b"\x00")
    assert journal.last_index == 3
    assert journal.failed is None


def test_journal_falling_term_is_refused(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    journal.append(1, 4, b"\x01")
    with pytest.raises(InternalError):
        journal.append(2, 3, b"\x00")
    journal.set_term(4, None)
    with pytest.raises(InternalError):
        journal.set_term(3, None)


def test_journal_second_vote_in_a_term_is_refused(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    journal.set_term(4, "a")
    journal.set_term(4, "a")
    for vote in ("b", None):
        with pytest.raises(InternalError, match="vote"):
            journal.set_term(4, vote)
    journal.set_term(5, "b")
    assert (journal.term, journal.vote) == (5, "b")


def test_journal_base_is_never_deleted(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    fill(journal, 5)
    journal.compact_to(3)
    for index in (1, 3):
        with pytest.raises(InternalError):
            journal.truncate_from(index)
    with pytest.raises(InternalError):
        journal.compact_to(6)
    journal.compact_to(2)
    journal.truncate_from(6)
    assert [entry[1] for entry in journal.entries] == [3, 4, 5]


def test_journal_commit_index_alone_waits_for_flush(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    fill(journal, 5)
    journal.sync()
    journal.set_commit_index(4)
    journal.sync()
    assert reopen().commit_index == 1
    # In memory, reopening is a second reader of the same store, so this journal is still the writer.
    journal.flush()


def test_journal_flush_stores_the_commit_index(reopen: Callable[[], Journal]) -> None:
    journal = reopen()
    fill(journal, 5)
    journal.set_commit_index(3)
    journal.flush()
    journal.set_commit_index(4)
    journal.flush()
    assert reopen().commit_index == 4


def test_journal_commit_index_past_a_lost_tail_is_clamped() -> None:
    store = MemoryStore()
    journal = Journal(store)
    fill(journal, 5)
    journal.set_commit_index(900)
    journal.sync()
    assert Journal(store).commit_index == 5


def test_journal_commit_index_below_the_base_is_raised_to_it() -> None:
    store = MemoryStore()
    store.commit(Batch(None, None, [(b"\x01", 7, 1)], Record(1, None, 3, 7, 7)))
    assert Journal(store).commit_index == 7


def test_journal_reset_commits_its_base() -> None:
    journal = Journal(MemoryStore())
    fill(journal, 5)
    journal.reset(100, 6)
    assert journal.commit_index == 100


def test_journal_that_is_refused_lets_go_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    stored(path)
    alter(path, "DELETE FROM entries WHERE position = 10")
    for _ in range(2):
        with pytest.raises(StorageError, match="should hold"):
            Journal(SqliteStore(path))


@pytest.mark.parametrize("identity", ["[]", '"name"', '{"name":1}', '{"name":null}', "{", ""])
def test_journal_identity_that_is_no_object_of_texts_is_refused(identity: str) -> None:
    store = MemoryStore()
    store.commit(Batch(None, None, [], Record(identity=identity)))
    with pytest.raises(StorageError, match="identity"):
        Journal(store)


def test_journal_close_flushes_and_is_idempotent(tmp_path: Path) -> None:
    journal = Journal(SqliteStore(tmp_path / "raft.db"))
    fill(journal, 5)
    journal.set_commit_index(4)
    journal.close()
    journal.close()
    with pytest.raises(InternalError, match="closed"):
        journal.sync()
    again = Journal(SqliteStore(tmp_path / "raft.db"))
    assert (again.last_index, again.commit_index) == (5, 4)
    again.close()


def test_journal_p99_is_of_the_last_syncs() -> None:
    now = iter([0.0, 5.0] + [n + part for n in range(10, 523) for part in (0.0, 0.001 if n > 20 else 0.5)])
    journal = Journal(MemoryStore(), clock=lambda: next(now))
    assert journal.fsync_p99_ms == 0.0
    fill(journal, 1)
    journal.sync()
    assert journal.fsync_p99_ms == 5000.0
    for term in range(1, 513):
        journal.set_term(term, None)
        journal.sync()
    assert journal.fsync_p99_ms == pytest.approx(500.0)  # 11 of 512 are slow; the first has left


def test_slow_sync_is_logged_and_told_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]

    class Slow(MemoryStore):
        def commit(self, batch: Batch) -> None:
            now[0] += took_s
            super().commit(batch)

    journal = Journal(Slow(), clock=lambda: now[0])
    took_s = SLOW_SYNC_S - 0.01
    fill(journal, 1)
    journal.sync()
    assert journal.slow_sync_ms() is None
    assert not caplog.records

    took_s = 2.5
    journal.set_term(1, None)
    journal.sync()
    assert journal.slow_sync_ms() == 2500.0
    (said,) = caplog.records
    assert (said.levelname, said.message, vars(said)["sync_s"]) == ("WARNING", "the disk is slow", 2.5)
    now[0] += SLOW_SHOWN_S + 1
    assert journal.slow_sync_ms() is None


def test_journal_that_is_being_written_takes_no_change(tmp_path: Path) -> None:
    journal = Journal(SqliteStore(tmp_path / "raft.db"))
    fill(journal, 3)
    writes = journal.writes()
    write = next(writes)
    for change in (
        lambda: journal.append(4, 1, b"x"),
        lambda: journal.truncate_from(2),
        lambda: journal.set_term(9, None),
        journal.sync,
        journal.flush,
    ):
        with pytest.raises(InternalError, match="while it is written"):
            change()
    write()
    assert list(writes) == []
    journal.append(4, 1, b"x")
    journal.close()
    assert open_state(tmp_path / "raft.db")[0][-1] == (b"x", 4, 1)


def test_journal_written_in_another_thread_is_on_disk_when_the_turn_goes_on(tmp_path: Path) -> None:
    journal = Journal(SqliteStore(tmp_path / "raft.db"))
    fill(journal, 3)
    for write in journal.writes():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join(10.0)
    assert sum(journal.syncs.counts) == 1
    shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    assert open_state(tmp_path.with_name("copy") / "raft.db")[0] == tuple(journal.entries)
    journal.close()


def test_journal_closed_while_it_is_written_writes_nothing_more() -> None:
    class Counted(MemoryStore):
        commits = 0

        def commit(self, batch: Batch) -> None:
            self.commits += 1
            super().commit(batch)

    store = Counted()
    journal = Journal(store)
    fill(journal, 3)
    write = next(iter(journal.writes()))
    write()
    journal.close()
    assert store.commits == 1


def test_journal_that_is_being_written_looks_for_no_room() -> None:
    class Counted(MemoryStore):
        looks = 0

        def find_room(self) -> bool:
            self.looks += 1
            return super().find_room()

    store = Counted()
    journal = Journal(store)
    fill(journal, 3)
    writes = journal.writes()
    next(writes)()
    assert journal.find_room()
    assert store.looks == 0
    assert list(writes) == []
    assert journal.find_room()
    assert store.looks == 1


def test_sync_that_takes_long_is_told_while_it_does() -> None:
    now = [100.0]
    told: list[float | None] = []

    class Hanging(MemoryStore):
        def commit(self, batch: Batch) -> None:
            told.append(journal.slow_sync_ms())
            now[0] += 3.0
            told.append(journal.slow_sync_ms())
            super().commit(batch)

    journal = Journal(Hanging(), clock=lambda: now[0])
    fill(journal, 1)
    journal.sync()
    assert told == [None, 3000.0]


def test_term_is_durable_when_it_was_synced() -> None:
    journal = Journal(MemoryStore())
    assert journal.is_term_durable()
    journal.set_term(2, None)
    assert not journal.is_term_durable()
    journal.sync()
    assert journal.is_term_durable()


def test_journal_knows_whether_its_disk_is_slow_after_a_few_syncs() -> None:
    now, took_s = [0.0], 0.0002

    class Slow(MemoryStore):
        def commit(self, batch: Batch) -> None:
            now[0] += took_s
            super().commit(batch)

    journal = Journal(Slow(), clock=lambda: now[0])

    def sync(times: int) -> None:
        for _ in range(times):
            journal.set_term(journal.term + 1, None)
            journal.sync()

    sync(16)
    assert not journal.is_slower_than(1.0)
    took_s = 0.005
    sync(40)
    assert journal.is_slower_than(1.0)
    assert not journal.is_slower_than(10.0)
    # What is too long ago to tell is no reason to think otherwise.
    now[0] += 3600.0
    sync(8)
    assert journal.is_slower_than(1.0)
    took_s = 0.0002
    sync(40)
    assert not journal.is_slower_than(1.0)


class FailsOnce:
    """A store whose disk fails one time, as a kernel reports a lost write to one fsync only."""

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error
        self.inner = MemoryStore()
        self.commits = 0

    def load(self) -> StoredState | None:
        return self.inner.load()

    def commit(self, batch: Batch) -> None:
        self.commits += 1
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self.inner.commit(batch)

    def close(self) -> None:
        self.inner.close()


@pytest.mark.parametrize("error", [StorageError("disk full"), OSError("lost"), KeyboardInterrupt()])
def test_journal_after_a_failure_every_change_raises_the_same_error(error: BaseException) -> None:
    store = FailsOnce(error)
    checked: Store = store
    journal = Journal(checked)
    fill(journal, 2)
    with pytest.raises(BaseException) as first:
        journal.sync()
    failed = journal.failed
    assert isinstance(failed, StorageError)
    assert first.value is (error if isinstance(error, KeyboardInterrupt) else failed)
    calls: list[Callable[[], None]] = [
        journal.sync,
        journal.flush,
        lambda: journal.append(3, 9, b"\x00"),
        lambda: journal.truncate_from(2),
        lambda: journal.compact_to(2),
        lambda: journal.reset(9, 9),
        lambda: journal.set_term(9, None),
        lambda: journal.set_commit_index(2),
        lambda: journal.set_meta("name", "a"),
    ]
    for call in calls:
        with pytest.raises(StorageError) as caught:
            call()
        assert caught.value is failed
    journal.close()
    assert store.commits == 1  # never tried again
    assert journal.last_index == 2


# --- the file ---


def test_store_file_has_mode_0600_and_no_shared_memory_file(tmp_path: Path) -> None:
    journal = Journal(SqliteStore(tmp_path / "raft.db"))
    fill(journal, 2)
    journal.sync()
    assert sorted(os.listdir(tmp_path)) == ["raft.db", "raft.db-wal"]
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in os.listdir(tmp_path)} == {0o600}
    journal.close()
    assert os.listdir(tmp_path) == ["raft.db"]


@pytest.mark.parametrize(
    ("pragma", "value"),
    # 2 is FULL: each commit waits for the disk; and no checkpoint whose failed fsync is ignored.
    [("synchronous", 2), ("journal_mode", "wal"), ("wal_autocheckpoint", 0), ("cache_spill", 0)],
)
def test_store_promise_of_durability_rests_on_these_settings(
    tmp_path: Path, pragma: str, value: int | str
) -> None:
    store = SqliteStore(tmp_path / "raft.db")
    assert store._connected().execute(f"PRAGMA {pragma}").fetchone() == (value,)
    store.close()


def test_store_wal_stays_small_under_many_syncs(tmp_path: Path) -> None:
    journal = Journal(SqliteStore(tmp_path / "raft.db"))
    for last in range(1, 1201):
        fill(journal, last, size=200)
        journal.sync()
    assert (tmp_path / "raft.db-wal").stat().st_size < 4 * 2**20
    expected = state_of(journal)
    crash_image(tmp_path, tmp_path / "crashed")
    assert open_state(tmp_path / "crashed" / "raft.db") == expected
    journal.close()


def test_store_in_use_by_this_process_is_conflict(tmp_path: Path) -> None:
    journal = Journal(SqliteStore(tmp_path / "raft.db"))
    with pytest.raises(Conflict, match="in use by another process"):
        SqliteStore(tmp_path / "raft.db")
    fill(journal, 3)
    journal.sync()
    journal.close()
    assert len(open_state(tmp_path / "raft.db")[0]) == 3


OPEN = """
import sys
from pathlib import Path
from cyoloctl.errors import CyoloctlError
from cyoloctl.raft.sqlite_store import SqliteStore
try:
    SqliteStore(Path(sys.argv[1]))
except CyoloctlError as error:
    print(error.code, error.message)
"""


def test_store_in_use_by_another_process_is_conflict(tmp_path: Path) -> None:
    journal = Journal(SqliteStore(tmp_path / "raft.db"))
    # Closing any descriptor of the file drops SQLite's own locks, all of this process (fcntl(2)).
    (tmp_path / "raft.db").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(tmp_path / "raft.db")],
        env=ENVIRONMENT, check=True, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    journal.close()
    assert done.stdout.startswith("conflict ")
    assert "in use by another process" in done.stdout


def test_store_in_missing_directory_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="create its directory"):
        SqliteStore(tmp_path / "absent" / "raft.db")


def test_store_of_newer_format_is_version_mismatch(tmp_path: Path) -> None:
    stored(tmp_path / "raft.db")
    alter(tmp_path / "raft.db", "PRAGMA user_version=3")
    with pytest.raises(VersionMismatch, match="format version 3"):
        SqliteStore(tmp_path / "raft.db")


def test_store_of_wide_permissions_is_made_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "raft.db"
    stored(path)
    path.chmod(0o644)
    open_state(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_store_that_is_refused_lets_go_of_its_file(tmp_path: Path) -> None:
    stored(tmp_path / "raft.db")
    alter(tmp_path / "raft.db", "PRAGMA user_version=3")
    for _ in range(2):
        with pytest.raises(VersionMismatch):
            SqliteStore(tmp_path / "raft.db")


def test_store_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database " * 100)
    alter(tmp_path / "other.db", "CREATE TABLE something(a)")
    for name in ("text", "other.db"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(StorageError, match=name):
            SqliteStore(tmp_path / name)
        assert (tmp_path / name).read_bytes()[100:] == before[100:]


def test_store_empty_beside_a_wal_is_refused(tmp_path: Path) -> None:
    journal = Journal(SqliteStore(tmp_path / "raft.db"))
    fill(journal, 3)
    journal.sync()
    crash_image(tmp_path, tmp_path / "crashed")
    journal.close()
    (tmp_path / "crashed" / "raft.db").write_bytes(b"")
    with pytest.raises(StorageError, match="it is empty"):
        SqliteStore(tmp_path / "crashed" / "raft.db")
    assert (tmp_path / "crashed" / "raft.db-wal").stat().st_size > 0


def test_store_created_but_never_written_is_empty(tmp_path: Path) -> None:
    (tmp_path / "raft.db").touch()
    journal = Journal(SqliteStore(tmp_path / "raft.db"))
    assert journal.entries == []
    crash_image(tmp_path, tmp_path / "crashed")
    journal.close()
    assert Journal(SqliteStore(tmp_path / "crashed" / "raft.db")).entries == []


def alter(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement).fetchall()
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries WHERE position = 5",
        "DELETE FROM entries WHERE position = 10",
        "DELETE FROM entries WHERE position = 1",
        "DELETE FROM entries",
        "DELETE FROM record",
        "UPDATE record SET term = term + 1",
        "UPDATE record SET vote = NULL",
        "UPDATE record SET vote = 'c'",
        "UPDATE record SET commit_index = 'x'",
        "UPDATE record SET identity = '{}'",
        "UPDATE record SET id = 2",
        "INSERT INTO record "
        "SELECT 2, term, vote, commit_index, first_index, last_index, identity, crc FROM record",
        "UPDATE entries SET term = term + 1 WHERE position = 5",
        "UPDATE entries SET term = term + 1 WHERE position = 10",
        # As long as its own, of the same term, and whole: at another place.
        "UPDATE entries SET (command, crc) = (SELECT command, crc FROM entries WHERE position = 6) "
        "WHERE position = 5",
        "UPDATE entries SET command = x'00' WHERE position = 5",
        "UPDATE entries SET command = 'text' WHERE position = 5",
        "UPDATE entries SET command = zeroblob(51) WHERE position = 10",
        "UPDATE entries SET position = 11 WHERE position = 10",
        "UPDATE entries SET crc = 0 WHERE position = 1",
        "INSERT INTO entries VALUES(11, 9, x'00', 0)",
        "DROP TABLE record",
        "DROP TABLE entries",
        "ALTER TABLE entries RENAME COLUMN term TO tern",
        "PRAGMA user_version=0",
        "PRAGMA application_id=1",
    ],
)
def test_store_with_a_changed_row_is_refused_naming_file_and_remedy(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "raft.db"
    stored(path)
    alter(path, statement)
    with pytest.raises(StorageError) as caught:
        open_state(path)
    assert str(path) in caught.value.message
    assert REMEDY in caught.value.message or "not a journal" in caught.value.message


def test_journal_of_a_store_with_falling_terms_or_gap_is_refused() -> None:
    for entries in ([(b"\x01", 1, 5), (b"\x00", 2, 4)], [(b"\x01", 1, 0), (b"\x00", 3, 0)]):
        store = MemoryStore()
        record = Record(term=5, first_index=1, last_index=entries[-1][1])
        store.commit(Batch(None, None, entries, record))
        with pytest.raises(StorageError, match="damaged"):
            Journal(store)


# --- crashes ---


def step(journal: Journal, draw: random.Random) -> None:
    """One tick of a writer: a few changes, one sync."""
    if not journal.entries:
        journal.append(1, 0, b"\x01")
    for _ in range(draw.randrange(1, 4)):
        size = draw.choice([0, 10, 200, 200, 200, 9000])
        journal.append(journal.last_index + 1, journal.term, b"\x00" + draw.randbytes(size))
    choice = draw.randrange(20)
    if choice == 0:
        journal.truncate_from(max(journal.first_index + 1, journal.last_index - draw.randrange(5)))
    elif choice == 1:
        journal.compact_to(max(journal.first_index, journal.last_index - draw.randrange(30)))
    elif choice in (2, 3):
        journal.set_term(journal.term + 1, draw.choice([None, "a", "b"]))
    elif choice == 4 and draw.random() < 0.2:
        journal.reset(journal.last_index + draw.randrange(1, 9), journal.term)
    journal.set_commit_index(journal.first_index)
    journal.sync()


WRITER = """
import random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_journal import step
from cyoloctl.raft.journal import Journal
from cyoloctl.raft.sqlite_store import SqliteStore
journal, draw = Journal(SqliteStore(Path(sys.argv[1]))), random.Random(int(sys.argv[2]))
for count in range(1, 100_000):
    step(journal, draw)
    sys.stdout.write(f"{count}\\n")
    sys.stdout.flush()
"""


@pytest.mark.fault
@pytest.mark.parametrize("seed", range(5))
def test_journal_after_kill_9_holds_everything_that_was_reported(tmp_path: Path, seed: int) -> None:
    wanted = random.Random(seed).choice([1, 2, 40, 300, 900])
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "raft.db"), str(seed), str(Path(__file__).parent)],
        env=ENVIRONMENT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with writer:
        assert writer.stdout is not None
        reported = 0
        for line in writer.stdout:
            reported = int(line)
            if reported == wanted:
                writer.kill()
            # What it wrote before it died is read to the end: each of these was reported.
    assert writer.returncode == -9
    assert reported >= wanted
    model, draw = Journal(MemoryStore()), random.Random(seed)
    for _ in range(reported):
        step(model, draw)
    # `or`: the transaction after the last report may have been whole when the process died.
    found = open_state(tmp_path / "raft.db")
    if found != state_of(model):
        step(model, draw)
        assert found == state_of(model)


class Image:
    """The files of a journal right after its last sync, and what it held then and one sync before."""

    def __init__(self, directory: Path, transactions: int, *, used_before: bool) -> None:
        source = directory / "source"
        source.mkdir()
        path = source / "raft.db"
        draw = random.Random(5)
        journal = Journal(SqliteStore(path))
        journal.set_meta("name", "a")
        journal.set_term(3, "a")
        journal.append(1, 0, b"\x01")
        journal.sync()
        if used_before:  # a compaction is checkpointed, so the WAL starts over with old frames behind the new
            for _ in range(30):
                journal.append(journal.last_index + 1, journal.term, b"\x00" + draw.randbytes(4000))
                journal.sync()
            journal.compact_to(20)
            journal.sync()
        for _ in range(transactions - 1):
            journal.append(journal.last_index + 1, journal.term, b"\x00" + draw.randbytes(300))
            journal.sync()
        self.before, self.wal_before = state_of(journal), (source / "raft.db-wal").read_bytes()
        journal.append(journal.last_index + 1, journal.term, b"\x00" + draw.randbytes(9000))
        journal.sync()
        self.after, self.wal = state_of(journal), (source / "raft.db-wal").read_bytes()
        self.database = path.read_bytes()
        journal.close()
        self.closed_database = path.read_bytes()
        self.target = directory / "target"
        self.target.mkdir()
        starts = range(32, len(self.wal), 24 + 4096)
        self.frames = [at for at in starts if self.wal[at + 8 : at + 16] == self.wal[16:24]]
        commits = [at for at in self.frames if any(self.wal[at + 4 : at + 8])]
        self.last_transaction = commits[-2] + 24 + 4096
        self.end = self.frames[-1] + 24 + 4096
        assert (len(self.wal) > self.end) == used_before

    def open(self, *, database: bytes | None = None, wal: bytes | None = None) -> str:
        """Outcome for a node that finds these files."""
        path = self.target / "raft.db"
        path.write_bytes(self.database if database is None else database)
        path.with_name("raft.db-wal").write_bytes(self.wal if wal is None else wal)
        try:
            found = open_state(path)
        except (StorageError, VersionMismatch) as error:
            return "refused" if str(path) in error.message else "refused without naming the file"
        return {self.after: "after", self.before: "before"}.get(found, "wrong")


@pytest.fixture(scope="module", params=["first use", "later use"])
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(tmp_path_factory.mktemp("image"), 8, used_before=request.param == "later use")


def flipped(data: bytes, position: int, bit: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def test_crash_image_opens_with_everything(image: Image) -> None:
    assert image.open() == "after"


def test_wal_check_is_made_before_sqlite_reads_the_file(image: Image) -> None:
    """SQLite alone would drop what was acknowledged, and say nothing."""
    first = image.frames[1]
    assert image.open(wal=flipped(image.wal, first + 1000, 3)) == "refused"


@pytest.mark.fault
def test_wal_bit_flip_before_the_last_transaction_is_refused(image: Image) -> None:
    draw = random.Random(1)
    middle = [at for at in image.frames if at < image.last_transaction]
    assert len(middle) > 8
    positions = [draw.randrange(32) for _ in range(10)]
    positions += [draw.choice(middle) + draw.randrange(24) for _ in range(60)]
    positions += [draw.choice(middle) + 24 + draw.randrange(4096) for _ in range(40)]
    for position in positions:
        assert image.open(wal=flipped(image.wal, position, draw.randrange(8))) == "refused", position


@pytest.mark.fault
@pytest.mark.parametrize("size", [512, 4096])
def test_wal_block_lost_before_the_last_transaction_is_refused(image: Image, size: int) -> None:
    for start in range(0, image.last_transaction - size, 1536):
        wal = image.wal[:start] + bytes(size) + image.wal[start + size :]
        assert image.open(wal=wal) == ("refused" if wal != image.wal else "after"), start


@pytest.mark.fault
def test_wal_starts_over_at_each_start(image: Image) -> None:
    torn = flipped(image.wal, image.last_transaction + 100, 0)
    (image.target / "raft.db").write_bytes(image.database)
    (image.target / "raft.db-wal").write_bytes(torn)
    journal = Journal(SqliteStore(image.target / "raft.db"))
    assert state_of(journal) == image.before
    assert (image.target / "raft.db-wal").stat().st_size == 0
    journal.append(journal.last_index + 1, journal.term, b"\x00")
    journal.sync()
    assert (image.target / "raft.db-wal").read_bytes()[16:24] != torn[16:24]
    journal.close()


@pytest.mark.fault
def test_wal_bit_flip_in_the_last_transaction_is_refused_or_drops_it_alone(image: Image) -> None:
    draw = random.Random(2)
    for _ in range(50):
        position = draw.randrange(image.last_transaction, image.end)
        assert image.open(wal=flipped(image.wal, position, draw.randrange(8))) in ("refused", "before")


@pytest.mark.fault
def test_wal_torn_in_the_last_transaction_returns_to_the_one_before(image: Image) -> None:
    old = image.wal_before.ljust(len(image.wal), b"\0")
    draw = random.Random(3)
    lost = 0
    for _ in range(60):
        wal = bytearray(image.wal)
        for sector in range(image.last_transaction // 512, image.end // 512 + 1):
            if draw.random() < 0.2:
                wal[sector * 512 : sector * 512 + 512] = old[sector * 512 : sector * 512 + 512]
        outcome = image.open(wal=bytes(wal))
        assert outcome == ("after" if wal == image.wal else "before")
        lost += outcome == "before"
    assert lost > 30
    for size in range(image.last_transaction, image.end, 997):
        cut = image.wal[:size] + (old[size:] if len(old) > image.end else b"")
        assert image.open(wal=cut) == "before"


@pytest.mark.fault
def test_wal_bit_flip_behind_the_last_transaction_changes_nothing(image: Image) -> None:
    draw = random.Random(4)
    if len(image.wal) > image.end:  # in its later use
        for _ in range(20):
            position = draw.randrange(image.end, len(image.wal))
            assert image.open(wal=flipped(image.wal, position, draw.randrange(8))) == "after"
    assert image.open(wal=image.wal + bytes(10_000)) == "after"


@pytest.mark.fault
@pytest.mark.parametrize("closed", [False, True])
def test_database_bit_flip_is_refused_or_changes_nothing(image: Image, closed: bool) -> None:
    draw = random.Random(5)
    database, wal = (image.closed_database, b"") if closed else (image.database, image.wal)
    outcomes = set()
    positions = [draw.randrange(100) for _ in range(40)] + [draw.randrange(len(database)) for _ in range(60)]
    for position in positions:
        outcome = image.open(database=flipped(database, position, draw.randrange(8)), wal=wal)
        assert outcome in ("refused", "after"), position
        outcomes.add(outcome)
    assert "after" in outcomes
    if closed:
        assert "refused" in outcomes


@pytest.mark.fault
def test_database_with_a_damaged_free_list_is_refused(image: Image) -> None:
    """No row is touched: only SQLite's own check sees it."""
    assert image.open(database=flipped(image.closed_database, 39, 0), wal=b"") == "refused"


@pytest.mark.fault
def test_database_cut_short_is_refused(image: Image) -> None:
    for pages in range(1, len(image.closed_database) // 4096):
        assert image.open(database=image.closed_database[: pages * 4096], wal=b"") == "refused"


def test_wal_check_accepts_missing_empty_and_zeroed_files(tmp_path: Path) -> None:
    check_wal(tmp_path / "absent")
    for data in (b"", b"\x37\x7f\x06\x82", bytes(100_000)):
        (tmp_path / "wal").write_bytes(data)
        check_wal(tmp_path / "wal")


def test_wal_check_refuses_damage_before_a_transaction_of_other_pages(tmp_path: Path) -> None:
    """Not even a page in common: the commit mark alone tells."""
    connection = sqlite3.connect(tmp_path / "any.db", isolation_level=None)
    for statement in (
        "PRAGMA journal_mode=WAL",
        *(f"CREATE TABLE t{n}(a)" for n in range(4)),
        "PRAGMA wal_checkpoint(TRUNCATE)",
        *(f"INSERT INTO t{n} VALUES(1)" for n in range(4)),
    ):
        connection.execute(statement).fetchall()
    wal = (tmp_path / "any.db-wal").read_bytes()
    connection.close()
    assert len({wal[at : at + 4] for at in range(32, len(wal), 4120)}) == 4
    for frame in range(3):
        (tmp_path / "wal").write_bytes(flipped(wal, 32 + 4120 * frame + 1000, 3))
        with pytest.raises(StorageError, match="before its last transaction"):
            check_wal(tmp_path / "wal")
    (tmp_path / "wal").write_bytes(flipped(wal, 32 + 4120 * 3 + 1000, 3))
    check_wal(tmp_path / "wal")


def test_wal_check_refuses_a_wrong_header(tmp_path: Path) -> None:
    (tmp_path / "wal").write_bytes(random.Random(1).randbytes(10_000))
    with pytest.raises(StorageError, match="header"):
        check_wal(tmp_path / "wal")


# --- full and read-only disks ---

FULL = """
import resource, sys
from pathlib import Path
from cyoloctl.errors import StorageError
from cyoloctl.raft.journal import Journal
from cyoloctl.raft.sqlite_store import SqliteStore
journal = Journal(SqliteStore(Path(sys.argv[1])))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
journal.append(1, 0, b"\\x01")
synced = 0
try:
    while True:
        journal.sync()
        synced = journal.last_index
        journal.append(synced + 1, 0, bytes(1000))
except StorageError as error:
    print(error.message)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))  # the disk has space again, but what is on it?
try:
    journal.sync()
except StorageError as error:
    assert error is journal.failed
    print(synced)
"""


@pytest.mark.fault
def test_journal_at_a_file_size_limit_stops_and_keeps_what_was_synced(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "raft.db")],
        env=ENVIRONMENT, check=True, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    message, synced = done.stdout.splitlines()
    assert str(tmp_path / "raft.db") in message
    assert "restart the node" in message
    assert len(open_state(tmp_path / "raft.db")[0]) == int(synced)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root and the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.fault
def test_journal_on_a_full_disk_stops_and_goes_on_after_a_restart_with_space(small_disk: Path) -> None:
    path = small_disk / "raft.db"
    (small_disk / "ballast").write_bytes(bytes(300_000))
    journal = Journal(SqliteStore(path))
    fill(journal, 1)
    with pytest.raises(StorageError) as caught:  # noqa: PT012  # the disk fills up at some turn of the loop
        while True:
            journal.sync()
            expected = state_of(journal)
            fill(journal, journal.last_index + 1, size=5000)
    assert str(path) in caught.value.message
    assert "free space, then restart the node" in caught.value.message
    journal.close()
    (small_disk / "ballast").unlink()
    assert open_state(path) == expected


@pytest.mark.fault
def test_journal_on_a_read_only_disk_names_file_and_remedy(small_disk: Path) -> None:
    path = small_disk / "raft.db"
    stored(path)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError) as caught:
        SqliteStore(path)
    assert str(path) in caught.value.message
    assert "make it writable" in caught.value.message


def test_record_crc_covers_every_field() -> None:
    base = Record(1, "a", 2, 3, 4, "{}")
    others = [
        Record(2, "a", 2, 3, 4, "{}"),
        Record(1, None, 2, 3, 4, "{}"),
        Record(1, "a", 3, 3, 4, "{}"),
        Record(1, "a", 2, 4, 4, "{}"),
        Record(1, "a", 2, 3, 5, "{}"),
        Record(1, "a", 2, 3, 4, '{"k":"v"}'),
    ]
    assert base.crc() == zlib.crc32(b'[1,"a",2,3,4,"{}"]')
    assert base.crc() not in {other.crc() for other in others}
