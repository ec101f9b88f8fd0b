"""Batches as a node carries them out: as by the routes of the operations, in order, and together."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cyoloctl.control import batches, table
from cyoloctl.control.batches import Batches, is_for_batches, request_id_of
from cyoloctl.errors import Conflict, CyoloctlError, Denied, InternalError, NoLeader
from cyoloctl.replicated.command import is_request_id
from cyoloctl.replicated.proposer import Planned
from tests.support.service import MemoryService

Json = dict[str, Any]

_RENDEZVOUS = (
    "start",
    "wait",
    "claim",
    "approve",
    "deny",
    "cancel",
    "show",
    "list",
    "policy",
    "policies",
)


class Node(MemoryService):
    """A node that plans increments, and notes what was carried out in which turn."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[Any] = []
        self.refuse: dict[str, CyoloctlError] = {}
        self.leads = True
        self.ways: list[Way] = []
        self.now: list[str] = []
        self.held = asyncio.Event()
        self.held.set()
        self.counters.plan_add = self._plan
        self.counters.get = self._get

    def _plan(self, name: str, *, by: int) -> Planned | None:
        if name == "unplanned":
            return None
        return Planned("counter", "add", {"name": name, "by": by}, lambda *_: {})

    async def _get(self, name: str, *, consistency: str, timeout_s: float) -> Json:
        self.turns.append(("get", name))
        await asyncio.sleep(0)
        if name in self.refuse:
            raise self.refuse[name]
        return {"name": name, "value": self.values.get(name, 0)}

    async def begin_all(self, writes: Any, *, timeout_s: float, after: Way | None) -> Way:
        self.turns.append([(planned.arguments["name"], request_id) for planned, request_id in writes])
        way = Way(self, [planned.arguments for planned, _ in writes], timeout_s, after)
        self.ways.append(way)
        return way


class Way:
    """Increments on their way, which are carried out when they are asked for, or when `held` is set."""

    def __init__(self, node: Node, asked: list[Json], timeout_s: float, after: Way | None) -> None:
        self.node, self.asked, self.timeout_s, self.after = node, asked, timeout_s, after
        self.is_led_here = node.leads
        self.early: list[CyoloctlError] = []
        self.given_up = False
        node.now.append("begun")

    def errors(self) -> list[CyoloctlError]:
        return self.early

    async def answers(self) -> list[Any]:
        await self.node.held.wait()
        self.node.now.append("answered")
        found: list[Any] = []
        for each in self.asked:
            name = each["name"]
            if name in self.node.refuse:
                found.append(self.node.refuse[name])
                continue
            self.node.values[name] = self.node.values.get(name, 0) + each["by"]
            found.append({"name": name, "value": self.node.values[name]})
        return found

    def give_up(self) -> None:
        self.given_up = True


class World:
    def __init__(self, **rendezvous: Any) -> None:
        self.node = Node()
        if rendezvous:
            self.node.rendezvous = SimpleNamespace(**dict.fromkeys(_RENDEZVOUS) | rendezvous)
        self.bugs: list[str] = []
        handlers = {route: route.handler(cast(Any, self.node)) for route in table.routes() if route.handler}
        self.batches = Batches(cast(Any, self.node), handlers, self._bug)

    def _bug(self, what: str, error: BaseException) -> CyoloctlError:
        self.bugs.append(what)
        return InternalError("a bug")

    async def __call__(
        self, *operations: Any, role: str = "operator", run: str | None = "run", stop: bool = False
    ) -> list[Json]:
        raw = await self.batches.answer(
            operations=operations, request_id=run, stop_on_error=stop, timeout_s=5.0, role=role
        )
        answer = json.loads(raw)
        assert answer.keys() == {"schema_version", "results"}
        return cast("list[Json]", answer["results"])


@pytest.fixture
async def world() -> World:
    return World()


def add(identifier: str | int, name: str = "x", **more: Any) -> Json:
    return {"id": identifier, "op": "counter_increment", "name": name, **more}


def get(identifier: str | int, name: str = "x", **more: Any) -> Json:
    return {"id": identifier, "op": "counter_get", "name": name, **more}


def codes(results: list[Json]) -> list[str]:
    return ["ok" if each["ok"] else each["error"]["code"] for each in results]


