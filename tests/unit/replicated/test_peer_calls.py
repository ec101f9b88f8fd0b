"""Calls from one node to another: who may ask for what, and what comes back."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cyoloctl.caller import CALLER, NODE, Caller
from cyoloctl.errors import Conflict, InternalError, NoLeader
from cyoloctl.raft import Engine
from cyoloctl.replicated.peer_calls import Audience, PeerCalls, read_answer
from cyoloctl.text import Json


class Pair:
    """Two nodes: what the first asks, the second answers.  v is a voter, l a learner."""

    def __init__(self) -> None:
        self.leads = True
        self.ran: list[tuple[str, Json]] = []
        there = SimpleNamespace(is_leader=lambda: self.leads)
        self.there = PeerCalls(cast("Engine", there), lambda name: name == "v")
        here = SimpleNamespace(
            call=self._call, is_leader=lambda: False, leader=lambda: "n2", wait_changed=self._wait
        )
        self.here = PeerCalls(cast("Engine", here), lambda name: True, "h")
        self.name = "v"

    async def _call(self, name: str, body: bytes, *, timeout_s: float) -> bytes:
        return await self.there.answer(self.name, body)

    async def _wait(self, timeout_s: float) -> None:
        self.leads = True

    def offer(self, to: Audience) -> None:
        async def run(peer: str, given: Json, timeout_s: float) -> Json:
            self.ran.append((peer, given))
            if given["n"] < 0:
                raise Conflict("too few")
            return {"n": given["n"] + 1}

        self.there.offer("more", {"n": int}, run, to=to)

    async def code(self, body: Any) -> str:
        answer = json.loads(await self.there.answer(self.name, json.dumps(body).encode()))
        return str(answer["error"]["code"]) if "error" in answer else "ok"


def asked(**changes: Any) -> Json:
    return {"operation": "more", "arguments": {"n": 1}, "timeout_s": 1.0, **changes}


async def test_what_a_caller_caused_is_done_on_its_behalf_and_says_which_node_took_it() -> None:
    pair, told = Pair(), list[Caller]()

    async def run(peer: str, given: Json, timeout_s: float) -> Json:
        told.append(CALLER.get())
        return {}

    pair.there.offer("tell", {}, run, to="members")

    async def ask(caller: Caller) -> None:
        CALLER.set(caller)
        await pair.here.ask("n2", "tell", {}, 1.0)

    ann = Caller("client", "unix socket", "operator", "uid:0", "socket")
    for caller in (ann, ann._replace(node="n7"), NODE):
        await asyncio.create_task(ask(caller))
    assert told[0] == ann._replace(node="h")
    assert told[1].node == "n7"
    assert [each.origin("v") for each in told] == [
        "operator uid:0 socket h",
        "operator uid:0 socket n7",
        "node - - v",
    ]


@pytest.mark.parametrize(
    "caller",
    [
        *("x", 1, [], {}, ["client"] * 5, ["node", "a", "operator", "", "", "n1"], ["client"] * 6),
        ["client", "a", "operator", "", "no address", "n1"],
        ["client", "x" * 81, "operator", "", "", "n1"],
        ["client", "a", "operator", None, "", "n1"],
    ],
)
async def test_caller_that_is_none_is_refused(caller: Any) -> None:
    pair = Pair()
    pair.offer("members")
    assert await pair.code(asked(caller=caller)) == "invalid_input"
    assert pair.ran == []


async def test_answer_and_error_come_back_as_they_were() -> None:
    pair = Pair()
    pair.offer("members")
    assert await pair.here.ask("n2~5", "more", {"n": 1}, 1.0) == {"n": 2}
    with pytest.raises(Conflict, match="too few"):
        await pair.here.ask("n2", "more", {"n": -1}, 1.0)


@pytest.mark.parametrize(
    ("to", "name", "leads", "code"),
    [
        ("members", "l", False, "ok"),
        ("voters", "v", False, "ok"),
        ("voters", "l", True, "access_denied"),
        ("voters", "stranger", True, "access_denied"),
        ("members of the leader", "l", True, "ok"),
        ("members of the leader", "l", False, "no_leader"),
        ("voters of the leader", "v", True, "ok"),
        ("voters of the leader", "v", False, "no_leader"),
        ("voters of the leader", "l", True, "access_denied"),
    ],
)
async def test_operation_is_for_its_audience_only(to: Audience, name: str, leads: bool, code: str) -> None:
    pair = Pair()
    pair.offer(to)
    pair.name, pair.leads = name, leads
    assert await pair.code(asked()) == code
    assert len(pair.ran) == (code == "ok")


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        asked(arguments={"n": "1"}),
        asked(arguments=[1]),
        asked(timeout_s=0),
        asked(timeout_s=301),
        asked(timeout_s="soon"),
        asked(timeout_s=float("nan")),
    ],
)
async def test_other_bodies_are_invalid_and_run_nothing(body: Any) -> None:
    pair = Pair()
    pair.offer("members")
    assert await pair.code(body) == "invalid_input"
    assert pair.ran == []


@pytest.mark.parametrize(
    "body",
    [
        asked(operation="less"),
        asked(operation=["more"]),
        asked(arguments={}),
        asked(arguments={"n": 1, "m": 1}),
    ],
)
async def test_what_only_another_release_knows_is_a_version_mismatch(body: Any) -> None:
    pair = Pair()
    pair.offer("members")
    assert await pair.code(body) == "version_mismatch"
    assert pair.ran == []


async def test_bug_in_an_operation_is_internal_and_tells_nothing() -> None:
    pair = Pair()

    async def broken(peer: str, given: Json, timeout_s: float) -> Json:
        raise ZeroDivisionError("secret")

    pair.there.offer("broken", {}, broken, to="members")
    answer = await pair.there.answer("v", json.dumps(asked(operation="broken", arguments={})).encode())
    assert json.loads(answer)["error"]["code"] == "internal"
    assert b"secret" not in answer


async def test_leader_that_changes_is_waited_for_and_another_error_is_not() -> None:
    pair = Pair()
    pair.offer("voters of the leader")
    pair.leads = False

    async def nowhere(**given: Any) -> Json:
        raise AssertionError

    assert await pair.here.at_leader("more", {"n": 1}, nowhere, 5.0) == {"n": 2}
    begun = time.monotonic()
    with pytest.raises(Conflict):
        await pair.here.at_leader("more", {"n": -1}, nowhere, 5.0)
    assert time.monotonic() - begun < 4.0
    with pytest.raises(NoLeader):
        await pair.here.at_leader("more", {"n": 1}, nowhere, 0.0)


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"value":1}', b'{"error":1}', b"[" * 100_000])
def test_answer_of_other_bytes_is_an_internal_error(answer: bytes) -> None:
    with pytest.raises(InternalError):
        read_answer(answer)
