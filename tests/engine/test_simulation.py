"""The simulation: a fixed set of seeds, proof that a seed is a run, and planted faults that it must find.

Everybody can run more: ``cyoloctl sim --seeds A:B``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import StorageError
from cyoloctl.members import problems
from cyoloctl.model import name_of
from cyoloctl.raft import links, replica
from cyoloctl.raft.appending import Appending
from cyoloctl.raft.clock import ClusterClock
from cyoloctl.raft.dialling import Dialling
from cyoloctl.raft.elections import Elections
from cyoloctl.raft.following import Following
from cyoloctl.raft.journal import Journal
from cyoloctl.raft.links import Link, Links
from cyoloctl.raft.membership import Membership
from cyoloctl.raft.messages import decode
from cyoloctl.raft.peers import REMOVED
from cyoloctl.raft.proposals import Done, Proposal, no_leader
from cyoloctl.raft.reads import ReadIndex
from cyoloctl.raft.replica import Replica
from cyoloctl.raft.replication import Replication
from cyoloctl.raft.snapshotting import Snapshotting
from cyoloctl.raft.turns import Steps, Turns
from cyoloctl.rendezvous.records import RendezvousLimits
from cyoloctl.replicated.clock import ClockMachine
from cyoloctl.replicated.requests import RequestTable
from cyoloctl.sim import FAULTS, run_seed
from cyoloctl.sim.disk import DiskFiles
from cyoloctl.sim.node import Node
from cyoloctl.sim.operations import OPERATIONS
from cyoloctl.state import ClusterState, StateLimits

pytestmark = [pytest.mark.fault, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


NEVER_REFUSED = {
    "answers.keep",
    "authorities.set_certificate_days",
    "counter.reset",
    "kv.delete_prefix",
    "kv.expire",
    "lock.release",
}
"""Operations that a machine carries out whenever they are well-formed."""

FULL = {
    *("open invitations", "names", "credentials", "keys", "destroyed keys"),
    *("rendezvous", "tombstones", "bytes of rendezvous", "policies", "counted"),
}
"""Tables that overflow in these runs; `tests/unit/sim/test_bounds.py` has all, the rare ones too."""

SELDOM_REFUSED = {"keys.announce", "keys.reject", "members.set_gateway", "sessions.revoke_sid"}
"""Refused in some of these runs or in none: one change of any run changes it."""


def runs(seeds: range, **options: Any) -> tuple[Counter[str], Counter[str]]:
    """Faults and counts of these seeds, none of which may break an invariant.

    Among the counts, by name, each operation of a machine that was carried out, and refused.
    """
    faults: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for seed in seeds:
        report = run_seed(seed, **options)
        assert report.violation is None, report.violation
        faults.update(report.faults)
        counts.update(report.counts)
        counts.update(report.applied)
    return faults, counts


@pytest.mark.timeout(600)  # half a minute of computing, beside other tests
def test_simulation_every_fault_breaks_no_invariant() -> None:
    faults, counts = runs(range(68))
    # The faults happened, and work was done in spite of them.
    assert [name for name in FAULTS if faults[name] < 10] == []
    for what in (
        *("died at send", "died at journal write", "died at journal sync", "stopped by its disk"),
        *(
            "snapshot installed",
            "join",
            "promote",
            "remove",
            "demote",
            "to be a voter",
            "to be a learner",
            "leader to be a learner",
            "transfer",
            "late bytes of an ended link",
            "stalled in a turn",
            "answered in time",
            "named: clock",
            "named: disk",
            "call answered",
            "call broken off",
            "told by a peer: removed",
            "ended: removed",
            "stopped in good order",
            "record",
            "record refused",
            "write refused",
            "asked again",
            "told no_leader",
            "told outcome_unknown",
            "told overloaded",
            "refused as forgotten",
            "asked for again when it was forgotten",
            "not for this node to propose",
        ),
    ):
        assert counts[what] > 0, what
    assert counts["converged"] == 68
    # Among all faults it is rare that one lasts on a link alone.
    assert runs(range(3), faults=("partition",), nodes=3)[1]["named: link"] > 0
    assert counts["write"] > 2000
    assert counts["read"] > 2000
    names = {f"{machine}.{operation}" for machine, operation in OPERATIONS}
    assert [name for name in sorted(names) if not counts[name]] == []
    never = {name for name in names if not counts[f"{name} refused"]}
    assert NEVER_REFUSED <= never <= NEVER_REFUSED | SELDOM_REFUSED
    assert [table for table in sorted(FULL) if not counts[f"full: {table}"]] == []


def test_simulation_members_in_memory_return_as_new_members_and_their_old_ids_go() -> None:
    _, counts = runs(range(1012, 1026), faults=("membership", "crash"), nodes=3)
    assert counts["promote in memory"] > 0
    assert counts["demote in memory"] > 0


def test_simulation_clusters_in_memory_lose_members_and_take_them_back() -> None:
    _, counts = runs(range(3000, 3012), memory=True)
    assert counts["demote in memory"] > 0


def test_simulation_members_in_memory_that_start_together_are_taken_back() -> None:
    # Two voters of four were left, with three others that knew nobody: each waited for the others' word.
    # Then one held the beginning of a log, which named its own earlier life alone.
    for seed in (7, 3023):
        runs(range(seed, seed + 1), memory=True)


@pytest.mark.parametrize("fault", FAULTS)
def test_simulation_one_kind_of_fault_breaks_no_invariant(fault: str) -> None:
    faults, _ = runs(range(900, 902), faults=(fault,), nodes=3)
    assert set(faults) == {fault}


def test_simulation_without_faults_answers_every_operation_and_keeps_one_leader() -> None:
    _, counts = runs(range(950, 953), faults=(), nodes=3)
    assert counts["gave up"] == 0
    assert counts["leader"] == 3


def test_simulation_time_of_a_node_does_not_go_back_with_its_process() -> None:
    # n1 loses power within a turn of 0.3 s: what it wrote last was once found 20 ms after the beginning.
    runs(range(5268, 5269))


def test_simulation_late_messages_of_ended_links_break_no_invariant() -> None:
    # The links rule them out; the replica stands them all the same.
    _, counts = runs(range(1000, 1015), late=True, faults=("drop", "slow", "partition", "crash"))
    assert counts["late message"] > 0


def test_simulation_same_seed_is_the_same_run_in_another_process() -> None:
    program = "from cyoloctl.sim import run_seed; print(run_seed(5))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert texts == {f"{run_seed(5)}\n"}


# -- planted faults: each line of defence is taken away, and the simulation must notice --------------


def no_first_sync(patch: pytest.MonkeyPatch) -> None:
    """A tick does not begin with a sync: the leader counts itself for what is in memory only."""
    _sync_only(patch, lambda number: number != 1)


def no_second_sync(patch: pytest.MonkeyPatch) -> None:
    """Messages leave before what they tell is on disk."""
    _sync_only(patch, lambda number: number == 1)


def _sync_only(patch: pytest.MonkeyPatch, wanted: Callable[[int], bool]) -> None:
    turn, writes = Replica._turn, Journal.writes
    state = {"number": 0}

    def counted(self: Journal) -> Steps:
        state["number"] += 1
        if wanted(state["number"]):
            yield from writes(self)

    def fresh(self: Replica) -> Steps:
        state["number"] = 0
        yield from turn(self)
        state["number"] = 99

    patch.setattr(Journal, "writes", counted)
    patch.setattr(Replica, "_turn", fresh)


def failed_sync_is_retried(patch: pytest.MonkeyPatch) -> None:
    """After a failed sync the node goes on and syncs again."""
    commit = Journal._commit

    def forgiving(self: Journal) -> Steps:
        try:
            yield from commit(self)
        except StorageError:
            self.failed = None

    patch.setattr(Journal, "_commit", forgiving)


def input_comes_in_before_the_turn_goes_on(patch: pytest.MonkeyPatch) -> None:
    """What comes between the end of a write in another thread and the next tick is not held."""
    written = Turns.written

    def wrong(self: Turns) -> None:
        written(self)
        self.is_suspended = False

    patch.setattr(Turns, "written", wrong)


def only_voter_lets_others_go_on(patch: pytest.MonkeyPatch) -> None:
    """The only voter shows what its disk does not hold yet."""
    run = Turns.run

    def wrong(self: Turns) -> bool:
        self._may_suspend = lambda: True
        return run(self)

    patch.setattr(Turns, "run", wrong)


def everything_leaves_during_a_write(patch: pytest.MonkeyPatch) -> None:
    """While the journal is written in another thread, all messages leave, not only those of reads."""

    def wrong(self: Replica) -> None:
        self._release()

    patch.setattr(Replica, "_go_on_reading", wrong)


def votes_are_not_stored(patch: pytest.MonkeyPatch) -> None:
    """A restart forgets for whom this node voted, and it votes once more."""
    set_term = Journal.set_term
    patch.setattr(Journal, "set_term", lambda self, term, vote: set_term(self, term, None))


def learners_count(patch: pytest.MonkeyPatch) -> None:
    """A learner's acknowledgement counts as if a voter had sent it."""
    handle = Replication.on_append_response

    def wrong(self: Replication, node: Any, message: Any) -> None:
        handle(self, node, message)
        engine, progress = self._core.engine, self._core.progress
        if message["success"] and node in engine.readonly() and engine.is_leader():
            for voter in engine.others():
                progress[voter].match_index = max(progress[voter].match_index, progress[node].match_index)

    patch.setattr(Replication, "on_append_response", wrong)


