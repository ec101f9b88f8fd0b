"""Named signed 64-bit counters: the demo state machine."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cyoloctl.errors import CounterOverflow, InvalidInput, Overloaded
from cyoloctl.model import parse_name
from cyoloctl.replicated.command import Malformed, Refused

__all__ = ["MAX_COUNTERS", "MAX_VALUE", "MIN_VALUE", "CounterMachine"]

MIN_VALUE = -(2**63)
MAX_VALUE = 2**63 - 1
MAX_COUNTERS = 100_000
_MAX_BY = 2**63  # one more than MAX_VALUE, so that the minimum can be subtracted

_OPERATIONS = frozenset({"add", "reset"})


class CounterMachine:
    """Operations, each answered with ``{"name","value"}``:

    ``add {name, by}``: by is -(2**63) to 2**63; a counter begins at 0.
    Refused with counter_overflow when the sum leaves the 64 bits.
    ``reset {name}``: the value becomes 0; the counter stays in the list, and
    is made if there was none.
    Both are refused with overloaded for a new name when there are 100,000.

    on_change: called with name, value and log index after each operation that
    was not refused, also when the value stayed.  Not replicated; what it
    raises is dropped.  It must not propose or change anything here.
    """

    def __init__(self) -> None:
        self.on_change: Callable[[str, int, int], None] | None = None
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

    def operations(self) -> frozenset[str]:
        """The operations that `apply` knows."""
        return _OPERATIONS

    def apply(
        self, operation: str, arguments: dict[str, Any], index: int, now_unix_ms: int
    ) -> dict[str, Any]:
        """The value of the answer.  Raises Malformed or Refused, then nothing changed."""
        name = arguments.get("name")
        if operation == "add":
            by = arguments.get("by")
            if len(arguments) != 2 or type(by) is not int or not -_MAX_BY <= by <= _MAX_BY:
                raise Malformed("counter.add takes a name and an integer from -(2**63) to 2**63 as by")
        elif operation == "reset":
            by = None
            if len(arguments) != 1:
                raise Malformed("counter.reset takes a name")
        else:
            raise Malformed("counters know add and reset only: upgrade every node before using what is new")
        if type(name) is not str:
            raise Malformed("the counter name is not text: use 1 to 63 of a-z, 0-9 and '-'")
        old = self._values.get(name)
        if old is None:
            _check_name(name)
            if len(self._values) >= MAX_COUNTERS:
                raise Refused(Overloaded(f"there are {MAX_COUNTERS} counters already: use one of them"))
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
        if self.on_change is not None:
            # An observer is not replicated: whatever happens in it must not make this node differ.
            with suppress(Exception):
                self.on_change(name, value, index)
        return {"name": name, "value": value}

    def freeze(self) -> Callable[[], dict[str, Any]]:
        """`export_state` of this moment, whatever comes meanwhile; the work is in the returned function."""
        values = self._values.copy()
        return lambda: values

    def export_state(self) -> dict[str, Any]:
        """name -> value, for the snapshot.  Not a copy: encode it before the next apply."""
        return self._values

    def prepare_restore(self, state: object) -> Callable[[], None]:
        """Checks an exported state; the returned function puts it in place.  Raises ValueError."""
        if type(state) is not dict or len(state) > MAX_COUNTERS:
            raise ValueError("counters are not an object")
        for name, value in state.items():
            try:
                _check_name(name)
            except Malformed:
                raise ValueError("a counter has a bad name") from None
            if type(value) is not int or not MIN_VALUE <= value <= MAX_VALUE:
                raise ValueError("a counter is not a 64-bit integer")
        names = sorted(state)

        def commit() -> None:
            self._values = state
            self._names = names

        return commit


def _check_name(name: str) -> None:
    # ASCII first: the text of parse_name's error shows other characters by the interpreter's Unicode version.
    if not name.isascii():
        raise Malformed("the counter name is not ascii: use 1 to 63 of a-z, 0-9 and '-'")
    try:
        parse_name(name, "counter name")
    except InvalidInput as error:
        raise Malformed(error.message) from None
