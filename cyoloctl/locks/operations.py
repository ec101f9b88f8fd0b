"""Operations of a node on locks."""

from __future__ import annotations

import asyncio
import time

from cyoloctl.caller import CALLER
from cyoloctl.errors import InternalError, NotFound
from cyoloctl.locks.api import Lock, LockAcquired, LockBroken, LockList, LockReleased
from cyoloctl.locks.machine import LockMachine
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.replicated.watchers import Watchers
from cyoloctl.text import Json, rfc3339

__all__ = ["LockOperations"]

# A lock may become free without a change that anybody is told of: its end comes, or time steps.
_LOOK_EVERY_S = 1.0
# Time here may be a little ahead of the leader's, which decides: not again at once.
_PAUSE_S = 0.05
# The share of the time of a call that a wait may take: the last attempt has the rest.
_WAITING = 0.8


class LockOperations:
    """Implements `locks.api.LockApi`.  Any node takes any request."""

    def __init__(self, proposer: Proposer, locks: LockMachine) -> None:
        self._proposer = proposer
        self._locks = locks
        self._watchers = Watchers()
        locks.on_change = self._on_change

    def _on_change(self, name: str, index: int) -> None:
        self._watchers.changed(name)

    def restored(self) -> None:
        """The machine's state was replaced by a snapshot."""
        self._watchers.all_changed()

    async def acquire(
        self, name: str, *, holder: str, owner: str, ttl_s: float, wait_s: float, timeout_s: float
    ) -> LockAcquired:
        """The lock, or after the wait whoever has it.

        The holder makes a repetition harmless, so no request id is remembered for it.
        """
        started = time.monotonic()
        deadline, until = started + timeout_s, started + min(wait_s, timeout_s * _WAITING)
        given = {"name": name, "holder": holder, "owner": owner, "by": _caller(), "ttl_ms": _ms(ttl_s)}
        with self._watchers.watch(name) as event:
            while True:
                event.clear()
                # A lease that cluster time is about to step over would end before its time.
                await self._proposer.in_time(timeout_s=_left(deadline))
                index, value = await self._apply("acquire", given, _left(deadline))
                if value["acquired"] or not await self._free(name, event, until):
                    return {"acquired": value["acquired"], **self._lock(value, index)}

    async def _free(self, name: str, event: asyncio.Event, until: float) -> bool:
        """Wait until the lock looks free here; False when the time is up first."""
        pause = _PAUSE_S
        while (left := until - time.monotonic()) > 0:
            await _wait(event, min(pause, left))
            now_ms = self._proposer.now_ms()
            lock = self._locks.get(name, now_ms)
            if lock is None or event.is_set():
                return True
            pause = max(_PAUSE_S, min(_LOOK_EVERY_S, lock.left_ms(self._locks.at(now_ms)) / 1000))
        return False

    async def keep(self, name: str, *, token: int, ttl_s: float, timeout_s: float) -> Lock:
        """Move the end on.  Raises Conflict when that token does not hold it any more."""
        given = {"name": name, "token": token, "ttl_ms": _ms(ttl_s)}
        index, value = await self._apply("keep", given, timeout_s)
        return self._lock(value, index)

    async def release(self, name: str, *, token: int, timeout_s: float) -> LockReleased:
        """Free the lock of that token."""
        index, value = await self._apply("release", {"name": name, "token": token}, timeout_s)
        return {"name": name, "released": value["released"], "index": index, "epoch": self._proposer.epoch()}

    async def break_(self, name: str, *, request_id: str | None, timeout_s: float) -> LockBroken:
        """Take the lock away from whoever has it.  Raises NotFound."""
        index, value, identifier = await self._proposer.apply(
            "lock", "break", {"name": name}, request_id=request_id, timeout_s=timeout_s
        )
        return {**self._lock(value, index), "request_id": identifier}

    async def get(self, name: str, *, consistency: str, timeout_s: float) -> Lock:
        """Read.  Raises NotFound for a lock that is free."""
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        now_ms = self._proposer.now_ms()
        lock = self._locks.get(name, now_ms)
        if lock is None:
            raise NotFound(f"nobody holds lock {name}: `cyoloctl lock list` shows those that are held")
        return self._lock(lock.shown(self._locks.at(now_ms)), self._proposer.engine.applied_index())

    async def list(self, *, after: str | None, limit: int, consistency: str, timeout_s: float) -> LockList:
        """A page, by name."""
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        index = self._proposer.engine.applied_index()
        now_ms = self._proposer.now_ms()
        found, now = self._locks.list(after, limit + 1, now_ms), self._locks.at(now_ms)
        page = [self._lock(lock.shown(now), index) for lock in found[:limit]]
        return {"locks": page, "next": page[-1]["name"] if len(found) > limit and page else None}

    async def _apply(self, operation: str, given: Json, timeout_s: float) -> tuple[int, Json]:
        """Propose what does no harm twice: a client's ids are for what does."""
        index, value, _ = await self._proposer.apply(
            "lock", operation, given, request_id=None, timeout_s=timeout_s
        )
        return index, value

    def _lock(self, value: Json, index: int) -> Lock:
        """Raises InternalError when the leader's answer is no lock."""
        try:
            return {
                "name": value["name"],
                "token": value["token"],
                "owner": value["owner"],
                "by": value["by"],
                "acquired_at": rfc3339(value["acquired_unix_ms"] / 1000),
                "expires_at": rfc3339(value["expires_unix_ms"] / 1000),
                "index": index,
                "epoch": self._proposer.epoch(),
            }
        except KeyError:
            raise InternalError("the leader's answer makes no sense: upgrade every node") from None


def _caller() -> str:
    """The caller's name, as the machine takes it."""
    return "".join(each if " " <= each <= "~" else "?" for each in CALLER.get().name)[:128]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _left(deadline: float) -> float:
    return max(0.1, deadline - time.monotonic())


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
