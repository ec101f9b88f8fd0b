"""Snapshots that a node holds while they are read: of one moment, few, and let go of."""

from __future__ import annotations

import asyncio
import base64
import os
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cyoloctl.errors import InvalidInput, NotFound, Overloaded, StorageError
from cyoloctl.replicated.command import encode_command
from cyoloctl.snapshots import operations
from cyoloctl.snapshots.operations import SnapshotOperations, Spooled
from cyoloctl.state import ClusterState


class Node:
    """A state with a counter of its own index, and what takes snapshots of it."""

    def __init__(self, directory: Path) -> None:
        self.state, self.index, self.asked = ClusterState(), 0, list[bool]()
        self.during_barrier: Callable[[], None] = lambda: None
        self.directory = directory
        engine = SimpleNamespace(applied_index=lambda: self.index, status=lambda: SimpleNamespace(term=3))
        proposer = SimpleNamespace(fresh=self.fresh, engine=engine)
        local = SimpleNamespace(cluster_id="c" * 32, cluster="demo", name="n1")
        self.operations = SnapshotOperations(proposer, self.state, local, directory)  # type: ignore[arg-type]

    async def fresh(self, *, stale: bool = False, timeout_s: float) -> None:
        self.asked.append(stale)
        if not stale:
            self.during_barrier()

    def add(self) -> None:
        self.index += 1
        command = encode_command("counter", "add", {"name": "c", "by": 1}, request_id=f"r{self.index}")
        self.state.apply(self.index, command)

    async def begin(self, consistency: str = "linearizable") -> Any:
        return await self.operations.begin(consistency=consistency, timeout_s=1.0)

    async def part(self, name: str, offset: int = 0) -> Any:
        return await self.operations.part(name, offset=offset, timeout_s=1.0)

    async def whole(self, name: str) -> bytes:
        parts, offset = [], 0
        while offset is not None:
            part = await self.part(name, offset)
            parts.append(base64.b64decode(part["data_base64"]))
            offset = part["next"]
        return b"".join(parts)

    def files(self) -> int:
        """How many are open in the directory; they have no name."""
        found = 0
        for link in Path("/proc/self/fd").iterdir():
            try:
                found += os.readlink(link).startswith(f"{self.directory}/")
            except OSError:
                continue  # it was of the listing itself
        return found


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr(operations, "_PART_BYTES", 100)
    node = Node(tmp_path)
    for _ in range(3):
        node.add()
    yield node
    for held in node.operations._held.values():
        held.state.close()


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_snapshot_is_read_in_parts_and_gives_the_state(node: Node) -> None:
    begun = await node.begin()
    assert node.files() == 1
    assert os.listdir(node.directory) == []
    data = await node.whole(begun["id"])
    assert (len(data), sha256(data).hexdigest()) == (begun["total_bytes"], begun["sha256"])
    again = ClusterState()
    again.restore(data)
    assert again.digest() == node.state.digest()


async def test_snapshot_is_of_the_moment_that_its_head_tells(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands are applied before the thread begins to encode it."""

    to_thread = asyncio.to_thread

    async def later(write: Callable[[], Spooled]) -> Spooled:
        monkeypatch.setattr(asyncio, "to_thread", to_thread)
        node.add()
        return write()

    monkeypatch.setattr(asyncio, "to_thread", later)
    begun = await node.begin()
    again = ClusterState()
    again.restore(await node.whole(begun["id"]))
    assert (begun["index"], again.counters.get("c"), node.state.counters.get("c")) == (3, 3, 4)


@pytest.mark.parametrize(("consistency", "value"), [("linearizable", 4), ("stale", 3)])
async def test_snapshot_holds_what_was_acknowledged_unless_it_may_be_stale(
    node: Node, consistency: str, value: int
) -> None:
    node.during_barrier = node.add
    begun = await node.begin(consistency)
    again = ClusterState()
    again.restore(await node.whole(begun["id"]))
    assert (begun["index"], again.counters.get("c")) == (value, value)
    assert node.asked == [consistency == "stale"]


async def test_last_part_lets_go_of_the_snapshot(node: Node) -> None:
    for _ in range(3):
        begun = await node.begin()
        await node.whole(begun["id"])
        assert node.files() == 0
        with pytest.raises(NotFound, match="take another one"):
            await node.part(begun["id"])


async def test_file_is_freed_in_another_thread(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system takes a second to free a gigabyte, and meanwhile the node would answer nobody."""
    close, threads = Spooled.close, []

    def recorded(state: Spooled) -> None:
        threads.append(threading.get_ident())
        close(state)

    monkeypatch.setattr(Spooled, "close", recorded)
    read = await node.begin()
    await node.whole(read["id"])
    monkeypatch.setattr(operations, "_KEPT_S", 0.05)
    await node.begin()
    await _until(lambda: len(threads) == 2)
    assert threading.get_ident() not in threads


async def test_snapshot_that_nobody_asks_for_any_more_is_let_go(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_KEPT_S", 0.05)
    begun = await node.begin()
    assert node.files() == 1
    await _until(lambda: node.files() == 0)
    with pytest.raises(NotFound):
        await node.part(begun["id"])


async def test_snapshot_is_held_while_its_parts_are_asked_for(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(operations, "time", SimpleNamespace(monotonic=lambda: now[0]))
    begun = await node.begin()
    for offset in (0, 100, 0, 100):
        now[0] += 59.0
        await node.part(begun["id"], offset)
    now[0] += 61.0
    with pytest.raises(NotFound):
        await node.part(begun["id"])
    await _until(lambda: node.files() == 0)


async def test_third_snapshot_at_once_is_overloaded(node: Node) -> None:
    """Whether the two are held, or are being made."""
    found = await asyncio.gather(*(node.begin() for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in found] == [dict, dict, Overloaded]
    with pytest.raises(Overloaded, match="ask another"):
        await node.begin()
    assert node.files() == 2
    await node.whole(found[0]["id"])  # type: ignore[index]  # it is a dictionary
    await node.begin()


async def test_snapshot_that_the_disk_refuses_takes_no_place(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []

    def full(**_: object) -> Any:
        file = open("/dev/full", "w+b")  # noqa: SIM115 - whoever asked for it closes it
        files.append(file)
        return file

    monkeypatch.setattr(operations, "tempfile", SimpleNamespace(TemporaryFile=full))
    for _ in range(3):
        with pytest.raises(StorageError, match="free space"):
            await node.begin()
    assert all(file.closed for file in files)
    monkeypatch.undo()
    await node.begin()


async def test_snapshot_that_cannot_be_made_leaves_no_file(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[object] = []

    def parts() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise MemoryError

    monkeypatch.setattr(node.state, "begin_snapshot", lambda: parts)
    for _ in range(3):
        with pytest.raises(MemoryError) as caught:
            await node.begin()
        kept.append(caught)  # with its frames, so that nothing is collected by chance
        assert node.files() == 0
    monkeypatch.undo()
    await node.begin()


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="check the path"):
        Spooled(iter((b"x",)), tmp_path / "absent")
