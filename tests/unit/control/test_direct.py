"""Writes that are answered without a task: what they have in common with all others, and what ends them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cyoloctl.caller import CALLER, Caller
from cyoloctl.control import server as server_module
from cyoloctl.control.server import ControlServer, build_server
from cyoloctl.errors import AccessDenied, Conflict, InvalidInput
from cyoloctl.metrics.families import Figures
from cyoloctl.replicated.proposer import Planned
from tests.support.service import MemoryService

_INCREMENT = "/v1/counters/default/increment"
_LOGGER = logging.getLogger("test.prompt")


class Begun:
    """A write that the node was given."""

    def __init__(self, planned: Planned, request_id: str | None, timeout_s: float, done: Any) -> None:
        self.planned, self.request_id, self.timeout_s, self.done = planned, request_id, timeout_s, done
        self.caller = CALLER.get()
        self.withdrawn = False

    def withdraw(self) -> None:
        self.withdrawn = True

    def answer(self, value: int = 1) -> None:
        self.done({"value": value}, None)


class Node(MemoryService):
    """begins: whether it begins what it planned.  plans: raises, or gives None, where that is set.

    breaks: raised when it has begun.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begins = True
        self.plans: Callable[[], Any] = lambda: Planned("counter", "add", {}, lambda *given: given)
        self.breaks: BaseException | None = None
        self.begun: list[Begun] = []
        self.counters.plan_add = lambda name, *, by: self.plans()

    def begin(self, planned: Any, *, request_id: str | None, timeout_s: float, done: Any) -> Any:
        if not self.begins:
            return None
        self.begun.append(Begun(planned, request_id, timeout_s, done))
        if self.breaks is not None:
            raise self.breaks
        return self.begun[-1].withdraw


