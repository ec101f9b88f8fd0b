"""Lines as commands leave them, through the whole state."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from cyoloctl.audit.chain import AuditLimits
from cyoloctl.errors import Conflict
from cyoloctl.model import Stamp
from cyoloctl.replicated.command import decode_result_with_index, encode_command
from cyoloctl.state import ClusterState, StateLimits
from cyoloctl.text import Json

OPERATOR = f"operator {'c' * 32} 10.0.0.7 n2"
PUT: Json = {
    "key": "a/b",
    "value": base64.b64encode(b"secret").decode(),
    "if_revision": None,
    "ttl_ms": None,
    "fence": None,
}


class World:
    def __init__(self, **limits: Any) -> None:
        self.state = ClusterState(limits=StateLimits(**limits))
        self.state.advance(Stamp(0, 1_700_000_000_000, 5))
        self.index = 0

    def write(
        self,
        machine: str,
        operation: str,
        arguments: Json,
        *,
        origin: str = OPERATOR,
        request_id: str = "",
        kind: str = "client",
    ) -> bytes:
        self.index += 1
        command = encode_command(
            machine,
            operation,
            arguments,
            request_id=request_id or f"r{self.index}",
            kind=kind,
            caller="ann" if kind == "client" else "",
            origin=origin,
        )
        return self.state.apply(self.index, command)

    def lines(self, chain: Any = "data") -> list[Json]:
        return self.state.audit.chain(chain).page(1, 1000)


def test_write_of_an_operator_leaves_who_what_and_where_and_no_value() -> None:
    world = World()
    world.write("kv", "put", PUT)
    [line] = world.lines()
    assert {key: value for key, value in line.items() if key != "hash"} == {
        "chain": "data",
        "sequence": 1,
        "time": "2023-11-14T22:13:20.000Z",
        "who": "ann",
        "role": "operator",
        "credential": "c" * 32,
        "address": "10.0.0.7",
        "node": "n2",
        "operation": "kv.put",
        "subject": "a/b",
        "outcome": "done",
        "request_id": "r1",
        "index": 1,
        "epoch": 1,
        "previous": "0" * 64,
    }
    assert world.lines("trust") == []


def test_refusal_leaves_a_line_with_its_code() -> None:
    world = World()
    world.write("kv", "put", {**PUT, "if_revision": 7})
    world.write("credentials", "revoke", {"name": "nobody"})
    world.write("counter", "add", {"name": "NOT A NAME", "by": 1})
    assert [line["outcome"] for line in world.lines()] == ["conflict", "invalid_input"]
    assert [line["outcome"] for line in world.lines("trust")] == ["not_found"]


def test_repetition_leaves_none_and_another_command_under_the_same_id_does() -> None:
    world = World()
    add = {"name": "c", "by": 1}
    first = world.write("counter", "add", add, request_id="once")
    assert world.write("counter", "add", add, request_id="once") == first
    assert len(world.lines()) == 1
    world.write("counter", "add", {"name": "c", "by": 2}, request_id="once")
    assert [line["outcome"] for line in world.lines()] == ["done", "conflict"]


@pytest.mark.parametrize("origin", ["gateway - 10.0.0.7 n1", "browser - - n1", "node - - n1", ""])
def test_data_of_others_than_operators_leaves_none(origin: str) -> None:
    world = World()
    world.write("counter", "add", {"name": "c", "by": 1}, origin=origin)
    assert world.lines() == world.lines("trust") == []
    assert world.state.audit.is_new()


def test_what_a_node_changes_of_trust_by_itself_is_its_own() -> None:
    world = World()
    world.write("levels", "raise", {"to": 1, "release": "0.2.0"}, origin="node - - n1", kind="node")
    [line] = world.lines("trust")
    assert (line["who"], line["role"], line["credential"], line["address"]) == ("n1", "node", "", "")


def test_two_callers_of_one_operation_are_told_apart() -> None:
    world = World()
    for origin in (OPERATOR, "operator uid:0 socket n1", OPERATOR):
        world.write("counter", "add", {"name": "c", "by": 1}, origin=origin)
    assert [line["node"] for line in world.lines()] == ["n2", "n1", "n2"]
    assert [line["credential"][:5] for line in world.lines()] == ["ccccc", "uid:0", "ccccc"]


def test_many_kinds_of_lines_are_not_kept_in_mind_and_each_is_right() -> None:
    world = World()
    for number in range(2500):
        world.write("counter", "add", {"name": "c", "by": 1}, origin=f"operator uid:{number} socket n1")
        world.write("counter", "add", {"name": "c", "by": 1}, origin=f"gateway - 10.0.{number} n1")
    found = world.state.audit.chain("data").page(2400, 3)
    assert [line["credential"] for line in found] == ["uid:2399", "uid:2400", "uid:2401"]
    audit = world.state.audit
    assert len(audit._kinds) + len(audit._without_line) <= 1024


def test_snapshot_in_between_makes_no_difference() -> None:
    limits = {"audit": AuditLimits(lines=60, bytes=10**6, block=8)}
    world, other = World(**limits), World(**limits)
    for number in range(300):
        if number % 37 == 0:
            other.state.restore(b"".join(other.state.begin_snapshot()()))
        for each in (world, other):
            each.write("counter", "add", {"name": f"c{number % 5}", "by": 1})
    assert other.state.digest() == world.state.digest()
    assert other.lines() == world.lines()
    assert world.lines()[0]["sequence"] > 200


def test_state_without_lines_has_no_place_in_a_snapshot() -> None:
    world = World()
    world.write("counter", "add", {"name": "c", "by": 1}, origin="")
    assert b'"audit"' not in b"".join(world.state.begin_snapshot()())
    world.write("counter", "add", {"name": "c", "by": 1})
    assert b'"audit"' in b"".join(world.state.begin_snapshot()())


def acknowledge(world: World, through: int, hash: str) -> int:
    result = world.write("audit", "acknowledge", {"chain": "data", "through": through, "hash": hash})
    value: int = decode_result_with_index(result)[1]["exported_through"]
    return value


def test_acknowledged_is_a_line_that_is_there_and_never_goes_back() -> None:
    world = World()
    for _ in range(3):
        world.write("counter", "add", {"name": "c", "by": 1})
    hashes = [line["hash"] for line in world.lines()]
    assert acknowledge(world, 3, hashes[2]) == 3
    assert acknowledge(world, 1, hashes[0]) == 3
    with pytest.raises(Conflict, match="another hash"):
        acknowledge(world, 2, hashes[2])
    with pytest.raises(Conflict, match="ends with line 6"):
        acknowledge(world, 99, hashes[2])
    assert [line["outcome"] for line in world.lines()[3:]] == ["done", "done", "conflict", "conflict"]
    assert world.state.audit.chain("data").exported_through == 3
