"""What clients were told about their writes, held against what was applied.

An error that means "not applied" (statuses 69 and 75) holds for good, on every
node.  One that leaves the outcome open (80) may be either, and so may a write
of which nobody was told anything.  A success is an answer that was given at a
committed index (`Invariants.acknowledged`).
"""

from __future__ import annotations

from collections import defaultdict

from cyoloctl.errors import CyoloctlError, Unavailable, Unreachable
from cyoloctl.sim.timeline import Timeline

__all__ = ["Attempt", "Told"]

_NOT_APPLIED = (Unreachable.exit_status, Unavailable.exit_status)


class Attempt:
    """One time that a write was asked for."""

    __slots__ = ("_told", "request_id")

    def __init__(self, told: Told, request_id: str) -> None:
        self._told = told
        self.request_id = request_id

    def failed(self, error: CyoloctlError) -> bool:
        """Take note of the error that answers it; whether that error says that it was not applied."""
        self._told.time.count(f"told {error.code}")
        if error.exit_status not in _NOT_APPLIED:
            return False
        self.refused(error.code)
        return True

    def refused(self, code: str) -> None:
        """Take note that it was not logged, and never will be."""
        self._told.never(self, code)


class Told:
    """All attempts of one run."""

    def __init__(self, time: Timeline) -> None:
        self.time = time
        self._open: defaultdict[str, int] = defaultdict(int)  # attempts that may be applied, by request id
        self._applied: dict[str, int] = {}
        self._codes: dict[str, str] = {}

    def asked(self, request_id: str) -> Attempt:
        """A write is asked for, perhaps once more."""
        self._open[request_id] += 1
        return Attempt(self, request_id)

    def never(self, attempt: Attempt, code: str) -> None:
        """An attempt was told that it is not applied."""
        self._open[attempt.request_id] -= 1
        self._codes[attempt.request_id] = code
        self._judge(attempt.request_id)

    def applied(self, request_id: str, index: int) -> None:
        """A command was carried out at an index."""
        self._applied[request_id] = index
        self._judge(request_id)

    def _judge(self, request_id: str) -> None:
        code, index = self._codes.get(request_id), self._applied.get(request_id)
        if code is not None and index is not None and not self._open[request_id]:
            claim = f"{request_id} was told {code}, which means never, and was applied at {index}"
            self.time.fail("told", claim)
