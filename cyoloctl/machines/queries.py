"""Queries of machines in threads of their own, so that a long one holds nobody up, and ends."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from cyoloctl.errors import Overloaded, QueryTimeout
from cyoloctl.machines.language import Stopped

__all__ = ["AT_ONCE", "QueryThreads"]

AT_ONCE = 4
"""Queries that run at the same time."""


class QueryThreads:
    """Runs queries, so many at once.  Every method belongs to the loop."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    async def run(self, query: Callable[[Callable[[], None]], str], timeout_s: float) -> str:
        """The answer of a query, which is called with what it calls for every row.

        Raises what it does, QueryTimeout when it did not end in time, and
        Overloaded while as many run as may.
        """
        self._threads = [each for each in self._threads if each.is_alive()]
        if len(self._threads) >= AT_ONCE:
            raise Overloaded(
                f"{AT_ONCE} queries of machines run already: repeat the query when one has ended"
            )
        loop = asyncio.get_running_loop()
        done: asyncio.Future[str] = loop.create_future()
        end = time.monotonic() + timeout_s
        late = False

        def step() -> None:
            nonlocal late
            if time.monotonic() >= end:
                late = True
                raise Stopped("it ran too long")

        def settle(answer: str | None, error: BaseException | None) -> None:
            if not done.done():
                if error is not None:
                    done.set_exception(error)
                else:
                    done.set_result(answer or "")

        def work() -> None:
            answer: str | None = None
            error: BaseException | None = None
            # What `_end` raises may come when the query has ended; RuntimeError: the loop has.
            with suppress(Stopped, RuntimeError):
                try:
                    answer = query(step)
                except BaseException as raised:
                    error = raised
                loop.call_soon_threadsafe(settle, answer, error)

        # Not the loop's executor: the process would wait at its end for a query that never returns.
        thread = threading.Thread(target=work, name="cyoloctl query", daemon=True)
        self._threads.append(thread)
        thread.start()
        finished, _ = await asyncio.wait([done], timeout=timeout_s)
        if finished and not late:
            return done.result()
        if not finished:
            done.cancel()
            _end(thread)
        elif done.exception() is None:
            return done.result()
        raise QueryTimeout(
            f"the query was ended after {timeout_s:.1f} s: ask for less, or set a longer --timeout"
        )


def _end(thread: threading.Thread) -> None:
    """Raise Stopped in a thread, at its next step in Python: a loop that reads no row ends too."""
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Stopped))
