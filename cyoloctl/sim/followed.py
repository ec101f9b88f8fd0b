"""Writes that follow others in one lead, as the lines of a batch do: applied after them, or not at all."""

from __future__ import annotations

import json
import random
from collections import deque
from typing import Any

from cyoloctl.errors import CyoloctlError
from cyoloctl.raft.proposals import Proposal
from cyoloctl.replicated.command import encode_command
from cyoloctl.sim.model import code_of
from cyoloctl.sim.node import Node
from cyoloctl.sim.world import World

__all__ = ["Followed"]

_REMEMBERED = 200
_MEAN_S = 0.25
_DELAYS_S = (0.0, 0.0, 0.003, 0.03, 0.2)
_GIVEN_UP_S = (0.0, 0.003, 0.03, 0.3, 5.0)


class Followed:
    """Proposes pairs at nodes that take themselves for the leader, the second in the lead of the first."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world, self._time, self._rng = world, world.time, rng
        self._count = 0
        self._pairs: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED)

    def start(self) -> None:
        """Begin, shortly after the clients."""
        self._time.later(0.6, self._begin)

    def _begin(self) -> None:
        self._judge()
        if not self._world.working:
            return
        self._time.later(self._rng.expovariate(1 / _MEAN_S), self._begin)
        leaders = self._world.leaders()
        if not leaders:
            return
        node = self._rng.choice(leaders)
        life, delay_s, given_up_s = node.life, self._rng.choice(_DELAYS_S), self._rng.choice(_GIVEN_UP_S)
        self._count += 1
        pair = f"first-{self._count}", f"second-{self._count}"

        def first() -> None:
            if node.replica is None or not node.replica.is_leader():
                return
            lead = node.replica.term()
            failed, proposal = self._propose(node, pair[0])
            self._pairs.append(pair)

            def second() -> None:
                # Behind what is known to have failed, nothing is proposed.
                if not failed and node.replica is not None:
                    self._propose(node, pair[1], lead=lead, behind=proposal)

            def give_up() -> None:
                if node.replica is not None:
                    proposal.give_up(node.replica.leader(), given_up_s)

            self._time.later(delay_s, lambda: node.put(life, second))
            self._time.later(given_up_s, lambda: node.put(life, give_up))

        node.put(life, first)

    def _propose(
        self, node: Node, request_id: str, *, lead: int = 0, behind: Proposal | None = None
    ) -> tuple[list[CyoloctlError], Proposal]:
        """Propose an increment; the list gets the error, when there is one."""
        failed: list[CyoloctlError] = []
        assert node.replica is not None
        invariants = self._world.invariants
        floor, attempt = invariants.observed, invariants.told.asked(request_id)
        command = encode_command(
            "counter", "add", {"name": "shared", "by": 1}, request_id=request_id, kind="node"
        )

        def done(result: Any, error: CyoloctlError | None) -> None:
            if error is not None:
                failed.append(error)
                attempt.failed(error)
                return
            answer = json.loads(result)
            if code_of(answer) != "outcome_unknown":
                invariants.acknowledged(node, command, answer, floor)
            self._time.count("followed" if lead else "to be followed")
            self._judge()

        return failed, node.replica.propose(command, done, lead=lead, behind=behind)

    def _judge(self) -> None:
        given = self._world.invariants.model.given
        for first, second in self._pairs:
            if second not in given:
                continue
            at = given[second][0][0]
            if first not in given or given[first][0][0] > at:
                claim = f"{second} was applied at {at}, and {first}, which it follows, was not before it"
                self._time.fail("order", claim)
