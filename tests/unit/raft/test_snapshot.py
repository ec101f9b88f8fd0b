"""The snapshot file: whole, or refused; the newest, or untouched."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from cyoloctl.errors import InternalError, InvalidInput, StorageError, VersionMismatch
from cyoloctl.raft import snapshot
from cyoloctl.raft.snapshot import MAX_SNAPSHOT_BYTES, SnapshotMeta, SnapshotStore, Transfer, read_meta
from cyoloctl.state import ClusterState
from tests.support.snapshots import finish, loaded

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}

META = SnapshotMeta(index=7, term=2, voters=("a", "b"), removed=("z",))
NEWER = SnapshotMeta(index=9, term=3, voters=("a",), removed=("b", "z"))


@pytest.fixture(params=["disk", "memory"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], SnapshotStore]:
    count = 0

    def make() -> SnapshotStore:
        nonlocal count
        count += 1
        if request.param == "memory":
            return SnapshotStore(None)
        directory = tmp_path / f"node{count}"
        directory.mkdir()
        return SnapshotStore(directory)

    return make


def opened(store: SnapshotStore) -> Transfer:
    transfer = store.open_transfer()
    assert transfer is not None
    return transfer


def send(transfer: Transfer, store: SnapshotStore, size: int = 10) -> bool:
    receiver = store.begin_receive(transfer.meta, transfer.total, transfer.digest)
    offset = 0
    while offset < transfer.total:
        offset = receiver.write(offset, transfer.read(offset, size))
    return finish(receiver)


def test_snapshot_store_empty_has_nothing(new_store: Callable[[], SnapshotStore]) -> None:
    store = new_store()
    assert store.meta is None
    assert loaded(store) is None
    assert store.open_transfer() is None


def test_snapshot_saved_is_loaded(new_store: Callable[[], SnapshotStore]) -> None:
    store = new_store()
    assert store.save(META, b"state")
    assert store.meta == META
    assert loaded(store) == (META, b"state")


def test_snapshot_saved_survives_reopen_with_mode_0600(tmp_path: Path) -> None:
    SnapshotStore(tmp_path).save(META, b"state")
    assert stat.S_IMODE((tmp_path / "snapshot").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["snapshot"]
    again = SnapshotStore(tmp_path)
    assert again.meta == META
    assert loaded(again) == (META, b"state")


def test_snapshot_file_has_the_documented_bytes(tmp_path: Path) -> None:
    SnapshotStore(tmp_path).save(META, b"state")
    header = b'{"index":7,"removed":["z"],"term":2,"voters":["a","b"]}'
    expected = b"cyolosnp\x02" + len(header).to_bytes(4, "big") + header + b"state"
    assert (tmp_path / "snapshot").read_bytes() == expected + hashlib.sha256(expected).digest()


def test_snapshot_in_parts_is_the_same_file(tmp_path: Path) -> None:
    for name, data in (("whole", b"state"), ("parts", iter((b"st", b"", b"ate")))):
        (tmp_path / name).mkdir()
        assert SnapshotStore(tmp_path / name).save(META, data)
    assert (tmp_path / "whole/snapshot").read_bytes() == (tmp_path / "parts/snapshot").read_bytes()


def test_snapshot_of_version_1_is_read(tmp_path: Path) -> None:
    header = b'{"index":7,"removed":["z"],"term":2,"total":5,"voters":["a","b"]}'
    (tmp_path / "snapshot").write_bytes(
        sealed(b"cyolosnp\x01" + len(header).to_bytes(4, "big") + header + b"state")
    )
    assert loaded(SnapshotStore(tmp_path)) == (META, b"state")


def test_snapshot_of_which_a_part_cannot_be_made_leaves_the_old_one(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    store.save(META, b"old")

    def parts() -> Iterator[bytes]:
        yield b"new"
        raise MemoryError

    with pytest.raises(MemoryError):
        store.save(NEWER, parts())
    assert loaded(store) == (META, b"old")
    assert os.listdir(tmp_path) == ["snapshot"]


def test_snapshot_older_never_replaces_newer(new_store: Callable[[], SnapshotStore]) -> None:
    store = new_store()
    store.save(NEWER, b"new")
    assert store.save(META, b"old") is False
    assert loaded(store) == (NEWER, b"new")


def test_snapshot_newer_replaces_older(new_store: Callable[[], SnapshotStore]) -> None:
    store = new_store()
    store.save(META, b"old")
    assert store.save(NEWER, b"new") is True
    assert loaded(store) == (NEWER, b"new")


def test_large_file_that_is_replaced_or_removed_is_freed_in_another_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system takes a second to free a gigabyte, and meanwhile the node would answer nobody."""
    monkeypatch.setattr(snapshot, "_LARGE_BYTES", 1000)
    freed: list[int] = []
    close, freed_two = os.close, threading.Event()

    def recorded(descriptor: int) -> None:
        nameless = os.fstat(descriptor).st_nlink == 0
        close(descriptor)
        if nameless:
            freed.append(threading.get_ident())
            if len(freed) == 2:
                freed_two.set()

    monkeypatch.setattr(os, "close", recorded)
    store = SnapshotStore(tmp_path)
    store.save(META, bytes(2000))
    store.save(NEWER, b"small")
    receiver = store.begin_receive(replace(NEWER, index=11), 5000, "00" * 32)
    receiver.write(0, bytes(3000))
    receiver.abort()
    assert freed_two.wait(10)
    assert threading.get_ident() not in freed
    assert os.listdir(tmp_path) == ["snapshot"]
    store.save(replace(NEWER, index=12), b"small too")  # in place of a small one
    assert len(freed) == 2


