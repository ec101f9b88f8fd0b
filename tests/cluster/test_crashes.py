"""Nodes that die under load, and what a request id is worth across it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, Writers, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.fault]


def test_leader_killed_under_load_loses_and_doubles_nothing(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    with Writers(cluster) as writers:
        writers.wait_more(100)
        cluster[leader].kill()
        writers.wait_more(100)
        assert cluster.wait_leader() != leader
        cluster[leader].start()
        writers.wait_more(50)
        writers.finish()
    assert writers.retried, "no write met the crash: the test proves nothing"
    for name in cluster.nodes:
        writers.assert_exact(cluster[name].client().counters.get("default")["value"])
    cluster.wait_settled(voters=3)
    assert cluster[leader].client().counters.get("default", stale=True)["value"] == len(writers.acknowledged)


def test_all_nodes_killed_at_once_under_load_lose_and_double_nothing(cluster: Cluster) -> None:
    with Writers(cluster, threads=6) as writers:
        writers.wait_more(150)
        for node in cluster.nodes.values():
            assert node.process is not None
            node.process.send_signal(signal.SIGKILL)
        for node in cluster.nodes.values():
            node.wait_exit()
        before = dict(writers.acknowledged)
        cluster.start_all()
        writers.wait_more(50)
        writers.finish()
    assert before.items() <= writers.acknowledged.items()
    assert writers.retried
    for name in cluster.nodes:
        writers.assert_exact(cluster[name].client().counters.get("default")["value"])


def test_request_id_repeated_gives_the_first_result_across_leader_change_and_full_restart(
    cluster: Cluster,
) -> None:
    leader = cluster.wait_leader()
    first = cluster["n1"].json("counter", "incr", "--by", "7", "--request-id", "once")
    assert first["value"] == 7
    assert cluster["n2"].client().counters.incr("default", 1)["value"] == 8
    assert cluster["n3"].json("counter", "incr", "--by", "7", "--request-id", "once") == first

    cluster[leader].kill()
    cluster.wait_leader()
    for node in cluster.running():
        assert node.client(10.0).counters.incr("default", 7, request_id="once") == first
    cluster[leader].start()

    for node in cluster.nodes.values():
        node.kill()
    cluster.start_all()
    cluster.wait_leader()
    for node in cluster.nodes.values():
        assert node.client(10.0).counters.incr("default", 7, request_id="once") == first
    assert cluster.client().counters.get("default")["value"] == 8


@pytest.mark.alone
@pytest.mark.parametrize("way", ["command", "sigterm"])
def test_leader_stopped_gracefully_hands_over_within_a_second_and_writes_go_on(
    cluster: Cluster, way: str
) -> None:
    leader = cluster.wait_leader()
    others = cluster.followers()
    with Writers(cluster, threads=2) as writers:
        writers.wait_more(20)
        asked = time.monotonic()
        if way == "command":
            result = cluster[leader].cli("node", "stop")
            assert (result.returncode, result.stderr) == (0, "")
        else:
            process = cluster[leader].process
            assert process is not None
            process.send_signal(signal.SIGTERM)
        # The old leader goes only after it has handed over, so its end is a bound for both.
        status = cluster[leader].wait_exit()
        took = wait_until(
            "another leader",
            lambda: (
                cluster[others[0]].client().status()["cluster"]["leader"] in others
                and time.monotonic() - asked
            ),
        )
        writers.wait_more(20)
        writers.finish()
    assert status == 0, cluster[leader].log_tail()
    # `node stop` is itself a process that takes its time to start.
    assert took < (1.0 if way == "sigterm" else 1.5)
    writers.assert_exact(cluster[others[0]].client().counters.get("default")["value"])
    elected = [e for name in others for e in cluster[name].log_events() if e.get("role") == "leader"]
    assert elected, "a follower must have become leader"
    assert not any("not handed over" in event["event"] for event in cluster[leader].log_events())


def test_stop_of_one_node_leaves_no_socket_and_a_start_brings_it_back(cluster: Cluster) -> None:
    follower = cluster.followers()[0]
    node = cluster[follower]
    assert node.cli("node", "stop").returncode == 0
    assert node.wait_exit() == 0
    assert not Path(node.endpoint.removeprefix("unix://")).exists()
    assert node.cli("counter", "get").returncode == 69
    cluster.client().counters.incr("default", 1)
    node.start()
    cluster.wait_settled(voters=3)
    assert node.client().counters.get("default", stale=True)["value"] == 1
    assert node.out_path.read_bytes() == b"", "a node prints nothing on stdout"
