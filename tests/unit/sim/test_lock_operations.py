"""The judge that watches locks in simulated clusters."""

from __future__ import annotations

from typing import Any

from cyoloctl.model import Stamp
from cyoloctl.replicated.command import Command
from cyoloctl.sim.lock_operations import Leases, lockers
from cyoloctl.text import Json

ME, YOU = "1" * 32, "2" * 32


def test_runs_with_locks_are_some_and_always_the_same_ones() -> None:
    drawn = [seed for seed in range(120) if lockers(seed) is not None]
    assert 30 < len(drawn) < 70
    assert drawn == [seed for seed in range(120) if lockers(seed) is not None]


def test_naive_judge_of_the_simulation_sees_each_way_to_break_a_lock() -> None:
    def request(operation: str, **given: Any) -> Command:
        return Command("lock", operation, {"name": "a", **given}, "r", "client", "", -1, b"")

    def judged(operation: str, answer: Json, now: int, *, step: int = 0, **given: Any) -> str | None:
        judge = Leases(2)
        first = {"acquired": True, "token": 5, "expires_unix_ms": 10_000}
        mine = request("acquire", holder=ME, ttl_ms=10_000)
        assert judge.applied(mine, {"value": first}, Stamp(0, 0, 70)) is None
        return judge.applied(request(operation, **given), answer, Stamp(0, now + step, now + 70))

    yours: Json = {"holder": YOU, "ttl_ms": 1_000}
    taken = {"value": {"acquired": True, "token": 6, "expires_unix_ms": 10_999}}
    assert judged("acquire", taken, 9_999, **yours) is not None
    assert (
        judged("acquire", {**taken, "value": {**taken["value"], "expires_unix_ms": 11_000}}, 10_000, **yours)
        is None
    )
    assert judged("acquire", {"value": {**taken["value"], "token": 5}}, 10_000, **yours) is not None
    lost = {"error": {"code": "conflict"}}
    assert judged("keep", lost, 9_999, token=5, ttl_ms=1_000) is not None
    assert judged("keep", lost, 10_000, token=5, ttl_ms=1_000) is None
    assert judged("keep", lost, 9_999, step=3_600_000, token=5, ttl_ms=1_000) is not None
    assert judged("release", {"value": {"released": False}}, 9_999, token=5) is not None
    assert judged("release", {"value": {"released": True}}, 9_999, token=4) is not None
    assert judged("break", {"error": {"code": "not_found"}}, 9_999) is not None
