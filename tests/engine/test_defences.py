"""One story for each line of defence that no other test would miss.

`tests/mutants/catalogue` takes the lines away, one at a time.

More than 700 lines, because each section is a story of its own: nobody reads them in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cyoloctl.errors import (
    Conflict,
    CyoloctlError,
    InternalError,
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    StorageError,
)
from cyoloctl.model import RaftId, Stamp
from cyoloctl.raft.batch import decode_batch, encode_batch, stamp_of
from cyoloctl.raft.journal import Journal, MemoryStore
from cyoloctl.raft.replica import Replica
from cyoloctl.raft.settings import Limits
from cyoloctl.raft.snapshot import SnapshotMeta, SnapshotStore
from cyoloctl.raft.vendor import decode_membership, encode_membership
from tests.support.engine_harness import Machine, Outcome
from tests.support.raft_ours import OurCluster, append

pytestmark = pytest.mark.fault

NO_OP = b"\x01"


def entry(command: bytes) -> bytes:
    """The log entry of one command."""
    return encode_batch([(command, 2)], Stamp(0, 0, 0))


def hear(cluster: OurCluster, target: str, source: str, *messages: Any) -> None:
    """`target` gets these as if `source` had sent them, and ticks after each."""
    for message in messages:
        cluster.inject(target, source, message)
        cluster.tick(target)


def said(cluster: OurCluster, mark: int, source: str, kind: str, target: str | None = None) -> list[Any]:
    return [
        envelope.message
        for envelope in cluster.sent[mark:]
        if envelope.source == source
        and envelope.message["type"] == kind
        and target in (None, envelope.target)
    ]


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


def test_new_leaders_entries_wait_for_its_term_to_be_on_disk() -> None:
    """A single voter that a learner's answer deposed stands, wins and leads within one tick."""
    cluster = Persisting("a")
    cluster.start_joiner("l", "a")
    cluster.run(0.3)
    answer = {"type": "append_response", "term": 7, "next_index": 1, "reset": False, "success": False}
    hear(cluster, "a", "l", answer)
    assert not cluster.is_leader("a")
    mark = len(cluster.sent)
    cluster.campaign("a")
    assert said(cluster, mark, "a", "append_entries", "l")
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


def start_with(
    entries: list[tuple[bytes, int, int]], snapshot: tuple[int, int] | None, commit: int = 1
) -> OurCluster:
    """`a` starts with this log, and a snapshot that ends at this index and term."""
    cluster = OurCluster("abc")
    cluster.crash("a")
    disk = cluster.machines["a"].disk
    disk.store, disk.snapshots = MemoryStore(), SnapshotStore(None)
    journal = Journal(disk.store)
    for command, index, term in entries:
        journal.append(index, term, command)
    if entries:
        journal.set_term(entries[-1][2], None)
        journal.set_commit_index(commit)
    journal.close()
    if snapshot is not None:
        state = len(b"of the snapshot").to_bytes(4, "big") + b"of the snapshot"
        disk.snapshots.save(SnapshotMeta(*snapshot, tuple("abcd"), ("x",)), state)
    cluster.start("a")
    return cluster


LOG = [(NO_OP, 1, 0), (NO_OP, 2, 1), (entry(b"x1"), 3, 1), (entry(b"x2"), 4, 1)]


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


# -- what is told of requests that are given up ------------------------------------------------------


def give_up(cluster: OurCluster, name: str) -> None:
    cluster.replica(name).abandon(NoLeader("the node is stopping"))


def test_abandoned_write_that_never_left_is_told_the_reason() -> None:
    cluster = OurCluster("abc")
    waiting = cluster.propose("a", b"x1")
    cluster.tick("a")
    give_up(cluster, "a")
    assert isinstance(waiting.error, NoLeader)
    assert waiting.calls == 1


def test_abandoned_write_in_the_leaders_log_is_unknown() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    waiting = cluster.propose("a", b"x1")
    cluster.tick("a")
    give_up(cluster, "a")
    assert isinstance(waiting.error, OutcomeUnknown)
    assert waiting.calls == 1


def test_abandoned_write_on_its_way_to_the_leader_is_unknown() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    waiting = cluster.propose("b", b"x1")
    cluster.tick("b")
    assert cluster.in_flight("b", "a", "forward")
    give_up(cluster, "b")
    assert isinstance(waiting.error, OutcomeUnknown)
    assert waiting.calls == 1


def test_abandoned_read_and_transfer_are_told_the_reason_and_a_membership_change_is_unknown() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    for name in "bc":
        cluster.hold("a", name)
    reading, asking = cluster.read("a"), cluster.read("b")
    change = cluster.remove("a", "c")
    transfer = cluster.transfer("a", "b")
    cluster.tick("a", "b")
    give_up(cluster, "a")
    give_up(cluster, "b")
    assert [type(outcome.error) for outcome in (reading, asking, transfer)] == [NoLeader] * 3
    assert isinstance(change.error, OutcomeUnknown)


# -- reads ---------------------------------------------------------------------------------------


def test_follower_confirms_a_read_for_its_own_leader_in_its_own_term_only() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    term = cluster.term("b")
    mark = len(cluster.sent)
    hear(cluster, "b", "c", {"type": "read_confirm", "seq": 1, "term": term})
    hear(cluster, "b", "a", {"type": "read_confirm", "seq": 2, "term": term - 1})
    hear(cluster, "b", "a", {"type": "read_confirm", "seq": 3, "term": term + 1})
    assert said(cluster, mark, "b", "read_confirmed") == []
    hear(cluster, "b", "a", {"type": "read_confirm", "seq": 4, "term": term})
    assert [message["seq"] for message in said(cluster, mark, "b", "read_confirmed", "a")] == [4]


