"""What a node may say rests on its disk: before it sends, after it failed, when it starts.

Each story falls when one line of defence is taken away (tests/mutants/catalogue).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cyoloctl.errors import (
    InternalError,
    OutcomeUnknown,
    StorageError,
)
from cyoloctl.raft.replica import Replica
from cyoloctl.raft.settings import Limits
from tests.support.engine_harness import Machine
from tests.support.raft_ours import OurCluster, append
from tests.support.stories import (
    LOG,
    NO_OP,
    hear,
    said,
    start_with,
)

pytestmark = pytest.mark.fault


# -- persist before you send ---------------------------------------------------------------------


class Persisting(OurCluster):
    """Compares what leaves a node with what its disk holds at that moment."""

    def __init__(self, names: str, **options: Any) -> None:
        self.broken: list[tuple[str, Any]] = []
        super().__init__(names, **options)

    def _send(self, machine: Machine, replica: Replica, peer: str, message: Any) -> None:
        kind, record = message["type"], machine.disk.store.record()
        kept = True
        if "term" in message and not kind.startswith("pre_vote"):
            kept = message["term"] <= record.term
        if kind == "append_response" and message["success"]:
            kept = kept and message["next_index"] - 1 <= record.last_index
        elif kind == "vote_response":
            kept = kept and (message["term"], peer) == (record.term, record.vote)
        elif kind == "request_vote":
            kept = kept and (message["term"], machine.name) == (record.term, record.vote)
        if not kept:
            self.broken.append((machine.name, message))
        super()._send(machine, replica, peer, message)

    def _tick(self, machine: Machine) -> None:
        super()._tick(machine)
        if self.is_leader(machine.name):
            commit = self.commit_index(machine.name)
            holders = [
                name for name in self.founders if self.machines[name].disk.store.record().last_index >= commit
            ]
            if 2 * len(holders) <= len(self.founders):
                self.broken.append((machine.name, f"committed {commit}, which only {holders} hold"))


def test_nothing_leaves_a_node_before_its_disk_holds_what_it_tells() -> None:
    cluster = Persisting("abc")
    for leader, others in (("a", "bc"), ("b", "ca"), ("c", "ab")):
        cluster.elect(leader, others[0])
        cluster.write(leader, b"at-" + leader.encode())
        cluster.write(others[0], b"by-" + others[0].encode())
        cluster.run(0.3)
    assert cluster.transfer("c", "a").pending
    assert cluster.run_until(lambda: cluster.is_leader("a"), within=2.0)
    cluster.write("a", b"last")
    assert cluster.broken == []


def deposed_alone() -> Persisting:
    """A single voter that a learner's answer deposed: it stands, wins and leads within one tick."""
    cluster = Persisting("a")
    cluster.start_joiner("l", "a")
    cluster.run(0.3)
    answer = {"type": "append_response", "term": 7, "next_index": 1, "reset": False, "success": False}
    hear(cluster, "a", "l", answer)
    assert not cluster.is_leader("a")
    return cluster


def test_new_leaders_entries_wait_for_its_term_to_be_on_disk() -> None:
    cluster = deposed_alone()
    mark = len(cluster.sent)
    cluster.campaign("a")
    assert said(cluster, mark, "a", "append_entries", "l")
    assert cluster.broken == []


def test_what_waits_for_a_new_leader_waits_for_its_term_to_be_on_disk_too() -> None:
    """Commands that wait are sent ahead of what a leader applies, and not by its first step."""
    cluster = deposed_alone()
    written = cluster.propose("a", b"waits")
    assert written.pending
    cluster.campaign("a")
    cluster.run(0.3)
    assert written.ok
    assert cluster.state("l") == [b"waits"]
    assert cluster.broken == []


def test_next_entry_leaves_before_the_committed_one_is_applied() -> None:
    """The followers write it while the leader applies and answers: what it applies may take long."""
    cluster = Persisting("abc")
    cluster.limits = Limits(uncommitted_entries=1)
    cluster.restart("a")
    cluster.elect("a")
    cluster.run(0.3)
    machine, sent = cluster.machines["a"].engine.machine, []
    apply = machine.apply

    def watched(index: int, command: bytes, after: int | None = None) -> bytes:
        entries = [message for message in cluster.in_flight("a", "b", "append_entries") if message["entries"]]
        sent.append((command, [len(message["entries"]) for message in entries]))
        return apply(index, command, after)

    machine.apply = watched
    first = cluster.propose("a", b"first")
    cluster.tick("a")
    assert cluster.deliver("a", "b") == 1
    second = cluster.propose("a", b"second")  # waits until the first one is committed
    assert cluster.in_flight("a", "b", "append_entries") == []
    cluster.deliver("b", "a")
    assert sent == [(b"first", [1])]
    cluster.run(0.3)
    assert first.ok
    assert second.ok
    assert cluster.broken == []


# -- a failed replica ----------------------------------------------------------------------------


def fail_disk(cluster: OurCluster, name: str) -> Callable[[], None]:
    """Every commit of this node's journal fails, until what is returned is called."""
    store = cluster.machines[name].disk.store
    commit = store.commit

    def full(batch: object) -> None:
        raise StorageError("the disk is full: free space")

    store.commit = full

    def mend() -> None:
        store.commit = commit

    return mend


