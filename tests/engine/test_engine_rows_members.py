"""Rows of the engine's hole table about the configuration, and learners, each as a story."""

from __future__ import annotations

import pytest

from tests.support.engine_harness import Cluster, Outcome
from tests.support.raft_ours import OurCluster
from tests.support.raft_stock import StockCluster

pytestmark = pytest.mark.fault


def join(cluster: Cluster, leader: str, name: str) -> None:
    """`name` starts, catches up and becomes a voter."""
    members = [m for m in cluster.running() if m in cluster.config(leader)]  # type: ignore[attr-defined]
    cluster.start_joiner(name, members)
    if isinstance(cluster, OurCluster):
        cluster.run(0.4)
    added = cluster.add(leader, name)
    assert cluster.run_until(lambda: added.ok, within=2.0), added


# -- row 3 ------------------------------------------------------------------------------------


def two_removals_story(cluster: Cluster) -> tuple[Outcome, Outcome, Outcome]:
    """A cut-off leader removes both others; they elect a leader meanwhile."""
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.5)
    cluster.isolate("a")
    removals = []
    for name in "bc":
        if isinstance(cluster, OurCluster):
            # By force: else it is refused already because no majority would be left.
            removals.append(cluster.remove("a", name, force=True))
        else:
            removals.append(cluster.remove("a", name))
        cluster.tick("a")
    mine = cluster.propose("a", b"mine")
    for _ in range(10):
        cluster.advance(0.02)
        cluster.tick("a")
    told = mine.status
    cluster.elect("b", "c")
    theirs = cluster.propose("b", b"theirs")
    cluster.run(1.0, reconnect=False)
    assert theirs.ok
    mine.result = told
    return removals[1], mine, theirs


def test_row03_oneconf_stock_two_majorities_acknowledge() -> None:
    cluster = StockCluster("abc")
    _, mine, _ = two_removals_story(cluster)
    assert mine.ok
    assert cluster.missing("b") == [b"mine"]
    assert cluster.missing("a") == [b"theirs"]


def test_row03_oneconf_second_change_is_refused_until_the_first_is_applied() -> None:
    cluster = OurCluster("abc")
    second, mine, _ = two_removals_story(cluster)
    assert second.status == "error"
    assert "another membership change is in progress" in str(second.error)
    assert mine.result == "pending"
    cluster.heal()
    assert cluster.run_until(lambda: mine.ok, within=3.0)  # proposed again, to the new leader
    cluster.run(0.5)
    assert all(cluster.state(n) == [b"x1", b"theirs", b"mine"] for n in "abc")
    assert cluster.config("b") == {"a", "b", "c"}


def test_row03_oneconf_no_change_before_the_own_terms_no_op_is_applied() -> None:
    """Otherwise a change of an earlier term may be committed, or not, beside it (Ongaro's erratum)."""
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.5)
    cluster.elect("b", "c")
    cluster.isolate("b")
    status = cluster.replica("b").status()
    assert status.role == "leader"
    assert status.commit_index < status.last_index
    change = cluster.remove("b", "a", force=True)
    assert "another membership change is in progress" in str(change.error)
    assert cluster.config("b") == {"a", "b", "c"}


# -- row 4 ------------------------------------------------------------------------------------


def reboot_into_old_configuration_story(cluster: Cluster) -> Outcome:
    """Five voters; two of the founders reboot alone.  Can two of five go on?"""
    cluster.elect("c")
    cluster.write("c", b"x1")
    cluster.run(0.5)  # stock stores its commit index once a second: now, and not again before the crash
    join(cluster, "c", "d")
    join(cluster, "c", "e")
    cluster.run(0.15)
    cluster.crash("a", "b")
    cluster.write("c", b"three-of-five")
    cluster.isolate("a", "b")
    cluster.restart("a", "b")
    cluster.campaign("a")
    for _ in range(12):
        if cluster.is_leader("a"):
            break
        cluster.exchange("a", "b")
        cluster.tick("a")
    outcome = cluster.propose("a", b"two-of-five")
    cluster.tick("a")
    cluster.advance(0.11)
    cluster.tick("a")
    cluster.deliver("a", "b")
    cluster.deliver("b", "a", tick=False)
    for _ in range(20):
        cluster.advance(0.02)
        cluster.tick("a")
        cluster.exchange("a", "b")
    return outcome


def test_row04_conflog_stock_two_of_five_acknowledge() -> None:
    cluster = StockCluster("abc")
    outcome = reboot_into_old_configuration_story(cluster)
    assert outcome.ok
    assert cluster.is_leader("a")
    assert cluster.is_leader("c")
    assert cluster.missing("a") == [b"three-of-five"]
    assert cluster.missing("c") == [b"two-of-five"]


def test_row04_conflog_configuration_comes_from_the_log_on_boot() -> None:
    cluster = OurCluster("abc")
    outcome = reboot_into_old_configuration_story(cluster)
    assert cluster.config("a") == cluster.config("b") == set("abcde")
    assert not cluster.is_leader("a")
    assert outcome.pending
    cluster.heal()
    assert cluster.run_until(lambda: outcome.ok, within=3.0)
    assert cluster.diverged() == []