def asked_round(cluster: OurCluster) -> tuple[Outcome, dict[str, Any]]:
    """`a` leads and has asked the voters about a read; nothing of it arrives."""
    cluster.elect("a")
    cluster.run(0.3)
    for name in cluster.machines:
        cluster.hold("a", name)
    mark = len(cluster.sent)
    reading = cluster.read("a")
    cluster.tick("a")
    return reading, said(cluster, mark, "a", "read_confirm")[0]


@pytest.mark.parametrize(
    ("source", "changed"),
    [("b", {"seq": -1}), ("b", {"term": -1}), ("l", {})],
    ids=["of another round", "of another term", "of a learner"],
)
def test_read_is_served_by_no_confirmation_but_a_voters_of_this_round(
    source: str, changed: dict[str, int]
) -> None:
    cluster = OurCluster("abc")
    cluster.start_joiner("l", "abc")
    reading, question = asked_round(cluster)
    confirmed = {"type": "read_confirmed", "seq": question["seq"], "term": question["term"]}
    wrong = {**confirmed, **{field: confirmed[field] + by for field, by in changed.items()}}
    hear(cluster, "a", source, wrong)
    assert reading.pending
    hear(cluster, "a", "b", confirmed)
    assert reading.ok


def test_reads_of_peers_are_bounded_at_the_leader() -> None:
    cluster = OurCluster("abc", limits=Limits(pending_reads=3))
    cluster.elect("a")
    cluster.run(0.3)
    for name in "bc":
        cluster.hold("a", name)
    mark = len(cluster.sent)
    for number in range(6):  # within one turn
        cluster.inject("a", "b", {"type": "read_index", "id": number})
    cluster.tick("a")
    refused = said(cluster, mark, "a", "read_index_result", "b")
    assert [(message["id"], message["index"]) for message in refused] == [(3, None), (4, None), (5, None)]


def test_reads_are_bounded() -> None:
    cluster = OurCluster("abc", limits=Limits(pending_reads=3))
    errors: list[CyoloctlError | None] = []
    for _ in range(5):
        cluster.replica("a").read(lambda index, error: errors.append(error))
    assert [type(error) for error in errors] == [Overloaded, Overloaded]


# -- applying ------------------------------------------------------------------------------------


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


def test_time_of_an_entry_is_applied_before_its_commands_and_shown() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    _, last, term = cluster.log("b")[-1]
    late = (encode_batch([(b"x1", 2)], LATE), last + 1, term)
    hear(cluster, "b", "a", append(term, (last, term), late, commit=last + 1))
    assert cluster.state("b") == [b"x1"]
    assert cluster.machines["b"].engine.machine.stamp() == LATE
    assert cluster.cluster_clock("b").told() == (0, LATE.time_unix_ms)


def test_writes_that_wait_are_bounded() -> None:
    cluster = OurCluster("abc", limits=Limits(pending_commands=3))
    outcomes = [cluster.propose("a", b"x%d" % number) for number in range(5)]
    assert [type(outcome.error) for outcome in outcomes[3:]] == [Overloaded, Overloaded]
    assert all(outcome.pending for outcome in outcomes[:3])


def test_log_of_a_leader_without_a_majority_is_bounded() -> None:
    cluster = OurCluster("abc")
    cluster.limits = Limits(uncommitted_entries=2)
    cluster.restart("a")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.isolate("a")
    before = len(cluster.log("a"))
    for number in range(10):
        cluster.propose("a", b"x%d" % number)
        cluster.tick("a")
    assert len(cluster.log("a")) == before + 2


def test_command_that_no_frame_could_carry_is_refused() -> None:
    cluster = OurCluster("abc", limits=Limits(entry_bytes=1000))
    assert isinstance(cluster.propose("a", b"x" * 937).error, InternalError)
    assert cluster.propose("a", b"x" * 936).pending


# -- what a follower believes ----------------------------------------------------------------------


def follower_with_log(commit: int) -> OurCluster:
    """`b` holds `LOG`, of term 1, committed up to this index; `c` will lead term 2."""
    cluster = OurCluster("abc")
    hear(cluster, "b", "a", append(1, (1, 0), *LOG[1:], commit=commit))
    assert cluster.log("b") == LOG
    assert cluster.commit_index("b") == commit
    return cluster


def test_follower_commits_no_further_than_a_message_has_shown_to_match() -> None:
    cluster = follower_with_log(commit=2)
    hear(cluster, "b", "c", append(2, (2, 1), commit=4))  # 3 and 4 of that leader are others
    assert cluster.commit_index("b") == 2
    assert cluster.state("b") == []
    hear(cluster, "b", "c", append(2, (3, 1), commit=4))
    assert cluster.commit_index("b") == 3


def test_follower_acknowledges_no_further_than_a_message_has_shown_to_match() -> None:
    cluster = follower_with_log(commit=2)
    mark = len(cluster.sent)
    hear(cluster, "b", "c", append(2, (2, 1), commit=2), append(2, (2, 1), LOG[2], commit=2))
    answers = said(cluster, mark, "b", "append_response", "c")
    assert [(answer["success"], answer["next_index"]) for answer in answers] == [(True, 3), (True, 4)]


def test_message_that_arrives_late_cuts_nothing_that_matches() -> None:
    cluster = follower_with_log(commit=2)
    hear(cluster, "b", "a", append(1, (2, 1), LOG[2], commit=2), append(1, (1, 0), LOG[1], commit=2))
    assert cluster.log("b") == LOG