async def test_writes_that_follow_each_other_are_carried_out_together_and_a_read_waits_for_them(
    world: World,
) -> None:
    results = await world(add("1", by=2), add("2", by=3), get("3"), get("4", "y"), add("5"))
    assert [each["id"] for each in results] == ["1", "2", "3", "4", "5"]
    assert [each.get("value") for each in results] == [2, 5, 5, 0, 6]
    ids = {number: request_id_of("run", str(number)) for number in range(9)}
    assert world.node.turns == [
        [("x", ids[1]), ("x", ids[2])],
        ("get", "x"),
        ("get", "y"),
        [("x", ids[5])],
    ]


async def test_write_that_cannot_be_planned_runs_alone_in_its_turn(world: World) -> None:
    results = await world(add("1"), add("2", "unplanned"), add("3"))
    assert codes(results) == ["ok", "ok", "ok"]
    assert [len(turn) for turn in world.node.turns] == [1, 1]
    [(operation, asked)] = world.node.calls
    assert (operation, asked["request_id"]) == ("counter_add", request_id_of("run", "2"))


async def test_request_id_of_an_operation_is_its_own_where_it_has_one_and_null_without_a_run(
    world: World,
) -> None:
    await world(add("1", request_id="mine"), add("2"))
    await world(add("1"), run=None)
    assert world.node.turns == [[("x", "mine"), ("x", request_id_of("run", "2"))], [("x", None)]]


async def test_operation_that_is_refused_leaves_those_after_it_their_turn(world: World) -> None:
    world.node.refuse["no"] = Conflict("not this one")
    results = await world(add("1"), add("2", "no"), {"id": "3", "op": "nope"}, add("4"), get("5"))
    assert codes(results) == ["ok", "conflict", "invalid_input", "ok", "ok"]
    assert results[1]["error"] == {"code": "conflict", "message": "not this one", "exit_status": 4}
    assert results[4]["value"] == 2


async def test_nothing_is_tried_after_what_is_not_settled(world: World) -> None:
    world.node.refuse["lost"] = NoLeader("none")
    results = await world(add("1"), add("2", "lost"), get("3"), add("4"))
    assert codes(results) == ["ok", "no_leader"]
    assert len(world.node.turns) == 1


async def test_stop_on_error_tries_nothing_after_the_first_refusal(world: World) -> None:
    world.node.refuse["no"] = Conflict("not this one")
    results = await world(add("1"), add("2", "no"), add("3"), stop=True)
    assert codes(results) == ["ok", "conflict"]
    assert world.node.values == {"x": 1}
    assert codes(await world(add("1"), {}, add("3"), stop=True)) == ["ok", "invalid_input"]


async def test_each_operation_needs_the_role_of_its_own_route(world: World) -> None:
    mint = {"id": "m", "op": "token_mint", "sub": "alice"}
    asked = [get("1"), add("2"), mint, {"id": "k", "op": "key_list"}]
    assert codes(await world(*asked, role="viewer")) == ["ok", "access_denied", "access_denied", "ok"]
    assert codes(await world(*asked, role="gateway")) == ["ok", "access_denied", "ok", "ok"]
    assert codes(await world(*asked, role="operator")) == ["ok"] * 4
    assert codes(await world(*asked, role="none")) == ["access_denied"] * 4
    assert world.node.values == {"x": 1}
    refused = (await world(add("1"), role="viewer"))[0]["error"]["message"]
    assert "role operator" in refused


async def test_field_that_only_an_operator_may_set_is_refused_to_others(world: World) -> None:
    asked = {"id": "1", "op": "token_inspect", "token": "t", "explain": True}
    assert codes(await world(asked, role="gateway")) == ["access_denied"]
    assert codes(await world(asked, role="operator")) == ["ok"]


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (7, "object"),
        ({}, "'id'"),
        ({"id": "1"}, "'op'"),
        ({"id": "1", "op": "counter_increment"}, "'name': is required"),
        (add("1", "UPPER"), "counter name"),
        (add("1", by=0), "'by'"),
        (add("1", timeout_s=1), "timeout_s"),
        (add("1", request_id="a b"), "request_id"),
        ({**add("1"), "name": 5}, "'name'"),
        (get("1", limit=5), "limit"),
        (get("1", consistency="maybe"), "consistency"),
        ({"id": "1", "op": "kv_get"}, "'key': is required"),
        ({"id": "1", "op": "counter_list", "limit": "5"}, "'limit'"),
        ({"id": "1", "op": "batch", "operations": []}, "cannot be part of a batch"),
        ({"id": "1", "op": "stop"}, "cannot be part of a batch"),
    ],
)
async def test_operation_that_its_own_route_would_not_take_is_refused_in_its_place(
    world: World, given: Any, word: str
) -> None:
    result, after = await world(given, get("2"))
    assert result["id"] == (given.get("id") if type(given) is dict else None)
    assert result["error"]["code"] == "invalid_input"
    assert word in result["error"]["message"]
    assert after["ok"]
    assert world.node.turns == [("get", "x")]


