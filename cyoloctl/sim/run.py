"""One run: a cluster, clients, faults, and healing, all from one seed."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial

from cyoloctl.machines.code import Code
from cyoloctl.model import NO_STAMP, RaftId, majority
from cyoloctl.raft.batch import encode_batch
from cyoloctl.raft.journal import Entry
from cyoloctl.raft.settings import Limits
from cyoloctl.raft.vendor import NO_OP, encode_membership
from cyoloctl.sim.ballast import load_ballast
from cyoloctl.sim.causes import Causes, listening
from cyoloctl.sim.clients import Client, Operation, Workload
from cyoloctl.sim.faults import FAULTS, OPT_IN, Faults
from cyoloctl.sim.followed import Followed
from cyoloctl.sim.joining import admit
from cyoloctl.sim.kv_operations import keepers
from cyoloctl.sim.liveness import Liveness
from cyoloctl.sim.lock_operations import lockers
from cyoloctl.sim.node import Node
from cyoloctl.sim.own_machine import OwnDraws, OwnJudge, registering
from cyoloctl.sim.plan import Plan
from cyoloctl.sim.releases import LevelJudge, older_names
from cyoloctl.sim.replay import Recording
from cyoloctl.sim.shares import share_of
from cyoloctl.sim.standing_back import StandingBack, Witness, gives_way
from cyoloctl.sim.tables import state_limits
from cyoloctl.sim.timeline import UNJUDGED
from cyoloctl.sim.upkeep import founding
from cyoloctl.sim.world import World

__all__ = ["Report", "Violation", "record_seed", "run_seed"]

_SECONDS = 8.0
_PEACE_S = 12.0
_SETTLE_S = 40.0


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that broke.  at_s: simulated time.  trace: the events before it, oldest first."""

    seed: int
    kind: str
    at_s: float
    claim: str
    trace: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Report of a run.

    operations: of clients, answered.  faults: injected, by kind.  counts: what
    they led to.  simulated_s: virtual time.  applied: how often each operation
    of a machine was carried out, and refused, by name.
    """

    seed: int
    operations: int
    faults: dict[str, int]
    counts: dict[str, int]
    violation: Violation | None
    simulated_s: float = field(default=0.0)
    applied: dict[str, int] = field(default_factory=dict)


_IN_MEMORY = 0.06
"""How many of the clusters have all their logs in memory."""


class _Run:
    """A cluster under faults."""

    def __init__(
        self,
        seed: int,
        faults: tuple[str, ...],
        nodes: int | None,
        *,
        memory: bool,
        late: bool,
        codes: tuple[Code, ...] = (),
    ) -> None:
        self._seed, self._codes = seed, codes
        rng = random.Random(f"{seed} run")
        limits = Limits(
            batch_bytes=rng.choice((200, 2000, 2**20)),
            window_bytes=rng.choice((500, 5000, 2**23)),
            chunk_bytes=rng.choice((700, 5000, 2**18)),
            compact_entries=rng.choice((10, 30, 90)) if "compaction" in faults else 10_000,
            keep_entries=rng.choice((0, 3, 20)) if "compaction" in faults else 1000,
            promote_lag=rng.choice((4, 64)),
            pending_commands=random.Random(f"{seed} pending").choice((3, 20_000)),
            install_at_once_bytes=0 if share_of(seed, "installs") else 2**20,
        )
        unsent_bytes = rng.choice((2000, 2**26, 2**26, 2**26))
        self._tables = state_limits(seed, nodes)
        older = None
        leveled = "levels" in faults
        if leveled or "releases" in faults:
            older = older_names(random.Random(f"{seed} releases"), [f"n{number}" for number in range(1, 4)])
        elsewhere = share_of(seed, "writes elsewhere") is not None
        self._world = World(
            Plan(seed, limits, unsent_bytes, self._tables, older, leveled, codes, elsewhere), late=late
        )
        self._world.invariants.levels = LevelJudge() if leveled else None
        self._time = self._world.time
        self._load = Workload(
            self._world,
            rng,
            max_attempts=rng.choice((2, 6)),
            think_s=rng.choice((0.02, 0.1, 0.4)),
        )
        self._load.lockers = lockers(seed)
        self._load.keepers = keepers(seed)
        self._faults = Faults(self._world, rng, faults, mean_s=rng.choice((0.12, 0.4, 1.2)))
        self._time.monotonic_faults = "clock" in faults and rng.random() < 0.4
        size = nodes or rng.choice((1, 2, 3, 3, 3, 3, 4, 5, 5))
        names = [f"n{number}" for number in range(1, size + 1)]
        witness = None if memory or "dishonest" in faults else Witness.draw(seed, names)
        self._begin(names, in_memory=memory, witnesses=() if witness is None else (witness.name,))
        if rng.random() < 0.3:
            self._faults.spared = frozenset(rng.sample(names, majority(size)))
        if witness is not None:
            self._load.witnesses = self._faults.witnesses = witness.rng
            witness.one_dies(self._world, self._faults, size)
        StandingBack(self._world, limits.promote_lag).start()
        if "narrow" in faults and rng.random() < 0.1:
            self._time.later(1.0, partial(load_ballast, self._world, rng))
        self._causes = Causes(self._world)
        self._liveness = Liveness(self._world, random.Random(f"{seed} liveness"))
        if "clock" in faults and rng.random() < 0.5:
            self._faults.wrong_wall(self._world.nodes[rng.choice(self._world.names())])

    def _begin(self, names: list[str], *, in_memory: bool, witnesses: Collection[str]) -> None:
        """The cluster at first: on disks as if all had joined at once, in memory with one member to join."""
        first: list[Entry] = [(NO_OP, 1, 0)]
        if in_memory:
            # As memory_storage begins it.
            founder = RaftId(f"{names[0]}~0")
            self._world.add_node(names[0], [*first, (encode_membership("add", founder), 2, 0)], memory=True)
            for name in names[1:]:
                admit(self._world, name, memory=True, learner=False)
            return
        # As create_storage begins it, with what the founder wrote since.
        log = first + [(encode_membership("add", RaftId(name)), 2 + i, 0) for i, name in enumerate(names)]
        commands = [(each, 0) for each in founding(names, witnesses)]
        log.append((encode_batch(commands, NO_STAMP), len(log) + 1, 0))
        for code in self._codes:
            # An entry each: a small table may have forgotten ids of the one before.
            for each in registering(names, code):
                log.append((encode_batch([(each, len(log))], NO_STAMP), len(log) + 1, 0))
            self._load.own, self._world.invariants.model.own = OwnDraws(code, self._seed), OwnJudge(code)
        for name in names:
            self._world.add_node(name, log, witness=name in witnesses)

    def run(self) -> Report:
        """From the start to a cluster that is one again, or a violation."""
        time = self._time
        self._load.start()
        followed = share_of(self._seed, "followed", 0.3)
        if followed is not None:
            Followed(self._world, followed).start()
        self._faults.start()
        if not self._world.network.late:  # what the links rule out may cost an election
            self._liveness.start()
        self._causes.start()
        time.run_until(_SECONDS)
        if time.broken is None:
            self._settle()
        violation, now = None, round(time.now, 6)
        if time.broken is not None and time.broken[0] != UNJUDGED:
            kind, claim = time.broken
            violation = Violation(self._seed, kind, now, claim, self._lines())
        faults = {name: count for name, count in self._faults.injected.items() if count}
        watched = self._world.invariants
        applied = dict(watched.model.applied)
        applied |= {f"full: {table}": number for table, number in watched.bounds.reached.items() if number}
        return Report(self._seed, self._load.operations, faults, dict(time.counts), violation, now, applied)

    def recording(self) -> Recording:
        """What was committed, and answered."""
        watched = self._world.invariants
        entries = {index: command for index, (command, _) in watched.committed.items()}
        return Recording(self._tables, entries, watched.answers())

    def _settle(self) -> None:
        """Every fault ends.  The cluster must become one again, and serve, within a bound."""
        world, time = self._world, self._time
        world.heal()
        end = time.now + _SETTLE_S
        last: Operation | None = None
        while time.now < end and time.broken is None:
            time.run_until(time.now + 0.25)
            if not self._converged():
                continue
            if last is None:
                self._load.max_attempts = 1000
                client = Client(self._load, "last")
                last = Operation(client, 1, world.invariants.observed)
                client.write(last, "add", automatic=False)
            elif last.finished:
                time.count("converged")
                self._watch_clocks()
                return
        if time.broken is None:
            state = "; ".join(self._states())
            time.fail("convergence", f"no convergence within {_SETTLE_S:g} s: {state}")

    def _watch_clocks(self) -> None:
        """Check the clocks after some runs with wrong ones: peace is dull, and takes as long as the rest."""
        time = self._time
        looked_at = self._faults.injected.get("clock", 0) and (self._seed % 3 == 0 or time.slept_ms)
        if looked_at and self._faults.wrong_clocks_are_few():
            time.run_until(time.now + _PEACE_S)
            if self._faults.wrong_clocks_are_few():  # a learner may have become a voter meanwhile
                self._world.invariants.check_clocks_agree(self._world.running())

    def _converged(self) -> bool:
        leaders = self._world.leaders()
        if len(leaders) != 1 or leaders[0].replica is None:
            return False
        status = leaders[0].replica.status()
        removed = self._world.invariants.was_removed
        members = [node for node in self._world.nodes.values() if not removed(node.raft_id)]
        for node in members:
            if node.replica is None:
                return False
            other = node.replica.status()
            if (other.applied_index, other.leader, other.voters) != (
                status.last_index,
                status.raft_id,
                status.voters,
            ):
                return False
        if gives_way(leaders[0]) or self._awaits_a_granted_node(leaders[0]):
            return False
        if len({node.state.digest() for node in members}) != 1:
            self._time.fail("state machine safety", "nodes with the same applied index differ")
        return True

    def _awaits_a_granted_node(self, leader: Node) -> bool:
        """Whether a node that has started on its grant is no member yet, or is to vote and does not."""
        assert leader.replica is not None
        members, now_ms = leader.state.members, leader.state.time_unix_ms
        removed = self._world.invariants.was_removed
        is_full = len(members.members()) + len(members.removed()) >= self._tables.members.names
        waiting = [node for node in self._world.nodes.values() if not removed(node.raft_id)]
        if not is_full and any(members.grants.open(node.name, now_ms) is not None for node in waiting):
            return True
        voters = leader.replica.voters()
        return any(
            members.is_voter(name) and node.raft_id not in voters and node.raft_id in self._world.by_file
            for name, node in self._world.nodes.items()
        )

    def _states(self) -> Iterator[str]:
        for name, node in sorted(self._world.nodes.items()):
            yield f"{name} down" if node.replica is None else str(node.replica.status())

    def _lines(self) -> tuple[str, ...]:
        trace = self._time.trace
        lines = [f"{at:9.4f}  {text % values if values else text}" for at, text, values in trace]
        return (*lines, *self._states())


def run_seed(
    seed: int,
    *,
    faults: tuple[str, ...] = tuple(FAULTS),
    nodes: int | None = None,
    memory: bool | None = None,
    late: bool = False,
    code: Code | None = None,
) -> Report:
    """One run; the same arguments give the same report, on every machine.

    faults: names from `FAULTS` and `OPT_IN`, or none for a cluster in peace.  nodes: voters
    at the start, 1 to 9; None: the seed decides.  memory: whether all logs are in memory; None: the seed
    decides, unless faults of `OPT_IN` are asked for, most of which are of disks.  late: messages
    from links that have ended are delivered, which the real links rule out.  code: of a machine that a user
    wrote, which all nodes run too; their logs are on disks then, and they are of one release.
    """
    if code is not None:
        memory = False
    if memory is None:
        opted = set(OPT_IN).intersection(faults)
        memory = not opted and random.Random(f"{seed} memory").random() < _IN_MEMORY
    with listening():
        codes = () if code is None else (code,)
        return _Run(seed, faults, nodes, memory=memory, late=late, codes=codes).run()


def record_seed(seed: int) -> Recording:
    """The log of a run with all faults."""
    with listening():
        run = _Run(seed, tuple(FAULTS), None, memory=False, late=False)
        run.run()
        return run.recording()
