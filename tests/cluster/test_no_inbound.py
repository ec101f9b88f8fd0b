"""Members that can only dial out: nobody reaches the address that they advertise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, Node, free_port, wait_until

pytestmark = pytest.mark.cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as made:
        made.init("n1")
        yield made


def _join_without_inbound(cluster: Cluster, name: str) -> Node:
    """A voter that others dial in vain, to be started: nothing listens where it says that it is."""
    node = cluster.new_node(name)
    joined = node.cli(
        "node", "join", "--name", name, "--listen", node.address, "--advertise", f"127.0.0.1:{free_port()}",
        "--token-file", "-", stdin=cluster.invite(name),
    )  # fmt: skip
    assert joined.returncode == 0, joined.stderr
    return node


def _problems(node: Node, code: str) -> list[str]:
    return [each["message"] for each in node.client().status()["problems"] if each["code"] == code]


def _pairs(node: Node) -> list[tuple[str, str, bool | None, str | None]]:
    """As `status` tells them: the two, whether they have a link, and who of them dialled."""
    return [
        (*each["members"], each["linked"], each["dialled_by"]) for each in node.client().status()["links"]
    ]


def test_member_that_only_dials_out_joins_votes_and_leads_and_two_of_them_are_told_apart(
    cluster: Cluster,
) -> None:
    n1, n2 = cluster["n1"], _join_without_inbound(cluster, "n2")
    n2.start()
    cluster.wait_settled(voters=2)
    # Of two voters each vote counts: writes need it, whoever leads.
    assert n1.client().counters.incr("default", 1)["value"] == 1
    n1.json("member", "transfer-leadership", "--to", "n2", "--timeout", "20")
    assert n2.client(20.0).counters.incr("default", 1)["value"] == 2
    assert n1.client().status()["cluster"]["leader"] == "n2"
    assert [*_pairs(n1), *_pairs(n2)] == [("n1", "n2", True, "n2")] * 2
    n2.kill()
    n2.start()
    assert n1.client(30.0).counters.incr("default", 1)["value"] == 3
    assert _problems(n1, "link") == []

    # A new node believes who leads once most of those that its token names say so: n2 says it through n1.
    n3 = _join_without_inbound(cluster, "n3")
    n3.start()
    wait_until("the pair without a link", lambda: _problems(n1, "link"))
    [message] = _problems(n1, "link")
    assert "n2" in message
    assert "n3" in message
    assert ("n2", "n3", False, None) in _pairs(n1)
    assert "n3 to n1" in n1.cli("status").stdout
    # Whoever all of them reach leads, and serves both.
    wait_until("three voters", lambda: n1.client().status()["cluster"]["voters"] == 3, 120.0)
    for number, node in enumerate((n1, n2, n3), start=4):
        assert node.client(30.0).counters.incr("default", 1)["value"] == number
    assert n1.client().status()["cluster"]["leader"] == "n1"


def test_node_that_joins_says_with_whom_it_has_no_link(cluster: Cluster) -> None:
    """And a node that has its place says nothing of the kind: the others may be down for a moment."""
    n2 = _join_without_inbound(cluster, "n2")
    n2.start()
    cluster.wait_settled(voters=2)
    n3 = _join_without_inbound(cluster, "n3")
    said = []
    for _ in range(2):
        started = n3.cli("node", "start", "--background")
        try:
            assert started.returncode == 0, started.stderr
            said.append(started.stderr)
            wait_until("a voter", lambda: n3.client().status()["cluster"]["voters"] == 3, 120.0)
        finally:
            n3.cli("node", "stop")
    joining, placed = said
    assert "no link yet with n2" in joining
    assert "no link" not in placed
