"""A journal that is written in another thread, as it is where a sync takes long."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

from cyoloctl.raft.replica import Replica
from cyoloctl.raft.turns import Write
from cyoloctl.sim.plan import Plan
from cyoloctl.sim.timeline import Timeline

__all__ = ["elsewhere"]

_HERE = 0.3
"""Of the writes, those that the turn makes itself."""
_BEGINS_AFTER_S = (0.0, 0.0002, 0.002, 0.01)
_PAUSED_S = 0.05
_TICKS_AFTER_S = (0.0, 0.0005, 0.003)


class _Node(Protocol):
    """A node, as far as its writes need it.

    life: the number of its process.  elapsed: seconds since the present turn began.
    """

    plan: Plan
    time: Timeline
    name: str
    life: int
    elapsed: float

    def is_up(self) -> bool: ...
    def is_paused(self) -> bool: ...
    def put(self, life: int, call: Callable[[], Any]) -> None: ...


def elsewhere(node: _Node, replica: Replica) -> Callable[[Write], bool]:
    """What takes the writes of one process of a node.

    A write that has not begun when the process ends is not made, and one that was made need not be known
    of by the replica.
    """
    if not node.plan.writes_elsewhere:
        return lambda write: False
    life, time = node.life, node.time
    rng = random.Random(f"{node.plan.seed} {node.name} {life} writes")

    def take(write: Write) -> bool:
        if rng.random() < _HERE:
            return False
        time.count("journal written elsewhere")
        time.later(node.elapsed + rng.choice(_BEGINS_AFTER_S), lambda: run(write))
        return True

    def run(write: Write) -> None:
        if node.life != life or not node.is_up():
            return
        if node.is_paused():
            time.later(_PAUSED_S, lambda: run(write))
            return
        time.acting = node.name
        node.elapsed = 0.0
        write()
        took_s, node.elapsed = node.elapsed, 0.0
        time.later(took_s, end)

    def end() -> None:
        replica.turns.written()
        # The loop may hear of other things before it ticks.
        time.later(rng.choice(_TICKS_AFTER_S), lambda: node.put(life, lambda: None))

    return take
