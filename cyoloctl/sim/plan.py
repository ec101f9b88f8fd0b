"""What the nodes of one simulated run have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

from cyoloctl.machines.code import Code
from cyoloctl.raft.links import MAX_UNSENT_BYTES
from cyoloctl.raft.settings import Limits
from cyoloctl.state import StateLimits

__all__ = ["Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Common settings of the nodes of one run.

    unsent_bytes: a peer is cut off when more waits for it.  tables: limits of what the machines hold.
    older: who runs the older release at first; None: all run the same.  leveled: the newer one
    understands one level more.  codes: of machines that users wrote.
    writes_elsewhere: now and then a journal is written while the replica goes on.
    """

    seed: int
    limits: Limits
    unsent_bytes: int = MAX_UNSENT_BYTES
    tables: StateLimits = field(default_factory=StateLimits)
    older: frozenset[str] | None = None
    leveled: bool = False
    codes: tuple[Code, ...] = ()
    writes_elsewhere: bool = False
