"""What a class must be to become a machine, and what callers may give."""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl import StateMachine, Table, operation
from cyoloctl.machines.code import NotAMachine, WrongArguments, code_of
from tests.support.own_machine import CODE


def machine(**attributes: Any) -> type:
    @operation
    def fine(self: Any, table: Table) -> None:
        """Nothing."""

    return type("Made", (StateMachine,), {"NAME": "made", "fine": fine, **attributes})


def test_class_is_a_machine_with_its_methods() -> None:
    assert (CODE.name, CODE.version) == ("try", 1)
    assert list(CODE.operations) == ["go_wrong", "put", "stamp", "take"]
    assert list(CODE.queries) == ["get", "rows", "spin"]
    assert CODE.operations["put"].summary == "Set a row."
    assert code_of(machine(), "0" * 64).name == "made"


def starred(self: Any, table: Table, *more: int) -> None: ...
def bare(self: Any) -> None: ...
def odd(self: Any, table: Table, when: float) -> None: ...
def shared(self: Any, table: Table, seen: list[int] = []) -> None: ...  # noqa: B006 - what is refused
async def later(self: Any, table: Table) -> None: ...
def unknown(self: Any, table: Table, what: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"NAME": "Upper"}, "its NAME"),
        ({"NAME": 5}, "its NAME"),
        ({"VERSION": 0}, "its VERSION"),
        ({"VERSION": True}, "its VERSION"),
        ({"__init__": lambda self: None}, "it has an __init__"),
        ({"fine": None}, "no method that is marked"),
        ({"_hidden": operation(bare)}, "_hidden is not valid as the name"),
        ({"x": operation(starred)}, "x must take self, table"),
        ({"x": operation(bare)}, "x must take self, table"),
        ({"x": operation(odd)}, "when of x has another type"),
        ({"x": operation(shared)}, "the default of seen of x"),
        ({"x": operation(later)}, "x is no plain method"),
        ({"x": operation(unknown)}, "the annotations of x cannot be read"),
    ],
)
def test_class_that_is_no_machine_is_told_why(attributes: dict[str, Any], why: str) -> None:
    with pytest.raises(NotAMachine, match=why):
        code_of(machine(**attributes), "0" * 64)


@pytest.mark.parametrize("other", [None, 5, dict, StateMachine])
def test_what_is_no_subclass_is_no_machine(other: Any) -> None:
    with pytest.raises(NotAMachine, match="inherits"):
        code_of(other, "0" * 64)


def test_arguments_are_held_to_the_signature() -> None:
    take = CODE.operations["take"]
    take.check({"key": "a"})
    take.check({"key": "a", "count": None})
    take.check({"key": "a", "count": 1})
    for given in ({}, {"key": 1}, {"key": "a", "count": "1"}, {"key": "a", "self": 1}, {"key": "a", "é": 1}):
        with pytest.raises(WrongArguments) as refused:
            take.check(given)
        assert str(refused.value).isascii()


def test_room_for_calls_is_the_same_however_deep_the_caller_is() -> None:
    @operation
    def depth(self: Any, table: Table, most: int) -> int:
        def down(left: int) -> int:
            return 0 if left == 0 else 1 + down(left - 1)

        reached = most
        while True:
            try:
                return down(reached)
            except RecursionError:
                reached -= 1

    code = code_of(machine(depth=depth), "0" * 64)

    def call(below: int) -> str:
        if below:
            return call(below - 1)
        return code.run(code.operations["depth"], Table(_rows()), {"most": 300}, 100)

    assert call(0) == call(100) == call(300)
    assert 150 < int(call(0)) < 200


def _rows() -> Any:
    from cyoloctl.replicated.table import Table as Rows

    return Rows()
