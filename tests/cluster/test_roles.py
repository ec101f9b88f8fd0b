"""Members that are made voters and learners, on real nodes."""

from __future__ import annotations

import stat
from typing import Any

import pytest

from tests.cluster.test_members import votes
from tests.support.cluster import Cluster, Writers, assert_refused, wait_until

pytestmark = pytest.mark.cluster


def _role(cluster: Cluster, name: str, through: str) -> str:
    shown = cluster[through].client(10.0).member_show(name)
    return "learner" if shown["role"] == "learner" else "voter"


def _change(cluster: Cluster, through: str, *command: str) -> dict[str, Any]:
    return cluster[through].json("member", *command, "--timeout", "20")


def test_follower_that_is_demoted_votes_no_more_until_it_is_promoted(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    name, other = cluster.followers()
    three, two = ["n1", "n2", "n3"], sorted([leader, other])
    cluster.client().counters.incr("default", 5)
    preview = _change(cluster, other, "demote", name, "--dry-run")
    assert preview == {
        "schema_version": 1, "name": name, "role": "learner", "changed": True, "dry_run": True,
        "before": votes(three, 1), "after": votes(two, 0), "ca_rotation_due": True,
    }  # fmt: skip
    assert _role(cluster, name, leader) == "voter"
    done = _change(cluster, other, "demote", name, "--request-id", "once")
    assert done == {**preview, "dry_run": False}
    assert _change(cluster, leader, "demote", name, "--request-id", "once") == done
    again = _change(cluster, leader, "demote", name)
    assert (again["changed"], again["before"]) == (False, again["after"])
    assert _role(cluster, name, leader) == "learner"
    found = cluster[leader].client().status()
    assert (found["cluster"]["voters"], found["cluster"]["learners"]) == (2, 1)
    [due] = [each for each in found["problems"] if each["code"] == "ca_rotation_due"]
    assert f"{name} votes no more and has had the key" in due["message"]
    audited = cluster[leader].log_path.read_text() + cluster[other].log_path.read_text()
    assert "member demote" in audited

    promoted = _change(cluster, leader, "promote", name)
    assert (promoted["changed"], promoted["before"]) == (True, votes(two, 0))
    assert promoted["after"] == votes(three, 1)
    assert _change(cluster, leader, "promote", name)["changed"] is False
    assert cluster[leader].client().status()["cluster"]["voters"] == 3
    # Its vote counts: the other follower may fail now.
    cluster[other].kill()
    assert cluster[leader].client(10.0).counters.incr("default", 1)["value"] == 6


def test_leader_that_is_demoted_hands_leadership_over_first_and_loses_nothing(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    others = cluster.followers()
    with Writers(cluster, threads=2) as writers:
        writers.wait_more(20)
        assert _change(cluster, leader, "demote", leader, "--request-id", "own")["changed"] is True
        writers.wait_more(20)
        writers.finish()
    assert cluster.wait_leader() in others
    assert _role(cluster, leader, others[0]) == "learner"
    writers.assert_exact(cluster[others[1]].client().counters.get("default")["value"])
    assert _change(cluster, others[0], "demote", others[1])["after"] == votes([others[0]], 0)
    last = cluster.wait_leader()
    assert last == others[0]
    assert_refused(cluster[last].cli("member", "demote", last), 4, f"{last} is the only voter", "promote")
    assert _change(cluster, last, "promote", leader, "--timeout", "20")["after"]["voters"] == 2


def test_change_that_would_lose_the_quorum_or_make_a_missing_voter_is_refused(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    dead, alive = cluster.followers()
    assert _change(cluster, leader, "demote", dead)["changed"] is True
    cluster[dead].kill()
    wait_until(
        "the learner known to be away", lambda: not cluster[leader].client().member_show(dead)["reachable"]
    )
    for options in ([], ["--dry-run"]):
        refused = cluster[alive].cli("member", "promote", dead, *options)
        assert_refused(refused, 4, f"{dead} is not reachable", "start it")
    assert _role(cluster, dead, leader) == "learner"
    cluster[dead].start()
    wait_until("the learner back", lambda: cluster[leader].client().member_show(dead)["reachable"])
    assert _role(cluster, dead, leader) == "learner"  # nobody makes it a voter again
    assert _change(cluster, leader, "promote", dead)["changed"] is True
    cluster[dead].kill()
    wait_until(
        "the voter known to be away", lambda: not cluster[leader].client().member_show(dead)["reachable"]
    )
    for options in ([], ["--dry-run"]):
        refused = cluster[alive].cli("member", "demote", alive, *options)
        assert_refused(refused, 4, f"without {alive} 1 of 2 voters are reachable", "bring a member back")
    # The one that is away can go: what is left goes on without it.
    done = _change(cluster, alive, "demote", dead)
    assert done["before"] == votes(["n1", "n2", "n3"], 0, (dead,))
    assert done["after"] == votes(sorted([leader, alive]), 0)
    assert_refused(cluster[alive].cli("member", "promote", "nobody"), 3, "nobody", "member list")


def test_invited_learner_stays_one_until_it_is_promoted(stopped: Cluster) -> None:
    stopped.start_all()
    leader = stopped.wait_leader()
    stopped.join("l1", learner=True)
    wait_until("the learner reachable", lambda: stopped[leader].client().member_show("l1")["reachable"])
    stopped[leader].client().counters.incr("default", 3)
    wait_until(
        "the learner caught up",
        lambda: stopped["l1"].client().counters.get("default", stale=True)["value"] == 3,
    )
    assert _role(stopped, "l1", leader) == "learner"
    preview = _change(stopped, leader, "promote", "l1", "--dry-run")
    assert preview["after"] == votes(["l1", "n1", "n2", "n3"], 1)
    assert preview["ca_rotation_due"] is False
    assert _role(stopped, "l1", leader) == "learner"
    assert _change(stopped, leader, "promote", "l1")["after"] == preview["after"]
    assert stopped.client().status()["cluster"]["voters"] == 4
    # As every voter it holds the CA's key from now on: it alone could renew the others' certificates.
    key = stopped["l1"].directory / "pki" / "ca.key"
    wait_until("the key of the CA on l1", key.exists)
    assert key.read_bytes() == (stopped["n1"].directory / "pki" / "ca.key").read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    [row] = stopped["n1"].client().call("pki_status")["authorities"]
    wait_until(
        "l1 among the holders",
        lambda: "l1" in stopped["n1"].client().call("pki_status")["authorities"][0]["key_holders"],
    )
    assert row["state"] == "current"
    assert _change(stopped, leader, "transfer-leadership", "--to", "l1")["leader"] == "l1"
    # Removed as a learner, it is no stranger to the key: the exchange that it makes due stays so.
    assert _change(stopped, leader, "demote", "l1")["ca_rotation_due"] is True
    assert _change(stopped, "n1", "remove", "l1", "--yes")["ca_rotation_due"] is True
    reasons = stopped["n1"].client(10.0).call("pki_status")["reasons"]
    assert reasons == ["l1 was removed and has had the key of the CA"]


def test_transfer_of_leadership_is_shown_before_it_is_made(shared: Cluster) -> None:
    leader = shared.wait_leader()
    [target, _] = sorted({"n1", "n2", "n3"} - {leader})
    shown = _change(shared, target, "transfer-leadership", "--to", target, "--dry-run")
    stands = votes(["n1", "n2", "n3"], 1)
    assert shown == {
        "schema_version": 1, "leader": target, "previous": leader, "changed": True, "dry_run": True,
        "before": stands, "after": stands,
    }  # fmt: skip
    assert shared.wait_leader() == leader
    anybody = _change(shared, leader, "transfer-leadership", "--dry-run")
    assert anybody["leader"] in {"n1", "n2", "n3"} - {leader}
    assert _change(shared, leader, "transfer-leadership", "--to", leader, "--dry-run")["changed"] is False