def test_message_of_an_earlier_term_changes_nothing_and_its_sender_is_told_the_term() -> None:
    cluster = follower_with_log(commit=2)
    hear(cluster, "b", "c", append(3, (4, 1), commit=2))
    mark = len(cluster.sent)
    hear(cluster, "b", "a", append(2, (2, 1), (NO_OP, 3, 2), commit=3))
    assert (cluster.log("b"), cluster.commit_index("b")) == (LOG, 2)
    assert cluster.replica("b").leader() == "c"
    (answer,) = said(cluster, mark, "b", "append_response", "a")
    assert (answer["term"], answer["success"]) == (3, False)


def test_leader_obeys_nobody_who_claims_to_lead_in_its_own_term() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    log, term, mark = cluster.log("a"), cluster.term("a"), len(cluster.sent)
    hear(cluster, "a", "b", append(term, (1, 0), (entry(b"lie"), 2, term)))
    assert cluster.is_leader("a")
    assert cluster.log("a") == log
    assert said(cluster, mark, "a", "append_response") == []


@pytest.mark.parametrize(
    "entries",
    [[(NO_OP, 3, 2)], [LOG[2], (NO_OP, 4, 2)]],
    ids=["the first entry", "a later one"],
)
def test_log_that_contradicts_what_is_committed_changes_nothing(entries: Any) -> None:
    cluster = follower_with_log(commit=4)
    mark = len(cluster.sent)
    hear(cluster, "b", "c", append(2, (2, 1), *entries, commit=2))
    assert cluster.log("b") == LOG
    assert cluster.term("b") == 1
    assert said(cluster, mark, "b", "append_response") == []
    assert cluster.replica("b").disputed == ("c", 2, entries[-1][1])


# -- cluster time --------------------------------------------------------------------------------

LATE = Stamp(0, 1_780_000_000_000 + 3_600_000, 7_200_000)


def test_time_after_a_start_is_that_of_the_committed_log() -> None:
    log = [*LOG, (encode_batch([(b"x3", 4)], LATE), 5, 1)]
    assert start_with(log, (3, 1), commit=5).cluster_clock("a").told() == (0, LATE.time_unix_ms)
    assert start_with(log, (3, 1), commit=4).cluster_clock("a").told()[1] < LATE.time_unix_ms


def test_leader_begins_from_the_latest_stamp_of_its_log_committed_or_not() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    (_, last, term) = cluster.log("b")[-1]
    hear(cluster, "b", "a", append(term, (last, term), (encode_batch([(b"x1", 2)], LATE), last + 1, term)))
    cluster.isolate("a")
    cluster.elect("b", "c")
    cluster.propose("b", b"x2")
    cluster.tick("b")
    stamp = stamp_of(cluster.log("b")[-1][0])
    assert stamp is not None
    assert stamp.moment >= LATE.moment
    assert stamp.steady_ms >= LATE.steady_ms


def test_time_is_the_leaders_to_say() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    told = {"wall_unix_ms": 1_780_000_000_000, "trip_s": 0.01, "epoch": 3, "unix_ms": LATE.time_unix_ms}
    for peer, shown in (("c", 0), ("a", 3)):
        cluster.replica("b").peer_clocks(peer, **told)
        assert cluster.cluster_clock("b").told()[0] == shown


def test_clock_of_a_peer_that_is_gone_is_forgotten() -> None:
    cluster = OurCluster("abc")
    cluster.replica("a").peer_clocks("b", wall_unix_ms=LATE.time_unix_ms, trip_s=0.01, epoch=0, unix_ms=0)
    assert set(cluster.cluster_clock("a").walls()) == {"a", "b"}
    cluster.disconnect("a", "b")
    assert set(cluster.cluster_clock("a").walls()) == {"a"}


def test_deposed_leader_follows_the_time_of_the_next_one() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.elect("b", "c")
    cluster.run(0.3)
    assert cluster.replica("a").leader() == "b"
    cluster.replica("a").peer_clocks("b", wall_unix_ms=0, trip_s=0.01, epoch=3, unix_ms=LATE.time_unix_ms)
    assert cluster.cluster_clock("a").told()[0] == 3


# -- links ---------------------------------------------------------------------------------------


def test_node_that_lost_its_leader_vetoes_nobody() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    question = {"type": "pre_vote", "term": cluster.term("b") + 1, "last_log_index": 9, "last_log_term": 9}
    mark = len(cluster.sent)
    hear(cluster, "b", "c", question)
    cluster.cut("a", "b")
    hear(cluster, "b", "c", question)
    assert [answer["granted"] for answer in said(cluster, mark, "b", "pre_vote_response")] == [False, True]


def test_refusal_of_a_snapshot_is_forgotten_with_the_link() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    cluster.isolate("c")
    cluster.write("a", b"x2")
    cluster.compact("a")
    mark = len(cluster.sent)
    cluster.heal()
    cluster.tick("a")
    assert cluster.run_until(lambda: said(cluster, mark, "a", "snapshot_chunk", "c") != [], within=1.0)
    chunk = said(cluster, mark, "a", "snapshot_chunk", "c")[0]
    refused = {
        "type": "snapshot_refused",
        "term": chunk["term"],
        "digest": chunk["digest"],
        "reason": "newer",
    }
    cluster.hold("a", "c")
    hear(cluster, "a", "c", refused)
    assert [trouble.code for trouble in cluster.replica("a").status().troubles] == ["snapshot_refused"]
    cluster.disconnect("a", "c")
    cluster.connect("a", "c")
    assert cluster.replica("a").status().troubles == ()


