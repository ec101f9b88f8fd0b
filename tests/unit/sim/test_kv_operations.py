"""The judge that watches keys and values in simulated clusters."""

from __future__ import annotations

from typing import Any

from cyoloctl.replicated.command import Command
from cyoloctl.sim.kv_operations import Table, keepers
from cyoloctl.text import Json


def request(operation: str, **given: Any) -> Command:
    return Command("kv", operation, given, "r", "client", "", -1, b"")


def a_put(key: str = "a", **more: Any) -> Command:
    given = {"key": key, "value": "dg==", "if_revision": None, "ttl_ms": None, "fence": None, **more}
    return request("put", **given)


def written(revision: int, created: int | None = None, version: int = 1, end: int | None = None) -> Json:
    value = {"revision": revision, "created_revision": created or revision, "version": version}
    return {"value": {**value, "expires_unix_ms": end}}


def refused(code: str) -> Json:
    return {"error": {"code": code}}


def judged(asked: Command, answer: Json, now: int = 0, *, held: bool = False) -> str | None:
    """What the judge says after key a was put at revision 5, to expire at 10 s."""
    judge = Table()
    assert judge.applied(a_put(ttl_ms=10_000), written(5, end=10_000), False, 0) is None
    return judge.applied(asked, answer, held, now)


def test_runs_with_keys_are_some_and_always_the_same_ones() -> None:
    drawn = [seed for seed in range(120) if keepers(seed) is not None]
    assert 30 < len(drawn) < 70
    assert drawn == [seed for seed in range(120) if keepers(seed) is not None]


def test_naive_judge_of_the_simulation_sees_each_way_to_break_a_put() -> None:
    assert judged(a_put(), written(6, 5, 2)) is None
    assert judged(a_put(), written(5, 5, 2)) is not None  # the revision of another change
    assert judged(a_put(), written(6, 6, 1)) is not None  # a key made anew that was there
    assert judged(a_put(), written(6, 6, 1), 10_000) is None
    assert judged(a_put(), written(6, 5, 2, end=9)) is not None
    assert judged(a_put(if_revision=0), written(6, 5, 2)) is not None
    assert judged(a_put(if_revision=0), refused("already_exists")) is None
    assert judged(a_put(if_revision=5), refused("conflict")) is not None
    assert judged(a_put(fence={"name": "l", "token": 1}), written(6, 5, 2)) is not None
    assert judged(a_put(fence={"name": "l", "token": 1}), refused("fence_lost")) is None
    assert judged(a_put(fence={"name": "l", "token": 1}), refused("fence_lost"), held=True) is not None
    assert judged(a_put(), refused("internal")) is not None


def test_naive_judge_of_the_simulation_sees_each_way_to_break_another_change() -> None:
    deletion = request("delete", key="a", if_revision=None, fence=None)
    assert judged(deletion, {"value": {"revision": 6}}) is None
    assert judged(deletion, refused("not_found")) is not None
    assert judged(deletion, refused("not_found"), 10_000) is None
    prefix = request("delete_prefix", prefix="a")
    assert judged(prefix, {"value": {"deleted": 1, "more": False, "revision": 6}}) is None
    assert judged(prefix, {"value": {"deleted": 0, "more": False, "revision": 5}}) is not None
    keep = request("keep", key="a", created_revision=None, ttl_ms=5_000)
    assert judged(keep, {"value": {"revision": 5, "expires_unix_ms": 10_000}}) is None
    assert judged(keep, {"value": {"revision": 5, "expires_unix_ms": 5_000}}) is not None
    assert judged(keep, refused("not_found"), 9_999) is not None


def test_naive_judge_of_the_simulation_sees_a_transaction_that_takes_the_wrong_branch() -> None:
    compare = [{"key": "a", "target": "version", "op": "=", "value": 1}]
    step = {"op": "put", "key": "b", "value": "dg==", "ttl_ms": None}
    asked = request("txn", compare=compare, then=[step], otherwise=[], fence=None)
    result = written(6)["value"]
    done = {"value": {"succeeded": True, "revision": 6, "results": [result]}}
    assert judged(asked, done) is None
    assert judged(asked, {"value": {"succeeded": False, "revision": 5, "results": []}}) is not None
    assert judged(asked, done, 10_000) is not None
    assert judged(asked, {"value": {"succeeded": True, "revision": 5, "results": [result]}}) is not None


def test_naive_judge_of_the_simulation_leaves_open_whether_what_is_over_was_taken_away() -> None:
    deletion = {"op": "delete", "key": "a"}
    asked = request("txn", compare=[], then=[deletion], otherwise=[], fence=None)
    for deleted in (0, 1):
        judge = Table()
        assert judge.applied(a_put(ttl_ms=1_000), written(5, end=1_000), False, 0) is None
        done = {"value": {"succeeded": True, "revision": 5, "results": [{"deleted": False}]}}
        assert judge.applied(asked, done, False, 1_000) is None
        gone = {"value": {"deleted": deleted, "more": False, "revision": 5 + deleted}}
        assert judge.applied(request("delete_prefix", prefix="a"), gone, False, 1_000) is None