def everyone_campaigns(patch: pytest.MonkeyPatch) -> None:
    """Row 10: a node outside the configuration stands for election."""
    patch.setattr(Membership, "is_voter", lambda self: True)


def reads_without_confirmation(patch: pytest.MonkeyPatch) -> None:
    """The leader serves reads without asking whether it still leads."""
    patch.setattr(ReadIndex, "_send_round", lambda self, reading, now: self._complete())


def commits_what_it_did_not_see(patch: pytest.MonkeyPatch) -> None:
    """Row 2: a follower believes the leader's commit index about its own unverified tail."""
    handle = Following.on_append_entries

    def wrong(self: Following, node: Any, message: Any) -> None:
        handle(self, node, message)
        core = self._core
        commit = min(message["leader_commit"], core.journal.last_index)
        if message["term"] == core.engine.term() and not core.engine.is_leader():
            self._advance_commit(node, message["term"], commit)

    patch.setattr(Following, "on_append_entries", wrong)


def journal_cut_before_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    """Row 13: the journal is cut while the snapshot is still being written."""
    compact = Snapshotting.maybe_compact

    def hasty(self: Snapshotting, *, force: bool = False) -> None:
        saving = self._saving
        compact(self, force=force)
        if self._saving and not saving:
            self._core.journal.compact_to(self._core.engine.applied_index())

    patch.setattr(Snapshotting, "maybe_compact", hasty)


