"""Virtual time and an in-memory network for Raft engines: the stock one and ours.

Nothing here sleeps or opens a socket.  A story moves the clock, ticks nodes, delivers single
messages, drops connections with what was in flight, stalls one direction, crashes and restarts.
The same story runs on `StockCluster` (raft_stock.py) and on `OurCluster` (raft_ours.py).
"""

from __future__ import annotations

import copy
import functools
import itertools
import random
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "Cluster",
    "Crash",
    "Envelope",
    "Outcome",
]

_CALLBACK_BUG = "a bug in the caller's callback"


class Crash(BaseException):
    """The process of a node dies here.  Not an Exception: nothing may handle it."""


@dataclass
class Outcome:
    """A caller's answer to one request."""

    node: str
    command: bytes
    status: str = "pending"  # pending | ok | error
    result: Any = None
    error: Any = None
    calls: int = 0

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def pending(self) -> bool:
        return self.status == "pending"

    def settle(self, ok: bool, result: Any, error: Any) -> None:
        self.calls += 1
        if self.status == "pending":
            self.status, self.result, self.error = ("ok" if ok else "error"), result, error


@dataclass
class Envelope:
    """One message on its way."""

    source: str
    target: str
    link: int
    message: Any
    due: float = 0.0


@dataclass
class Machine:
    """One node: what survives a crash, and the running engine if there is one."""

    name: str
    genesis: tuple[str, ...]
    disk: Any
    engine: Any = None
    paused: bool = False
    errors: list[BaseException] = field(default_factory=list)
    applied: list[tuple[int, bytes]] = field(default_factory=list)  # this life only


class Luck(random.Random):
    """``random()`` is what the story says (election timeouts); bits are seeded."""

    def __init__(self, owner: Cluster, name: str, seed: int) -> None:
        super().__init__(seed)
        self._owner, self._name = owner, name

    def random(self) -> float:
        return self._owner.patience[self._name]

    def getrandbits(self, k: int, /) -> int:
        return super().getrandbits(k)


