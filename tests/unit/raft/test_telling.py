"""Telling what became of proposals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cyoloctl.errors import NoLeader
from cyoloctl.raft.telling import Telling


def telling() -> tuple[Telling, list[Any], Callable[[Any, Any], None]]:
    told: list[Any] = []
    return (
        Telling(asyncio.get_running_loop()),
        told,
        lambda result, error: told.append(error or result),
    )


async def test_what_a_turn_finds_is_told_after_it_in_order() -> None:
    tells, told, done = telling()

    def turn() -> None:
        tells.add(done, 1, None)
        tells.add(done, None, error)
        told.append("turn")

    error = NoLeader("none")
    tells.after(turn)
    assert told == ["turn", 1, error]
    tells.after(lambda: told.append("turn"))
    assert told == ["turn", 1, error, "turn"]


async def test_what_is_found_outside_a_turn_is_told_soon_and_never_at_once() -> None:
    tells, told, done = telling()
    tells.add(done, 1, None)
    tells.add(done, 2, None)
    assert told == []
    await asyncio.sleep(0)
    assert told == [1, 2]
    tells.add(done, 3, None)
    tells.after(lambda: None)  # a turn tells what waits
    assert told == [1, 2, 3]
    await asyncio.sleep(0)
    assert told == [1, 2, 3]


async def test_whoever_is_told_may_find_more() -> None:
    tells, told, done = telling()

    def again(result: Any, error: Any) -> None:
        tells.add(done, result + 1, None)

    tells.after(lambda: tells.add(again, 1, None))
    assert told == []
    await asyncio.sleep(0)
    assert told == [2]


async def test_one_that_raises_keeps_no_other_waiting(caplog: pytest.LogCaptureFixture) -> None:
    tells, told, done = telling()

    def broken(result: Any, error: Any) -> None:
        raise LookupError

    def turn() -> None:
        tells.add(broken, 1, None)
        tells.add(done, 2, None)
        raise MemoryError

    with pytest.raises(MemoryError):
        tells.after(turn)
    assert told == [2]
    assert [record.getMessage() for record in caplog.records] == ["a proposal's callback raised"]
    tells.add(done, 3, None)
    await asyncio.sleep(0)
    assert told == [2, 3]
