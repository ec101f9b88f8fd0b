"""Members that do not keep up, and pairs without a link: what counts once it has lasted.

Reports of others are up to a second old, so each of these is true for a moment
at every election, start or burst of writes.  Pure: the caller brings the time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations

from cyoloctl.members.api import Link

__all__ = ["AWAY_S", "BEHIND_S", "Standing", "failures_tolerated", "link_rows", "missing_links"]

BEHIND_S = 5.0
"""A member needs a hand once it has not applied for so long what was committed, or followed nobody."""

AWAY_S = 3.0
"""A link is missing, as far as one end alone tells, when that lasted for so long."""


class Standing:
    """What this node saw of the members, whenever it was told."""

    def __init__(self) -> None:
        self._behind: dict[str, tuple[float, int]] = {}  # name -> since when it has not applied this index
        self._astray: dict[str, float] = {}  # name -> since when it does not follow the leader
        self._apart: dict[tuple[str, str], float] = {}  # pair -> since when it has no link

    def observe(
        self,
        now: float,
        *,
        applied: Mapping[str, int],
        committed: int,
        astray: Collection[str],
        apart: Collection[tuple[str, str]],
    ) -> None:
        """applied: name -> index, of the members that report one.  committed: the newest known index.

        astray: voters that do not follow the leader.  apart: pairs without a link.
        """
        behind = {}
        for name, index in applied.items():
            since, target = self._behind.get(name, (now, committed))
            behind[name] = (now, committed) if index >= target else (since, target)
        self._behind = behind
        self._astray = {name: self._astray.get(name, now) for name in astray}
        self._apart = {pair: self._apart.get(pair, now) for pair in apart}

    def lagging(self, now: float) -> list[str]:
        """Members that have not applied what was committed `BEHIND_S` ago."""
        return sorted(name for name, (since, _) in self._behind.items() if now - since >= BEHIND_S)

    def astray(self, now: float) -> list[str]:
        """Voters that have followed no leader, or another one, for `BEHIND_S`."""
        return sorted(name for name, since in self._astray.items() if now - since >= BEHIND_S)

    def apart(self, now: float, at_once: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
        """Pairs without a link: those that both ends report (at_once), and others after `AWAY_S`."""
        return sorted(pair for pair, since in self._apart.items() if pair in at_once or now - since >= AWAY_S)


def missing_links(
    links: Mapping[str, Collection[str]], voters: Iterable[str], members: Iterable[str]
) -> list[tuple[str, str]]:
    """Pairs of running members that do not reach each other, of which one votes.

    links: of each member that reports, this node included, the names that it
    has links with.  A member that does not report runs when another one has
    a link with it.  Two pairs of eyes are needed to see a pair: where neither
    reports, nothing is known.
    """
    known, voting = set(members), set(voters)
    running = known & {*links, *(name for reached in links.values() for name in reached)}
    return [
        (a, b)
        for a in sorted(running)
        for b in sorted(running)
        if a < b
        if (a in voting or b in voting) and (a in links or b in links)
        if b not in links.get(a, ()) and a not in links.get(b, ())
    ]


def link_rows(
    links: Mapping[str, Collection[str]], dialled: Mapping[str, Collection[str]], members: Sequence[str]
) -> list[Link]:
    """Each pair of members, in order of names: whether they have a link, and who of the two dialled.

    links: see `missing_links`.  dialled: of each member that says so, whom it has dialled.
    """
    rows: list[Link] = []
    for a, b in combinations(members, 2):
        told = [other in links[one] for one, other in ((a, b), (b, a)) if one in links]
        linked = any(told) if told else None
        by = [one for one, other in ((a, b), (b, a)) if other in dialled.get(one, ())]
        rows.append({"members": [a, b], "linked": linked, "dialled_by": by[0] if linked and by else None})
    return rows


def failures_tolerated(up: Collection[str], apart: Collection[tuple[str, str]], quorum: int) -> int:
    """How many of the voters that are up may fail, whichever they are, so that one still reaches a quorum.

    apart: pairs without a link, each in order of names.
    """
    most = max(0, len(up) - quorum)
    if not apart:
        return most

    def goes_on(left: set[str]) -> bool:
        return any(
            sum(1 for other in left if (min(one, other), max(one, other)) not in apart) >= quorum
            for one in left
        )

    for failures in range(most + 1):
        if not all(goes_on(set(up) - set(gone)) for gone in combinations(sorted(up), failures)):
            return max(0, failures - 1)
    return most