def test_message_of_a_peer_without_a_link_changes_nothing() -> None:
    cluster = OurCluster("abc")
    cluster.disconnect("a", "b")
    assert not cluster.replica("b").receive("a", append(5, (1, 0), LOG[1]))
    cluster.tick("b")
    assert (cluster.term("b"), cluster.log("b")) == (0, LOG[:1])


def test_heartbeat_claims_nothing_about_the_log() -> None:
    cluster = follower_with_log(commit=2)
    mark = len(cluster.sent)
    hear(cluster, "b", "c", {"type": "heartbeat", "term": 2})
    (answer,) = said(cluster, mark, "b", "append_response", "c")
    assert not answer["success"]
    assert cluster.commit_index("b") == 2


def test_follower_whose_leader_closed_its_link_asks_for_an_election_at_once() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.patience["b"] = 0.9
    mark = len(cluster.sent)
    cluster.isolate("a")
    cluster.run(0.2)
    assert said(cluster, mark, "b", "pre_vote", "c")


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


# -- members and leaders that change -----------------------------------------------------------


def test_forwarded_write_goes_to_the_next_leader_although_the_link_with_the_last_one_holds() -> None:
    cluster = OurCluster("abc")
    hear(cluster, "b", "a", append(1, (1, 0)))
    cluster.propose("b", b"x1")
    cluster.tick("b")
    mark = len(cluster.sent)
    hear(cluster, "b", "c", append(2, (1, 0)))
    assert [message["commands"] for message in said(cluster, mark, "b", "forward", "c")] == [[b"x1"]]


def test_configuration_that_left_the_log_holds_no_more() -> None:
    cluster = OurCluster("abc")
    demotion = (encode_membership("demote", RaftId("c")), 3, 1)
    hear(cluster, "b", "a", append(1, (1, 0), LOG[1], demotion))
    assert cluster.config("b") == {"a", "b"}
    hear(cluster, "b", "c", append(2, (2, 1), (NO_OP, 3, 2)))
    assert cluster.config("b") == {"a", "b", "c"}


def test_snapshot_takes_the_place_of_configurations_that_were_logged_behind_it() -> None:
    cluster = OurCluster("abc")
    demotion = (encode_membership("demote", RaftId("c")), 3, 1)
    hear(cluster, "b", "a", append(1, (1, 0), LOG[1], demotion))
    membership = cluster.replica("b")._membership
    membership.replace(SnapshotMeta(2, 1, tuple("abc"), ()))
    membership.reconfigure()
    assert cluster.config("b") == {"a", "b", "c"}


def test_deposed_leader_no_longer_takes_a_removed_node_for_a_learner() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.hold("a", "c")
    removal = cluster.remove("a", "c")
    assert cluster.run_until(lambda: removal.ok, within=1.0)
    assert cluster.replica("a").status().learners == ("c",)  # until it knows
    answer = {"type": "append_response", "term": 9, "next_index": 1, "reset": False, "success": False}
    hear(cluster, "a", "b", answer)
    assert not cluster.is_leader("a")
    assert cluster.replica("a").status().learners == ()


def test_demotion_that_leaves_no_live_majority_is_refused() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.isolate("c")
    cluster.run(2.0, reconnect=False)
    assert isinstance(cluster.demote("a", "b").error, Conflict)
    assert cluster.config("a") == {"a", "b", "c"}


def test_membership_does_not_change_while_leadership_is_handed_over() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.hold("a", "b")
    assert cluster.transfer("a", "b").pending
    change = cluster.demote("a", "c")
    assert isinstance(change.error, Conflict)
    assert "transferred" in str(change.error)


# -- elections -----------------------------------------------------------------------------------


def test_each_election_needs_a_pre_vote_of_its_own() -> None:
    cluster = OurCluster("abc")
    cluster.campaign("b")
    cluster.deliver("b", "c")  # the question
    cluster.deliver("c", "b")  # granted: b stands for election
    assert cluster.term("b") == 1
    for name in "ac":
        cluster.hold("b", name)
    mark = len(cluster.sent)
    cluster.campaign("b")
    cluster.tick("b")
    assert said(cluster, mark, "b", "pre_vote", "c")
    assert cluster.term("b") == 1


def test_leader_vetoes_an_election_against_itself() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    mark = len(cluster.sent)
    question = {"type": "pre_vote", "term": cluster.term("a") + 1, "last_log_index": 9, "last_log_term": 9}
    hear(cluster, "a", "c", question)
    assert [answer["granted"] for answer in said(cluster, mark, "a", "pre_vote_response")] == [False]


def asked_at_term_1() -> OurCluster:
    """`b` has asked whether it would win an election of term 1; nobody has answered."""
    cluster = OurCluster("abc")
    for name in "ac":
        cluster.hold("b", name)
    cluster.campaign("b")
    return cluster


def test_pre_vote_for_another_term_elects_nobody() -> None:
    cluster = asked_at_term_1()
    hear(cluster, "b", "c", {"type": "pre_vote_response", "term": 2, "granted": True})
    assert cluster.term("b") == 0
    hear(cluster, "b", "c", {"type": "pre_vote_response", "term": 1, "granted": True})
    assert cluster.term("b") == 1


def test_vote_of_a_learner_elects_nobody() -> None:
    cluster = asked_at_term_1()
    cluster.start_joiner("l", "abc")
    hear(cluster, "b", "c", {"type": "pre_vote_response", "term": 1, "granted": True})
    hear(cluster, "b", "l", {"type": "vote_response", "term": 1})
    assert not cluster.is_leader("b")
    hear(cluster, "b", "c", {"type": "vote_response", "term": 1})
    assert cluster.is_leader("b")


