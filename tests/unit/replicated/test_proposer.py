"""Proposals: those that set an end wait until cluster time does not step, and many are made at once."""

from __future__ import annotations

import asyncio
import weakref
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cyoloctl.errors import (
    Conflict,
    CyoloctlError,
    InvalidInput,
    NoLeader,
    OutcomeUnknown,
    Unavailable,
    VersionMismatch,
)
from cyoloctl.raft import Engine, Proposed
from cyoloctl.replicated import proposer
from cyoloctl.replicated.command import decode_command, encode_refusal, encode_result
from cyoloctl.replicated.proposer import Planned, Proposer
from tests.support.collector import no_collector


def stands_on(says: list[bool | None]) -> Proposer:
    """A proposer whose clock gives these answers in turn, and the last one again."""

    def is_behind(voters: Any) -> bool | None:
        return says.pop(0) if len(says) > 1 else says[0]

    clock = SimpleNamespace(is_behind=is_behind)
    return Proposer(cast(Engine, SimpleNamespace(clock=clock, voter_names=lambda: frozenset({"n1"}))))


async def test_time_that_is_not_behind_is_not_waited_for_and_not_looked_at_each_time() -> None:
    says: list[bool | None] = [False, True]
    stood = stands_on(says)
    for _ in range(100):
        await stood.in_time(timeout_s=0.0)
    assert says == [True]


async def test_time_that_is_behind_is_waited_for() -> None:
    says: list[bool | None] = [None, True, True, False]
    await stands_on(says).in_time(timeout_s=30.0)
    assert says == [False]


async def test_time_that_stays_behind_is_unavailable_at_the_timeout() -> None:
    with pytest.raises(Unavailable, match="set forward"):
        await asyncio.wait_for(stands_on([True]).in_time(timeout_s=0.3), 10.0)


async def test_clocks_that_cannot_be_known_hold_nothing_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposer, "_UNKNOWN_S", 0.3)
    await asyncio.wait_for(stands_on([None]).in_time(timeout_s=30.0), 10.0)


async def test_clocks_that_are_lost_again_hold_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposer, "_LOOK_EVERY_S", 0.0)
    stood = stands_on([False, None])
    for _ in range(3):
        await stood.in_time(timeout_s=0.0)


async def test_clocks_that_are_not_known_yet_are_told_as_such() -> None:
    with pytest.raises(Unavailable, match="compared with the members' clocks"):
        await stands_on([None]).in_time(timeout_s=0.0)


class Counting:
    """An engine that takes every command, and is fresh when it is asked."""

    def __init__(self) -> None:
        self.proposed: list[bytes] = []
        self.barriers = 0
        self.refuses = self.holds = False
        self.after: list[Proposed | None] = []
        self.timeouts_s: list[float] = []
        self.begun: list[Any] = []
        self.fresh_takes_s = 0.0
        self.results: dict[int, bytes | CyoloctlError] = {}

    async def propose(self, command: bytes, *, timeout_s: float) -> bytes:
        self.proposed.append(command)
        return encode_result(1, {})

    def begin(self, command: bytes, done: Any, *, timeout_s: float) -> Any:
        self.proposed.append(command)
        self.begun.append(done)
        self.timeouts_s.append(timeout_s)
        return self.begun.clear

    def propose_all(
        self, commands: list[bytes], *, timeout_s: float, after: Proposed | None = None
    ) -> Proposed:
        self.proposed += commands
        self.after.append(after)
        self.timeouts_s.append(timeout_s)
        results = [self.results.get(number, encode_result(number, {})) for number in range(len(commands))]
        self.future = asyncio.get_running_loop().create_future()
        if not self.holds:
            self.future.set_result(None)
        return Proposed(self.future, results, lead=7)

    async def read_barrier(self, *, timeout_s: float) -> int:
        self.barriers += 1
        await asyncio.sleep(self.fresh_takes_s)
        if self.refuses:
            raise NoLeader("none")
        return 1


def gated(says: list[str | None]) -> tuple[Proposer, Counting]:
    """A proposer that is told these reasons in turn."""
    engine = Counting()
    return Proposer(cast(Engine, engine), why_refused=lambda machine, operation: says.pop(0)), engine


