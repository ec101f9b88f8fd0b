"""The WAL of SQLite: what a crash leaves is accepted, what only damage leaves is refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from cyoloctl.errors import StorageError
from cyoloctl.raft.wal import check_wal

FRAME_BYTES = 24 + 4096


@pytest.fixture
def wal(tmp_path: Path) -> bytes:
    """Four transactions: of page 2, 3, 2, and of the pages 2 and 3."""
    connection = sqlite3.connect(tmp_path / "any.db", isolation_level=None)
    for statement in (
        "PRAGMA journal_mode=WAL",
        "CREATE TABLE t(a)",
        "CREATE TABLE u(a)",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "INSERT INTO t VALUES(1)",
        "INSERT INTO u VALUES(2)",
        "INSERT INTO t VALUES(3)",
        "BEGIN",
        "INSERT INTO t VALUES(4)",
        "INSERT INTO u VALUES(5)",
        "COMMIT",
    ):
        connection.execute(statement).fetchall()
    data = (tmp_path / "any.db-wal").read_bytes()
    connection.close()
    assert len(data) == 32 + 5 * FRAME_BYTES
    assert [int.from_bytes(_frame(data, n)[:4], "big") for n in range(5)] == [2, 3, 2, 2, 3]
    return data


def _frame(data: bytes, number: int) -> bytes:
    return data[32 + number * FRAME_BYTES :][:FRAME_BYTES]


def _flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def _check(directory: Path, data: bytes) -> bool:
    (directory / "wal").write_bytes(data)
    return check_wal(directory / "wal")


def test_whole_wal_is_whole(tmp_path: Path, wal: bytes) -> None:
    assert _check(tmp_path, wal)
    assert _check(tmp_path, wal + bytes(10_000))


def test_flipped_bit_anywhere_in_the_header_is_refused(tmp_path: Path, wal: bytes) -> None:
    for position in range(32):
        with pytest.raises(StorageError, match="header"):
            _check(tmp_path, _flipped(wal, position))


def test_flipped_bit_in_a_page_before_the_last_transaction_is_refused(tmp_path: Path, wal: bytes) -> None:
    for number in range(3):
        with pytest.raises(StorageError, match="before its last transaction"):
            _check(tmp_path, _flipped(wal, 32 + number * FRAME_BYTES + 24 + 1000))


def test_flipped_commit_mark_before_the_last_transaction_is_refused(tmp_path: Path, wal: bytes) -> None:
    """Of the third, so that the frames behind it seem to belong to it: but a page comes twice."""
    mark = 32 + 2 * FRAME_BYTES + 4
    assert int.from_bytes(wal[mark : mark + 4], "big") == 3
    with pytest.raises(StorageError, match="before its last transaction"):
        _check(tmp_path, wal[:mark] + bytes(4) + wal[mark + 4 :])


def test_torn_last_transaction_is_accepted_and_not_whole(tmp_path: Path, wal: bytes) -> None:
    for number in (3, 4):
        assert not _check(tmp_path, _flipped(wal, 32 + number * FRAME_BYTES + 24 + 1000))


def test_transaction_without_its_commit_mark_is_not_whole(tmp_path: Path, wal: bytes) -> None:
    assert not _check(tmp_path, wal[:-FRAME_BYTES])


def test_frames_of_an_earlier_use_behind_the_end_leave_it_whole(tmp_path: Path, wal: bytes) -> None:
    old = bytearray(_frame(wal, 4))
    old[8] ^= 1  # another salt
    assert _check(tmp_path, wal + bytes(old))
