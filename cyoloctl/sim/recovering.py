"""A cluster that loses the majority of its disks, and is recovered from one that is left.

A run of its own.  Writes go through a cluster of three or five; then one node
is cut off, or all others lose their power.  That node is stopped, made the
whole cluster by what `cluster recover` does, and started: a new history, with
invariants of its own.  The others, who may have gone on meanwhile, come back,
or the links with them: they are told that they were left behind.

- The epoch grows, and the survivor serves within `SERVED_S`.
- Every write that was acknowledged and lay on its disk is still there.
- Every old member that lives has been told, and the survivor has a link with none of them.
- No entry of one history after the break is in a log of the other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from cyoloctl.errors import CyoloctlError
from cyoloctl.model import NO_STAMP, NodeName, RaftId
from cyoloctl.node.recover import go_on_alone
from cyoloctl.raft.batch import encode_batch
from cyoloctl.raft.journal import Entry, Journal
from cyoloctl.raft.peers import LEFT_BEHIND
from cyoloctl.raft.settings import Limits
from cyoloctl.raft.snapshot import SnapshotStore
from cyoloctl.raft.vendor import NO_OP, STAMPED, encode_membership
from cyoloctl.replicated.command import encode_command
from cyoloctl.sim.disk import DiskFiles, DiskStore
from cyoloctl.sim.invariants import Invariants
from cyoloctl.sim.node import Node
from cyoloctl.sim.plan import Plan
from cyoloctl.sim.upkeep import founding
from cyoloctl.sim.world import World

__all__ = ["SERVED_S", "run_recovery"]

SERVED_S = 5.0
_TOLD_S = 10.0
_WRITE_EVERY_S = 0.05


class _Recovery:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"{seed} recovery")
        self.world = World(Plan(seed, Limits()))
        names = [f"n{number}" for number in range(1, self.rng.choice((3, 5)) + 1)]
        log: list[Entry] = [(NO_OP, 1, 0)]
        log += [(encode_membership("add", RaftId(name)), 2 + at, 0) for at, name in enumerate(names)]
        log.append((encode_batch([(each, 0) for each in founding(names)], NO_STAMP), len(log) + 1, 0))
        self.nodes = [self.world.add_node(name, log) for name in names]
        self.writes = 0
        self.acknowledged: dict[str, int] = {}
        """Counters that were set to one, and the index of that."""
        self.held: list[str] = []
        """Those of them on the disk that was recovered."""

    def write(self, node: Node, then: Callable[[], None] = lambda: None) -> None:
        """Write a counter of its own through this node."""
        self.writes += 1
        name = f"w{self.writes}"
        arguments = {"name": name, "by": 1}
        command = encode_command("counter", "add", arguments, request_id=name, kind="client")

        def done(result: Any, error: CyoloctlError | None) -> None:
            if error is None:
                self.acknowledged[name] = json.loads(result)["index"]
                then()

        def propose() -> None:
            if node.replica is not None:
                node.replica.propose(command, done)

        node.put(node.life, propose)

    def keep_writing(self, until_s: float) -> None:
        """Write through one node after another until then."""
        if self.world.time.now < until_s:
            self.write(self.rng.choice(self.nodes))
            self.world.time.later(_WRITE_EVERY_S, lambda: self.keep_writing(until_s))

    def run(self) -> World:
        """From the start to two histories, of which one knows of the other."""
        world, time, rng = self.world, self.world.time, self.rng
        self.keep_writing(6.0)
        time.run_until(rng.uniform(2.0, 3.5))
        survivor = rng.choice(self.nodes)
        others = [node for node in self.nodes if node is not survivor]
        lives_on = rng.random() < 0.6
        if lives_on:
            time.count("old majority lives on")
            for node in others:
                world.network.cut(node.name, survivor.name)
                world.network.cut(survivor.name, node.name)
        else:
            for node in others:
                node.stop(power=True)
        time.run_until(time.now + rng.uniform(0.05, 2.5))
        survivor.stop(power=rng.random() < 0.5)
        last = self._recover(survivor, others)
        self._serve(survivor)
        time.run_until(max(time.now, 6.0))
        world.network.heal()
        for node in others:
            if node.replica is None:
                node.start()
        self._judge(survivor, others, last)
        return world

    def _recover(self, survivor: Node, others: list[Node]) -> int:
        """As `cluster recover` on its directory; the last index of the old history there."""
        time, disk = self.world.time, survivor.disk
        journal = Journal(DiskStore(disk, lambda what: None, lambda seconds: None))
        snapshots = SnapshotStore(DiskFiles(disk, lambda what: None, lambda seconds: None))
        for written, index in self.acknowledged.items():
            entry = journal.entry(index)
            if entry is not None and f'"{written}"'.encode() in entry[0]:
                self.held.append(written)
                time.count("acknowledged and on the disk")
        name = NodeName(survivor.name)
        done = go_on_alone(journal, snapshots, name=name, cluster_id="c" * 32, before=lambda epoch: None)
        journal.close()
        if done.epoch != 2 or done.lost != sorted(node.name for node in others):
            time.fail("recovery", f"{survivor.name} goes on in epoch {done.epoch} without {done.lost}")
        for node in others:
            node.left_behind = True
        survivor.invariants = Invariants(time)
        survivor.start()
        return done.found.last_index

    def _serve(self, survivor: Node) -> None:
        """The survivor serves, with all that was acknowledged and lay on its disk."""
        time, served = self.world.time, list[bool]()
        self.write(survivor, lambda: served.append(True))
        deadline = time.now + SERVED_S
        while not served and time.now < deadline and time.broken is None:
            time.run_until(time.now + 0.05)
            if not served and survivor.replica is not None and survivor.replica.is_leader():
                self.write(survivor, lambda: served.append(True))
        if not served:
            time.fail("recovery", f"{survivor.name} does not serve {SERVED_S:g} s after it was recovered")
        missing = [name for name in self.held if survivor.state.counters.get(name) is None]
        if missing:
            time.fail("recovery", f"{missing} were acknowledged, lay on that disk, and are gone")
        if survivor.state.history.epoch != 2:
            time.fail("recovery", f"{survivor.name} serves in epoch {survivor.state.history.epoch}")
        time.count("recovered")

    def _judge(self, survivor: Node, others: list[Node], last: int) -> None:
        """The others are told, and nothing of one history comes into the other."""
        time, rng = self.world.time, self.rng
        end = time.now + _TOLD_S
        while time.now < end and time.broken is None:
            for node in (survivor, *others):
                if rng.random() < 0.3:
                    self.write(node)
            time.run_until(time.now + 0.2)
            mixed = sorted(survivor.links.peers())
            if mixed:
                time.fail("recovery", f"{survivor.name} has a link with {mixed} of the old history")
        new = {command for command, index, _ in survivor.journal.entries if index > last}
        for node in others:
            if node.replica is None:
                continue
            told = node.verdicts.kept_out_by(time.now)
            if told.get(survivor.name) != LEFT_BEHIND:
                time.fail("recovery", f"{node.name} was not told that it was left behind: {told}")
            old = {command for command, index, _ in node.journal.entries if index > last}
            both = {command for command in old & new if command[:1] == STAMPED}
            if both or node.state.history.epoch != 1:
                time.fail("recovery", f"{node.name} has {both} of the new history")
        time.count("left behind and told")


def run_recovery(seed: int) -> World:
    """One run; `World.time` tells what broke."""
    return _Recovery(seed).run()