async def test_command_above_the_level_is_not_proposed() -> None:
    stood, engine = gated(["n3 lacks it", "n3 still lacks it"])
    with pytest.raises(VersionMismatch, match=r"^n3 still lacks it$"):
        await stood.apply("counter", "multiply", {}, request_id=None, timeout_s=1.0)
    assert (engine.proposed, engine.barriers) == ([], 1)


async def test_command_of_a_level_that_another_node_has_raised_meanwhile_is_proposed() -> None:
    stood, engine = gated(["n3 lacks it", None])
    await stood.apply("counter", "multiply", {}, request_id=None, timeout_s=1.0)
    assert len(engine.proposed) == 1


async def test_command_of_the_level_costs_no_barrier() -> None:
    stood, engine = gated([None])
    await stood.apply("counter", "add", {}, request_id=None, timeout_s=1.0)
    assert (len(engine.proposed), engine.barriers) == (1, 0)


async def test_request_ids_that_nobody_named_are_never_the_same() -> None:
    count = 2 * proposer._IDS_AT_ONCE + 1
    stood, engine = gated([None] * count)
    for _ in range(count):
        await stood.apply("counter", "add", {}, request_id=None, timeout_s=1.0)
    ids = {decode_command(each).request_id for each in engine.proposed}
    assert len(ids) == count
    assert {len(each) for each in ids} == {32}


# --- many at once ---------------------------------------------------------------------------------


async def carried_out(stood: Proposer, writes: list[tuple[Planned, str | None]]) -> list[Any]:
    return await (await stood.begin_all(writes, timeout_s=1.0)).answers()


def planned(operation: str = "add", **arguments: Any) -> Planned:
    return Planned("counter", operation, arguments, lambda index, value, request_id: (index, request_id))


async def test_writes_carried_out_together_are_each_answered_in_their_place() -> None:
    engine = Counting()
    engine.results = {1: encode_refusal(9, "conflict", "no"), 2: OutcomeUnknown("?")}
    writes = [(planned(), "a"), (planned(), "b"), (planned(x=0.5), "c"), (planned(), "d"), (planned(), "e")]
    found = await carried_out(Proposer(cast(Engine, engine)), writes)
    assert found[0] == (0, "a")
    assert (type(found[1]), found[1].message) == (Conflict, "no")
    assert type(found[2]) is InvalidInput  # a command holds no fractions
    assert type(found[3]) is OutcomeUnknown
    assert found[4] == (3, "e")
    assert [decode_command(each).request_id for each in engine.proposed] == ["a", "b", "d", "e"]


async def test_write_without_a_request_id_gets_one_of_its_own() -> None:
    engine = Counting()
    await carried_out(Proposer(cast(Engine, engine)), [(planned(), None), (planned(), None)])
    first, second = map(decode_command, engine.proposed)
    assert first.request_id != second.request_id
    assert first.automatic


async def test_writes_above_the_level_are_refused_before_any_of_the_others_is_proposed() -> None:
    engine = Counting()

    def why(machine: str, operation: str) -> str | None:
        return "n3 lacks it" if operation == "new" else None

    stood = Proposer(cast(Engine, engine), why_refused=why)
    found = await carried_out(stood, [(planned(), "a"), (planned("new"), "b"), (planned(), "c")])
    assert (type(found[1]), found[1].message, engine.barriers) == (VersionMismatch, "n3 lacks it", 1)
    assert [decode_command(each).request_id for each in engine.proposed] == ["a", "c"]
    engine.refuses = True
    found = await carried_out(stood, [(planned(), "d"), (planned("new"), "e")])
    assert [type(each) for each in found] == [NoLeader, NoLeader]
    assert len(engine.proposed) == 2


async def test_writes_none_of_which_can_be_proposed_wait_for_nobody() -> None:
    engine = Counting()
    [refused] = await carried_out(Proposer(cast(Engine, engine)), [(planned(x=0.5), "a")])
    assert (type(refused), engine.proposed) == (InvalidInput, [])


async def test_writes_that_follow_others_are_proposed_after_those() -> None:
    engine = Counting()
    stood = Proposer(cast(Engine, engine))
    first = await stood.begin_all([(planned(), "a")], timeout_s=1.0)
    second = await stood.begin_all([(planned(), "b")], timeout_s=1.0, after=first)
    none = await stood.begin_all([(planned(x=0.5), "c")], timeout_s=1.0, after=second)
    assert engine.after == [None, first.proposed]
    assert [each.is_led_here for each in (first, second, none)] == [True, True, False]
    assert [await each.answers() for each in (first, second)] == [[(0, "a")], [(0, "b")]]


