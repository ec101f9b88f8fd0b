"""Faults that a review of the replica found, each as a story that failed before its fix.

More than 700 lines, because each section is a story of its own: nobody reads them in a row.
"""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cyoloctl.errors import Conflict, NoLeader, OutcomeUnknown, Overloaded, StorageError, VersionMismatch
from cyoloctl.raft.batch import decode_batch, stamp_of
from cyoloctl.raft.clock import ClusterClock
from cyoloctl.raft.journal import Journal, MemoryStore
from cyoloctl.raft.messages import MAX_FRAME_BYTES, MESSAGE_TYPES, PeerProtocolError, decode, encode
from cyoloctl.raft.replica import Replica
from cyoloctl.raft.settings import Limits
from cyoloctl.raft.snapshot import SnapshotMeta, SnapshotStore
from tests.support.engine_harness import Machine, Outcome
from tests.support.raft_ours import ListMachine, OurCluster, append
from tests.support.stories import NO_OP, entry, hear, said

pytestmark = pytest.mark.fault

_LINK_TYPES = {"hello", "goodbye", "ping", "pong", "call", "reply"}
RAFT_TYPES = sorted(set(MESSAGE_TYPES) - _LINK_TYPES)


def chunk(term: int, **changed: Any) -> Any:
    return {
        "type": "snapshot_chunk",
        "term": term,
        "index": 9,
        "snapshot_term": term,
        "voters": ["a", "b", "c"],
        "removed": [],
        "total": 100,
        "digest": "0" * 64,
        "offset": 0,
        "data": b"",
        **changed,
    }


def forward_result(forward: Any, error: str | None = None) -> Any:
    """The leader's whole answer to a forward."""
    results = [] if error else [b"done"] * len(forward["commands"])
    return {"type": "forward_result", "id": forward["id"], "results": results, "last": True, "error": error}


def healthy(cluster: OurCluster) -> bool:
    return all(
        cluster.errors(name) == [] and cluster.replica(name).failed is None for name in cluster.machines
    )


# -- a read of a peer that the leader holds when it steps down ----------------------------------


def step_down_with_a_read_story() -> tuple[OurCluster, int]:
    """b leads term 1 and holds a's read; c leads term 2 with b; d leads term 3 with a and e.

    b's log is longer than d's by an entry of c that never gets committed, so b refuses d its vote and
    only learns the term.  d's entries 4 and 5 are on a, d and e: acknowledged.
    """
    cluster = OurCluster("abcde")
    cluster.elect("b")
    cluster.run(0.3)
    assert [index for _, index, _ in cluster.log("a")] == [1, 2]
    hear(cluster, "b", "a", {"type": "read_index", "id": 7})
    mark = len(cluster.sent)
    hear(cluster, "b", "c", append(2, (2, 1), (NO_OP, 3, 2), commit=2))
    assert not cluster.is_leader("b")
    for question in said(cluster, mark, "b", "read_index", "c"):
        cluster.inject("b", "c", {"type": "read_index_result", "id": question["id"], "index": 3})
    cluster.inject("b", "c", append(2, (3, 2), (entry(b"of c"), 4, 2), commit=3))
    hear(cluster, "a", "c", append(2, (2, 1), (NO_OP, 3, 2), commit=3))
    hear(cluster, "a", "d", append(3, (3, 2), (NO_OP, 4, 3), (entry(b"acknowledged"), 5, 3), commit=3))
    cluster.inject("b", "d", {"type": "request_vote", "term": 3, "last_log_index": 3, "last_log_term": 2})
    cluster.tick("b")
    assert cluster.term("b") == 3
    cluster.deliver("b", "a")
    return cluster, mark


def test_leader_that_steps_down_with_a_peers_read_sends_no_entries() -> None:
    cluster, mark = step_down_with_a_read_story()
    assert said(cluster, mark, "b", "append_entries") == []


