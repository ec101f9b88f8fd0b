"""The log of a node, read beside the process that writes it."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cyoloctl.errors import InvalidInput, StorageError
from cyoloctl.model import RaftId, Stamp
from cyoloctl.raft import inspection
from cyoloctl.raft.batch import encode_batch
from cyoloctl.raft.inspection import copy_journal, inspect_journal
from cyoloctl.raft.journal import Journal
from cyoloctl.raft.snapshot import SnapshotMeta, SnapshotStore
from cyoloctl.raft.sqlite_store import SqliteStore
from cyoloctl.raft.stores import create_storage
from cyoloctl.raft.vendor import encode_membership

# Checkpoints and new beginnings of the WAL as often as can be, and a log that is compacted.
_WRITER = """
import sys
import tempfile
from pathlib import Path
from cyoloctl.raft import sqlite_store
from cyoloctl.raft.journal import Journal
sqlite_store._CHECKPOINT_FRAMES = 8
journal = Journal(sqlite_store.SqliteStore(Path(sys.argv[1])))
print("ready", flush=True)
while True:
    for _ in range(3):
        journal.append(journal.last_index + 1, 1, b"\\0" + bytes([journal.last_index % 256]) * 3000)
    if journal.last_index - journal.first_index > 60:
        journal.compact_to(journal.last_index - 20)
    journal.sync()
"""


def test_copy_of_a_journal_that_is_written_is_whole_each_time(tmp_path: Path) -> None:
    journal = tmp_path / "raft.db"
    create_storage(tmp_path, cluster_id="c", name="n1", founder=True)
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(journal)], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            last = 0
            for number in range(40):
                copy = tmp_path / f"copy{number}"
                copy_journal(journal, copy)
                assert copy.stat().st_mode & 0o777 == 0o600
                store = SqliteStore(copy)
                state = store.load()  # verifies every entry, and that none is missing
                store.close()
                assert state is not None
                assert state.record.last_index >= last
                last = state.record.last_index
                copy.unlink()
            assert writer.poll() is None
        finally:
            writer.kill()
    assert last > 10, "nothing was written meanwhile"


def test_copy_across_a_new_beginning_of_the_wal_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_storage(tmp_path, cluster_id="c", name="n1", founder=True)
    (tmp_path / "raft.db-wal").write_bytes(b"")
    headers = iter([b"old", b"new", b"", b""])
    copied: list[Path] = []
    monkeypatch.setattr(inspection, "_wal_header", lambda _path: next(headers))
    monkeypatch.setattr(
        inspection, "_copy", lambda source, target: (copied.append(source), shutil.copyfile(source, target))
    )
    copy_journal(tmp_path / "raft.db", tmp_path / "copy")
    assert [path.name for path in copied] == ["raft.db", "raft.db-wal", "raft.db"]


def _crashed(directory: Path) -> Path:
    """A journal of four entries, the last of which is in the WAL."""
    create_storage(directory, cluster_id="c", name="n1", founder=True)
    journal = Journal(SqliteStore(directory / "raft.db"))
    journal.append(3, 1, b"\x01")
    journal.append(4, 1, b"\x01")
    journal.sync()
    target = directory / "crashed"
    target.mkdir()
    for name in ("raft.db", "raft.db-wal"):
        shutil.copyfile(directory / name, target / name)
    journal.close()
    return target / "raft.db"


def test_copy_of_a_crashed_node_holds_what_is_in_its_wal(tmp_path: Path) -> None:
    journal, copy = _crashed(tmp_path), tmp_path / "copy"
    copy_journal(journal, copy)
    assert not copy.with_name("copy-wal").exists()
    assert copy.stat().st_mode & 0o777 == 0o600
    connection = sqlite3.connect(copy)
    assert connection.execute("SELECT max(position) FROM entries").fetchone() == (4,)
    connection.close()


def test_copy_takes_the_file_before_its_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint writes nothing into the file that the WAL does not hold: the WAL has to be the later."""
    journal = _crashed(tmp_path)
    copied: list[str] = []
    copy = inspection._copy

    def recorded(source: Path, target: Path) -> None:
        copied.append(source.name)
        copy(source, target)

    monkeypatch.setattr(inspection, "_copy", recorded)
    copy_journal(journal, tmp_path / "copy")
    assert copied == ["raft.db", "raft.db-wal"]


def test_copy_while_which_the_wal_begins_again_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = _crashed(tmp_path)
    headers = [b"old"]
    copied: list[str] = []
    copy = inspection._copy

    def recorded(source: Path, target: Path) -> None:
        copy(source, target)
        copied.append(source.name)
        headers.append(b"new")

    monkeypatch.setattr(inspection, "_wal_header", lambda _path: headers[-1])
    monkeypatch.setattr(inspection, "_copy", recorded)
    copy_journal(journal, tmp_path / "copy")
    assert copied == ["raft.db", "raft.db-wal", "raft.db", "raft.db-wal"]


