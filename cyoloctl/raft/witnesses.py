"""Whether peers together may convince this process that it is not wanted.

One peer may lie, or lag.  A process believes that it was removed, or that it
runs on a copy of another's disk, from a majority of the voters that its log
names, itself counted among them; one whose log is still empty, from a
majority of the nodes that its configuration names.  Pure: the caller brings
the time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from cyoloctl.model import majority

__all__ = ["WINDOW_S", "Witnesses"]

WINDOW_S = 30.0
"""How long a peer's statement counts; the peer repeats it whenever it is dialled."""


class Witnesses:
    """Recent statements of peers about this process."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, float]] = {}  # peer -> reason, when

    def heard(self, peer: str, reason: str, now: float) -> None:
        """A peer keeps this process out.  now: seconds, monotonic."""
        self._said[peer] = reason, now

    def withdrawn(self, peer: str) -> None:
        """The peer took this process in."""
        self._said.pop(peer, None)

    def said(self, now: float) -> dict[str, str]:
        """The peers that keep this process out at present, and why."""
        self._said = {peer: word for peer, word in self._said.items() if now - word[1] <= WINDOW_S}
        return {peer: reason for peer, (reason, _) in sorted(self._said.items())}

    def verdict(self, judges: Collection[str], now: float) -> str | None:
        """The reason that most of a majority of the judges gave; None without a majority.

        judges: names of those who may say so; this process may be among them, and says nothing.
        """
        reasons = [reason for peer, reason in self.said(now).items() if peer in judges]
        if len(reasons) < majority(len(judges)):
            return None
        return max(sorted(Counter(reasons).items()), key=lambda item: item[1])[0]
