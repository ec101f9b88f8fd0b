"""A run: clients in one event loop, the operations that they send, and the counts."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cyoloctl.bench.latencies import Latencies
from cyoloctl.bench.schedule import Closed, Open, Schedule
from cyoloctl.errors import Conflict, CyoloctlError, NotFound, OutcomeUnknown, Unavailable

if TYPE_CHECKING:
    from cyoloctl.control.client import AsyncClient

__all__ = ["NAME", "OPERATIONS", "VALUE_BYTES", "Plan", "Result", "run"]

#: Of the counter, of the key and of the subject: the only names that a run writes to.
NAME = "bench"
VALUE_BYTES = 256
OPERATIONS = ("incr", "get", "get-stale", "put", "mint", "inspect")

# Else a client whose node is gone would send, and fail, as fast as this machine can.
_PAUSE_AFTER_FAILURE_S = 0.1
_TELL_EVERY_S = 0.2
# Longer than any run.
_TOKEN_TTL_S = 4 * 3600


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    operation: one of OPERATIONS.  seconds: how long clients send, at most 3600.  rate: per second, in an open
    loop; None: a closed loop.
    """

    operation: str
    seconds: float
    rate: float | None = None

    def schedule(self) -> Schedule:
        """The begins of its operations."""
        return Closed(self.seconds) if self.rate is None else Open(self.seconds, self.rate)


@dataclass(slots=True)
class Result:
    """What a run gave.

    seconds: how long clients were sending.  latencies: of what succeeded, and of what was planned and could
    not be sent the time that it had waited when the run ended.  in_time: how many of those that succeeded
    did so within these seconds.  errors: by code.  cpu: the share of a core that this process used.
    complete: False for a run that was interrupted.
    """

    seconds: float = 0.0
    latencies: Latencies = field(default_factory=Latencies)
    succeeded: int = 0
    in_time: int = 0
    unsent: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    cpu: float = 0.0
    complete: bool = True

    @property
    def failed(self) -> int:
        """How many ended with an error."""
        return self.errors.total()

    @property
    def rate(self) -> float:
        """How many succeeded each second."""
        return self.in_time / self.seconds if self.seconds else 0.0


def run(clients: Sequence[AsyncClient], plan: Plan, tell: Callable[[float, Result], None]) -> Result:
    """Carry a plan out; each client has one operation under way at a time.

    tell: called now and then with the seconds since the begin.  SIGINT, SIGTERM and SIGHUP end the run, and
    what was measured until then is returned.

    Raises Unreachable when no client reaches a node before the run begins, Unavailable when none has an
    answer there, and every other error that all of them have then.
    """
    # select(2) wakes within microseconds of a planned begin, epoll(7) up to a millisecond later.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(_Run(clients, plan, tell).carry_out())


class _Run:
    def __init__(
        self, clients: Sequence[AsyncClient], plan: Plan, tell: Callable[[float, Result], None]
    ) -> None:
        self._clients = clients
        self._plan = plan
        self._tell = tell
        self._schedule = plan.schedule()
        self._result = Result()
        self._tasks: list[asyncio.Task[None]] = []
        self._token = ""
        self._began = 0.0

    async def carry_out(self) -> Result:
        result = self._result
        async with contextlib.AsyncExitStack() as open_clients:
            for client in self._clients:
                await open_clients.enter_async_context(client)
            with self._interruptible():
                await self._all(self._warm_up())
                if result.complete:
                    await self._measure()
        return result

    async def _measure(self) -> None:
        result = self._result
        cpu, self._began = time.process_time(), time.perf_counter()
        teller = asyncio.get_running_loop().create_task(self._tell_now_and_then())
        try:
            await self._all(*(self._keep_sending(client) for client in self._clients))
        finally:
            teller.cancel()
        took_s = self._now_s()
        result.cpu = (time.process_time() - cpu) / took_s
        result.seconds = self._plan.seconds if result.complete else min(took_s, self._plan.seconds)
        for begin in self._schedule.unsent():
            if begin < result.seconds:
                result.unsent += 1
                result.latencies.add(result.seconds - begin)

    def _now_s(self) -> float:
        return time.perf_counter() - self._began

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in numbers}
        handled = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
        for number in handled:
            loop.add_signal_handler(number, self._interrupt)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)
                signal.signal(number, before[number])

    def _interrupt(self) -> None:
        self._result.complete = False
        for task in self._tasks:
            task.cancel()

    async def _all(self, *work: Coroutine[Any, Any, None]) -> None:
        """Return when all of it is done or cancelled.  Raises what one of them does."""
        self._tasks = [asyncio.get_running_loop().create_task(each) for each in work]
        await asyncio.wait(self._tasks)
        for task in self._tasks:
            if not task.cancelled():
                task.result()

    async def _warm_up(self) -> None:
        """Make what is read, and every connection.  Raises when no client has an answer."""
        answers = await asyncio.gather(*map(self._prepare, self._clients), return_exceptions=True)
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        for failure in failures:
            if not isinstance(failure, CyoloctlError):
                raise failure
        if len(failures) == len(self._clients):
            error = failures[0]  # each client has tried every endpoint
            if isinstance(error, Unavailable | OutcomeUnknown | Conflict):
                raise Unavailable(f"{self._plan.operation} is not answered: {error}") from error
            raise error

    async def _prepare(self, client: AsyncClient) -> None:
        if self._plan.operation in ("get", "get-stale"):
            try:
                await client.counters.get(NAME)
            except NotFound:
                await client.counters.incr(NAME)
        if self._plan.operation == "inspect" and not self._token:
            self._token = (await client.tokens.mint(NAME, ttl_s=_TOKEN_TTL_S))["token"]
        await self._operation(client)()

    def _operation(self, client: AsyncClient) -> Callable[[], Awaitable[object]]:
        counters, value = client.counters, bytes(VALUE_BYTES)
        known: dict[str, Callable[[], Awaitable[object]]] = {
            "incr": lambda: counters.incr(NAME),
            "get": lambda: counters.get(NAME),
            "get-stale": lambda: counters.get(NAME, stale=True),
            "put": lambda: client.kv.put(NAME, value),
            "mint": lambda: client.tokens.mint(NAME),
            "inspect": lambda: client.tokens.inspect(self._token),
        }
        return known[self._plan.operation]

    async def _keep_sending(self, client: AsyncClient) -> None:
        operation, schedule, result = self._operation(client), self._schedule, self._result
        while (begin := schedule.next(self._now_s())) is not None:
            # Also 0: an answer that is there at once would let one client go on while others wait for theirs.
            await asyncio.sleep(max(0.0, begin - self._now_s()))
            try:
                await operation()
            except CyoloctlError as error:
                result.errors[error.code] += 1
                if self._plan.rate is None:
                    await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)
                continue
            ended = self._now_s()
            result.latencies.add(ended - begin)
            result.succeeded += 1
            result.in_time += ended <= self._plan.seconds

    async def _tell_now_and_then(self) -> None:
        while True:
            self._tell(self._now_s(), self._result)
            await asyncio.sleep(_TELL_EVERY_S)