async def test_arguments_of_body_and_query_reach_the_handler_with_their_defaults(world: World) -> None:
    await world({"id": "1", "op": "kv_get", "key": "a"}, get("2", consistency="stale"))
    assert dict(world.node.calls)["kv.get"].items() >= {
        "key": "a", "at_revision": None, "consistency": "linearizable",
    }.items()  # fmt: skip


async def test_stale_answer_says_so(world: World) -> None:
    assert (await world(get("1", consistency="stale")))[0]["stale"] is True
    assert "stale" not in (await world(get("1")))[0]


async def test_id_of_a_rendezvous_has_another_name_in_a_batch() -> None:
    async def cancel(*, id: str, request_id: str | None, timeout_s: float) -> Json:
        return {"id": id, "state": "cancelled"}

    world = World(cancel=cancel)
    asked = {"id": "1", "op": "rendezvous_cancel", "rendezvous_id": "a" * 32}
    assert await world(asked) == [{"id": "1", "ok": True, "rendezvous_id": "a" * 32, "state": "cancelled"}]


async def test_bug_of_a_handler_is_the_error_of_its_operation_alone(world: World) -> None:
    world.node.refuse["x"] = cast(Any, ValueError("a secret"))
    results = await world(get("1"), get("2", "y"))
    assert codes(results) == ["internal", "ok"]
    assert world.bugs == ["counter_get in a batch"]


