"""Why the peers that have no link have none: said once in the log, shown by ``status``.

Pure: the caller brings the time.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

__all__ = ["CERTIFICATE", "Absences"]

CERTIFICATE = "certificate"
"""The word in every reason that is about one."""

REPEATED_S = 60.0
"""A reason that comes back within this, in turn with others, is not logged again."""

_log = logging.getLogger("cyoloctl.peer")


@dataclass(slots=True)
class _Attempts:
    """Attempts at one address of a peer.  logged: reason -> when."""

    last: str = ""
    logged: dict[str, float] = field(default_factory=dict)


class Absences:
    """The last failure of each peer, at each of its addresses."""

    def __init__(self) -> None:
        self._failed: dict[str, dict[str, _Attempts]] = {}

    def failed(self, name: str, address: str, reason: str, now: float) -> None:
        """An attempt failed.  A warning when it is for another reason than the one before."""
        found = self._failed.setdefault(name, {}).setdefault(address, _Attempts())
        is_new = reason != found.last and now - found.logged.get(reason, -math.inf) >= REPEATED_S
        found.last = reason
        if is_new:
            found.logged[reason] = now
        extra = {"peer": name, "address": address, "reason": reason}
        _log.log(logging.WARNING if is_new else logging.DEBUG, "cannot dial", extra=extra)

    def forget(self, name: str) -> None:
        """The peer is there, or is no peer any more."""
        self._failed.pop(name, None)

    def reasons(self) -> dict[str, str]:
        """Of each peer that was tried in vain: address and reason, all of them."""
        return {
            name: "; ".join(f"{address}: {each.last}" for address, each in sorted(attempts.items()))
            for name, attempts in sorted(self._failed.items())
        }
