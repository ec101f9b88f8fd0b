"""The command line of a fabricated next release, which understands level 2.

    python -m tests.support.next_release ARGUMENTS OF CYOLOCTL...

It brings an operation, ``counter.multiply``, and a field of the state, the number of multiplications, which
today's release takes for damage.  The counter ``product`` is multiplied where others are incremented.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import cyoloctl

__all__ = ["NAME", "install"]

NAME = "9.0.0"
_FIELD = "*"  # no counter has such a name


def _new_release() -> None:
    """Before anything else is imported: what runs here takes its release from there."""
    cyoloctl.__version__ = NAME
    from cyoloctl.replicated import levels

    levels.THIS = levels.Release(NAME, 2, {"counter.multiply": 2}, {2: NAME})


def _new_operation() -> None:
    from cyoloctl.counters import machine
    from cyoloctl.replicated.machine import NO_ROWS

    counters: Any = machine.CounterMachine
    add, export, restore = machine._OPERATIONS["add"], counters.export_state, counters.prepare_restore

    def multiply(self: Any, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        value = self.get(given["name"]) or 1
        self.multiplied = getattr(self, "multiplied", 0) + 1
        answer: dict[str, Any] = self._set(
            given["name"], value * given["by"] - (self.get(given["name"]) or 0), index
        )
        return answer

    def export_state(self: Any) -> dict[str, Any]:
        # Left out while there were none: before the level is raised, today's release reads it.
        multiplied = getattr(self, "multiplied", 0)
        return {**export(self), **({_FIELD: multiplied} if multiplied else {})}

    def prepare_restore(self: Any, state: Any, tables: Any = NO_ROWS) -> Callable[[], None]:
        given = dict(state)
        multiplied = given.pop(_FIELD, 0)
        commit = restore(self, given, tables)

        def both() -> None:
            commit()
            self.multiplied = multiplied

        return both

    def freeze(self: Any) -> Callable[[], dict[str, Any]]:
        state = export_state(self)
        return lambda: state

    counters.export_state, counters.prepare_restore, counters.freeze = export_state, prepare_restore, freeze
    machine._OPERATIONS = {**machine._OPERATIONS, "multiply": (add[0], multiply)}


def _new_route() -> None:
    from cyoloctl.replicated.proposer import Planned, Proposer

    def in_place_of(carried_out: Any) -> Any:
        def multiplying(self: Any, planned: Planned, **more: Any) -> Any:
            what = planned.machine, planned.operation, planned.arguments.get("name")
            if what == ("counter", "add", "product"):
                planned = Planned("counter", "multiply", planned.arguments, planned.answer)
            return carried_out(self, planned, **more)

        return multiplying

    for name in ("begin", "carry_out"):
        setattr(Proposer, name, in_place_of(getattr(Proposer, name)))


def install() -> None:
    """This process is of that release from now on.  Nothing else of ours may have been imported."""
    _new_release()
    _new_operation()
    _new_route()


if __name__ == "__main__":
    install()
    from cyoloctl.cli import main

    sys.argv[0] = "cyoloctl"
    sys.exit(main())
