"""Service in the face of missing links: whoever reaches a majority is served, and leadership settles.

`Reach` watches a world.  While a situation lasts (the same processes, cuts and
voters) and some voter reaches every node that runs, each node that reaches a
majority of the voters must be served within `SERVED_S`: a write and a read
through it, and the read sees the write.  Where no voter reaches everybody,
nothing is demanded.

`run_apart` is a run of its own, for that alone: a cluster at work, of which
some links are cut for long.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import combinations
from typing import Any, Literal

from cyoloctl.errors import CyoloctlError
from cyoloctl.model import RaftId, majority
from cyoloctl.raft.journal import Entry
from cyoloctl.raft.settings import Limits
from cyoloctl.raft.vendor import NO_OP, encode_membership
from cyoloctl.replicated.command import encode_command
from cyoloctl.sim.clients import Workload
from cyoloctl.sim.node import Node
from cyoloctl.sim.plan import Plan
from cyoloctl.sim.world import World

__all__ = ["SERVED_S", "Reach", "run_apart"]

SERVED_S = 5.0
"""After so long every node that reaches a majority answers."""

SERVED_AFTER_A_MOVE_S = 12.0
"""The same where leadership has just been moved already, and rests for 10 s."""

_LOOK_S = 0.25
_ANSWER_S = 1.0
"""A probe of a node that is served is answered within this time."""

_CHANGES = {"cut": (20.0, 2), "wander": (40.0, 5), "loss": (20.0, 0)}
"""So long the trouble lasts, and so often leadership changes at the most meanwhile."""


class Reach:
    """Watches a world, and probes the nodes of a situation that has lasted."""

    def __init__(self, world: World, *, served_s: float = SERVED_S) -> None:
        self._world, self._time = world, world.time
        self._served_s = served_s
        self._situation: object = None
        self._since = 0.0
        self._probed = False
        self._probes = 0

    def start(self) -> None:
        """Look again and again, from now on."""
        self._look()

    def _look(self) -> None:
        self._time.later(_LOOK_S, self._look)
        situation = self._see()
        if situation != self._situation:
            self._situation, self._since, self._probed = situation, self._time.now, False
        elif not self._probed and self._time.now - self._since >= self._served_s - _ANSWER_S:
            self._probed = True
            for node in self._to_be_served():
                self._probe(node, situation)

    def _see(self) -> object:
        """What service depends on; another one, and the time that it takes begins again."""
        world = self._world
        running = tuple((node.name, node.life, node.is_paused()) for node in world.running())
        return running, world.network.cut_off(), frozenset(world.invariants.voter_names())

    def _to_be_served(self) -> list[Node]:
        """Nodes that reach a majority, where a voter reaches every node that runs; otherwise none."""
        world = self._world
        nodes = [node for node in world.running() if not node.is_paused()]
        voters = world.invariants.voter_names()
        if not voters or not any(
            node.name in voters and all(self._linked(node, other) for other in nodes) for node in nodes
        ):
            return []
        quorum = majority(len(voters))
        return [
            node
            for node in nodes
            if sum(self._linked(node, other) for other in nodes if other.name in voters) >= quorum
        ]

    def _linked(self, a: Node, b: Node) -> bool:
        cut = self._world.network.cut_off()
        return a is b or ((a.name, b.name) not in cut and (b.name, a.name) not in cut)

    def _probe(self, node: Node, situation: object) -> None:
        """A write through this node, then a read that must see it; both in time, unless much has changed."""
        self._probes += 1
        counter = f"reach-{self._probes}"
        answered: list[str] = []

        def read(index: Any, error: CyoloctlError | None) -> None:
            if error is None:
                answered.append("read")
                self._time.count("served")
                if node.state.counters.get(counter) != 1:
                    self._time.fail("stale read", f"{node.name} does not read what it has written")

        def written(result: Any, error: CyoloctlError | None) -> None:
            if error is None and node.replica is not None:
                answered.append("write")
                node.replica.read(read)

        def propose() -> None:
            if node.replica is not None:
                arguments = {"name": counter, "by": 1}
                command = encode_command(
                    "counter", "add", arguments, request_id=counter, kind="client", caller="reach"
                )
                node.replica.propose(command, written)

        def judge() -> None:
            if answered != ["write", "read"] and self._see() == situation:
                claim = (
                    f"{node.name} reaches a majority and is not served {self._served_s:g} s after links were "
                    f"cut; answered: {answered}"
                )
                self._time.fail("partial connectivity", claim)

        node.put(node.life, propose)
        self._time.later(_ANSWER_S, judge)


def run_apart(seed: int, how: Literal["cut", "wander", "loss"] = "cut") -> World:
    """One run of one kind of trouble, for long; `World.time` tells what broke.

    cut: some links, both ways or one way; one voter keeps all of its own.
    wander: a voter that only ever reaches one other, now this one, now that
    one.  loss: a node that does not lead loses its power.
    """
    rng = random.Random(f"{seed} {how}")
    world = World(Plan(seed, Limits()))
    names = [f"n{number}" for number in range(1, rng.choice((3, 3, 4, 5)) + 1)]
    log: list[Entry] = [(NO_OP, 1, 0)]
    log += [(encode_membership("add", RaftId(name)), 2 + i, 0) for i, name in enumerate(names)]
    for name in names:
        world.add_node(name, log)
    learners = [f"l{number}" for number in range(1, rng.choice((0, 0, 1, 2)) + 1)]
    for name in learners:
        world.add_node(name, [(NO_OP, 1, 0)])
    Workload(world, rng, max_attempts=6, think_s=0.3).start()
    Reach(world, served_s=SERVED_AFTER_A_MOVE_S if how == "wander" else SERVED_S).start()
    time = world.time
    time.run_until(4.0 + rng.random())
    if how == "cut":
        _cut(world, rng, names, learners)
    elif how == "wander":
        _wander(world, rng, names)
    else:
        rng.choice([node for node in world.running() if node not in world.leaders()]).stop(power=True)
    seconds, allowed = _CHANGES[how]
    leaders = time.counts["leader"]
    time.run_until(time.now + seconds)
    changes = time.counts["leader"] - leaders
    if changes > allowed:
        time.fail(
            "livelock", f"leadership changed {changes} times in {seconds:g} s, at most {allowed} are right"
        )
    return world


def _cut(world: World, rng: random.Random, voters: list[str], learners: list[str]) -> None:
    hub = rng.choice(voters)
    pairs = [pair for pair in _pairs(voters, learners) if hub not in pair]
    for a, b in rng.sample(pairs, min(len(pairs), rng.choice((1, 1, 2, 3)))):
        for source, target in rng.choice((((a, b),), ((b, a),), ((a, b), (b, a)))):
            world.network.cut(source, target)
            world.time.log("cut off: %s, %s", source, target)


def _pairs(voters: Iterable[str], learners: Iterable[str]) -> list[tuple[str, str]]:
    """Of two voters, or of a voter and a learner."""
    between = [(voter, learner) for voter in voters for learner in learners]
    return [*combinations(voters, 2), *between]


def _wander(world: World, rng: random.Random, voters: list[str]) -> None:
    network, time = world.network, world.time
    wanderer = rng.choice(voters)
    others = [name for name in voters if name != wanderer]
    period_s = rng.choice((2.5, 5.0, 7.0, 13.0))

    def on() -> None:
        keeps = others.pop(0)
        others.append(keeps)
        network.heal()
        for name in others[:-1]:
            network.cut(name, wanderer)
            network.cut(wanderer, name)
        time.log("%s reaches %s alone", wanderer, keeps)
        time.later(period_s, on)

    on()
