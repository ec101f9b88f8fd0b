"""Looks at the cluster again and again, and remembers the last hour of it in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cyoloctl.console.history import POINT_S, Between, Figures, History, State, figures
from cyoloctl.console.view import LISTED, Lists, View, document
from cyoloctl.control.client import AsyncClient
from cyoloctl.control.survey import Moment, Seen, Survey
from cyoloctl.errors import AccessDenied, CyoloctlError, NotFound
from cyoloctl.text import Json

__all__ = ["LOOK_S", "Watcher"]

#: Between two looks: while a page is open, and while none is.
LOOK_S = POINT_S / 2
_UNWATCHED_LOOK_S = POINT_S
#: A page that was not asked for that long is closed.
_WATCHED_S = 15.0
#: Rendezvous that are counted by kind, of each state.
_MOST_WAITING = 500
#: A point may be due a little early: looks are no clockwork.
_EARLY_S = 0.2


class Watcher:
    """Belongs to the running loop: `begin`, then `run` in a task, and `document` at any time.

    clock: seconds that only go forward, as `Seen.at_s`.  wall: Unix seconds.
    """

    def __init__(
        self,
        survey: Survey,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._survey = survey
        self._clock = clock
        self._wall = wall
        self._history = History(wall())
        self._moment: Moment | None = None
        self._seen_unix_s = 0.0
        self._failure: str | None = None
        self._failing_unix_s: float | None = None
        self._leaderless_unix_s: float | None = None
        self._lists = Lists()
        self._may_not: frozenset[str] = frozenset()
        self._asked: dict[str, int] = {}
        self._latest: dict[str, Seen] = {}
        self._pointed_s = clock()
        self._watched_s = float("-inf")
        self._wake = asyncio.Event()

    async def begin(self) -> None:
        """The first look.  Raises CyoloctlError where no node answers it, or the credentials are not good."""
        self._note(await self._survey.look())
        assert self._moment is not None
        self._latest = dict(self._moment.nodes)
        self._pointed_s = self._clock()

    async def run(self) -> None:
        """Look until cancelled, whatever happens to the cluster."""
        while True:
            pause_s = LOOK_S if self._watched else _UNWATCHED_LOOK_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause_s)
            self._wake.clear()
            await self.look()

    async def look(self) -> None:
        """Look once; what keeps every node from answering is shown."""
        try:
            self._note(await self._survey.look())
        except CyoloctlError as error:
            self._failure = error.message
            if self._failing_unix_s is None:
                self._failing_unix_s = self._wall()
        if self._clock() - self._pointed_s >= POINT_S - _EARLY_S:
            self._point()
        # Last: what this asks is in the pages of the next point, from which it is taken off.
        if self._watched and self._failure is None:
            await self._list()

    def document(self) -> Json:
        """What is known now, for a page, which is looked after from now on."""
        if not self._watched:
            self._wake.set()
        self._watched_s = self._clock()
        moment = self._moment
        assert moment is not None, "begin first"
        return document(
            View(
                now_unix_s=self._wall(),
                status=moment.status,
                best=moment.best.name,
                scrape=moment.best.scrape,
                seen_unix_s=self._seen_unix_s,
                nodes=frozenset(name for name, seen in moment.nodes.items() if seen.scrape is not None),
                history=self._history,
                silent=moment.silent,
                failure=self._failure,
                failing_unix_s=self._failing_unix_s,
                leaderless_unix_s=self._leaderless_unix_s,
                lists=self._lists,
            )
        )

    @property
    def _watched(self) -> bool:
        return self._clock() - self._watched_s < _WATCHED_S

    def _note(self, moment: Moment) -> None:
        now = self._wall()
        self._moment, self._seen_unix_s = moment, now
        self._failure = self._failing_unix_s = None
        cluster = moment.status["cluster"]
        if cluster["leader"] is not None:
            self._leaderless_unix_s = None
        elif self._leaderless_unix_s is None:
            self._leaderless_unix_s = now
        self._history.led_by(now, cluster["leader"], cluster["term"])

    def _point(self) -> None:
        """Add what happened since the point before."""
        self._pointed_s = self._clock()
        moment = self._moment
        if moment is None or self._failure is not None:
            self._history.add(self._wall(), "silent")
            return
        state: State = "leaderless" if moment.status["cluster"]["leader"] is None else "led"
        self._history.add(self._wall(), state, self._since_latest(moment))
        self._latest = dict(moment.nodes)
        self._asked.clear()

    def _since_latest(self, moment: Moment) -> Figures:
        pairs = []
        for name, after in moment.nodes.items():
            before = self._latest.get(name)
            if before is None or before.scrape is None or after.scrape is None or after.at_s <= before.at_s:
                continue
            asked = self._asked.get(name, 0)
            pairs.append(Between(before.scrape, after.scrape, after.at_s - before.at_s, asked))
        return figures(pairs)

    async def _list(self) -> None:
        """Ask the node that knows most for its lists, without a majority: they are there without a leader."""
        assert self._moment is not None
        best, stale = self._moment.best, {"consistency": "stale"}
        try:
            async with self._survey.client(best) as client:
                keys = await self._read(best, client, "key_status", stale)
                page = {**stale, "limit": LISTED}
                counters = await self._read(best, client, "counter_list", page)
                locks = await self._read(best, client, "lock_list", page)
                found: list[Json] | None = []
                more = False
                for state in ("pending", "claimed"):
                    query = {**stale, "state": state, "limit": _MOST_WAITING}
                    answer = await self._read(best, client, "rendezvous_list", query)
                    found = None if answer is None or found is None else found + answer["rendezvous"]
                    more = more or (answer is not None and answer["next"] is not None)
        except CyoloctlError:
            return  # the next look says what it is
        self._lists = Lists(
            keys=keys,
            counters=None if counters is None else counters["counters"],
            locks=None if locks is None else locks["locks"],
            waiting=found,
            more_waiting=more,
            may_not=self._may_not,
        )

    async def _read(
        self, seen: Seen, client: AsyncClient, operation: str, query: dict[str, Any]
    ) -> Json | None:
        """The answer to a read, None where these credentials may not, or this node cannot."""
        if operation in self._may_not:
            return None
        self._asked[seen.name] = self._asked.get(seen.name, 0) + 1
        try:
            found: Json = await client.call(operation, query=query)
        except AccessDenied:
            self._may_not |= {operation}
            return None
        except NotFound:  # a node of an earlier release
            return None
        return found
