"""Twenty seconds of real nodes under faults; `make faults` is the long version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.chaos.cluster import FaultCluster
from tests.chaos.netns import Network, run_checked
from tests.chaos.run import missing, run
from tests.support.cluster import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.fault, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _privilege() -> None:
    if reason := missing():
        pytest.skip(f"REAL NODES UNDER FAULTS ARE NOT TESTED: {reason}")


def test_real_nodes_under_faults_stay_linearizable_and_apply_once(tmp_path: Path) -> None:
    faults = ["kill", "pause", "partition", "one-way", "weather", "read-only", "slow-disk", "clock"]
    report = tmp_path / "report"

    # Few entries to a snapshot: a busy machine writes only 150 or so.
    summary, outcome = run(
        nodes=3, seconds=15.0, seed=1, report=report, faults=faults, rate=120.0, compact_entries=40
    )

    assert outcome.problems == []
    assert summary["operations"] > 100
    assert sum(summary["faults"].values()) >= 3
    assert all(summary["linearizable"].values())
    for what in ("sessions shown", "rendezvous wait", "invitations", "invitations redeemed at the end"):
        assert summary["promises"][what] > 0, summary["promises"]
    for what in (
        *("kv put", "kv get", "kv get stale", "kv list", "kv list stale"),
        *("watched", "lock acquire", "fenced write"),
    ):
        assert summary["data"][what] > 0, summary["data"]
    # The log of the first writes is gone on every node, and each id still counted once.
    assert all(outcome.snapshots.values()), outcome.snapshots
    assert json.loads((report / "summary.json").read_text())["passed"] is True
    assert (report / "latency.svg").read_text().endswith("</svg>\n")
    assert _left_behind() == []


def test_real_follower_without_a_way_to_the_leader_is_served_and_leadership_settles(tmp_path: Path) -> None:
    with FaultCluster(tmp_path, 3) as cluster:
        leader = wait_until("a leader", cluster.leader)
        middle, far = sorted(cluster.nodes.keys() - {leader})
        before = cluster.nodes[middle].client().status()["cluster"]["term"]
        cluster.network.cut(leader, far)
        cluster.network.cut(far, leader)
        cut_at = time.monotonic()

        # What waits at the node meanwhile is answered, and at once from then on.
        assert cluster.nodes[far].client(20.0).counters.incr("default", 1)["value"] == 1
        took_s = time.monotonic() - cut_at
        cluster.nodes[far].run("counter", "incr", "default", "-d", str(cluster.nodes[far].directory))
        assert cluster.nodes[far].client().counters.get("default")["value"] == 2

        assert took_s < 5.0 + 5.0, "5 s, and as much again on a busy machine"
        for name, node in cluster.nodes.items():
            wait_until(
                f"{name} tells of the link",
                lambda node=node: "link" in {found["code"] for found in node.client().status()["problems"]},  # type: ignore[misc]
            )
        now = cluster.nodes[far].client().status()["cluster"]
        assert (now["leader"], now["term"]) == (middle, before + 1)


def _left_behind() -> list[str]:
    """Namespaces, mounts and directories of this process; another one may have its own just now."""
    own = f"cyofault-{os.getpid()}-"
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    made = [*Path("/run/netns").glob(f"{own}*"), *Path(tempfile.gettempdir()).glob(f"{own}*")]
    return [path for path in mounted if own in path] + [str(path) for path in made]


def _reaches(network: Network, source: str, target: str) -> bool:
    """Whether one UDP packet arrives; the receiver tells the time that it waited at most."""
    listen = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.5); "
        f"s.bind(('{network.address(target)}', 9)); print('up', flush=True); print(s.recv(9) == b'x')"
    )
    say = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
        f"s.sendto(b'x', ('{network.address(target)}', 9))"
    )
    receiver = subprocess.Popen(
        [*network.inside(target), sys.executable, "-c", listen],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "up\n"
        run_checked(*network.inside(source), sys.executable, "-c", say)
        return receiver.stdout.read() == "True\n"


def test_cut_one_way_stops_packets_that_way_only_and_is_mended() -> None:
    with Network(["a", "b"]) as network:
        assert _reaches(network, "a", "b")
        network.cut("a", "b")
        assert not _reaches(network, "a", "b")
        assert _reaches(network, "b", "a")
        network.mend("a", "b")
        assert _reaches(network, "a", "b")
        network.weather(loss=1.0)
        assert not _reaches(network, "a", "b")
        network.calm()
        assert _reaches(network, "a", "b")
    assert _left_behind() == []