class Cluster(ABC):
    """The story's handle: clock, network and nodes.  All names are node names."""

    def __init__(self, names: Iterable[str], *, directory: Path | None = None) -> None:
        self.now = 1000.0
        self.clock_step = 2e-5  # each reading of the clock costs this much: work takes time
        self.directory = directory
        # What random() says to a node that draws an election timeout.  Above 1: it does not run out of
        # patience by itself within a story; `campaign` and `impatient` say who does.
        self.patience: dict[str, float] = defaultdict(lambda: 10.0)
        self.skew: dict[str, float] = defaultdict(float)
        self.machines: dict[str, Machine] = {}
        self.links: dict[frozenset[str], int] = {}
        self.queues: dict[tuple[str, str], deque[Envelope]] = defaultdict(deque)
        self.held: set[tuple[str, str]] = set()
        self.lost: set[tuple[str, str, str]] = set()
        self.cuts: set[frozenset[str]] = set()
        self.leaders: dict[int, set[str]] = defaultdict(set)
        self.sent: list[Envelope] = []
        self.outcomes: list[Outcome] = []
        self.latency = 0.0
        self._numbers = itertools.count(1)
        names = tuple(names)
        for name in names:
            self.machines[name] = self._new_machine(name, names)
        for name in names:
            self.start(name)
        self.connect_all()

    # -- what differs between the engines --

    @abstractmethod
    def _new_machine(self, name: str, genesis: tuple[str, ...]) -> Machine: ...

    @abstractmethod
    def _build(self, machine: Machine) -> Any: ...

    @abstractmethod
    def _tick(self, machine: Machine) -> None: ...

    @abstractmethod
    def _receive(self, machine: Machine, source: str, message: Any) -> None: ...

    @abstractmethod
    def _connected(self, machine: Machine, peer: str) -> None: ...

    @abstractmethod
    def _disconnected(self, machine: Machine, peer: str) -> None: ...

    @abstractmethod
    def _propose(self, machine: Machine, command: bytes, done: Callable[[bool, Any, Any], None]) -> None: ...

    @abstractmethod
    def _power_off(self, engine: Any) -> None:
        """Do the system's part for a process that died: close its files."""

    @abstractmethod
    def admits(self, name: str, peer: str) -> bool:
        """Whether node `name` would accept (or dial) a connection with `peer` now."""

    @abstractmethod
    def is_leader(self, name: str) -> bool: ...

    @abstractmethod
    def term(self, name: str) -> int: ...

    @abstractmethod
    def log(self, name: str) -> list[tuple[bytes, int, int]]:
        """(command, index, term) of the entries in the journal of a running node."""

    @abstractmethod
    def state(self, name: str) -> list[bytes]:
        """The commands that make up the state machine's state, in order."""

    @abstractmethod
    def compact(self, name: str) -> None:
        """Write a snapshot of what is applied and cut the log behind it."""

    # Whether a node must tick to answer a message (ours releases messages in tick, after the sync).
    ticks_to_answer = True

    @abstractmethod
    def crash_between_snapshot_and_cut(self, name: str, meanwhile: Callable[[], None]) -> None:
        """Kill a node when its snapshot is on disk and its journal not yet cut.

        meanwhile: what the cluster does between the decision to write the snapshot and the crash.
        """

    @abstractmethod
    def is_snapshot_chunk(self, message: Any) -> bool: ...

    @abstractmethod
    def lose_tail(self, name: str, last_index: int) -> None:
        """Damage the disk of a crashed node: entries above `last_index` are gone, nothing else is."""

    @abstractmethod
    def make_snapshot_unsendable(self, name: str) -> None:
        """A snapshot is needed and this leader cannot provide one for the time being."""

    @abstractmethod
    def add(self, leader: str, name: str) -> Outcome:
        """Ask the leader to make the running node `name` a voter."""

    @abstractmethod
    def remove(self, leader: str, name: str) -> Outcome: ...

    @abstractmethod
    def transfer(self, leader: str, to: str) -> Outcome: ...

    @abstractmethod
    def start_joiner(self, name: str, members: Iterable[str]) -> None:
        """Start a new node that is told who the members are and is not one of them yet."""

    # -- nodes --

    def clock_of(self, name: str) -> Callable[[], float]:
        def read() -> float:
            self.now += self.clock_step
            return self.now + self.skew[name]

        return read

    def start(self, name: str) -> None:
        machine = self.machines[name]
        assert machine.engine is None, f"{name} runs already"
        machine.applied = []
        machine.errors = []
        self._build(machine)
        self.tick(name)  # before anything is delivered

    def crash(self, *names: str) -> None:
        """Processes die: connections break, memory is gone, the disk keeps what it must."""
        for name in names:
            machine = self.machines[name]
            engine, machine.engine = machine.engine, None
            for pair in [p for p in self.links if name in p]:
                self._drop(pair)
            if engine is not None:
                self._power_off(engine)

    def restart(self, *names: str) -> None:
        for name in names:
            if self.machines[name].engine is not None:
                self.crash(name)
        for name in names:
            self.start(name)
        self.connect_all()

    def running(self) -> list[str]:
        return [m.name for m in self.machines.values() if m.engine is not None]

    def errors(self, name: str) -> list[BaseException]:
        return self.machines[name].errors

    def tick(self, *names: str) -> None:
        for name in names or self.running():
            machine = self.machines[name]
            if machine.engine is not None and not machine.paused:
                self._guard(machine, functools.partial(self._tick, machine))
                self._observe(name)

    def _guard(self, machine: Machine, call: Callable[[], None]) -> None:
        try:
            call()
        except Crash:
            self.crash(machine.name)
        except Exception as error:  # pysyncobj logs what its loop raises and goes on
            machine.errors.append(error)

    def _observe(self, name: str) -> None:
        if self.machines[name].engine is not None and self.is_leader(name):
            self.leaders[self.term(name)].add(name)

    # -- network --

    def connect(self, a: str, b: str) -> bool:
        pair = frozenset((a, b))
        if pair in self.links:
            return True
        if pair in self.cuts or any(self.machines[n].engine is None for n in pair):
            return False
        if not (self.admits(a, b) and self.admits(b, a)):
            return False
        self.links[pair] = next(self._numbers)
        self._guard(self.machines[a], lambda: self._connected(self.machines[a], b))
        self._guard(self.machines[b], lambda: self._connected(self.machines[b], a))
        return True

    def connect_all(self) -> None:
        for a, b in itertools.combinations(self.machines, 2):
            self.connect(a, b)

    def disconnect(self, a: str, b: str) -> None:
        """The connection breaks; what was in flight both ways is lost."""
        self._drop(frozenset((a, b)))

    def _drop(self, pair: frozenset[str]) -> None:
        if self.links.pop(pair, None) is None:
            return
        a, b = sorted(pair)
        self.queues[a, b].clear()
        self.queues[b, a].clear()
        for name, peer in ((a, b), (b, a)):
            machine = self.machines[name]
            if machine.engine is not None:
                self._guard(machine, functools.partial(self._disconnected, machine, peer))

    def cut(self, a: str, b: str) -> None:
        self.cuts.add(frozenset((a, b)))
        self.disconnect(a, b)

    def isolate(self, *names: str) -> None:
        """Cut the named nodes, as one group, from everyone else."""
        for name in names:
            for other in self.machines:
                if other not in names:
                    self.cut(name, other)

    def heal(self, *pairs: tuple[str, str]) -> None:
        self.cuts -= {frozenset(p) for p in pairs} if pairs else set(self.cuts)
        self.connect_all()

    def hold(self, source: str, target: str) -> None:
        """One direction stalls: messages queue up in order and nothing is lost."""
        self.held.add((source, target))

    def release(self, source: str, target: str) -> None:
        self.held.discard((source, target))

    def lose(self, source: str, target: str, kind: str) -> None:
        """Messages of this kind never arrive, from now on."""
        self.lost.add((source, target, kind))

    def post(self, source: str, target: str, message: Any) -> bool:
        link = self.links.get(frozenset((source, target)))
        if link is None:
            return False
        envelope = Envelope(source, target, link, copy.deepcopy(message), self.now + self.latency)
        self.sent.append(envelope)
        if (source, target, message["type"]) not in self.lost:
            self.queues[source, target].append(envelope)
        return True

    def in_flight(self, source: str, target: str, kind: str | None = None) -> list[Any]:
        found = [e.message for e in self.queues[source, target]]
        return found if kind is None else [m for m in found if m["type"] == kind]

    def deliver(self, source: str, target: str, count: int | None = None, *, tick: bool = True) -> int:
        """The next `count` messages (default: all that are there now) in order; held links too.

        tick: the target ticks after each, so that whatever it answers gets on its way.
        """
        queue = self.queues[source, target]
        todo = len(queue) if count is None else min(count, len(queue))
        done = 0
        while done < todo and queue:
            self.inject(target, source, queue.popleft().message)
            done += 1
            if tick:
                self.tick(target)
        return done

    def inject(self, target: str, source: str, message: Any) -> None:
        """Hand a message to a node as if `source` had sent it on the live connection."""
        machine = self.machines[target]
        if machine.engine is None:
            return
        self._guard(machine, lambda: self._receive(machine, source, copy.deepcopy(message)))
        self._observe(target)

    def exchange(self, *names: str, rounds: int = 1) -> None:
        """Deliver everything between the named nodes (default: all), except on held links."""
        group = names or tuple(self.machines)
        for _ in range(rounds):
            for (source, target), queue in list(self.queues.items()):
                if source in group and target in group and (source, target) not in self.held:
                    ready = sum(1 for e in queue if e.due <= self.now)
                    if ready and not self.machines[target].paused:
                        self.deliver(source, target, ready)

    def advance(self, seconds: float) -> None:
        """Only the clock moves."""
        self.now += seconds

    def run(self, seconds: float, *, step: float = 0.02, reconnect: bool = True) -> None:
        """Time passes, everybody ticks, messages flow, connections that can be made are made."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            if reconnect:
                self.connect_all()
            self.tick()
            self.exchange()

    def run_until(self, condition: Callable[[], bool], *, within: float) -> bool:
        end = self.now + within
        while self.now < end:
            if condition():
                return True
            self.run(0.05)
        return condition()

    # -- elections --

    def campaign(self, name: str) -> None:
        """`name` runs out of patience; everybody else has heard nothing for half a second."""
        self.now += 0.6
        self.skew[name] += 15.0
        self.tick(name)

    def impatient(self, *names: str) -> None:
        """From their next draw on, these nodes have ordinary election timeouts, different ones."""
        for position, name in enumerate(names):
            self.patience[name] = (position + 1) / (len(names) + 1)

    def elect(self, name: str, *voters: str) -> None:
        """`name` campaigns and wins with the votes of `voters` (default: whoever it reaches)."""
        self.campaign(name)
        group = (name, *voters) if voters else tuple(self.running())
        for _ in range(12):
            if self.is_leader(name):
                return
            self.exchange(*group)
            self.tick(name)
        assert self.is_leader(name), f"{name} was not elected"

    # -- requests --

    def propose(self, name: str, command: bytes, *, callback_raises: bool = False) -> Outcome:
        outcome = Outcome(name, command)
        self.outcomes.append(outcome)

        def done(ok: bool, result: Any, error: Any) -> None:
            outcome.settle(ok, result, error)
            if callback_raises:
                raise RuntimeError(_CALLBACK_BUG)

        machine = self.machines[name]
        self._guard(machine, lambda: self._propose(machine, command, done))
        return outcome

    def write(self, name: str, *commands: bytes, within: float = 2.0) -> list[Outcome]:
        """Propose at `name` and let the cluster run until all were acknowledged."""
        outcomes = []
        for command in commands:
            outcomes.append(self.propose(name, command))
            self.tick(name)
        assert self.run_until(lambda: all(o.ok for o in outcomes), within=within), outcomes
        return outcomes

    # -- claims --

    def acknowledged(self) -> list[bytes]:
        return [o.command for o in self.outcomes if o.ok]

    def missing(self, name: str) -> list[bytes]:
        """Acknowledged commands that are not in this node's state."""
        there = self.state(name)
        return [c for c in self.acknowledged() if c not in there]

    def doubled(self, name: str) -> list[bytes]:
        there = self.state(name)
        return sorted({c for c in there if there.count(c) > 1})

    def diverged(self) -> list[tuple[str, str]]:
        """Pairs of running nodes where neither state is a prefix of the other."""
        found = []
        for a, b in itertools.combinations(self.running(), 2):
            one, two = self.state(a), self.state(b)
            shorter = min(len(one), len(two))
            if one[:shorter] != two[:shorter]:
                found.append((a, b))
        return found

    def split_terms(self) -> dict[int, set[str]]:
        """Terms that had more than one leader."""
        return {t: s for t, s in self.leaders.items() if len(s) > 1}

    def current_leaders(self) -> list[str]:
        return [n for n in self.running() if self.is_leader(n)]
