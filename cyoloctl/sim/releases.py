"""Two releases in one cluster: the older one lacks a few operations, and reads no newer snapshot."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from cyoloctl.replicated.command import operation_of
from cyoloctl.state import SNAPSHOT_VERSION, ClusterState, StateLimits

__all__ = ["NEWER", "Newer", "Older", "is_newer", "older_names", "state_of"]

NEWER = {"counter": "reset", "keys": "disable", "rendezvous": "set_policy", "sessions": "revoke_sub"}
"""By machine, the operation that came with the newer release."""

_NEWER_SNAPSHOT = SNAPSHOT_VERSION + 1


class Older(ClusterState):
    """The state as the older release has it: each machine of `NEWER` with a smaller table."""

    def __init__(self, *, limits: StateLimits) -> None:
        super().__init__(limits=limits, lacking={name: {operation} for name, operation in NEWER.items()})


class Newer(ClusterState):
    """The state as the newer release has it; its snapshots bear another version, and it reads both."""

    def begin_snapshot(self) -> Callable[[], bytes]:
        """See ClusterState."""
        encode = super().begin_snapshot()
        return lambda: bytes((_NEWER_SNAPSHOT,)) + encode()[1:]

    def restore(self, data: bytes) -> None:
        """See ClusterState."""
        newer = data[:1] == bytes((_NEWER_SNAPSHOT,))
        super().restore(bytes((SNAPSHOT_VERSION,)) + data[1:] if newer else data)


def state_of(limits: StateLimits, *, mixed: bool, older: bool) -> ClusterState:
    """The state of a node: in a run of mixed releases that of its own one."""
    if not mixed:
        return ClusterState(limits=limits)
    return Older(limits=limits) if older else Newer(limits=limits)


def older_names(rng: random.Random, names: Sequence[str]) -> frozenset[str]:
    """The nodes that run the older release at first: at least one, and often all but one."""
    return frozenset(rng.sample(names, rng.randint(1, max(1, len(names) - 1))))


def is_newer(command: bytes) -> bool:
    """Whether the older release has no such operation, and so never proposes it."""
    found = operation_of(command)
    return found is not None and NEWER.get(found[0]) == found[1]
