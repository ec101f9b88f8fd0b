"""The nodes of one run, and everything they live in."""

from __future__ import annotations

import random
from collections.abc import Callable

from cyoloctl.model import RaftId, is_in_memory, majority
from cyoloctl.raft.journal import Entry
from cyoloctl.sim.invariants import Invariants
from cyoloctl.sim.network import Network
from cyoloctl.sim.node import Node
from cyoloctl.sim.plan import Plan
from cyoloctl.sim.timeline import Timeline

__all__ = ["World"]


class World:
    """Time, network, nodes and invariants of one run.

    working: clients work and faults come; False once everything heals.
    """

    def __init__(self, plan: Plan, *, late: bool = False) -> None:
        """late: see Network."""
        self._plan = plan
        self.seed = plan.seed
        self.nodes: dict[str, Node] = {}
        self.time = Timeline()
        self.network = Network(self.time, random.Random(f"{plan.seed} network"), self.nodes, late=late)
        self.invariants = Invariants(self.time, plan.tables)
        self.working = True
        self.by_file: set[str] = set()  # nodes that were granted their places
        self.before_change: Callable[[], None] = lambda: None
        """Called before a leader changes the voters, which may become fewer."""

    def add_node(self, name: str, log: list[Entry], *, memory: bool = False, witness: bool = False) -> Node:
        """Start a node whose data directory was just made; see Node."""
        node = self.nodes[name] = Node(
            self._plan,
            self.time,
            self.network,
            self.invariants,
            name=name,
            log=log,
            memory=memory,
            witness=witness,
        )
        node.may_die = lambda: self.may_lose(node)
        node.before_change = lambda what: self.before_change()
        acting = self.time.acting  # whoever admits it is in the middle of a turn
        node.start()
        self.time.acting = acting
        return node

    def may_lose(self, node: Node) -> bool:
        """Whether a process may end without ending the cluster.

        A member in memory does not come back as the voter that it was: the other voters that are up or
        on a disk must be a majority, in every configuration in force, and in
        one for which a leader has just called the roll: whoever answered is counted upon.
        """
        if not node.memory:
            return True
        up = {other.raft_id for other in self.running() if other is not node}
        return all(
            sum(raft_id in up or not is_in_memory(raft_id) for raft_id in voters) >= majority(len(voters))
            for voters in self._configurations()
        )

    def _configurations(self) -> list[frozenset[RaftId]]:
        found = [self.invariants.voters()]
        for node in self.nodes.values():
            if node.replica is not None:
                found += [node.replica.voters(), node.replica.considered()]
            elif not node.memory:  # a change that its disk alone holds may be in force when it is back
                found += node.left_voters
        return [voters for voters in found if voters]

    def names(self) -> list[str]:
        """The names of all nodes, in order."""
        return sorted(self.nodes)

    def running(self) -> list[Node]:
        """Nodes with a process, in the order of their names."""
        return [node for _, node in sorted(self.nodes.items()) if node.replica is not None]

    def leaders(self) -> list[Node]:
        """Nodes that take themselves for the leader, in the order of their names."""
        return [node for node in self.running() if node.replica is not None and node.replica.is_leader()]

    def heal(self) -> None:
        """Every fault ends, and no client begins anything new."""
        self.working = False
        self.time.log("everything heals")
        self.network.heal()
        for node in self.nodes.values():
            node.heal()
