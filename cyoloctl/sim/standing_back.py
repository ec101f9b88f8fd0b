"""Witnesses of a run, and the judge of those that lead.

In three of ten clusters of three or five voters on disks one is a witness: a
voter that holds the log and is given no key.  It leads only where no other
can.  While a voter that is none has caught up, reaches a majority and nothing
befalls the two, the witness hands leadership over within `GIVES_WAY_S`.

In most of these runs another voter dies for good, and nothing befalls the
witness and those who are a majority with it: `Liveness` judges that writes go
on, also where the witness alone had the last entry.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

from cyoloctl.model import majority
from cyoloctl.sim.faults import Faults
from cyoloctl.sim.node import Node
from cyoloctl.sim.timeline import HANDOVER
from cyoloctl.sim.world import World

__all__ = ["GIVES_WAY_S", "StandingBack", "Witness", "gives_way"]

GIVES_WAY_S = 7.5
"""A witness tries once in 5 s to hand leadership over, for a second; some of that may lie before the calm."""

_ELECTED_IN_CALM_S = 2.5
"""The same where nothing could have prevented the first attempt."""

_CALM_S = 1.0
_CLUSTERS = 0.3
_DEATHS = 0.6
_EVERY_S = 0.1


class Witness:
    """The witness of a run.  rng: draws whatever there is because of it."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.name, self.rng = name, rng

    @classmethod
    def draw(cls, seed: int, names: list[str]) -> Witness | None:
        """One of the first nodes, but not the founder; None: this cluster has no witness."""
        rng = random.Random(f"{seed} witnesses")
        if rng.random() >= _CLUSTERS or len(names) not in (3, 5):
            return None
        return cls(rng.choice(names[1:]), rng)

    def one_dies(self, world: World, faults: Faults, size: int) -> None:
        """In some runs a voter dies for good, mostly the leader; a majority with the witness is spared.

        First its links with those are cut: the witness may hold what they lack.
        """
        if self.rng.random() >= _DEATHS:
            return

        def choose() -> None:
            running = [node for node in world.running() if not node.is_witness]
            leaders = [node for node in world.leaders() if not node.is_witness]
            if not running or not world.working:
                return
            dead = self.rng.choice(leaders if leaders and self.rng.random() < 0.7 else running)
            others = [node.name for node in running if node is not dead]
            if len(others) < majority(size) - 1:
                return
            spared = self.rng.sample(others, majority(size) - 1)
            faults.spared = frozenset((self.name, *spared))
            pairs = [(dead.name, name) for name in spared]
            links = [*pairs, *((b, a) for a, b in pairs)]
            for source, target in links:
                world.network.cut(source, target)
            world.time.log("%s will die for good", dead.name)
            world.time.later(self.rng.choice((0.1, 0.3, 0.6)), partial(die, dead, links))

        def die(dead: Node, links: list[tuple[str, str]]) -> None:
            if world.working:
                world.time.count("dead beside a witness")
                dead.stop(power=self.rng.random() < 0.5)
            for source, target in links:
                world.network.mend(source, target)

        world.time.later(self.rng.uniform(1.0, 3.0), choose)


def gives_way(leader: Node) -> bool:
    """Whether this leader is a witness, and another voter is none."""
    assert leader.replica is not None
    stands_back, voters = leader.verdicts.stands_back, leader.replica.voters()
    return leader.is_witness and not all(map(stands_back, voters))


class StandingBack:
    """Watches the leaders of a world that are witnesses."""

    def __init__(self, world: World, promote_lag: int) -> None:
        """promote_lag: entries that a voter which has caught up may trail."""
        self._world, self._time, self._lag = world, world.time, promote_lag
        self._led: dict[tuple[str, int, int], float] = {}
        """Name, life and term of a witness that leads: since when."""
        self._ready: dict[tuple[str, int, int, str], float] = {}
        """The same, and who could lead in its place: since when."""

    def start(self) -> None:
        """Look again and again, from now on."""
        self._look()

    def _look(self) -> None:
        time = self._time
        time.later(_EVERY_S, self._look)
        led, ready = {}, {}
        for leader in self._world.leaders():
            if not leader.is_witness or leader.replica is None:
                continue
            key = (leader.name, leader.life, leader.replica.term())
            led[key] = self._led.get(key, time.now)
            if key not in self._led:
                time.count("witness leads")
            for other, disturbed_at in self._may_lead(leader):
                since = ready[*key, other.name] = self._ready.get((*key, other.name), time.now)
                in_calm = disturbed_at < led[key]
                if time.now - since > (_ELECTED_IN_CALM_S if in_calm else GIVES_WAY_S):
                    claim = f"{leader.name}, a witness, leads, though {other.name} could since {since:.3f}"
                    time.fail("witness", claim)
        self._led, self._ready = led, ready

    def _may_lead(self, leader: Node) -> Iterator[tuple[Node, float]]:
        """Voters that are no witnesses, hold nearly all, and have been sound together with a majority.

        And when something befell one of these, or a link of the voter, last.
        """
        assert leader.replica is not None
        world, voters = self._world, leader.replica.voters()
        since = self._time.now - _CALM_S
        sound = [node for node in world.running() if node.is_sound() and node.raft_id in voters]
        sound = [node for node in sound if self._time.disturbed_at(node.name) <= since]
        if leader not in sound or self._time.disturbed_at(HANDOVER) > since:
            return
        for node in sound:
            lag = leader.journal.last_index - leader.replica.acknowledged(node.raft_id)
            if leader.verdicts.stands_back(node.raft_id) or node is leader or lag > self._lag:
                continue
            reached = [other for other in sound if other is node or self._are_linked(node, other, since)]
            if leader in reached and len(reached) >= majority(len(voters)):
                what: list[object] = [HANDOVER, *(each.name for each in reached)]
                what += [frozenset((node.name, other.name)) for other in reached if other is not node]
                yield node, max(map(self._time.disturbed_at, what))

    def _are_linked(self, node: Node, other: Node, since: float) -> bool:
        network, pair = self._world.network, (node.name, other.name)
        calm = self._time.disturbed_at(frozenset(pair)) <= since
        return calm and network.is_sound(*pair) and network.lost_until(*pair) <= self._time.now
