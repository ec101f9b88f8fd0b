"""A node joins: it is invited and admitted through whoever leads, then started with an empty log."""

from __future__ import annotations

import json
from typing import Any

from cyoloctl.errors import CyoloctlError
from cyoloctl.raft.vendor import NO_OP
from cyoloctl.replicated.command import encode_command
from cyoloctl.sim.upkeep import admitting
from cyoloctl.sim.world import World

__all__ = ["admit"]

_RETRY_S = 0.3


def admit(world: World, name: str, *, memory: bool, learner: bool, witness: bool = False) -> None:
    """Admit a node and start it; asks again, as its operator would, until it has joined or peace comes.

    While there is no room for it every asking is another one: a refusal is remembered like any answer.
    """
    refusals = 0

    def ask() -> None:
        leaders = world.leaders()
        if not leaders:
            world.time.later(_RETRY_S, again)
            return
        leader = leaders[-1]

        def propose() -> None:
            if leader.replica is None:
                return
            for operation, arguments in admitting(name, learner=learner, witness=witness):
                request_id = f"{operation}-{name}" + (f"-{refusals}" if refusals else "")
                command = encode_command("members", operation, arguments, request_id=request_id, kind="node")
                leader.replica.propose(command, done if operation == "admit" else ignore)

        leader.put(leader.life, propose)
        world.time.later(_RETRY_S, again)

    def ignore(result: Any, error: CyoloctlError | None) -> None:
        pass

    def done(result: Any, error: CyoloctlError | None) -> None:
        nonlocal refusals
        if error is None and "error" in json.loads(result):
            refusals += 1
            return
        if error is None and name not in world.nodes:
            world.time.log("%s joins%s", name, ", its log in memory" if memory else "")
            world.time.count("join of a witness" if witness else "join")
            world.add_node(name, [(NO_OP, 1, 0)], memory=memory, witness=witness)
            if not world.working:  # its node.yaml names no removed members, as no other does by now
                world.nodes[name].heal()

    def again() -> None:
        if name not in world.nodes and world.working:
            ask()

    ask()
