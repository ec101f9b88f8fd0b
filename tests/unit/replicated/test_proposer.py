"""Proposals that set an end wait until cluster time is not about to step forward."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cyoloctl.errors import Unavailable, VersionMismatch
from cyoloctl.raft import Engine
from cyoloctl.replicated import proposer
from cyoloctl.replicated.command import encode_result
from cyoloctl.replicated.proposer import Proposer


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

    async def propose(self, command: bytes, *, timeout_s: float) -> bytes:
        self.proposed.append(command)
        return encode_result(1, {})

    async def read_barrier(self, *, timeout_s: float) -> int:
        self.barriers += 1
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
