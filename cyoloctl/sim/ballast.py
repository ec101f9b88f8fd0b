"""A large state: so much that its snapshot takes seconds on a narrow link, and longer than an election."""

from __future__ import annotations

import random

from cyoloctl.replicated.command import encode_command
from cyoloctl.sim.node import Node
from cyoloctl.sim.world import World

__all__ = ["load_ballast"]

_COUNTERS = 150
_NAME_BYTES = 60


def load_ballast(world: World, rng: random.Random) -> None:
    """Have a leader write many counters, once."""
    leaders = world.leaders()
    if not leaders:
        world.time.later(0.3, lambda: load_ballast(world, rng))
        return
    node = rng.choice(leaders)
    node.put(node.life, lambda: _propose(node))
    world.time.count("ballast")


def _propose(node: Node) -> None:
    if node.replica is None:
        return
    for number in range(_COUNTERS):
        name = f"ballast-{number}-".ljust(_NAME_BYTES, "x")
        command = encode_command(
            "counter", "add", {"name": name, "by": 1}, request_id=f"ballast-{number}", kind="client"
        )
        node.replica.propose(command, lambda result, error: None)
