"""The facts that problems are found by, and the form of a problem."""

from __future__ import annotations

from dataclasses import dataclass

from cyoloctl.members.api import Member, Problem
from cyoloctl.raft import Engine

__all__ = ["Facts", "problem"]


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts that problems are found by.  rows: the members as `status` shows them."""

    engine: Engine
    rows: tuple[Member, ...]
    name: str


def problem(code: str, member: str | None, message: str, command: str | None) -> Problem:
    """One problem.  member: whom it concerns, None for the cluster."""
    return {"code": code, "member": member, "message": message, "command": command}
