"""Queries in threads: answers, errors, ends."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from cyoloctl.errors import Overloaded, QueryTimeout
from cyoloctl.machines.language import ReadTable, Refuse
from cyoloctl.machines.queries import AT_ONCE, QueryThreads
from cyoloctl.replicated.table import Table as Rows
from tests.support.own_machine import CODE


def spin(read: bool) -> Callable[[Callable[[], None]], str]:
    return lambda step: CODE.run(CODE.queries["spin"], ReadTable(Rows(), step), {"read": read}, 100)


async def test_answer_and_error_are_those_of_the_query() -> None:
    def refuse(step: Callable[[], None]) -> str:
        raise Refuse("no")

    threads = QueryThreads()
    assert await threads.run(lambda step: "1", 5.0) == "1"
    with pytest.raises(Refuse):
        await threads.run(refuse, 5.0)


@pytest.mark.parametrize("read", [True, False])
async def test_query_without_end_is_ended_also_where_it_reads_nothing(read: bool) -> None:
    threads = QueryThreads()
    with pytest.raises(QueryTimeout, match=r"was ended after 0\.1 s"):
        await threads.run(spin(read), 0.1)
    for thread in threading.enumerate():
        if thread.name == "cyoloctl query":
            thread.join(10.0)
            assert not thread.is_alive()


async def test_as_many_queries_as_may_run_leave_no_room_until_one_ends() -> None:
    threads, hold = QueryThreads(), threading.Event()

    def wait(step: Callable[[], None]) -> str:
        hold.wait(30.0)
        return "1"

    for _ in range(AT_ONCE):
        with pytest.raises(QueryTimeout):
            await threads.run(wait, 0.01)
    with pytest.raises(Overloaded, match="queries of machines run already"):
        await threads.run(lambda step: "1", 5.0)
    hold.set()
    for thread in threading.enumerate():
        if thread.name == "cyoloctl query":
            thread.join(10.0)
    assert await threads.run(lambda step: "2", 5.0) == "2"
