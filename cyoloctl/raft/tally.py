"""What a replica has seen of elections since it started, for people.  Pure; decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """elections: in which this node stood.  leader_changes: leaders that came after another one."""

    elections: int = 0
    leader_changes: int = 0
    _stood_in: int = -1
    _led_in: int | None = None

    def saw(self, *, term: int, stands: bool, has_leader: bool) -> None:
        """Note role and term after a change.  stands: as candidate, or as the leader that one became."""
        if stands and term != self._stood_in:
            self._stood_in = term
            self.elections += 1
        if has_leader and term != self._led_in:
            # The leader that is there when a node starts is no change.
            self.leader_changes += self._led_in is not None
            self._led_in = term
