"""The stories' cluster on our adapter: real replica, journal and snapshot store, virtual time and network."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from cyoloctl.model import NO_STAMP, Source, Stamp
from cyoloctl.raft.clock import ClusterClock
from cyoloctl.raft.journal import Journal, MemoryStore
from cyoloctl.raft.replica import Replica
from cyoloctl.raft.settings import Limits, Timing
from cyoloctl.raft.snapshot import SnapshotStore
from cyoloctl.raft.vantage import NOTHING_SEEN, View
from tests.support.engine_harness import Cluster, Luck, Machine, Outcome

__all__ = ["ListMachine", "OurCluster", "append", "lagging"]


def append(term: int, previous: tuple[int, int], *entries: tuple[bytes, int, int], commit: int = 1) -> Any:
    """A leader's message; previous is (index, term)."""
    return {
        "type": "append_entries",
        "term": term,
        "leader_commit": commit,
        "prev_log_index": previous[0],
        "prev_log_term": previous[1],
        "entries": list(entries),
    }


class ListMachine:
    """A list of distinct commands: a command that comes again gets its first answer.

    That is what the replica asks of a state machine, because it proposes again after a change of leader.
    """

    def __init__(self, owner: Machine) -> None:
        self._owner = owner
        self.items: list[bytes] = []
        self.stamped = NO_STAMP

    def advance(self, stamp: Stamp) -> None:
        self.stamped = stamp

    def stamp(self) -> Stamp:
        return self.stamped

    def admit(self, command: bytes, peer: str, role: str) -> bytes | None:
        return None

    def refused_unlogged(self, result: bytes) -> bool:
        return result == b"refused"

    def apply(self, index: int, command: bytes, after: int | None = None) -> bytes:
        self._owner.applied.append((index, command))
        if command.startswith(b"poison"):
            raise ValueError("apply of a poisoned command")
        if command not in self.items:
            self.items.append(command)
        return b"%d" % (self.items.index(command) + 1)

    def begin_snapshot(self) -> Callable[[], Iterable[bytes]]:
        items = list(self.items)
        return lambda: (len(item).to_bytes(4, "big") + item for item in items)

    def prepare_restore(self, source: Source, /) -> Callable[[], None]:
        data, items, position = source.read(2**31), list[bytes](), 0
        while position < len(data):
            end = position + 4 + int.from_bytes(data[position : position + 4], "big")
            items.append(data[position + 4 : end])
            position = end

        def commit() -> None:
            self.items = items

        return commit


@dataclass
class Disk:
    """Data that survives a crash."""

    store: MemoryStore
    snapshots: SnapshotStore | None  # in memory
    directory: Path | None


@dataclass
class Running:
    """One life of a node."""

    replica: Replica
    journal: Journal
    snapshots: SnapshotStore
    machine: ListMachine
    cluster_clock: ClusterClock


