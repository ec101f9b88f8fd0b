"""Liveness in the middle: what a sound majority owes its clients while faults go on elsewhere.

Voters are sound together when they run, no fault is on them, their disks or
the links between them, and none was for a while.  As long as a majority of the
voters is, in every configuration in force, a write through them succeeds
within `BOUND_S`: whatever happens to the other nodes, and to the links with
them, meanwhile.  Where one of those others is elected in that time, the bound
begins again, once: it may be lost as soon as it leads.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection
from functools import partial
from itertools import combinations
from typing import Any

from cyoloctl.errors import CyoloctlError, NoRoom, OutcomeUnknown, Overloaded
from cyoloctl.model import RaftId, majority
from cyoloctl.replicated.command import encode_command
from cyoloctl.sim.node import Node
from cyoloctl.sim.timeline import HANDOVER
from cyoloctl.sim.world import World

__all__ = ["BOUND_S", "Liveness"]

BOUND_S = 3.0
"""A write through a sound majority succeeds within this time."""

_CALM_S = 1.0
"""They are sound together this long after the last fault of any of them: links are made again."""

_EVERY_S = 0.5

_ASK_AGAIN = (Overloaded, NoRoom, OutcomeUnknown)
"""Told one of these, a client repeats the write with its request id: that is no answer yet."""


class Liveness:
    """Tries writes again and again, and judges those that a sound majority owed an answer."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world, self._time, self._rng = world, world.time, rng
        self._number = 0

    def start(self) -> None:
        """Begin, once the first leader may be there."""
        self._time.later(1.5, self._try)

    def _try(self) -> None:
        if not self._world.working:
            return
        self._time.later(_EVERY_S, self._try)
        sound = self._sound_majority()
        if sound is None:
            return
        self._number += 1
        command = encode_command(
            "counter", "add", {"name": "alive", "by": 1}, request_id=f"alive-{self._number}", kind="client"
        )
        answered: list[float] = []
        began, floor = self._time.now, self._world.invariants.observed

        def done(node: Node, result: Any, error: CyoloctlError | None) -> None:
            if isinstance(error, _ASK_AGAIN) and not answered:
                again = partial(self._propose, node, command, partial(done, node))
                self._time.later(0.1, partial(node.put, node.life, again))
            if error is None:
                answered.append(self._time.now - began)
                self._world.invariants.acknowledged(node, command, json.loads(result), floor)

        for name in sound:
            node = self._world.nodes[name]
            node.put(node.life, partial(self._propose, node, command, partial(done, node)))
        self._time.later(BOUND_S, partial(self._judge, sound, answered, began, began))

    @staticmethod
    def _propose(node: Node, command: bytes, done: Any) -> None:
        if node.replica is not None:
            node.replica.propose(command, done)

    def _judge(self, sound: tuple[str, ...], answered: list[float], began: float, since: float) -> None:
        time = self._time
        others = [at for name, at in time.led_at.items() if name not in sound and at > began]
        if answered:
            time.count("answered in time" if answered[0] < 1.0 else "answered after a second")
        elif since == began and others:
            again = max(others)
            time.at(again + BOUND_S, partial(self._judge, sound, answered, began, again))
        elif (
            self._calm(sound, began)
            and self._is_majority(sound)
            and not self._dials(sound, began)
            and time.handing_over_until <= began
        ):
            claim = (
                f"a write at {began:.3f} was not answered within {time.now - began:.3g} s, though "
                f"{', '.join(sound)} were sound, connected and a majority of the voters all that time"
            )
            time.fail("liveness", claim)

    # Who is sound.

    def _sound_majority(self) -> tuple[str, ...] | None:
        """Voters that are sound together and a majority, large groups first; None when there are none."""
        since = self._time.now - _CALM_S
        nodes = [node.name for node in self._world.running() if node.is_sound() and node.disk.is_honest()]
        voters = self._voters()
        nodes = [name for name in nodes if any(self._world.nodes[name].raft_id in each for each in voters)]
        for size in range(len(nodes), 0, -1):
            for group in combinations(nodes, size):
                if self._is_majority(group) and self._are_linked(group) and self._calm(group, since):
                    return group
        return None

    def _are_linked(self, names: Collection[str]) -> bool:
        return all(self._world.network.is_sound(a, b) for a, b in combinations(names, 2))

    def _calm(self, names: Collection[str], since: float) -> bool:
        """True when no fault of these nodes or of their links began or ended since then."""
        what = [HANDOVER, *names, *(frozenset(pair) for pair in combinations(names, 2))]
        return all(self._time.disturbed_at(each) <= since for each in what)

    def _dials(self, names: Collection[str], at: float) -> bool:
        """Whether two of these nodes still waited then for a connection that a cut had swallowed."""
        return any(self._world.network.lost_until(a, b) > at for a, b in combinations(names, 2))

    def _voters(self) -> list[frozenset[RaftId]]:
        """The voters, in every configuration in force: a member in memory counts in the life that it has."""
        found = [self._world.invariants.voters()]
        for node in self._world.running():
            assert node.replica is not None
            found.append(node.replica.voters())
        return [voters for voters in found if voters]

    def _is_majority(self, names: Collection[str]) -> bool:
        ids, voters = {self._world.nodes[name].raft_id for name in names}, self._voters()
        return bool(voters) and all(len(each & ids) >= majority(len(each)) for each in voters)
