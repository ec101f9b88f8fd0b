"""Two releases in one cluster: the older one lacks a few operations, and reads no newer snapshot.

Or both are of levels (`replicated/levels.py`): those operations are of the
second one, which the newer release alone understands, and are refused until
the level was raised.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from cyoloctl.model import Source
from cyoloctl.replicated.command import Command, operation_of
from cyoloctl.replicated.levels import BASE_LEVEL, Release
from cyoloctl.replicated.snapshot import SNAPSHOT_VERSION
from cyoloctl.sim.plan import Plan
from cyoloctl.state import ClusterState, StateLimits
from cyoloctl.text import Json

__all__ = [
    "LEVEL_1",
    "LEVEL_2",
    "NEWER",
    "LevelJudge",
    "Newer",
    "Older",
    "is_newer",
    "older_names",
    "state_of",
]

NEWER = {"counter": "reset", "keys": "disable", "rendezvous": "set_policy", "sessions": "revoke_sub"}
"""By machine, the operation that came with the newer release."""

LEVEL_1 = Release("1.0.0")
LEVEL_2 = Release(
    "2.0.0", 2, {f"{machine}.{operation}": 2 for machine, operation in NEWER.items()}, {2: "2.0.0"}
)

_NEWER_SNAPSHOT = SNAPSHOT_VERSION + 1


class Older(ClusterState):
    """The state as the older release has it: each machine of `NEWER` with a smaller table."""

    def __init__(self, *, limits: StateLimits) -> None:
        lacking = {name: {operation} for name, operation in NEWER.items()}
        super().__init__(limits=limits, lacking=lacking, release=LEVEL_1)


class Newer(ClusterState):
    """The state as the newer release has it; its snapshots bear another version, and it reads both."""

    def begin_snapshot(self) -> Callable[[], Iterator[bytes]]:
        """See ClusterState."""
        encode = super().begin_snapshot()
        return lambda: chain((bytes((_NEWER_SNAPSHOT,)),), encode())

    def prepare_restore(self, source: Source) -> Callable[[], None]:
        """See ClusterState."""
        first = source.read(1)
        rest = iter((first,)) if first != bytes((_NEWER_SNAPSHOT,)) else iter(())
        return super().prepare_restore(_Resumed(rest, source))


class _Resumed:
    """A source of which some bytes were read already."""

    def __init__(self, read: Iterator[bytes], source: Source) -> None:
        self._read = read
        self._source = source

    def read(self, size: int, /) -> bytes:
        return next(self._read, b"") or self._source.read(size)


class LevelJudge:
    """The level of a cluster, kept naively; it is told of every command that was carried out, once."""

    def __init__(self) -> None:
        self.level = BASE_LEVEL
        self._announced: dict[str, int] = {}

    def applied(self, request: Command, answer: Json, state: ClusterState) -> str | None:
        """What is wrong with a command that was carried out just now; state: after it."""
        wrong = self._judge(request, answer, state) if "error" not in answer else None
        if wrong is None and state.levels.level != self.level:
            return f"the cluster is at level {state.levels.level}, and was raised to {self.level}"
        return wrong

    def _judge(self, request: Command, answer: Json, state: ClusterState) -> str | None:
        named, given = (request.machine, request.operation), request.arguments
        if LEVEL_2.level_of(*named) > self.level:
            return f"{'.'.join(named)} is carried out at level {self.level}"
        if named == ("levels", "announce"):
            self._announced[given["name"]] = given["level"]
        elif named == ("members", "remove"):
            self._announced.pop(given["name"], None)
        elif named == ("levels", "raise") and answer["value"]["changed"]:
            before, self.level = self.level, given["to"]
            members = [member.name for member in state.members.members()]
            lacking = [name for name in members if self._announced.get(name, BASE_LEVEL) < self.level]
            if lacking or self.level <= before:
                return f"level {before} is raised to {self.level}, which {lacking} did not announce"
        return None


def state_of(plan: Plan, *, older: bool) -> ClusterState:
    """The state of a node: in a run of mixed releases that of its own one."""
    if plan.older is None:
        return ClusterState(limits=plan.tables, codes=plan.codes)
    if plan.leveled and not older:
        return ClusterState(limits=plan.tables, release=LEVEL_2)
    return Older(limits=plan.tables) if older else Newer(limits=plan.tables)


def older_names(rng: random.Random, names: Sequence[str]) -> frozenset[str]:
    """The nodes that run the older release at first: at least one, and often all but one."""
    return frozenset(rng.sample(names, rng.randint(1, max(1, len(names) - 1))))


def is_newer(command: bytes) -> bool:
    """Whether the older release has no such operation, and so never proposes it."""
    found = operation_of(command)
    return found is not None and NEWER.get(found[0]) == found[1]
