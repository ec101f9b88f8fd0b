"""What nodes say of themselves and of each other: why a peer is away, and what needs a hand."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, Node, free_port, wait_until

pytestmark = pytest.mark.cluster


def test_log_says_once_at_its_default_level_why_each_peer_is_away(shared: Cluster, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, Cluster(tmp_path) as other:
        node = other.new_node("x1")
        assert node.cli("cluster", "init", "--name", "x1", "--listen", node.address).returncode == 0
        peers = {
            "closed": f"127.0.0.1:{free_port()}",
            "silent": f"127.0.0.1:{silent.getsockname()[1]}",
            "unnamed": "nobody.invalid:7000",
            "n2": shared["n2"].address,
        }
        path = node.directory / "node.yaml"
        lines = "".join(f'\n  {name}: "{address}"' for name, address in peers.items())
        path.write_text(path.read_text().replace("peers: {}", f"peers:{lines}"))
        node.start()
        assert node.log_level == "info"

        def said() -> dict[str, list[str]]:
            found: dict[str, list[str]] = {name: [] for name in peers}
            for event in node.log_events():
                if event["event"] == "cannot dial":
                    assert event["address"] == peers[event["peer"]]
                    found[event["peer"]].append(event["reason"])
            return found

        wait_until("a reason for each", lambda: all(said().values()))
        reasons = said()
        assert reasons["closed"] == ["connection refused"]
        assert reasons["silent"] == ["no answer in time"]
        assert len(reasons["n2"]) == 1
        assert reasons["n2"][0].startswith("TLS: its certificate is not accepted here: self-signed")
        assert len(reasons["unnamed"]) == 1
        assert reasons["unnamed"][0].startswith("its name cannot be resolved: ")


def _codes(node: Node) -> set[tuple[str, str | None]]:
    return {(found["code"], found["member"]) for found in node.client(2.0).status()["problems"]}


@pytest.mark.parametrize("leader", ["n1", "n2"])
def test_missing_link_of_two_members_is_told_by_every_node(stopped: Cluster, leader: str) -> None:
    """Whoever leads: n2 and n3 do not reach each other, n1 reaches both."""
    stopped["n2"].apart_from(stopped["n3"])
    stopped["n2"].env["CYOFAULT_STAYS"] = "1"  # it would hand over to n1 after a while
    stopped.start_all()
    wait_until("a leader", lambda: stopped["n1"].client(2.0).status()["cluster"]["leader"])

    def leads() -> bool:
        now = stopped["n1"].client(2.0).status()["cluster"]["leader"]
        if now != leader:
            # By way of n1: n3 cannot hand it to n2.
            stopped["n1"].client().transfer_leadership(leader if now == "n1" else "n1")
        return bool(now == leader)

    wait_until(f"{leader} leads", leads)
    stopped["n1"].client().counters.incr("default", 1)
    for node in stopped.nodes.values():
        if node.name == "n3" and leader == "n2":
            # It has no link with the leader, and says no more than that.
            wait_until(
                "n3 without a leader", lambda: not stopped["n3"].client().status()["cluster"]["leader"]
            )
            assert stopped["n3"].cli("status", "--check").returncode == 75
            continue
        wait_until(
            f"{node.name} tells of the link",
            lambda node=node: ("link", "n2") in _codes(node) and ("member_away", "n3") not in _codes(node),  # type: ignore[misc]
        )
        checked = node.cli("status", "--check")
        assert checked.returncode == 4, checked.stdout
        assert "NOT HEALTHY" in checked.stdout
        assert "n2 and n3 do not reach each other, though n1 reaches both" in checked.stderr
    if leader == "n2":
        # A candidate that gets nothing of what is committed.
        wait_until(
            "n3 is told of", lambda: {("not_following", "n3"), ("lagging", "n3")} <= _codes(stopped["n1"])
        )
