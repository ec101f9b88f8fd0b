"""Repetitions of what is more than one command, or holds what a node draws: the first answer to each id."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cyoloctl.caller import CALLER, Caller
from cyoloctl.errors import Conflict, OutcomeUnknown, Unavailable
from cyoloctl.model import Stamp
from cyoloctl.raft import Engine
from cyoloctl.replicated.command import decode_result_with_index, encode_command
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.replicated.requests import LIMITS
from cyoloctl.state import ClusterState
from cyoloctl.text import Json
from tests.unit.replicated.cases import CASES, NOW

DRAWN = [
    (name, operation) for name, machine in ClusterState()._machines.items() for operation in machine.DRAWN
]
# Another value for each argument that is drawn, as good as the first.
OTHER: dict[str, Any] = {
    "key_id": "fc0000ff", "fingerprint": "f" * 32, "public_key": "D" * 42 + "A=",
    "answer": {"other": True}, "ca_pem": "", "old_ca_pem": "", "voucher": "AAAA", "keys": {}, "wrapped": {},
    "blob": "VgH8" + "A" * 60, "blobs": ["VgH8" + "A" * 60],
}  # fmt: skip


class Log:
    """An engine that applies what is proposed at once."""

    def __init__(self) -> None:
        self.state = ClusterState()
        self.state.advance(Stamp(0, NOW, 1))
        self.index = 0
        self.refuse: Exception | None = None
        self.proposer = Proposer(cast(Engine, self), self.state.first_result)

    async def propose(self, command: bytes, *, timeout_s: float) -> bytes:
        if self.refuse is not None:
            raise self.refuse
        self.index += 1
        return self.state.apply(self.index, command)

    async def wait_applied(self, index: int, *, timeout_s: float) -> bool:
        return True

    async def read_barrier(self, *, timeout_s: float) -> None:
        """All that there is has been applied."""

    clock = SimpleNamespace(is_behind=lambda voters: False)


@pytest.fixture
def log() -> Log:
    CALLER.set(Caller("client", "admin"))
    return Log()


@pytest.mark.parametrize(("name", "operation"), DRAWN)
def test_repetition_that_draws_anew_gets_the_first_answer_and_any_other_difference_is_a_conflict(
    name: str, operation: str
) -> None:
    world = ClusterState()
    world.advance(Stamp(0, NOW, 1))
    for index, (machine, step, arguments) in enumerate(CASES[name].history):
        world._machines[machine].apply(step, arguments, index, NOW)
    given, drawn = CASES[name].good[operation], world._machines[name].DRAWN[operation]

    def apply(arguments: Json) -> bytes:
        return world.apply(100, encode_command(name, operation, arguments, request_id="once"))

    first = apply(given)
    before = world.digest()
    assert apply({**given, **{argument: OTHER[argument] for argument in drawn}}) == first
    for argument in given.keys() - drawn:
        other = encode_command(name, operation, {**given, argument: "another"}, request_id="once")
        with pytest.raises(Conflict, match="request id"):
            decode_result_with_index(world.apply(101, other))
    assert world.digest() == before


async def test_operation_of_several_commands_is_done_once_per_request_id(log: Log) -> None:
    done: list[int] = []

    async def do() -> Json:
        done.append(len(done))
        return {"number": done[-1]}

    async def ask(request_id: str | None, **about: Any) -> Json:
        return await log.proposer.once("member_remove", about, do, request_id=request_id, timeout_s=1.0)

    assert [await ask("a", name="n1") for _ in range(3)] == [{"number": 0}] * 3
    with pytest.raises(Conflict, match="request id"):
        await ask("a", name="n2")
    assert await ask("b", name="n1") == {"number": 1}
    assert await ask(None, name="n1") == {"number": 2}
    assert done == [0, 1, 2]


async def test_operation_is_looked_up_in_a_copy_that_is_up_to_date(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def do(number: int = 1) -> Json:
        return {"number": number}

    async def twice() -> Json:
        raise AssertionError("it was done before")

    assert await log.proposer.once("member_remove", {}, do, request_id="a", timeout_s=1.0) == {"number": 1}
    # This node's copy does not hold that answer before it has caught up.
    ahead = log.state
    log.state = ClusterState()

    def first_result(command: bytes) -> bytes | None:
        return log.state.first_result(command)

    log.proposer = Proposer(cast(Engine, log), first_result)

    async def catch_up(*, timeout_s: float) -> None:
        log.state = ahead

    monkeypatch.setattr(log, "read_barrier", catch_up)
    assert await log.proposer.once("member_remove", {}, twice, request_id="a", timeout_s=1.0) == {"number": 1}


async def test_operation_whose_end_could_not_be_recorded_is_unknown_and_not_unavailable(log: Log) -> None:
    async def do() -> Json:
        log.refuse = Unavailable("no leader")
        return {}

    with pytest.raises(OutcomeUnknown, match="it is done"):
        await log.proposer.once("key_rewrap", {}, do, request_id="a", timeout_s=1.0)


async def test_answers_are_forgotten_with_their_ids(log: Log) -> None:
    async def do() -> Json:
        return {"index": log.index}

    async def ask(request_id: str) -> Json:
        return await log.proposer.once("key_rewrap", {}, do, request_id=request_id, timeout_s=1.0)

    first = await ask("weekly")
    assert await ask("weekly") == first
    log.state.advance(Stamp(0, NOW, 1 + LIMITS.client.expiry_ms))
    await ask("another")  # whatever comes next makes room
    assert await ask("weekly") != first


def test_answers_have_no_place_in_a_snapshot_but_beside_their_ids(log: Log) -> None:
    kept = {"operation": "member_remove", "about": {"name": "n1"}, "answer": {"removed": True}}
    command = encode_command("answers", "keep", kept, request_id="once")
    first = log.state.apply(1, command)
    snapshot = b"".join(log.state.begin_snapshot()())
    assert b'"answers":' not in snapshot.partition(b"}}")[0]
    other = ClusterState()
    other.restore(snapshot)
    assert other.first_result(command) == first
    assert b"".join(other.begin_snapshot()()) == snapshot
