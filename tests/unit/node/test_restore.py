"""A new cluster that begins with the state of a snapshot file; offline."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cyoloctl import __version__
from cyoloctl.errors import AccessDenied, AlreadyExists, InvalidInput, StorageError
from cyoloctl.keys import ring_file
from cyoloctl.keys.keyring import new_key
from cyoloctl.keys.operations import RESTORED_KEYS
from cyoloctl.model import RaftId
from cyoloctl.node import create, restore
from cyoloctl.pki.files import SEALING_KEY
from cyoloctl.raft import open_storage, replay
from cyoloctl.snapshots.file import Head, encode_head, new_snapshot_file
from cyoloctl.state import ClusterState
from tests.unit.replicated.test_every_machine import World

OLD = "a" * 32
PHRASE = "a passphrase that is long"


def snapshot(path: Path, *, ring: bytes = b"", keys: str = "", state: bytes | None = None) -> ClusterState:
    old = World("keys").state
    old.counters.apply("add", {"name": "kept", "by": 7}, 1, 0)
    data = b"".join(old.begin_snapshot()()) if state is None else state
    head = Head(OLD, "old", "n2", __version__, 1, 90, 4, old.time_unix_ms, keys, len(data), len(ring))
    with new_snapshot_file(path) as write:
        for part in (encode_head(head), data, ring):
            write(part)
    return old


def make(directory: Path, found: Any) -> dict[str, Any]:
    return create.init_cluster(directory, "m1", "127.0.0.1:1", None, "new", "disk", found=found)


def begun(directory: Path, path: Path, passphrase: str | None = None) -> dict[str, Any]:
    return restore.init_from_snapshot(path, passphrase, directory, partial(make, directory))


def test_new_cluster_has_the_state_and_nothing_else_of_the_old_one(tmp_path: Path) -> None:
    old = snapshot(tmp_path / "s")
    assert old.members.members() != []
    made = begun(tmp_path / "m1", tmp_path / "s")
    assert made["cluster"]["id"] != OLD
    assert (made["epoch"], made["index"], made["keys"], made["from"]["id"]) == (2, 90, 0, OLD)
    state = ClusterState()
    journal, snapshots = open_storage(tmp_path / "m1", cluster_id=made["cluster"]["id"], name="m1")
    with closing(journal):
        found = replay(journal, snapshots, state)
        assert found.configuration.voters == {RaftId("m1")}
        assert (found.last_index, journal.term) == (92, 4)
    assert state.counters.get("kept") == 7
    assert state.members.members() == []
    assert state.keys.records() == []
    [broken] = state.history.breaks()
    assert (broken.kind, broken.epoch, broken.cluster_id) == ("restored", 2, OLD)


def test_keys_travel_under_a_passphrase_and_wait_sealed_to_the_new_node(tmp_path: Path) -> None:
    key = new_key(OLD)
    ring = ring_file.Ring(OLD, 3600, (ring_file.RingKey(key, 1),))
    snapshot(tmp_path / "s", ring=ring_file.export_ring(ring, passphrase=PHRASE), keys="passphrase")
    with pytest.raises(AccessDenied):
        begun(tmp_path / "m1", tmp_path / "s", "another passphrase")
    assert not (tmp_path / "m1").exists()
    assert begun(tmp_path / "m1", tmp_path / "s", PHRASE)["keys"] == 1
    kept = (tmp_path / "m1" / "pki" / RESTORED_KEYS).read_text()
    mine = (tmp_path / "m1" / "pki" / SEALING_KEY).read_text()
    assert ring_file.open_kept_ring(kept, sealing_key_pem=mine) == ring
    begun(tmp_path / "m2", tmp_path / "s", PHRASE)
    with pytest.raises(InvalidInput):
        ring_file.open_kept_ring(kept, sealing_key_pem=(tmp_path / "m2" / "pki" / SEALING_KEY).read_text())
    with pytest.raises(InvalidInput):
        ring_file.open_kept_ring(kept.replace(OLD, "b" * 32), sealing_key_pem=mine)


def test_passphrase_for_a_file_without_one_is_refused(tmp_path: Path) -> None:
    snapshot(tmp_path / "s")
    with pytest.raises(InvalidInput, match="holds no key ring"):
        begun(tmp_path / "m1", tmp_path / "s", PHRASE)


def test_directory_of_a_node_is_left_alone(tmp_path: Path) -> None:
    snapshot(tmp_path / "s")
    begun(tmp_path / "m1", tmp_path / "s")
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "m1").iterdir())
    with pytest.raises(AlreadyExists):
        begun(tmp_path / "m1", tmp_path / "s")
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "m1").iterdir()) == before


def test_what_breaks_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot(tmp_path / "s")

    def broken(*arguments: object, **options: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(create, "dump_config", broken)
    with pytest.raises(StorageError, match="the disk is full"):
        begun(tmp_path / "m1", tmp_path / "s")
    assert not (tmp_path / "m1").exists()


def test_state_that_no_machine_reads_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    snapshot(tmp_path / "s", state=b"\x02" + b"x" * 100)
    for use in (restore.inspect_snapshot, lambda path: begun(tmp_path / "m1", path)):
        with pytest.raises(StorageError, match="use another copy of it"):
            use(tmp_path / "s")
    assert not (tmp_path / "m1").exists()


def test_inspection_tells_what_is_in_it(tmp_path: Path) -> None:
    old = snapshot(tmp_path / "s")
    found = restore.inspect_snapshot(tmp_path / "s")
    assert (found["cluster"], found["index"], found["node"]) == ({"name": "old", "id": OLD}, 90, "n2")
    assert found["counters"] == 1
    assert found["members"] == [member.name for member in old.members.members()]
    assert found["digest"] == old.digest()
    assert found["key_ring"] is None
