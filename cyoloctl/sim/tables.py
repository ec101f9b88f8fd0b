"""Limits so small that tables overflow, and what they hold grows too old, within a run."""

from __future__ import annotations

import random

from cyoloctl.replicated.requests import LIMITS, RequestLimits, TableLimits

__all__ = ["request_limits"]


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
