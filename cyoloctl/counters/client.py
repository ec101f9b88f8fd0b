"""Counters, as programs and commands use them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from cyoloctl.counters.api import route_to_add
from cyoloctl.errors import InvalidInput, OutcomeUnknown, Unavailable, Unreachable
from cyoloctl.web.schema import check_name
from cyoloctl.web.steps import Group, Item, Pause, consistency, iteration, operation

if TYPE_CHECKING:
    from cyoloctl.counters.api import Counter, CounterList, CounterWritten
    from cyoloctl.web.steps import Items, Steps

__all__ = ["Counters"]

M = TypeVar("M")

_PAGE = 1000
_PAUSE_S = 0.2


class Counters(Group[M]):
    """Signed 64-bit counters by name: 1 to 63 of a-z, 0-9 and '-'."""

    @operation
    def incr(
        self, name: str = "default", by: int = 1, *, request_id: str | None = None
    ) -> Steps[CounterWritten]:
        """Add `by` (signed 64-bit, not 0), exactly once per request id; makes the counter at 0 before.

        request_id: 1 to 128 printable ASCII characters; None makes a fresh one,
        so that a retry on another endpoint cannot apply twice.
        Raises CounterOverflow, where nothing was changed.
        """
        return self._add(name, _int64(by), request_id)

    @operation
    def decr(
        self, name: str = "default", by: int = 1, *, request_id: str | None = None
    ) -> Steps[CounterWritten]:
        """Subtract `by`; otherwise as `incr`."""
        return self._add(name, _int64(-by if type(by) is int else by), request_id)

    def _add(self, name: str, by: int, request_id: str | None) -> Steps[CounterWritten]:
        adds, amount = route_to_add(by)
        return self._caller.call(adds, name, {"by": amount, "request_id": request_id})

    @operation
    def reset(self, name: str, *, request_id: str | None = None) -> Steps[CounterWritten]:
        """Set a counter to 0, once per request id."""
        return self._caller.call("counter_reset", name, {"request_id": request_id})

    @operation
    def get(self, name: str = "default", *, stale: bool = False) -> Steps[Counter]:
        """A counter: linearizable, or with stale what the asked node has.  Raises NotFound."""
        return self._caller.call("counter_get", name, query=consistency(stale))

    @operation
    def page(self, *, after: str | None = None, limit: int = 100, stale: bool = False) -> Steps[CounterList]:
        """A page of 1 to 1000 counters by name, after the name `after`."""
        return (yield from self._page(after, limit, stale))

    @operation
    def list(self, *, stale: bool = False) -> Steps[list[Counter]]:
        """Every counter, by name; each page is linearizable unless stale."""
        found: list[Counter] = []
        after: str | None = None
        while True:
            page = yield from self._page(after, _PAGE, stale)
            found += page["counters"]
            after = page["next"]
            if after is None:
                return found

    def _page(self, after: str | None, limit: int, stale: bool) -> Steps[CounterList]:
        if after is not None:
            check_name(after, "counter name")
        if type(limit) is not int or not 1 <= limit <= _PAGE:
            raise InvalidInput(f"limit must be 1 to {_PAGE}")
        query = {"limit": limit, "after": after, **consistency(stale)}
        return self._caller.call("counter_list", query=query)

    @iteration
    def watch(self, name: str = "default", *, patience_s: float = 30.0) -> Items[Counter]:
        """The present value, then every change, until the caller stops; fast changes are merged.

        When the node goes away, it goes on at the next one, and never back to an older value.
        patience_s: how long it goes on while nobody answers; 0: it ends with the first stream.
        Raises NotFound, Unavailable.
        """
        shown: Counter | None = None
        heard = time.monotonic()
        while True:
            try:
                with (yield from self._caller.stream("counter_watch", name)) as stream:
                    again = shown is not None
                    while True:
                        value: Counter = yield from stream.next()  # type: ignore[assignment]  # as its route says
                        heard = time.monotonic()
                        if again and shown is not None and _is_old(value, shown):
                            continue
                        again, shown = False, value
                        yield Item(value)
            except (Unavailable, Unreachable, OutcomeUnknown):
                if time.monotonic() - heard >= patience_s:
                    raise
                yield Pause(_PAUSE_S)


def _int64(by: int) -> int:
    if type(by) is not int or not -(2**63) <= by <= 2**63 - 1 or by == 0:
        raise InvalidInput("by must be a signed 64-bit number other than 0")
    return by


def _is_old(value: Counter, shown: Counter) -> bool:
    """Whether a value says nothing new, or is from a node that knows less than the one before."""
    newer = (value["epoch"], value["index"]) > (shown["epoch"], shown["index"])
    return not newer or value["value"] == shown["value"]
