"""The nodes of one run, and everything they live in."""

from __future__ import annotations

import random

from cyoloctl.raft.journal import Entry
from cyoloctl.sim.invariants import Invariants
from cyoloctl.sim.network import Network
from cyoloctl.sim.node import Node, Plan
from cyoloctl.sim.timeline import Timeline

__all__ = ["World"]


class World:
    """Time, network, nodes and invariants of one run.

    working: clients work and faults come; False once everything heals.
    """

    def __init__(self, plan: Plan, *, late: bool = False) -> None:
        """late: see Network."""
        self._plan = plan
        self.nodes: dict[str, Node] = {}
        self.time = Timeline()
        self.network = Network(self.time, random.Random(f"{plan.seed} network"), self.nodes, late=late)
        self.invariants = Invariants(self.time, plan.tables)
        self.working = True

    def add_node(self, name: str, log: list[Entry], *, memory: bool = False) -> Node:
        """Start a node whose data directory was just made; see Node."""
        node = self.nodes[name] = Node(
            self._plan, self.time, self.network, self.invariants, name=name, log=log, memory=memory
        )
        node.start()
        return node

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
