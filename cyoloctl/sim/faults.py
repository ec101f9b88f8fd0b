"""The faults of a run.  Each has a name, and ends by itself."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from typing import Any

from cyoloctl.errors import Conflict, CyoloctlError
from cyoloctl.model import RaftId, name_of
from cyoloctl.replicated.command import encode_command
from cyoloctl.sim.dishonest import Dishonesty
from cyoloctl.sim.forced import force_out
from cyoloctl.sim.joining import admit
from cyoloctl.sim.node import Node
from cyoloctl.sim.rolling import Rolling
from cyoloctl.sim.timeline import HANDOVER
from cyoloctl.sim.world import World

__all__ = ["FAULTS", "OPT_IN", "Faults"]

_WRONG_MS = (
    *(-2_000, 2_000, -600_000, 600_000, 20 * 60_000, -3 * 3_600_000),
    *(9 * 86_400_000, -9 * 86_400_000, 400 * 86_400_000, -400 * 86_400_000),
)
"""Some of the errors of a wrong wall clock."""

_SLEPT_MS = (60_000, 8 * 3_600_000, 3 * 86_400_000)
_JOINERS = 4


class Faults:
    """Injects the named faults into a world, as long as it is working.

    injected: how many of each.  spared: names of nodes that stay sound together: nothing befalls
    them or the links between them.
    """

    def __init__(self, world: World, rng: random.Random, names: tuple[str, ...], *, mean_s: float) -> None:
        """mean_s: mean time from one fault to the next."""
        self.injected = dict.fromkeys(names, 0)
        self._world, self._time, self._rng = world, world.time, rng
        self._names, self._mean_s = names, mean_s
        self._joined = self._roles = 0
        self.spared: frozenset[str] = frozenset()
        self._space = random.Random(f"{world.seed} space")
        self.witnesses: random.Random | None = None
        """Draws which nodes that join are witnesses; None: none is."""
        self._dishonesty = Dishonesty(world, rng)
        self._rolling = Rolling(world)
        self._grants = random.Random(f"{world.seed} grants")

    def start(self) -> None:
        """Begin, shortly after the nodes."""
        self._world.before_change = self._right_clocks
        if self._names:
            self._time.later(0.5 + self._rng.expovariate(1 / self._mean_s), self._inject)
        if "releases" in self._names and self._rng.random() < 0.5:
            # Later it has mostly met what it does not know, and stopped.
            self._time.later(0.4, self._leave_one_behind)

    def _inject(self) -> None:
        if not self._world.working:
            return
        name = self._rng.choices(self._names, [_WEIGHTS[name] for name in self._names])[0]
        if "dishonest" in self._names:
            self._dishonesty.remember()
        if self._dishonesty.pending:
            self._time.later(self._mean_s, self._inject)
            return
        if _BY_NAME[name](self):
            self.injected[name] += 1
        self._time.later(self._rng.expovariate(1 / self._mean_s), self._inject)

    def _victim(self) -> Node | None:
        leaders = [node for node in self._world.leaders() if node.name not in self.spared]
        running = self._exposed()
        if leaders and self._rng.random() < 0.4:
            return self._rng.choice(leaders)
        return self._rng.choice(running) if running else None

    def _exposed(self) -> list[Node]:
        return [node for node in self._world.running() if node.name not in self.spared]

    def _exposed_links(self, links: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        return [link for link in links if not self.spared.issuperset(link)]

    def _some_links(self, everywhere: float) -> list[tuple[str, str]]:
        """All directions with this probability, otherwise one; none where no link is exposed."""
        names = self._world.names()
        links = self._exposed_links((a, b) for a in names for b in names if a != b)
        return links if not links or self._rng.random() < everywhere else [self._rng.choice(links)]

    # Each of these returns whether it found a victim.

    def crash(self) -> bool:
        """A process ends: at its next steps, when asked to, at once, with the power, or all of them."""
        node = self._victim()
        if node is None:
            return False
        how = self._rng.random()
        if how < 0.5:
            steps = self._rng.choice((1, 2, 3, 4, 5, 6, 8, 12, 25))
            node.die_within(steps)
            self._time.log("%s will die within %d steps", node.name, steps)
        elif how < 0.6:
            self._time.log("%s is stopped", node.name)
            node.quit()
        elif how < 0.92:
            self._crash(node, power=how < 0.75)
        else:
            for other in self._exposed():
                self._crash(other, power=how < 0.97)
        return True

    def _crash(self, node: Node, *, power: bool) -> None:
        if self._world.may_lose(node):
            node.crash(power=power)

    def disk(self) -> bool:
        """A disk fails at its next sync, is full or nearly full for a while, or slow."""
        node = self._victim()
        if node is None or node.memory:
            return False
        disk, how = node.disk, self._rng.randrange(3)
        self._time.disturb(node.name)
        if how == 0:
            disk.fail_sync = True
            self._time.log("the next sync of %s fails", node.name)
        elif how == 1:
            self._fill(node, self._rng.uniform(0.1, 2.0))
        else:
            before = disk.sync_s
            disk.sync_s = (0.005, self._rng.choice((0.02, 0.2, 0.7)))
            self._time.log("the disk of %s is slow", node.name)

            def fast() -> None:
                disk.sync_s = before
                self._time.disturb(node.name)

            self._time.later(self._rng.uniform(0.2, 2.0), fast)
        return True

    def _fill(self, node: Node, seconds: float) -> None:
        """Its disk is full, or has too little room for new entries: so long, or three times that."""
        disk, is_full = node.disk, self._space.random() < 0.5
        disk.full, disk.low = disk.full or is_full, disk.low or not is_full
        self._time.log("the disk of %s is %s", node.name, "full" if is_full else "nearly full")

        def freed() -> None:
            disk.full = disk.low = False
            self._time.disturb(node.name)

        self._time.later(seconds * self._space.choice((1.0, 3.0)), freed)

    def partition(self) -> bool:
        """Some nodes cannot reach others: both ways, one way, or on one link alone."""
        names, network = self._world.names(), self._world.network
        if len(names) < 2:
            return False
        how = self._rng.randrange(5)
        leaders = [node.name for node in self._world.leaders()]
        group = self._rng.sample(names, self._rng.randrange(1, len(names)))
        if how >= 2 and leaders:
            group = leaders[:1]
        others = [name for name in names if name not in group]
        links: list[tuple[str, str]] = []
        if how != 3:  # 3: the leader is heard and hears nothing
            links += [(a, b) for a in group for b in others]
        if how != 4:  # 4: the leader hears and is not heard
            links += [(b, a) for a in group for b in others]
        links = self._exposed_links(links)
        if not links:
            return False
        if how == 1:  # one link alone, one way
            links = [self._rng.choice(links)]
        for source, target in links:
            network.cut(source, target)
        self._time.log("cut off: %s", links)

        def heal() -> None:
            for source, target in links:
                network.mend(source, target)
            self._time.log("healed: %s", links)

        self._time.later(self._rng.choice((0.2, 0.8, 2.0, 5.0)), heal)
        return True

    def slow(self) -> bool:
        """One link is slow, or all of them are."""
        network, links = self._world.network, self._some_links(0.4)
        if not links:
            return False
        delay_s = self._rng.choice(((0.0, 0.0), (0.01, 0.03), (0.02, 0.2), (0.0, 0.5)))
        for source, target in links:
            network.slow(source, target, delay_s)
        self._time.log("delays of %s s on %s", delay_s, links)

        def heal() -> None:
            for source, target in links:
                network.slow(source, target, None)

        self._time.later(self._rng.uniform(0.3, 3.0), heal)
        return True

    def narrow(self) -> bool:
        """One link carries little, or all of them: what is large takes seconds, and holds up what follows."""
        network, links = self._world.network, self._some_links(0.3)
        if not links:
            return False
        bytes_per_s = self._rng.choice((3e3, 1e4, 3e4, 1e5))
        for source, target in links:
            network.narrow(source, target, bytes_per_s)
        self._time.log("%d bytes a second on %s", bytes_per_s, links)

        def heal() -> None:
            for source, target in links:
                network.narrow(source, target, None)

        self._time.later(self._rng.uniform(0.5, 4.0), heal)
        return True

    def stall(self) -> bool:
        """A turn of the event loop takes long: the collector, or a machine that shares its processor."""
        node = self._victim()
        if node is None:
            return False
        looks, seconds = self._rng.choice((1, 2, 3, 4, 6, 9, 30)), self._rng.choice((0.1, 0.6, 1.6, 3.0))
        node.stall(looks, seconds)
        self._time.log("%s will stall for %g s", node.name, seconds)
        return True

    def drop(self) -> bool:
        """The connections of a node break: one of them, or all."""
        nodes = [node for node in self._world.running() if self._exposed_peers(node)]
        if not nodes:
            return False
        node = self._rng.choice(nodes)
        peers = self._exposed_peers(node)
        for peer in peers if self._rng.random() < 0.3 else [self._rng.choice(peers)]:
            self._time.log("the connection of %s and %s breaks", node.name, peer)
            self._world.network.drop(node, self._world.nodes[peer])
        return True

    def _exposed_peers(self, node: Node) -> list[str]:
        return [peer for peer in sorted(node.links.peers()) if not self.spared.issuperset((node.name, peer))]

    def pause(self) -> bool:
        """A process stands still, as under SIGSTOP or in a machine that is moved."""
        node = self._victim()
        if node is None:
            return False
        pause_s = self._rng.choice((0.05, 0.4, 1.2, 2.5))
        node.pause(pause_s)
        self._time.log("%s is paused until %.3f", node.name, self._time.now + pause_s)
        return True

    # Clocks.

    def clock(self) -> bool:
        """Wall clocks of any minority are wrong in any way; in some runs monotonic clocks are, too."""
        if self._time.monotonic_faults and self._rng.random() < 0.5:
            return self._monotonic()
        if self._rng.random() < 0.15:
            return self._sleep()
        nodes = [node for node in self._world.nodes.values() if node.wall_is_wrong()]
        if not nodes or self._rng.random() < 0.7:
            nodes = list(self._world.nodes.values())
        node = self._rng.choice(nodes)
        if node.wall_is_wrong() and self._rng.random() < 0.3:
            node.set_wall(None)
        elif not self.wrong_wall(node):
            return False
        self._time.log("the wall clock of %s shows %d", node.name, node.wall_unix_ms())
        if self._rng.random() < 0.2 and node.replica is not None and node.name not in self.spared:
            self._crash(node, power=True)  # a machine that starts with a wrong clock
        return True

    def _monotonic(self) -> bool:
        node = self._victim()
        if node is None:
            return False
        if self._rng.random() < 0.5:
            node.set_clock(rate=self._rng.choice((0.5, 0.9, 1.0, 1.1, 2.0)), leap_s=0.0)
        else:
            node.set_clock(rate=1.0, leap_s=self._rng.choice((0.3, 1.0, 30.0)))
        self._time.log("the monotonic clock of %s", node.name)
        return True

    def _sleep(self) -> bool:
        """All machines stop; hours or days later they start again."""
        nodes = self._world.running()
        if self.spared or not nodes or any(node.memory for node in self._world.nodes.values()):
            return False
        for node in self._world.running():
            node.crash(power=True)
        self._time.slept_ms += self._rng.choice(_SLEPT_MS)
        self._time.log("everybody sleeps; the time of day is %d now", self._time.true_unix_ms())
        self._time.count("slept")
        return True

    def wrong_wall(self, node: Node) -> bool:
        """Set a wall clock wrong, unless too many would be wrong then."""
        if not self._may_be_wrong(node.name):
            return False
        rate = self._rng.choice((1.0, 1.0, 0.1, 0.5, 2.0, 10.0))
        shown = self._time.true_unix_ms() + self._rng.choice(_WRONG_MS)
        node.set_wall(self._rng.choice((0.0, 5_000.0, 2.0**53)) if self._rng.random() < 0.1 else shown, rate)
        return True

    def wrong_clocks_are_few(self) -> bool:
        """True while the wrong wall clocks are a minority of the voters, in every configuration in force."""
        return self._is_minority({node.name for node in self._world.nodes.values() if node.wall_is_wrong()})

    def _may_be_wrong(self, name: str) -> bool:
        return self._is_minority(self._believed_wrong() | {name})

    def _believed_wrong(self) -> set[str]:
        return {node.name for node in self._world.nodes.values() if node.wall_is_believed_wrong()}

    def _is_minority(self, wrong: set[str], fewer: int = 0) -> bool:
        """Whether these are a minority of the voters in force, and stay one with fewer of them."""
        running = self._world.running()
        configurations = [set(self._world.invariants.voter_names())]
        for node in running:
            assert node.replica is not None
            configurations.append(set(node.replica.voter_names()))
        if not running or not any(configurations):
            return (
                not wrong
            )  # a change may wait in a log that nobody has read yet, or there are no voters yet
        return all(
            2 * len(wrong & voters) < len(voters) - fewer or not wrong & voters for voters in configurations
        )

    # Members.

    def membership(self) -> bool:
        """A node joins, is to vote from now on or not to, or a leader changes or removes one."""
        what = self._rng.choice(("join", "add", "add", "add", "demote", "remove", "role", "role"))
        if what == "join":
            return self._join()
        leaders = self._world.leaders()
        if not leaders:
            return False
        leader = self._rng.choice(leaders)
        assert leader.replica is not None
        if what == "role":
            return self._set_role(leader)
        status = leader.replica.status()
        others = [name for name in status.voters if name_of(name) not in {leader.name, *self.spared}]
        if what == "add":
            targets = list(status.learners)
        elif what == "demote":
            targets = [name for name in others if not leader.verdicts.stands_back(name)]
        else:
            targets = [*others, *status.learners]
        targets = [name for name in targets if name_of(name) in self._world.nodes]
        if what != "add":  # as the command refuses it
            targets = [name for name in targets if self._leaves_a_leader(leader, status.voters, name)]
        if not targets:
            return False
        self._change(leader, what, self._rng.choice(targets))
        return True

    @staticmethod
    def _leaves_a_leader(leader: Node, voters: Iterable[RaftId], without: RaftId) -> bool:
        """Whether somebody who may lead votes without this one."""
        return not all(leader.verdicts.stands_back(name) for name in voters if name != without)

    def _join(self) -> bool:
        if self._joined >= _JOINERS:
            return False
        self._joined += 1
        memory, learner = self._rng.random() < 0.5, self._rng.random() < 0.3
        witness = self.witnesses is not None and not memory and not learner and self.witnesses.random() < 0.4
        by_file = not memory and self._grants.random() < 0.5
        name = f"x{self._joined}"
        admit(self._world, name, memory=memory, learner=learner, witness=witness, by_file=by_file)
        return True

    def _set_role(self, leader: Node) -> bool:
        """The members agree that one, the leader itself perhaps, is to be a voter or a learner."""
        roles = {
            member.name: member.role
            for member in leader.state.members.members()
            if member.name in self._world.nodes and member.name not in self.spared
        }
        if not roles:
            return False
        lead = leader.name in roles and self._rng.random() < 0.3
        name = leader.name if lead else self._rng.choice(sorted(roles))
        role = "voter" if roles[name] == "learner" else "learner"
        self._roles += 1
        command = encode_command(
            "members",
            "set_role",
            {"name": name, "role": role},
            request_id=f"role-{self._roles}",
            kind="node",
        )

        def done(result: Any, error: CyoloctlError | None) -> None:
            if error is None and json.loads(result).get("value", {}).get("changed"):
                self._time.count(f"to be a {role}")

        self._time.log("%s is to be a %s, says %s", name, role, leader.name)
        leader.put(
            leader.life,
            lambda: None if leader.replica is None else leader.replica.propose(command, done),
        )
        return True

    def _change(self, leader: Node, what: str, target: RaftId) -> None:
        """Ask a leader for a change of the configuration."""

        def done(index: Any, error: CyoloctlError | None) -> None:
            if error is None:
                leader.changed(what, target, index)
                if what == "remove" and self._rng.random() < 0.7:  # otherwise another leader finishes it
                    leader.upkeep.forget(name_of(target))

        self._right_clocks()

        def ask() -> None:
            if leader.replica is not None:
                change = {
                    "add": leader.replica.add_voter,
                    "demote": leader.replica.demote,
                    "remove": leader.replica.remove,
                }[what]
                change(target, done)

        self._time.log("%s is asked to %s %s", leader.name, what, target)
        leader.put(leader.life, ask)

    def _right_clocks(self) -> None:
        """The voters may become fewer: the wrong clocks must stay a minority."""
        if not self._is_minority(self._believed_wrong(), fewer=1):
            for node in self._world.nodes.values():
                if node.wall_is_wrong():
                    node.set_wall(None)

    def transfer(self) -> bool:
        """A leader is asked to hand leadership over."""
        leaders = self._world.leaders()
        if not leaders:
            return False
        leader = self._rng.choice(leaders)

        def done(new: Any, error: CyoloctlError | None) -> None:
            self._time.disturb(HANDOVER)
            if not isinstance(error, Conflict):  # another one may be going on
                self._time.handing_over_until = self._time.now
            if error is None:
                self._time.count("transfer")

        def ask() -> None:
            if leader.replica is not None:
                self._time.begin_handover()
                leader.replica.transfer_leadership(None, done)

        self._time.log("%s hands leadership over", leader.name)
        leader.put(leader.life, ask)
        return True

    def compaction(self) -> bool:
        """A node saves a snapshot and cuts its log now."""
        node = self._victim()
        if node is None:
            return False
        self._compact(node)
        return True

    def _compact(self, node: Node) -> None:
        def compact() -> None:
            if node.replica is not None:
                node.replica.maybe_compact(force=True)

        node.put(node.life, compact)

    def dishonest(self) -> bool:
        """A disk loses, forgets or turns what it had synced: see `Dishonesty`."""
        return self._dishonesty.befall()

    def force(self) -> bool:
        """A voter is removed by force while too few of the others are up."""
        return force_out(self._world, self._rng, self.spared)

    def releases(self) -> bool:
        """A node that runs the older release is stopped, and started as the newer one."""
        nodes = [node for node in self._exposed() if node.older]
        if not nodes:
            return False
        node = self._rng.choice(nodes)
        node.upgrade()
        node.crash(power=False)
        return True

    def levels(self) -> bool:
        """A node changes its release, or somebody raises the level: see `Rolling`."""
        return self._rolling.step(self._exposed())

    def _leave_one_behind(self) -> None:
        """Cut a node of the older release off until the others, who go on, have cut their logs."""
        nodes = [node for node in self._exposed() if node.older]
        if not nodes:
            return
        node, network = self._rng.choice(nodes), self._world.network
        others = [name for name in self._world.names() if name != node.name]
        links = [*((node.name, other) for other in others), *((other, node.name) for other in others)]
        for source, target in links:
            network.cut(source, target)
        self._time.log("%s is left behind", node.name)

        def compact() -> None:
            for other in self._exposed():
                if other.name in others:
                    self._compact(other)

        def heal() -> None:
            for source, target in links:
                network.mend(source, target)

        self._time.later(1.6, compact)
        self._time.later(2.0, heal)


_TABLE: dict[str, tuple[int, Callable[[Faults], bool]]] = {
    "crash": (6, Faults.crash),
    "disk": (3, Faults.disk),
    "partition": (5, Faults.partition),
    "slow": (3, Faults.slow),
    "narrow": (2, Faults.narrow),
    "drop": (5, Faults.drop),
    "pause": (3, Faults.pause),
    "stall": (2, Faults.stall),
    "clock": (4, Faults.clock),
    "membership": (5, Faults.membership),
    "transfer": (3, Faults.transfer),
    "compaction": (2, Faults.compaction),
}
_OPT_IN_TABLE: dict[str, tuple[int, Callable[[Faults], bool]]] = {
    "dishonest": (6, Faults.dishonest),
    "releases": (1, Faults.releases),
    "force": (5, Faults.force),
    "levels": (20, Faults.levels),
}
_BY_NAME = {name: inject for name, (_, inject) in (_TABLE | _OPT_IN_TABLE).items()}
_WEIGHTS = {name: weight for name, (weight, _) in (_TABLE | _OPT_IN_TABLE).items()}

FAULTS: dict[str, int] = {name: weight for name, (weight, _) in _TABLE.items()}
"""The kinds of faults, and how often each is chosen relative to the others."""

OPT_IN = tuple(_OPT_IN_TABLE)
"""Kinds that come only where they are named: less is promised then, or they need a cluster of their own."""