def test_question_that_was_open_when_the_leader_was_heard_again_is_void() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    for name in "ac":
        cluster.hold("b", name)
    cluster.campaign("b")
    term = cluster.term("b")
    last, last_term = cluster.log("b")[-1][1:]
    hear(cluster, "b", "a", append(term, (last, last_term), commit=last))
    hear(cluster, "b", "c", {"type": "pre_vote_response", "term": term + 1, "granted": True})
    assert cluster.term("b") == term
    assert cluster.replica("b").leader() == "a"


@pytest.mark.parametrize(
    ("term", "index", "last_term", "granted"),
    [(3, 4, 1, True), (3, 9, 1, True), (3, 3, 1, False), (3, 9, 0, False), (3, 3, 2, True), (2, 4, 1, False)],
    ids=["equal log", "longer", "shorter", "longer of an older term", "shorter of a later term", "own term"],
)
def test_pre_vote_is_for_a_later_term_and_a_log_that_lacks_nothing(
    term: int, index: int, last_term: int, granted: bool
) -> None:
    cluster = follower_with_log(commit=2)
    hear(cluster, "b", "a", append(2, (4, 1), commit=2))
    cluster.advance(2.0)
    mark = len(cluster.sent)
    hear(
        cluster,
        "b",
        "c",
        {"type": "pre_vote", "term": term, "last_log_index": index, "last_log_term": last_term},
    )
    assert [answer["granted"] for answer in said(cluster, mark, "b", "pre_vote_response", "c")] == [granted]


# -- what a leader sends -------------------------------------------------------------------------


def leader_and_slow_peer(**limits: int) -> OurCluster:
    """`a` leads; from now on nothing that it sends to `c` arrives."""
    cluster = OurCluster("abc", limits=Limits(keep_entries=1000, **limits))
    cluster.elect("a")
    cluster.write("a", b"first")
    cluster.run(0.3)
    cluster.hold("a", "c")
    return cluster


def entry_bytes(messages: list[Any]) -> list[int]:
    return [sum(len(command) for command, _, _ in message["entries"]) for message in messages]


def test_slow_peer_is_sent_a_window_and_no_more_and_hears_its_leader_all_the_same() -> None:
    cluster = leader_and_slow_peer(batch_bytes=300, window_bytes=1000)
    mark = len(cluster.sent)
    for number in range(40):
        cluster.propose("a", b"%03d" % number + b"x" * 100)
        cluster.tick("a", "b")
        cluster.exchange("a", "b")
    sent = said(cluster, mark, "a", "append_entries", "c")
    assert 700 < sum(entry_bytes(sent)) <= 1300
    assert all(size <= 300 for size in entry_bytes(sent))
    before = len(sent)
    cluster.run(1.0)
    assert len(said(cluster, mark, "a", "append_entries", "c")) >= before + 5
    cluster.release("a", "c")
    cluster.run(1.0)
    assert cluster.state("c") == cluster.state("a")
    assert all(size <= 300 for size in entry_bytes(said(cluster, mark, "a", "append_entries", "c")))


def test_probe_is_sent_once_until_it_is_answered() -> None:
    cluster = leader_and_slow_peer()
    cluster.disconnect("a", "c")
    mark = len(cluster.sent)
    cluster.connect("a", "c")
    for number in range(5):
        cluster.propose("a", b"%d" % number)
        cluster.tick("a")
    with_entries = [size for size in entry_bytes(said(cluster, mark, "a", "append_entries", "c")) if size]
    assert len(with_entries) <= 1


def test_acknowledgement_of_what_was_never_sent_counts_for_nothing() -> None:
    cluster = leader_and_slow_peer()
    last = len(cluster.log("a"))
    lie = {
        "type": "append_response",
        "term": cluster.term("a"),
        "next_index": 99,
        "reset": False,
        "success": True,
    }
    hear(cluster, "a", "c", lie)
    assert cluster.replica("a").status().match["c"] <= last
    cluster.write("a", b"next")
    assert cluster.errors("a") == []


def test_leader_that_told_its_idle_followers_of_a_commit_sleeps_until_the_next_heartbeat() -> None:
    cluster = leader_and_slow_peer()
    cluster.release("a", "c")
    cluster.run(0.3)
    mark = len(cluster.sent)
    cluster.propose("a", b"next")
    for _ in range(3):
        cluster.tick()
        cluster.exchange()
    told = len(said(cluster, mark, "a", "append_entries", "c"))
    for _ in range(3):
        cluster.advance(cluster.timing.commit_notice_s)
        cluster.tick("a")
        cluster.exchange()
    assert cluster.commit_index("c") == cluster.commit_index("a") == len(cluster.log("a"))
    assert len(said(cluster, mark, "a", "append_entries", "c")) == told + 1
    assert cluster.replica("a").next_deadline() > cluster.now + cluster.skew["a"] + 0.001


def test_new_leadership_knows_no_acknowledgement() -> None:
    cluster = leader_and_slow_peer()
    assert cluster.replica("a").acknowledged("b") > 0
    cluster.release("a", "c")
    cluster.elect("b", "c")
    cluster.run(0.3)
    cluster.elect("a", "c")
    assert cluster.replica("a").acknowledged("b") == 0


def test_removed_node_that_acknowledged_its_removal_is_told_that_it_is_committed() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.hold("c", "a")
    removal = cluster.remove("a", "c")
    for _ in range(4):  # no time for a heartbeat
        cluster.tick()
        cluster.exchange()
    assert removal.ok
    mark = len(cluster.sent)
    cluster.release("c", "a")
    cluster.exchange("c", "a", rounds=2)
    for _ in range(3):
        cluster.tick()
        cluster.exchange()
    assert len(said(cluster, mark, "a", "append_entries", "c")) >= 1
    assert "c" in cluster.replica("c").removed_peers()


