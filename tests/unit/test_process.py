"""A program in a loop that a signal interrupts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import NoReturn

import pytest

from cyoloctl.process import run_in_loop, until_terminated

NUMBERS = (signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """What the handler of these tests raises."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    def interrupt(number: int, frame: object) -> None:
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_signal_ends_the_work_and_breaks_into_no_step_of_another_task(number: signal.Signals) -> None:
    seen: list[str] = []

    async def step() -> None:
        os.kill(os.getpid(), number)
        seen.append("whole")

    async def work() -> None:
        task = asyncio.create_task(step())
        try:
            await asyncio.Event().wait()
        finally:
            assert task.exception() is None
            seen.append("cleaned up")

    with pytest.raises(Interrupted) as caught:
        run_in_loop(work())
    assert caught.value.args == (number,)
    assert seen == ["whole", "cleaned up"]


def test_second_signal_finds_the_default() -> None:
    found: list[object] = []

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            found.append(signal.getsignal(signal.SIGTERM))

    with pytest.raises(Interrupted):
        run_in_loop(work())
    assert found == [signal.SIG_DFL]


def test_handlers_are_those_of_before_when_the_work_has_ended() -> None:
    before = [signal.getsignal(number) for number in NUMBERS]

    async def work() -> int:
        return 7

    assert run_in_loop(work()) == 7
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_signal_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def work() -> str:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.to_thread(lambda: None)  # the loop looks at its signals
        return "done"

    assert run_in_loop(work()) == "done"
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_work_that_is_cancelled_without_a_signal_says_so() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run_in_loop(work())


def test_termination_is_the_regular_end_of_what_only_a_signal_ends() -> None:
    async def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    def follow() -> NoReturn:
        run_in_loop(work())
        raise AssertionError("only a signal ends it")

    until_terminated(follow)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
