"""Proposals that set an end wait until cluster time is not about to step forward."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cyoloctl.errors import Unavailable
from cyoloctl.raft import Engine
from cyoloctl.replicated import proposer
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
