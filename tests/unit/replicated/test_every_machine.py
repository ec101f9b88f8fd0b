"""Promises of every machine: wrong commands change nothing, and a snapshot gives back what was there."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest

from cyoloctl.model import Stamp
from cyoloctl.replicated.command import Command, Malformed, Refused
from cyoloctl.replicated.machine import Machine
from cyoloctl.state import ClusterState
from cyoloctl.text import Json, canonical_json, parse_canonical_json
from tests.support.own_machine import CODE, LATER
from tests.support.states import exported, prepared
from tests.unit.replicated.cases import CASES, NOW

MACHINES = sorted(CASES)
WRONG = [
    (name, operation, argument, value)
    for name, case in CASES.items()
    for (operation, argument), values in case.wrong.items()
    for value in values
]
OPERATIONS = [(name, operation) for name, case in CASES.items() for operation in case.good]
DAMAGE = [(name, number) for name, case in CASES.items() for number in range(len(case.damage))]
# Of each JSON type, and what only parsers that are careless take.
ODD: list[Any] = [None, True, -1, 2**64, 1.5, "", "\ud800", "x" * 10_000, [], [None], {}, {"": None}]


class World:
    """A cluster's state after the history of a machine's case."""

    def __init__(self, name: str) -> None:
        self.state = ClusterState(codes=(CODE, LATER))
        self.state.clock.stamp = Stamp(0, NOW, 1)
        self.index = 0
        for machine, operation, arguments in CASES[name].history:
            self.apply(machine, operation, arguments)

    def machine(self, name: str) -> Machine:
        return self.state._machines[name]

    def apply(self, machine: str, operation: str, arguments: Json) -> Json:
        self.index += 1
        if operation == "note":  # no command: it leaves a line in the audit log
            kind = {"machine": "keys", "operation": "generate", "kind": "node", "caller": "ann"}
            noted = Command(
                **kind,
                arguments=arguments,
                request_id="r",
                time_unix_ms=-1,
                digest=b"",
                origin="operator - - n1",
            )
            self.state.audit.note(noted, self.index, 1, NOW, b'{"index":1,"value":{}}')
            return {}
        return self.machine(machine).apply(
            operation, _travelled(arguments), self.index, self.state.time_unix_ms
        )

    def exported(self, name: str) -> Any:
        return exported(self.machine(name))


def _travelled(arguments: Json) -> Json:
    """As they come out of a command; what no command can hold stays as it is."""
    try:
        return dict(parse_canonical_json(canonical_json(arguments)))
    except ValueError:
        return arguments


def test_every_machine_and_every_operation_has_a_case() -> None:
    machines = ClusterState()._machines
    assert {name: frozenset(case.good) for name, case in CASES.items()} == {
        name: machine.operations() for name, machine in machines.items()
    }
    assert [name for name, machine in machines.items() if name != machine.NAME] == []


@pytest.mark.parametrize("name", MACHINES)
def test_history_leaves_another_state_than_an_empty_one(name: str) -> None:
    machine = ClusterState()._machines[name]
    assert (World(name).exported(name) != exported(machine)) is not machine.STATELESS


@pytest.mark.parametrize("name", MACHINES)
def test_drawn_arguments_are_arguments_of_operations_that_there_are(name: str) -> None:
    good = CASES[name].good
    for operation, drawn in ClusterState()._machines[name].DRAWN.items():
        assert drawn < good[operation].keys() or drawn == good[operation].keys() == {"key_id"}, operation


@pytest.mark.parametrize("name", MACHINES)
def test_proposers_are_of_operations_that_there_are(name: str) -> None:
    machine = World(name).machine(name)
    assert machine.PROPOSERS.keys() <= machine.operations()
    proposers = {machine.proposer(operation) for operation in machine.operations()}
    assert proposers <= {"any", "voter", "self", "leader", "nobody"}


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_good_arguments_are_not_malformed(name: str, operation: str) -> None:
    try:
        answer = World(name).apply(name, operation, CASES[name].good[operation])
    except Refused:
        return
    assert parse_canonical_json(canonical_json(answer)) == answer


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_everything_done_at_the_end_of_time_fits_in_a_snapshot(name: str, operation: str) -> None:
    world, again = World(name), ClusterState()
    world.state.advance(Stamp(world.state.stamp().epoch, 2**64 - 1, 2**64 - 1))
    with contextlib.suppress(Refused):
        world.apply(name, operation, CASES[name].good[operation])
    again.restore(b"".join(world.state.begin_snapshot()()))
    assert again.digest() == world.state.digest()


@pytest.mark.parametrize(("name", "operation", "argument", "value"), WRONG)
def test_wrong_argument_is_malformed_and_changes_nothing(
    name: str, operation: str, argument: str, value: Any
) -> None:
    world = World(name)
    before = world.state.digest()
    with pytest.raises(Malformed):
        world.apply(name, operation, {**CASES[name].good[operation], argument: value})
    assert world.state.digest() == before


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_argument_of_any_json_raises_nothing_but_malformed_and_refused(name: str, operation: str) -> None:
    world = World(name)
    good = CASES[name].good[operation]
    for argument in good:
        for value in ODD:
            before = world.state.digest()
            try:
                world.apply(name, operation, {**good, argument: value})
            except (Malformed, Refused):
                assert world.state.digest() == before
            world.state.digest()


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_argument_missing_or_too_many_is_malformed_and_changes_nothing(name: str, operation: str) -> None:
    world = World(name)
    before = world.state.digest()
    good = CASES[name].good[operation]
    for arguments in ({**good, "x": 1}, dict(list(good.items())[1:]), {}):
        with pytest.raises(Malformed, match=rf"{name}\.{operation} takes "):
            world.apply(name, operation, arguments)
    assert world.state.digest() == before


@pytest.mark.parametrize("name", MACHINES)
def test_unknown_operation_is_malformed_and_changes_nothing(name: str) -> None:
    world = World(name)
    before = world.state.digest()
    with pytest.raises(Malformed, match="upgrade"):
        world.apply(name, "melt", {})
    assert world.state.digest() == before


@pytest.mark.parametrize("name", MACHINES)
def test_snapshot_gives_back_the_state_to_the_byte(name: str) -> None:
    world, other = World(name), ClusterState()
    snapshot = b"".join(world.state.begin_snapshot()())
    other.restore(snapshot)
    assert b"".join(other.begin_snapshot()()) == snapshot
    assert exported(other._machines[name]) == world.exported(name)


@pytest.mark.parametrize("name", MACHINES)
def test_state_is_restored_over_any_other(name: str) -> None:
    world, empty = World(name), exported(ClusterState()._machines[name])
    full = world.exported(name)
    for state in (empty, full, empty, full):
        prepared(world.machine(name), copy.deepcopy(state))()
        assert world.exported(name) == state


@pytest.mark.parametrize("name", MACHINES)
def test_frozen_state_is_of_its_moment(name: str) -> None:
    world = World(name)
    machine = world.machine(name)
    before, frozen, tables = world.exported(name), machine.freeze(), machine.freeze_tables()
    for operation, arguments in CASES[name].good.items():
        try:
            world.apply(name, operation, arguments)
        except Refused:
            continue
    rows = {table: list(each) for table, each in tables.items()}
    assert parse_canonical_json(canonical_json({"state": frozen(), "tables": rows})) == before


@pytest.mark.parametrize(("name", "number"), DAMAGE)
def test_damaged_state_is_a_value_error_and_changes_nothing(name: str, number: int) -> None:
    world = World(name)
    state = world.exported(name)
    prepared(world.machine(name), copy.deepcopy(state))
    before = world.state.digest()
    damaged = {**state["state"], **state["tables"]}
    CASES[name].damage[number](damaged)
    tables = {table: damaged.pop(table) for table in state["tables"]}
    with pytest.raises((ValueError, TypeError)):
        world.machine(name).prepare_restore(damaged, tables)
    assert world.state.digest() == before


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("state", [None, 5, "x", [], [{}]])
def test_state_that_is_no_object_is_a_value_error(name: str, state: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        ClusterState()._machines[name].prepare_restore(state)
