"""What a node does about the space on its disk, with a disk of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from cyoloctl.node import disk_watch
from cyoloctl.node.disk_watch import DiskWatch
from cyoloctl.paths import DiskSpace
from cyoloctl.raft import Engine

MIB = 2**20


class _Engine:
    """What is asked of the engine; its journal may live on its reserve."""

    def __init__(self) -> None:
        self.spaces: list[tuple[bool, int | None]] = []
        self.compactions = self.searches = 0
        self.journal_is_short = False

    def snapshot_bytes(self) -> int:
        return 0

    def set_space(self, *, is_short: bool, free_bytes: int | None) -> None:
        self.spaces.append((is_short, free_bytes))

    def is_short(self) -> bool:
        return self.journal_is_short or bool(self.spaces and self.spaces[-1][0])

    def find_room(self) -> bool:
        self.searches += 1
        self.journal_is_short = False
        return True

    def compact(self) -> None:
        self.compactions += 1


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.now, self.free, self.engine = 1000.0, 900 * MIB, _Engine()
        monkeypatch.setattr(disk_watch, "disk_space", lambda _: DiskSpace(self.free, 1024 * MIB))
        self.watch = DiskWatch(Path(), cast(Engine, self.engine), clock=lambda: self.now, **options)

    def look(self, free: int, after_s: float = 1.0) -> None:
        self.free, self.now = free, self.now + after_s
        self.watch.look()

    def is_short(self) -> bool:
        return self.engine.is_short()


def test_disk_below_its_reserve_takes_no_entries_until_there_is_a_quarter_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    world.look(64 * MIB)
    assert not world.is_short()
    world.look(64 * MIB - 1)
    assert world.engine.spaces[-1] == (True, 64 * MIB - 1)
    world.look(80 * MIB - 1)
    assert world.is_short()
    world.look(80 * MIB)
    assert not world.is_short()
    world.look(64 * MIB)
    assert not world.is_short()


def test_reserve_of_the_journal_is_filled_up_as_soon_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(monkeypatch)
    world.engine.journal_is_short = True
    world.look(0)
    assert world.engine.searches == 0
    assert world.is_short()
    world.look(500 * MIB)
    assert world.engine.searches == 1
    assert not world.is_short()
    assert [record.message for record in caplog.records] == ["new entries find room again"]


def test_log_is_compacted_early_and_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.look(256 * MIB)
    assert world.engine.compactions == 0
    world.look(256 * MIB - 1)
    assert world.engine.compactions == 1
    for _ in range(300):
        world.look(200 * MIB)
    assert world.engine.compactions == 1
    world.look(200 * MIB, after_s=300.0)
    assert world.engine.compactions == 2


def test_member_whose_log_is_in_memory_goes_on_whatever_its_disk_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, holds_log=False)
    world.look(0)
    assert (world.engine.spaces, world.engine.compactions) == ([], 0)
    assert world.watch.facts()["disk_free_bytes"] == 0


def test_disk_of_which_the_system_says_nothing_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    monkeypatch.setattr(disk_watch, "disk_space", lambda _: None)
    world.watch.look()
    assert world.engine.spaces == []
    assert world.watch.facts() == {}


def test_facts_tell_the_days_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    for number in range(20):
        world.look(900 * MIB - number * MIB, after_s=300.0)
    assert world.watch.facts() == {
        "disk_free_bytes": 881 * MIB,
        "disk_total_bytes": 1024 * MIB,
        "disk_reserve_bytes": 64 * MIB,
        "disk_days_left": pytest.approx(881 / 288, abs=0.1),
    }