def snapshot_is_not_synced(patch: pytest.MonkeyPatch) -> None:
    """The snapshot is renamed into place before its bytes are on disk."""
    patch.setattr(DiskFiles, "sync", lambda self, file: None)


def nothing_is_remembered(patch: pytest.MonkeyPatch) -> None:
    """The table of answered requests is empty: a repeated command applies again."""
    patch.setattr(RequestTable, "find", lambda self, request_id: None)


def abandoned_means_not_applied(patch: pytest.MonkeyPatch) -> None:
    """A node that stops says "not applied" of what it had sent."""
    abandon = Replica.abandon

    def wrong(self: Replica, error: Any) -> None:
        with pytest.MonkeyPatch.context() as meanwhile:
            meanwhile.setattr(Proposal, "sent", False)
            abandon(self, error)

    patch.setattr(Replica, "abandon", wrong)


def giving_up_means_not_applied(patch: pytest.MonkeyPatch) -> None:
    """After its time a write is said not to be applied, wherever it was sent."""

    def wrong(self: Proposal, leader: Any, timeout_s: float) -> None:
        self.settle(None, no_leader(leader, timeout_s))

    patch.setattr(Proposal, "give_up", wrong)


def ended_links_deliver(patch: pytest.MonkeyPatch) -> None:
    """Row 24: what still arrives of a link that was superseded or ended is handed on."""
    received = Link.received

    def wrong(self: Link, data: bytes) -> None:
        if not (self.closing() and self.said_hello):
            received(self, data)
            return
        for message in map(decode, self._reader.feed(data)):
            self._on_peer_message(self.raft_id, message)

    patch.setattr(Link, "received", wrong)


def restarts_go_unnoticed(patch: pytest.MonkeyPatch) -> None:
    """Row 24: the link with a process that is gone may be kept, and its new process sent away."""
    establish = Links._establish

    def wrong(self: Links, link: Link) -> None:
        current = self._live.get(link.name)
        if current is not None:
            link.boot = current.boot
        establish(self, link)

    patch.setattr(Links, "_establish", wrong)


def dials_are_not_repeated(patch: pytest.MonkeyPatch) -> None:
    """A dial that failed is the last one."""
    patch.setattr(Dialling, "failed", lambda self, name, reason=None: None)


def removed_lives_count_for_the_name(patch: pytest.MonkeyPatch) -> None:
    """A member in memory is refused because its raft id of an earlier start was removed, as once shipped."""

    def wrong(self: Node, raft_id: str) -> str | None:
        removed = frozenset() if self.replica is None else self.replica.removed_peers()
        return REMOVED if name_of(raft_id) in {name_of(one) for one in removed} else None

    patch.setattr(Node, "removal", wrong)


