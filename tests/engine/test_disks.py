"""What a disk that is slow or full costs the others: who leads, and what is written."""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl.raft.disks import LASTING_S, DiskState
from cyoloctl.raft.vantage import View
from tests.support.raft_ours import OurCluster

pytestmark = pytest.mark.fault

ALL = {name: frozenset("abc") - {name} for name in "abc"}


def sees(cluster: OurCluster, name: str, disks: dict[str, DiskState], **links: str) -> None:
    """What this node sees of the links and disks of the others; links: in place of all."""
    told = {other: ALL[other] for other in ALL[name]} | {k: frozenset(v) for k, v in links.items()}
    cluster.views[name] = View(frozenset(told), told, disks=disks)


def led_by_a(sync_ms: float | None, **options: Any) -> OurCluster:
    cluster = OurCluster("abc", **options)
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    cluster.replica("a")._journal.sync_ms = lambda: sync_ms  # type: ignore[method-assign]
    return cluster


def test_leader_with_a_slow_disk_hands_over_to_the_fastest() -> None:
    cluster = led_by_a(100.0)
    sees(cluster, "a", {"b": DiskState(9.0), "c": DiskState(1.0)})
    cluster.run(LASTING_S - 0.3)
    assert cluster.is_leader("a")
    assert cluster.run_until(lambda: cluster.is_leader("c"), within=1.0)


def test_leader_with_a_slow_disk_stays_where_the_fast_one_reaches_fewer() -> None:
    cluster = led_by_a(100.0)
    sees(cluster, "a", {"b": DiskState(1.0)}, b="a", c="a")
    cluster.run(20.0)
    assert cluster.is_leader("a")


def test_leadership_stays_where_it_came_for_its_disk() -> None:
    """The next leader sees the slow disk of the one before, which reaches as much."""
    cluster = led_by_a(100.0)
    sees(cluster, "a", {"b": DiskState(1.0), "c": DiskState(200.0)})
    sees(cluster, "b", {"a": DiskState(100.0), "c": DiskState(200.0)})
    cluster.run_until(lambda: cluster.is_leader("b"), within=4.0)
    cluster.replica("b")._journal.sync_ms = lambda: 1.0  # type: ignore[method-assign]
    cluster.run(30.0)
    assert cluster.is_leader("b")
