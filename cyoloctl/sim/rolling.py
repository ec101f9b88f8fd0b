"""A rolling upgrade: nodes go to the newer release, some back again, and operators raise the level."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any, cast

from cyoloctl.errors import CyoloctlError
from cyoloctl.members.upgrading import UpgradeOperations, target
from cyoloctl.replicated.command import encode_command
from cyoloctl.replicated.levels import BASE_LEVEL
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.sim.node import Node
from cyoloctl.sim.releases import LEVEL_2
from cyoloctl.sim.world import World

__all__ = ["Rolling"]


class Rolling:
    """The steps of an upgrade of one world."""

    def __init__(self, world: World) -> None:
        self._world, self._time = world, world.time
        self._rng = random.Random(f"{world.seed} levels")
        self._number = 0

    def step(self, nodes: list[Node]) -> bool:
        """One step at one of these nodes; False where there is nothing to do."""
        what = self._rng.choice(("forward", "forward", "forward", "back", "records", "records", "raise"))
        if what in ("forward", "back"):
            return self._change_release(nodes, back=what == "back")
        asked = self._world.leaders() if what == "records" else nodes
        if not asked:
            return False
        node = self._rng.choice(asked)
        node.put(node.life, lambda: self._announce(node) if what == "records" else self._raise(node))
        return True

    def _change_release(self, nodes: list[Node], *, back: bool) -> bool:
        """Stop a node, and start it as the other release; back only while the level was not raised."""
        judge = self._world.invariants.levels
        raised = judge is None or judge.level > BASE_LEVEL
        found = [node for node in nodes if node.older is not back and not node.memory]
        if not found or (back and raised):
            return False
        node = self._rng.choice(found)
        if back:
            node.older = True
            self._time.count("went back to the older release")
        else:
            node.upgrade()
        self._time.log("%s changes its release", node.name)
        node.crash(power=False)
        return True

    def _announce(self, leader: Node) -> None:
        """Those that are nothing but records announce what they understand, mostly; then it is raised."""
        for name in leader.state.levels.lacking(LEVEL_2.level):
            if name not in self._world.nodes and self._rng.random() < 0.95:
                self._propose(leader, "announce", {"name": name, "level": LEVEL_2.level})
        self._time.later(0.05, lambda: leader.put(leader.life, lambda: self._raise(leader)))

    def _raise(self, node: Node) -> None:
        """As `cluster upgrade` does."""
        levels = node.state.levels
        proposer = cast(Proposer, SimpleNamespace(engine=SimpleNamespace(peers=node.links.peers)))
        operations = UpgradeOperations(proposer, node.state.members, levels, name=node.name)
        to, waits_for = target(levels.level, operations.standings())
        if to > levels.level:
            self._propose(node, "raise", {"to": to, "release": levels.own.first(to)})
        elif waits_for:
            self._time.count("not raised: some members lack the level")

    def _propose(self, node: Node, operation: str, arguments: dict[str, Any]) -> None:
        self._number += 1
        request_id = f"{operation}-{self._number}"

        def done(result: Any, error: CyoloctlError | None) -> None:
            if error is None and json.loads(result).get("value", {}).get("changed"):
                self._time.count("level raised")

        if node.replica is not None:
            command = encode_command("levels", operation, arguments, request_id=request_id, kind="node")
            node.replica.propose(command, done)
