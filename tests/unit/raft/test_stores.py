"""How a member's durable state begins, and whose it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cyoloctl.errors import AlreadyExists, ConfigError, StorageError
from cyoloctl.model import RaftId
from cyoloctl.raft.journal import Journal
from cyoloctl.raft.sqlite_store import SqliteStore
from cyoloctl.raft.stores import JOURNAL_NAME, count_start, create_storage, memory_storage, open_storage
from cyoloctl.raft.vendor import decode_membership

CLUSTER = "c" * 32


def _create(directory: Path, *, cluster_id: str = CLUSTER, name: str = "n1", founder: bool = False) -> None:
    create_storage(directory, cluster_id=cluster_id, name=name, founder=founder)


def _changes(journal: Journal) -> list[object]:
    return [decode_membership(command) for command, _, _ in journal.entries]


@pytest.mark.parametrize("founder", [True, False])
def test_log_of_a_founder_names_it_and_that_of_a_joiner_nobody(tmp_path: Path, founder: bool) -> None:
    _create(tmp_path, founder=founder)
    journal, snapshots = open_storage(tmp_path, cluster_id=CLUSTER, name="n1")
    assert _changes(journal) == ([None, ("add", "n1")] if founder else [None])
    assert snapshots.meta is None
    journal.close()


def test_log_in_memory_names_its_founder_or_nobody() -> None:
    assert _changes(memory_storage(founder=RaftId("n1~7"))[0]) == [None, ("add", "n1~7")]
    assert _changes(memory_storage(founder=None)[0]) == [None]


def test_new_log_is_on_disk_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `create_storage` closes it, which would sync it too, and as the process may end before."""
    monkeypatch.setattr(Journal, "close", lambda journal: journal._store.close())
    _create(tmp_path, founder=True)
    monkeypatch.undo()
    journal = Journal(SqliteStore(tmp_path / JOURNAL_NAME))
    assert (journal.last_index, journal.get_meta("name")) == (2, "n1")
    journal.close()


def test_interrupted_join_goes_on(tmp_path: Path) -> None:
    for _ in range(3):
        _create(tmp_path)
    journal, _ = open_storage(tmp_path, cluster_id=CLUSTER, name="n1")
    assert journal.last_index == 1
    journal.close()


@pytest.mark.parametrize(
    ("founder", "cluster_id", "name"),
    [(True, CLUSTER, "n1"), (False, "d" * 32, "n1"), (False, CLUSTER, "n2")],
)
def test_storage_that_holds_a_node_is_not_made_again(
    tmp_path: Path, founder: bool, cluster_id: str, name: str
) -> None:
    _create(tmp_path)
    with pytest.raises(AlreadyExists, match="holds a node already"):
        _create(tmp_path, founder=founder, cluster_id=cluster_id, name=name)
    journal, _ = open_storage(tmp_path, cluster_id=CLUSTER, name="n1")
    journal.append(2, 1, b"\x01")
    journal.close()
    with pytest.raises(AlreadyExists, match="holds a node already"):
        _create(tmp_path)


def test_storage_without_its_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="member remove n1"):
        open_storage(tmp_path, cluster_id=CLUSTER, name="n1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("cluster_id", "name"), [("d" * 32, "n1"), (CLUSTER, "n2")])
def test_storage_of_another_node_or_cluster_is_refused(tmp_path: Path, cluster_id: str, name: str) -> None:
    _create(tmp_path)
    for _ in range(2):  # and let go of
        with pytest.raises(ConfigError, match="belongs to node 'n1'"):
            open_storage(tmp_path, cluster_id=cluster_id, name=name)


def test_starts_are_counted_durably(tmp_path: Path) -> None:
    _create(tmp_path)
    journal, _ = open_storage(tmp_path, cluster_id=CLUSTER, name="n1")
    for start in range(1, 4):
        assert count_start(journal) == start
        crashed = tmp_path / f"crashed{start}"
        crashed.mkdir()
        for file in (JOURNAL_NAME, f"{JOURNAL_NAME}-wal"):
            shutil.copyfile(tmp_path / file, crashed / file)
        found = Journal(SqliteStore(crashed / JOURNAL_NAME))
        assert found.get_meta("boots") == str(start)
        found.close()
    journal.close()
