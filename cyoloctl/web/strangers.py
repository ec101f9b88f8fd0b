"""Accounts of connections that nobody vouches for yet: how many, for how long, and which goes first.

A *visit* is one accepted connection.  It counts as a stranger's until its caller
is identified, and never against those who are: their visits leave the account.
When there are too many, the oldest of the source that has the most gives way to
the new one, because whoever may come in is identified within milliseconds and
whoever only takes up room grows old.  Nobody is sent away in the first moment of
a visit (`grace_s`); a flood is refused instead, so that it costs a bounded number
of TLS handshakes per second.

Pure: no socket, no clock.  Times are seconds on any clock that only goes forward.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = [
    "Budget",
    "StrangerLimits",
    "Visit",
    "Visitors",
    "callers_limit",
    "reserved_descriptors",
    "source_of",
    "stranger_limits",
]

_MAX_STRANGERS = 512
_MAX_CALLERS = 8192
_MAX_RESERVE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StrangerLimits:
    """Bounds on callers without an identity.

    connections: in all.  per_source: from one address (IPv6: one /64).
    grace_s: how long a visit is safe from being sent away.  handshake_s: to
    finish the TLS handshake.  head_s: then, to send a request's whole head.
    idle_s: between an answer and the next whole head.  busy_s: from a whole
    head to the end of the answer, the body included.
    """

    connections: int
    per_source: int
    grace_s: float = 0.5
    handshake_s: float = 5.0
    head_s: float = 5.0
    idle_s: float = 5.0
    busy_s: float = 45.0


def reserved_descriptors(descriptors: int) -> int:
    """Descriptors that no network caller gets, out of a process's: for files, peers, the control socket."""
    return min(_MAX_RESERVE, max(64, descriptors // 4))


def stranger_limits(descriptors: int, *, at_most: int = _MAX_STRANGERS) -> StrangerLimits:
    """The limits of one listener in a process with this many descriptors (RLIMIT_NOFILE)."""
    room = max(0, descriptors - reserved_descriptors(descriptors))
    connections = max(8, min(at_most, room // 3))
    return StrangerLimits(connections=connections, per_source=max(4, connections // 4))


def callers_limit(descriptors: int) -> int:
    """Connections that identified callers of the API may hold in all; one caller may hold half of them."""
    room = max(0, descriptors - reserved_descriptors(descriptors))
    return max(16, min(_MAX_CALLERS, room // 3))


def source_of(host: str) -> str:
    """The source of an address: an IPv4 address itself (IPv4-mapped too), or the /64 of an IPv6 address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)


@dataclass(slots=True, eq=False)
class Visit:
    """One accepted connection.

    end: closes it, at once; set by whoever holds the socket.
    """

    source: str
    since: float
    deadline: float
    stranger: bool = True
    busy: bool = False
    over: bool = False
    end: Callable[[], None] = field(default=lambda: None)


class Visitors:
    """The strangers of one listener."""

    def __init__(self, limits: StrangerLimits) -> None:
        self.limits = limits
        # In the order of their arrival, by source.
        self._by_source: dict[str, dict[Visit, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Number of strangers."""
        return self._count

    def admit(self, source: str, now: float) -> tuple[Visit | None, list[Visit]]:
        """A new visit, and those that end for it; None when nobody here is old enough to go."""
        gone: list[Visit] = []
        visit = Visit(source, now, now + self.limits.handshake_s)
        here = self._by_source.get(source)
        if here is not None and len(here) >= self.limits.per_source:
            oldest = self._goes_first(here)
            if now - oldest.since < self.limits.grace_s:
                return None, gone
            self._discard(oldest)
            gone.append(oldest)
        elif self._count >= self.limits.connections:
            fullest = max(self._by_source.values(), key=len)
            oldest = self._goes_first(fullest)
            if now - oldest.since < self.limits.grace_s:
                return None, gone
            self._discard(oldest)
            gone.append(oldest)
        self._add(visit)
        return visit, gone

    @staticmethod
    def _goes_first(here: dict[Visit, None]) -> Visit:
        """The oldest visit that waits; those that are being answered go last."""
        return next((visit for visit in here if not visit.busy), next(iter(here)))

    def begun(self, visit: Visit, now: float) -> None:
        """The handshake is done: a whole head is due."""
        visit.deadline = now + self.limits.head_s

    def asked(self, visit: Visit, now: float) -> None:
        """A whole head is there."""
        visit.busy = True
        visit.deadline = now + self.limits.busy_s

    def answered(self, visit: Visit, now: float) -> None:
        """The answer was sent; the next head is due."""
        visit.busy = False
        visit.deadline = now + self.limits.idle_s

    def identified(self, visit: Visit) -> None:
        """The caller is known: the visit no longer counts.  Idempotent."""
        if visit.stranger:
            visit.stranger = False
            self._discard(visit)

    def unidentified(self, visit: Visit, now: float) -> None:
        """The caller is a stranger again.  Idempotent; may exceed the limits until the next `expired`."""
        if not visit.stranger and not visit.over:
            visit.stranger = True
            visit.deadline = now + self.limits.idle_s
            self._add(visit)

    def left(self, visit: Visit) -> None:
        """The connection is closed.  Idempotent."""
        if not visit.over:
            visit.over = True
            if visit.stranger:
                self._discard(visit)

    def expired(self, now: float) -> list[Visit]:
        """Those whose time is over; each is told once and no longer counts."""
        found = [visit for here in self._by_source.values() for visit in here if now >= visit.deadline]
        for visit in found:
            self._discard(visit)
        return found

    def shed(self, count: int) -> list[Visit]:
        """Up to count of the oldest, of the fullest sources first: descriptors have run out."""
        gone: list[Visit] = []
        while self._count and len(gone) < count:
            visit = self._goes_first(max(self._by_source.values(), key=len))
            self._discard(visit)
            gone.append(visit)
        return gone

    def _add(self, visit: Visit) -> None:
        self._by_source.setdefault(visit.source, {})[visit] = None
        self._count += 1

    def _discard(self, visit: Visit) -> None:
        here = self._by_source.get(visit.source)
        if here is not None and visit in here:
            del here[visit]
            self._count -= 1
            if not here:
                del self._by_source[visit.source]


class Budget:
    """Shares of something finite, by caller: bytes of bodies, watches, running requests.

    in_all: for everybody together.  each: for one caller.
    """

    def __init__(self, *, in_all: int, each: int) -> None:
        self.in_all = in_all
        self.each = each
        self._used: dict[str, int] = {}
        self._total = 0

    @property
    def total(self) -> int:
        """The amount taken now."""
        return self._total

    def used_by(self, caller: str) -> int:
        """The amount that one caller has taken."""
        return self._used.get(caller, 0)

    def take(self, caller: str, amount: int = 1) -> bool:
        """Take it, or take nothing and return False."""
        used = self._used.get(caller, 0)
        if used + amount > self.each or self._total + amount > self.in_all:
            return False
        self._used[caller] = used + amount
        self._total += amount
        return True

    def give_back(self, caller: str, amount: int = 1) -> None:
        """Return an amount that was taken before."""
        left = self._used.get(caller, 0) - amount
        if left > 0:
            self._used[caller] = left
        else:
            self._used.pop(caller, None)
        self._total -= amount