# -- reads that wait --------------------------------------------------------------------------------


def test_read_counts_confirmations_of_present_voters_only() -> None:
    cluster = OurCluster("abcde")
    reading, question = asked_round(cluster)
    confirmed = {"type": "read_confirmed", "seq": question["seq"], "term": question["term"]}
    hear(cluster, "a", "d", confirmed)
    engine = cluster.replica("a")._core.engine
    engine.set_others({node for node in engine.others() if node.id != "d"})
    hear(cluster, "a", "b", confirmed)
    assert reading.pending
    hear(cluster, "a", "c", confirmed)
    assert reading.ok


def test_read_waits_until_its_index_is_applied_here() -> None:
    cluster = follower_with_log(commit=2)
    hear(cluster, "b", "a", append(1, (4, 1), commit=2))
    mark = len(cluster.sent)
    reading = cluster.read("b")
    cluster.tick("b")
    (question,) = said(cluster, mark, "b", "read_index", "a")
    hear(cluster, "b", "a", {"type": "read_index_result", "id": question["id"], "index": 4})
    assert reading.pending
    hear(cluster, "b", "a", append(1, (4, 1), commit=4))
    assert reading.ok
    assert reading.result == 4


def asking(cluster: OurCluster) -> tuple[Outcome, dict[str, Any]]:
    """`b` follows `a` and has asked it for an index."""
    hear(cluster, "b", "a", append(1, (4, 1), commit=4))
    mark = len(cluster.sent)
    reading = cluster.read("b")
    cluster.tick("b")
    return reading, said(cluster, mark, "b", "read_index", "a")[0]


def test_read_is_served_by_the_node_that_was_asked_only() -> None:
    cluster = follower_with_log(commit=2)
    reading, question = asking(cluster)
    hear(cluster, "b", "c", {"type": "read_index_result", "id": question["id"], "index": 1})
    hear(cluster, "b", "a", {"type": "read_index_result", "id": question["id"] - 1, "index": 1})
    assert reading.pending
    hear(cluster, "b", "a", {"type": "read_index_result", "id": question["id"], "index": 4})
    assert reading.ok


def test_question_that_is_not_answered_is_asked_again() -> None:
    cluster = follower_with_log(commit=2)
    reading, question = asking(cluster)
    mark = len(cluster.sent)
    for _ in range(4):
        cluster.advance(0.2)
        hear(cluster, "b", "a", append(1, (4, 1), commit=4))
    again = said(cluster, mark, "b", "read_index", "a")
    assert again
    assert again[0]["id"] != question["id"]
    hear(cluster, "b", "a", {"type": "read_index_result", "id": again[-1]["id"], "index": 4})
    assert reading.ok


# -- commands of peers ---------------------------------------------------------------------------


def forward(identifier: int, *commands: bytes, after: int = 2) -> dict[str, Any]:
    return {"type": "forward", "id": identifier, "commands": list(commands), "after": [after] * len(commands)}


def leader_with_learner(**limits: int) -> OurCluster:
    cluster = OurCluster("abc", limits=Limits(**limits))
    cluster.elect("a")
    cluster.start_joiner("l", "abc")
    cluster.run(0.3)
    return cluster


def test_leader_admits_what_a_peer_may_propose_in_its_own_role() -> None:
    cluster = leader_with_learner()
    asked: list[tuple[bytes, str, str]] = []

    def admit(command: bytes, peer: str, role: str) -> bytes | None:
        asked.append((command, peer, role))
        return b"refused" if role == "learner" else None

    cluster.machines["a"].engine.machine.admit = admit
    mark = len(cluster.sent)
    hear(cluster, "a", "l", forward(1, b"of l"))
    hear(cluster, "a", "b", forward(2, b"of b"))
    assert asked == [(b"of l", "l", "learner"), (b"of b", "b", "voter")]
    (answer,) = said(cluster, mark, "a", "forward_result", "l")
    assert (answer["results"], answer["error"]) == ([b"refused"], None)
    logged = [command for item, _, _ in cluster.log("a") for command, _ in decode_batch(item)]
    assert logged == [b"of b"]


def test_place_of_a_forwarded_command_is_logged_with_it() -> None:
    cluster = leader_with_learner()
    hear(cluster, "a", "b", forward(1, b"x1", after=1))
    assert decode_batch(cluster.log("a")[-1][0]) == [(b"x1", 1)]


def test_one_command_that_cannot_be_logged_leaves_no_answer_a_success() -> None:
    cluster = leader_with_learner(entry_bytes=1000)
    mark = len(cluster.sent)
    hear(cluster, "a", "b", forward(1, b"x1", b"x" * 937))
    cluster.run(0.3)
    (answer,) = said(cluster, mark, "a", "forward_result", "b")
    assert (answer["results"], answer["error"]) == ([], "not_leader")
    assert cluster.state("a") == [b"x1"]


def test_peers_commands_that_wait_at_a_deposed_leader_are_given_back() -> None:
    cluster = leader_with_learner()
    for name in "bc":
        cluster.hold("a", name)
    transfer = cluster.transfer("a", "b")  # so that they wait
    mark = len(cluster.sent)
    hear(cluster, "a", "c", forward(1, b"x1"))
    assert transfer.pending
    deposing = {"type": "append_response", "term": 9, "next_index": 1, "reset": False, "success": False}
    hear(cluster, "a", "b", deposing)
    (answer,) = said(cluster, mark, "a", "forward_result", "c")
    assert (answer["results"], answer["error"]) == ([], "not_leader")


