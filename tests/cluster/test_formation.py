"""From nothing to three voters, and what status, member list and counters then say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, assert_refused, wait_until

pytestmark = pytest.mark.cluster

_CLUSTER_FIELDS = [
    "name", "id", "leader", "term", "voters", "learners", "witnesses", "quorum", "failure_tolerance",
    "healthy", "commit_index", "epoch", "storage", "time", "time_ahead_s", "level",
]  # fmt: skip
_MEMBER_FIELDS = [
    "name", "role", "witness", "address", "reachable", "term", "commit_index", "applied_index", "lag",
    "uptime_s", "version", "level", "storage", "fsync_p99_ms", "disk_free_bytes", "disk",
    "certificate_expires_at",
    "clock_skew_ms",
]  # fmt: skip
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def test_formation_by_init_invite_and_join_gives_three_voters(shared: Cluster) -> None:
    for node in shared.nodes.values():
        status = node.json("status")
        assert list(status) == ["schema_version", "cluster", "members", "links", "problems", "history"]
        assert status["schema_version"] == 1
        assert list(status["cluster"]) == _CLUSTER_FIELDS
        assert re.fullmatch(r"[0-9a-f]{32}", status["cluster"]["id"])
        assert status["cluster"]["voters"] == 3
        assert status["cluster"]["learners"] == 0
        assert status["cluster"]["quorum"] == 2
        assert status["cluster"]["failure_tolerance"] == 1
        assert status["cluster"]["healthy"] is True
        assert status["cluster"]["storage"] == "disk"
        assert sorted(row["role"] for row in status["members"]) == ["follower", "follower", "leader"]
        assert [row["name"] for row in status["members"] if row["role"] == "leader"] == [
            status["cluster"]["leader"]
        ]
        assert [row["address"] for row in status["members"]] == [n.address for n in shared.nodes.values()]
        for row in status["members"]:
            assert list(row) == _MEMBER_FIELDS
            assert row["reachable"] is True
            assert type(row["term"]) is int
            assert type(row["commit_index"]) is int
            assert type(row["applied_index"]) is int
            assert type(row["lag"]) is int
            assert row["uptime_s"] > 0
            assert type(row["version"]) is str
            assert row["storage"] == "disk"
            assert row["fsync_p99_ms"] >= 0
            assert row["disk_free_bytes"] > 0
            assert list(row["disk"]) == ["free_bytes", "total_bytes", "reserve_bytes", "days_left"]
            assert row["disk"]["free_bytes"] > row["disk"]["reserve_bytes"] > 0
            assert _RFC3339.fullmatch(row["certificate_expires_at"])
            assert abs(row["clock_skew_ms"]) < 1000


def test_member_list_of_each_node_has_the_fields_of_the_contract(shared: Cluster) -> None:
    for node in shared.nodes.values():
        listed = node.json("member", "list")
        assert list(listed) == ["schema_version", "members"]
        assert [row["name"] for row in listed["members"]] == ["n1", "n2", "n3"]
        assert all(list(row) == _MEMBER_FIELDS for row in listed["members"])
    shown = shared["n3"].json("member", "show", "n2")
    assert list(shown) == ["schema_version", *_MEMBER_FIELDS]
    assert_refused(shared["n3"].cli("member", "show", "n9"), 3, "n9", "member list")


def test_status_check_of_a_healthy_cluster_exits_0(shared: Cluster) -> None:
    assert shared["n2"].cli("status", "--check").returncode == 0


def test_increments_through_each_node_are_read_linearizably_on_each(shared: Cluster) -> None:
    value = 0
    for _ in range(2):
        for writer in shared.nodes.values():
            value += 1
            assert writer.client().counters.incr("formation", 1)["value"] == value
            for reader in shared.nodes.values():
                assert reader.client().counters.get("formation")["value"] == value


def test_counter_json_has_the_fields_of_the_contract(shared: Cluster) -> None:
    written = shared["n2"].json("counter", "incr", "shape", "--by", "9007199254740993", "--request-id", "abc")
    assert list(written) == [
        "schema_version",
        "name",
        "value",
        "value_string",
        "index",
        "epoch",
        "request_id",
    ]
    assert written["name"] == "shape"
    assert written["value"] == 9007199254740993
    assert written["value_string"] == "9007199254740993"
    assert written["request_id"] == "abc"
    read = shared["n3"].json("counter", "get", "shape")
    assert list(read) == ["schema_version", "name", "value", "value_string", "index", "epoch"]
    assert read["value_string"] == "9007199254740993"
    assert read["index"] >= written["index"]
    listed = shared["n1"].json("counter", "list")
    assert list(listed) == ["schema_version", "counters"]
    row = next(row for row in listed["counters"] if row["name"] == "shape")
    assert list(row) == ["name", "value", "value_string", "index", "epoch"]


def test_counter_value_in_table_mode_is_bare(shared: Cluster) -> None:
    result = shared["n1"].cli("counter", "incr", "bare")
    assert (result.returncode, result.stdout, result.stderr) == (0, "1\n", "")
    result = shared["n2"].cli("counter", "decr", "bare", "--by", "5")
    assert (result.returncode, result.stdout) == (0, "-4\n")
    assert shared["n3"].cli("counter", "get", "bare").stdout == "-4\n"
    assert shared["n3"].cli("counter", "reset", "bare", "--yes").stdout == "0\n"


def test_learner_joined_replicates_and_never_counts_as_voter(stopped: Cluster) -> None:
    stopped.start_all("n1", "n2")
    stopped.wait_leader()
    stopped.join("l1", through="n2", learner=True)

    def caught_up() -> bool:
        status = stopped["n1"].client().status()
        rows = {row["name"]: row for row in status["members"]}
        return rows.get("l1", {}).get("role") == "learner" and rows["l1"]["lag"] == 0

    wait_until("the learner without lag", caught_up)
    assert stopped["l1"].client().counters.incr("default", 1)["value"] == 1
    assert stopped["l1"].client().counters.get("default")["value"] == 1
    cluster = stopped["n1"].client().status()["cluster"]
    assert (cluster["voters"], cluster["learners"], cluster["quorum"]) == (3, 1, 2)
    # One voter and the learner are left: if the learner counted, that would be two of three.
    stopped[next(name for name in stopped.followers() if name != "l1")].kill()
    voter = next(node for node in stopped.running() if node.name != "l1")
    wait_until("no leader", lambda: voter.client().status()["cluster"]["leader"] is None)
    assert_refused(voter.cli("counter", "incr", "--timeout", "1"), 75, "majority")
    # The learner forwards to whom it last knew as leader: certainly not acknowledged.
    assert stopped["l1"].cli("counter", "incr", "--timeout", "1").returncode in (75, 80)
    assert stopped["l1"].client().counters.get("default", stale=True)["value"] == 1
    # What it says of the cluster must not be better than what the voter says.
    wait_until(
        "the learner without a leader",
        lambda: stopped["l1"].client().status()["cluster"]["leader"] is None,
    )
    assert stopped["l1"].cli("status").returncode == 75


def test_memory_storage_member_returns_from_every_restart(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.init("n1", "--storage", "memory")
        for name in ("n2", "n3"):
            cluster.join(name, through="n1")
        cluster.wait_settled(3)
        # Each start makes another Raft member of it: the second one must not be taken for the removed first.
        for value in range(1, 4):
            cluster["n3"].kill()
            cluster["n3"].start()
            cluster.wait_settled(3)
            assert cluster["n3"].client().counters.incr("default", 1)["value"] == value


def test_memory_storage_single_node_counts_and_a_restart_forgets(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        node = cluster.init("m1", "--storage", "memory")
        assert [node.client().counters.incr("default", 1)["value"] for _ in range(3)] == [1, 2, 3]
        status = node.json("status")
        assert status["cluster"]["storage"] == "memory"
        assert [row["name"] for row in status["members"]] == ["m1"]
        assert not (node.directory / "raft.db").exists()
        assert node.terminate() == 0
        node.start()
        assert_refused(node.cli("counter", "get"), 3, "default")
        assert node.client().counters.incr("default", 1)["value"] == 1