def test_leader_that_steps_down_with_a_peers_read_answers_it_with_none() -> None:
    cluster, mark = step_down_with_a_read_story()
    answers = said(cluster, mark, "b", "read_index_result", "a")
    assert answers == [{"type": "read_index_result", "id": 7, "index": None}]


def test_leader_that_steps_down_with_a_peers_read_cuts_nothing_acknowledged() -> None:
    cluster, _ = step_down_with_a_read_story()
    assert (entry(b"acknowledged"), 5, 3) in cluster.log("a")
    assert cluster.replica("a").leader() == "d"
    assert cluster.errors("a") == []


# -- a read round while the configuration changes ----------------------------------------------


@pytest.mark.parametrize(
    ("names", "gone", "change"),
    [("abcd", "cd", "remove"), ("abcd", "cd", "demote"), ("ab", "b", "remove"), ("ab", "b", "demote")],
)
def test_read_round_voters_shrink_to_those_that_confirmed_completes(
    names: str, gone: str, change: str
) -> None:
    cluster = OurCluster(names)
    cluster.elect("a")
    cluster.write("a", b"x1")
    for name in gone:
        for other in set(names) - {name}:
            cluster.cut(name, other)
    reading = cluster.read("a")
    cluster.run(0.2)
    assert reading.pending  # half of the voters confirmed
    changed = getattr(cluster, change)("a", gone[-1])
    cluster.run(0.3)
    assert changed.ok, changed.error
    assert reading.ok
    assert reading.result >= 3


# -- overloaded means not applied ---------------------------------------------------------------


def forwarded_to_a(cluster: OurCluster) -> Outcome:
    """e forwards to a, which may have appended and replicated it, and is lost."""
    hear(cluster, "e", "a", append(1, (1, 0)))
    pay = cluster.propose("e", b"pay")
    cluster.tick("e")
    assert cluster.in_flight("e", "a", "forward")[0]["commands"] == [b"pay"]
    cluster.disconnect("a", "e")
    return pay


def appended_by_itself(cluster: OurCluster) -> Outcome:
    """e leads term 1 and appends; whom that reached, it never learns."""
    cluster.elect("e")
    cluster.run(0.3)
    pay = cluster.propose("e", b"pay")
    cluster.tick("e")
    entry, index, term = cluster.log("e")[-1]
    assert (decode_batch(entry), index, term) == ([(b"pay", 2)], 3, 1)
    return pay


@pytest.mark.parametrize("before", [forwarded_to_a, appended_by_itself])
def test_overloaded_for_a_command_that_was_sent_before_is_held_and_sent_again(
    before: Callable[[OurCluster], Outcome],
) -> None:
    cluster = OurCluster("abcde")
    pay = before(cluster)
    mark = len(cluster.sent)
    shared = [(index, term) for command, index, term in cluster.log("e") if command == NO_OP][-1]
    hear(cluster, "e", "c", append(2, shared, (NO_OP, shared[0] + 1, 2)))
    forwards = said(cluster, mark, "e", "forward", "c")
    assert [forward["commands"] for forward in forwards] == [[b"pay"]]
    hear(cluster, "e", "c", forward_result(forwards[0], "overloaded"))
    assert pay.pending
    for _ in range(20):
        cluster.advance(0.05)
        cluster.tick("e")
    again = said(cluster, mark, "e", "forward", "c")[1:]
    assert [forward["commands"] for forward in again] == [[b"pay"]]
    hear(cluster, "e", "c", forward_result(again[0]))
    assert pay.ok
    assert pay.calls == 1


def test_overloaded_for_a_command_that_was_never_sent_before_is_answered() -> None:
    cluster = OurCluster("abcde")
    hear(cluster, "e", "a", append(1, (1, 0)))
    pay = cluster.propose("e", b"pay")
    cluster.tick("e")
    (forward,) = cluster.in_flight("e", "a", "forward")
    hear(cluster, "e", "a", forward_result(forward, "overloaded"))
    assert isinstance(pay.error, Overloaded)