def test_copy_never_replaces_a_file(tmp_path: Path) -> None:
    journal = _crashed(tmp_path)
    (tmp_path / "copy").write_text("somebody's")
    with pytest.raises(InvalidInput):
        copy_journal(journal, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "somebody's"


def test_inspection_takes_changes_before_the_snapshot_from_it_alone(tmp_path: Path) -> None:
    create_storage(tmp_path, cluster_id="c", name="n1", founder=True)
    SnapshotStore(tmp_path).save(SnapshotMeta(2, 0, (RaftId("n0"),), ()), b"state")
    with inspect_journal(tmp_path / "raft.db", tmp_path / "snapshot") as copy:
        assert copy.configuration.voters == {"n0"}


def test_inspection_reads_the_snapshot_after_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_storage(tmp_path, cluster_id="c", name="n1", founder=True)
    read: list[str] = []
    copy, meta = inspection.copy_journal, inspection.read_meta
    monkeypatch.setattr(inspection, "copy_journal", lambda *paths: (read.append("journal"), copy(*paths))[1])
    monkeypatch.setattr(inspection, "read_meta", lambda path: (read.append("snapshot"), meta(path))[1])
    with inspect_journal(tmp_path / "raft.db", tmp_path / "snapshot"):
        pass
    assert read == ["journal", "snapshot"]


def test_inspection_shows_entries_voters_and_snapshot_and_leaves_no_file(tmp_path: Path) -> None:
    create_storage(tmp_path, cluster_id="c", name="n1", founder=True)
    SnapshotStore(tmp_path).save(SnapshotMeta(1, 0, (RaftId("n0"),), (RaftId("n9"),)), b"state")
    journal = Journal(SqliteStore(tmp_path / "raft.db"))
    journal.set_term(3, "n1")
    journal.append(3, 3, encode_batch([(b"one", 2), (b"two", 2)], Stamp(0, 1_700_000_000_000, 5)))
    journal.append(4, 3, encode_membership("remove", RaftId("n0")))
    journal.close()
    before = sorted(tmp_path.iterdir())
    with inspect_journal(tmp_path / "raft.db", tmp_path / "snapshot") as copy:
        assert copy.record is not None
        assert (copy.record.term, copy.record.vote, copy.record.last_index) == (3, "n1", 4)
        assert copy.snapshot is not None
        assert copy.snapshot.index == 1
        assert copy.configuration.voters == {"n1"}
        assert copy.configuration.removed == {"n0", "n9"}
        no_op, founder, commands, removal = copy.entries(0, 100)
        assert [each.index for each in copy.entries(2, 3)] == [2, 3]
    assert sorted(tmp_path.iterdir()) == before
    assert no_op.no_op
    assert founder.change == ("add", "n1")
    assert commands.commands == (b"one", b"two")
    assert commands.stamp == Stamp(0, 1_700_000_000_000, 5)
    assert removal.change == ("remove", "n0")
    assert all(each.whole for each in (no_op, founder, commands, removal))


def test_inspection_of_a_damaged_entry_says_so_and_shows_the_others(tmp_path: Path) -> None:
    create_storage(tmp_path, cluster_id="c", name="n1", founder=True)
    connection = sqlite3.connect(tmp_path / "raft.db")
    connection.execute("UPDATE entries SET term = term + 1 WHERE position = 2")
    connection.commit()
    connection.close()
    with inspect_journal(tmp_path / "raft.db", tmp_path / "snapshot") as copy:
        assert [each.whole for each in copy.entries(0, 9)] == [True, False]
        assert copy.snapshot is None


def test_inspection_of_what_is_no_journal_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "raft.db").write_bytes(b"x" * 5000)
    with pytest.raises(StorageError), inspect_journal(tmp_path / "raft.db", tmp_path / "snapshot"):
        pass


def test_inspection_without_a_place_for_the_copy_says_where_to_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_storage(tmp_path, cluster_id="c", name="n1", founder=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with (
        pytest.raises(StorageError, match="TMPDIR"),
        inspect_journal(tmp_path / "raft.db", tmp_path / "snapshot"),
    ):
        pass


def test_copy_into_a_directory_that_is_not_there_names_it(tmp_path: Path) -> None:
    create_storage(tmp_path, cluster_id="c", name="n1", founder=True)
    with pytest.raises(InvalidInput, match="absent"):
        copy_journal(tmp_path / "raft.db", tmp_path / "absent" / "copy")
