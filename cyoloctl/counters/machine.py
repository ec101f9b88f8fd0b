"""Named signed 64-bit counters: the demo state machine."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from cyoloctl.errors import CounterOverflow, InvalidInput
from cyoloctl.model import parse_name
from cyoloctl.replicated.checks import exact, integer, json_object
from cyoloctl.replicated.command import Malformed, Refused
from cyoloctl.replicated.machine import NO_ROWS, Machine, Observed, Operations, Rows
from cyoloctl.replicated.table import Table
from cyoloctl.text import Json

__all__ = ["MAX_VALUE", "MIN_VALUE", "CounterMachine"]

MIN_VALUE = -(2**63)
MAX_VALUE = 2**63 - 1
_MAX_BY = 2**63  # one more than MAX_VALUE, so that the minimum can be subtracted


class CounterMachine(Observed, Machine):
    """Operations, each answered with ``{"name","value"}``:

    ``add {name, by}``: by is -(2**63) to 2**63; a counter begins at 0.
    Refused with counter_overflow when the sum leaves the 64 bits.
    ``reset {name}``: the value becomes 0; the counter stays in the list, and
    is made if there was none.

    on_change: called after each operation that was not refused, also when the
    value stayed.
    """

    NAME = "counter"
    PROPOSER = "any"

    TABLES = ("values",)

    def __init__(self) -> None:
        super().__init__(_OPERATIONS)
        self._values: Table[int] = Table()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, name: str) -> int | None:
        """The value, or None when there is no such counter."""
        return self._values.get(name)

    def list(self, after: str | None, limit: int) -> list[tuple[str, int]]:
        """At most ``limit`` pairs of name and value by ascending name, those above ``after`` only."""
        rows = self._values.rows_from("" if after is None else after, after=after is not None)
        return list(islice(rows, max(0, limit)))

    def _add(self, given: Json, index: int, now_unix_ms: int) -> Json:
        return self._set(given["name"], given["by"], index)

    def _reset(self, given: Json, index: int, now_unix_ms: int) -> Json:
        return self._set(given["name"], None, index)

    def _set(self, name: str, by: int | None, index: int) -> Json:
        """by: None to reset."""
        old = self._values.get(name)
        value = 0 if by is None else (old or 0) + by
        if not MIN_VALUE <= value <= MAX_VALUE:
            raise Refused(
                CounterOverflow(
                    f"counter {name} is {old or 0}, adding {by} would leave the signed 64-bit range: "
                    "nothing was changed; use a smaller step or reset it"
                )
            )
        self._values.set(name, value)
        self._changed(name, index)
        return {"name": name, "value": value}

    def export_state(self) -> Json:
        """Nothing: all is in the table of values."""
        return {}

    def freeze_tables(self) -> Rows:
        """See Machine: name, value."""
        return {"values": self._values.freeze()}

    def split_whole(self, state: object) -> tuple[object, Rows]:
        """See Machine."""
        return {}, {"values": sorted(json_object(state).items())}

    def prepare_restore(self, state: object, tables: Rows = NO_ROWS) -> Callable[[], None]:
        """See Machine."""
        exact(state, set())
        values = Table(map(_row, tables.get("values", ())))

        def commit() -> None:
            self._values = values

        return commit


def _row(row: Any) -> tuple[str, int]:
    """A row of a snapshot.  Raises ValueError."""
    name, value = row
    try:
        _name(name)
    except Malformed:
        raise ValueError("a counter has a bad name") from None
    if type(value) is not int or not MIN_VALUE <= value <= MAX_VALUE:
        raise ValueError("a counter is not a 64-bit integer")
    return name, value


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
