"""The backup of a data directory of release 0.1.0: whole or not at all, once."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from pathlib import Path

import pytest

from cyoloctl.errors import Conflict, StorageError, VersionMismatch
from cyoloctl.raft.sqlite_store import SqliteStore
from cyoloctl.raft.stores import JOURNAL_NAME, create_storage, open_storage
from cyoloctl.raft.upgrade import BACKUP_NAME, back_up_old, journal_format


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A directory as release 0.1.0 left it."""
    create_storage(tmp_path, cluster_id="c" * 32, name="n1", founder=True)
    with sqlite3.connect(tmp_path / JOURNAL_NAME) as connection:
        connection.execute("PRAGMA user_version=1")
    connection.close()
    (tmp_path / "pki").mkdir(mode=0o700)
    (tmp_path / "pki" / "node.key").write_text("key")
    os.chmod(tmp_path / "pki" / "node.key", 0o600)
    (tmp_path / "node.log").write_text("not kept")
    return tmp_path


def _open(data_dir: Path) -> None:
    journal, _ = open_storage(data_dir, cluster_id="c" * 32, name="n1")
    journal.close()


def test_backup_is_made_once_with_the_modes_and_the_journal_is_raised(old: Path) -> None:
    before = (old / JOURNAL_NAME).read_bytes()
    _open(old)
    backup = old / BACKUP_NAME
    assert (backup / JOURNAL_NAME).read_bytes() == before
    assert sorted(path.name for path in backup.iterdir()) == ["pki", JOURNAL_NAME]
    assert (backup / "pki" / "node.key").stat().st_mode & 0o777 == 0o600
    assert journal_format(old / JOURNAL_NAME) == 2
    _open(old)
    assert (backup / JOURNAL_NAME).read_bytes() == before


def test_backup_of_a_directory_of_this_release_is_not_made(tmp_path: Path) -> None:
    create_storage(tmp_path, cluster_id="c" * 32, name="n1", founder=True)
    assert back_up_old(tmp_path, JOURNAL_NAME) is None
    assert not (tmp_path / BACKUP_NAME).exists()


def test_backup_while_a_node_runs_is_refused_and_changes_nothing(old: Path) -> None:
    with open(old / JOURNAL_NAME, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="stop that node"):
            _open(old)
    assert journal_format(old / JOURNAL_NAME) == 1
    assert not (old / BACKUP_NAME).exists()


def test_backup_that_cannot_be_made_is_a_storage_error_and_leaves_nothing(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cyoloctl.raft.upgrade.shutil.copyfile", full)
    with pytest.raises(StorageError, match="make room"):
        _open(old)
    assert journal_format(old / JOURNAL_NAME) == 1
    assert not [path for path in old.iterdir() if "backup" in path.name]


def test_journal_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    create_storage(tmp_path, cluster_id="c" * 32, name="n1", founder=True)
    with sqlite3.connect(tmp_path / JOURNAL_NAME) as connection:
        connection.execute("PRAGMA user_version=3")
    connection.close()
    with pytest.raises(VersionMismatch):
        SqliteStore(tmp_path / JOURNAL_NAME)


def test_backup_that_is_there_stays_as_it_is(old: Path) -> None:
    (old / BACKUP_NAME).mkdir()
    (old / BACKUP_NAME / "of the first try").touch()
    assert back_up_old(old, JOURNAL_NAME) == old / BACKUP_NAME
    assert os.listdir(old / BACKUP_NAME) == ["of the first try"]


def test_backup_holds_the_wal_and_the_snapshot(old: Path) -> None:
    (old / "raft.db-wal").write_bytes(b"latest writes")
    (old / "snapshot").write_bytes(b"state")
    assert back_up_old(old, JOURNAL_NAME) == old / BACKUP_NAME
    assert (old / BACKUP_NAME / "raft.db-wal").read_bytes() == b"latest writes"
    assert (old / BACKUP_NAME / "snapshot").read_bytes() == b"state"


def test_backup_is_on_disk_before_its_name_and_before_the_journal_is_raised(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def recorded_fsync(descriptor: int) -> None:
        steps.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def recorded_rename(source: str, target: Path) -> None:
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    back_up_old(old, JOURNAL_NAME)
    staging = steps[steps.index("rename") - 1]
    assert staging.startswith(f".{BACKUP_NAME}.")
    assert steps == [JOURNAL_NAME, "node.key", "pki", staging, "rename", old.name]
    assert journal_format(old / JOURNAL_NAME) == 1


def test_backup_on_a_file_system_without_locks_is_made(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    assert back_up_old(old, JOURNAL_NAME) == old / BACKUP_NAME
