"""Operations of a node on counters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from typing import Any

from cyoloctl.counters.api import Counter, CounterList, CounterWritten
from cyoloctl.counters.machine import CounterMachine
from cyoloctl.errors import InternalError, NotFound
from cyoloctl.replicated.proposer import Planned, Proposer
from cyoloctl.replicated.watchers import Watchers
from cyoloctl.text import Json

__all__ = ["CounterOperations"]

# How long the first line of a watch may wait for a majority.
_FRESH_S = 5.0


class CounterOperations:
    """Implements `counters.api.CounterApi`.  Any node takes any request."""

    def __init__(self, proposer: Proposer, counters: CounterMachine) -> None:
        self._proposer = proposer
        self._counters = counters
        self._watchers = Watchers()
        self._changed_at: dict[str, int] = {}  # log index, of counters that are watched
        counters.on_change = self._on_change

    def _on_change(self, name: str, index: int) -> None:
        if self._watchers.is_watched(name):
            self._changed_at[name] = index
            self._watchers.changed(name)

    def restored(self) -> None:
        """The machine's state was replaced by a snapshot."""
        index = self._proposer.engine.applied_index()
        self._changed_at = dict.fromkeys(self._watchers.names(), index)
        self._watchers.all_changed()

    def add(
        self, name: str, *, by: int, request_id: str | None, timeout_s: float
    ) -> Coroutine[Any, Any, CounterWritten]:
        """Add a signed amount.  Raises CounterOverflow, InternalError for an answer that is no counter."""
        return self._proposer.carry_out(
            self.plan_add(name, by=by), request_id=request_id, timeout_s=timeout_s
        )

    def plan_add(self, name: str, *, by: int) -> Planned:
        """The write of `add`."""
        return self._planned("add", {"name": name, "by": by})

    def reset(
        self, name: str, *, request_id: str | None, timeout_s: float
    ) -> Coroutine[Any, Any, CounterWritten]:
        """Set to 0; makes the counter if there is none.  Raises as `add`."""
        return self._proposer.carry_out(self.plan_reset(name), request_id=request_id, timeout_s=timeout_s)

    def plan_reset(self, name: str) -> Planned:
        """The write of `reset`."""
        return self._planned("reset", {"name": name})

    def _planned(self, operation: str, arguments: Json) -> Planned:
        def answer(index: int, value: Json, request_id: str) -> CounterWritten:
            number = value.get("value")
            if type(number) is not int:
                raise InternalError("the leader's answer makes no sense: upgrade every node")
            return {**self._counter(arguments["name"], number, index), "request_id": request_id}

        return Planned("counter", operation, arguments, answer)

    async def get(self, name: str, *, consistency: str, timeout_s: float) -> Counter:
        """Read.  Raises NotFound."""
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        return self._counter(name, self._existing(name), self._proposer.engine.applied_index())

    def _existing(self, name: str) -> int:
        value = self._counters.get(name)
        if value is None:
            raise NotFound(f"there is no counter {name!r}: `cyoloctl counter incr {name}` makes it")
        return value

    async def list(self, *, after: str | None, limit: int, consistency: str, timeout_s: float) -> CounterList:
        """A page, by name."""
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        index = self._proposer.engine.applied_index()
        found = self._counters.list(after, limit + 1)
        page = [self._counter(name, value, index) for name, value in found[:limit]]
        return {"counters": page, "next": page[-1]["name"] if len(found) > limit and page else None}

    async def watch(self, name: str) -> AsyncIterator[Counter]:
        """The present value, then each later one that this node has applied; fast changes are merged.

        Raises NotFound for a counter that does not exist, as `get` does, and
        NoLeader where that cannot be known.
        """
        if self._counters.get(name) is None:
            await self._proposer.fresh(timeout_s=_FRESH_S)  # it may have been made on another node just now
            self._existing(name)
        shown: tuple[int, int] | None = None
        try:
            with self._watchers.watch(name) as event:
                event.set()
                while True:
                    await event.wait()
                    event.clear()
                    value = self._counters.get(name) or 0
                    at_first = self._proposer.engine.applied_index() if shown is None else 0
                    index = self._changed_at.get(name, at_first)
                    if (value, index) != shown:
                        shown = (value, index)
                        yield self._counter(name, value, index)
        finally:
            if not self._watchers.is_watched(name):
                self._changed_at.pop(name, None)

    def _counter(self, name: str, value: int, index: int) -> Counter:
        return {
            "name": name,
            "value": value,
            "value_string": str(value),
            "index": index,
            "epoch": self._proposer.epoch(),
        }
