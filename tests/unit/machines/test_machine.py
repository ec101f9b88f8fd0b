"""The register of code, and what is carried out: see `UserMachines`."""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl.errors import MachineMismatch, StorageError
from cyoloctl.machines.machine import InForce, MachineLimits, UserMachines
from cyoloctl.members.machine import MemberMachine
from cyoloctl.replicated.command import Malformed, Refused, encode_command
from cyoloctl.state import ClusterState, StateLimits
from cyoloctl.text import Json, parse_canonical_json
from tests.support.own_machine import CODE, LATER

NOW = 1_800_000_000_000
BOTH = [["try", 1, CODE.digest], ["try", 2, LATER.digest]]


class World:
    """A state with members that have announced version 1, which is in force."""

    def __init__(self, *codes: Any, members: tuple[str, ...] = ("n1", "n2"), quota: int = 10**6) -> None:
        limits = StateLimits(machines=MachineLimits(quota=quota))
        self.state = ClusterState(codes=codes or (CODE, LATER), limits=limits)
        self.machine = self.state.machines
        self.failures: list[str] = []
        self.machine.on_failed = lambda machine, operation, error: self.failures.append(str(error))
        self.index = 0
        for name in members:
            self.join(name)
            self.announce(name, BOTH[:1])
        self.register(1, CODE.digest)

    def join(self, name: str) -> None:
        fields = {"address": "h:1", "role": "voter", "raft_id": name, "certificate_expires_at": None}
        given = {"name": name, "sealing_key": "A" * 43 + "=", **fields}
        self.state.members.apply("put", given, 1, NOW)

    def call(self, operation: str, arguments: Json) -> Json:
        self.index += 1
        return self.machine.apply(operation, arguments, self.index, NOW)

    def announce(self, name: str, machines: list[list[Any]]) -> None:
        self.call("announce", {"name": name, "machines": machines})

    def register(self, version: int, digest: str) -> Json:
        return self.call("register", {"machine": "try", "version": version, "digest": digest})

    def do(self, operation: str, **arguments: Any) -> Any:
        given = {"machine": "try", "operation": operation, "arguments": arguments}
        return self.call("apply", given)["answer"]

    def rows(self) -> list[Any]:
        return list(self.machine.freeze_tables()["rows"])


def refusal(world: World, operation: str, **arguments: Any) -> str:
    with pytest.raises(Refused) as refused:
        world.do(operation, **arguments)
    return refused.value.error.code


def test_operation_changes_the_table_and_answers() -> None:
    world = World()
    assert world.do("put", key="a", value={"b": [1, None, "é"]}) is None
    assert world.do("put", key="a", value=2) == {"b": [1, None, "é"]}
    assert world.rows() == [["try", "a", "2"]]
    assert (world.do("take", key="a"), world.do("take", key="a")) == (True, False)


def test_index_and_time_are_given_to_who_names_them() -> None:
    world = World()
    assert world.do("stamp") == [world.index, NOW]


@pytest.mark.parametrize(
    "how",
    [
        *("float", "set", "long", "large", "surrogate", "deep", "names", "unknown", "refuse with a number"),
        *("exit", "recurse", "many", "swallow"),
    ],
)
def test_code_that_fails_is_refused_changes_nothing_and_is_logged(how: str) -> None:
    world = World()
    before = world.state.digest()
    assert refusal(world, "go_wrong", how=how) == "machine_failed"
    assert world.state.digest() == before
    assert len(world.failures) == 1
    assert world.do("put", key="a") is None  # and it goes on


def test_failure_is_told_in_words_that_no_exception_has_a_part_in() -> None:
    world = World()
    messages = set()
    for how in ("float", "unknown", "recurse"):
        with pytest.raises(Refused) as refused:
            world.do("go_wrong", how=how)
        messages.add(refused.value.error.message)
    assert len(messages) == 1


def test_refusal_has_the_words_of_the_machine_and_changes_nothing() -> None:
    world = World()
    with pytest.raises(Refused, match=r"^no: ask again tomorrow$") as refused:
        world.do("go_wrong", how="refuse")
    assert (refused.value.error.code, refused.value.error.exit_status) == ("machine_refused", 4)
    assert world.rows() == []


@pytest.mark.parametrize(
    ("operation", "arguments", "code"),
    [
        ("nothing", {}, "not_found"),
        ("get", {"key": "a"}, "not_found"),  # a query
        ("put", {}, "unprocessable"),
        ("put", {"key": 1}, "unprocessable"),
        ("put", {"key": "a", "more": 1}, "unprocessable"),
        ("put", {"key": "a", "table": 1}, "unprocessable"),
        ("take", {"key": "a", "count": True}, "unprocessable"),
        ("stamp", {"index": 1}, "unprocessable"),
    ],
)
def test_what_an_operation_does_not_take_is_refused(operation: str, arguments: Json, code: str) -> None:
    assert refusal(World(), operation, **arguments) == code


def test_machine_that_is_not_there_is_refused() -> None:
    with pytest.raises(Refused, match="there is no machine other"):
        World().call("apply", {"machine": "other", "operation": "put", "arguments": {}})


def test_rows_beyond_the_quota_are_refused_until_some_are_deleted() -> None:
    world = World(quota=2 * (64 + 1 + 12))
    for key in "ab":
        world.do("put", key=key, value="x" * 10)
    assert refusal(world, "put", key="c", value="x") == "quota_exceeded"
    assert refusal(world, "put", key="a", value="x" * 11) == "quota_exceeded"
    world.do("put", key="a", value="y" * 10)
    world.do("take", key="a")
    world.do("put", key="c", value="x" * 10)