class Wire:
    """The transport of a connection."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = self.is_reading = False
        self.unsent = 0

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> Any:
        return None

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def take(self) -> list[tuple[int, Any]]:
        """Status and body of each answer since the last call."""
        found = []
        while self.written:
            head, _, rest = self.written.partition(b"\r\n\r\n")
            length = int(head.lower().rpartition(b"content-length: ")[2].split(b"\r\n")[0])
            found.append((int(head.split(b" ")[1]), json.loads(rest[:length])))
            self.written = rest[length:]
        return found


class World:
    """A caller of the network, with a role, at a server."""

    def __init__(self, role: str | None = "operator") -> None:
        self.node = Node()
        self.role = role
        self.refusal: Exception | None = None
        self.server: ControlServer = build_server(
            cast("Any", self.node), logger=_LOGGER, identify=self._identify
        )
        self.wire = Wire()
        self.connection = cast("Any", self.server.protocol_factory())
        tls = SimpleNamespace(getpeercert=lambda binary_form: b"x")
        self.wire.get_extra_info = lambda name: tls if name == "ssl_object" else None  # type: ignore[method-assign]
        self.connection.connection_made(self.wire)

    def _identify(self, ssl_object: Any) -> tuple[str, str, str] | None:
        if self.refusal is not None:
            raise self.refusal
        return None if self.role is None else ("caller", self.role, "c" * 64)

    def send(
        self, body: bytes = b'{"by":1}', target: str = _INCREMENT, *headers: str, times: int = 1
    ) -> None:
        lines = [f"POST {target} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}", "", ""]
        self.connection.data_received(("\r\n".join(lines).encode() + body) * times)

    async def answered(self, count: int = 1) -> list[tuple[int, Any]]:
        found: list[tuple[int, Any]] = []
        async with asyncio.timeout(5):
            while len(found) < count:
                await asyncio.sleep(0)
                found += self.wire.take()
        return found

    def counted(self) -> Figures:
        return cast("Figures", self.server.figures()["api_requests"])


@pytest.fixture
async def world() -> World:
    return World()


def code(answer: tuple[int, Any]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"]


async def test_write_is_begun_as_it_is_read_and_answered_when_it_is_done(world: World) -> None:
    before = CALLER.get()
    world.send(b'{"by":1,"request_id":"r1"}', _INCREMENT + "?timeout_s=2.5")
    [begun] = world.node.begun
    assert (begun.request_id, begun.timeout_s) == ("r1", 2.5)
    assert begun.caller == Caller("client", "caller", "operator", "c" * 32, "")
    assert CALLER.get() is before
    assert world.connection.busy
    assert world.connection.task is None
    assert world.wire.take() == []
    begun.answer(7)
    assert world.wire.take() == [(200, {"schema_version": 1, "value": 7})]
    assert not world.connection.busy
    assert world.node.calls == []
    world.send()
    world.node.begun[1].answer(8)
    assert world.wire.take() == [(200, {"schema_version": 1, "value": 8})]
    assert not world.wire.closed
    [(labels, number)] = world.counted().items()
    assert (labels[:2], number) == (("POST", "/v1/counters/{name}/increment"), 2)


@pytest.mark.parametrize("why", ["it waits", "no plan", "a bug", "no command"])
async def test_what_cannot_be_begun_at_once_takes_the_ordinary_way(world: World, why: str) -> None:
    def bug() -> Any:
        raise LookupError

    before = CALLER.get()
    world.node.begins = why == "no command"
    if why == "no command":
        world.node.breaks = InvalidInput("too long")
    elif why != "it waits":
        world.node.plans = bug if why == "a bug" else lambda: None
    world.send(b'{"by":5}')
    [(status, body)] = await world.answered()
    assert (status, body["value"]) == (200, 5)
    assert CALLER.get() is before
    assert world.node.callers[0].name == "caller"
    for begun in world.node.begun:
        begun.answer()
    assert world.wire.take() == []


async def test_failure_after_a_write_was_begun_repeats_nothing_and_closes_the_connection(
    world: World,
) -> None:
    world.node.breaks = MemoryError()
    with pytest.raises(MemoryError):
        world.send()
    assert (world.wire.closed, world.connection.busy) == (True, False)
    world.node.begun[0].answer()
    await asyncio.sleep(0)
    assert (world.wire.written, world.node.calls) == (b"", [])
    await asyncio.wait_for(world.server.close(5.0), 1.0)  # nothing runs


async def test_bug_in_answering_closes_the_connection(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise LookupError

    monkeypatch.setattr(world.server, "count", broken)
    world.send()
    with pytest.raises(LookupError):
        world.node.begun[0].answer()
    assert (world.wire.closed, world.connection.busy) == (True, False)
    await asyncio.wait_for(world.server.close(5.0), 1.0)  # nothing runs


async def test_write_that_nobody_ends_in_its_time_is_ended_by_the_server(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_GUARD_S", 0.0)
    world.send(b"{}", _INCREMENT + "?timeout_s=0.1")
    [answer] = await world.answered()
    assert code(answer) == (504, "outcome_unknown")
    assert world.node.begun[0].withdrawn
    world.node.begun[0].answer()
    assert world.wire.take() == []
    assert not world.wire.closed


@pytest.mark.parametrize(
    ("body", "target", "headers", "expected"),
    [
        (b'{"by":"x"}', _INCREMENT, (), (400, "invalid_input")),
        (b'{"by":1}', "/v1/counters/A%20B/increment", (), (400, "invalid_input")),
        (b'{"by":1}', _INCREMENT + "?timeout_s=x", (), (400, "invalid_input")),
        (b'{"by":1}', _INCREMENT, ("Origin: https://example.org",), (403, "access_denied")),
    ],
)
async def test_what_is_not_valid_is_refused_and_the_connection_goes_on(
    world: World, body: bytes, target: str, headers: tuple[str, ...], expected: tuple[int, str]
) -> None:
    world.send(body, target, *headers)
    [answer] = await world.answered()
    assert code(answer) == expected
    assert world.node.begun == []
    world.send()
    world.node.begun[0].answer()
    assert world.wire.take()[0][0] == 200


async def test_plan_that_refuses_is_told_by_its_handler(world: World) -> None:
    def refused() -> Any:
        raise InvalidInput("not so")

    world.node.plans = refused
    world.node.fail = InvalidInput("not so")
    world.send()
    [answer] = await world.answered()
    assert code(answer) == (400, "invalid_input")


@pytest.mark.parametrize("role", ["viewer", None])
async def test_nobody_without_the_role_has_a_write_begun(role: str | None) -> None:
    world = World(role)
    world.send()
    [answer] = await world.answered()
    assert code(answer) == (403, "access_denied")
    assert (world.node.begun, world.node.calls) == ([], [])


async def test_refusal_of_what_was_begun_is_its_answer_and_a_bug_closes_the_connection(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.send()
    world.node.begun[0].done(None, Conflict("no"))
    [answer] = world.wire.take()
    assert code(answer) == (409, "conflict")
    assert not world.wire.closed
    world.send()
    world.node.begun[1].done({"value": object()}, None)
    [answer] = world.wire.take()
    assert code(answer) == (500, "internal")
    assert world.wire.closed
    assert "internal error" in caplog.text


async def test_requests_that_came_together_are_begun_one_after_the_other(world: World) -> None:
    world.send(times=3)
    for number in range(3):
        assert len(world.node.begun) == number + 1
        world.node.begun[number].answer(number)
    assert [body["value"] for _, body in world.wire.take()] == [0, 1, 2]


async def test_many_requests_that_came_together_and_are_refused_need_no_deeper_stack(world: World) -> None:
    world.send(b'{"by":"x"}', times=400)
    answers = await world.answered(400)
    assert {code(answer) for answer in answers} == {(400, "invalid_input")}


async def test_answer_to_a_client_that_left_goes_nowhere(world: World) -> None:
    world.send()
    world.connection.connection_lost(None)
    world.node.begun[0].answer()
    assert (world.wire.written, world.connection.busy) == (b"", False)
    await asyncio.wait_for(world.server.close(5.0), 1.0)  # nothing runs


async def test_client_that_does_not_read_gets_no_further_answer_until_it_does(world: World) -> None:
    world.send(times=2)
    world.wire.unsent = 10
    world.connection.pause_writing()
    world.node.begun[0].answer()
    assert len(world.wire.take()) == 1
    await asyncio.sleep(0)
    assert len(world.node.begun) == 1
    world.wire.unsent = 0
    world.connection.resume_writing()
    async with asyncio.timeout(5):
        while len(world.node.begun) == 1:
            await asyncio.sleep(0)
    world.node.begun[1].answer()
    assert len(world.wire.take()) == 1


async def test_write_of_a_caller_who_is_revoked_meanwhile_ends_with_what_is_known(world: World) -> None:
    world.send(times=2)
    world.refusal = AccessDenied("the credentials caller were revoked")
    world.server.recheck()
    [(status, body)] = world.wire.take()
    assert (status, body["error"]["code"]) == (504, "outcome_unknown")
    assert "were revoked; it ended while the write ran" in body["error"]["message"]
    assert world.wire.closed
    assert world.node.begun[0].withdrawn
    world.node.begun[0].answer()
    assert (world.wire.written, len(world.node.begun)) == (b"", 1)


async def test_server_that_closes_withdraws_what_takes_too_long(world: World) -> None:
    world.send()
    await asyncio.wait_for(world.server.close(0.02), 5.0)
    assert (world.node.begun[0].withdrawn, world.wire.closed, world.connection.busy) == (True, True, False)
    world.node.begun[0].answer()
    assert world.wire.written == b""


async def test_server_that_closes_waits_for_a_write_that_was_begun(world: World) -> None:
    world.send()
    closing = asyncio.create_task(world.server.close(5.0))
    await asyncio.wait([closing], timeout=0.02)
    assert not closing.done()
    world.node.begun[0].answer()
    assert b"Connection: close\r\n" in world.wire.written
    await asyncio.wait_for(closing, 1.0)
    assert world.wire.closed


async def test_connection_to_http_1_0_ends_with_the_answer(world: World) -> None:
    world.connection.data_received(f"POST {_INCREMENT} HTTP/1.0\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    world.node.begun[0].answer()
    assert b"Connection: close\r\n" in world.wire.written
    assert world.wire.closed
