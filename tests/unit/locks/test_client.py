"""Locks of both clients: kept while the block runs, released at its end; what a loss does to the block."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from cyoloctl import AsyncClient, Client
from cyoloctl.errors import Conflict, InvalidInput, NoLeader, OutcomeUnknown, Unavailable
from tests.support.cluster import wait_until
from tests.support.scripted import Serve, serve_fixture

__all__ = ["serve_fixture"]

ACQUIRE, KEEP, RELEASE = (("POST", f"/v1/locks/job/{name}") for name in ("acquire", "keep", "release"))
TIME = "2030-12-31T23:59:59Z"
LOCK = {"name": "job", "token": 5, "owner": "h 1", "by": "ann", "acquired_at": TIME, "expires_at": TIME}
ANSWERS: dict[tuple[str, str], Any] = {
    ACQUIRE: {"acquired": True, **LOCK},
    KEEP: LOCK,
    RELEASE: {"name": "job", "released": True},
}


def asked(endpoint: Any, what: tuple[str, str]) -> list[dict[str, Any]]:
    return [body for method, path, body in endpoint.requests if (method, path) == what]


def kept(node: Any) -> bool:
    return bool(asked(node, KEEP))


def test_block_has_the_lock_which_is_kept_and_released(serve: Serve) -> None:
    node = serve(ANSWERS)
    with Client([node.url]) as client, client.locks.acquire("job", ttl_s=3, owner="me") as lock:
        assert (lock.name, lock.token, lock.fence, lock.lost) == ("job", 5, "job=5", False)
        wait_until("the lock kept", lambda: kept(node))
    assert (asked(node, ACQUIRE)[0]["owner"], asked(node, ACQUIRE)[0]["ttl_s"]) == ("me", 3)
    assert [body["token"] for body in asked(node, RELEASE)] == [5]


def test_block_of_a_loop_has_the_lock_which_is_kept_and_released(serve: Serve) -> None:
    node = serve(ANSWERS)

    async def work() -> None:
        client = AsyncClient([node.url])
        async with asyncio.timeout(60), client.locks.acquire("job", ttl_s=3) as lock:
            assert (lock.fence, lock.lost) == ("job=5", False)
            await asyncio.to_thread(wait_until, "the lock kept", lambda: kept(node))

    asyncio.run(work())
    assert [body["token"] for body in asked(node, RELEASE)] == [5]


LOSSES = [
    (Conflict("token 5 does not hold it any more"), "token 5 does not hold it"),
    (NoLeader("there is no leader"), "could not be kept for 1 s: there is no leader"),
]


@pytest.mark.parametrize(("answer", "says"), LOSSES)
def test_block_sees_that_the_lock_is_lost_and_ends_unknown(serve: Serve, answer: Any, says: str) -> None:
    node = serve({**ANSWERS, KEEP: answer})
    with (
        pytest.raises(OutcomeUnknown, match=says),
        Client([node.url]) as client,
        client.locks.acquire("job", ttl_s=1) as lock,
    ):
        wait_until("the lock lost", lambda: lock.lost)
    assert asked(node, RELEASE) == []


@pytest.mark.parametrize(("answer", "says"), LOSSES)
def test_block_of_a_loop_is_cancelled_when_the_lock_is_lost(serve: Serve, answer: Any, says: str) -> None:
    node = serve({**ANSWERS, KEEP: answer})
    ended: list[str] = []

    async def work() -> None:
        client = AsyncClient([node.url])
        async with client.locks.acquire("job", ttl_s=1):
            try:
                async with asyncio.timeout(30):
                    await asyncio.Event().wait()
            except (asyncio.CancelledError, TimeoutError) as error:
                ended.append("cancelled" if isinstance(error, asyncio.CancelledError) else "too late")
                raise

    with pytest.raises(OutcomeUnknown, match=says):
        asyncio.run(work())
    assert ended == ["cancelled"]
    assert asked(node, RELEASE) == []


def test_cancellation_from_outside_stays_one_and_releases_the_lock(serve: Serve) -> None:
    node = serve(ANSWERS)

    async def work() -> None:
        inside = asyncio.Event()

        async def hold() -> None:
            async with AsyncClient([node.url]).locks.acquire("job", ttl_s=30):
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(hold())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert len(asked(node, RELEASE)) == 1


def test_error_of_the_block_is_not_hidden_and_the_lock_released(serve: Serve) -> None:
    node = serve(ANSWERS)
    with pytest.raises(KeyError), Client([node.url]).locks.acquire("job"):
        raise KeyError
    assert len(asked(node, RELEASE)) == 1


def test_error_of_the_block_is_not_hidden_by_a_loss(serve: Serve) -> None:
    node = serve({**ANSWERS, KEEP: Conflict("lost")})

    def work() -> None:
        with Client([node.url]).locks.acquire("job", ttl_s=1) as lock:
            wait_until("the lock lost", lambda: lock.lost)
            raise KeyError

    with pytest.raises(KeyError):
        work()


def test_lock_of_somebody_else_is_unavailable_and_nothing_keeps_it(serve: Serve) -> None:
    node = serve({ACQUIRE: {**LOCK, "acquired": False}})
    before = threading.active_count()
    with pytest.raises(Unavailable, match="held by h 1"), Client([node.url]).locks.acquire("job"):
        raise AssertionError("not held")
    assert threading.active_count() <= before


def test_lock_that_may_have_been_acquired_is_unknown_whatever_the_others_say(serve: Serve) -> None:
    lost, none = serve({ACQUIRE: OutcomeUnknown("lost")}), serve({ACQUIRE: NoLeader("there is no leader")})
    client = Client([lost.url, none.url])
    with pytest.raises(OutcomeUnknown, match="nobody can say whether"), client.locks.acquire("job"):
        raise AssertionError("not held")


def test_context_can_be_entered_again(serve: Serve) -> None:
    node = serve(ANSWERS)
    context = Client([node.url]).locks.acquire("job")
    for _ in range(2):
        with context as lock:
            assert lock.token == 5
    first, second = asked(node, ACQUIRE)
    assert first["holder"] != second["holder"]


def test_times_out_of_range_are_refused(serve: Serve) -> None:
    client = Client([serve({}).url])
    for options in ({"ttl_s": 0.5}, {"ttl_s": 86_401}, {"wait_s": -1}, {"wait_s": 86_401}):
        with pytest.raises(InvalidInput):
            client.locks.acquire("job", **options)