# -- what was given up does not pile up --------------------------------------------------------


def give_up_many(cluster: OurCluster, kind: str, count: int) -> int:
    """Ask and give up `count` times while nobody leads; how many of the callbacks are still held."""
    replica = cluster.replica("a")
    callbacks = []
    for number in range(count):

        def done(result: Any, error: Any) -> None:
            raise AssertionError("a request that was given up got an answer")

        callbacks.append(weakref.ref(done))
        request: Any = replica.read(done) if kind == "read" else replica.propose(b"x%d" % number, done)
        request.cancelled = True
        del request, done
        if number % 10 == 0:
            cluster.advance(0.01)
            cluster.tick("a")
    cluster.advance(1.0)
    cluster.tick("a")
    gc.collect()
    return sum(callback() is not None for callback in callbacks)


@pytest.mark.parametrize("kind", ["read", "write"])
def test_requests_given_up_without_a_leader_do_not_accumulate(kind: str) -> None:
    cluster = OurCluster("abc", limits=Limits(pending_commands=100))
    if kind == "write":
        # Not told Overloaded either: the callback says so.
        cluster.limits = Limits(pending_commands=100_000)
        cluster.restart("a")
    assert give_up_many(cluster, kind, 3_000) <= 300


def test_write_after_many_that_were_given_up_without_a_leader_is_accepted() -> None:
    cluster = OurCluster("abc", limits=Limits(pending_commands=100))
    for number in range(500):
        cluster.replica("a").propose(b"x%d" % number, lambda result, error: None).cancelled = True
    live = cluster.propose("a", b"live")
    cluster.tick("a")
    assert live.pending
    cluster.elect("b")
    assert cluster.run_until(lambda: live.ok, within=2.0)
    assert cluster.state("b") == [b"live"]


# -- hostile messages ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"total": 0},
        {"total": 2**40},
        {"digest": "zz"},
        {"total": 50, "data": b"x" * 60},
        {"total": 60, "data": b"x" * 60},
        {"index": 2**63 - 1, "snapshot_term": 2**63 - 1, "total": 60, "data": b"x" * 60},
    ],
    ids=["total-0", "total-huge", "digest", "past-total", "other-bytes", "huge-index"],
)
def test_snapshot_chunk_that_is_no_snapshot_is_ignored(changed: dict[str, Any]) -> None:
    cluster = OurCluster("abc")
    cluster.elect("b")
    cluster.write("b", b"x1")
    message = chunk(cluster.term("a"), **changed)
    assert decode(encode(message)[4:]) == message
    before = cluster.log("a")
    hear(cluster, "a", "b", message)
    assert cluster.replica("a").failed is None
    assert (cluster.term("a"), cluster.log("a")) == (cluster.term("b"), before)
    cluster.write("b", b"x2")
    cluster.run(0.3)
    assert cluster.state("a") == [b"x1", b"x2"]


def test_snapshot_of_a_later_term_than_its_message_is_ignored() -> None:
    """Its digest is right.  Once it is the log's base, no entry of any term to come fits behind it."""
    cluster = OurCluster("abc")
    cluster.elect("b")
    cluster.write("b", b"x1")
    store = SnapshotStore(None)
    store.save(SnapshotMeta(50, 9, tuple("abc"), ()), b"")
    transfer = store.open_transfer()
    assert transfer is not None
    whole = transfer.read(0, transfer.total)
    transfer.close()
    before = cluster.log("a")
    hear(
        cluster,
        "a",
        "b",
        chunk(1, index=50, snapshot_term=9, total=transfer.total, digest=transfer.digest, data=whole),
    )
    assert cluster.log("a") == before
    cluster.crash("b")
    cluster.elect("a")
    cluster.write("a", b"x2")
    assert cluster.errors("a") == cluster.errors("c") == []