class OurCluster(Cluster):
    """cyoloctl's Replica."""

    opened: ClassVar[list[OurCluster]] = []  # a fixture closes them after each test

    def __init__(
        self,
        names: Iterable[str],
        *,
        directory: Path | None = None,
        timing: Timing | None = None,
        limits: Limits | None = None,
        seed: int = 1,
    ) -> None:
        self.timing, self.seed = timing or Timing(), seed
        # Stories count entries: each proposal is one here, however many wait.
        self.limits = replace(limits or Limits(keep_entries=0), uncommitted_entries=1_000_000)
        self.founders = tuple(names)
        self.held_saves: dict[str, list[Callable[[], None]]] = {}
        self.views: dict[str, View] = {}  # what a node is told of links
        self.standing_back: set[str] = set()  # who leads only where no other can
        self._lives = 0
        self.opened.append(self)
        super().__init__(self.founders, directory=directory)

    # -- nodes --

    def _new_machine(self, name: str, genesis: tuple[str, ...]) -> Machine:
        directory = None
        if self.directory is not None:
            directory = self.directory / name
            directory.mkdir()
        snapshots = SnapshotStore(None) if directory is None else None
        return Machine(name, genesis, Disk(self._new_store(), snapshots, directory))

    def _new_store(self) -> MemoryStore:
        return MemoryStore()

    def _build(self, machine: Machine) -> None:
        disk: Disk = machine.disk
        self._lives += 1
        journal = Journal(disk.store, clock=lambda: 0.0)
        snapshots = disk.snapshots or SnapshotStore(disk.directory)
        state = ListMachine(machine)
        name = machine.name
        cluster_clock = ClusterClock(
            name, wall_unix_ms=lambda: 1_780_000_000_000, monotonic=self.clock_of(name)
        )
        replica = Replica(
            name,
            genesis=machine.genesis,
            journal=journal,
            snapshots=snapshots,
            machine=state,
            clock=self.clock_of(name),
            cluster_clock=cluster_clock,
            rng=self._rng(name),
            send=lambda peer, message: self._send(machine, replica, peer, message),
            flush=lambda: self._flush(machine, replica),
            run_in_background=lambda job: self._run_in_background(name, job),
            view=lambda: self.views.get(name, NOTHING_SEEN),
            stands_back=lambda raft_id: raft_id in self.standing_back,
            timing=self.timing,
            limits=self.limits,
        )
        replica.start()
        machine.engine = Running(replica, journal, snapshots, state, cluster_clock)

    def _rng(self, name: str) -> random.Random:
        return Luck(self, name, self.seed * 1000 + self._lives)

    def _send(self, machine: Machine, replica: Replica, peer: str, message: Any) -> None:
        if machine.engine is None or machine.engine.replica is replica:
            self.post(machine.name, peer, message)

    def _flush(self, machine: Machine, replica: Replica) -> None:
        """A group of sends is complete."""

    def _run_in_background(self, name: str, job: Callable[[], None]) -> None:
        if name in self.held_saves:
            self.held_saves[name].append(job)
        else:
            job()

    def _after(self, machine: Machine, call: Callable[[], Any]) -> None:
        call()
        if machine.engine is None:
            return
        failed = machine.engine.replica.failed
        if failed is not None and failed not in machine.errors:
            machine.errors.append(failed)

    def _tick(self, machine: Machine) -> None:
        self._after(machine, machine.engine.replica.tick)

    def _receive(self, machine: Machine, source: str, message: Any) -> None:
        self._after(machine, lambda: machine.engine.replica.receive(source, message))

    def _connected(self, machine: Machine, peer: str) -> None:
        self._after(machine, lambda: machine.engine.replica.peer_connected(peer))

    def _disconnected(self, machine: Machine, peer: str) -> None:
        self._after(machine, lambda: machine.engine.replica.peer_disconnected(peer))

    @staticmethod
    def _callback(done: Callable[[bool, Any, Any], None]) -> Callable[[Any, Any], None]:
        return lambda result, error: done(error is None, result, error)

    def _propose(self, machine: Machine, command: bytes, done: Callable[[bool, Any, Any], None]) -> None:
        self._after(machine, lambda: machine.engine.replica.propose(command, self._callback(done)))

    def propose_in_lead(self, name: str, command: bytes) -> Outcome:
        """Propose what follows something that was proposed here in the present lead."""
        machine = self.machines[name]
        replica = machine.engine.replica
        outcome = Outcome(name, command)
        self.outcomes.append(outcome)
        callback, lead = self._callback(outcome.settle), replica.term()
        self._guard(
            machine, lambda: self._after(machine, lambda: replica.propose(command, callback, lead=lead))
        )
        return outcome

    def _power_off(self, engine: Running) -> None:
        # What was not synced is in the dropped Journal object only.
        engine.replica.close()

    def close(self) -> None:
        """The end of the story: no file stays open."""
        for machine in self.machines.values():
            engine, machine.engine = machine.engine, None
            if engine is not None:
                self._power_off(engine)

    def admits(self, name: str, peer: str) -> bool:
        # the transport admits every authenticated peer of the cluster that no applied entry removed
        replica = self.replica(name)
        return replica.failed is None and peer not in replica.removed_peers()

    def replica(self, name: str) -> Replica:
        engine: Running = self.machines[name].engine
        return engine.replica

    def cluster_clock(self, name: str) -> ClusterClock:
        engine: Running = self.machines[name].engine
        return engine.cluster_clock

    def running(self) -> list[str]:
        return [n for n in super().running() if self.replica(n).failed is None]

    def is_leader(self, name: str) -> bool:
        engine = self.machines[name].engine
        return engine is not None and engine.replica.failed is None and bool(engine.replica.is_leader())

    def term(self, name: str) -> int:
        return self.replica(name).status().term

    def log(self, name: str) -> list[tuple[bytes, int, int]]:
        return list(self.machines[name].engine.journal.entries)

    def state(self, name: str) -> list[bytes]:
        return list(self.machines[name].engine.machine.items)

    def commit_index(self, name: str) -> int:
        return self.replica(name).status().commit_index

    def config(self, name: str) -> set[str]:
        return set(self.replica(name).status().voters)

    # -- snapshots and damage --

    def compact(self, name: str) -> None:
        machine = self.machines[name]
        self._after(machine, lambda: self.replica(name).maybe_compact(force=True))
        self.tick(name)

    def crash_between_snapshot_and_cut(self, name: str, meanwhile: Callable[[], None]) -> None:
        self.held_saves[name] = []
        self.compact(name)
        meanwhile()
        jobs = self.held_saves.pop(name)
        assert jobs, "no snapshot was due"
        for job in jobs:
            job()
        self.crash(name)

    def is_snapshot_chunk(self, message: Any) -> bool:
        return bool(message["type"] == "snapshot_chunk")

    def lose_tail(self, name: str, last_index: int) -> None:
        store: MemoryStore = self.machines[name].disk.store
        for index in [i for i in store._entries if i > last_index]:
            del store._entries[index]
        assert store._record is not None
        store._record = dataclasses.replace(store._record, last_index=last_index)

    def make_snapshot_unsendable(self, name: str) -> None:
        self.machines[name].engine.snapshots.open_transfer = lambda: None

    # -- membership --

    def _ask(self, leader: str, what: str, call: Callable[[Callable[[Any, Any], None]], Any]) -> Outcome:
        outcome = Outcome(leader, what.encode())
        machine = self.machines[leader]
        self._guard(machine, lambda: self._after(machine, lambda: call(self._callback(outcome.settle))))
        return outcome

    def add(self, leader: str, name: str) -> Outcome:
        return self._ask(leader, f"add {name}", lambda done: self.replica(leader).add_voter(name, done))

    def remove(self, leader: str, name: str, *, force: bool = False) -> Outcome:
        replica = self.replica(leader)
        return self._ask(leader, f"remove {name}", lambda done: replica.remove(name, done, force=force))

    def demote(self, leader: str, name: str) -> Outcome:
        return self._ask(leader, f"demote {name}", lambda done: self.replica(leader).demote(name, done))

    def answer_roll(self, leader: str) -> None:
        """Whoever a leader asked before it changes the voters answers; nothing else moves."""
        asked = [
            each for each in self.sent if each.source == leader and each.message["type"] == "read_confirm"
        ]
        for envelope in asked:
            self.inject(leader, envelope.target, envelope.message | {"type": "read_confirmed"})
        self.tick(leader)

    def transfer(self, leader: str, to: str | None) -> Outcome:
        replica = self.replica(leader)
        return self._ask(leader, f"transfer {to}", lambda done: replica.transfer_leadership(to, done))

    def read(self, name: str) -> Outcome:
        return self._ask(name, "read", lambda done: self.replica(name).read(done))

    def start_joiner(self, name: str, members: Iterable[str]) -> None:
        # the configuration at the start of the log that it will replay; it is not in it
        self.machines[name] = self._new_machine(name, self.founders)
        self.start(name)
        self.connect_all()


def lagging(directory: Path, **limits: Any) -> OurCluster:
    """c is cut off from everybody, and needs a snapshot: a, which leads, and b hold eleven writes."""
    cluster = OurCluster("abc", directory=directory, limits=Limits(**{"keep_entries": 0, **limits}))
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    cluster.isolate("c")
    cluster.write("a", *[b"y%d" % n for n in range(10)])
    cluster.compact("a")
    cluster.run(0.2)
    return cluster