def forwarded(cluster: OurCluster, *commands: bytes) -> tuple[list[Outcome], dict[str, Any]]:
    """`b` follows `a` and has forwarded these commands."""
    hear(cluster, "b", "a", append(1, (4, 1), commit=4))
    outcomes = [cluster.propose("b", command) for command in commands]
    mark = len(cluster.sent)
    cluster.tick("b")
    return outcomes, said(cluster, mark, "b", "forward", "a")[0]


def result(message: dict[str, Any], *results: bytes, last: bool = True, error: str | None = None) -> Any:
    return {
        "type": "forward_result",
        "id": message["id"],
        "results": list(results),
        "last": last,
        "error": error,
    }


def test_write_is_answered_by_the_leader_that_was_asked_only() -> None:
    cluster = follower_with_log(commit=2)
    (outcome,), message = forwarded(cluster, b"x3")
    hear(cluster, "b", "c", result(message, b"lie"))
    assert outcome.pending
    hear(cluster, "b", "a", result(message, b"3"))
    assert outcome.result == b"3"


def test_refusal_at_the_door_is_no_answer_to_a_write_that_was_sent_before() -> None:
    cluster = follower_with_log(commit=2)
    (first,), message = forwarded(cluster, b"x3")
    hear(cluster, "b", "a", result(message, b"refused"))
    assert first.result == b"refused"
    (second,), _ = forwarded(cluster, b"x4")
    mark = len(cluster.sent)
    cluster.disconnect("a", "b")
    cluster.connect("a", "b")
    hear(cluster, "b", "a", append(1, (4, 1), commit=4))
    (again,) = said(cluster, mark, "b", "forward", "a")
    hear(cluster, "b", "a", result(again, b"refused"))
    assert isinstance(second.error, OutcomeUnknown)


@pytest.mark.parametrize(
    ("results", "last"), [([b"3"], True), ([b"3", b"4", b"5"], False)], ids=["too few", "without end"]
)
def test_results_that_do_not_fit_answer_nothing_and_the_writes_are_sent_again(
    results: list[bytes], last: bool
) -> None:
    cluster = follower_with_log(commit=2)
    outcomes, message = forwarded(cluster, b"x3", b"x4")
    mark = len(cluster.sent)
    hear(cluster, "b", "a", result(message, *results, last=last))
    assert all(outcome.pending for outcome in outcomes)
    cluster.advance(1.0)
    hear(cluster, "b", "a", append(1, (4, 1), commit=4))
    (again,) = said(cluster, mark, "b", "forward", "a")
    assert again["commands"] == [b"x3", b"x4"]


def test_leader_that_could_not_place_a_write_is_asked_again_after_a_pause() -> None:
    cluster = follower_with_log(commit=2)
    _, message = forwarded(cluster, b"x3")
    mark = len(cluster.sent)
    hear(cluster, "b", "a", result(message, error="not_leader"))
    for _ in range(3):
        cluster.tick("b")
    assert said(cluster, mark, "b", "forward") == []
    cluster.advance(cluster.timing.transfer_retry_s)
    cluster.tick("b")
    assert len(said(cluster, mark, "b", "forward", "a")) == 1


# -- handing leadership over -----------------------------------------------------------------------


def test_target_of_a_handover_is_asked_once_it_holds_everything_and_again_until_it_leads() -> None:
    cluster = leader_and_slow_peer()
    cluster.propose("a", b"x1")
    cluster.tick("a")
    mark = len(cluster.sent)
    cluster.transfer("a", "c")
    cluster.tick("a")
    assert said(cluster, mark, "a", "timeout_now") == []
    cluster.deliver("a", "c")
    cluster.exchange("c", "a")
    for _ in range(4):
        cluster.advance(cluster.timing.transfer_retry_s)
        cluster.tick("a")
    assert len(said(cluster, mark, "a", "timeout_now", "c")) >= 3


def test_handover_goes_to_the_voter_that_holds_most() -> None:
    cluster = leader_and_slow_peer()
    cluster.write("a", b"x1")
    mark = len(cluster.sent)
    cluster.transfer("a", None)
    cluster.tick("a")
    assert said(cluster, mark, "a", "timeout_now", "b")


def test_second_handover_is_refused_while_one_goes_on() -> None:
    cluster = leader_and_slow_peer()
    first, second = cluster.transfer("a", "c"), cluster.transfer("a", "b")
    assert first.pending
    assert isinstance(second.error, Conflict)


# -- who may become a voter, and what a change is worth --------------------------------------------


def test_learner_without_a_link_is_not_made_a_voter() -> None:
    cluster = leader_with_learner()
    cluster.disconnect("a", "l")
    assert "not connected" in str(cluster.add("a", "l").error)
    assert cluster.config("a") == set("abc")


def test_voter_that_has_been_silent_does_not_count_as_reachable() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.hold("c", "a")  # the link holds, and nothing comes
    cluster.run(2.0)
    assert cluster.is_leader("a")
    assert isinstance(cluster.remove("a", "b").error, Conflict)


def test_membership_change_that_another_leader_replaced_is_no_success() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    outcome = Outcome("a", b"remove c")
    membership = cluster.replica("a")._membership
    index = len(cluster.log("a")) + 1
    membership._waiting[index] = (
        cluster.term("a") - 1,
        lambda result, error: outcome.settle(error is None, result, error),
    )
    cluster.write("a", b"x1")
    membership.apply(index)
    assert isinstance(outcome.error, NoLeader)