def the_latest_clock_moves_time(patch: pytest.MonkeyPatch) -> None:
    """One clock that is ahead moves cluster time, as once shipped."""
    patch.setattr(
        ClusterClock, "majority_unix_ms", lambda self, voters, since=0.0: max(self.walls().values())
    )


def the_leaders_clock_moves_time(patch: pytest.MonkeyPatch) -> None:
    """The leader's own wall clock is cluster time."""
    patch.setattr(ClusterClock, "majority_unix_ms", lambda self, voters, since=0.0: self._wall())


def time_stands_still_when_ahead(patch: pytest.MonkeyPatch) -> None:
    """Ahead of the majority, time waits for it."""
    patch.setattr("cyoloctl.raft.clock._SLEW", 1.0)


def new_leader_begins_with_its_clock(patch: pytest.MonkeyPatch) -> None:
    """A change of leader sets cluster time to the new one's own clock."""
    lead = ClusterClock.lead

    def wrong(self: ClusterClock, last: Any) -> None:
        lead(self, last)
        self._set(self._wall())

    patch.setattr(ClusterClock, "lead", wrong)


def time_never_steps(patch: pytest.MonkeyPatch) -> None:
    """After a night off, cluster time stays where it was."""
    patch.setattr(ClusterClock, "_maybe_step", lambda self, at, now, voters, since: None)


def ids_grow_old_by_the_time_of_day(patch: pytest.MonkeyPatch) -> None:
    """A step of time makes every remembered request id that much older."""
    advance = ClockMachine.advance

    def wrong(self: ClockMachine, stamp: Any) -> None:
        advance(self, stamp)
        self.stamp = self.stamp._replace(steady_ms=self.stamp.time_unix_ms)

    patch.setattr(ClockMachine, "advance", wrong)


def rendezvous_are_unbounded(patch: pytest.MonkeyPatch) -> None:
    """More rendezvous are open at a time than there is room for."""
    init = ClusterState.__init__

    def wrong(self: ClusterState, *, limits: StateLimits = StateLimits(), **more: Any) -> None:  # noqa: B008
        init(self, limits=replace(limits, rendezvous=RendezvousLimits()), **more)

    patch.setattr(ClusterState, "__init__", wrong)


def followers_wait_for_a_lost_leader(patch: pytest.MonkeyPatch) -> None:
    """A follower that knows a leader asks for no election, however long it hears nothing."""
    ask = Elections._maybe_ask

    def wrong(self: Elections, now: float) -> None:
        if self._core.engine.leader() is None:
            ask(self, now)

    patch.setattr(Elections, "_maybe_ask", wrong)


CLOCKS: dict[str, Any] = {"faults": ("clock", "transfer"), "nodes": 3}

Plant = Callable[[pytest.MonkeyPatch], None]


# The fault, the seeds among which it must be found (rare ones begin shortly before it shows), what they
# are aimed at, and as what it may be found.
def silence_is_not_told(patch: pytest.MonkeyPatch) -> None:
    """A peer that is not heard is told of only when its link ends."""
    patch.setattr(links, "_SILENT_S", 1e9)


def wrong_clocks_are_not_told(patch: pytest.MonkeyPatch) -> None:
    """`status` finds no clock that is off."""
    patch.setattr(problems, "CLOCK_OFF_MS", 1e18)


def clocks_of_peers_are_measured_by_the_leader_only(patch: pytest.MonkeyPatch) -> None:
    """A follower asks its peers what their clocks show, and forgets the answers."""
    measured = ClusterClock.measured

    def wrong(self: ClusterClock, name: str, wall_unix_ms: int, trip_s: float) -> None:
        if self._leads_since is not None:
            measured(self, name, wall_unix_ms, trip_s)

    patch.setattr(ClusterClock, "measured", wrong)


def end_by_the_disk_is_not_told(patch: pytest.MonkeyPatch) -> None:
    """A replica stops without a line in the log."""
    patch.setattr(replica._log, "critical", lambda *_, **__: None)


def what_follows_is_a_write_as_any(patch: pytest.MonkeyPatch) -> None:
    """A write that follows another in a lead is held and sent again as all others are."""
    propose = Appending.propose

    def wrong(
        self: Appending, command: bytes, callback: Done, *, lead: int = 0, behind: Proposal | None = None
    ) -> Proposal:
        return propose(self, command, callback)

    patch.setattr(Appending, "propose", wrong)


