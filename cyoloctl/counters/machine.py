"""Named signed 64-bit counters: the demo state machine."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass

from cyoloctl.errors import CounterOverflow, InvalidInput, Overloaded
from cyoloctl.model import parse_name
from cyoloctl.replicated.checks import integer
from cyoloctl.replicated.command import Malformed, Refused
from cyoloctl.replicated.machine import Machine, Observed, Operations
from cyoloctl.text import Json

__all__ = ["MAX_COUNTERS", "MAX_VALUE", "MIN_VALUE", "CounterLimits", "CounterMachine"]

MIN_VALUE = -(2**63)
MAX_VALUE = 2**63 - 1
MAX_COUNTERS = 100_000
_MAX_BY = 2**63  # one more than MAX_VALUE, so that the minimum can be subtracted


@dataclass(frozen=True, slots=True)
class CounterLimits:
    """counters: how many there can be."""

    counters: int = MAX_COUNTERS


_LIMITS = CounterLimits()


class CounterMachine(Observed, Machine):
    """Operations, each answered with ``{"name","value"}``:

    ``add {name, by}``: by is -(2**63) to 2**63; a counter begins at 0.
    Refused with counter_overflow when the sum leaves the 64 bits.
    ``reset {name}``: the value becomes 0; the counter stays in the list, and
    is made if there was none.
    Both are refused with overloaded for a new name when there are 100,000.

    on_change: called after each operation that was not refused, also when the
    value stayed.
    """

    NAME = "counter"
    PROPOSER = "any"

    def __init__(self, limits: CounterLimits = _LIMITS) -> None:
        super().__init__(_OPERATIONS)
        self._limits = limits
        self._values: dict[str, int] = {}
        self._names: list[str] = []  # sorted, for list()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, name: str) -> int | None:
        """The value, or None when there is no such counter."""
        return self._values.get(name)

    def list(self, after: str | None, limit: int) -> list[tuple[str, int]]:
        """At most ``limit`` pairs of name and value by ascending name, those above ``after`` only."""
        start = 0 if after is None else bisect_right(self._names, after)
        return [(name, self._values[name]) for name in self._names[start : start + max(0, limit)]]

    def _add(self, given: Json, index: int, now_unix_ms: int) -> Json:
        return self._set(given["name"], given["by"], index)

    def _reset(self, given: Json, index: int, now_unix_ms: int) -> Json:
        return self._set(given["name"], None, index)

    def _set(self, name: str, by: int | None, index: int) -> Json:
        """by: None to reset."""
        old = self._values.get(name)
        if old is None and len(self._values) >= self._limits.counters:
            raise Refused(Overloaded(f"there are {self._limits.counters} counters already: use one of them"))
        value = 0 if by is None else (old or 0) + by
        if not MIN_VALUE <= value <= MAX_VALUE:
            raise Refused(
                CounterOverflow(
                    f"counter {name} is {old or 0}, adding {by} would leave the signed 64-bit range: "
                    "nothing was changed; use a smaller step or reset it"
                )
            )
        self._values[name] = value
        if old is None:
            insort(self._names, name)
        self._changed(name, index)
        return {"name": name, "value": value}

    def freeze(self) -> Callable[[], Json]:
        """`export_state` of this moment, whatever comes meanwhile; the work is in the returned function."""
        values = self._values.copy()
        return lambda: values

    def export_state(self) -> Json:
        """name -> value, for the snapshot.  Not a copy: encode it before the next apply."""
        return self._values

    def prepare_restore(self, state: object) -> Callable[[], None]:
        """Checks an exported state; the returned function puts it in place.  Raises ValueError."""
        if type(state) is not dict or len(state) > self._limits.counters:
            raise ValueError("counters are not an object")
        for name, value in state.items():
            try:
                _name(name)
            except Malformed:
                raise ValueError("a counter has a bad name") from None
            if type(value) is not int or not MIN_VALUE <= value <= MAX_VALUE:
                raise ValueError("a counter is not a 64-bit integer")
        names = sorted(state)

        def commit() -> None:
            self._values = state
            self._names = names

        return commit


def _name(value: object) -> str:
    # ASCII first: the text of parse_name's error shows other characters by the interpreter's Unicode version.
    if type(value) is not str or not value.isascii():
        raise Malformed("the counter name is not ascii: use 1 to 63 of a-z, 0-9 and '-'")
    try:
        return parse_name(value, "counter name")
    except InvalidInput as error:
        raise Malformed(error.message) from None


_OPERATIONS: Operations = {
    "add": ({"name": _name, "by": integer(-_MAX_BY, _MAX_BY, "by")}, CounterMachine._add),
    "reset": ({"name": _name}, CounterMachine._reset),
}
