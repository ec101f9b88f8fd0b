"""One member of a Raft group, without sockets, threads or a clock of its own.

Input is `receive`, `peer_connected`, `peer_disconnected` and the proposals;
time is the clock that the caller hands in; output is what `tick` passes to
``send`` and the callbacks.  The caller's duties:

1. call `tick` after every input, and not later than `next_deadline`;
2. deliver messages of one link in order, and none of a link that was
   superseded or closed (row 24);
3. report every link with an authenticated peer of the cluster as
   connected, and its end as disconnected, exactly once each (row 21);
4. propose only commands that the state machine applies once however often
   they are logged: after a change of leader a command may be sent again.

`tick` persists before anything leaves that promises something about this disk,
and before the leader counts itself.  After a storage error the replica is
silent until the process ends: it neither votes nor acknowledges what it could
not persist.

Sources: Ongaro, "Consensus: Bridging Theory and Practice" (pre-vote 9.6,
leadership transfer 3.10, ReadIndex 6.4); rows refer to DESIGN.md.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable

from cyoloctl.errors import CyoloctlError, OutcomeUnknown
from cyoloctl.model import RaftId, Stamp, name_of
from cyoloctl.raft.appending import Appending
from cyoloctl.raft.applying import apply_commands
from cyoloctl.raft.batch import stamp_of
from cyoloctl.raft.clock import ClusterClock
from cyoloctl.raft.core import Core
from cyoloctl.raft.elections import Elections
from cyoloctl.raft.following import Following
from cyoloctl.raft.forwarding import Forwarding
from cyoloctl.raft.handover import Handover
from cyoloctl.raft.journal import Journal
from cyoloctl.raft.machine import StateMachine
from cyoloctl.raft.membership import Membership
from cyoloctl.raft.messages import Message
from cyoloctl.raft.proposals import Done, Proposal, ProposalQueue
from cyoloctl.raft.reads import ReadIndex, ReadRequest
from cyoloctl.raft.recovery import restore
from cyoloctl.raft.replication import Replication
from cyoloctl.raft.room import Room
from cyoloctl.raft.settings import DEFAULT_LIMITS, DEFAULT_TIMING, Limits, Timing
from cyoloctl.raft.snapshot import SnapshotStore
from cyoloctl.raft.snapshotting import Snapshotting
from cyoloctl.raft.status import ReplicaStatus, report
from cyoloctl.raft.turns import Steps, Turns
from cyoloctl.raft.vantage import NOTHING_SEEN, View
from cyoloctl.raft.vendor import (
    MEMBERSHIP,
    REGULAR,
    STAMPED,
    Node,
    VendorEngine,
)

__all__ = ["Replica"]

_log = logging.getLogger("cyoloctl.raft")

_AHEAD_OF_THE_DISK = frozenset({"append_entries"})
_NO_DISK = frozenset({"forward", "forward_result"})
"""Messages that promise nothing about the disk of who sends them."""
_READS = frozenset({"read_confirm", "read_confirmed", "read_index", "read_index_result"})


class Replica:
    """One member of a Raft group: see the module.

    clock: seconds, monotonic.  cluster_clock: stamps what this node appends as leader.

    genesis: voters before the first log entry, the same on every member; a log that
    `create_storage` began needs none, since it names its founder.

    send(peer, message) must not raise and may drop; flush is called when a
    group of sends is complete; run_in_background(job) runs a
    blocking job, in a thread or at once, after which `tick` must be called.

    may_lead(peer): whether a peer that is no voter in its log may be
    one by now, so that its term, its votes and its entries count: a log
    that lags does not know the latest voters (row 21).  Asked again for
    each message; the default is for tests.

    view: whom this node reaches, and whom those reach (see `vantage.py`).

    stands_back(raft_id): whether a voter, this node too, leads only where no
    other can, and no longer (see `handover.py`).
    """

    def __init__(
        self,
        raft_id: RaftId,
        *,
        genesis: Iterable[RaftId] = (),
        journal: Journal,
        snapshots: SnapshotStore,
        machine: StateMachine,
        clock: Callable[[], float],
        cluster_clock: ClusterClock,
        rng: random.Random,
        send: Callable[[RaftId, Message], None],
        run_in_background: Callable[[Callable[[], None]], None],
        flush: Callable[[], None] = lambda: None,
        may_lead: Callable[[RaftId], bool] = lambda raft_id: True,
        view: Callable[[], View] = lambda: NOTHING_SEEN,
        stands_back: Callable[[RaftId], bool] = lambda raft_id: False,
        timing: Timing = DEFAULT_TIMING,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.raft_id = self._id = raft_id
        self._core = core = Core(raft_id, journal=journal, clock=clock, rng=rng, timing=timing, limits=limits)
        core.stands_back = stands_back
        self._progress = core.progress
        self._journal = journal
        self._snapshots, self._machine = snapshots, machine
        self._clock, self._cluster_clock, self._rng = clock, cluster_clock, rng
        self._send, self._flush = send, flush
        self._timing, self._limits = timing, limits
        self.send = core.send  # no call in between: it is hot
        self._engine: VendorEngine
        self._handover = Handover(core, view)
        self._membership = Membership(core, frozenset(genesis), self._handover)
        self._elections = Elections(core, self._membership, may_lead)
        self._following = Following(core, self._elections, fail=self.fail)

        self._pending = ProposalQueue(limits.pending_commands, limits.pending_bytes)
        self._forwarding = Forwarding(core, self._pending, machine)
        self.room = Room(core, self._handover, self._forwarding)
        self._appending = Appending(core, self._forwarding, self._handover, self.room, cluster_clock)
        self._reads = ReadIndex(core, tell_commit=lambda node: self._replication.send(node, heartbeat=True))
        self._swept_at = -1e9
        self._snapshotting = Snapshotting(
            core,
            snapshots=snapshots,
            machine=machine,
            membership=self._membership,
            cluster_clock=cluster_clock,
            elections=self._elections,
            run_in_background=run_in_background,
            follow=self._following.follow,
        )
        self._following.on_entries = self._snapshotting.log_goes_on
        membership, handover = self._membership, self._handover
        self._replication = Replication(core, membership, self._snapshotting, handover, self._elections)
        self.append_pending, self.replicate = self._appending.append_pending, self._replication.replicate
        self._handlers = self._handlers_by_type()
        self._seen: tuple[str, int, Node | None] = ("follower", 0, None)
        self.turns = self._new_turns()
        """Say there who writes the journal elsewhere, and when that was done."""

    def _new_turns(self) -> Turns:
        return Turns(
            self._turn,
            may_suspend=lambda: not self._leads_alone(),
            meanwhile=self._go_on_reading,
            fail=self.fail,
        )

    def _handlers_by_type(self) -> dict[str, Callable[[Node, Message], bool | None]]:
        """The handler of each type of message; one that returns False calls for no tick."""
        return {
            "append_entries": self._following.on_append_entries,
            "append_response": self._replication.on_append_response,
            "request_vote": self._elections.on_request_vote,
            "vote_response": self._elections.on_vote_response,
            "pre_vote": self._elections.on_pre_vote,
            "pre_vote_response": self._elections.on_pre_vote_response,
            "timeout_now": self._elections.on_timeout_now,
            "heartbeat": self._following.on_heartbeat,
            "snapshot_chunk": self._snapshotting.on_snapshot_chunk,
            "snapshot_ack": self._snapshotting.on_snapshot_ack,
            "snapshot_refused": self._snapshotting.on_snapshot_refused,
            "forward": self._forwarding.on_forward,
            "forward_result": self._forwarding.on_forward_result,
            "read_confirm": self._reads.on_read_confirm,
            "read_confirmed": self._membership.roll_call.ahead_of(self._reads.on_read_confirmed),
            "read_index": self._reads.on_read_index,
            "read_index_result": self._reads.on_read_index_result,
        }

    # ------------------------------------------------------------------ start

    def start(self) -> None:
        """Restore from snapshot and journal.

        Raises StorageError when they do not fit each other (rows 5, 12, 13, 18)
        and VersionMismatch when a newer release wrote them.
        """
        journal = self._journal
        applied = restore(journal, self._snapshots, self._machine, self._membership)
        timing = self._timing
        self._engine = self._core.engine = VendorEngine(
            self._core.me,
            owner=self,
            journal=journal,
            clock=self._clock,
            rng=self._rng,
            heartbeat_s=timing.heartbeat_s,
            election_min_s=timing.election_min_s,
            election_max_s=timing.election_max_s,
            leader_fallback_s=timing.leader_fallback_s,
            progress=self._progress,
            patience_s=self._core.patience_s,
        )
        self._engine.set_applied(applied)
        self._membership.load()
        self._cluster_clock.applied(self._machine.stamp())
        self._cluster_clock.applied(self._last_stamp(to_index=journal.commit_index))
        if self._membership.current.voters == {self._id}:
            self._engine.set_election_deadline(self._clock())  # alone: nobody to wait for

    # ----------------------------------------------------------- public state

    @property
    def failed(self) -> CyoloctlError | None:
        """The error that silenced this replica."""
        return self._core.failed

    @property
    def on_change(self) -> Callable[[], None]:
        """Called after role, term, leader or membership changed."""
        return self._core.on_change

    @on_change.setter
    def on_change(self, call: Callable[[], None]) -> None:
        self._core.on_change = call

    def _last_stamp(self, *, to_index: int) -> Stamp:
        """The latest stamp in the log up to an index; otherwise that of the state."""
        for command, index, _ in reversed(self._journal.entries):
            stamp = stamp_of(command) if index <= to_index else None
            if stamp is not None:
                return stamp
        return self._machine.stamp()

    @property
    def disputed(self) -> tuple[RaftId, int, int] | None:
        """See `Following`."""
        return self._following.disputed

    def fail_disputed(self) -> None:
        """See `Following`."""
        self._following.fail_disputed()

    def voter_names(self) -> frozenset[str]:
        """Names of the voters in this node's log."""
        return self._membership.voter_names

    def is_member(self) -> bool:
        """True while its log makes this node a voter (rows 4 and 10)."""
        return self._membership.is_voter()

    def is_leader(self) -> bool:
        """True while this node takes itself for the leader; reads confirm it."""
        return self._engine.is_leader()

    def leader(self) -> RaftId | None:
        """The leader, as far as this node knows; None when it was not heard from lately."""
        return self._core.leader()

    def lead(self) -> int:
        """The term in which this node leads; 0: it does not."""
        return self._core.lead()

    def removed_peers(self) -> frozenset[RaftId]:
        """Peers that a committed entry removed: admit all others (row 21)."""
        return self._membership.applied.removed

    def term(self) -> int:
        """The current term."""
        return self._engine.term()

    def commit_index(self) -> int:
        """Index of the last entry that this node knows to be committed."""
        return self._engine.commit_index()

    def applied_index(self) -> int:
        """Index of the last applied entry."""
        return self._engine.applied_index()

    def voters(self) -> frozenset[RaftId]:
        """Raft ids of the voters in this node's log."""
        return self._membership.current.voters

    def considered(self) -> frozenset[RaftId]:
        """Raft ids of the voters, if the change is made before which this leader calls the roll."""
        return self._membership.considered

    def configuration(self) -> tuple[frozenset[RaftId], frozenset[RaftId]]:
        """Raft ids of the voters and of the removed members in this node's log."""
        return self._membership.current.voters, self._membership.current.removed

    def progress(self) -> tuple[int, int]:
        """Term and last index of this node's log; at least what was acknowledged to anybody."""
        return self._journal.term, self._journal.last_index

    def acknowledged(self, raft_id: RaftId) -> int:
        """The highest committed index that a peer is known to hold; 0 unless this node leads."""
        known = self._core.acknowledged.get(raft_id, 0) if self._engine.is_leader() else 0
        return min(known, self._engine.commit_index())

    def forgot(self, raft_id: RaftId, term: int, last_index: int) -> bool:
        """True when a new process of a peer holds less than what an earlier one acknowledged to this leader.

        term, last_index: of its log.  Only a leader of a later term may have cut it.
        """
        engine = self._engine
        return (
            engine.is_leader()
            and term <= engine.term()
            and last_index < self._core.acknowledged.get(raft_id, 0)
        )

    def status(self) -> ReplicaStatus:
        """Present status of this replica."""
        meta = self._snapshots.meta
        return report(
            self._core,
            self._membership,
            self._elections,
            snapshot_index=1 if meta is None else meta.index,
            unusable=self._snapshotting.unusable,
            disputed=self.disputed,
        )

    def next_deadline(self) -> float:
        """When `tick` must be called at the latest, on the replica's clock."""
        engine = self._engine
        if self.turns.is_suspended:
            return self._clock() + 3600.0  # `written` is followed by a tick
        if engine.is_leader():
            deadline = engine.heartbeat_due()
            if self._commits_alone():
                return self._clock()
            return min(deadline, self._replication.next_deadline(), self._handover.next_deadline())
        deadline = self._clock() + 1.0
        if self.is_member():
            deadline = min(deadline, engine.election_deadline())
        deadline = min(deadline, self._reads.asks_again_at())
        return min(deadline, self._forwarding.next_deadline())

    # ------------------------------------------------------------------- tick

    def tick(self) -> None:
        """Take a turn, or go on with the one that waited for its write."""
        while self.failed is None and self.turns.run():
            pass

    def _holds(self, call: Callable[[], object], done: Done | None = None) -> bool:
        """Hold an input while the journal is written elsewhere; whether it was.  done: as `Turns.hold`."""
        if self.turns.is_suspended:
            self.turns.hold(call, done)
        return self.turns.is_suspended

    def _turn(self) -> Steps:
        """Persist and answer, let time and the log move on, persist again, then send the rest.

        Only a leader's new entries leave before it has synced them itself
        (dissertation 10.2.1): the message promises nothing about the
        leader's own disk, and the leader counts itself in a later turn,
        which begins with a sync.  The term they carry is on disk already.
        So do commands on their way to the leader, and the results of
        committed ones: they say nothing about this disk at all.
        """
        yield from self._journal.writes()
        self._release()
        durable_term = self._journal.term
        self._step()
        if self._engine.is_leader() and self._engine.term() == durable_term:
            self._release(_AHEAD_OF_THE_DISK)
        yield from self._journal.writes()
        if self._commits_alone():
            self._step()
            yield from self._journal.writes()
        self._release()

    def _go_on_reading(self) -> None:
        """Reads need no disk, once a restart would find the term in which they are confirmed."""
        if not self._journal.is_term_durable():
            return
        if self._engine.is_leader():
            self._reads.lead(self._clock())
        else:
            self._reads.ask(self._clock())
        self._reads.serve()
        self._release(_READS)

    def _is_for_now(self, peer: RaftId, message: Message) -> bool:
        """Whether a message is one of a read, and goes on while the journal is written."""
        return (
            message["type"] in _READS
            and self._core.node(peer) in self._engine.connected
            # What follows an answer to that is in the log.
            and not self._membership.roll_call.is_open()
        )

    def _release(self, only: frozenset[str] | None = None) -> None:
        """Send what is queued, or the messages of some types; the rest waits for the next sync."""
        if not self._core.outbox:
            return
        outbox, self._core.outbox = self._core.outbox, []
        for node, message in outbox:
            if only is None or message["type"] in only:
                self._send(node.id, message)
            else:
                self._core.outbox.append((node, message))
        self._flush()

    def _leads_alone(self) -> bool:
        """True for the only voter: it counts what it appends, and answers, in the step that appends it."""
        return self._engine.is_leader() and not self._engine.others()

    def _commits_alone(self) -> bool:
        """True for the only voter with entries that its own disk alone commits."""
        return self._leads_alone() and self._engine.commit_index() < self._journal.last_index

    def _step(self) -> None:
        engine, now = self._engine, self._clock()
        self._snapshotting.collect()
        self._sweep(now)
        was_leader = engine.is_leader()
        may_campaign = self._elections.may_campaign(now)
        commit_before = engine.commit_index()
        if self._pending and not was_leader and self._sees() == self._seen:
            self._forwarding.forward()
            self._release(_NO_DISK)
        engine.run_tick(may_campaign=may_campaign)
        self._elections.campaigned()
        if not engine.is_leader() and (was_leader or engine.election_deadline() <= now):
            # Stepped down, or may not campaign now (no member, nobody connected): wait again.
            engine.restart_election_timer()
        self._notice_changes()
        self._release(_NO_DISK)
        if engine.is_leader():
            self._lead(now, commit_before)
        else:
            self._forwarding.forward()
            self._reads.ask(now)
        self._reads.serve()

    def _sweep(self, now: float) -> None:
        """Once a second: forget what nobody waits for, and let a commit index that moved alone be stored."""
        if now - self._swept_at < 1.0:
            return
        self._swept_at = now
        self._following.sweep(now)
        self._pending.drop_cancelled()
        self._reads.drop_cancelled()
        self._journal.flush_later()

    def _lead(self, now: float, commit_before: int) -> None:
        self._cluster_clock.judge(self._membership.voter_names)
        self._replication.lead(now, commit_before)
        self._membership.roll_call.lead(now)
        self._reads.lead(now)
        self._handover.lead(now)

    def _sees(self) -> tuple[str, int, Node | None]:
        """Its role, term and leader."""
        engine = self._engine
        role = "leader" if engine.is_leader() else "candidate" if engine.is_candidate() else "follower"
        return role, engine.term(), engine.leader()

    def _notice_changes(self) -> None:
        engine, seen = self._engine, self._sees()
        if seen == self._seen:
            return
        role, _, leader = seen
        (was_role, was_term, was_leader), self._seen = self._seen, seen
        self._core.tally.saw(term=engine.term(), stands=role != "follower", has_leader=leader is not None)
        if was_role == "leader" and (role != "leader" or engine.term() != was_term):
            self._stop_leading()
        if leader != was_leader or role != was_role:
            self._forwarding.leader_changed()
        if role == "leader":
            self._elections.led()
        extra = {"role": role, "term": engine.term(), "leader": None if leader is None else leader.id}
        reason = self._following.why_no_leader(was_role, was_leader)
        _log.info("raft state changed", extra={**extra, "reason": reason})
        self.on_change()

    def _stop_leading(self) -> None:
        self._replication.reset()
        self._membership.stop_leading()
        if not self._engine.is_leader():
            self._cluster_clock.follow()
        self._reads.stop_leading()
        self._handover.end(self.leader(), None)
        self._membership.abandon(
            OutcomeUnknown("the leader changed while the membership changed: look at the members")
        )

    def fail(self, error: CyoloctlError) -> None:
        """Go silent: nothing that was not persisted may be voted for or acknowledged."""
        self._core.failed = error
        self._core.outbox.clear()
        _log.critical("the replica stopped", extra={"error": error.message, "code": error.code})
        self.abandon(error)
        self.on_change()

    def abandon(self, error: CyoloctlError) -> None:
        """Answer everything that waits: unknown where it may be in a log, otherwise with the error."""
        unknown = OutcomeUnknown(f"{error.message}; the write may or may not have been applied")
        held = self._pending.take_all()
        held.extend(self._forwarding.take_all())
        for waiting in list(self._engine.waiting_commit.values()):
            for _, callback in waiting:
                callback(None, None)
        self._engine.waiting_commit.clear()
        for proposal in held + self._pending.take_all():
            proposal.settle(None, unknown if proposal.sent else error)
        self._reads.abandon(error)
        self.turns.abandon(error)
        self._membership.abandon(unknown)
        self._handover.end(None, error)

    def close(self) -> None:
        """Leave no file open; nothing may be called after it."""
        self._snapshotting.close()

    # --------------------------------------------------------------- links

    def peer_connected(self, peer: RaftId) -> None:
        """A link with an authenticated, not removed peer of the cluster began."""
        if self.failed is not None or self._holds(lambda: self.peer_connected(peer)):
            return
        node = self._core.node(peer)
        engine = self._engine
        engine.connected.add(node)
        if node in self._progress:
            self._progress[node].refused = None
        self._membership.derive_learners()
        if engine.is_leader() and node in self._progress:
            # What was in flight is lost with the old link.
            self._progress[node].restart(self._journal.last_index)
            self._replication.send(node, heartbeat=True)

    def peer_disconnected(self, peer: RaftId) -> None:
        """The link with the peer ended; what was in flight is lost."""
        if self.failed is not None or self._holds(lambda: self.peer_disconnected(peer)):
            return
        node = self._core.node(peer)
        engine = self._engine
        self._cluster_clock.forget(name_of(peer))
        engine.connected.discard(node)
        if node in self._progress:
            self._progress[node].parting = None
            self._progress[node].stop_sending()
        self._snapshotting.disconnected(node)
        self._membership.derive_learners()
        self._forwarding.disconnected(node)
        self._reads.disconnected(node)
        if not engine.is_leader() and engine.leader() == node:
            self._elections.lost_leader()

    def peer_clocks(
        self, peer: RaftId, *, wall_unix_ms: int, trip_s: float, epoch: int, unix_ms: int
    ) -> None:
        """A peer answered what its clocks show: its wall clock, and cluster time as it knows it.

        Its wall clock counts as one of the voters'.  Cluster time is the leader's to say.
        """
        if self.failed is None:
            self._cluster_clock.measured(name_of(peer), wall_unix_ms, trip_s)
            if not self._engine.is_leader() and self.leader() == peer:
                self._cluster_clock.observe(epoch, unix_ms)

    # ---------------------------------------------------------- configuration

    def on_membership_logged(self) -> None:
        """A membership entry was appended to the log: it holds from now on (row 4)."""
        command, index, _ = self._journal.entries[-1]
        self._membership.logged(index, command)

    def on_truncated(self, index: int) -> None:
        """Entries from index on left the log: so do the configurations they brought."""
        self._membership.truncated(index)
        for position in sorted((i for i in self._engine.waiting_commit if i >= index), reverse=True):
            for _, callback in self._engine.waiting_commit.pop(position):
                callback(None, None)

    def add_voter(self, raft_id: RaftId, callback: Done) -> None:
        """Make a learner that has caught up a voter: see `Membership.add_voter`."""
        if not self._holds(lambda: self.add_voter(raft_id, callback), callback):
            self._membership.add_voter(raft_id, callback)

    def remove(self, raft_id: RaftId, callback: Done, *, force: bool = False) -> None:
        """Remove a voter or learner permanently: see `Membership.remove`."""
        if not self._holds(lambda: self.remove(raft_id, callback, force=force), callback):
            self._membership.remove(raft_id, callback, force=force)

    def demote(self, raft_id: RaftId, callback: Done) -> None:
        """Make a voter a learner: see `Membership.demote`."""
        if not self._holds(lambda: self.demote(raft_id, callback), callback):
            self._membership.demote(raft_id, callback)

    # --------------------------------------------------------------- applying

    def apply_entry(self, index: int, command: bytes) -> list[bytes] | None:
        """Row 11: total.  The engine calls it once for each committed entry, in order."""
        kind = command[:1]
        if kind in (STAMPED, REGULAR):
            results = apply_commands(self._machine, index, command)
            self._cluster_clock.applied(self._machine.stamp())
            return results
        if kind == MEMBERSHIP:
            self._membership.apply(index)
        return None

    # -------------------------------------------------------------- proposals

    def propose(
        self, command: bytes, callback: Done, *, lead: int = 0, behind: Proposal | None = None
    ) -> Proposal:
        """Replicate a command, through whichever node leads: see `Appending.propose`."""
        return self._appending.propose(command, callback, lead=lead, behind=behind)

    def before_applying(self) -> None:
        """What is committed is known: as leader, send what waited for that before applying it.

        So the followers write the next entry while this node applies the one before it, and answers.
        """
        if self._pending and self._engine.is_leader() and self._journal.is_term_durable():
            self.append_pending()
            self.replicate(heartbeat=False)
            self._release(_AHEAD_OF_THE_DISK)

    # ------------------------------------------------------------------ reads

    def read(self, callback: Done) -> ReadRequest:
        """Linearizable barrier: see `ReadIndex.read`."""
        return self._reads.read(callback)

    # --------------------------------------------------------------- transfer

    def transfer_leadership(self, to: str | None, callback: Done) -> None:
        """Hand leadership to a voter: see `Handover.begin`."""
        if not self._holds(lambda: self.transfer_leadership(to, callback), callback):
            self._handover.begin(to, callback)

    # -------------------------------------------------------------- elections

    def on_become_leader(self) -> None:
        """Start again with every peer; the no-op follows at once."""
        self._replication.reset()
        self._handover.leads()
        last = self._last_stamp(to_index=self._journal.last_index)
        self._cluster_clock.lead(max(last, self._machine.stamp()))
        self._cluster_clock.judge(self._membership.voter_names)

    # ------------------------------------------------------------ replication

    def maybe_compact(self, *, force: bool = False) -> None:
        """Save a snapshot when the log has grown: see `Snapshotting.maybe_compact`."""
        if not self._holds(lambda: self.maybe_compact(force=force)):
            self._snapshotting.maybe_compact(force=force)

    # --------------------------------------------------------------- messages

    def receive(self, peer: RaftId, message: Message) -> bool:
        """A message from the live link of an authenticated peer, decoded and well-typed.

        Returns False when no `tick` is needed for it; else call that next.
        Messages that this engine does not know are ignored.
        """
        if self.failed is not None:
            return True
        if self.turns.is_suspended and not self._is_for_now(peer, message):
            self.turns.hold(lambda: self.receive(peer, message))
            return False
        handler = self._handlers.get(message["type"])
        if handler is None:
            return False
        node = self._core.node(peer)
        if node not in self._engine.connected:
            return False
        if message.get("term", 0) - self._engine.term() > self._limits.term_step:
            _log.critical("a peer's term is beyond reason: ignored", extra={"peer": peer})
            return False
        try:
            return handler(node, message) is not False
        except CyoloctlError as error:
            self.fail(error)
            return True
