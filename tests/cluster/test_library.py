"""The library on real nodes: both clients while leaders die, and nodes in the program itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cyoloctl import AsyncClient, Client, Node
from cyoloctl.errors import ConfigError, Conflict, FenceLost, NotFound, TokenRejected, Unavailable
from cyoloctl.node.create import init_cluster
from tests.support.cluster import Cluster, free_port, run

pytestmark = pytest.mark.cluster

WRITES = 150


def endpoints(cluster: Cluster) -> list[str]:
    """The leader first: it is the one that dies."""
    leader = cluster.wait_leader()
    return [cluster[name].endpoint for name in (leader, *cluster.followers())]


def numbers(changes: list[Any]) -> list[int]:
    return [int(change["value"]) for change in changes]


def test_client_loses_and_doubles_nothing_while_the_leader_dies(cluster: Cluster) -> None:
    client = Client(endpoints(cluster), timeout_s=60.0)
    start = client.kv.put("w/begin", b"")["revision"] + 1
    seen: list[Any] = []
    failures: list[BaseException] = []

    def watch() -> None:
        try:
            for change in client.kv.watch("w/", from_revision=start, patience_s=60.0):
                seen.append(change)
                if len(seen) == WRITES:
                    return
        except BaseException as error:
            failures.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    counted = []
    for number in range(WRITES):
        if number == WRITES // 3:
            cluster[cluster.wait_leader()].kill()
        client.kv.put("w/key", str(number))
        counted.append(client.counters.incr("w")["value"])
    watcher.join(60)
    assert (watcher.is_alive(), failures) == (False, [])
    assert counted == list(range(1, WRITES + 1))
    assert numbers(seen) == list(range(WRITES))
    assert len({change["revision"] for change in seen}) == WRITES


async def test_client_of_a_loop_loses_and_doubles_nothing_while_the_leader_dies(cluster: Cluster) -> None:
    client = AsyncClient(endpoints(cluster), timeout_s=60.0)
    start = (await client.kv.put("w/begin", b""))["revision"] + 1

    async def watch() -> list[Any]:
        seen: list[Any] = []
        async for change in client.kv.watch("w/", from_revision=start, patience_s=60.0):
            seen.append(change)
            if len(seen) == WRITES:
                break
        return seen

    def kill_leader() -> None:
        cluster[cluster.wait_leader()].kill()

    async def write(writer: int) -> list[int]:
        values = []
        for number in range(WRITES // 3):
            await client.kv.put(f"w/{writer}", str(number))
            values.append((await client.counters.incr("w"))["value"])
            if writer == 0 and number == WRITES // 9:
                await asyncio.to_thread(kill_leader)
        return values

    async with asyncio.timeout(200):
        seen, *values = await asyncio.gather(watch(), *(write(writer) for writer in range(3)))
    assert sorted(each for some in values for each in some) == list(range(1, WRITES + 1))
    for writer in range(3):
        of_one = [change for change in seen if change["key"] == f"w/{writer}"]
        assert numbers(of_one) == list(range(WRITES // 3))


def test_what_each_group_does_on_a_real_node(shared: Cluster) -> None:
    one, two = (Client([shared[name].endpoint], timeout_s=30.0) for name in ("n1", "n2"))
    with one.locks.acquire("lib", ttl_s=30) as lock:
        two.kv.put("lib/a", b"\x00", fence=lock.fence)
        with pytest.raises(Unavailable, match="is held by"), two.locks.acquire("lib"):
            raise AssertionError("held twice")
        assert [each["token"] for each in two.locks.list() if each["name"] == "lib"] == [lock.token]
    with pytest.raises(FenceLost):
        two.kv.put("lib/a", b"\x01", fence=lock.fence)
    with pytest.raises(NotFound):
        one.locks.show("lib")
    assert two.kv.get("lib/a")["value"] == b"\x00"
    assert one.kv.put("lib/secret", b"s", sealed=True)["sealed"] is True
    assert (two.kv.get("lib/secret")["value"], two.kv.get("lib/a")["sealed"]) == (b"s", False)
    with pytest.raises(Conflict):
        two.kv.put("lib/secret", b"t")
    two.kv.delete("lib/secret")
    assert one.kv.txn(then=[{"op": "put", "key": "lib/b", "value": b"2"}])["succeeded"] is True
    listing = one.kv.list("lib/")
    assert [(each["key"], each["value"]) for each in listing["entries"]] == [
        ("lib/a", b"\x00"),
        ("lib/b", b"2"),
    ]
    assert list(two.kv.keys("lib/")) == ["lib/a", "lib/b"]
    made = one.tokens.mint("zoe", {"mfa": True})
    assert two.tokens.inspect(made["token"])["claims"] == {"mfa": True}
    newer = two.tokens.update(made["token"], set={"mfa": False})["token"]
    with pytest.raises(TokenRejected):
        one.tokens.inspect(made["token"], require_quorum=True)
    one.tokens.revoke(newer)
    with pytest.raises(TokenRejected):
        two.tokens.refresh(newer, require_quorum=True)
    assert [each for each in one.tokens.revocations() if each["value"] == made["sid"]]
    started = one.rendezvous.start("door", data={"door": "north"})
    two.rendezvous.approve(started["user_code"], by="ann", data={"badge": "7"})
    assert one.rendezvous.wait(started["id"], wait_s=30.0)["data"] == {"badge": "7"}
    assert started["id"] in [each["id"] for each in two.rendezvous.list(state="consumed")]
    assert two.kv.delete_prefix("lib/")["deleted"] == 2


# -- nodes in the program -------------------------------------------------------------------------


def make(directory: Path, name: str = "n1", storage: str = "disk") -> Path:
    address = f"127.0.0.1:{free_port()}"
    init_cluster(directory / name, name, address, None, "embedded", storage)
    return directory / name


@contextlib.asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    async with asyncio.timeout(120):
        yield


async def test_node_runs_in_the_program_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    directory = make(tmp_path)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    loggers = list(logging.getLogger().handlers), logging.getLogger("cyoloctl").level
    async with in_time(), Node(directory) as node:
        assert (await node.ready())["name"] == "n1"
        assert (await node.client.counters.incr("hits"))["value"] == 1
        with pytest.raises(Conflict, match="in use by another process"):
            async with Node(directory):
                raise AssertionError("it ran twice")
        assert (await node.client.counters.incr("hits"))["value"] == 2
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    assert loggers == (list(logging.getLogger().handlers), logging.getLogger("cyoloctl").level)
    async with in_time(), Node(directory) as node:
        assert (await node.client.counters.get("hits"))["value"] == 2


async def test_node_that_cannot_start_raises_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        async with Node(tmp_path / "none"):
            raise AssertionError("there is no such node")
    directory = make(tmp_path)
    async with in_time():
        taken = make(tmp_path / "other")
        yaml = (taken / "node.yaml").read_text()
        port = (directory / "node.yaml").read_text().partition("listen:")[2].split()[0]
        theirs = yaml.partition("listen:")[2].split()[0]
        (taken / "node.yaml").write_text(yaml.replace(theirs, port))
        async with Node(directory) as node:
            with pytest.raises(Conflict, match="cannot listen on"):
                async with Node(taken):
                    raise AssertionError("the port is taken")
            assert (await node.client.health())["status"] == "ok"


async def test_error_of_the_block_passes_through_and_the_node_stops(tmp_path: Path) -> None:
    directory = make(tmp_path)
    with pytest.raises(KeyError):
        async with in_time(), Node(directory):
            raise KeyError
    async with in_time(), Node(directory) as node:
        await node.ready()


async def test_node_that_is_told_to_stop_lets_its_program_go_on(tmp_path: Path) -> None:
    directory = make(tmp_path)
    async with in_time(), Node(directory) as node:
        await asyncio.to_thread(Client(data_dir=directory).stop)
        await node.wait()
        with pytest.raises(Unavailable, match="told to stop"):
            await node.ready()


def join(cluster: Cluster, directory: Path) -> Path:
    """A learner of the cluster, not started."""
    name, address = directory.name, f"127.0.0.1:{free_port()}"
    joined = run(
        *("node", "join", "-d", directory, "--name", name, "--listen", address, "--token-file", "-"),
        stdin=cluster.invite(name, through="n1", learner=True),
    )
    assert joined.returncode == 0, joined.stderr
    return directory


async def test_block_of_a_node_that_was_removed_is_cancelled_with_the_reason(
    shared: Cluster, tmp_path: Path
) -> None:
    directory = await asyncio.to_thread(join, shared, tmp_path / "gone")
    ended: list[str] = []

    async def work() -> None:
        async with in_time(), Node(directory) as node:
            await node.ready()
            try:
                await asyncio.to_thread(shared["n1"].client().member_remove, "gone")
                async with asyncio.timeout(60):
                    await asyncio.Event().wait()
            except (asyncio.CancelledError, TimeoutError) as error:
                ended.append("cancelled" if isinstance(error, asyncio.CancelledError) else "too late")
                raise

    with pytest.raises(Conflict, match="gone was removed from the cluster"):
        await work()
    assert ended == ["cancelled"]


async def test_node_in_the_program_counts_with_the_others(shared: Cluster, tmp_path: Path) -> None:
    directory = await asyncio.to_thread(join, shared, tmp_path / "guest")
    try:
        async with in_time(), Node(directory, timeout_s=30.0) as node:
            assert (await node.client.counters.incr("guests"))["value"] == 1
            theirs = AsyncClient([shared["n3"].endpoint], timeout_s=30.0)
            assert (await theirs.counters.get("guests"))["value"] == 1
    finally:
        await asyncio.to_thread(shared["n1"].client().member_remove, "guest")