def test_handover_to_a_voter_without_a_link_is_refused() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.cut("a", "c")
    assert isinstance(cluster.transfer("a", "c").error, Conflict)


# -- peers that come and go ------------------------------------------------------------------------


def test_reads_ask_the_next_leader_when_the_link_with_the_last_one_broke() -> None:
    cluster = follower_with_log(commit=2)
    reading, _ = asking(cluster)
    cluster.disconnect("a", "b")
    mark = len(cluster.sent)
    hear(cluster, "b", "c", append(2, (4, 1), commit=4))
    (question,) = said(cluster, mark, "b", "read_index", "c")
    hear(cluster, "b", "c", {"type": "read_index_result", "id": question["id"], "index": 4})
    assert reading.ok


def test_reads_ask_again_at_once_in_a_new_link_with_the_leader() -> None:
    cluster = follower_with_log(commit=2)
    reading, _ = asking(cluster)
    cluster.disconnect("a", "b")
    cluster.connect("a", "b")
    mark = len(cluster.sent)
    hear(cluster, "b", "a", append(1, (4, 1), commit=4))
    (question,) = said(cluster, mark, "b", "read_index", "a")
    hear(cluster, "b", "a", {"type": "read_index_result", "id": question["id"], "index": 4})
    assert reading.ok


def test_peer_is_told_the_commit_index_that_its_read_waits_for() -> None:
    cluster = OurCluster("ab")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.propose("a", b"x1")
    cluster.tick("a")
    cluster.exchange()
    mark = len(cluster.sent)
    cluster.inject("a", "b", {"type": "read_index", "id": 7})
    for _ in range(3):  # no time for a heartbeat or a notice
        cluster.tick("a", "b")
        cluster.exchange()
    (answer,) = said(cluster, mark, "a", "read_index_result", "b")
    assert answer["index"] == len(cluster.log("a"))
    assert cluster.commit_index("b") == answer["index"]


def test_node_that_does_not_lead_relays_nobodys_commands() -> None:
    cluster = follower_with_log(commit=2)
    hear(cluster, "b", "a", append(1, (4, 1), commit=2))
    mark = len(cluster.sent)
    hear(cluster, "b", "c", forward(1, b"x1"))
    (answer,) = said(cluster, mark, "b", "forward_result", "c")
    assert (answer["results"], answer["error"]) == ([], "not_leader")
    assert said(cluster, mark, "b", "forward") == []


def test_commands_of_peers_are_bounded_at_the_leader() -> None:
    cluster = leader_with_learner(pending_commands=3)
    cluster.hold("a", "b")
    cluster.transfer("a", "b")  # so that they wait
    mark = len(cluster.sent)
    for number in range(5):
        cluster.inject("a", "c", forward(number, b"x%d" % number))
    cluster.tick("a")
    answers = said(cluster, mark, "a", "forward_result", "c")
    assert [(answer["id"], answer["error"]) for answer in answers] == [(3, "overloaded"), (4, "overloaded")]


def test_forwards_of_two_processes_share_no_id() -> None:
    ids = set()
    for _ in range(2):
        cluster = follower_with_log(commit=2)
        _, message = forwarded(cluster, b"x1")
        ids.add(message["id"])
        cluster.restart("b")
        _, message = forwarded(cluster, b"x2")
        ids.add(message["id"])
    assert len(ids) >= 2
    assert all(identifier > 2**32 for identifier in ids)


@pytest.mark.parametrize("how", ["silent", "without a link"])
def test_nothing_is_sent_to_a_leader_that_is_not_there(how: str) -> None:
    cluster = follower_with_log(commit=2)
    hear(cluster, "b", "a", append(1, (4, 1), commit=2))
    if how == "silent":
        cluster.advance(2.0)
    else:
        cluster.disconnect("a", "b")
    assert cluster.replica("b").leader() is None
    mark = len(cluster.sent)
    cluster.propose("b", b"x1")
    cluster.read("b")
    cluster.tick("b")
    assert said(cluster, mark, "b", "forward") == said(cluster, mark, "b", "read_index") == []


def test_new_peer_is_not_known_to_hold_anything() -> None:
    cluster = leader_and_slow_peer()
    cluster.machines["l"] = cluster._new_machine("l", ("a", "b", "c"))
    cluster.hold("a", "l")
    cluster.start("l")
    cluster.connect_all()
    assert cluster.replica("a").status().match["l"] == 0


def test_transfer_to_a_peer_that_is_forgotten_is_closed() -> None:
    cluster = OurCluster("abc")
    core = cluster.replica("a")._core
    node = core.node(RaftId("x"))
    core.follow_peer(node)
    closed: list[bool] = []

    class Transfer:
        def close(self) -> None:
            closed.append(True)

    core.progress[node].become_snapshot(Transfer())  # type: ignore[arg-type]
    core.forget_peer(node)
    assert closed == [True]


def test_node_that_follows_a_higher_term_follows_no_leader_of_the_last_one() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    refusal = {"type": "pre_vote_response", "term": cluster.term("b") + 1, "granted": False}
    hear(cluster, "b", "c", refusal)
    assert cluster.term("b") == refusal["term"]
    assert cluster.replica("b").leader() is None


@pytest.mark.parametrize(
    "data",
    [b"", b"[", b"7", b"[1,2,3]", b'["add"]', b'["add",7]', b'["crown","a"]', b"[" * 100_000, b"null"],
    ids=range(9),
)
def test_membership_bytes_that_are_no_change_change_nothing(data: bytes) -> None:
    assert decode_membership(b"\x02" + data) is None
