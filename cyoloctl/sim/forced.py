"""An operator removes a voter by force when too few of those that stay are up: `member remove --force`."""

from __future__ import annotations

import random
from typing import Any

from cyoloctl.errors import Conflict, CyoloctlError
from cyoloctl.model import RaftId, is_in_memory, majority, name_of
from cyoloctl.sim.node import Node
from cyoloctl.sim.world import World

__all__ = ["force_out"]


def force_out(world: World, rng: random.Random, spared: frozenset[str]) -> bool:
    """Stop so many voters that a removal is refused, and force it; True where there was one to remove.

    The ones that stay have their logs on disks and come back: a member in memory would come back
    as another one, and nothing is promised then.  All invariants hold meanwhile: nothing committed is
    lost, the cluster stands still rather than that two lead, and the removed one stays out.
    """
    leaders = world.leaders()
    if not leaders:
        return False
    leader = rng.choice(leaders)
    assert leader.replica is not None
    status = leader.replica.status()
    if any(is_in_memory(raft_id) for raft_id in status.voters):
        return False
    up = [name for name in status.voters if name in status.connected and name not in spared]
    up = [name for name in up if world.nodes[name].replica is not None]
    if not up:
        return False
    target = up.pop(rng.randrange(len(up)))
    present = 1 + len(set(status.connected) & (set(status.voters) - {target}))
    needless = present - majority(len(status.voters) - 1) + 1
    for name in rng.sample(up, min(len(up), max(0, needless))):
        world.time.log("%s is stopped before %s is forced out", name, target)
        world.nodes[name].stop(power=False)
        world.nodes[name].start_later(rng.choice((1.0, 1.5, 2.5)))
    world.before_change()
    # Some leaders notice first that those are gone, and would refuse it without force.
    world.time.later(rng.choice((0.05, 0.1, 0.3)), lambda: _remove(world, leader, target))
    return True


def _remove(world: World, leader: Node, target: RaftId) -> None:
    time, life = world.time, leader.life

    def done(index: Any, error: CyoloctlError | None) -> None:
        if error is not None:
            time.count(f"forced removal ended: {error.code}")
            return
        time.count("forced removal")
        leader.changed("remove", target, index)
        leader.upkeep.forget(name_of(target))

    def refused(index: Any, error: CyoloctlError | None) -> None:
        """Without force first, as the operator does."""
        if not isinstance(error, Conflict):
            done(index, error)
        elif leader.replica is not None:
            time.count("removal refused without force")
            leader.replica.remove(target, done, force=True)

    def barrier_passed(index: Any, error: CyoloctlError | None) -> None:
        if error is None and leader.replica is not None:
            leader.replica.remove(target, refused)

    def ask() -> None:
        if leader.replica is not None:
            leader.replica.read(barrier_passed)

    time.log("%s is asked to force %s out", leader.name, target)
    leader.put(life, ask)