def what_was_given_up_is_followed(patch: pytest.MonkeyPatch) -> None:
    """A write that follows another in a lead is logged although that one left the queue before."""
    propose = Appending.propose

    def wrong(
        self: Appending, command: bytes, callback: Done, *, lead: int = 0, behind: Proposal | None = None
    ) -> Proposal:
        return propose(self, command, callback, lead=lead)

    patch.setattr(Appending, "propose", wrong)


PLANTED: list[tuple[Plant, range, dict[str, Any], str]] = [
    (silence_is_not_told, range(2000, 2005), {"faults": ("partition",)}, "unexplained"),
    (wrong_clocks_are_not_told, range(2010, 2020), {"faults": ("clock",)}, "unexplained"),
    (
        clocks_of_peers_are_measured_by_the_leader_only,
        range(2010, 2020),
        {"faults": ("clock",)},
        "unexplained",
    ),
    (end_by_the_disk_is_not_told, range(2000, 2005), {"faults": ("disk",)}, "unexplained"),
    (no_first_sync, range(2000, 2020), {}, "persistence"),
    (no_second_sync, range(2000, 2003), {}, "persistence"),
    (failed_sync_is_retried, range(2010, 2020), {}, "disk, persistence, durability"),
    (votes_are_not_stored, range(2000, 2005), {}, "persistence"),
    (input_comes_in_before_the_turn_goes_on, range(300, 330), {}, "failure"),
    (only_voter_lets_others_go_on, range(300, 330), {"nodes": 1}, "durability"),
    (everything_leaves_during_a_write, range(300, 330), {}, "persistence"),
    (learners_count, range(2000, 2020), {}, "durability, convergence"),
    (
        everyone_campaigns,
        range(2070, 2090),
        {},
        "election safety, leader completeness, durability, state machine safety, stale read, exactly once",
    ),
    (reads_without_confirmation, range(2000, 2040), {"faults": ("partition",), "nodes": 3}, "stale read"),
    (commits_what_it_did_not_see, range(2078, 2096), {}, "state machine safety, exactly once"),
    (journal_cut_before_the_snapshot, range(2000, 2030), {}, "start, acknowledgement, durability"),
    (snapshot_is_not_synced, range(2000, 2040), {}, "start"),
    (rendezvous_are_unbounded, range(2000, 2005), {}, "bounds"),
    (nothing_is_remembered, range(2000, 2020), {}, "exactly once"),
    (abandoned_means_not_applied, range(2090, 2130), {"faults": ("crash",), "nodes": 3}, "told"),
    (what_follows_is_a_write_as_any, range(10020, 10070), {"faults": ("partition",), "nodes": 3}, "order"),
    (what_was_given_up_is_followed, range(10000, 10040), {}, "order"),
    (giving_up_means_not_applied, range(2000, 2020), {}, "told"),
    (ended_links_deliver, range(2000, 2020), {}, "link"),
    (
        restarts_go_unnoticed,
        range(2245, 2285),
        {"faults": ("crash", "drop", "slow", "pause"), "nodes": 3},
        "link",
    ),
    (dials_are_not_repeated, range(2040, 2080), {}, "convergence"),
    (
        removed_lives_count_for_the_name,
        range(2190, 2230),
        {"faults": ("membership", "crash"), "nodes": 3},
        "link, convergence",
    ),
    (the_latest_clock_moves_time, range(2000, 2020), CLOCKS, "clock"),
    (the_leaders_clock_moves_time, range(2000, 2030), CLOCKS, "clock"),
    (time_stands_still_when_ahead, range(2000, 2030), CLOCKS, "clock"),
    (new_leader_begins_with_its_clock, range(2000, 2020), CLOCKS, "clock"),
    (time_never_steps, range(2000, 2020), CLOCKS, "clock"),
    (
        followers_wait_for_a_lost_leader,
        range(2000, 2040),
        {"faults": ("partition",), "nodes": 3},
        "liveness",
    ),
    (
        ids_grow_old_by_the_time_of_day,
        range(2140, 2180),
        {"faults": ("clock", "crash"), "nodes": 3},
        "clock, exactly once",
    ),
]


@pytest.mark.parametrize(
    ("plant", "seeds", "options", "kinds"), PLANTED, ids=[plant.__name__ for plant, *_ in PLANTED]
)
def test_simulation_finds_a_planted_fault(
    plant: Plant, seeds: range, options: dict[str, Any], kinds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    for seed in seeds:
        found = run_seed(seed, **options).violation
        if found is not None:
            assert found.kind in kinds.split(", "), found
            assert found.trace, "a violation without a trace"
            return
    pytest.fail(f"not found in {len(seeds)} seeds")