def removed_then_replayed_story(cluster: Cluster) -> None:
    """d was added, removed, and a founder restarts and replays both entries one by one."""
    cluster.elect("a")
    join(cluster, "a", "d")
    removed = cluster.remove("a", "d")
    assert cluster.run_until(lambda: removed.ok, within=2.0)
    cluster.run(0.3)
    cluster.crash("d", "b")
    cluster.isolate("b")
    cluster.restart("b")


def test_row04_conflog_removed_node_stays_removed_after_a_restart() -> None:
    cluster = OurCluster("abc")
    removed_then_replayed_story(cluster)
    assert cluster.config("b") == {"a", "b", "c"}
    cluster.heal()
    seen = set()
    for _ in range(20):
        cluster.run(0.05)
        seen.add(frozenset(cluster.config("b")))
    assert seen == {frozenset("abc")}


def test_row04_conflog_uncommitted_configuration_is_not_in_the_snapshot() -> None:
    """Stock dumps otherNodes, which holds an addition that nobody else may ever see (1469)."""
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1", b"x2")
    cluster.start_joiner("d", "abc")
    cluster.run(0.4)
    cluster.add("a", "d")
    cluster.tick("a")
    cluster.answer_roll("a")
    cluster.isolate("a", "d")
    assert cluster.config("a") == set("abcd")
    cluster.compact("a")
    meta = cluster.machines["a"].engine.snapshots.meta
    assert meta.voters == ("a", "b", "c")


def test_row04_conflog_stock_dump_holds_an_uncommitted_configuration() -> None:
    cluster = StockCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1", b"x2")
    cluster.isolate("a")
    cluster.start_joiner("d", "abc")
    cluster.add("a", "d")
    cluster.tick("a")
    cluster.tick("a")
    cluster.compact("a")
    data = cluster.machines["a"].engine._SyncObj__serializer.deserialize()
    assert {n.id for n in data[3]} == set("abcd")


# -- row 10 -----------------------------------------------------------------------------------


def lone_joiner_story(cluster: Cluster) -> Outcome:
    """A joiner that reaches nobody yet is asked to write."""
    cluster.elect("a")
    cluster.write("a", b"x1")
    for name in "abc":
        cluster.cuts.add(frozenset((name, "d")))
    cluster.impatient("d")
    cluster.start_joiner("d", ())
    cluster.run(3.0)
    outcome = cluster.propose("d", b"mine")
    cluster.run(3.0)
    return outcome


def test_row10_nonmember_stock_joiner_elects_itself_and_acknowledges() -> None:
    cluster = StockCluster("abc")
    outcome = lone_joiner_story(cluster)
    assert cluster.is_leader("d")
    assert outcome.ok
    assert cluster.missing("a") == [b"mine"]


def test_row10_nonmember_joiner_waits() -> None:
    cluster = OurCluster("abc")
    outcome = lone_joiner_story(cluster)
    assert not cluster.is_leader("d")
    assert cluster.term("d") == 0
    assert outcome.pending
    cluster.heal()
    assert cluster.run_until(lambda: outcome.ok, within=2.0)  # now there is a leader to hand it to
    assert cluster.state("a") == [b"x1", b"mine"]


def test_row10_nonmember_removed_node_does_not_campaign() -> None:
    cluster = OurCluster("abcd")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    removed = cluster.remove("a", "d")
    assert cluster.run_until(lambda: removed.ok, within=2.0)
    cluster.run(0.3)
    mark = len(cluster.sent)
    term = cluster.term("a")
    cluster.impatient("d")
    cluster.restart("d")
    cluster.run(5.0)
    assert cluster.current_leaders() == ["a"]
    assert cluster.term("a") == term
    assert not any(
        e.source == "d" and e.message["type"] in ("request_vote", "pre_vote") for e in cluster.sent[mark:]
    )


# -- row 20 -----------------------------------------------------------------------------------


def stranger_answers_story(cluster: Cluster) -> None:
    """An acknowledgement of a node that was removed arrives at the leader."""
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    answer = next(
        e.message
        for e in reversed(cluster.sent)
        if e.source == "c" and e.message["type"] == "append_response"
    )
    removed = cluster.remove("a", "c")
    assert cluster.run_until(lambda: removed.ok, within=2.0)
    cluster.run(0.3)
    cluster.inject("a", "c", {**answer, "success": True, "next_index": 100})


def test_row20_member_stock_raises_in_its_loop() -> None:
    cluster = StockCluster("abc")
    stranger_answers_story(cluster)
    assert isinstance(cluster.errors("a")[0], KeyError)


def test_row20_member_answer_of_a_removed_node_has_no_effect() -> None:
    cluster = OurCluster("abc")
    stranger_answers_story(cluster)
    assert cluster.errors("a") == []
    assert "c" not in cluster.replica("a").status().match
    cluster.write("a", b"x2")


