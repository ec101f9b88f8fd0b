"""Limits so small that tables overflow, and what they hold grows too old, within a run."""

from __future__ import annotations

import random

from cyoloctl.credentials.machine import CredentialLimits
from cyoloctl.keys.records import KeyLimits
from cyoloctl.kv.machine import KEY_OVERHEAD_BYTES, KvLimits
from cyoloctl.locks.machine import LockLimits
from cyoloctl.members.records import MemberLimits
from cyoloctl.rendezvous.records import RendezvousLimits
from cyoloctl.replicated.requests import LIMITS, RequestLimits, TableLimits
from cyoloctl.state import StateLimits

__all__ = ["request_limits", "small_limits", "state_limits"]

_NODES = 5
"""Nodes that need a place among the members at first, each with the invitation on which it came."""


def state_limits(seed: int, nodes: int | None) -> StateLimits:
    """The limits of a run; of requests, and of what else the machines hold, each the real ones half the time.

    nodes: at the start; None: the seed decides.
    """
    requests = request_limits(random.Random(f"{seed} tables"))
    rng = random.Random(f"{seed} bounds")
    if rng.random() < 0.5:
        return StateLimits(requests=requests)
    return small_limits(rng, requests, max(nodes or 0, _NODES))


def request_limits(rng: random.Random) -> RequestLimits:
    """The limits of the request tables of a run: the real ones half the time.

    The proportions are those of the real ones: entries of the last moments are
    kept whatever the load, so that a table only forgets what nobody waits for
    any more, mostly.
    """
    if rng.random() < 0.5:
        return LIMITS
    hard, expiry_ms = rng.choice((12, 25, 60)), rng.choice((700, 2_500, 10_000))
    few = TableLimits(soft=hard // 2, keep_ms=0, hard=hard // 2, expiry_ms=expiry_ms)
    return RequestLimits(
        client=TableLimits(soft=hard, keep_ms=0, hard=hard, expiry_ms=2 * expiry_ms),
        node=TableLimits(soft=hard // 4, keep_ms=expiry_ms // 4, hard=hard, expiry_ms=expiry_ms),
        browser=few,
        refused=few,
    )


def small_limits(rng: random.Random, requests: RequestLimits, nodes: int) -> StateLimits:
    """Limits that the operations of `operations` reach, in a cluster that begins with so many nodes.

    A cluster has to live with them: there is a place for each of its nodes, and for a few that join.
    """
    return StateLimits(
        requests=requests,
        locks=LockLimits(locks=2),
        kv=KvLimits(quota=3 * (KEY_OVERHEAD_BYTES + 20), changes=12, change_bytes=1000),
        members=MemberLimits(
            invitations=nodes + rng.choice((0, 1, 2)),
            names=nodes + rng.choice((3, 5, 8)),
            shared_hosts=rng.choice((1, 2)),
        ),
        credentials=CredentialLimits(credentials=rng.choice((1, 2, 4))),
        keys=KeyLimits(keys=rng.choice((2, 4, 10)), destroyed=rng.choice((1, 2, 4))),
        rendezvous=RendezvousLimits(
            live=rng.choice((2, 4)),
            tombstones=rng.choice((1, 3, 6)),
            total_bytes=rng.choice((40, 80)),
            policies=1,
            counted=rng.choice((1, 2)),
            callers=rng.choice((1, 2)),
        ),
    )