async def test_answer_that_would_be_too_long_ends_early_and_has_at_least_one_result(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_MOST_BYTES", 100)
    assert [each["id"] for each in await world(*(get(n) for n in range(9)))] == [0, 1]
    monkeypatch.setattr(batches, "_MOST_BYTES", 1)
    assert [each["id"] for each in await world(get(1), get(2))] == [1]
    monkeypatch.setattr(batches, "_ENOUGH_BYTES", 1)
    monkeypatch.setattr(batches, "_MOST_BYTES", 1000)
    world.node.turns.clear()
    assert [each["id"] for each in await world(add(1), get(2))] == [1]
    assert len(world.node.turns) == 1


async def test_time_that_is_over_leaves_the_rest_out(world: World) -> None:
    async def slow(writes: Any, *, timeout_s: float, after: Way | None) -> Way:
        loop.time = lambda: began + 5.0  # type: ignore[method-assign]  # the clock of this loop, set forward
        return await begin_all(writes, timeout_s=timeout_s, after=after)

    loop = asyncio.get_running_loop()
    began, clock = loop.time(), loop.time
    begin_all = world.node.begin_all
    world.node.begin_all = slow  # type: ignore[method-assign]  # of this node alone
    try:
        assert [each["id"] for each in await world(add(1), get(2))] == [1]
    finally:
        loop.time = clock  # type: ignore[method-assign]  # see above
    assert len(world.node.turns) == 1


# --- writes while others are on their way ---------------------------------------------------------


async def test_where_the_node_leads_the_next_writes_are_begun_before_the_last_are_answered(
    world: World,
) -> None:
    results = await world(*(add(number) for number in range(600)))
    assert [each["value"] for each in results] == list(range(1, 601))
    assert [len(way.asked) for way in world.node.ways] == [256, 256, 88]
    assert world.node.now == ["begun", "begun", "answered", "begun", "answered", "answered"]
    first, second, _ = world.node.ways
    assert [way.after for way in world.node.ways] == [None, first, second]
    assert not any(way.given_up for way in world.node.ways)


async def test_where_the_node_does_not_lead_writes_wait_for_those_before_them(world: World) -> None:
    world.node.leads = False
    assert codes(await world(*(add(number) for number in range(300)))) == ["ok"] * 300
    assert world.node.now == ["begun", "answered"] * 2
    assert [way.after for way in world.node.ways] == [None, None]


@pytest.mark.parametrize(("error", "follows"), [(NoLeader("none"), False), (Conflict("no"), True)])
async def test_nothing_is_begun_behind_writes_one_of_which_is_known_to_be_lost(
    world: World, error: CyoloctlError, follows: bool
) -> None:
    begin_all = world.node.begin_all

    async def begun(writes: Any, **options: Any) -> Way:
        way = await begin_all(writes, **options)
        if len(world.node.ways) == 1:
            way.early.append(error)
            world.node.refuse["lost"] = error
        return way

    world.node.begin_all = begun  # type: ignore[method-assign]  # of this node alone
    results = await world(add(0, "lost"), *(add(number) for number in range(1, 300)))
    assert (len(results), len(world.node.ways)) == ((300, 2) if follows else (256, 1))


async def test_what_was_begun_behind_a_failure_is_answered_too_and_nothing_more_is_begun(
    world: World,
) -> None:
    world.node.refuse["lost"] = NoLeader("none")
    results = await world(add(0, "lost"), *(add(number) for number in range(1, 1000)))
    assert (len(results), len(world.node.ways)) == (512, 2)
    assert codes(results) == ["no_leader"] + ["ok"] * 511


async def test_read_waits_for_all_writes_that_are_on_their_way(world: World) -> None:
    results = await world(*(add(number) for number in range(300)), get("r"), add("last"))
    assert [results[at]["value"] for at in (299, 300, 301)] == [300, 300, 301]
    assert world.node.turns[2] == ("get", "x")


async def test_stop_on_error_begins_nothing_before_the_answer(world: World) -> None:
    await world(add(1), add(2), add(3), stop=True)
    assert world.node.now == ["begun", "answered"] * 3


async def test_batch_whose_caller_leaves_gives_up_what_is_on_its_way(world: World) -> None:
    world.node.held.clear()
    asked = asyncio.ensure_future(world(*(add(number) for number in range(600))))
    async with asyncio.timeout(5):
        while len(world.node.ways) < 2:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert [way.given_up for way in world.node.ways] == [True, True]


def test_request_ids_of_runs_and_ids_are_each_their_own_and_stay_what_they_are() -> None:
    found = [
        request_id_of(run, identifier)
        for run in ("a", "b", "a\0s1")
        for identifier in ("1", 1, "é", "\ud800", "s1")
    ]
    assert len(set(found)) == len(found)
    assert all(map(is_request_id, found))
    # Other releases have to find what was remembered under it.
    assert request_id_of("import-7", "1") == "6c2d1d0bad36d36b997528b32b763703"


def test_operations_of_batches_are_those_that_may_be_repeated_and_end_soon() -> None:
    """Every route: a new one belongs in one of these lists, with a thought about where it waits."""
    others = {route.operation for route in table.routes() if not is_for_batches(route)}
    assert others == {
        # in a batch there is no batch
        *("batch", "token_batch"),
        # wait or stream, or are one node's own business
        *(
            "counter_watch",
            "kv_changes",
            "lock_acquire",
            "rendezvous_wait",
            "snapshot_begin",
            "snapshot_part",
        ),
        *("health", "openapi", "ca", "metrics", "reload", "stop", "join"),
        # have no request id
        *("lock_keep", "lock_release", "pki_grant"),
        # take as long as members take
        *("member_remove", "member_promote", "member_demote", "member_grant", "transfer_leadership"),
        *("set_time", "cluster_upgrade", "pki_rotate"),
        *("key_rotate", "key_rewrap", "key_import_ring", "key_export_ring"),
    }


def test_no_field_of_an_operation_or_its_answer_is_hidden_by_those_of_a_batch() -> None:
    for route in filter(is_for_batches, table.routes()):
        fields = {*route.body_fields, *route.query_fields}
        answer = set(route.answer.__annotations__)
        assert not {"op", "rendezvous_id"} & fields, route
        assert not {"ok", "error", "rendezvous_id"} & answer, route
        assert "id" not in fields | answer or route.operation.startswith("rendezvous_"), route
        assert "name" not in fields or not route.has_name, route


async def test_error_has_its_own_code_where_http_would_tell_it_apart_by_the_status(world: World) -> None:
    world.node.refuse["x"] = Denied("no")
    [result] = await world(get("1"))
    assert result["error"] == {"code": "rendezvous_denied", "message": "no", "exit_status": 4}
