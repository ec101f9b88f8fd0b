"""A random walk over the real adapter: faults from a seed, invariants after every step.

Real replica, journal and snapshot store; simulated clock, network and power.  Faults: crashes at any
commit of the journal (before or after it) and between any two sends, loss of what was not synced,
mass reboots, partitions, stalls of one direction, broken connections with what was in flight, slow
links, paused processes, slow background saves, joins, promotions, demotions, removals, transfers,
compaction and snapshot transfer in small chunks, clients that give up.

`run_seed` raises `Violation` with the seed and the last events.  Same seed, same run.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cyoloctl.raft._journal import Batch, MemoryStore, Record
from cyoloctl.raft._replica import Limits, Replica
from tests.support.engine_harness import Crash, Machine, Outcome
from tests.support.raft_ours import OurCluster

__all__ = ["Report", "Violation", "run_seed"]

JOINERS = "lmnopqrs"
FAULTS = {  # and how often
    "crash": 3,
    "die": 5,
    "reboot": 1,
    "partition": 3,
    "heal": 6,
    "drop": 6,
    "stall": 3,
    "release": 5,
    "pause": 2,
    "delay": 2,
    "aim": 3,
}


class Violation(AssertionError):
    """An invariant broke; the message holds seed, claim and trace."""


@dataclass
class Report:
    """What a run went through; tests use it to show that the faults happened."""

    seed: int
    steps: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


class CrashingStore(MemoryStore):
    """A disk that keeps whole batches; the process may die just before or just after one."""

    def __init__(self) -> None:
        super().__init__()
        self.die: str | None = None

    def commit(self, batch: Batch) -> None:
        die, self.die = self.die, None
        if die == "before":
            raise Crash
        super().commit(batch)
        if die == "after":
            raise Crash


@dataclass
class Write:
    outcome: Outcome
    proposal: Any
    deadline: float


@dataclass
class Read:
    node: str
    floor: int
    request: Any
    deadline: float


class Simulation(OurCluster):
    """One run.  `seed` decides everything."""

    def __init__(self, seed: int, *, founders: int | None = None) -> None:
        self.random = random.Random(seed)
        self.report = Report(seed)
        self.trace: deque[str] = deque(maxlen=150)
        self.dirty: set[str] = set()
        self.outbox: list[tuple[str, Any]] = []
        self.broken: list[str] = []  # claims that broke where an exception would be handled
        self.die_at_send: dict[str, int] = {}
        self.delay = (0.001, 0.01)
        self.writes: list[Write] = []
        self.reads: list[Read] = []
        self.jobs: list[tuple[float, str, int, Callable[[], None]]] = []
        self.committed: dict[int, tuple[bytes, int]] = {}
        self.applied_at: dict[int, list[bytes]] = {}
        self.digests: dict[int, str] = {}
        self.checked: dict[str, tuple[int, int]] = {}  # (life, commit index checked)
        self.lives: dict[str, int] = {}
        self.order: dict[int, bytes] = {}  # position -> acknowledged command
        self.paused_until: dict[str, float] = {}
        self.down_until: dict[str, float] = {}
        self.numbers = 0
        self.joined = 0
        size = founders or self.random.choice((1, 2, 3, 3, 3, 5))
        limits = Limits(
            batch_bytes=self.random.choice((64, 512, 2**20)),
            window_bytes=self.random.choice((256, 2048, 2**23)),
            chunk_bytes=self.random.choice((500, 4000, 2**18)),
            compact_entries=self.random.choice((8, 25, 80)),
            keep_entries=self.random.choice((0, 3, 20)),
        )
        super().__init__("abcde"[:size], limits=limits, seed=seed)
        self.clock_step = 1e-5

    # -- the world --

    def _new_store(self) -> MemoryStore:
        return CrashingStore()

    def _rng(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name} {self._lives}")

    def _build(self, machine: Machine) -> None:
        self.lives[machine.name] = self.lives.get(machine.name, 0) + 1
        super()._build(machine)

    def _run_save(self, name: str, job: Callable[[], None]) -> None:
        due = self.now + self.random.choice((0.0, 0.01, 0.3))
        self.jobs.append((due, name, self.lives[name], job))

    def _send(self, machine: Machine, replica: Replica, peer: str, message: Any) -> None:
        self.outbox.append((peer, message))

    def _flush(self, machine: Machine, replica: Replica) -> None:
        """Messages of one group to different peers leave in the order of their names.

        The engine sends in the order of a set, which differs from process to process.
        """
        group, self.outbox = self.outbox, []
        for peer, message in sorted(group, key=lambda item: item[0]):
            self.post(machine.name, peer, message)

    def _tick(self, machine: Machine) -> None:
        self.outbox.clear()
        super()._tick(machine)
        assert not self.outbox, "messages without a flush"

    def post(self, source: str, target: str, message: Any) -> bool:
        left = self.die_at_send.get(source)
        if left is not None:
            if left <= 0:
                del self.die_at_send[source]
                raise Crash
            self.die_at_send[source] = left - 1
        self._check_persisted(source, target, message)
        queue = self.queues[source, target]
        before = len(queue)
        sent = super().post(source, target, message)
        self.sent.clear()
        if len(queue) > before:
            earlier = queue[-2].due if len(queue) > 1 else 0.0
            queue[-1].due = max(earlier, self.now + self.random.uniform(*self.delay))
        return sent

    def _check_persisted(self, source: str, target: str, message: Any) -> None:
        """Raft, figure 2: term, vote and log are on stable storage before anybody is told of them."""
        kind = message["type"]
        if kind in ("pre_vote", "pre_vote_response"):
            return
        record = self.machines[source].disk.store._record or Record()
        entry = self.machines[source].disk.store._entries.get(record.last_index)
        term = max(record.term, entry[2] if entry else 0)  # as the engine reads it on boot
        if message.get("term", 0) > term:
            self.fail(f"{source} told {target} of term {message['term']} and stored {term}")
        if kind == "response_vote" and (record.term, record.vote) != (message["term"], target):
            self.fail(f"{source} voted for {target} in term {message['term']} and stored {record}")
        if kind == "next_node_idx" and message["success"]:
            index = message["next_node_idx"] - 1
            if record.last_index < index:
                self.fail(f"{source} acknowledged {index} and stored {record.last_index}")

    def log_event(self, text: str) -> None:
        self.trace.append(f"{self.now:.3f} {text}")

    def fail(self, claim: str) -> None:
        lines = [f"seed {self.seed}: {claim}", *self.trace]
        for name in self.machines:
            if self.machines[name].engine is not None:
                lines.append(f"{name}: {self.replica(name).status()}")
        raise Violation("\n".join(lines))

    # -- one step --

    def step(self) -> None:
        self.report.steps += 1
        self.now += self.random.choice((0.0005, 0.002, 0.01, 0.02))
        for name, until in list(self.paused_until.items()):
            if self.now >= until:
                del self.paused_until[name]
                self.machines[name].paused = False
        for name, until in list(self.down_until.items()):
            if self.now >= until:
                del self.down_until[name]
                if self.machines[name].engine is None:
                    self.start(name)
        self._save_due()
        for pair in list(self.sessions):
            a, b = pair
            if not (self.admits(a, b) and self.admits(b, a)):
                self._drop(pair)
        self.connect_all()
        self._deliver_due()
        self._tick_due()
        self._give_up()
        self.check()

    def connect_all(self) -> None:
        names = [n for n in self.machines if self.machines[n].engine is not None]
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                if frozenset((a, b)) not in self.sessions and self.connect(a, b):
                    self.dirty |= {a, b}

    def _drop(self, pair: frozenset[str]) -> None:
        super()._drop(pair)
        self.dirty |= pair

    def _save_due(self) -> None:
        for item in [j for j in self.jobs if j[0] <= self.now]:
            self.jobs.remove(item)
            _, name, life, job = item
            # a process that died took its thread along
            if self.machines[name].engine is not None and self.lives[name] == life:
                job()
                self.dirty.add(name)
                self.report.count("save")

    def _deliver_due(self) -> None:
        links = [k for k, q in self.queues.items() if q and q[0].due <= self.now and k not in self.held]
        self.random.shuffle(links)
        for source, target in links:
            if self.machines[target].paused:
                continue
            queue = self.queues[source, target]
            while queue and queue[0].due <= self.now:
                envelope = queue.popleft()
                if envelope.message["type"] == "snapshot_chunk":
                    self.report.count("chunk")
                self.inject(target, source, envelope.message)
                self.dirty.add(target)
                if self.random.random() < 0.5:
                    self._tick_one(target)

    def _tick_one(self, name: str) -> None:
        if self.machines[name].paused:
            return
        self.dirty.discard(name)
        self.tick(name)

    def _tick_due(self) -> None:
        for name in list(self.machines):
            engine = self.machines[name].engine
            if engine is None or self.machines[name].paused:
                continue
            if name in self.dirty or engine.replica.next_deadline() <= self.now:
                self._tick_one(name)

    def _give_up(self) -> None:
        for write in [w for w in self.writes if not w.outcome.pending or self.now >= w.deadline]:
            self.writes.remove(write)
            if write.outcome.pending:
                write.proposal.cancelled = True
                self.report.count("gave up")
            elif write.outcome.ok:
                self.report.count("acknowledged")
        for read in [r for r in self.reads if self.now >= r.deadline]:
            self.reads.remove(read)
            read.request.cancelled = True

    # -- clients --

    def client_write(self, name: str | None = None) -> None:
        running = [n for n in self.running() if not self.machines[n].paused]
        if not running:
            return
        name = name or self.random.choice(running)
        self.numbers += 1
        command = b"%d" % self.numbers + b"." * self.random.choice((0, 0, 30, 150))
        outcome = Outcome(name, command)
        self.outcomes.append(outcome)

        def done(result: bytes | None, error: Any) -> None:
            outcome.settle(error is None, result, error)
            if outcome.calls > 1:
                self.broken.append(f"the callback of {command!r} was called twice")
            if error is None and self.is_leader(name):
                # A leader counts itself (dissertation 10.2.1): only with what is on its disk.
                record = self.machines[name].disk.store._record
                if record is None or record.last_index <= self.replica(name).applied_index():
                    self.broken.append(f"{name} acknowledged {command!r} before it had stored it")
            if error is None:
                position = int(result or b"0")
                if self.order.setdefault(position, command) != command:
                    self.broken.append(f"two acknowledged commands at position {position}")

        proposal = self.replica(name).propose(command, done)
        self.dirty.add(name)
        self.writes.append(Write(outcome, proposal, self.now + self.random.choice((0.05, 1.0, 8.0))))

    def client_read(self) -> None:
        running = [n for n in self.running() if not self.machines[n].paused]
        if not running:
            return
        name = self.random.choice(running)
        floor = max(self.order, default=0)
        life = self.lives[name]

        def done(index: int | None, error: Any) -> None:
            if error is not None or self.lives[name] != life:
                return
            self.report.count("read")
            state = self.state(name)
            if len(state) < floor:
                claim = f"stale read on {name} at {index}: {len(state)} of {floor} acknowledged commands"
                self.broken.append(claim)

        request = self.replica(name).read(done)
        self.dirty.add(name)
        self.reads.append(Read(name, floor, request, self.now + self.random.choice((0.5, 5.0))))

    # -- faults --

    def fault(self) -> None:
        names = list(self.machines)
        running = self.running()
        kind = self.random.choices(list(FAULTS), list(FAULTS.values()))[0]
        self.report.count(kind)
        self.log_event(kind)
        if kind == "crash" and running:
            self._take_down(self.random.choice(running))
        elif kind == "die" and running:
            name = self.random.choice(running)
            if self.random.random() < 0.5:
                self.machines[name].disk.store.die = self.random.choice(("before", "after"))
            else:
                self.die_at_send[name] = self.random.randrange(4)
        elif kind == "reboot":
            for name in running:
                self._take_down(name)
        elif kind == "partition" and len(names) > 1:
            group = self.random.sample(names, self.random.randrange(1, len(names)))
            self.isolate(*group)
        elif kind == "aim":  # at the leader: it is cut off, or hears nothing, or is not heard
            for name in self.current_leaders()[:1]:
                how = self.random.randrange(3)
                for other in names:
                    if other != name and how == 0:
                        self.cut(name, other)
                    elif other != name:
                        self.held.add((name, other) if how == 1 else (other, name))
        elif kind == "heal":
            self.cuts.clear()
        elif kind == "drop" and self.sessions:
            self._drop(self.random.choice(sorted(self.sessions, key=sorted)))
        elif kind == "stall" and len(names) > 1:
            self.held.add(tuple(self.random.sample(names, 2)))  # type: ignore[arg-type]
        elif kind == "release":
            self.held.clear()
        elif kind == "pause" and running:
            name = self.random.choice(running)
            self.machines[name].paused = True
            self.paused_until[name] = self.now + self.random.choice((0.1, 0.8, 3.0))
        elif kind == "delay":
            self.delay = self.random.choice(((0.0, 0.0), (0.001, 0.01), (0.02, 0.2), (0.0, 0.4)))

    def _take_down(self, name: str) -> None:
        self.log_event(f"crash {name}")
        self.crash(name)

    def crash(self, *names: str) -> None:
        super().crash(*names)
        for name in names:
            self.report.count("down")
            self.log_event(f"down {name}")
            self.machines[name].paused = False
            self.paused_until.pop(name, None)
            self.die_at_send.pop(name, None)
            self.machines[name].disk.store.die = None
            self.down_until[name] = self.now + self.random.choice((0.01, 0.3, 2.0))
            # whoever waited there got no answer
            for write in [w for w in self.writes if w.outcome.node == name]:
                self.writes.remove(write)
            self.reads = [r for r in self.reads if r.node != name]

    def membership(self) -> None:
        kind = self.random.choice(("join", "add", "add", "demote", "remove", "transfer", "transfer"))
        leaders = self.current_leaders()
        if kind == "join":
            if self.joined < len(JOINERS):
                name = JOINERS[self.joined]
                self.joined += 1
                self.log_event(f"join {name}")
                self.start_joiner(name, ())
                self.report.count("join")
            return
        if not leaders:
            return
        leader = self.random.choice(leaders)
        status = self.replica(leader).status()
        others = [v for v in status.voters if v != leader]
        if kind == "add" and status.learners:
            asked = self.add(leader, self.random.choice(status.learners))
        elif kind == "demote" and len(others) > 1:
            asked = self.demote(leader, self.random.choice(others))
        elif kind == "remove" and len(others) > 1:
            asked = self.remove(leader, self.random.choice([*others, *status.learners]))
        elif kind == "transfer":
            asked = self.transfer(leader, None)
        else:
            return
        self.dirty.add(leader)
        if asked.status != "error":
            self.report.count(kind)
            self.log_event(f"{asked.command.decode()} at {leader}")

    # -- invariants --

    def _guard(self, machine: Machine, call: Callable[[], None]) -> None:
        try:
            call()
        except Crash:
            self.crash(machine.name)
        except Violation:
            raise
        except Exception as error:
            machine.errors.append(error)

    def _observe(self, name: str) -> None:
        super()._observe(name)
        if self.machines[name].engine is None:
            return
        if self.is_leader(name) and len(self.leaders[self.term(name)]) > 1:
            self.fail(f"two leaders in term {self.term(name)}: {sorted(self.leaders[self.term(name)])}")

    def check(self) -> None:
        if self.broken:
            self.fail(self.broken[0])
        for name, machine in self.machines.items():
            if machine.errors:
                self.fail(f"{name} failed: {machine.errors[0]!r}")
            if machine.engine is None:
                continue
            self._check_committed(name, machine)
            self._check_applied(name, machine)

    def _check_committed(self, name: str, machine: Machine) -> None:
        journal = machine.engine.journal
        commit = machine.engine.replica.status().commit_index
        life, done = self.checked.get(name, (0, 0))
        if life != self.lives[name]:
            done = 0
        for index in range(max(done + 1, journal.first_index), commit + 1):
            entry = journal.entry(index)
            if entry is None:
                self.fail(f"{name} has committed {index} and does not hold it")
            command, _, term = entry
            if index == journal.first_index and index > 1:
                continue  # a base's command need not be kept
            if self.committed.setdefault(index, (command, term)) != (command, term):
                other = self.committed[index]
                self.fail(f"{name} has another committed entry {index}: {(command, term)}, not {other}")
        self.checked[name] = (self.lives[name], commit)

    def _check_applied(self, name: str, machine: Machine) -> None:
        by_index: dict[int, list[bytes]] = {}
        for index, command in machine.applied:
            by_index.setdefault(index, []).append(command)
        machine.applied.clear()
        for index, commands in by_index.items():
            if self.applied_at.setdefault(index, commands) != commands:
                self.fail(f"{name} applied {commands} at {index}, not {self.applied_at[index]}")
        applied = machine.engine.replica.applied_index()
        digest = hashlib.sha256(machine.engine.machine.snapshot()).hexdigest()
        if self.digests.setdefault(applied, digest) != digest:
            self.fail(f"{name} has another state at index {applied}")

    def settle(self, within: float) -> None:
        """Every fault ends; the cluster must become one again."""
        self.log_event("settle")
        self.cuts.clear()
        self.held.clear()
        self.die_at_send.clear()
        self.delay = (0.001, 0.005)
        for machine in self.machines.values():
            machine.disk.store.die = None
            machine.paused = False
        self.paused_until.clear()
        self.down_until = {n: self.now for n, m in self.machines.items() if m.engine is None}
        end = self.now + within
        last: Outcome | None = None
        while self.now < end:
            self.step()
            if last is None and self.current_leaders():
                self.client_write(self.current_leaders()[0])
                last = self.outcomes[-1]
                self.writes[-1].deadline = end + 1
            if last is not None and last.ok and self._converged():
                break
        else:
            self.fail("the cluster did not converge")
        leader = self.current_leaders()[0]
        state = self.state(leader)
        for position, command in self.order.items():
            if state[position - 1] != command:
                self.fail(f"acknowledged {command!r} is not at position {position}")

    def _converged(self) -> bool:
        leaders = self.current_leaders()
        if len(leaders) != 1:
            return False
        status = self.replica(leaders[0]).status()
        members = [n for n in self.machines if n not in status.removed]
        for name in members:
            if self.machines[name].engine is None:
                return False
            other = self.replica(name).status()
            if (other.applied_index, other.leader, other.voters) != (
                status.last_index,
                leaders[0],
                status.voters,
            ):
                return False
        return True


def run_seed(
    seed: int,
    *,
    seconds: float = 12.0,
    membership: bool = True,
    faults: bool = True,
    founders: int | None = None,
) -> Report:
    """One run of `seconds` of simulated time, then healing.  Raises Violation."""
    simulation = Simulation(seed, founders=founders)
    chance = simulation.random
    end = simulation.now + seconds
    write_rate = chance.choice((0.05, 0.2, 0.6))
    fault_rate = chance.choice((0.005, 0.02, 0.06)) if faults else 0.0
    member_rate = chance.choice((0.0, 0.005, 0.02)) if membership else 0.0
    while simulation.now < end:
        if chance.random() < write_rate:
            simulation.client_write()
        if chance.random() < 0.15:
            simulation.client_read()
        if chance.random() < fault_rate:
            simulation.fault()
        if chance.random() < member_rate:
            simulation.membership()
        simulation.step()
    simulation.settle(40.0)
    simulation.close()
    return simulation.report