def filled(kind: str, term: int) -> Any:
    """A message of that kind and term, otherwise plausible."""
    values: dict[str, Any] = {
        **chunk(term),
        **append(term, (1, 0)),
        "next_index": 2,
        "reset": False,
        "success": False,
        "last_log_index": 100,
        "last_log_term": term,
        "granted": False,
        "seq": 1,
        "reason": "damaged",
    }
    return {"type": kind, **{name: values[name] for name in MESSAGE_TYPES[kind]}}


@pytest.mark.parametrize("above", [2**63 - 1, 2**32 + 1], ids=["largest", "2**32-above"])
@pytest.mark.parametrize("target", ["a", "b"], ids=["leader", "follower"])
def test_term_out_of_reach_in_any_message_changes_nothing(target: str, above: int) -> None:
    kinds = [kind for kind in RAFT_TYPES if "term" in MESSAGE_TYPES[kind]]
    assert len(kinds) >= 12
    believed = []
    for kind in kinds:
        cluster = OurCluster("abc")
        cluster.elect("a")
        cluster.run(0.2)
        term = cluster.term(target)
        hear(cluster, target, "c", filled(kind, min(term + above, 2**63 - 1)))
        cluster.run(0.2)
        if cluster.term(target) != term or not healthy(cluster) or cluster.current_leaders() != ["a"]:
            believed.append(kind)
    assert believed == []


class Lone:
    """One replica; what the other voters say is made up."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sent: list[tuple[str, Any]] = []
        self.replica = Replica(
            "a",
            genesis="abcd",
            journal=Journal(MemoryStore(), clock=lambda: 0.0),
            snapshots=SnapshotStore(None),
            machine=ListMachine(Machine("a", tuple("abcd"), None)),
            clock=lambda: self.now,
            cluster_clock=ClusterClock(
                "a", wall_unix_ms=lambda: 1_780_000_000_000, monotonic=lambda: self.now
            ),
            rng=random.Random(1),
            send=lambda peer, message: self.sent.append((peer, message)),
            run_in_background=lambda job: job(),
            limits=Limits(compact_entries=8, keep_entries=2, chunk_bytes=64),
        )
        self.replica.start()
        for peer in "bcd":
            self.replica.peer_connected(peer)

    def agree(self) -> None:
        """The others grant every vote that was asked for, and hold every entry that was sent."""
        sent, self.sent = self.sent, []
        for peer, message in sent:
            if message["type"] == "pre_vote":
                answer = {"type": "pre_vote_response", "term": message["term"], "granted": True}
            elif message["type"] == "request_vote":
                answer = {"type": "vote_response", "term": message["term"]}
            elif message["type"] == "append_entries":
                answer = {
                    "type": "append_response",
                    "term": message["term"],
                    "next_index": message["prev_log_index"] + len(message["entries"]) + 1,
                    "reset": False,
                    "success": True,
                }
            else:
                continue
            self.replica.receive(peer, answer)

    def number(self, value: Any) -> int:
        if isinstance(value, int):
            return value
        what, offset = value
        status = self.replica.status()
        near = {"term": status.term, "last": status.last_index, "commit": status.commit_index}
        return max(0, near[what] + int(offset))

    def message(self, kind: str, values: dict[str, Any]) -> Any:
        """Numbers near the replica's own; entries in the order that the format demands."""
        message: dict[str, Any] = {"type": kind}
        for name in MESSAGE_TYPES[kind]:
            value = values[name]
            if name == "entries":
                index, term = message["prev_log_index"], message["prev_log_term"]
                entries = []
                for command, raised in value:
                    index, term = index + 1, message["term"] if raised else term
                    entries.append((command, index, term))
                message[name] = entries
            elif isinstance(value, (int, tuple)) and not isinstance(value, bool):
                message[name] = self.number(value)
            else:
                message[name] = value
        return message


