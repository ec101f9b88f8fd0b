"""How often a node saves the replicated state by itself, and how many of those files it keeps.  Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cyoloctl.errors import InvalidInput

__all__ = ["MIN_EVERY_S", "SnapshotPolicy", "parse_every"]

MIN_EVERY_S, MAX_EVERY_S = 60, 366 * 86_400
MAX_KEPT = 10_000
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """One every every_s seconds (60 to 366 days), the newest keep (1 to 10,000) of this node stay.

    directory: where they are, absolute.
    """

    every_s: int
    keep: int
    directory: str

    def __post_init__(self) -> None:
        if not MIN_EVERY_S <= self.every_s <= MAX_EVERY_S:
            raise InvalidInput("snapshots can be taken every 1m to 366d")
        if not 1 <= self.keep <= MAX_KEPT:
            raise InvalidInput(f"of the snapshots 1 to {MAX_KEPT} can be kept")
        if not self.directory.startswith("/"):
            raise InvalidInput(f"the directory of snapshots must be absolute, not {self.directory[:80]!r}")

    @property
    def every(self) -> str:
        """The period with its unit, as `parse_every` reads it."""
        unit = next(unit for unit in ("d", "h", "m", "s") if self.every_s % _UNITS[unit] == 0)
        return f"{self.every_s // _UNITS[unit]}{unit}"


def parse_every(text: str) -> int:
    """Seconds of a period such as 6h.  Raises InvalidInput."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if found is None:
        raise InvalidInput(f"{text[:80]!r} is no period: use a whole number with s, m, h or d, such as 6h")
    return int(found[1]) * _UNITS[found[2]]
