"""Files of a node: on disk before it is said so, and nobody else's."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from cyoloctl.errors import AlreadyExists, StorageError
from cyoloctl.paths import FoundNode, disk_space, find_node, make_private_directory, write_private


@pytest.mark.parametrize("exclusive", [False, True])
def test_written_file_is_on_disk_before_its_name_and_its_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exclusive: bool
) -> None:
    path = tmp_path / "file"
    steps: list[str] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            assert os.path.samefile(f"/proc/self/fd/{descriptor}", tmp_path)
            steps.append(f"directory, with {sorted(os.listdir(tmp_path))}")
        else:
            whole = Path(f"/proc/self/fd/{descriptor}").read_bytes() == b"secret"
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            steps.append(f"{'whole' if whole else 'partial'} file, {mode:o}, named: {path.exists()}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    write_private(path, b"secret", exclusive=exclusive)
    assert steps == ["whole file, 600, named: False", "directory, with ['file']"]
    assert path.read_bytes() == b"secret"


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("call", ["fsync", "rename", "link"])
def test_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, exclusive: bool
) -> None:
    if (call == "rename") is exclusive and call != "fsync":
        return
    path = tmp_path / "file"
    if not exclusive:
        path.write_bytes(b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match="make space"):
        write_private(path, b"new", exclusive=exclusive)
    monkeypatch.undo()
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == (
        [] if exclusive else [("file", b"old")]
    )


def test_write_exclusive_leaves_a_file_that_is_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(AlreadyExists):
        write_private(tmp_path / "file", b"new", exclusive=True)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_private_directory_is_its_owners_alone_and_one_that_is_there_stays(tmp_path: Path) -> None:
    make_private_directory(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    make_private_directory(tmp_path / "open")
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o755


def test_file_system_without_a_free_inode_has_no_space(monkeypatch: pytest.MonkeyPatch) -> None:
    class Found:
        f_files, f_favail, f_bavail, f_frsize, f_blocks = 100, 0, 1000, 4096, 2000

    monkeypatch.setattr(os, "statvfs", lambda _path: Found)
    assert disk_space("/") == (0, 8_192_000)
    Found.f_favail = 1
    assert disk_space("/") == (4_096_000, 8_192_000)
    Found.f_files = Found.f_favail = 0  # a file system that counts none
    assert disk_space("/") == (4_096_000, 8_192_000)


def found(tmp_path: Path, *endpoints: str, data_dir: Path | None = None, **environ: str) -> FoundNode:
    return find_node(endpoints, data_dir, None, {"HOME": str(tmp_path), **environ})


def test_node_is_found_by_what_was_given_before_what_the_environment_says(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    listed = {"CYOLOCTL_ENDPOINT": "unix:///a, unix:///b", "CYOLOCTL_DATA_DIR": str(other)}
    assert found(tmp_path, "unix:///x", **listed)[::3] == (("unix:///x",), False)
    assert found(tmp_path, **listed).endpoints == ("unix:///a", "unix:///b")
    by_dir = found(tmp_path, data_dir=own, **listed)
    assert (by_dir.endpoints, by_dir.data_dir) == ((f"unix://{own}/control.sock",), str(own))
    assert (by_dir.from_data_dir, by_dir.own_socket) == (True, True)
    assert found(tmp_path, CYOLOCTL_DATA_DIR=str(other)).endpoints == (f"unix://{other}/control.sock",)


def test_credentials_are_those_of_the_environment_or_of_the_data_directory(tmp_path: Path) -> None:
    where = "https://127.0.0.1:1"
    assert found(tmp_path, where, data_dir=tmp_path).credentials is None
    (tmp_path / "operator.yaml").touch()
    mine = found(tmp_path, where, data_dir=tmp_path)
    assert (mine.credentials, mine.from_data_dir, mine.own_socket) == (
        str(tmp_path / "operator.yaml"),
        True,
        False,
    )
    theirs = found(tmp_path, where, data_dir=tmp_path, CYOLOCTL_CREDENTIALS="/c")
    assert (theirs.credentials, theirs.from_data_dir) == ("/c", False)
    assert found(tmp_path, "unix:///x", data_dir=tmp_path).credentials is None