_numbers = st.one_of(
    st.tuples(st.sampled_from(["term", "last", "commit"]), st.integers(-2, 2)),
    st.integers(0, 9),
    st.sampled_from([2**31, 2**32, 2**40, 2**62, 2**63 - 2, 2**63 - 1]),
)
_names = st.sampled_from(["a", "b", "c", "d", "e", "", "a~1"])
_commands = st.sampled_from(
    [
        NO_OP,
        b"\x00",
        b"\x03",
        entry(b"x"),
        b"\0" + (1).to_bytes(4, "big") + b"x",
        b"\x00\xff\xff\xff\xff",
        b"\x02{}",
        b"\x02[[],[]]",
        b'\x02["add", "e"]',
        b'\x02["remove", "a"]',
        b'\x02["remove", "b"]',
        b'\x02["demote", "c"]',
        b"\x07",
    ]
)
_blobs = st.lists(st.binary(max_size=8), max_size=4)
_fields: dict[str, st.SearchStrategy[Any]] = {
    "entries": st.lists(st.tuples(_commands, st.booleans()), max_size=4),
    "commands": _blobs,
    "after": st.lists(st.integers(0, 9), max_size=4),
    "results": _blobs,
    "data": st.binary(max_size=80),
    "digest": st.sampled_from(["", "zz", "0" * 64]),
    "voters": st.lists(_names, max_size=4),
    "removed": st.lists(_names, max_size=4),
    "error": st.sampled_from([None, "overloaded", "not_leader", "another"]),
    "reset": st.booleans(),
    "success": st.booleans(),
    "granted": st.booleans(),
    "last": st.booleans(),
    "index": _numbers,
}


def _message_of(kind: str) -> st.SearchStrategy[tuple[str, str, str, Any]]:
    fields = {name: _fields.get(name, _numbers) for name in MESSAGE_TYPES[kind]}
    if kind == "read_index_result":
        fields["index"] = st.none() | _numbers
    return st.tuples(
        st.just("message"), st.sampled_from("bcde"), st.just(kind), st.fixed_dictionaries(fields)
    )


_steps = st.one_of(
    *[_message_of(kind) for kind in RAFT_TYPES],
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.02, 0.3, 2.0])),
    st.tuples(st.just("agree")),
    st.tuples(st.sampled_from(["propose", "read"])),
    st.tuples(st.sampled_from(["peer_connected", "peer_disconnected"]), st.sampled_from("bcde")),
    st.tuples(
        st.sampled_from(["add_voter", "remove", "demote", "transfer_leadership"]), st.sampled_from("abcde")
    ),
)


def _ignore(result: Any, error: Any) -> None:
    """Whatever the answer is."""


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(lead=st.booleans(), steps=st.lists(_steps, min_size=1, max_size=40))
def test_any_well_formed_messages_in_any_order_never_stop_the_replica(lead: bool, steps: list[Any]) -> None:
    """Except a leader whose log differs from what is committed here: then stopping is right."""
    lone = Lone()
    replica = lone.replica
    if lead:
        lone.now += 2.0
        for _ in range(3):
            replica.tick()
            lone.agree()
        assert replica.is_leader()
    connected = {"b", "c", "d"}
    for what, *rest in steps:
        if what == "message":
            source, kind, values = rest
            try:
                message = decode(encode(lone.message(kind, values))[4:])
            except PeerProtocolError:
                continue  # the transport would have refused it
            replica.receive(source, message)
        elif what == "wait":
            lone.now += rest[0]
        elif what == "agree":
            lone.agree()
        elif what == "propose":
            replica.propose(b"command", _ignore)
        elif what == "read":
            replica.read(_ignore)
        elif what == "peer_connected":
            if rest[0] not in connected and rest[0] not in replica.removed_peers():
                connected.add(rest[0])
                replica.peer_connected(rest[0])
        elif what == "peer_disconnected":
            if rest[0] in connected:
                connected.discard(rest[0])
                replica.peer_disconnected(rest[0])
        else:
            getattr(replica, what)(rest[0], _ignore)
        replica.tick()
        failed = replica.failed
        if isinstance(failed, StorageError) and "committed index" in failed.message:
            return
        assert failed is None
        for _, message in lone.sent:
            decode(encode(message)[4:])  # and says nothing that a peer would end the link over
        assert replica.next_deadline() > lone.now - 10.0


