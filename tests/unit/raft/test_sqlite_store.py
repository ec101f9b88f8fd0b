"""A journal in its file: beside other programs that read it, and what is on disk when."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyoloctl.errors import Conflict, StorageError
from cyoloctl.raft import sqlite_store
from cyoloctl.raft.journal import Journal
from cyoloctl.raft.sqlite_store import SqliteStore
from cyoloctl.raft.wal import check_wal

# A process of its own: closing the file in this one would drop the locks that the journal has.
_READER = """
import itertools, sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode={sys.argv[2]}", uri=True, isolation_level=None)
if sys.argv[3] == "held":
    connection.execute("BEGIN")
for _ in itertools.chain([0], sys.stdin):
    print(connection.execute("SELECT count(*) FROM entries").fetchone()[0], flush=True)
"""


class Reader:
    """Another program that has the file open."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def count(self, *, again: bool = True) -> int:
        """The entries that it sees."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if again:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextlib.contextmanager
def _reader(path: Path, mode: str, how: str) -> Iterator[Reader]:
    with subprocess.Popen(
        [sys.executable, "-c", _READER, str(path), mode, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        reader = Reader(process)
        reader.count(again=False)
        yield reader
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of five entries that was closed."""
    made = tmp_path / "raft.db"
    journal = Journal(SqliteStore(made))
    _fill(journal, 5)
    journal.close()
    return made


def _fill(journal: Journal, last: int) -> None:
    for index in range(journal.last_index + 1, last + 1):
        journal.append(index, 1, b"\0" * 3000)
    journal.sync()


def _crash(path: Path, last: int) -> None:
    """Entries up to last, and no end: what is in the WAL stays there."""
    script = (
        "import os, sys; from pathlib import Path; from cyoloctl.raft.journal import Journal; "
        "from cyoloctl.raft.sqlite_store import SqliteStore; "
        "journal = Journal(SqliteStore(Path(sys.argv[1]))); "
        "[journal.append(n, 1, bytes(3000)) or journal.sync() "
        "for n in range(journal.last_index + 1, int(sys.argv[2]) + 1)]; os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(path), str(last)], check=True, timeout=60)
    assert path.with_name("raft.db-wal").stat().st_size > 8000


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_reader_that_has_the_file_open_keeps_no_node_from_starting_and_sees_its_writes(
    path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    with _reader(path, mode, "open") as reader:
        journal = Journal(SqliteStore(path))
        assert "another program has the journal open" in caplog.text
        _fill(journal, 400)  # past several checkpoints
        assert reader.count() == 400
        with pytest.raises(Conflict, match="in use by another process"):
            SqliteStore(path)
        journal.close()
    journal = Journal(SqliteStore(path))
    assert journal.last_index == 400
    journal.close()


def test_reader_in_a_transaction_keeps_no_node_from_starting_after_a_crash(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "_BUSY_TIMEOUT_S", 0.1)
    _crash(path, 9)
    assert check_wal(path.with_name("raft.db-wal"))
    with _reader(path, "ro", "held") as reader:
        journal = Journal(SqliteStore(path))
        _fill(journal, 20)
        assert reader.count() == 9, "what it saw when it began"
        journal.close()
    journal = Journal(SqliteStore(path))
    assert journal.last_index == 20
    journal.close()


def test_reader_in_a_transaction_while_the_wal_is_torn_is_named_as_the_reason(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "_BUSY_TIMEOUT_S", 0.1)
    _crash(path, 9)
    wal = path.with_name("raft.db-wal")
    data = bytearray(wal.read_bytes())
    data[-100] ^= 1  # of the last frame
    wal.write_bytes(data)
    assert not check_wal(wal)
    with _reader(path, "ro", "held"), pytest.raises(StorageError, match="read by another program"):
        SqliteStore(path)
    journal = Journal(SqliteStore(path))
    assert journal.last_index == 8
    journal.close()


def test_journal_without_readers_is_its_nodes_alone(path: Path) -> None:
    journal = Journal(SqliteStore(path))
    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT * FROM record')"
    refused = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "database is locked" in refused.stderr, "nobody can write or check-point it beside the node"
    assert not path.with_name("raft.db-shm").exists()
    journal.close()


def test_journal_that_sqlite_finds_locked_is_in_use_and_not_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system without flock: SQLite's own lock is the one that is left."""
    monkeypatch.setattr(SqliteStore, "_lock", lambda _store: False)
    script = (
        "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "connection.execute('PRAGMA locking_mode=EXCLUSIVE'); connection.execute('BEGIN EXCLUSIVE'); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Conflict, match="in use by another process"):
            SqliteStore(path)
        other.communicate()


def test_new_journal_is_in_its_directory_on_disk_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's own fdatasync does not make its name durable."""
    synced: list[str] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        assert is_directory
        assert os.path.samefile(f"/proc/self/fd/{descriptor}", tmp_path)
        synced.append("directory")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    store = SqliteStore(tmp_path / "raft.db")
    assert synced == ["directory"]
    assert (tmp_path / "raft.db").exists()
    store.close()


def test_compaction_is_taken_from_the_wal_into_the_file(path: Path, tmp_path: Path) -> None:
    journal = Journal(SqliteStore(path))
    _fill(journal, 100)
    journal.compact_to(90)
    journal.sync()
    shutil.copyfile(path, tmp_path / "alone.db")
    journal.close()
    connection = sqlite3.connect(tmp_path / "alone.db")
    assert connection.execute("SELECT min(position), max(position) FROM entries").fetchone() == (90, 100)
    connection.close()
