"""A run with clients that have their answers at once; tests/cluster/test_bench.py has those of nodes."""

from __future__ import annotations

import signal
from typing import Any, Self, cast

from cyoloctl.bench.run import OPERATIONS, Plan, Result, run
from cyoloctl.control.client import AsyncClient
from tools.generate import commands


class AtOnce:
    """Stands for a client whose answers are there before it waits for them, as on a busy machine."""

    def __init__(self) -> None:
        self.count = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    @property
    def counters(self) -> Self:
        return self

    async def incr(self, name: str) -> dict[str, Any]:
        self.count += 1
        return {"name": name}


def carried_out(*clients: AtOnce, seconds: float = 0.1) -> Result:
    return run(cast("list[AsyncClient]", clients), Plan("incr", seconds), lambda elapsed_s, result: None)


def test_client_whose_answers_are_there_at_once_leaves_the_others_their_turn() -> None:
    one, other = AtOnce(), AtOnce()
    result = carried_out(one, other)
    assert abs(one.count - other.count) <= 1
    assert one.count + other.count == result.succeeded + 2 > 4


def test_run_leaves_the_handlers_of_signals_as_they_were() -> None:
    def ours(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, ours) for number in numbers]
    try:
        carried_out(AtOnce(), seconds=0.01)
        assert [signal.getsignal(number) for number in numbers] == [ours] * 3
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_command_offers_the_operations_that_there_are() -> None:
    [bench] = [each for each in commands() if each.path[1:] == ("bench",)]
    [option] = [each for each in bench.options if "--op" in each.names]
    assert option.metavar == "|".join(OPERATIONS)