# -- a voter alone -------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", [False, True], ids=["alone", "with-a-learner"])
def test_single_voter_answers_a_write_without_waiting_for_a_heartbeat(learner: bool) -> None:
    cluster = OurCluster("a")
    if learner:
        cluster.start_joiner("z", "a")
    cluster.run(0.5)
    assert cluster.is_leader("a")
    slowest = 0.0
    for number in range(20):
        cluster.run(0.013 * (number % 7))
        asked = cluster.now
        write = cluster.propose("a", b"x%d" % number)
        cluster.tick("a")
        while write.pending:  # as the ticker does: at the deadline, and a millisecond later at the soonest
            cluster.now = max(cluster.replica("a").next_deadline(), cluster.now + 0.001)
            cluster.tick("a")
        assert write.ok
        slowest = max(slowest, cluster.now - asked)
    assert slowest < 0.005


# -- a membership change that is logged and not applied ---------------------------------------------


def logged_change(change: str) -> tuple[OurCluster, Outcome, str]:
    """a appended the change and told the others; no answer reaches it."""
    cluster = OurCluster("abcd")
    cluster.elect("a")
    subject = "d"
    if change == "add":
        cluster.start_joiner("e", "abcd")
        cluster.run(0.5)
        subject = "e"
    cluster.write("a", b"x1")
    cluster.run(0.3)
    for name in cluster.machines:
        cluster.hold(name, "a")
    first = getattr(cluster, change)("a", subject)
    cluster.tick("a")
    cluster.answer_roll("a")
    cluster.exchange()
    assert first.pending
    assert (subject in cluster.config("a")) == (change == "add")
    assert (subject in cluster.config("b")) == (change == "add")
    return cluster, first, subject


@pytest.mark.parametrize("change", ["add", "remove"])
def test_membership_change_again_while_only_logged_does_not_succeed(change: str) -> None:
    cluster, first, subject = logged_change(change)
    second = getattr(cluster, change)("a", subject)
    cluster.tick("a")
    assert not second.ok
    cluster.held.clear()
    assert cluster.run_until(lambda: first.ok, within=1.0)
    third = getattr(cluster, change)("a", subject)
    cluster.run(0.3)
    assert third.ok  # applied now


@pytest.mark.parametrize("change", ["add", "remove"])
def test_membership_change_only_logged_on_a_follower_is_answered_no_leader(change: str) -> None:
    cluster, _, subject = logged_change(change)
    answer = getattr(cluster, change)("b", subject)
    assert isinstance(answer.error, NoLeader)


# -- proposals that wait when a snapshot replaces the log ----------------------------------------


def test_snapshot_install_holds_every_waiting_proposal_and_settles_it() -> None:
    cluster = OurCluster("abcde", limits=Limits(entry_bytes=100, keep_entries=0))  # two commands an entry
    cluster.elect("b")
    cluster.run(0.3)
    commands = [(b"p%d" % number).ljust(30, b".") for number in range(6)]
    outcomes = [cluster.propose("b", command) for command in commands]
    cluster.tick("b")
    assert [index for _, index, _ in cluster.log("b")] == [1, 2, 3, 4, 5]
    store = SnapshotStore(None)
    store.save(SnapshotMeta(3, 2, tuple("abcde"), ()), b"")
    transfer = store.open_transfer()
    assert transfer is not None
    whole = transfer.read(0, transfer.total)
    transfer.close()
    mark = len(cluster.sent)
    hear(
        cluster,
        "b",
        "c",
        chunk(2, index=3, voters=list("abcde"), total=transfer.total, digest=transfer.digest, data=whole),
    )
    assert cluster.log("b")[0][1:] == (3, 2)
    for _ in range(5):
        cluster.advance(0.05)
        cluster.tick("b")
    forwards = said(cluster, mark, "b", "forward", "c")
    assert sorted(command for forward in forwards for command in forward["commands"]) == commands
    for forward in forwards:
        hear(cluster, "b", "c", forward_result(forward))
    assert [outcome.status for outcome in outcomes] == ["ok"] * 6
    assert [outcome.calls for outcome in outcomes] == [1] * 6