def test_size_after_a_restore_is_that_of_the_rows() -> None:
    world, again = World(quota=2 * (64 + 1 + 12)), World(quota=2 * (64 + 1 + 12))
    for key in "ab":
        world.do("put", key=key, value="x" * 10)
    again.state.restore(b"".join(world.state.begin_snapshot()()))
    assert refusal(again, "put", key="c", value="x") == "quota_exceeded"
    with pytest.raises(StorageError, match="more rows than they may"):
        World(quota=2 * (64 + 1 + 12) - 1).state.restore(b"".join(world.state.begin_snapshot()()))


def test_code_comes_in_force_when_every_member_has_announced_it() -> None:
    world = World()
    world.announce("n1", BOTH)
    assert world.machine.due() is None
    assert world.machine.lacking("try", 2, LATER.digest) == ["n2"]
    with pytest.raises(Refused, match="n2 did not announce"):
        world.register(2, LATER.digest)
    world.announce("n2", BOTH)
    due = world.machine.due()
    assert due == {"machine": "try", "version": 2, "digest": LATER.digest}
    assert world.call("register", due)["changed"] is True
    assert (world.machine.due(), world.machine.waiting()) == (None, [])
    assert world.machine.in_force() == {"try": InForce(2, LATER.digest)}
    assert world.call("apply", {"machine": "try", "operation": "stamp", "arguments": {}})["version"] == 2
    assert world.call("register", due)["changed"] is False


@pytest.mark.parametrize(("version", "digest"), [(1, "c" * 64), (1, LATER.digest)])
def test_other_code_under_the_version_in_force_is_refused(version: int, digest: str) -> None:
    world = World()
    for name in ("n1", "n2"):
        world.announce(name, [["try", version, digest]])
    assert world.machine.due() is None
    with pytest.raises(Refused, match="raise VERSION above it"):
        world.register(version, digest)


def test_earlier_version_never_comes_back() -> None:
    world = World()
    for name in ("n1", "n2"):
        world.announce(name, BOTH)
    world.register(2, LATER.digest)
    with pytest.raises(Refused, match="version 2 of machine try is in force"):
        world.register(1, CODE.digest)


def test_tables_stay_when_a_new_version_comes_in_force() -> None:
    world = World()
    world.do("put", key="a", value=1)
    for name in ("n1", "n2"):
        world.announce(name, BOTH)
    world.register(2, LATER.digest)
    assert world.do("put", key="a") == 1


def test_node_without_the_code_stops_at_the_entry_that_brings_it_in_force() -> None:
    world = World(CODE)
    for name in ("n1", "n2"):
        world.announce(name, BOTH)
    with pytest.raises(MachineMismatch, match=r"version 2 .*bbbbbbbb.* this node has version 1, .*aaaaaaaa"):
        world.register(2, LATER.digest)
    assert world.machine.in_force() == {"try": InForce(1, CODE.digest)}


def test_node_without_the_code_takes_no_snapshot_and_stays_as_it_was() -> None:
    data = b"".join(World().state.begin_snapshot()())
    other = ClusterState(codes=(LATER,))
    with pytest.raises(MachineMismatch, match=f"{'a' * 16}.*version 2, code {'b' * 16}"):
        other.restore(data)
    assert other.machines.in_force() == {}
    with pytest.raises(MachineMismatch, match="has none"):
        ClusterState(codes=()).restore(data)
    reader = ClusterState()  # a command that shows a file
    reader.restore(data)
    assert reader.machines.in_force() == {"try": InForce(1, CODE.digest)}


def test_removed_member_is_waited_for_no_more() -> None:
    world = World()
    world.announce("n1", BOTH)
    world.state.members.apply("remove", {"name": "n2"}, 90, NOW)
    assert world.machine.due() is not None


def test_removed_member_is_forgotten() -> None:
    state = World().state
    state.machines.forget_member("n2", 90)
    assert state.machines.export_state()["announced"].keys() == {"n1"}


def test_member_that_is_unknown_announces_nothing() -> None:
    with pytest.raises(Refused, match="there is no member n9"):
        World().announce("n9", BOTH)


def test_state_without_machines_has_no_place_in_snapshots() -> None:
    machine = UserMachines(MemberMachine(), ())
    assert machine.is_new()
    assert not World().machine.is_new()


def test_same_request_id_is_carried_out_once_also_when_the_code_has_changed() -> None:
    world = World()
    given = {"machine": "try", "operation": "stamp", "arguments": {}}
    command = encode_command("machines", "apply", given, request_id="r1")
    first = world.state.apply(50, command)
    for name in ("n1", "n2"):
        world.announce(name, BOTH)
    world.register(2, LATER.digest)
    assert world.state.apply(60, command) == first
    assert parse_canonical_json(first.decode())["value"]["answer"][0] == 50


def test_table_for_a_query_does_not_change_with_later_operations() -> None:
    world = World()
    world.do("put", key="a", value=1)
    table = world.machine.table("try")
    world.do("put", key="a", value=2)
    world.do("put", key="b", value=2)
    assert list(table) == [("a", "1")]


def test_arguments_that_are_no_object_are_malformed() -> None:
    with pytest.raises(Malformed):
        World().call("apply", {"machine": "try", "operation": "put", "arguments": []})