def test_snapshot_any_bit_flipped_is_refused_naming_file_and_remedy(tmp_path: Path) -> None:
    SnapshotStore(tmp_path).save(META, b"state")
    path = tmp_path / "snapshot"
    good = path.read_bytes()
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(StorageError) as caught:
            SnapshotStore(tmp_path)
        assert str(path) in caught.value.message
        assert "cyoloctl member remove" in caught.value.message


def test_snapshot_damaged_after_opening_is_refused_by_load(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    store.save(META, b"state")
    path = tmp_path / "snapshot"
    path.write_bytes(path.read_bytes().replace(b"state", b"stale"))
    with pytest.raises(StorageError, match="damaged"):
        loaded(store)


class _Unsteady(io.BytesIO):
    """Bytes that are others each time that they are read from the start, after the second time."""

    def __init__(self, data: bytes, other: bytes) -> None:
        super().__init__(data)
        self._other = other
        self._starts = 0

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if (offset, whence) == (0, 0):
            self._starts += 1
            if self._starts == 2:  # the digest is right; now it is read to be used
                super().seek(0)
                self.write(self._other)
        return super().seek(offset, whence)


def test_snapshot_whose_bytes_change_between_two_reads_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, state = SnapshotStore(tmp_path), ClusterState()
    before = state.digest()
    store.save(META, state.begin_snapshot()())
    whole = (tmp_path / "snapshot").read_bytes()

    def unsteady(_directory: object, _name: str) -> BinaryIO:
        return _Unsteady(whole, whole.replace(b'"epoch":0', b'"epoch":1'))

    monkeypatch.setattr(snapshot._Directory, "open", unsteady)
    with store.load() as found:
        assert found is not None
        with pytest.raises(StorageError, match="its checksum is wrong"):
            state.restore(found[1])
    assert state.digest() == before


def test_snapshot_that_is_too_large_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SnapshotStore(tmp_path)
    monkeypatch.setattr(snapshot, "MAX_SNAPSHOT_BYTES", 1000)
    with pytest.raises(InvalidInput, match="more than 1000 bytes"):
        store.save(META, bytes(1000))
    assert os.listdir(tmp_path) == []


def test_snapshot_of_the_largest_size_is_read_again_and_none_above_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parts() -> Iterator[bytes]:
        return iter([bytes(100)] * 10)

    SnapshotStore(tmp_path).save(META, parts())
    size = (tmp_path / "snapshot").stat().st_size
    monkeypatch.setattr(snapshot, "MAX_SNAPSHOT_BYTES", size)
    store = SnapshotStore(tmp_path)
    assert store.save(NEWER, parts())
    assert store.size_bytes == (tmp_path / "snapshot").stat().st_size <= size
    assert loaded(SnapshotStore(tmp_path)) == (NEWER, bytes(1000))
    for less in (1, 31, 32):
        monkeypatch.setattr(snapshot, "MAX_SNAPSHOT_BYTES", store.size_bytes - less)
        with pytest.raises(InvalidInput, match="more than"):
            store.save(NEWER, parts())
    assert os.listdir(tmp_path) == ["snapshot"]


def test_snapshot_file_that_is_too_long_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SnapshotStore(tmp_path).save(META, bytes(1000))
    monkeypatch.setattr(snapshot, "MAX_SNAPSHOT_BYTES", 1000)
    with pytest.raises(StorageError, match="it is too long"):
        SnapshotStore(tmp_path)


def test_snapshot_truncated_anywhere_or_extended_is_refused(tmp_path: Path) -> None:
    SnapshotStore(tmp_path).save(META, b"state")
    path = tmp_path / "snapshot"
    good = path.read_bytes()
    for bad in [good[:size] for size in range(len(good))] + [good + b"\0"]:
        path.write_bytes(bad)
        with pytest.raises(StorageError, match="damaged"):
            SnapshotStore(tmp_path)


def test_snapshot_gone_after_opening_is_refused(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    store.save(META, b"state")
    (tmp_path / "snapshot").unlink()
    with pytest.raises(StorageError, match="gone"):
        loaded(store)
    with pytest.raises(StorageError, match="gone"):
        store.open_transfer()


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def test_snapshot_of_newer_format_is_version_mismatch(tmp_path: Path) -> None:
    (tmp_path / "snapshot").write_bytes(sealed(b"cyolosnp\x03" + b"another layout"))
    with pytest.raises(VersionMismatch, match="version 3"):
        SnapshotStore(tmp_path)


def test_snapshot_of_a_version_that_never_was_is_refused(tmp_path: Path) -> None:
    SnapshotStore(tmp_path).save(META, b"state")
    path = tmp_path / "snapshot"
    body = path.read_bytes()[:-32]
    path.write_bytes(sealed(body[:8] + b"\0" + body[9:]))
    with pytest.raises(StorageError, match="its header is wrong"):
        SnapshotStore(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        b'{"index":7,"removed":["z"],"term":2,"total":4,"voters":["a","b"]}',  # wrong total
        b'{"index":7, "removed":["z"],"term":2,"total":5,"voters":["a","b"]}',  # a space
        b'{"index":7,"removed":["z"],"term":2,"total":5,"voters":"ab"}',
        b'{"index":true,"removed":["z"],"term":2,"total":5,"voters":["a"]}',
        b'{"index":-1,"removed":["z"],"term":2,"total":5,"voters":["a"]}',
        b'{"index":7,"removed":[1],"term":2,"total":5,"voters":["a"]}',
        b'{"index":7,"removed":["z"],"term":2,"total":5,"voters":["a"],"x":1}',
        b'{"index":7}',
        b"[" * 5000,
        b"",
    ],
)
def test_snapshot_with_wrong_header_and_right_digest_is_refused(tmp_path: Path, header: bytes) -> None:
    body = b"cyolosnp\x01" + len(header).to_bytes(4, "big") + header + b"state"
    (tmp_path / "snapshot").write_bytes(sealed(body))
    with pytest.raises(StorageError, match="header"):
        SnapshotStore(tmp_path)


def test_snapshot_that_is_something_else_with_a_right_digest_is_refused(tmp_path: Path) -> None:
    SnapshotStore(tmp_path).save(META, b"state")
    body = (tmp_path / "snapshot").read_bytes()[:-32]
    (tmp_path / "snapshot").write_bytes(sealed(b"something"[:8] + body[8:]))
    with pytest.raises(StorageError, match="it is not a snapshot"):
        SnapshotStore(tmp_path)


class _Watched(io.BytesIO):
    """Bytes, and how many of them were asked for at most."""

    most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        self.most = max(self.most, size)
        return super().read(size)


@pytest.mark.parametrize("header_bytes", [3, 4 * 2**20 + 1, 2**32 - 1])
def test_snapshot_with_a_header_that_is_too_long_is_refused_before_it_is_read(header_bytes: int) -> None:
    """Its content need not have been verified: see `read_meta`."""
    file = _Watched(b"cyolosnp\x01" + header_bytes.to_bytes(4, "big") + b"{}" + bytes(32))
    with pytest.raises(snapshot._DamagedError, match="its header is wrong"):
        snapshot._decode_head(file, len(file.getvalue()))
    assert file.most < 100


def test_meta_of_a_damaged_file_is_a_storage_error(tmp_path: Path) -> None:
    assert read_meta(tmp_path / "snapshot") is None
    for data in (b"", b"no snapshot at all, whatever it is that stands here instead"):
        (tmp_path / "snapshot").write_bytes(data)
        with pytest.raises(StorageError, match="damaged"):
            read_meta(tmp_path / "snapshot")


def test_snapshot_leftover_of_a_crash_is_removed_and_the_old_one_stays(tmp_path: Path) -> None:
    SnapshotStore(tmp_path).save(META, b"old")
    (tmp_path / "snapshot.1.tmp").write_bytes(b"half a snaps")
    store = SnapshotStore(tmp_path)
    assert os.listdir(tmp_path) == ["snapshot"]
    assert loaded(store) == (META, b"old")
    assert store.save(NEWER, b"new")


CRASHING_SAVE = """
import os, sys
from pathlib import Path
from cyoloctl.raft.snapshot import SnapshotMeta, SnapshotStore
store = SnapshotStore(Path(sys.argv[1]))
os.rename = lambda *a: os._exit(9)  # the process dies after the file was synced, before it is renamed
store.save(SnapshotMeta(9, 3, ("a",), ()), b"new")
"""


def test_snapshot_crash_between_sync_and_rename_leaves_the_old_one(tmp_path: Path) -> None:
    SnapshotStore(tmp_path).save(META, b"old")
    done = subprocess.run(
        [sys.executable, "-c", CRASHING_SAVE, str(tmp_path)], env=ENVIRONMENT, check=False, timeout=30
    )
    assert done.returncode == 9
    assert sorted(os.listdir(tmp_path)) == ["snapshot", "snapshot.1.tmp"]
    assert loaded(SnapshotStore(tmp_path)) == (META, b"old")
    assert os.listdir(tmp_path) == ["snapshot"]


FULL_SAVE = """
import resource, sys
from pathlib import Path
from cyoloctl.errors import StorageError
from cyoloctl.raft.snapshot import SnapshotMeta, SnapshotStore
store = SnapshotStore(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    store.save(SnapshotMeta(9, 3, ("a",), ()), bytes(200_000))
except StorageError as error:
    print(error.message)
"""


def test_snapshot_on_full_disk_names_file_and_remedy_and_leaves_the_old_one(tmp_path: Path) -> None:
    SnapshotStore(tmp_path).save(META, b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_SAVE, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert str(tmp_path / "snapshot") in done.stdout
    assert "free space" in done.stdout
    assert os.listdir(tmp_path) == ["snapshot"]
    assert loaded(SnapshotStore(tmp_path)) == (META, b"old")


def test_snapshot_in_missing_directory_is_a_storage_error(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "absent")
    with pytest.raises(StorageError, match="absent/snapshot"):
        store.save(META, b"state")


@pytest.mark.parametrize("size", [1, 7, 32, 33, 1000])
def test_transfer_in_chunks_of_any_size_arrives(new_store: Callable[[], SnapshotStore], size: int) -> None:
    source, target = new_store(), new_store()
    source.save(META, b"state" * 20)
    transfer = opened(source)
    assert send(transfer, target, size) is True
    transfer.close()
    assert target.meta == META
    assert loaded(target) == (META, b"state" * 20)
    again = opened(target)
    assert (again.meta, again.total, again.digest) == (META, transfer.total, transfer.digest)
    again.close()


def test_transfer_read_stays_within_the_snapshot(new_store: Callable[[], SnapshotStore]) -> None:
    store = new_store()
    store.save(META, b"state")
    transfer = opened(store)
    assert len(transfer.read(0, 10**6)) == transfer.total
    assert transfer.read(transfer.total - 3, 10) == transfer.read(0, 10**6)[-3:]
    assert transfer.read(transfer.total, 10) == b""
    assert transfer.read(transfer.total + 10, 10) == b""
    transfer.close()
    transfer.close()
    with pytest.raises(InternalError):
        transfer.read(0, 1)


def test_transfer_of_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    store.save(META, b"state")
    transfer = opened(store)
    os.truncate(tmp_path / "snapshot", transfer.total - 10)
    with pytest.raises(StorageError, match="too short"):
        transfer.read(0, transfer.total)
    transfer.close()


def test_transfer_opened_is_not_disturbed_by_a_newer_snapshot(new_store: Callable[[], SnapshotStore]) -> None:
    source, target = new_store(), new_store()
    source.save(META, b"old")
    transfer = opened(source)
    begun = transfer.read(0, 20)
    source.save(NEWER, b"new" * 100)
    assert transfer.read(0, 20) == begun
    send(transfer, target)
    transfer.close()
    assert loaded(target) == (META, b"old")


def test_receiver_gap_or_overlap_writes_nothing_and_names_the_offset(
    new_store: Callable[[], SnapshotStore],
) -> None:
    source, target = new_store(), new_store()
    source.save(META, b"state")
    transfer = opened(source)
    receiver = target.begin_receive(transfer.meta, transfer.total, transfer.digest)
    assert receiver.write(5, b"gap") == 0
    assert receiver.write(0, transfer.read(0, 40)) == 40
    assert receiver.write(0, transfer.read(0, 40)) == 40
    assert receiver.write(39, transfer.read(39, 40)) == 40
    assert receiver.write(41, b"x") == 40
    assert receiver.write(40, transfer.read(40, 10**6)) == transfer.total
    assert finish(receiver) is True
    transfer.close()
    assert loaded(target) == (META, b"state")


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def test_receiver_refuses_what_was_damaged_on_its_way(new_store: Callable[[], SnapshotStore]) -> None:
    source, target = new_store(), new_store()
    source.save(NEWER, b"state")
    target.save(META, b"mine")
    transfer = opened(source)
    whole = transfer.read(0, transfer.total)
    transfer.close()
    for position in range(len(whole)):
        receiver = target.begin_receive(transfer.meta, transfer.total, transfer.digest)
        receiver.write(0, flip(whole, position))
        with pytest.raises(InvalidInput, match="send it again"):
            finish(receiver)
    assert loaded(target) == (META, b"mine")


def test_receiver_refuses_other_digest_meta_or_length_than_announced(
    new_store: Callable[[], SnapshotStore],
) -> None:
    source, target = new_store(), new_store()
    source.save(META, b"state")
    transfer = opened(source)
    whole = transfer.read(0, transfer.total)
    transfer.close()
    wrong = [
        (META, transfer.total, "0" * 64),
        (SnapshotMeta(8, 2, META.voters, META.removed), transfer.total, transfer.digest),
        (SnapshotMeta(7, 2, ("a",), META.removed), transfer.total, transfer.digest),
        (META, transfer.total + 1, transfer.digest),
    ]
    for meta, total, digest in wrong:
        receiver = target.begin_receive(meta, total, digest)
        receiver.write(0, whole)
        with pytest.raises(InvalidInput, match="send it again"):
            finish(receiver)
        with pytest.raises(InternalError):
            finish(receiver)
    shorter = target.begin_receive(META, transfer.total - 1, transfer.digest)
    with pytest.raises(InvalidInput, match="longer than the announced"):
        shorter.write(0, whole)
    assert target.meta is None
    assert loaded(target) is None


@pytest.mark.parametrize(
    ("total", "digest"),
    [
        (MAX_SNAPSHOT_BYTES + 1, "0" * 64),
        (-1, "0" * 64),
        (44, "0" * 64),
        (100, "0" * 63),
        (100, "A" * 64),
        (100, "../" + "0" * 61),
    ],
)
def test_receiver_of_impossible_announcement_is_refused(
    new_store: Callable[[], SnapshotStore], total: int, digest: str
) -> None:
    with pytest.raises(InvalidInput):
        new_store().begin_receive(META, total, digest)


def test_receiver_of_newer_format_is_version_mismatch(new_store: Callable[[], SnapshotStore]) -> None:
    body = b"cyolosnp\x03another layout"
    whole = sealed(body)
    store = new_store()
    receiver = store.begin_receive(META, len(whole), hashlib.sha256(body).hexdigest())
    receiver.write(0, whole)
    with pytest.raises(VersionMismatch):
        finish(receiver)
    assert store.meta is None


def test_receiver_of_older_snapshot_does_not_replace_a_newer(new_store: Callable[[], SnapshotStore]) -> None:
    source, target = new_store(), new_store()
    source.save(META, b"old")
    transfer = opened(source)
    receiver = target.begin_receive(transfer.meta, transfer.total, transfer.digest)
    receiver.write(0, transfer.read(0, transfer.total))
    target.save(NEWER, b"new")
    assert finish(receiver) is False
    transfer.close()
    assert loaded(target) == (NEWER, b"new")


def test_receiver_aborted_leaves_no_file(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    receiver = store.begin_receive(META, 100, "0" * 64)
    receiver.write(0, b"x")
    assert len(os.listdir(tmp_path)) == 1
    receiver.abort()
    receiver.abort()
    assert os.listdir(tmp_path) == []
    assert receiver._file.closed
    with pytest.raises(InternalError):
        receiver.write(1, b"x")


def test_receiver_that_was_sent_too_much_leaves_no_file(tmp_path: Path) -> None:
    receiver = SnapshotStore(tmp_path).begin_receive(META, 100, "0" * 64)
    with pytest.raises(InvalidInput, match="longer than the announced"):
        receiver.write(0, bytes(101))
    assert os.listdir(tmp_path) == []


def test_receiver_that_refuses_leaves_no_file(tmp_path: Path) -> None:
    receiver = SnapshotStore(tmp_path).begin_receive(META, 100, "0" * 64)
    receiver.write(0, bytes(100))
    with pytest.raises(InvalidInput, match="damaged on its way"):
        finish(receiver)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("newer", [False, True])
def test_receiver_that_is_over_leaves_no_file_whether_it_was_newer_or_not(
    tmp_path: Path, newer: bool
) -> None:
    source, target = SnapshotStore(None), SnapshotStore(tmp_path)
    source.save(META, b"state")
    transfer = opened(source)
    receiver = target.begin_receive(transfer.meta, transfer.total, transfer.digest)
    receiver.write(0, transfer.read(0, transfer.total))
    if not newer:
        target.save(NEWER, b"mine")
    assert finish(receiver) is newer
    assert receiver._file.closed
    assert os.listdir(tmp_path) == ["snapshot"]


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_receiver_that_the_disk_fails_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    source, target = SnapshotStore(None), SnapshotStore(tmp_path)
    source.save(META, b"state")
    transfer = opened(source)
    receiver = target.begin_receive(transfer.meta, transfer.total, transfer.digest)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if operation == "write":
        with open("/dev/full", "w+b", buffering=0) as full_disk:
            receiver._file.close()
            receiver._file = full_disk  # type: ignore[assignment]  # it is written, and nothing else
            with pytest.raises(StorageError, match="the disk is full"):
                receiver.write(0, b"x")
    else:
        receiver.write(0, transfer.read(0, transfer.total))
        monkeypatch.setattr(snapshot._Directory, "sync", full)
        with pytest.raises(StorageError, match="the disk is full"):
            finish(receiver)
    assert os.listdir(tmp_path) == []
    with pytest.raises(InternalError):
        receiver.write(0, b"x")


def test_snapshot_saved_in_a_thread_while_transfers_are_read_is_never_mixed(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    store.save(SnapshotMeta(1, 1, ("a",), ()), b"\x01" * 5000)
    failures: list[BaseException] = []

    def save_many() -> None:
        try:
            for index in range(2, 60):
                store.save(SnapshotMeta(index, 1, ("a",), ()), bytes([index]) * (5000 + index))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=save_many)
    thread.start()
    seen = set()
    while True:
        alive = thread.is_alive()
        target = SnapshotStore(None)
        transfer = opened(store)
        assert send(transfer, target, 3000)
        transfer.close()
        found = loaded(target)
        assert found is not None
        meta, data = found
        assert data == bytes([meta.index]) * (len(data))
        seen.add(meta.index)
        if not alive:
            break
    thread.join()
    assert failures == []
    assert max(seen) == 59
