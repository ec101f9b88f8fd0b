"""Snapshot files: whole under their name or not there, and verified before anything is believed."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from cyoloctl import paths
from cyoloctl.errors import AlreadyExists, ConfigError, InvalidInput, StorageError, VersionMismatch
from cyoloctl.snapshots.file import (
    Head,
    Saved,
    encode_head,
    is_snapshot,
    new_snapshot_file,
    open_snapshot_file,
    verify_snapshot,
)

HEAD = Head(
    cluster_id="c" * 32,
    cluster="cyolo",
    node="n1",
    release="0.2.0",
    epoch=1,
    index=40,
    term=3,
    time_unix_ms=10**12,
    keys="passphrase",
    state_bytes=1000,
    keys_bytes=9,
)
STATE, RING = b"\x00state" + b"x" * 994, b"a ring...".ljust(9)


def written(path: Path, head: Head = HEAD, *parts: bytes) -> bytes:
    with new_snapshot_file(path) as write:
        write(encode_head(head))
        for part in parts or (STATE, RING):
            write(part)
    return path.read_bytes()


def opened(path: Path) -> Head:
    with open_snapshot_file(path) as saved:
        return saved.head


def signed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def test_snapshot_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "s"
    content = written(path)
    with open_snapshot_file(path) as found:
        assert (found.head, b"".join(found.parts()), found.key_ring()) == (HEAD, STATE, RING)
        assert b"".join(found.parts()) == STATE
    assert found.sha256 == hashlib.sha256(content[:-32]).hexdigest()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["s"]
    assert is_snapshot(path)


def test_large_file_is_synced_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once it would be in front of the journal's next sync, which every write waits for."""
    path, sizes, fsync = tmp_path / "large", [], os.fsync

    def recorded(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    part = bytes(paths.SYNCED_BYTES // 2)
    with new_snapshot_file(path) as write:
        for _ in range(5):
            write(part)
    assert sizes[:2] == [2 * len(part), 4 * len(part)]
    assert max(sizes) == path.stat().st_size


def test_file_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def broken_off() -> None:
        with new_snapshot_file(path) as write:
            write(encode_head(HEAD))
            assert not path.exists()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken_off()
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(AlreadyExists), new_snapshot_file(path):
        pass
    path.unlink()

    def overtaken() -> None:
        with new_snapshot_file(path):
            path.write_text("made meanwhile")

    with pytest.raises(AlreadyExists):
        overtaken()
    assert path.read_text() == "made meanwhile"
    assert [each.name for each in tmp_path.iterdir()] == ["s"]


def test_place_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such file"), new_snapshot_file(tmp_path / "no" / "s"):
        pass
    with pytest.raises((InvalidInput, ConfigError)):
        opened(tmp_path / "s")


@pytest.mark.parametrize("position", [9, 13, 40, 400, 1200, -33, -1])
def test_damage_is_found_wherever_it_is(tmp_path: Path, position: int) -> None:
    path = tmp_path / "s"
    content = bytearray(written(path))
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError, match="damaged"):
        opened(path)


@pytest.mark.parametrize("length", [0, 7, 8, 20, 44, 500, -1])
def test_file_that_was_cut_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "s"
    path.write_bytes(written(path)[:length])
    with pytest.raises((StorageError, InvalidInput)):
        opened(path)


def test_newer_format_is_told_apart_from_damage(tmp_path: Path) -> None:
    path = tmp_path / "s"
    content = bytearray(written(path))[:-32]
    content[8] = 2
    path.write_bytes(signed(bytes(content)))
    with pytest.raises(VersionMismatch, match="format version 2"):
        opened(path)


def test_other_file_is_no_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"cyolosnp" + b"x" * 200)
    with pytest.raises(InvalidInput, match="is no snapshot"):
        opened(path)
    assert not is_snapshot(path)
    assert not is_snapshot(tmp_path / "none")


@pytest.mark.parametrize(
    "head",
    [
        replace(HEAD, state_bytes=999),
        replace(HEAD, keys_bytes=10),
        replace(HEAD, epoch=-1),
        replace(HEAD, index=2**63),
        replace(HEAD, cluster_id="x"),
        replace(HEAD, keys="nobody"),
        replace(HEAD, node=3),
        replace(HEAD, term=True),
    ],
)
def test_head_that_is_wrong_is_refused_though_its_checksum_is_right(tmp_path: Path, head: Head) -> None:
    path = tmp_path / "s"
    written(path, head)
    with pytest.raises(StorageError, match="its head is wrong"):
        opened(path)


class Counted(BytesIO):
    """A file in memory, and the most that was read from it at once."""

    most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.most = max(self.most, len(data))
        return data


def test_file_is_read_in_pieces_however_long_it_is() -> None:
    """The most at once is a mebibyte, of the state too."""
    state = b"s" * (5 * 2**20)
    head = encode_head(replace(HEAD, state_bytes=len(state), keys_bytes=0))
    content = signed(head + state)
    file = Counted(content)
    saved = verify_snapshot(file, len(content), "the file")
    assert sum(map(len, saved.parts())) == len(state)
    assert file.most == 2**20


def test_state_that_changes_between_two_reads_is_told(tmp_path: Path) -> None:
    path, state = tmp_path / "s", b"x" * 100_000  # more than is read ahead
    content = written(path, replace(HEAD, state_bytes=len(state)), state, RING)
    for change in (content.replace(b"xx", b"xy"), content[:60_000]):
        path.write_bytes(content)
        with open_snapshot_file(path) as saved:
            assert b"".join(saved.parts()) == state
            path.write_bytes(change)
            with pytest.raises(StorageError, match="changed while it was read"):
                _again(saved)


def _again(saved: Saved) -> None:
    assert b"".join(saved.parts()) != b""


def test_snapshot_may_come_through_a_pipe(tmp_path: Path) -> None:
    content = written(tmp_path / "s")
    pipe, end = os.pipe()
    try:
        os.write(end, content)  # less than a pipe holds
        os.close(end)
        with open_snapshot_file(Path(f"/dev/fd/{pipe}")) as saved:
            assert b"".join(saved.parts()) == STATE
    finally:
        os.close(pipe)
