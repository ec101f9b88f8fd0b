"""Powers of one peer over another: who may lead, who is removed, whose snapshot is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import VersionMismatch
from cyoloctl.model import Source
from cyoloctl.raft.membership import Configuration
from cyoloctl.raft.settings import Limits
from cyoloctl.raft.snapshot import SnapshotMeta, SnapshotStore
from tests.support.raft_ours import OurCluster, append
from tests.support.snapshots import loaded

Z = b"\x00z"


def _bound(cluster: OurCluster, name: str) -> None:
    """Nobody vouches for a peer that is no voter in this node's log."""
    cluster.replica(name)._elections._may_lead = lambda raft_id: False


# -- row 21 -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        append(9, (3, 1), (Z, 4, 9), commit=4),
        {"type": "heartbeat", "term": 9},
        {"type": "request_vote", "term": 9, "last_log_index": 99, "last_log_term": 9},
        {"type": "pre_vote", "term": 9, "last_log_index": 99, "last_log_term": 9},
        {"type": "pre_vote_response", "term": 9, "granted": False},
        {"type": "vote_response", "term": 9},
        {"type": "timeout_now", "term": 9},
        {"type": "append_response", "term": 9, "next_index": 2, "reset": False, "success": False},
        {"type": "snapshot_ack", "term": 9, "digest": "d", "offset": 0},
        {"type": "snapshot_refused", "term": 9, "digest": "d", "reason": "r"},
    ],
    ids=lambda message: str(message["type"]),
)
@pytest.mark.parametrize("target", ["a", "b"], ids=["leader", "follower"])
def test_row21_learner_deposes_nobody_and_convinces_nobody(target: str, message: Any) -> None:
    cluster = OurCluster("abc")
    cluster.start_joiner("l", "abc")
    cluster.elect("a")
    cluster.write("a", b"x")
    cluster.run(0.5)
    for name in "abc":
        _bound(cluster, name)
    term, log = cluster.term(target), cluster.log(target)
    mark = len(cluster.sent)
    cluster.inject(target, "l", message)
    cluster.tick(target)
    said = [e.message["type"] for e in cluster.sent[mark:] if (e.source, e.target) == (target, "l")]
    assert set(said) <= {"append_entries"}  # what a leader sends in any case
    cluster.run(0.3)
    assert (cluster.term(target), cluster.log(target)) == (term, log)
    assert cluster.current_leaders() == ["a"]
    assert cluster.replica(target).failed is None


def test_voter_that_was_demoted_after_an_unheard_election_is_served_again() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    for peer in "ab":
        cluster.lose("c", peer, "request_vote")
        cluster.lose("c", peer, "append_response")
    term = cluster.term("a")
    cluster.inject("c", "a", {"type": "timeout_now", "term": term})
    cluster.tick("c")
    assert cluster.term("c") == term + 1
    cluster.crash("c")
    cluster.lost.clear()
    demoted = cluster.demote("a", "c")
    assert cluster.run_until(lambda: demoted.ok, within=3.0)
    for name in "ab":
        _bound(cluster, name)
    cluster.start("c")
    cluster.connect_all()
    cluster.run(2.0)
    assert cluster.term("a") == term
    assert cluster.run_until(lambda: cluster.config("c") == {"a", "b"}, within=2.0)
    assert cluster.current_leaders() == ["a"]
    assert cluster.write("a", b"x2")[0].ok
    assert cluster.run_until(lambda: cluster.state("c") == [b"x1", b"x2"], within=1.0)


def test_learner_that_claims_ever_higher_terms_costs_one_election() -> None:
    cluster = OurCluster("abc")
    cluster.start_joiner("l", "abc")
    cluster.elect("a")
    cluster.run(0.5)
    for name in "abc":
        _bound(cluster, name)
    term, answer = cluster.term("a"), {"type": "append_response", "next_index": 2, "reset": False}
    for _ in range(100):
        cluster.inject("a", "l", {**answer, "term": cluster.term("a") + 7, "success": False})
        cluster.run(0.1)
        assert cluster.current_leaders() == ["a"]
    assert cluster.term("a") == cluster.term("b") == term + 8


def test_removed_member_with_a_higher_term_costs_no_election() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.lose("c", "a", "append_response")  # a goes on to send it what it needs to believe its removal
    removed = cluster.remove("a", "c")
    assert cluster.run_until(lambda: removed.ok, within=1.0)
    for name in "abc":
        _bound(cluster, name)
    term, answer = cluster.term("a"), {"type": "append_response", "next_index": 2, "reset": False}
    for _ in range(40):
        assert cluster.replica("a").status().learners == ("c",)
        cluster.inject("a", "c", {**answer, "term": term + 7, "success": False})
        cluster.run(0.1)
    assert cluster.term("a") == term


@pytest.mark.parametrize("sender", ["b", "c"])
def test_timeout_now_of_a_voter_that_does_not_lead_starts_no_election(sender: str) -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    target = "c" if sender == "b" else "b"
    cluster.inject(target, sender, {"type": "timeout_now", "term": cluster.term("a")})
    cluster.run(0.5)
    assert cluster.current_leaders() == ["a"]
    assert cluster.term(target) == cluster.term("a")


# -- removal ----------------------------------------------------------------------------------


def test_removed_member_that_is_connected_learns_it_from_its_own_log() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x")
    cluster.run(0.3)
    removal = cluster.remove("a", "c")
    assert cluster.run_until(lambda: removal.ok, within=3.0)
    cluster.run(0.5, reconnect=False)
    assert "c" in cluster.replica("c").removed_peers()
    mark = len(cluster.sent)
    cluster.write("a", b"y")
    cluster.run(0.5, reconnect=False)
    assert not [e for e in cluster.sent[mark:] if (e.source, e.target) == ("a", "c")]  # none after it


