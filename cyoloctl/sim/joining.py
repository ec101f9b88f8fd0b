"""A node joins: it is admitted through whoever leads, then started with an empty log.

By a token it is a member before it starts.  By file (`member grant`, `node
accept`) it is granted a place, and becomes a member when it announces itself,
through a leader that sends it the log meanwhile.
"""

from __future__ import annotations

import json
from typing import Any

from cyoloctl.errors import CyoloctlError
from cyoloctl.raft.vendor import NO_OP
from cyoloctl.replicated.command import encode_command
from cyoloctl.sim.upkeep import admitting, granting
from cyoloctl.sim.world import World

__all__ = ["admit"]

_RETRY_S = 0.3


def admit(
    world: World, name: str, *, memory: bool, learner: bool, witness: bool = False, by_file: bool = False
) -> None:
    """Admit a node and start it; asks again, as its operator would, until it has joined or peace comes.

    by_file: it is granted its place.  While there is no room for it every asking is another one: a
    refusal is remembered like any answer.
    """
    refusals = 0
    steps = (granting if by_file else admitting)(name, learner=learner, witness=witness)

    def ask() -> None:
        leaders = world.leaders()
        if not leaders:
            world.time.later(_RETRY_S, again)
            return
        leader = leaders[-1]

        def propose() -> None:
            if leader.replica is None:
                return
            for operation, arguments in steps:
                request_id = f"{operation}-{name}" + (f"-{refusals}" if refusals else "")
                command = encode_command("members", operation, arguments, request_id=request_id, kind="node")
                leader.replica.propose(command, done if operation == steps[-1][0] else ignore)

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
            if by_file:
                world.time.count("join by file")
                world.by_file.add(name)
            world.add_node(name, [(NO_OP, 1, 0)], memory=memory, witness=witness)
            if not world.working:  # its node.yaml names no removed members, as no other does by now
                world.nodes[name].heal()

    def again() -> None:
        if name not in world.nodes and world.working:
            ask()

    ask()