# -- row 21 -----------------------------------------------------------------------------------


def lagging_node_story(cluster: Cluster) -> bool:
    """While c is away the cluster moves from a, b to d, e; does c follow them when it is back?"""
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    cluster.isolate("c")
    for name in "de":
        cluster.cuts.add(frozenset(("c", name)))
        join(cluster, "a", name)
    cluster.run(0.5)
    handed = cluster.transfer("a", "d")
    assert cluster.run_until(lambda: handed.ok and cluster.is_leader("d"), within=3.0)
    cluster.run(0.3)
    for name in "ab":
        removed = cluster.remove("d", name)
        assert cluster.run_until(lambda outcome=removed: outcome.ok, within=2.0)
    cluster.crash("a", "b")
    cluster.write("d", b"x2") if cluster.is_leader("d") else None
    cluster.heal()
    return cluster.run_until(lambda: cluster.state("c") == [b"x1", b"x2"], within=10.0)


def test_row21_admit_stock_lagging_node_refuses_the_new_leader_for_ever() -> None:
    cluster = StockCluster("abc")
    assert not lagging_node_story(cluster)
    assert cluster.config("d") == {"c", "d", "e"}


def test_row21_admit_lagging_node_follows_a_leader_it_does_not_know() -> None:
    cluster = OurCluster("abc")
    assert lagging_node_story(cluster)
    assert cluster.config("c") == {"c", "d", "e"}


# -- learners ---------------------------------------------------------------------------------


def with_learners() -> OurCluster:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    for name in "def":
        cluster.start_joiner(name, "abc")
    cluster.run(0.5)
    return cluster


def test_learner_acknowledgement_never_counts() -> None:
    cluster = with_learners()
    cluster.isolate("b", "c")
    outcome = cluster.propose("a", b"y")
    for _ in range(20):
        cluster.advance(0.02)
        cluster.tick("a")
        cluster.exchange("a", "d", "e", "f")
    status = cluster.replica("a").status()
    assert {n: status.match[n] for n in "def"} == dict.fromkeys("def", status.last_index)
    assert outcome.pending
    assert status.commit_index < status.last_index


def test_learner_vote_never_counts() -> None:
    cluster = with_learners()
    cluster.isolate("b", "a")
    cluster.campaign("c")
    for _ in range(10):
        cluster.exchange("c", "d", "e", "f")
        for name in "def":  # a learner that answered all the same
            cluster.inject("c", name, {"type": "pre_vote_response", "term": 2, "granted": True})
            cluster.inject("c", name, {"type": "vote_response", "term": 2})
        cluster.tick("c")
    assert cluster.term("c") == 1
    assert not cluster.is_leader("c")


def test_learner_replicates_and_serves_reads() -> None:
    cluster = with_learners()
    cluster.write("a", b"y")
    read = cluster.read("d")
    assert cluster.run_until(lambda: read.ok, within=1.0)
    assert cluster.state("d") == [b"x1", b"y"]


def test_learner_too_far_behind_is_not_made_a_voter() -> None:
    cluster = with_learners()
    cluster.hold("a", "d")
    cluster.write("a", *[b"y%d" % n for n in range(cluster.limits.promote_lag + 2)], within=5.0)
    refused = cluster.add("a", "d")
    assert refused.status == "error"
    cluster.release("a", "d")
    cluster.run(0.5)
    added = cluster.add("a", "d")
    assert cluster.run_until(lambda: added.ok, within=1.0)


def test_learner_not_connected_or_removed_is_not_made_a_voter() -> None:
    cluster = with_learners()
    assert cluster.add("a", "zz").status == "error"
    removed = cluster.remove("a", "d")
    assert cluster.run_until(lambda: removed.ok, within=1.0)
    assert cluster.add("a", "d").status == "error"


def test_learner_match_is_kept_over_promotion_and_demotion() -> None:
    cluster = with_learners()
    before = cluster.replica("a").status().match["d"]
    assert before == cluster.log("a")[-1][1]
    added = cluster.add("a", "d")
    assert cluster.replica("a").status().match["d"] >= before
    assert cluster.run_until(lambda: added.ok, within=1.0)
    cluster.run(0.3)
    before = cluster.replica("a").status().match["d"]
    demoted = cluster.demote("a", "d")
    assert cluster.replica("a").status().match["d"] >= before
    assert cluster.run_until(lambda: demoted.ok, within=1.0)
    cluster.run(0.3)
    assert cluster.config("a") == {"a", "b", "c"}
    assert "d" in cluster.replica("a").status().learners
    cluster.write("a", b"y")
    cluster.run(0.2)
    assert b"y" in cluster.state("d")
    again = cluster.add("a", "d")
    assert cluster.run_until(lambda: again.ok, within=1.0)


def test_leader_cannot_be_removed_or_demoted() -> None:
    cluster = with_learners()
    assert cluster.remove("a", "a").status == "error"
    assert cluster.demote("a", "a").status == "error"
    assert cluster.config("a") == {"a", "b", "c"}
