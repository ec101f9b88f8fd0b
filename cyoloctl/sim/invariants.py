"""The invariants: what must hold at every step, whatever happened before.

Names in brackets are those of the Raft paper, figure 3.  Each check costs
little, so all of them run after every turn of every node:

- there is one leader per term [election safety];
- two entries with the same index and term are the same, and so are the ones
  before them, which by induction makes the logs equal up to there [log
  matching];
- a leader holds every entry committed before its term [leader completeness];
- a committed entry is the same on every node, and no node drops it;
- an entry is committed only when a majority of the voters holds it on disk;
- at every index all nodes give the same results and have the same state, and
  the results are those of a naive model of the counters, of the memory of
  requests, and of promises across all machines [state machine safety, exactly
  once];
- no table of a machine holds more than it may, nobody is refused for one that
  has room, and every state can be restored [bounds];
- the level never falls, is raised only to what every member announced, and nothing above it is carried out;
- nothing is ever sealed to a witness, and a witness stays one;
- a client that was told that its write was not applied was told the truth, for
  good, and one that was given an answer has that of a committed entry;
- term, vote and acknowledged entries are on disk before a message tells of
  them [figure 2], and a node whose disk failed says nothing more;
- the configuration of a node is the committed one with the changes in its log;
- with any minority of wall clocks wrong, cluster time on no node is later than
  the latest right clock, goes back, or stands still (`CLOCK_LATE_MS`,
  `CLOCK_SLOW`), and at the end it is not so far behind the earliest right
  clock that it should have stepped (`CLOCK_BEHIND_MS`);
- steady time, by which request ids grow old, is never more than has passed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from cyoloctl.errors import VersionMismatch
from cyoloctl.model import NO_STAMP, RaftId, Source, Stamp, name_of
from cyoloctl.raft.batch import BatchItem, decode_batch
from cyoloctl.raft.clock import STEP_S, ClusterClock
from cyoloctl.raft.journal import Batch, Entry, Journal, Store, StoredState
from cyoloctl.raft.replica import Replica
from cyoloctl.raft.snapshot import SnapshotStore
from cyoloctl.raft.vendor import MEMBERSHIP, STAMPED, decode_membership
from cyoloctl.replicated.command import Command, decode_command
from cyoloctl.sim.bounds import Bounds
from cyoloctl.sim.disk import Disk
from cyoloctl.sim.model import Model
from cyoloctl.sim.releases import LevelJudge
from cyoloctl.sim.replay import answers_digest
from cyoloctl.sim.timeline import Timeline
from cyoloctl.sim.told import Told
from cyoloctl.sim.witnesses import sealed_to_witness
from cyoloctl.state import ClusterState, StateLimits

__all__ = ["Invariants", "Member", "WatchedJournal", "WatchedMachine"]

_DIGEST_EVERY = 16  # indexes
_LARGE_BYTES = 30_000  # ten seconds on the narrowest link
_STEADY_LATE_MS = 10
_LIMITS = StateLimits()

CLOCK_LATE_MS = 250
"""A measurement is a lower bound; this covers how far right clocks differ, and slewing between two looks."""
CLOCK_SLOW = 0.89
"""Cluster time passes at nine tenths of real time or faster."""
CLOCK_BEHIND_MS = 1000 * STEP_S + 500

Configuration = tuple[frozenset[RaftId], frozenset[RaftId]]


class Member(Protocol):
    """A node, as far as the invariants look at it.

    life: the number of its process, which grows when one ends.  elapsed:
    seconds since the present turn began.  replica: None without a process.
    """

    @property
    def name(self) -> str: ...
    @property
    def raft_id(self) -> RaftId: ...
    @property
    def life(self) -> int: ...
    @property
    def elapsed(self) -> float: ...
    @property
    def disk(self) -> Disk: ...
    @property
    def journal(self) -> Journal: ...
    @property
    def snapshots(self) -> SnapshotStore: ...
    @property
    def machine(self) -> WatchedMachine: ...
    @property
    def cluster_clock(self) -> ClusterClock: ...
    @property
    def replica(self) -> Replica | None: ...


def _after(configuration: Configuration, command: bytes) -> Configuration:
    """The configuration after a command, worked out independently of the replica.

    A removed id never returns.
    """
    change = decode_membership(command)
    if change is None:
        return configuration
    voters, removed = configuration
    operation, name = change
    if operation == "add":
        return (voters, removed) if name in removed else (voters | {name}, removed)
    if operation == "remove":
        life = name.partition("~")
        removed = frozenset(other for other in removed if not (life[1] and other.split("~")[:1] == [life[0]]))
        removed |= {name}
    return voters - {name}, removed


class WatchedStore:
    """`Store` that shows every entry that is durable to the invariants.

    An entry that was neither stored nor sent does not count: a node that stops may use its index
    and term for another one.
    """

    def __init__(self, store: Store, invariants: Invariants, node: Member) -> None:
        self._store, self._watch, self._node = store, invariants, node

    def load(self) -> StoredState | None:
        """See Store."""
        state = self._store.load()
        if state is not None:
            self._show(state.entries)
        return state

    def commit(self, batch: Batch) -> None:
        """See Store."""
        self._store.commit(batch)
        self._show(batch.entries)

    def is_short(self) -> bool:
        """See Store."""
        return self._store.is_short()

    def find_room(self) -> bool:
        """See Store."""
        return self._store.find_room()

    def close(self) -> None:
        """See Store."""
        self._store.close()

    def _show(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        previous = self._node.disk.journal.entry(entries[0][1] - 1)
        before = -1 if previous is None else previous[2]
        for entry in entries:
            self._watch.holds(self._node, entry, before)
            before = entry[2]


class WatchedJournal(Journal):
    """The journal, with every entry that becomes durable or is dropped shown to the invariants."""

    def __init__(
        self, store: Store, invariants: Invariants, node: Member, clock: Callable[[], float]
    ) -> None:
        self._watch, self._node = invariants, node
        super().__init__(WatchedStore(store, invariants, node), clock=clock)

    def truncate_from(self, index: int) -> None:
        """See Journal."""
        for entry in self.entries[max(0, index - self.first_index) :]:
            self._watch.drops(self._node, entry)
        super().truncate_from(index)

    def reset(self, index: int, term: int) -> None:
        """See Journal."""
        for entry in self.entries:
            if entry[1] > index:
                self._watch.drops(self._node, entry)
        super().reset(index, term)


class WatchedMachine:
    """The real machines, with every result shown to the invariants."""

    def __init__(self, state: ClusterState, invariants: Invariants, node: Member) -> None:
        self._state, self._watch, self._node = state, invariants, node
        self._index = self._position = 0
        self._stamp = NO_STAMP  # of the entry that is applied
        self._digest_done = 0
        self._restored: str | None = None  # digest of a state whose index is not known yet

    def advance(self, stamp: Stamp) -> None:
        """See StateMachine."""
        self.check_restored()
        self._stamp = stamp
        self._state.advance(stamp)

    def stamp(self) -> Stamp:
        """See StateMachine."""
        return self._state.stamp()

    def refused_unlogged(self, result: bytes) -> bool:
        """See StateMachine."""
        return self._state.refused_unlogged(result)

    def admit(self, command: bytes, peer: str, role: str) -> bytes | None:
        """See StateMachine."""
        return self._state.admit(command, peer, role)

    def apply(self, index: int, command: bytes, after: int | None = None) -> bytes:
        """See StateMachine."""
        self.check_restored()
        if index != self._index:
            if index < self._index:
                self._watch.time.fail("apply", f"{self._node.name} applies {index} after {self._index}")
            self._index, self._position = index, 0
            if index // _DIGEST_EVERY > self._digest_done:
                self._digest_done = index // _DIGEST_EVERY
                # All that is below this index: the same moment on every node.
                self._watch.state(self._node, index - 0.5, self._state.digest())
        result = self._state.apply(index, command, after)
        item = BatchItem(command, after)
        self._watch.applied(self._node, index, self._position, item, result, self._stamp, self._state)
        self._position += 1
        return result

    def begin_snapshot(self) -> Callable[[], Iterator[bytes]]:
        """See StateMachine."""
        encode, replica = self._state.begin_snapshot(), self._node.replica
        index = None if replica is None else replica.applied_index()

        def watched() -> Iterator[bytes]:
            # Later, when more was applied: it is the state of the moment all the same.
            last = b""
            for part in encode():
                yield part
                last = part[-32:]
            if index is not None:
                self._watch.state(self._node, index, last.hex())

        return watched

    def prepare_restore(self, source: Source, /) -> Callable[[], None]:
        """See StateMachine."""
        counted = _Counted(source)
        try:
            commit = self._state.prepare_restore(counted)
        except VersionMismatch:
            self._watch.time.count("snapshot of a newer release refused")
            raise

        def committed() -> None:
            commit()
            if self._node.replica is not None:
                self._watch.time.count("snapshot installed")
                if counted.size > _LARGE_BYTES:
                    self._watch.time.count("large snapshot installed")
            self._restored = self._state.digest()  # of what was made of it, not of what was read

        return committed

    def check_restored(self) -> None:
        """Show a restored state once its index is known.

        A snapshot is readable before it is in place.
        """
        digest, meta = self._restored, self._node.snapshots.meta
        if digest is not None and meta is not None:
            self._restored = None
            self._index, self._position = meta.index, 0
            self._digest_done = max(self._digest_done, meta.index // _DIGEST_EVERY)
            self._watch.state(self._node, meta.index, digest)
            self._watch.restored(self._node, meta.index, meta.voters, meta.removed)


class _Counted:
    """A source, and how much was read from it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.size = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self.size += len(data)
        return data


