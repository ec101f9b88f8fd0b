"""Disks that are slow, in real processes: who waits for them, and for how long."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, Node, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.fault]

_SLOW_S = 0.3
_FAST_MS = 180.0
"""Far below a slow sync, and far above what a write takes on a busy machine."""


@pytest.fixture
def troubled(stopped: Cluster, tmp_path: Path) -> Cluster:
    """Three running voters, whose disks can be made slow."""
    for node in stopped.nodes.values():
        node.module, node.env["CYOFAULT_TROUBLE"] = "tests.chaos.node", str(tmp_path / f"{node.name}.trouble")
    stopped.start_all()
    stopped.wait_settled(voters=3)
    return stopped


def _set_slow(node: Node) -> None:
    Path(node.env["CYOFAULT_TROUBLE"]).write_text(f"slow {_SLOW_S}")


def _median_ms(node: Node, count: int) -> float:
    """Of writes one after the other through this node."""
    client, took = node.client(10.0), []
    for _ in range(count):
        began = time.monotonic()
        client.counters.incr("default", 1)
        took.append((time.monotonic() - began) * 1000)
    return statistics.median(took)


def test_member_with_a_slow_disk_slows_nobody_as_follower_and_hands_over_as_leader(troubled: Cluster) -> None:
    leader = troubled.wait_leader()
    other, sick = (troubled[name] for name in troubled.followers())
    _set_slow(sick)
    assert _median_ms(sick, 5) > 1000 * _SLOW_S  # it is slow indeed, for those who ask it
    assert _median_ms(troubled[leader], 40) < _FAST_MS
    assert _median_ms(other, 40) < _FAST_MS
    assert troubled.wait_leader() == leader

    # Handed leadership, it keeps it for as long as leadership rests after each move, and not longer.
    Path(sick.env["CYOFAULT_TROUBLE"]).unlink()
    troubled[leader].client(10.0).transfer_leadership(sick.name)
    assert troubled.wait_leader() == sick.name
    _set_slow(sick)

    def has_moved() -> bool:
        other.client(10.0).counters.incr("default", 1)
        return other.client().status()["cluster"]["leader"] not in (None, sick.name)

    wait_until("leadership has left the slow disk", has_moved, 45.0)
    assert _median_ms(other, 40) < _FAST_MS
    assert troubled.wait_leader() != sick.name
    assert any(
        event["event"] == "leadership moves to a faster disk" and event["to"] != sick.name
        for event in sick.log_events()
    )
