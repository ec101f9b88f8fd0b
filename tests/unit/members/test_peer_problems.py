"""Voters that are up."""

from __future__ import annotations

from dataclasses import replace

from cyoloctl.members.peer_problems import voters_up
from cyoloctl.raft import ReplicaStatus


def test_voters_up_counts_raft_ids_and_not_names() -> None:
    status = ReplicaStatus(
        "n1~a", "leader", 1, "n1~a", 1, 1, 1, 1, 1, ("n1~a", "n2~b"), ("n2~c",), (), ("n2~c",), {}
    )
    assert voters_up(status) == 1
    assert voters_up(replace(status, connected=("n2~b",))) == 2
    assert voters_up(replace(status, raft_id="n2~b", connected=("n1~a",))) == 2