# -- a handover to a target that dies --------------------------------------------------------------


def test_handover_to_a_target_that_disconnects_ends_at_once_and_writes_go_on() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    cluster.hold("a", "b")
    handover = cluster.transfer("a", "b")
    cluster.tick("a")
    write = cluster.propose("a", b"x1")
    cluster.tick("a")
    assert handover.pending
    cluster.cut("a", "b")
    cluster.run(0.15)
    assert handover.status == "error"
    assert write.ok
    assert cluster.is_leader("a")


@pytest.mark.parametrize("change", ["remove", "demote"])
def test_voter_that_a_dead_leader_wanted_out_helps_to_elect_the_next_leader(change: str) -> None:
    """It held the longest log, and by that log it was no voter: nobody could be elected."""
    cluster = OurCluster("abcd")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    for name in "cd":
        cluster.hold("a", name)
    changed = getattr(cluster, change)("a", "b")
    cluster.tick("a")
    cluster.answer_roll("a")
    assert "b" not in cluster.config("a")
    cluster.run(0.2)
    assert changed.pending
    cluster.impatient("b", "c", "d")
    cluster.crash("a")
    assert cluster.run_until(lambda: bool(cluster.current_leaders()), within=30.0)
    leader = cluster.current_leaders()[0]
    cluster.write(leader, b"x2")
    assert cluster.config(leader) == set("abcd")


# -- changes that would stop the cluster -------------------------------------------------------------


def two_of_five_are_down() -> OurCluster:
    cluster = OurCluster("abcde")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.crash("d", "e")
    cluster.run(2.0)
    assert cluster.is_leader("a")
    return cluster


def test_remove_of_a_live_voter_that_leaves_no_live_majority_is_refused() -> None:
    cluster = two_of_five_are_down()
    removal = cluster.remove("a", "c")
    cluster.run(2.5)
    assert isinstance(removal.error, Conflict)
    assert cluster.is_leader("a")
    assert cluster.config("a") == set("abcde")
    cluster.write("a", b"x2")
    dead = cluster.remove("a", "e")  # leaves three live ones of four
    assert cluster.run_until(lambda: dead.ok, within=1.0), dead.error


def test_remove_of_a_live_voter_that_leaves_no_live_majority_with_force_is_logged() -> None:
    cluster = two_of_five_are_down()
    outcome = Outcome("a", b"remove c")
    cluster.replica("a").remove(
        "c", lambda result, error: outcome.settle(error is None, result, error), force=True
    )
    cluster.tick("a")
    assert cluster.config("a") == set("abde")
    cluster.restart("d")
    cluster.run(1.0)
    assert outcome.ok or isinstance(outcome.error, OutcomeUnknown)


def test_add_voter_of_a_learner_that_never_acknowledged_is_refused() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.hold("d", "a")
    cluster.start_joiner("d", "abc")
    cluster.run(0.3)
    added = cluster.add("a", "d")
    cluster.run(0.1)
    assert isinstance(added.error, Conflict)
    assert cluster.config("a") == set("abc")
    cluster.release("d", "a")
    cluster.run(0.5)
    again = cluster.add("a", "d")
    assert cluster.run_until(lambda: again.ok, within=1.0), again.error


# -- forwarded commands and their results --------------------------------------------------------------


class VerboseMachine(ListMachine):
    """Its answers are far longer than the commands."""

    def apply(self, index: int, command: bytes, after: int | None = None) -> bytes:
        return command.ljust(2_000, b".")


