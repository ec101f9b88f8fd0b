"""Where to lead from: who reaches the most members, and when leadership is worth moving there.  Pure.

A member that has no link with the leader is not served, though it may reach a
majority.  Every node tells once a second with whom it has links, so a leader
knows whom each voter reaches that it has a link with itself.  It hands
leadership to a voter that reaches strictly more:

- more voters than itself; or exactly the same voters, and more learners;
- for `LASTING_S` without a break.  A member that dies is missing at once
  everywhere, and yet one node notices up to two seconds after another;
- and not soon after leadership was moved before: see `_PAUSE_S`.

Each move leads to a voter that reaches strictly more, so that while links
stay as they are the moves end; and where links come and go the pauses bound
them.  Ties never move anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cyoloctl.model import majority
from cyoloctl.raft.disks import DiskState

__all__ = ["LASTING_S", "NOTHING_SEEN", "Vantage", "View", "reach"]

LASTING_S = 2.5
"""So long another voter must have reached more without a break."""

_PAUSE_S = 10.0
"""After leadership was handed to this node, or this node tried to hand it over, it stays for so long."""

_LEARNERS_PAUSE_S = 300.0
"""The same where only learners would gain: a learner alone must not keep leadership moving."""

_NEVER = -1e9


@dataclass(frozen=True, slots=True)
class View:
    """Links of a node, and what those at their ends tell of theirs; all by name.

    reached: peers that answered lately.  told: whom each of them reaches,
    of those that have said so.  kept_out: peers that this node refuses
    itself, which is no reason to let another one lead.  disks: what those at
    the ends tell of their disks.
    """

    reached: frozenset[str] = frozenset()
    told: Mapping[str, frozenset[str]] = field(default_factory=dict)
    kept_out: frozenset[str] = frozenset()
    disks: Mapping[str, DiskState] = field(default_factory=dict)


NOTHING_SEEN = View()


class Vantage:
    """What one leader has seen of better places, and when leadership moved last."""

    def __init__(self) -> None:
        self._better_since: dict[str, float] = {}
        self._moved_at = _NEVER

    def moved(self, now: float) -> None:
        """Leadership was handed to this node, or this node tries to hand it over."""
        self._moved_at = now

    def leads(self) -> None:
        """This node begins to lead: what it saw before counts no longer."""
        self._better_since.clear()

    def waited_s(self, now: float) -> float:
        """Seconds since leadership was moved last."""
        return now - self._moved_at

    @staticmethod
    def reaches_as_much(name: str, me: str, voters: frozenset[str], view: View) -> bool:
        """Whether another voter reaches all members that the leader reaches."""
        mine, its = reach(me, voters, view), reach(name, voters, view)
        return name in view.told and mine[0] <= its[0] and mine[1] <= its[1]

    @staticmethod
    def reaches_majority(name: str, voters: frozenset[str], view: View) -> bool:
        """Whether another voter could lead at all."""
        return name in view.told and len(reach(name, voters, view)[0]) >= majority(len(voters))

    def better_place(
        self, now: float, me: str, voters: frozenset[str], view: View, may_lead: Callable[[str], bool]
    ) -> str | None:
        """The voter to hand leadership to now; None: it stays.

        me: the leader, one of the voters.  may_lead: whether a voter holds
        nearly all of the leader's log.
        """
        mine = reach(me, voters, view)
        better = {}
        for name in sorted(voters & view.told.keys()):
            its = reach(name, voters, view)
            more_voters = len(its[0]) > len(mine[0])
            if more_voters or (its[0] == mine[0] and len(its[1]) > len(mine[1])):
                better[name] = (len(its[0]), len(its[1]), more_voters)
        self._better_since = {name: self._better_since.get(name, now) for name in better}
        waited_s = now - self._moved_at
        ready = [
            name
            for name, (_, _, more_voters) in better.items()
            if now - self._better_since[name] >= LASTING_S
            and waited_s >= (_PAUSE_S if more_voters else _LEARNERS_PAUSE_S)
            and may_lead(name)
        ]
        return max(ready, key=lambda name: better[name][:2], default=None)


def reach(name: str, voters: frozenset[str], view: View) -> tuple[frozenset[str], frozenset[str]]:
    """Voters and learners that a voter reaches, itself included.

    A link counts when both ends report it; or one of them, where nothing is known from the other.
    """
    reached = view.told.get(name)
    if reached is None:  # the leader itself: these answered
        reached = view.reached
    else:
        reached = frozenset(other for other in reached if name in view.told.get(other, (name,)))
    reached = (reached | {name}) - view.kept_out
    return reached & voters, reached - voters
