"""Snapshots that a node takes by itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cyoloctl.errors import ConfigError, InvalidInput, NoLeader
from cyoloctl.node import create
from cyoloctl.node.config import load_config
from cyoloctl.node.snapshot_schedule import SnapshotSchedule, set_policy
from cyoloctl.snapshots.file import Head, open_snapshot_file
from cyoloctl.snapshots.operations import Spooled
from cyoloctl.snapshots.policy import SnapshotPolicy, parse_every

START = 1_800_000_000.0


class Snapshots:
    """The operations, of a small state.  fails: raised in place of a snapshot."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fails: Exception | None = None

    async def take(self, *, consistency: str, timeout_s: float) -> tuple[Head, Spooled]:
        assert consistency == "linearizable"
        if self.fails is not None:
            raise self.fails
        return Head("c" * 32, "demo", "n1", "0.2.0", 1, 9, 2, 5, "", 8, 0), Spooled(
            (b"abcd", b"efgh"), self.directory
        )


class World:
    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        self.now = START
        self.snapshots = Snapshots(directory)
        self.directory = directory
        policy = SnapshotPolicy(3600, keep, str(directory))
        self.schedule = SnapshotSchedule("n1", self.snapshots, policy, wall_clock=lambda: self.now)  # type: ignore[arg-type]

    async def step(self) -> bool:
        before = set(self.names())
        done = await self.schedule.step()
        for name in set(self.names()) - before:
            os.utime(self.directory / name, (self.now, self.now))
        return done

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())


async def test_snapshot_is_taken_when_it_is_due_and_the_newest_stay(tmp_path: Path) -> None:
    world = World(tmp_path)
    (tmp_path / "n10-20270115T080000Z.snapshot").write_text("another node's")
    (tmp_path / "n1-by-hand.snapshot").write_text("somebody's")
    taken = []
    for _ in range(4):
        assert await world.step()
        assert await world.step()  # not due again
        taken = [name for name in world.names() if name.startswith("n1-2")]
        world.now += 3600
    assert taken == ["n1-20270115T100000Z.snapshot", "n1-20270115T110000Z.snapshot"]
    with open_snapshot_file(tmp_path / taken[-1]) as saved:
        assert (b"".join(saved.parts()), saved.head.index, saved.head.keys) == (b"abcdefgh", 9, "")
    assert {"n10-20270115T080000Z.snapshot", "n1-by-hand.snapshot"} <= set(world.names())


async def test_snapshot_of_the_future_keeps_no_other_away(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.step()
    world.now -= 86_400  # the clock was wrong, and is right now
    await world.step()
    assert len(world.names()) == 2


async def test_what_a_killed_node_was_saving_goes_when_the_next_one_is_saved(tmp_path: Path) -> None:
    world, mark = World(tmp_path), "0123456789abcdef"
    left = f".n1-20270114T080000Z.snapshot.{mark}"
    others = [f".n10-20270114T080000Z.snapshot.{mark}", f".n1-x-20270114T080000Z.snapshot.{mark}", ".n1-2"]
    for name in (left, *others):
        (tmp_path / name).touch()
    assert await world.step()
    assert world.names() == sorted([*others, "n1-20270115T080000Z.snapshot"])


async def test_failure_is_a_problem_until_one_is_saved(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.snapshots.fails = NoLeader("no leader")
    assert not await world.step()
    [found] = world.schedule.problems()
    assert (found["code"], found["member"]) == ("snapshot_failed", "n1")
    assert "no leader" in found["message"]
    world.snapshots.fails = None
    assert await world.step()
    assert list(world.schedule.problems()) == []
    world.schedule.policy = SnapshotPolicy(3600, 2, str(tmp_path / "none"))
    assert not await world.step()
    assert list(world.schedule.problems())
    world.schedule.policy = None
    assert await world.step()
    assert list(world.schedule.problems()) == []


def test_policy_goes_into_node_yaml_and_the_rest_stays(tmp_path: Path) -> None:
    directory = tmp_path / "n1"
    create.init_cluster(directory, "n1", "127.0.0.1:1", None, "demo", "disk")
    path = directory / "node.yaml"
    path.write_text(path.read_text() + "# mine\n")
    before = path.read_text()
    policy = SnapshotPolicy(6 * 3600, 28, str(tmp_path))
    assert set_policy(directory, policy)["changed"]
    assert load_config(path).snapshots == policy
    assert "# mine" in path.read_text()
    assert set_policy(directory, policy)["changed"] is False
    other = SnapshotPolicy(90, 1, str(tmp_path))
    assert set_policy(directory, other)["every"] == "90s"
    assert path.read_text().count("snapshots:") == 1
    set_policy(directory, None)
    assert load_config(path).snapshots is None
    assert path.read_text().strip() == before.strip()
    with pytest.raises(InvalidInput, match="no such file"):
        set_policy(directory, SnapshotPolicy(90, 1, str(tmp_path / "none")))


WRONG = (
    "{every: 6h}",
    "{every: 6, keep: 1, directory: /b}",
    "{every: 6h, keep: 0, directory: /b}",
    "{every: 6h, keep: x, directory: /b}",
    "{every: 6h, keep: 1, directory: b}",
    "{every: 10s, keep: 1, directory: /b}",
    "6h",
)


@pytest.mark.parametrize("block", WRONG)
def test_policy_that_is_wrong_is_told_with_its_line(tmp_path: Path, block: str) -> None:
    create.init_cluster(tmp_path / "n1", "n1", "127.0.0.1:1", None, "demo", "disk")
    path = tmp_path / "n1" / "node.yaml"
    path.write_text(path.read_text() + f"snapshots: {block}\n")
    with pytest.raises(ConfigError, match="line"):
        load_config(path)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("6h", 21_600), ("1d", 86_400)])
def test_period_reads_as_it_is_written(text: str, seconds: int) -> None:
    assert parse_every(text) == seconds
    assert SnapshotPolicy(seconds, 1, "/b").every == text
