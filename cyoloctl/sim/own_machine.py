"""A machine that a user wrote, in a simulated cluster: only where a run is asked for one.

All nodes have its code, which is in force from the first entries on.  What is
drawn for it comes from a generator of its own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from cyoloctl.machines.code import Code
from cyoloctl.machines.exercise import draw
from cyoloctl.machines.machine import UserMachines
from cyoloctl.members.machine import MemberMachine
from cyoloctl.replicated.command import Command, Refused, encode_command
from cyoloctl.text import Json

__all__ = ["OwnDraws", "OwnJudge", "registering"]

_SHARE = 0.7


def _registration(code: Code) -> Json:
    return {"machine": code.name, "version": code.version, "digest": code.digest}


def registering(names: Sequence[str], code: Code) -> list[bytes]:
    """The commands with which a cluster that begins has the code in force."""
    mine = [[code.name, code.version, code.digest]]
    steps = [("announce", {"name": name, "machines": mine}) for name in names]
    return [
        encode_command("machines", operation, arguments, request_id=f"own-{number}", kind="node")
        for number, (operation, arguments) in enumerate([*steps, ("register", _registration(code))])
    ]


class OwnDraws:
    """What nodes propose to the machine, in a run of a seed."""

    def __init__(self, code: Code, seed: int) -> None:
        self._code = code
        self._rng = random.Random(f"{seed} own machine")

    def step(self) -> tuple[str, str, Json] | None:
        """The next operation; None: another machine's is."""
        if self._rng.random() >= _SHARE:
            return None
        operation, arguments = draw(self._code, self._rng)
        return (
            "machines",
            "apply",
            {"machine": self._code.name, "operation": operation, "arguments": arguments},
        )


class OwnJudge:
    """A second copy of the machine, told of every command that was carried out, once and in order."""

    def __init__(self, code: Code) -> None:
        self._machine = UserMachines(MemberMachine(), (code,))
        self._machine.apply("register", _registration(code), 1, 0)

    def applied(self, request: Command, answer: Json, index: int, now_unix_ms: int) -> str | None:
        """What is wrong with an answer; None: nothing."""
        try:
            expected = {"value": self._machine.apply("apply", request.arguments, index, now_unix_ms)}
        except Refused as refused:
            expected = {"error": {"code": refused.error.code, "message": refused.error.message}}
        given = {name: part for name, part in answer.items() if name != "index"}
        return None if given == expected else f"answered {given}, not {expected}"
