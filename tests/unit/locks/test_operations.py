"""Operations on locks: who is told what, and when whoever waits asks again."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from cyoloctl.caller import CALLER, Caller
from cyoloctl.errors import Conflict, NotFound
from cyoloctl.locks import operations
from cyoloctl.locks.machine import LockMachine
from cyoloctl.locks.operations import LockOperations
from cyoloctl.replicated.command import Refused

NOW = 1_800_000_000_000
ME, YOU = "1" * 32, "2" * 32


class Node:
    """A proposer that applies at once, with a time that the test sets."""

    def __init__(self) -> None:
        self.machine = LockMachine()
        self.index, self.ahead_ms, self.looks = 0, 0, 0
        self.began = time.monotonic()
        self.proposed: list[tuple[str, dict[str, Any]]] = []
        self.ids: list[str | None] = []
        self.engine = self
        self.operations = LockOperations(self, self.machine)  # type: ignore[arg-type]  # all that it needs

    def applied_index(self) -> int:
        return self.index

    def epoch(self) -> int:
        return 1

    def now_ms(self) -> int:
        self.looks += 1
        return NOW + self.ahead_ms + round((time.monotonic() - self.began) * 1000)

    async def in_time(self, *, timeout_s: float) -> None:
        self.proposed.append(("in time", {}))

    async def fresh(self, *, stale: bool, timeout_s: float) -> None:
        pass

    async def apply(
        self, machine: str, operation: str, given: dict[str, Any], *, request_id: str | None, timeout_s: float
    ) -> tuple[int, dict[str, Any], str]:
        assert machine == "lock"
        self.proposed.append((operation, given))
        self.ids.append(request_id)
        self.index += 1
        try:
            value = self.machine.apply(operation, given, self.index, self.now_ms())
        except Refused as refused:
            raise refused.error from None
        return self.index, value, request_id or "made"

    async def acquire(self, holder: str = ME, wait_s: float = 0, **given: Any) -> dict[str, Any]:
        asked = {"owner": "h 1", "ttl_s": 10.0, "timeout_s": 30.0, **given}
        return dict(await self.operations.acquire("a", holder=holder, wait_s=wait_s, **asked))


async def waits(node: Node) -> None:
    """Return when whoever waits has asked in vain and looked once: a change or the next look wakes it."""
    async with asyncio.timeout(10):
        while node.index < 2:
            await asyncio.sleep(0)
        before = node.looks
        while node.looks < before + 1:
            await asyncio.sleep(0)


@pytest.fixture
def node() -> Node:
    return Node()


async def test_acquire_names_the_caller_and_needs_no_id_of_the_client(node: Node) -> None:
    CALLER.set(Caller("client", "zoë" + "x" * 200))
    got = await node.acquire(ttl_s=1.5)
    assert (got["acquired"], got["token"], got["epoch"], got["index"]) == (True, 1, 1, 1)
    assert got["by"] == "zo?" + "x" * 125
    assert [name for name, _ in node.proposed] == ["in time", "acquire"]
    assert node.proposed[1][1]["ttl_ms"] == 1_500
    assert node.ids == [None]
    assert (await node.acquire())["token"] == 1
    assert (await node.acquire(YOU))["acquired"] is False
    assert node.ids == [None] * 3


async def test_whoever_waits_is_woken_by_the_release_and_did_not_ask_meanwhile(node: Node) -> None:
    token = (await node.acquire())["token"]
    waiting = asyncio.create_task(node.acquire(YOU, wait_s=20))
    await waits(node)
    await node.operations.keep("a", token=token, ttl_s=600.0, timeout_s=1.0)
    assert [name for name, _ in node.proposed if name != "in time"] == ["acquire", "acquire", "keep"]
    assert (await node.operations.release("a", token=token, timeout_s=1.0))["released"] is True
    assert (await asyncio.wait_for(waiting, 10))["acquired"] is True


async def test_whoever_waits_gets_the_lock_at_its_end(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "_LOOK_EVERY_S", 0.05)
    await node.acquire(ttl_s=86_400.0)
    waiting = asyncio.create_task(node.acquire(YOU, wait_s=20))
    await waits(node)
    node.ahead_ms = 86_400_000  # time steps; nobody is told
    assert (await asyncio.wait_for(waiting, 10))["acquired"] is True


async def test_wait_that_is_over_tells_who_has_the_lock(node: Node) -> None:
    await node.acquire()
    began = time.monotonic()
    got = await node.acquire(YOU, wait_s=0.2)
    assert (got["acquired"], got["owner"]) == (False, "h 1")
    assert time.monotonic() - began >= 0.2
    # A wait is never longer than the call.
    assert (await asyncio.wait_for(node.acquire(YOU, wait_s=300, timeout_s=0.3), 10))["acquired"] is False


async def test_snapshot_that_frees_the_lock_wakes_whoever_waits(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_LOOK_EVERY_S", 60.0)
    await node.acquire(ttl_s=600.0)
    waiting = asyncio.create_task(node.acquire(YOU, wait_s=200, timeout_s=300.0))
    await waits(node)
    node.machine.prepare_restore({"last_token": 5, "locks": {}})()
    node.operations.restored()
    assert (await asyncio.wait_for(waiting, 10))["token"] == 6


async def test_lost_lock_is_conflict_and_free_one_not_found(node: Node) -> None:
    with pytest.raises(Conflict):
        await node.operations.keep("a", token=1, ttl_s=1.0, timeout_s=1.0)
    with pytest.raises(NotFound, match="nobody holds lock a"):
        await node.operations.get("a", consistency="stale", timeout_s=1.0)
    with pytest.raises(NotFound):
        await node.operations.break_("a", request_id=None, timeout_s=1.0)
    await node.acquire()
    broken = await node.operations.break_("a", request_id="r", timeout_s=1.0)
    assert (broken["token"], broken["request_id"], node.ids[-1]) == (3, "r", "r")


async def test_list_is_in_pages(node: Node) -> None:
    for name in ("c", "a", "b"):
        await node.operations.acquire(name, holder=ME, owner="", ttl_s=9.0, wait_s=0.0, timeout_s=1.0)
    page = await node.operations.list(after=None, limit=2, consistency="stale", timeout_s=1.0)
    assert ([lock["name"] for lock in page["locks"]], page["next"]) == (["a", "b"], "b")
    page = await node.operations.list(after="b", limit=2, consistency="stale", timeout_s=1.0)
    assert ([lock["name"] for lock in page["locks"]], page["next"]) == (["c"], None)


async def test_on_change_wakes_whoever_waits_for_that_lock(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_LOOK_EVERY_S", 60.0)
    token = (await node.acquire(ttl_s=600.0))["token"]
    waiting = asyncio.create_task(node.acquire(YOU, wait_s=200, timeout_s=300.0))
    await waits(node)
    await node.operations.release("a", token=token, timeout_s=1.0)
    assert (await asyncio.wait_for(waiting, 10))["acquired"] is True
