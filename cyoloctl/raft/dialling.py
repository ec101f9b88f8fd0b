"""Whom a node dials, where and when.  Pure: the caller brings the clock and opens the connections.

Every node dials every peer that it knows an address of and has no link
with, the greater name a little later, so that pairs seldom dial at once.  The
addresses are tried in turn: what the caller gave, what the peer itself said
last, and what other peers say.  An address is only a hint where to dial; the
certificate decides who was found there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from cyoloctl.raft.absences import Absences

__all__ = ["DIAL_TIMEOUT_S", "Dialling"]

DIAL_TIMEOUT_S = 3.0
"""A dial that led to no connection by then has failed."""

_BACKOFF_FIRST_S = 0.1
_BACKOFF_LAST_S = 1.0
_GREATER_NAME_DELAY_S = 0.4
_FIRST_DELAY_S = 0.05
"""The same for the first dial: a peer that runs does not dial a node that has just started, which somebody
waits for."""
_MAX_ADDRESSES = 256


@dataclass(slots=True)
class _Dialled:
    """A peer that is dialled.  due: inf while there is a link or an attempt.

    address: of the last attempt.  tried: an attempt has ended.
    """

    due: float
    address: str = ""
    tried: bool = False
    attempts: int = 0
    backoff_s: float = _BACKOFF_FIRST_S
    busy: bool = False


class Dialling:
    """The peers of one node as addresses that are tried."""

    def __init__(
        self,
        own_name: str,
        *,
        dial: Callable[[str, str], None],
        live: Collection[str],
        wake: Callable[[], None],
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        """dial, wake, clock, jitter: see `Links`.  live: names of the peers that have a link, at any time."""
        self._own_name = own_name
        self._dial = dial
        self._live = live
        self._wake = wake
        self._clock = clock
        self._jitter = jitter
        self._given: dict[str, tuple[str, ...]] = {}
        self._own_word: dict[str, str] = {}  # name -> address, as it said in its last hello
        self._peer_addresses: dict[str, dict[str, str]] = {}  # peer -> name -> address, as its last pong said
        self._dials: dict[str, _Dialled] = {}
        self._absences = Absences()
        self._farewells: dict[str, str] = {}  # peer -> what stopped it, as it said

    def next_deadline(self) -> float:
        """When `tick` has somebody to dial at the latest; inf: nobody."""
        return min((dial.due for dial in self._dials.values()), default=math.inf)

    def tick(self, now: float) -> None:
        """Dial whoever is due."""
        for name, dial in list(self._dials.items()):
            if now >= dial.due:
                dial.due, dial.busy = math.inf, True
                found = self._where(name)
                dial.attempts += 1
                dial.address = found[(dial.attempts - 1) % len(found)]
                self._dial(name, dial.address)

    def set_addresses(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """Set the addresses to dial: name to one or more HOST:PORT.  The own name is ignored."""
        wanted = {name: tuple(given) for name, given in addresses.items() if given and name != self._own_name}
        self._given = wanted
        for name in list(self._dials):
            if name not in wanted:
                del self._dials[name]
                self._own_word.pop(name, None)
                self._absences.forget(name)
                self._farewells.pop(name, None)
        for name in wanted:
            if name not in self._dials:
                live = name in self._live
                wait_s = _FIRST_DELAY_S if self._own_name > name else 0.0
                self._dials[name] = _Dialled(math.inf if live else self._clock() + wait_s)
                self._wake()

    def addresses(self) -> dict[str, tuple[str, ...]]:
        """Addresses of the peers now, in the order in which they are tried."""
        return {name: self._where(name) for name in self._given}

    def _where(self, name: str) -> tuple[str, ...]:
        """Known addresses of a peer: its own word, the caller's, then other peers' words."""
        own = self._own_word.get(name)
        found = dict.fromkeys([] if own is None else [own])
        found.update(dict.fromkeys(self._given[name]))
        for _, told in sorted(self._peer_addresses.items()):
            if name in told:
                found[told[name]] = None
        return tuple(found)

    def to_tell(self) -> dict[str, str]:
        """Peers' own addresses, to be passed on: each peer is the only source of its own."""
        return dict(sorted(self._own_word.items())[:_MAX_ADDRESSES])

    def told(self, peer: str, addresses: dict[str, str]) -> None:
        """A peer passed these on."""
        self._peer_addresses[peer] = addresses

    def absences(self) -> dict[str, str]:
        """Why peers that were dialled have no link: name -> addresses and reasons."""
        return self._absences.reasons()

    def farewells(self) -> dict[str, str]:
        """Peers that said what stopped them, and have not come back: name -> `DISK_FAILED` or `NO_MEMORY`."""
        return dict(self._farewells)

    def all_tried(self, names: Collection[str]) -> bool:
        """Whether each peer to dial, and each of these, has a link, or an attempt at it has ended."""
        tried = {name for name, dial in self._dials.items() if dial.tried} | set(self._live)
        return tried >= {*self._dials, *names} - {self._own_name}

    def stop(self) -> None:
        """Dial nobody any more."""
        self._dials.clear()

    # What became of connections.

    def failed(self, name: str, reason: str | None = None) -> None:
        """A dial is over and there is no connection: again a little later, unless the peer came itself.

        reason: what an operator is told of it.
        """
        dial = self._dials.get(name)
        if dial is not None:
            dial.busy, dial.tried = False, True
            if name not in self._live:
                if reason is not None:
                    self._absences.failed(name, dial.address, reason, self._clock())
                self._back_off(dial)

    def greeted(self, name: str, *, dialled: bool) -> None:
        """The peer said a valid hello.  dialled: on a connection that this node opened."""
        self._absences.forget(name)
        self._farewells.pop(name, None)
        dial = self._dials.get(name)
        if dial is not None and dialled:
            dial.busy = False

    def linked(self, name: str, address: str) -> None:
        """There is a link; address: the peer's, by its own word."""
        self._own_word[name] = address
        dial = self._dials.get(name)
        if dial is not None:
            dial.due = math.inf
            dial.attempts = 0

    def left(self, name: str, reason: str) -> None:
        """The peer said what stops it."""
        self._farewells[name] = reason

    def unlinked(self, name: str) -> None:
        """The link is no longer the live one: what the peer passed on counts no more."""
        self._peer_addresses.pop(name, None)

    def lost(self, name: str, lasted_s: float) -> None:
        """The live link ended: dial again soon."""
        dial = self._dials.get(name)
        if dial is None or dial.busy:
            return
        if lasted_s < _BACKOFF_LAST_S:
            self._back_off(dial)  # it did not last: a peer that ends every link is not dialled in a loop
            return
        dial.backoff_s = _BACKOFF_FIRST_S
        dial.due = self._clock() + (_GREATER_NAME_DELAY_S if self._own_name > name else 0.0)
        self._wake()

    def _back_off(self, dial: _Dialled) -> None:
        dial.due = self._clock() + dial.backoff_s * (0.5 + self._jitter())
        dial.backoff_s = min(2 * dial.backoff_s, _BACKOFF_LAST_S)
        self._wake()