# -- a process that forgot ----------------------------------------------------------------------


def test_leader_knows_what_a_follower_acknowledged_and_that_a_later_process_forgot_it() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", *[b"x%d" % n for n in range(5)])
    cluster.run(0.5)
    leader, (term, last) = cluster.replica("a"), cluster.replica("b").progress()
    cluster.crash("b")
    cluster.run(0.3)
    assert leader.acknowledged("b") == last
    assert leader.forgot("b", term, last - 1)
    assert not leader.forgot("b", term, last)
    assert not leader.forgot("b", term + 1, last - 1)  # another leader may have cut it since
    assert not leader.forgot("z", term, 1)
    assert not cluster.replica("c").forgot("b", term, 1)  # only a leader knows


# -- a snapshot that is refused -------------------------------------------------------------------


def _refusing(cluster: OurCluster) -> None:
    """c needs a snapshot of a, and cannot read it."""
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.5)
    cluster.isolate("c")
    cluster.write("a", *[b"y%d" % n for n in range(10)])
    cluster.compact("a")
    cluster.run(0.2)

    def refuse(source: Source) -> Callable[[], None]:
        raise VersionMismatch("the snapshot has version 9, this release reads version 2")

    cluster.machines["c"].engine.machine.prepare_restore = refuse
    cluster.heal()


def _begun(cluster: OurCluster) -> int:
    """Number of times the snapshot was sent to c from its beginning."""
    return sum(
        1
        for e in cluster.sent
        if e.target == "c" and e.message["type"] == "snapshot_chunk" and e.message["offset"] == 0
    )


def test_snapshot_that_is_refused_is_sent_again_with_growing_pauses(tmp_path: Path) -> None:
    cluster = OurCluster("abc", directory=tmp_path, limits=Limits(chunk_bytes=64, keep_entries=0))
    _refusing(cluster)
    cluster.run(30.0)
    assert 4 <= _begun(cluster) <= 6  # after 1, 2, 4, 8, 16 s
    (ours,) = cluster.replica("a").status().troubles
    assert (ours.code, ours.peer) == ("snapshot_refused", "c")
    (theirs,) = cluster.replica("c").status().troubles
    assert (theirs.code, theirs.peer) == ("snapshot_unusable", "a")
    assert ours.message == theirs.message == "the snapshot has version 9, this release reads version 2"
    assert cluster.current_leaders() == ["a"]
    before = _begun(cluster)
    cluster.run(200.0)
    assert _begun(cluster) - before <= 5  # a minute at the most


def test_snapshot_that_was_refused_is_taken_once_the_peer_can_and_nothing_is_left_of_it(
    tmp_path: Path,
) -> None:
    cluster = OurCluster("abc", directory=tmp_path, limits=Limits(chunk_bytes=64, keep_entries=0))
    _refusing(cluster)
    cluster.run(3.0)
    cluster.restart("c")  # another release, say
    assert cluster.run_until(lambda: len(cluster.state("c")) == 11, within=1.0)
    cluster.run(0.5)
    assert cluster.replica("a").status().troubles == cluster.replica("c").status().troubles == ()


# -- removed raft ids ----------------------------------------------------------------------------


def test_removed_lives_of_a_member_in_memory_are_not_kept_however_often_it_restarts() -> None:
    configuration = Configuration(frozenset({"n1~0", "n2~0"}), frozenset({"gone", "n2"}))
    for life in range(100_000):
        configuration = configuration.after(("remove", f"n2~{life}"))
        configuration = configuration.after(("add", f"n2~{life + 1}"))
    assert configuration == Configuration(
        frozenset({"n1~0", "n2~100000"}), frozenset({"gone", "n2", "n2~99999"})
    )
    meta = SnapshotMeta(9, 1, tuple(configuration.voters), tuple(configuration.removed))
    store = SnapshotStore(None)
    store.save(meta, b"")
    found = loaded(store)
    assert found is not None
    assert found[0] == meta


def test_snapshot_with_every_life_of_a_member_is_read_and_the_next_one_can_be_sent(tmp_path: Path) -> None:
    """Release 0.1.0 kept them all, and from 16,385 on could send no snapshot."""
    cluster = OurCluster("abc", directory=tmp_path, limits=Limits(keep_entries=0))
    cluster.elect("a")
    cluster.write("a", *[b"x%d" % n for n in range(5)])
    cluster.run(0.5)
    cluster.isolate("c")
    cluster.write("a", b"y")
    cluster.compact("a")
    cluster.run(0.3)
    snapshots = cluster.machines["a"].engine.snapshots
    held = loaded(snapshots)
    assert held is not None
    meta, data = held
    lives = tuple(f"m~{life}" for life in range(20_000))
    cluster.crash("a")
    (tmp_path / "a" / "snapshot").unlink()
    old = SnapshotStore(tmp_path / "a")
    old.save(SnapshotMeta(meta.index, meta.term, meta.voters, lives), data)
    cluster.restart("a")
    cluster.elect("a")
    assert len(cluster.replica("a").status().removed) == 1
    cluster.heal()
    assert cluster.run_until(lambda: len(cluster.state("c")) == 6, within=5.0)
    assert max(len(e.message["removed"]) for e in cluster.sent if cluster.is_snapshot_chunk(e.message)) == 1
