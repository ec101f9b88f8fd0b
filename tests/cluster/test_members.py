"""Members that leave, leadership that moves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.cluster import Cluster, Writers, assert_refused, wait_until

pytestmark = pytest.mark.cluster


def votes(names: list[str], tolerance: int, away: tuple[str, ...] = ()) -> dict[str, Any]:
    """These voters, as the commands show them."""
    return {
        "voters": len(names),
        "can_lead": len(names),
        "quorum": len(names) // 2 + 1,
        "failure_tolerance": tolerance,
        "reachable": [name for name in names if name not in away],
        "unreachable": list(away),
    }


def _names(cluster: Cluster, through: str) -> list[str]:
    return [row["name"] for row in cluster[through].client(10.0).member_list()["members"]]


def _assert_removed_node_is_out(cluster: Cluster, name: str, through: str) -> None:
    """It stopped with a clear message, does not come back, and its name is used up."""
    node = cluster[name]
    assert node.wait_exit() == 4, node.log_tail()
    message = node.log_path.read_text().splitlines()[-1]
    assert message.startswith(f"error: {name} was removed")
    assert "new name" in message
    node.launch()
    assert node.wait_exit() == 4, node.log_tail()
    # Ready means that it stays: this command waits until the cluster has said so.
    assert_refused(node.cli("node", "start", "--background"), 4, name, "was removed", "new name")
    assert _names(cluster, through) == sorted(set(cluster.nodes) - {name})
    assert_refused(cluster[through].cli("member", "invite", "--name", name), 4, name, "never reused")


def test_remove_of_a_follower_stops_it_for_good(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    gone, stays = cluster.followers()
    cluster.client().counters.incr("default", 41)
    # Through the other follower: it passes the request to the leader.
    removed = cluster[stays].json("member", "remove", gone, "--yes")
    three, two = ["n1", "n2", "n3"], sorted([leader, stays])
    assert removed == {
        "schema_version": 1, "name": gone, "removed": True, "dry_run": False, "changed": True,
        "before": votes(three, 1), "after": votes(two, 0),
        "failure_tolerance_before": 1, "failure_tolerance_after": 0, "ca_rotation_due": True,
    }  # fmt: skip
    _assert_removed_node_is_out(cluster, gone, stays)
    assert cluster[leader].client().counters.incr("default", 1)["value"] == 42
    # Repeating it says the same and changes nothing.
    assert cluster[stays].json("member", "remove", gone, "--yes")["name"] == gone


def test_remove_of_the_leader_hands_leadership_over_first_and_loses_nothing(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    others = cluster.followers()
    with Writers(cluster, threads=2) as writers:
        writers.wait_more(20)
        removed = cluster[leader].json("member", "remove", leader, "--yes")
        assert removed["removed"] is True
        writers.wait_more(20)
        writers.finish()
    _assert_removed_node_is_out(cluster, leader, others[0])
    assert cluster.wait_leader() in others
    writers.assert_exact(cluster[others[1]].client().counters.get("default")["value"])


def test_remove_that_would_lose_quorum_is_refused_and_allowed_by_force(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    dead, alive = cluster.followers()
    cluster[dead].kill()
    wait_until(
        "the dead follower unreachable",
        lambda: any(
            row["name"] == dead and not row["reachable"]
            for row in cluster[leader].client().status()["members"]
        ),
    )
    assert_refused(cluster[leader].cli("member", "remove", alive, "--yes"), 4, alive, "--force")
    assert_refused(cluster[leader].cli("member", "remove", alive, "--dry-run"), 4, alive, "--force")
    assert len(_names(cluster, leader)) == 3
    assert cluster[alive].running()
    # Removing the dead one costs nothing: two of two are left.
    shown = cluster[leader].json("member", "remove", dead, "--dry-run")
    assert (shown["failure_tolerance_before"], shown["failure_tolerance_after"]) == (0, 0)
    # By force the living follower goes; the leader and the dead one are left, without a majority.
    forced = cluster[leader].cli("member", "remove", alive, "--force", "--yes")
    assert_refused(forced, 80, f"{alive} may be removed or not", f"and {dead} is not", "repeat the command")
    # The dead one comes back: with it the two go on, and nothing was lost.
    cluster[dead].start()

    def two() -> bool:
        names = _names(cluster, dead)
        if alive in names:
            # Nobody knew whether it was applied, and another election may have lost it.
            cluster[dead].cli("member", "remove", alive, "--force", "--yes")
        return names == sorted([leader, dead])

    wait_until("two members", two)
    assert cluster[alive].wait_exit() == 4
    assert cluster.client().counters.incr("default", 1)["value"] == 1


def test_remove_without_a_majority_is_not_done_and_says_who_is_missing(stopped: Cluster) -> None:
    stopped.start_all("n1")
    for options in (["--yes"], ["--force", "--yes"]):
        refused = stopped["n1"].cli("member", "remove", "n2", *options, "--timeout", "1")
        assert_refused(refused, 75, "n2 was not removed", "(n1, n2, n3) must be up, and n2, n3 are not")
        assert ("--force does not replace a majority" in refused.stderr) == ("--force" in options)
    stopped.start_all("n2", "n3")
    stopped.wait_healthy()
    assert _names(stopped, "n1") == ["n1", "n2", "n3"]


def test_remove_without_terminal_and_yes_is_refused(shared: Cluster) -> None:
    assert_refused(shared["n1"].cli("member", "remove", "n2"), 2, "--yes")
    assert_refused(shared["n1"].cli("member", "remove", "n2", "--force"), 2, "--yes")
    assert _names(shared, "n1") == ["n1", "n2", "n3"]


@pytest.mark.parametrize("name", ["n1", "n2", "n3"])
def test_remove_dry_run_shows_the_tolerance_and_changes_nothing(shared: Cluster, name: str) -> None:
    shown = shared["n2"].json("member", "remove", name, "--dry-run")
    two = sorted({"n1", "n2", "n3"} - {name})
    assert shown == {
        "schema_version": 1, "name": name, "removed": False, "dry_run": True, "changed": True,
        "before": votes(["n1", "n2", "n3"], 1), "after": votes(two, 0),
        "failure_tolerance_before": 1, "failure_tolerance_after": 0, "ca_rotation_due": True,
    }  # fmt: skip
    assert "1 -> 0" in shared["n2"].cli("member", "remove", name, "--dry-run").stdout
    assert _names(shared, "n1") == ["n1", "n2", "n3"]


def test_remove_of_an_unknown_member_is_not_found(shared: Cluster) -> None:
    for node in shared.nodes.values():
        assert_refused(node.cli("member", "remove", "nobody", "--yes"), 3, "nobody", "member list")


def test_remove_of_the_only_member_is_refused(
    shared: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Cluster(tmp_path_factory.mktemp("alone")) as alone:
        node = alone.init("n1")
        assert_refused(node.cli("member", "remove", "n1", "--yes"), 4, "n1", "only voter")
        assert_refused(node.cli("member", "remove", "n1", "--yes", "--force"), 4, "n1", "only voter")
        assert_refused(node.cli("member", "transfer-leadership"), 4, "no other voter")
        assert node.client().counters.incr("default", 1)["value"] == 1


def test_remove_of_a_learner_leaves_the_voters_as_they_are(stopped: Cluster) -> None:
    stopped.start_all()
    stopped.wait_settled(voters=3)
    stopped.join("l1", learner=True)
    wait_until("the learner listed", lambda: "l1" in _names(stopped, "n1"))
    removed = stopped["n2"].json("member", "remove", "l1", "--yes")
    assert (removed["failure_tolerance_before"], removed["failure_tolerance_after"]) == (1, 1)
    _assert_removed_node_is_out(stopped, "l1", "n2")


def test_replacement_joins_after_the_first_node_is_dead_and_removed(cluster: Cluster) -> None:
    """Any voter can admit: the node that made the cluster is not special."""
    cluster["n1"].kill()
    cluster.wait_leader()
    cluster["n2"].client(30.0).counters.incr("default", 5)
    assert cluster["n2"].cli("member", "remove", "n1", "--yes").returncode == 0
    cluster.join("n4", through="n3")
    del cluster.nodes["n1"]
    cluster.wait_settled(voters=3)
    assert cluster["n4"].client().counters.get("default")["value"] == 5
    assert cluster["n4"].client().counters.incr("default", 1)["value"] == 6


# --- leadership ----------------------------------------------------------------------------------


def test_transfer_leadership_to_a_named_voter_moves_it_there(shared: Cluster) -> None:
    for target in ("n1", "n2", "n3"):
        previous = shared.wait_leader()
        moved = shared["n1"].json("member", "transfer-leadership", "--to", target)
        assert (moved["leader"], moved["previous"]) == (target, previous)
        assert moved["changed"] == (target != previous)
        assert shared.wait_leader() == target
        assert shared["n2"].client().counters.incr("transfer", 1)["value"] > 0


def test_transfer_leadership_without_a_name_moves_it_to_another_voter(shared: Cluster) -> None:
    previous = shared.wait_leader()
    result = shared["n2"].cli("member", "transfer-leadership")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in {"n1", "n2", "n3"} - {previous}
    assert shared.wait_leader() == result.stdout.strip()


def test_transfer_leadership_to_an_unknown_name_is_not_found(shared: Cluster) -> None:
    leader = shared.wait_leader()
    for node in shared.nodes.values():
        assert_refused(node.cli("member", "transfer-leadership", "--to", "nobody"), 3, "nobody")
    assert shared.wait_leader() == leader


def test_transfer_leadership_to_a_dead_voter_is_refused_and_leadership_stays(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    dead = cluster.followers()[0]
    cluster[dead].kill()
    assert_refused(cluster[leader].cli("member", "transfer-leadership", "--to", dead), 4, dead, "stays here")
    assert cluster.wait_leader() == leader
    assert cluster.client().counters.incr("default", 1)["value"] == 1


def test_transfer_leadership_under_load_answers_every_write_once(cluster: Cluster) -> None:
    with Writers(cluster, threads=4) as writers:
        for target in ("n1", "n2", "n3", "n1"):
            writers.wait_more(15)
            moved = cluster["n2"].client(10.0).transfer_leadership(target)
            assert moved["leader"] == target
        writers.finish()
    writers.assert_exact(cluster["n3"].client().counters.get("default")["value"])


def test_members_whose_addresses_all_changed_find_each_other_by_their_configuration(stopped: Cluster) -> None:
    """The node.yaml comment: correct `peers` when all the others moved while this node was away."""
    from tests.support.cluster import free_port

    moved = {node.port: free_port() for node in stopped.nodes.values()}
    for node in stopped.nodes.values():
        path = node.directory / "node.yaml"
        text = path.read_text()
        for old, new in moved.items():
            text = text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
        # Every peer where it is now, as an operator would write it.
        others = {n.name: n for n in stopped.nodes.values() if n is not node}
        listed = "".join(f'\n  {name}: "127.0.0.1:{moved[other.port]}"' for name, other in others.items())
        head, _, tail = text.partition("\npeers:")
        text = head + "\npeers:" + listed + "\n" + tail[tail.index("\n\n") :]
        path.write_text(text)
    for node in stopped.nodes.values():
        node.port = moved[node.port]
    stopped.start_all()
    stopped.wait_settled(voters=3)
    rows = json.loads(stopped["n1"].cli("member", "list", "-o", "json").stdout)["members"]
    wait_until(
        "the new addresses in the log",
        lambda: [row["address"] for row in rows] == [node.address for node in stopped.nodes.values()],
    )