class _Seen:
    """Extent to which one process was watched."""

    def __init__(self, life: int) -> None:
        self.life = life
        self.commit = 0
        self.role: tuple[bool, int] = (False, 0)
        self.configuration: tuple[object, ...] = ()
        self.clock: tuple[float, int, int] | None = None  # time of the run, epoch, cluster time


class Invariants:
    """The claims at the head of this module, checked on one run."""

    def __init__(self, time: Timeline, tables: StateLimits = _LIMITS) -> None:
        """tables: the limits of the nodes' tables."""
        self.time = time
        self.told = Told(time)
        self.disks: dict[str, Disk] = {}
        """Where each member keeps its log, or kept it when its process ended, by raft id."""
        self.model = Model(tables)
        self.bounds = Bounds(tables)
        self.levels: LevelJudge | None = None  # where there are levels
        self.committed: dict[int, tuple[bytes, int]] = {}
        self.top = 1  # the highest committed index
        self.observed = 0  # the highest index that a client has seen the effect of
        self._entries: dict[tuple[int, int], tuple[bytes, int]] = {}
        self._leaders: dict[int, tuple[str, int]] = {}
        self._committed_in: dict[int, int] = {}  # term -> highest index committed in it
        self._configurations: list[tuple[int, Configuration]] = [(0, (frozenset(), frozenset()))]
        self._results: dict[tuple[int, int], tuple[BatchItem, bytes]] = {}
        self._states: dict[float, str] = {}
        self._forgotten: set[str] = set()  # names whose record was removed
        self._votes: dict[tuple[str, int], str] = {}
        self._seen: dict[str, _Seen] = {}

    # The log.

    def holds(self, node: Member, entry: Entry, before: int) -> None:
        """A node's log has this entry after one of the term `before`; -1: this one is the base."""
        command, index, term = entry
        if before < 0:
            return  # a base need not keep its command, nor what was before it
        known = self._entries.setdefault((index, term), (command, before))
        if known != (command, before):
            self.time.fail("log matching", f"{node.name} has another entry {index} of term {term}")

    def drops(self, node: Member, entry: Entry) -> None:
        """A node's log loses this entry."""
        command, index, term = entry
        if self.committed.get(index) == (command, term):
            self.time.fail("durability", f"{node.name} drops the committed entry {index} of term {term}")

    # The state.

    def applied(
        self,
        node: Member,
        index: int,
        position: int,
        item: BatchItem,
        result: bytes,
        stamp: Stamp,
        state: ClusterState,
    ) -> None:
        """A node applied a command, one of those at an index, with this result.

        stamp: of the entry.  state: of the node, after it.
        """
        known = self._results.get((index, position))
        if known is None:
            self._results[index, position] = (item, result)
            self._check_steady(node, index, stamp)
            command, answer = item.command, json.loads(result)
            request = decode_command(command)
            if (request.machine, request.operation) == ("members", "remove") and "error" not in answer:
                self._forgotten.add(request.arguments["name"])
            wrong, fresh = self.model.apply(index, command, item.after, answer, stamp)
            if wrong is not None:
                self.time.fail("exactly once", f"{node.name}: {wrong}")
            if fresh:
                self.told.applied(request.request_id, index)
                broken = self.bounds.wrong(state, request, answer)
                if broken is not None:
                    self.time.fail("bounds", f"{node.name} at {index}: {broken}")
                early = None if self.levels is None else self.levels.applied(request, answer, state)
                if early is not None:
                    self.time.fail("level", f"{node.name} at {index}: {early}")
                sealed = None if "error" in answer else sealed_to_witness(state, request)
                if sealed is not None:
                    self.time.fail("witness", f"{node.name} at {index}: {sealed}")
        elif known != (item, result):
            claim = f"{node.name} applied {item!r} -> {result!r} at {index}, another node {known}"
            self.time.fail("state machine safety", claim)

    def answers(self) -> dict[int, str]:
        """Index -> a digest of what was answered there."""
        results: dict[int, list[bytes]] = {}
        for (index, _), (_, result) in sorted(self._results.items(), key=lambda item: item[0]):
            results.setdefault(index, []).append(result)
        return {index: answers_digest(found) for index, found in results.items()}

    def _check_steady(self, node: Member, index: int, stamp: Stamp) -> None:
        """Steady time is what leaders' monotonic clocks have counted: no more than has passed."""
        passed_ms = (self.time.now + node.elapsed) * 1000
        if stamp.steady_ms > passed_ms + _STEADY_LATE_MS and not self.time.monotonic_faults:
            claim = (
                f"entry {index} has the steady time {stamp.steady_ms} ms, {passed_ms:.0f} ms after the start"
            )
            self.time.fail("clock", claim)

    def state(self, node: Member, index: float, digest: str) -> None:
        """A node's state has this digest at an index."""
        if self._states.setdefault(index, digest) != digest:
            self.time.fail("state machine safety", f"{node.name} has another state at index {index:g}")

    def restored(
        self, node: Member, index: int, voters: tuple[RaftId, ...], removed: tuple[RaftId, ...]
    ) -> None:
        """A node restored a snapshot of an index, with this configuration."""
        expected = self._configuration_at(index)
        if (frozenset(voters), frozenset(removed)) != expected:
            claim = f"{node.name} restored {voters}, {removed} at {index}, committed is {expected}"
            self.time.fail("configuration", claim)

    def _configuration_at(self, index: int) -> Configuration:
        found = self._configurations[0][1]
        for position, configuration in self._configurations:
            if position > index:
                break
            found = configuration
        return found

    def voters(self) -> frozenset[RaftId]:
        """Raft ids of the voters of the latest committed configuration; none before there is one."""
        return self._configurations[-1][1][0]

    def removed_names(self) -> set[str]:
        """Names of the removed members of the latest committed configuration."""
        return {name_of(raft_id) for raft_id in self._configurations[-1][1][1]}

    def voter_names(self) -> set[str]:
        """Names of the voters of the latest committed configuration; none before there is one."""
        return {name_of(raft_id) for raft_id in self._configurations[-1][1][0]}

    def was_removed(self, raft_id: RaftId) -> bool:
        """True when a committed entry removed it, or the record of its name."""
        return raft_id in self._configurations[-1][1][1] or name_of(raft_id) in self._forgotten

    # Messages.

    def sending(self, node: Member, peer: str, message: dict[str, Any]) -> None:
        """Figure 2: on stable storage before responding."""
        kind = message["type"]
        replica = node.replica
        if replica is not None and replica.failed is not None:
            self.time.fail("silence", f"{node.name} sends {kind} after its disk failed")
        if kind in ("pre_vote", "pre_vote_response"):
            return
        record = node.disk.record()
        term = record.term
        if message.get("term", 0) > term:
            last = node.disk.journal.entry(record.last_index)
            if last is None or message["term"] > last[2]:
                claim = f"{node.name} tells {peer} of term {message['term']} and has {term} on disk"
                self.time.fail("persistence", claim)
        if kind == "append_entries":  # the one message that may leave before its own sync
            before = message["prev_log_term"]
            for entry in message["entries"]:
                self.holds(node, entry, before)
                before = entry[2]
        if kind == "vote_response":
            # A vote of a term that has passed meanwhile binds nobody: the higher term does.
            if term == message["term"] and record.vote != peer:
                claim = (
                    f"{node.name} votes for {peer} in term {term} and has a vote for {record.vote} on disk"
                )
                self.time.fail("persistence", claim)
            earlier = self._votes.setdefault((node.raft_id, message["term"]), peer)
            if earlier != peer:
                claim = f"{node.name} votes for {earlier} and {peer} in term {message['term']}"
                self.time.fail("election safety", claim)
        if kind == "append_response" and message["success"]:
            index = message["next_index"] - 1
            entry = node.journal.entry(index)
            on_disk = node.disk.journal.entry(index)
            if record.last_index < index or (
                entry is not None and on_disk is not None and entry[2] != on_disk[2]
            ):
                claim = f"{node.name} acknowledges {index} and has {record.last_index} on disk"
                self.time.fail("persistence", claim)

    # A turn.

    def started(self, node: Member) -> None:
        """A node has a new process."""
        self._seen[node.name] = _Seen(node.life)

    def observe(self, node: Member) -> None:
        """Check a node after its turn."""
        replica, seen = node.replica, self._seen[node.name]
        if node.disk.broken is not None:
            self.time.fail("disk", f"{node.name}: {node.disk.broken}")
        if replica is None or replica.failed is not None:
            return
        node.machine.check_restored()
        self._check_clock(node, seen)
        term, leads, commit = replica.term(), replica.is_leader(), replica.commit_index()
        if (leads, term) != seen.role:
            if leads:
                self._leads(node, term)
            seen.role = (leads, term)
        self._catch_up(node)
        journal = node.journal
        now = (commit, journal.last_index, journal.last_term, journal.first_index)
        if now != seen.configuration:
            seen.configuration = now
            self._check_configuration(node, commit)

    def _check_clock(self, node: Member, seen: _Seen) -> None:
        """Cluster time, as this node knows it."""
        time = self.time
        now, epoch = node.cluster_clock.now_unix_ms(), node.cluster_clock.epoch
        if not now or time.monotonic_faults:
            return
        here = time.now + node.elapsed
        late = now - time.latest_right_unix_ms() - int(node.elapsed * 1000)
        if late > CLOCK_LATE_MS:
            self.time.fail("clock", f"cluster time on {node.name} is {late} ms later than every right clock")
        before, seen.clock = seen.clock, (here, epoch, now)
        if before is not None and before[1] == epoch:
            passed = (here - before[0]) * 1000
            if now - before[2] < passed * CLOCK_SLOW - 2:
                claim = f"cluster time on {node.name} went {now - before[2]} ms in {passed:.0f} ms"
                self.time.fail("clock", claim)

    def check_clocks_agree(self, nodes: Iterable[Member]) -> None:
        """After some peace: check that cluster time is nowhere so far behind that it should have stepped.

        nodes: those with a process.
        """
        for node in nodes:
            if self.was_removed(node.raft_id):
                continue
            behind = self.time.earliest_right_unix_ms() - node.cluster_clock.now_unix_ms()
            if behind > CLOCK_BEHIND_MS and not self.time.monotonic_faults:
                claim = f"cluster time on {node.name} is {behind} ms behind every right clock"
                self.time.fail("clock", claim)

    def _catch_up(self, node: Member) -> None:
        """Check what a node committed since it was last watched."""
        replica, seen = node.replica, self._seen[node.name]
        if replica is not None:
            commit = replica.commit_index()
            if commit > seen.commit:
                since, seen.commit = seen.commit, commit
                self._commits(node, since, commit, replica.term() if replica.is_leader() else None)

    def _leads(self, node: Member, term: int) -> None:
        self.time.count("leader")
        self.time.log("%s leads in term %d", node.name, term)
        self.time.led_at[node.name] = self.time.now
        key = (node.name, node.life)
        if self._leaders.setdefault(term, key) != key:
            claim = f"{node.name} and {self._leaders[term][0]} both lead in term {term}"
            self.time.fail("election safety", claim)
        earlier = max((top for t, top in self._committed_in.items() if t < term), default=0)
        entry = node.journal.entry(earlier)
        held = entry is not None and (entry[0], entry[2]) == self.committed.get(earlier)
        if earlier > node.journal.first_index and not held:
            claim = f"{node.name} leads in term {term} without the committed entry {earlier}"
            self.time.fail("leader completeness", claim)

    def _commits(self, node: Member, since: int, commit: int, leads_term: int | None) -> None:
        journal, first = node.journal, node.journal.first_index
        for index in range(max(since + 1, first), commit + 1):
            entry = journal.entry(index)
            if entry is None:
                self.time.fail("durability", f"{node.name} has committed {index} and does not hold it")
                return
            command, _, term = entry
            if index == first and index > 1:
                continue
            known = self.committed.get(index)
            if known is None:
                self.committed[index] = (command, term)
                if command[:1] == MEMBERSHIP:
                    before = self._configurations[-1][1]
                    self._configurations.append((index, _after(before, command)))
                if index != self.top + 1 and index != 1:
                    self.time.fail("durability", f"{index} is committed after {self.top}")
                self.top = index
            elif known != (command, term):
                claim = f"{node.name} has another committed entry {index}: term {term}, not {known[1]}"
                self.time.fail("state machine safety", claim)
        if leads_term is not None:
            self._committed_in[leads_term] = max(commit, self._committed_in.get(leads_term, 0))
            self._check_majority(node, commit)

    def _check_majority(self, node: Member, commit: int) -> None:
        """A majority of the voters holds on disk everything that a leader calls committed.

        Of the voters of the log up to there, or of the whole: in the same
        turn it may have gone on to append a change of the voters.
        """
        entry = node.journal.entry(commit)
        assert node.replica is not None
        voters, before = node.replica.voters(), self._configuration_at(commit)[0]
        holders = []
        for name in voters | before:
            disk = self.disks[name]
            record, there = disk.record(), disk.journal.entry(commit)
            same = there is not None and entry is not None and there[2] == entry[2]
            # What a disk that lied acknowledged counts as held: see `Dishonesty`.
            if same or record.first_index > commit or not disk.is_honest():
                holders.append(name)
        if all(2 * len(each.intersection(holders)) <= len(each) for each in (voters, before)):
            where = f"on disk of {sorted(holders)} of {sorted(voters)}"
            self.time.fail("durability", f"{node.name} says {commit} is committed: {where}")

    def _check_configuration(self, node: Member, commit: int) -> None:
        expected = self._configuration_at(commit)
        journal = node.journal
        start = max(0, commit + 1 - journal.first_index)
        for command, _, _ in journal.entries[start:]:
            if command[:1] == MEMBERSHIP:
                expected = _after(expected, command)
        assert node.replica is not None
        configuration = node.replica.configuration()
        if configuration != expected:
            claim = f"{node.name} has {sorted(configuration[0])}, its log says {sorted(expected[0])}"
            self.time.fail("configuration", claim)

    # Clients.

    def acknowledged(self, node: Member, command: bytes, answer: dict[str, Any], floor: int) -> None:
        """A client was given an answer: its command was applied once, after all the client could know."""
        self._catch_up(node)  # the leader answers in the middle of its turn
        request = decode_command(command)
        given = self.model.given.get(request.request_id, [])
        found = [at for at, known, known_answer in given if known == command and known_answer == answer]
        if not found:
            self.time.fail("acknowledgement", f"acknowledged {answer}, applied is {given}")
            return
        index = answer["index"]
        for at in {index, found[0]}:
            if at not in self.committed or self.committed[at][0][:1] != STAMPED:
                self.time.fail("acknowledgement", f"acknowledged at {at}, which is not committed")
            elif request.automatic and not self._holds(at, request):
                self.time.fail("acknowledgement", f"acknowledged at {at}, which holds something else")
        if index <= floor:
            self.time.fail("linearizability", f"a write took index {index}, clients had seen {floor} before")
        self.observed = max(self.observed, index)

    def _holds(self, at: int, request: Command) -> bool:
        """Whether a committed entry holds a command of this id: a repetition may have drawn other keys."""
        asked = (request.machine, request.operation, request.request_id)
        held = (decode_command(command) for command, _ in decode_batch(self.committed[at][0]))
        return any(asked == (each.machine, each.operation, each.request_id) for each in held)

    def acknowledged_change(self, node: Member, index: int) -> None:
        """The caller who asked for a change of the configuration was told that it took place."""
        self._catch_up(node)
        if self.committed.get(index, (b"", 0))[0][:1] != MEMBERSHIP and index > self.top:
            self.time.fail("acknowledgement", f"a change was acknowledged at {index}, which is not committed")

    def read(self, node: Member, index: int, floor: int, name: str, value: int | None) -> None:
        """A client has read a counter at an applied index."""
        if index < floor:
            claim = f"{node.name} answers a read at index {index}, clients had seen {floor} before"
            self.time.fail("stale read", claim)
        if value != self.model.value_at(name, index):
            claim = f"{node.name} reads {name} = {value} at {index}, not {self.model.value_at(name, index)}"
            self.time.fail("wrong read", claim)
        self.observed = max(self.observed, index)
