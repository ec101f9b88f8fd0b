"""The API of the counters: routes, answers, errors, and the operations behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Protocol, TypedDict

from cyoloctl.errors import CounterOverflow
from cyoloctl.web.schema import (
    CONSISTENCY,
    NAME_PATTERN,
    NAME_RULE,
    REQUEST_ID,
    REQUEST_ID_PATTERN,
    Count,
    Field,
    Name,
    Route,
    Shape,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from cyoloctl.replicated.proposer import Planned

__all__ = ["ROUTES", "Counter", "CounterApi", "CounterList", "CounterWritten", "HasCounters", "route_to_add"]


class Counter(TypedDict):
    """A counter"""

    name: Name
    value: Annotated[int, Shape(format="int64")]
    value_string: Annotated[str, Shape(pattern="^-?[0-9]{1,19}$")]
    index: Count
    epoch: Count


class CounterWritten(Counter):
    """A counter after the write; the same for every repetition of the request id"""

    request_id: Annotated[str, Shape(pattern=f"^{REQUEST_ID_PATTERN}$")]


class CounterList(TypedDict):
    """A page of counters"""

    counters: list[Counter]
    next: Name | None


class CounterApi(Protocol):
    """Operations of a node for callers of this API."""

    async def add(self, name: str, *, by: int, request_id: str | None, timeout_s: float) -> CounterWritten:
        """Add -(2^63) to 2^63-1.  Raises CounterOverflow."""

    def plan_add(self, name: str, *, by: int) -> Planned:
        """`add` as a write to be carried out with others."""

    async def reset(self, name: str, *, request_id: str | None, timeout_s: float) -> CounterWritten:
        """Set to 0.  Raises NotFound."""

    def plan_reset(self, name: str) -> Planned:
        """`reset` as a write to be carried out with others."""

    async def get(self, name: str, *, consistency: str, timeout_s: float) -> Counter:
        """Read.  Raises NotFound."""

    async def list(self, *, after: str | None, limit: int, consistency: str, timeout_s: float) -> CounterList:
        """A page."""

    def watch(self, name: str) -> AsyncIterator[Counter]:
        """The present value, then changes.  Raises NotFound.  Closed (aclose) when the client leaves."""


class HasCounters(Protocol):
    """A node that serves this API."""

    @property
    def counters(self) -> CounterApi:
        """The operations."""


def _by(maximum: int) -> Field:
    return Field("by", "integer", "how much", default=1, minimum=1, maximum=maximum)


_MAX_I64 = 2**63 - 1


# The code has one signed amount; the API has two routes, whose amounts are positive.  Both ways are here.
def route_to_add(by: int) -> tuple[str, int]:
    """The operation of the API that adds a signed amount, and the amount in its body."""
    return ("counter_increment", by) if by > 0 else ("counter_decrement", -by)


def _subtracting(node: HasCounters) -> Callable[..., Awaitable[CounterWritten]]:
    def subtract(
        name: str, *, by: int, request_id: str | None, timeout_s: float
    ) -> Awaitable[CounterWritten]:
        return node.counters.add(name, by=-by, request_id=request_id, timeout_s=timeout_s)

    return subtract


def _planning_to_subtract(node: HasCounters) -> Callable[..., Planned]:
    def plan(name: str, *, by: int) -> Planned:
        return node.counters.plan_add(name, by=-by)

    return plan


ROUTES: tuple[Route[HasCounters], ...] = (
    Route(
        "POST",
        "/v1/counters/{name}/increment",
        "operator",
        "counter_increment",
        "Add to a counter",
        answer=CounterWritten,
        handler=lambda node: node.counters.add,
        plan=lambda node: node.counters.plan_add,
        what="counter name",
        body=(_by(_MAX_I64), REQUEST_ID),
        write=True,
        errors=(CounterOverflow,),
    ),
    Route(
        "POST",
        "/v1/counters/{name}/decrement",
        "operator",
        "counter_decrement",
        "Subtract from a counter",
        answer=CounterWritten,
        handler=_subtracting,
        plan=_planning_to_subtract,
        what="counter name",
        body=(_by(_MAX_I64 + 1), REQUEST_ID),
        write=True,
        errors=(CounterOverflow,),
    ),
    Route(
        "POST",
        "/v1/counters/{name}/reset",
        "operator",
        "counter_reset",
        "Set a counter to 0",
        answer=CounterWritten,
        handler=lambda node: node.counters.reset,
        plan=lambda node: node.counters.plan_reset,
        what="counter name",
        body=(REQUEST_ID,),
        write=True,
    ),
    Route(
        "GET",
        "/v1/counters/{name}",
        "viewer",
        "counter_get",
        "Read a counter",
        answer=Counter,
        handler=lambda node: node.counters.get,
        what="counter name",
        query=(CONSISTENCY,),
    ),
    Route(
        "GET",
        "/v1/counters",
        "viewer",
        "counter_list",
        "List counters by name, in pages",
        answer=CounterList,
        handler=lambda node: node.counters.list,
        query=(
            CONSISTENCY,
            Field("limit", "integer", "counters per page", default=100, minimum=1, maximum=1000),
            Field(
                "after",
                "string",
                "begin after this name (`next` of the page before)",
                default=None,
                nullable=True,
                pattern=NAME_PATTERN,
                rule=NAME_RULE,
            ),
        ),
    ),
    Route(
        "GET",
        "/v1/counters/{name}/watch",
        "viewer",
        "counter_watch",
        "Follow a counter: one object per line, the present value first; a blank line at least every "
        "10 seconds; an object with `error` ends the stream",
        answer=Counter,
        handler=lambda node: node.counters.watch,
        what="counter name",
        stream=True,
    ),
)