def test_failed_replica_neither_hears_nor_says_anything_more() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    mend = fail_disk(cluster, "b")
    cluster.propose("a", b"x2")
    cluster.run(0.3)
    mend()
    replica = cluster.replica("b")
    assert isinstance(replica.failed, StorageError)
    mark, term, log = len(cluster.sent), replica.term(), cluster.log("b")
    vote = {"type": "request_vote", "term": term + 1, "last_log_index": 99, "last_log_term": term}
    for message in (vote, append(term + 1, (2, 0), (NO_OP, 3, term + 1))):
        assert replica.receive("c", message)
        replica.tick()
    cluster.advance(30.0)
    replica.tick()
    assert (replica.term(), cluster.log("b")) == (term, log)
    assert [envelope for envelope in cluster.sent[mark:] if envelope.source == "b"] == []


def test_replica_that_failed_by_a_bug_is_silent_although_its_disk_works() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    replica = cluster.replica("b")
    replica.fail(InternalError("a bug"))
    mark, term = len(cluster.sent), replica.term()
    cluster.advance(30.0)
    replica.tick()
    assert replica.term() == term
    assert [envelope for envelope in cluster.sent[mark:] if envelope.source == "b"] == []


def test_failed_replica_answers_whoever_waits() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    reading = cluster.read("a")
    fail_disk(cluster, "a")
    writing = cluster.propose("a", b"x2")
    cluster.tick("a")
    assert isinstance(cluster.replica("a").failed, StorageError)
    assert isinstance(writing.error, OutcomeUnknown)  # it has been sent already
    assert isinstance(reading.error, StorageError)


# -- what a start finds on the disk --------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "snapshot"),
    [([], (3, 1)), (LOG[2:], None), (LOG[2:], (2, 1))],
    ids=["snapshot without journal", "journal without snapshot", "a gap between them"],
)
def test_start_refuses_a_journal_and_a_snapshot_that_do_not_fit(entries: Any, snapshot: Any) -> None:
    with pytest.raises(StorageError, match="join again under a new name"):
        start_with(entries, snapshot)


@pytest.mark.parametrize(
    ("snapshot", "left"),
    [((3, 1), LOG), ((3, 2), None), ((9, 1), None)],
    ids=["within the log", "another term", "behind the log"],
)
def test_start_takes_snapshot_and_what_fits_behind_it(snapshot: Any, left: Any) -> None:
    cluster = start_with(LOG, snapshot)
    assert cluster.log("a") == (left or [(NO_OP, *snapshot)])
    assert cluster.state("a") == [b"of the snapshot"]
    assert cluster.replica("a").applied_index() == snapshot[0]
    assert cluster.replica("a").commit_index() == snapshot[0]
    assert cluster.config("a") == set("abcd")
    assert cluster.replica("a").removed_peers() == {"x"}


def test_start_applies_what_the_snapshot_lacks_and_nothing_twice() -> None:
    cluster = start_with(LOG, (3, 1), commit=4)
    cluster.tick("a")
    assert cluster.machines["a"].applied == [(4, b"x2")]


@pytest.mark.parametrize("lack", [MemoryError(), RecursionError()], ids=["memory", "stack"])
def test_lack_of_memory_or_stack_while_applying_stops_that_node_and_no_other(lack: Exception) -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    machine = cluster.machines["b"].engine.machine
    apply = machine.apply

    def apply_without(index: int, command: bytes, after: int | None = None) -> bytes:
        raise lack

    machine.apply = apply_without
    cluster.write("a", b"x1")
    cluster.run(0.3)
    assert isinstance(cluster.replica("b").failed, InternalError)
    machine.apply = apply
    cluster.write("a", b"x2")
    assert cluster.state("c")[:1] == [b"x1"]
    assert cluster.state("b") == []


def test_disk_that_lost_its_tail_while_it_was_away_counts_for_nothing_that_it_held() -> None:
    """The entry is on a and was on b, which lost it: with c's it is on two disks of five, not three."""
    cluster = OurCluster("abcde")
    cluster.elect("a")
    cluster.run(0.3)
    for name in "cde":
        cluster.hold("a", name)
    cluster.propose("a", b"x1")
    for _ in range(3):
        cluster.tick("a", "b")
        cluster.exchange("a", "b")
    last = len(cluster.log("a"))
    assert len(cluster.log("b")) == last > cluster.commit_index("a")
    assert cluster.replica("a").acknowledged("b") == cluster.commit_index("a")  # no further than committed
    cluster.crash("b")
    cluster.lose_tail("b", last - 1)
    cluster.hold("a", "b")
    cluster.restart("b")
    cluster.tick("a")
    cluster.deliver("a", "c")
    cluster.exchange("c", "a")
    cluster.tick("a")
    assert len(cluster.log("c")) == last
    assert cluster.commit_index("a") < last


def test_commit_index_that_moved_alone_is_on_disk_within_two_seconds() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(2.2)
    for name in "abc":
        record = cluster.machines[name].disk.store.record()
        assert record.commit_index == cluster.commit_index("a") == len(cluster.log("a"))
