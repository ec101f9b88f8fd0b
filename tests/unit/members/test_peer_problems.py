"""Missing links, as each node reports them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cyoloctl.members.peer_problems import missing_links, voters_up
from cyoloctl.raft import PeerInfo, ReplicaStatus


def _told(**links: str | None) -> dict[str, PeerInfo]:
    """Each peer with the names that it has sessions with; None: it said nothing yet."""
    return {
        name: PeerInfo("h:1", "1", links=frozenset((said or "").split()), pongs=0 if said is None else 3)
        for name, said in links.items()
    }


@pytest.mark.parametrize(
    ("peers", "missing"),
    [
        (_told(n2="n1 n3", n3="n1 n2"), []),
        (_told(n2="n1", n3="n1"), [("n2", "n3")]),
        (_told(n2="n1", n3="n1 n2"), []),  # one of the two heard of it sooner
        (_told(n2="n1", n3=None), []),
        (_told(n2="n1", n3="n1 n2", n4="n1 n3"), [("n2", "n4")]),
        (_told(n2="n1", ghost="n1"), []),
        (_told(l1="n1", l2="n1"), []),  # learners need no link
        (_told(l1="n1", n2="n1"), [("l1", "n2")]),
        ({}, []),
    ],
)
def test_missing_links_are_pairs_that_both_say_nothing_of_each_other(
    peers: dict[str, PeerInfo], missing: list[tuple[str, str]]
) -> None:
    members = ["n1", "n2", "n3", "n4", "l1", "l2"]
    assert missing_links("n1", ["n1", "n2", "n3", "n4"], members, peers) == missing


def test_voters_up_counts_raft_ids_and_not_names() -> None:
    status = ReplicaStatus(
        "n1~a", "leader", 1, "n1~a", 1, 1, 1, 1, 1, ("n1~a", "n2~b"), ("n2~c",), (), ("n2~c",), {}
    )
    assert voters_up(status) == 1
    assert voters_up(replace(status, connected=("n2~b",))) == 2
    assert voters_up(replace(status, raft_id="n2~b", connected=("n1~a",))) == 2
