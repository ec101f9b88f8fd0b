"""Nodes whose addresses changed: one, two, all of them; and addresses that an operator sets."""

from __future__ import annotations

import json

import pytest

from tests.support.cluster import Cluster, Node, assert_refused, free_port, wait_until

pytestmark = pytest.mark.cluster


def _move(cluster: Cluster, *names: str) -> None:
    """Each of these, which are stopped, listens on another port from now on."""
    for name in names:
        node = cluster[name]
        node.port = free_port()
        said = node.json("node", "set-address", "--listen", node.address)
        assert (said["listen"], said["address"], said["changed"]) == (node.address, node.address, True)


def _shown(node: Node) -> dict[str, str]:
    return {row["name"]: row["address"] for row in node.client().status()["members"]}


def _wait_whole(cluster: Cluster, value: int) -> None:
    """Everybody is linked with everybody, shows where they are now, and a write through each counts."""
    cluster.wait_healthy()
    wanted = {name: node.address for name, node in cluster.nodes.items()}
    for number, node in enumerate(cluster.nodes.values()):
        wait_until("the new addresses shown", lambda node=node: _shown(node) == wanted)  # type: ignore[misc]
        assert node.client(10.0).counters.incr("default", 1)["value"] == value + number


@pytest.mark.parametrize("moved", [("n2",), ("n1", "n3"), ("n1", "n2", "n3")], ids=["one", "two", "all"])
def test_cluster_goes_on_after_members_moved_when_one_node_knows_where_the_others_are(
    stopped: Cluster, moved: tuple[str, ...]
) -> None:
    _move(stopped, *moved)
    if len(moved) > 1:
        others = [f"--peer={name}={stopped[name].address}" for name in ("n1", "n3")]
        told = stopped["n2"].json("node", "set-address", *others)
        assert told["peers"] == {name: stopped[name].address for name in ("n1", "n3")}
    stopped.start_all()
    _wait_whole(stopped, 1)
    if len(moved) == 3:
        # They learned it for good: started again, with nothing told, they find each other.
        stopped.stop_all()
        stopped.start_all("n1", "n3")
        assert stopped.client("n3", timeout_s=20.0).counters.incr("default", 1)["value"] == 4


def test_own_address_at_which_nothing_listens_is_not_shown_and_a_problem(stopped: Cluster) -> None:
    node = stopped["n1"]
    wrong, node.port = f"127.0.0.1:{free_port()}", free_port()
    node.json("node", "set-address", "--listen", node.address, "--advertise", wrong)
    node.start()
    wait_until("the address that is listened on", lambda: _shown(node)["n1"] == node.address)
    [found] = [each for each in node.client().status()["problems"] if each["code"] == "address"]
    assert f"n1 tells the others that it is at {wrong}, where nothing listens" in found["message"]
    assert found["command"] == f"cyoloctl node set-address -d DIR --advertise {node.address}"


def test_node_that_runs_keeps_its_addresses_and_a_shared_one_is_refused(shared: Cluster) -> None:
    node = shared["n1"]
    before = (node.directory / "node.yaml").read_bytes()
    assert_refused(node.cli("node", "set-address", "--listen", "127.0.0.1:1"), 4, "runs", "node stop")
    assert_refused(node.cli("node", "set-address"), 2, "--listen", "--peer")
    assert (node.directory / "node.yaml").read_bytes() == before


def test_address_that_an_operator_sets_is_where_the_others_dial_and_leads_back(cluster: Cluster) -> None:
    other = cluster["n2"]
    told = f"localhost:{other.port}"
    preview = cluster["n1"].json("member", "set-address", "n2", told, "--dry-run")
    assert (preview["changed"], preview["previous"]) == (True, other.address)
    done = cluster["n3"].json("member", "set-address", "n2", told, "--request-id", "set")
    assert (done["address"], done["changed"], done["before"]) == (told, True, done["after"])
    assert cluster["n1"].json("member", "set-address", "n2", told, "--request-id", "set") == done
    assert cluster["n1"].json("member", "set-address", "n2", told)["changed"] is False
    # The node itself uses it, and does not take it back when it starts again.
    other.kill()
    other.start()
    cluster.wait_healthy()
    for node in cluster.nodes.values():
        wait_until("the address shown", lambda node=node: _shown(node)["n2"] == told)  # type: ignore[misc]
    # An alias is the same place: spelled as the member does, nothing stays of what was set.
    alias = f"[::ffff:127.0.0.1]:{other.port}"
    assert cluster["n1"].json("member", "set-address", "n2", alias)["address"] == other.address
    for taken in (cluster["n1"].address, f"[::ffff:127.0.0.1]:{cluster['n1'].port}"):
        assert_refused(cluster["n3"].cli("member", "set-address", "n2", taken), 4, "is the address of n1")
    # One that leads nowhere does no harm, and is said on the node that is meant.
    nowhere = f"127.0.0.1:{free_port()}"
    cluster["n1"].json("member", "set-address", "n2", nowhere)
    other.kill()
    other.start()
    cluster.wait_healthy()
    wait_until(
        "the problem on n2",
        lambda: any(each["code"] == "address" for each in other.client().status()["problems"]),
    )
    assert _shown(other)["n2"] == other.address
    audited = "".join(node.log_path.read_text() for node in cluster.nodes.values())
    assert "member set-address" in audited


def test_member_that_can_tell_nobody_is_found_where_the_others_are_told(stopped: Cluster) -> None:
    """It knows none of the others' addresses, and they do not know its own."""
    _move(stopped, "n1", "n2", "n3")
    known = [f"--peer=n2={stopped['n2'].address}"]
    stopped["n1"].json("node", "set-address", *known)
    stopped["n1"].start()
    # It shows where it is today, though nobody can be told.
    assert _shown(stopped["n1"])["n1"] == stopped["n1"].address
    stopped["n2"].start()
    assert stopped["n1"].client(20.0).counters.incr("default", 1)["value"] == 1
    stopped["n3"].start()
    stopped["n1"].json("member", "set-address", "n3", stopped["n3"].address)
    stopped.wait_healthy()
    assert json.loads(stopped["n3"].cli("counter", "incr", "-o", "json").stdout)["value"] == 2
