"""The word of one node, or the content of one disk, decides nothing for the others: real nodes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cyoloctl.pki.files import PKI_DIRECTORY
from cyoloctl.pki.tls import ALPN_RAFT_BEFORE
from tests.support.cluster import (
    Cluster,
    Node,
    assert_refused,
    free_port,
    run,
    wait_until,
)
from tests.support.connections import Peer, cluster_id_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def _keys(node: Node) -> tuple[Path, Path]:
    keys = node.directory / PKI_DIRECTORY
    return keys / "node.crt", keys / "node.key"


def _move(node: Node) -> None:
    """To another port, by its configuration."""
    port = free_port()
    path = node.directory / "node.yaml"
    path.write_text(path.read_text().replace(node.address, f"127.0.0.1:{port}"))
    node.port = port


def _copy(cluster: Cluster, node: Node, name: str, *, move: bool = True) -> Node:
    """A stopped node's directory once more, beside it."""
    assert not node.running()
    directory = node.directory.parent / name
    shutil.copytree(node.directory, directory, symlinks=True)
    copy = Node(directory, name, node.port)
    if move:
        _move(copy)
    cluster.nodes[name] = copy
    return copy


def _serves(node: Node) -> bool:
    return bool(node.client(2.0).counters.incr("alive", 1)["value"])


def _removed(node: Node, name: str) -> None:
    assert node.cli("member", "remove", name, "--yes").returncode == 0


@pytest.mark.parametrize("hello", [True, False])
def test_goodbye_of_one_voter_ends_no_other_node(cluster: Cluster, hello: bool) -> None:
    cluster["n2"].kill()
    for node in (cluster["n1"], cluster["n3"]):
        for _ in range(3):
            with Peer(node, _keys(cluster["n2"])) as peer:
                if hello:
                    peer.hello("n2", cluster_id_of(node))
                    peer.wait_message("hello")
                peer.send({"type": "goodbye", "reason": "removed"})
                peer.wait_closed()
    for node in (cluster["n1"], cluster["n3"]):
        wait_until(f"{node.name} serving", lambda node=node: _serves(node))  # type: ignore[misc]


@pytest.mark.parametrize("alpn", ALPN_RAFT_BEFORE)
def test_peer_of_a_protocol_before_is_told_to_upgrade(cluster: Cluster, alpn: str) -> None:
    version = alpn.partition("/")[2]
    node = cluster["n1"]
    since = node.log_size()
    with Peer(node, _keys(cluster["n2"]), alpn=(alpn,)) as peer:
        (goodbye,) = peer.wait_closed()
    assert goodbye["type"] == "goodbye"
    assert f"protocol version 3 is spoken here, not {version}: upgrade your node" in goodbye["reason"]
    told = [str(event.get("reason")) for event in node.log_events(since)]
    assert any(f"it speaks protocol version {version}" in reason for reason in told)


def test_node_that_joined_and_was_removed_before_its_first_start_ends_and_says_so(cluster: Cluster) -> None:
    token = cluster.invite("n4", through="n1")
    node = cluster.new_node("n4")
    joined = node.cli(
        "node", "join", "--name", "n4", "--listen", node.address, "--token-file", "-", stdin=token
    )
    assert joined.returncode == 0, joined.stderr
    _removed(cluster["n1"], "n4")
    ended = node.start_refused()
    assert ended.returncode == 4, ended.stderr
    assert "n4 was removed from the cluster" in ended.stderr
    # Ready would mean that it stays.
    assert_refused(node.cli("node", "start", "--background"), 4, "n4 was removed from the cluster")


@pytest.mark.alone  # the original has 1.5 s to answer for its place
def test_copy_of_a_data_directory_started_beside_the_original_ends_and_says_so(cluster: Cluster) -> None:
    original = cluster["n2"]
    assert original.terminate() == 0
    copy = _copy(cluster, original, "n2b")
    original.start()
    cluster.nodes.pop("n2b")
    cluster.wait_settled(voters=3)
    ended = copy.start_refused()
    assert ended.returncode == 4, ended.stderr
    assert "copy" in ended.stderr
    assert "`cyoloctl member remove n2`" in ended.stderr
    told = cluster["n1"].client().status()["problems"]
    assert ("copy", "n2") in [(problem["code"], problem["member"]) for problem in told]
    assert_refused(copy.cli("node", "start", "--background"), 4, "copy", "`cyoloctl member remove n2`")
    again = copy.start_refused()  # counted once more, and so later than the original, which lives
    assert again.returncode == 4, again.stderr
    assert original.running()
    wait_until("n2 serving", lambda: _serves(original))
    cluster.wait_settled(voters=3)


def test_older_copy_of_a_disk_that_comes_back_ends_and_says_so(cluster: Cluster) -> None:
    node = cluster["n2"]
    assert node.terminate() == 0
    old = _copy(cluster, node, "old", move=False)
    cluster.nodes.pop("old")
    for _ in range(2):
        node.start()
        cluster.wait_settled(voters=3)
        assert node.terminate() == 0
    ended = run("node", "start", "-d", old.directory)
    assert ended.returncode == 4, ended.stderr
    assert "older copy" in ended.stderr
    node.start()
    cluster.wait_settled(voters=3)


