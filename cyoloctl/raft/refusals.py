"""Processes of peers that this node kept out, and how loud it is about what repeats.  Pure."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from cyoloctl.raft.peers import Refusal

__all__ = ["Refusals"]

_LOG_PERIOD_S = 60.0
_LOGGED = 1024
_SHOWN_S = 30.0
"""How long a refusal is shown after it was said last."""


class Refusals:
    """The refusals of one node."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refusals: dict[str, Refusal] = {}
        self._logged: dict[tuple[str, str], float] = {}

    def add(self, name: str, reason: str, address: str) -> None:
        """A process was kept out just now.  reason: one of `REFUSALS`."""
        self._refusals[name] = Refusal(name, reason, address, self._clock())

    def lately(self) -> list[Refusal]:
        """Processes that were kept out lately."""
        since = self._clock() - _SHOWN_S
        self._refusals = {name: found for name, found in self._refusals.items() if found.at >= since}
        return [found for _, found in sorted(self._refusals.items())]

    def level_for(self, name: str, reason: str) -> int:
        """Level of a log line that repeats with every dial: a warning once a minute."""
        now, key = self._clock(), (name, reason)
        if now - self._logged.get(key, -math.inf) < _LOG_PERIOD_S:
            return logging.DEBUG
        if len(self._logged) >= _LOGGED:
            self._logged.clear()
        self._logged[key] = now
        return logging.WARNING