async def test_time_that_a_look_at_the_level_took_is_not_given_again() -> None:
    engine = Counting()
    engine.fresh_takes_s = 0.05
    stood = Proposer(
        cast(Engine, engine), why_refused=lambda _, operation: "no" if operation == "new" else None
    )
    await stood.begin_all([(planned(), "a"), (planned("new"), "b")], timeout_s=1.0)
    assert engine.timeouts_s[0] <= 0.95


async def test_writes_on_their_way_tell_what_has_failed_so_far_and_are_given_up() -> None:
    engine = Counting()
    engine.holds, engine.results = True, {1: NoLeader("none")}
    writes = [(planned(), "a"), (planned(), "b"), (planned(x=0.5), "c")]
    begun = await Proposer(cast(Engine, engine)).begin_all(writes, timeout_s=1.0)
    assert [type(each) for each in begun.errors()] == [InvalidInput, NoLeader]
    begun.give_up()
    assert engine.future.cancelled()


# --- without waiting --------------------------------------------------------------------------------


def begin(stood: Proposer, write: Planned, told: list[Any], request_id: str | None = "a") -> Any:
    return stood.begin(
        write, request_id=request_id, timeout_s=1.5, done=lambda answer, error: told.append((answer, error))
    )


async def test_write_that_is_begun_is_answered_as_one_that_is_carried_out() -> None:
    engine, told = Counting(), list[Any]()
    stood = Proposer(cast(Engine, engine))
    assert begin(stood, planned(x=1), told)
    assert (told, engine.timeouts_s) == ([], [1.5])
    assert await stood.carry_out(planned(x=1), request_id="a", timeout_s=1.0) == (1, "a")
    assert engine.proposed[0] == engine.proposed[1]
    engine.begun[0](encode_result(7, {}), None)
    assert told == [((7, "a"), None)]
    withdraw = begin(stood, planned(), told)
    withdraw()
    assert engine.begun == []


async def test_write_that_is_begun_without_an_id_has_one_of_its_own() -> None:
    engine, told = Counting(), list[Any]()
    stood = Proposer(cast(Engine, engine))
    assert begin(stood, planned(), told, None)
    assert begin(stood, planned(), told, None)
    first, second = map(decode_command, engine.proposed)
    assert (first.kind, len(first.request_id)) == ("node", 32)
    assert first.request_id != second.request_id


async def test_write_that_was_begun_and_fails_says_why() -> None:
    def broken(index: int, value: Any, request_id: str) -> Any:
        raise LookupError

    engine, told, unknown = Counting(), list[Any](), OutcomeUnknown("?")
    stood = Proposer(cast(Engine, engine))
    for write in (planned(), planned(), Planned("counter", "add", {}, broken)):
        assert begin(stood, write, told)
    engine.begun[0](encode_refusal(9, "conflict", "no"), None)
    engine.begun[1](None, unknown)
    engine.begun[2](encode_result(9, {}), None)
    assert [(answer, type(error)) for answer, error in told] == [
        (None, Conflict), (None, OutcomeUnknown), (None, LookupError),
    ]  # fmt: skip
    assert told[0][1].message == "no"
    assert told[1][1] is unknown


async def test_failure_of_what_was_begun_leaves_nothing_to_the_garbage_collector() -> None:
    engine, told = Counting(), list[Any]()
    stood = Proposer(cast(Engine, engine))
    write = planned()
    assert begin(stood, write, told)
    with no_collector():
        engine.begun[0](encode_refusal(9, "conflict", "no"), None)
        engine.begun.clear()
        told.clear()
        gone = weakref.ref(write.answer)
        del write
        assert gone() is None


async def test_write_above_the_level_and_one_that_is_no_command_are_not_begun() -> None:
    stood, engine = gated(["n3 lacks it", None])
    told: list[Any] = []
    assert not begin(stood, planned(), told)
    with pytest.raises(InvalidInput):
        begin(stood, planned(x=0.5), told)
    assert (engine.proposed, told) == ([], [])
