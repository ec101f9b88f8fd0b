"""Events of those who wait for a change."""

from __future__ import annotations

import asyncio
import time

import pytest

from cyoloctl.replicated import watchers as watchers_module
from cyoloctl.replicated.watchers import PrefixWatchers, Turns, Watchers


def test_change_wakes_those_who_wait_for_that_name_only() -> None:
    watchers = Watchers()
    with watchers.watch("a") as first, watchers.watch("a") as second, watchers.watch("b") as other:
        watchers.changed("a")
        watchers.changed("nobody waits for this")
        assert (first.is_set(), second.is_set(), other.is_set()) == (True, True, False)
        watchers.all_changed()
        assert other.is_set()


def test_name_is_watched_until_the_last_one_leaves() -> None:
    watchers = Watchers()
    with watchers.watch("a"):
        with watchers.watch("a"):
            assert watchers.names() == ["a"]
        assert watchers.is_watched("a")
    assert not watchers.is_watched("a")
    assert watchers.names() == []


def test_change_wakes_those_who_wait_for_a_beginning_of_its_name_only() -> None:
    watchers = PrefixWatchers()
    assert not watchers.is_watching
    with watchers.watch("") as all_, watchers.watch("a/") as some, watchers.watch("a/b") as one:
        watchers.changed(["a/c", "ab", "a"])
        assert (all_.is_set(), some.is_set(), one.is_set()) == (True, True, False)
        watchers.all_changed()
        assert one.is_set()
    assert not watchers.is_watching
    with watchers.watch("a/") as again, watchers.watch("b/"):
        watchers.changed([])
        assert not again.is_set()
        watchers.changed(["a/"])
        assert again.is_set()


async def test_turns_leave_nine_tenths_of_the_time_to_others_and_come_in_order() -> None:
    turns, served = Turns(), list[int]()
    busy_s = 0.0

    async def caller(number: int) -> None:
        nonlocal busy_s
        assert await turns.take(60)
        began = time.monotonic()
        while time.monotonic() - began < 0.000_05:
            pass
        served.append(number)
        busy_s += time.monotonic() - began

    began = time.monotonic()
    callers = [asyncio.ensure_future(caller(number)) for number in range(300)]
    await asyncio.gather(*callers)
    assert served == list(range(300))
    last = busy_s / 300 * (300 % 64)  # after which nobody has to wait
    assert time.monotonic() - began > 8 * (busy_s - last)


async def test_turn_that_does_not_come_in_time_is_said_and_holds_nobody_up() -> None:
    turns = Turns()
    assert await turns.take(60)
    until = time.monotonic() + 0.02  # this is what the turn costs
    while time.monotonic() < until:
        pass
    late = asyncio.ensure_future(turns.take(0.01))
    following = asyncio.ensure_future(turns.take(60))
    assert [await late, await following] == [False, True]


async def test_callers_who_left_take_no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers_module, "_PAUSE_FACTOR", 1e9)
    monkeypatch.setattr(watchers_module, "_LONGEST_PAUSE_S", 3600.0)
    turns, loop = Turns(), asyncio.get_running_loop()
    gone = [loop.create_task(turns.take(60)) for _ in range(1000)]
    here = loop.create_task(turns.take(60))
    loop.call_soon(lambda: [each.cancel() for each in gone])  # once all of them wait
    async with asyncio.timeout(30):
        assert await here
    assert all(each.cancelled() for each in gone)


async def test_turn_that_comes_as_the_time_is_over_is_taken() -> None:
    assert await Turns().take(0)
