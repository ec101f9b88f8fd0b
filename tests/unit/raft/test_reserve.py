"""The journal on a disk that is full: what it had is kept, votes find room, and it goes on by itself."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyoloctl.errors import StorageError
from cyoloctl.raft.journal import Journal
from cyoloctl.raft.reserve import RESERVE_NAME, Reserve
from cyoloctl.raft.sqlite_store import SqliteStore
from cyoloctl.raft.wal import check_wal

SIZE = 4 * 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, whose reserve is 256 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root and the right to mount a tmpfs")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Take all space but so many bytes."""
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * 4096
    with open(ballast, "ab") as file:
        if free > leave:
            os.posix_fallocate(file.fileno(), file.tell(), free - leave)
    return ballast


def opened(disk: Path) -> Journal:
    reserve = Reserve(disk / RESERVE_NAME)
    reserve.hold()
    return Journal(SqliteStore(disk / "raft.db", reserve))


def state(journal: Journal) -> tuple[object, ...]:
    return journal.term, journal.vote, list(journal.entries)


def began(disk: Path, count: int = 5) -> Journal:
    journal = opened(disk)
    for index in range(1, count + 1):
        journal.append(index, 0, b"%d" % index)
    journal.sync()
    return journal


def test_reserve_is_held_given_in_parts_and_held_again(disk: Path) -> None:
    reserve = Reserve(disk / RESERVE_NAME)
    assert reserve.hold()
    assert os.stat(disk / RESERVE_NAME).st_size == SIZE // 16
    assert os.stat(disk / RESERVE_NAME).st_mode & 0o777 == 0o600
    ballast = fill(disk)
    assert os.statvfs(disk).f_bavail == 0
    assert reserve.give(1)
    assert os.statvfs(disk).f_bavail * 4096 == 2**14
    assert reserve.give(10 * 2**20)
    assert not reserve.give(1)
    assert not reserve.hold() or os.statvfs(disk).f_bavail * 4096 >= SIZE // 16
    ballast.unlink()
    assert reserve.hold()
    assert os.stat(disk / RESERVE_NAME).st_size == SIZE // 16


def test_reserve_that_came_from_a_larger_disk_is_cut(disk: Path) -> None:
    (disk / RESERVE_NAME).write_bytes(bytes(2**20))
    assert Reserve(disk / RESERVE_NAME).hold()
    assert os.stat(disk / RESERVE_NAME).st_size == SIZE // 16


def test_reserve_never_takes_the_last_space(disk: Path) -> None:
    fill(disk, leave=SIZE // 8 - 4096)
    assert not Reserve(disk / RESERVE_NAME).hold()
    assert not (disk / RESERVE_NAME).exists()


def test_journal_on_a_full_disk_keeps_voting_and_finds_room_again(disk: Path) -> None:
    journal = began(disk)
    ballast = fill(disk)
    assert not journal.is_short()
    journal.append(6, 1, bytes(3000))
    for term in range(1, 200):  # far more than the reserve would hold one after the other
        journal.set_term(term, f"n{term % 3}")
        journal.sync()
    assert journal.is_short()
    assert not journal.find_room()
    kept = state(journal)
    journal.close()
    check_wal(disk / "raft.db-wal")

    journal = opened(disk)
    assert state(journal) == kept
    ballast.unlink()
    assert journal.find_room()
    assert not journal.is_short()
    journal.append(7, 1, bytes(2**18))
    journal.sync()
    assert not journal.is_short()
    journal.close()


def test_journal_without_a_reserve_stops_on_a_full_disk(disk: Path) -> None:
    journal = Journal(SqliteStore(disk / "raft.db"))
    journal.append(1, 0, b"1")
    journal.sync()
    fill(disk)
    journal.append(2, 0, bytes(2**16))
    with pytest.raises(StorageError, match="the disk is full: free space"):
        journal.sync()


def test_journal_stops_when_the_reserve_is_used_up(disk: Path) -> None:
    journal = began(disk)
    fill(disk)
    with pytest.raises(StorageError, match="the disk is full: free space"):  # noqa: PT012
        for index in range(6, 200):
            journal.append(index, 0, bytes(2**14))
            journal.sync()
    kept = journal._durable.last_index
    journal.close()
    (disk / "ballast").unlink()
    journal = opened(disk)
    assert journal.last_index == kept
    journal.close()


def test_checkpoint_that_finds_no_room_loses_nothing(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(disk)
    journal.append(1, 0, b"1")
    journal.sync()
    journal._store._checkpoint_frames = 10**6  # type: ignore[attr-defined]
    for index in range(2, 30):
        journal.append(index, 0, bytes(3000))
    journal.sync()  # all of it is in the WAL alone
    fill(disk, leave=40_000)
    monkeypatch.setattr(Reserve, "give", lambda *_: False)
    journal.truncate_from(29)
    journal.sync()
    assert journal.is_short()
    kept = state(journal)
    (disk / "ballast").unlink()
    assert journal.find_room()
    journal.append(29, 0, b"more")
    journal.sync()
    journal.close()
    journal = opened(disk)
    assert journal.entries[:-1] == kept[2]
    journal.close()


@pytest.mark.parametrize("seed", range(6))
def test_journal_on_a_disk_that_fills_and_empties_keeps_what_it_synced(
    disk: Path, tmp_path: Path, seed: int
) -> None:
    """Also where its process dies in between: what it leaves in its WAL is no damage."""
    rng = random.Random(seed)
    journal = began(disk)
    kept = state(journal)
    for step in range(60):
        what = rng.random()
        if what < 0.25:
            (disk / "ballast").unlink(missing_ok=True)
            journal.find_room()
        elif what < 0.5:
            fill(disk, leave=rng.choice((0, 4096, 20_000, 60_000)))
        else:
            journal.set_term(journal.term + 1, rng.choice((None, "n1")))
            if rng.random() < 0.3 and journal.last_index > journal.first_index:
                journal.truncate_from(rng.randint(journal.first_index + 1, journal.last_index))
            if not journal.is_short() or rng.random() < 0.2:
                for _ in range(rng.choice((0, 1, 3))):
                    journal.append(journal.last_index + 1, journal.term, rng.randbytes(rng.choice((9, 9000))))
            try:
                journal.sync()
                kept = state(journal)
            except StorageError:
                journal.close()
                (disk / "ballast").unlink(missing_ok=True)
                journal = opened(disk)
        # A process that dies here leaves these files.
        copy = tmp_path / f"copy {step}"
        copy.mkdir()
        for name in ("raft.db", "raft.db-wal"):
            if (disk / name).exists():
                shutil.copy(disk / name, copy / name)
        left = Journal(SqliteStore(copy / "raft.db"))
        assert state(left) == kept
        left.close()
        assert state(journal) == kept
    journal.close()
