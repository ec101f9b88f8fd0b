"""The beat on which a node does what it does now and then, so that an idle processor is woken seldom.

Loops that each slept for half a second or a second woke the processor a dozen
times a second between them, for microseconds of work.  On the beat they wake
together.
"""

from __future__ import annotations

import math

__all__ = ["until_beat"]


def until_beat(now: float, period_s: float) -> float:
    """Seconds until the clock next shows a multiple of a period: more than 0, at most the period.

    now: of the clock that all who share the beat read, such as the loop's.
    Periods that are multiples of one another share their moments.
    """
    left = (math.floor(now / period_s) + 1) * period_s - now
    return left if 0 < left < period_s else period_s  # what rounding leaves