def test_older_disk_that_was_started_as_often_is_known_by_what_it_forgot(cluster: Cluster) -> None:
    node = cluster["n2"]
    assert node.terminate() == 0
    old = _copy(cluster, node, "old", move=False)
    cluster.nodes.pop("old")
    node.start()
    cluster.wait_settled(voters=3)
    for _ in range(20):
        _serves(cluster["n1"])
    cluster.wait_settled(voters=3)
    node.kill()
    first = run("node", "start", "-d", old.directory)
    assert first.returncode == 4, first.stderr  # counted as the process that was killed
    again = run("node", "start", "-d", old.directory)
    assert again.returncode == 4, again.stderr
    assert "older copy" in again.stderr
    told = cluster["n1"].client().status()["problems"]
    assert ("older_disk", "n2") in [(problem["code"], problem["member"]) for problem in told]
    node.start()
    cluster.wait_settled(voters=3)


def test_members_of_which_most_moved_find_each_other_through_the_one_that_stayed(cluster: Cluster) -> None:
    for name in ("n2", "n3"):
        assert cluster[name].terminate() == 0
        _move(cluster[name])
    cluster["n2"].start()
    wait_until("a leader", lambda: _serves(cluster["n1"]))
    wait_until(
        "n2 leading",
        lambda: (
            cluster["n1"].cli("member", "transfer-leadership", "--to", "n2").returncode == 0
            or cluster.wait_leader() == "n2"
        ),
    )
    cluster["n3"].start()
    cluster.wait_settled(voters=3)
    assert _serves(cluster["n3"])


def test_removed_member_of_a_cluster_in_memory_does_not_come_back_under_another_raft_id(
    tmp_path: Path,
) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.init("n1", "--storage", "memory")
        for number in (2, 3):
            cluster.join(f"n{number}", through="n1")
            cluster.wait_settled(voters=number)
        cluster["n3"].kill()
        _removed(cluster["n1"], "n3")
        for raft_id in ("n3", "n3~1", "n3~other"):
            with Peer(cluster["n1"], _keys(cluster["n3"])) as peer:
                peer.hello("n3", cluster_id_of(cluster["n1"]), raft_id=raft_id)
                said = peer.wait_closed()
            assert {message["type"] for message in said} <= {"hello", "goodbye"}
        ended = cluster["n3"].start_refused()
        assert ended.returncode == 4, ended.stderr
        assert "n3 was removed from the cluster" in ended.stderr


def _in_memory(tmp_path: Path, count: int) -> Cluster:
    cluster = Cluster(tmp_path)
    cluster.init("n1", "--storage", "memory")
    for number in range(2, count + 1):
        cluster.join(f"n{number}", through="n1")
        cluster.wait_settled(voters=number)
    return cluster


@pytest.mark.parametrize("count", [2, 3])
def test_member_in_memory_that_restarts_gracefully_comes_back(tmp_path: Path, count: int) -> None:
    """A follower, then the leader, of the same cluster."""
    with _in_memory(tmp_path, count) as cluster:
        _serves(cluster["n1"])
        for turn, leader in enumerate((False, True)):
            leads = cluster.wait_leader()
            name = leads if leader else next(n for n in sorted(cluster.nodes) if n != leads)
            node = cluster[name]
            assert node.cli("node", "stop").returncode == 0
            assert node.wait_exit() == 0
            for other in cluster.running():
                status = other.client().status()["cluster"]
                assert (status["voters"], status["quorum"]) == (count - 1, (count - 1) // 2 + 1)
            node.start()
            cluster.wait_settled(voters=count)
            assert node.client().counters.incr("alive", 1)["value"] == 2 + turn


def test_member_in_memory_whose_stop_would_end_the_cluster_refuses_and_stops_by_force(
    tmp_path: Path,
) -> None:
    with _in_memory(tmp_path, 2) as cluster:
        assert cluster["n2"].cli("node", "stop").returncode == 0
        cluster["n2"].wait_exit()
        refused = cluster["n1"].cli("node", "stop")
        assert refused.returncode == 4, refused.stderr
        assert "the only voter of a cluster in memory" in refused.stderr
        assert "`cyoloctl node stop --force`" in refused.stderr
        assert _serves(cluster["n1"])
        assert cluster["n1"].cli("node", "stop", "--force").returncode == 0
        assert cluster["n1"].wait_exit() == 0
        assert "a vote that lives in memory is lost" in cluster["n1"].log_tail(4000)


def test_member_in_memory_that_crashed_is_not_up_before_it_votes_again(tmp_path: Path) -> None:
    with _in_memory(tmp_path, 2) as cluster:
        cluster["n2"].kill()
        cluster["n2"].start()
        survivor = cluster["n1"]

        def told() -> bool:
            status = survivor.client(2.0).status()
            (row,) = [row for row in status["members"] if row["name"] == "n2"]
            return not status["cluster"]["healthy"] and not row["reachable"]

        wait_until("n2's vote is not up", told)
        refused = survivor.cli("node", "stop")
        assert refused.returncode == 4, refused.stderr