class OlderMachine(ListMachine):
    """Of a release that lacks a command."""

    def apply(self, index: int, command: bytes, after: int | None = None) -> bytes:
        if command == b"new":
            raise VersionMismatch("new is unknown here")
        return super().apply(index, command, after)


def test_command_that_one_node_cannot_apply_stops_that_node_and_no_other() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    machine = cluster.machines["b"]
    older = OlderMachine(machine)
    older.items = list(machine.engine.machine.items)
    machine.engine.replica._machine = older
    outcome = cluster.propose("a", b"new")
    assert cluster.run_until(lambda: outcome.ok, within=1.0)
    assert cluster.run_until(lambda: machine.engine.replica.failed is not None, within=1.0)
    failed = machine.engine.replica.failed
    assert isinstance(failed, VersionMismatch)
    assert "install the release that the other nodes run" in failed.message
    after = cluster.propose("a", b"more")
    assert cluster.run_until(lambda: after.ok, within=1.0)
    assert cluster.state("c") == [b"new", b"more"]


def test_stamps_of_entries_rise_across_a_change_of_leader() -> None:
    cluster = OurCluster("abc")
    stamps = []
    cluster.elect("a")
    for leader in "abc":
        if leader != "a":
            cluster.transfer("abc"["abc".index(leader) - 1], leader)
        assert cluster.run_until(lambda leader=leader: cluster.is_leader(leader), within=3.0)
        outcome = cluster.propose(leader, b"of " + leader.encode())
        assert cluster.run_until(lambda outcome=outcome: outcome.ok, within=1.0)
    cluster.run(0.3)
    for logged, _, _ in cluster.log("a"):
        stamp = stamp_of(logged)
        if stamp is not None:
            stamps.append(stamp)
    assert len(stamps) == 3
    assert stamps == sorted(stamps)
    assert stamps[0].steady_ms < stamps[-1].steady_ms


def test_forward_whose_results_are_larger_than_a_frame_is_answered_in_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.support.raft_ours.ListMachine", VerboseMachine)
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.3)
    outcomes = [cluster.propose("b", b"x%d" % number) for number in range(3_000)]
    assert 2_000 * len(outcomes) > MAX_FRAME_BYTES
    mark = len(cluster.sent)
    cluster.tick("b")
    assert cluster.run_until(lambda: not any(outcome.pending for outcome in outcomes), within=2.0)
    for envelope in cluster.sent[mark:]:
        frame = encode(envelope.message)
        assert len(frame) - 4 <= MAX_FRAME_BYTES
        decode(frame[4:])
    assert [outcome.error for outcome in outcomes if not outcome.ok] == []
    assert all(outcome.result == outcome.command.ljust(2_000, b".") for outcome in outcomes)


def test_forward_of_a_huge_backlog_is_windowed() -> None:
    limits = Limits(window_bytes=256 * 1024, entry_bytes=32 * 1024, keep_entries=0)
    cluster = OurCluster("abc", limits=limits)
    cluster.elect("a")
    cluster.run(0.3)
    cluster.hold("a", "b")
    mark = len(cluster.sent)
    outcomes = [cluster.propose("b", b"%03d" % number + b"z" * 10_000) for number in range(100)]
    cluster.run(0.3)
    sent = sum(
        len(command) for forward in said(cluster, mark, "b", "forward") for command in forward["commands"]
    )
    assert limits.window_bytes // 2 <= sent <= limits.window_bytes + 2 * limits.entry_bytes
    cluster.release("a", "b")
    assert cluster.run_until(lambda: all(outcome.ok for outcome in outcomes), within=5.0)
    assert cluster.state("a") == [outcome.command for outcome in outcomes]  # in the order they were proposed


# -- many removed names ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1_025, 10_000])
def test_snapshot_chunk_with_many_removed_names_encodes_and_decodes(count: int) -> None:
    message = chunk(3, removed=[f"node-{number}" for number in range(count)])
    frame = encode(message)
    assert len(frame) - 4 <= MAX_FRAME_BYTES
    assert decode(frame[4:]) == message
