"""The ticker in its loop: one tick for what a turn brought, in time, and none after the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cyoloctl.raft.ticker import Ticker

_LIMIT_S = 5.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_LIMIT_S):
        while not condition():
            await asyncio.sleep(0.001)


async def test_many_wakes_of_one_turn_are_one_tick() -> None:
    ticks: list[float] = []
    loop = asyncio.get_running_loop()
    ticker = Ticker(loop, lambda: ticks.append(loop.time()), lambda: loop.time() + 60.0)
    for _ in range(5):
        ticker.wake()
    await until(lambda: ticks != [])
    await asyncio.sleep(0)
    assert len(ticks) == 1
    ticker.stop()


async def test_no_tick_comes_after_stop() -> None:
    ticks: list[int] = []
    loop = asyncio.get_running_loop()
    ticker = Ticker(loop, lambda: ticks.append(1), loop.time)
    ticker.wake()
    await until(lambda: len(ticks) >= 2)  # the deadline alone brought the second
    ticker.stop()
    count = len(ticks)
    ticker.wake()
    ticker._run()  # a timer that had fired already
    await asyncio.sleep(0.01)
    assert len(ticks) == count


async def test_deadline_that_comes_closer_is_kept() -> None:
    ticks: list[float] = []
    loop = asyncio.get_running_loop()
    deadlines = [loop.time() + 60.0, loop.time() + 0.01]
    ticker = Ticker(loop, lambda: ticks.append(loop.time()), lambda: deadlines[min(len(ticks), 2) - 1])
    ticker.wake()
    await until(lambda: len(ticks) == 1)
    ticker.wake()
    await until(lambda: len(ticks) >= 3)  # and on: it has passed by then
    ticker.stop()


async def test_tick_that_raises_is_followed_by_the_next_one() -> None:
    ticks: list[int] = []
    loop = asyncio.get_running_loop()
    errors: list[object] = []
    loop.set_exception_handler(lambda loop, context: errors.append(context["exception"]))

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 1:
            raise RuntimeError("a bug")

    ticker = Ticker(loop, tick, loop.time)
    ticker.wake()
    await until(lambda: len(ticks) >= 2)
    ticker.stop()
    assert [str(error) for error in errors] == ["a bug"]


@pytest.mark.parametrize("behind_s", [0.0, 10.0])
async def test_deadline_in_the_past_spins_no_loop(behind_s: float) -> None:
    ticks: list[float] = []
    loop = asyncio.get_running_loop()
    ticker = Ticker(loop, lambda: ticks.append(loop.time()), lambda: loop.time() - behind_s)
    ticker.wake()
    await until(lambda: len(ticks) >= 4)
    ticker.stop()
    assert ticks[3] - ticks[0] >= 0.0029
