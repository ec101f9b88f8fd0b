"""Sessions that must not come back: minimum generations and revocations, until the last token would end.

A token is refused by its session id (``sid``), when that was revoked or its
generation is older than the minimum, or by its subject (``sub``), when it was
issued at or before the moment that the subject was revoked.

Cluster time may be wrong, and an operator may set it back: then tokens live
that had ended, and what refuses them must still be there.  So an entry is
forgotten when cluster time has passed its end and also steady time, which no
clock moves, has passed as much as was left of its life.  After its end it
refuses only what has ended.  While nobody leads steady time stands still:
entries then last longer, which hurts nobody.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Any, Literal

from cyoloctl.errors import InvalidInput, TokenRejected
from cyoloctl.replicated.checks import Check, exact, integer, text
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, Malformed, Refused
from cyoloctl.replicated.machine import NO_ROWS, Machine, Operations, Rows
from cyoloctl.replicated.table import Table
from cyoloctl.text import Json

__all__ = [
    "ENDED_KEPT_MS",
    "MAX_AHEAD_MS",
    "MAX_GENERATION",
    "Revocation",
    "SessionMachine",
]

MAX_GENERATION = 2**53 - 1
MAX_AHEAD_MS = (400 * 86_400 + 60) * 1000
"""How far in the future an entry may end: no token is good for longer (400 days), and clocks differ."""

ENDED_KEPT_MS = 86_400 * 1000
"""Steady time for which an entry is kept that has ended when it is made.

The time may be wrong, by which it has: whoever sets it back within a day of leadership finds the entry.
"""


_REVOKED = MAX_GENERATION + 1  # a minimum that no token reaches
_SKEW_S = 60
_AHEAD_S = 5  # what another member issued a moment ago may be dated this much after now


@dataclass(frozen=True, slots=True)
class Revocation:
    """The record of one session id or subject.

    value: the session id or the subject.  minimum_gen: tokens of a lower
    generation are refused; None where all are, and for subjects.
    issued_before_unix_s: tokens of the subject with this iat or an older one
    are refused; None for session ids.  until_unix_ms: the last token that it
    is about has ended by then.
    """

    kind: Literal["sid", "sub"]
    value: str
    minimum_gen: int | None
    issued_before_unix_s: int | None
    until_unix_ms: int

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {
            "kind": self.kind,
            "value": self.value,
            "minimum_gen": self.minimum_gen,
            "issued_before_unix_s": self.issued_before_unix_s,
            "until_unix_ms": self.until_unix_ms,
        }


_FORGOTTEN_AT_ONCE = 1000


class _Ends:
    """Rows of (level, until, steady end) by key, all only ever raised, and when they are over."""

    def __init__(self, rows: Table[tuple[int, int, int]]) -> None:
        self.rows = rows
        self._schedule()

    def _schedule(self) -> None:
        # Not replicated: each entry waits for its steady end, then for its end.
        # One that is raised leaves what it waited for behind, to be skipped.
        self._steady_ends = [(steady, key) for key, (_, _, steady) in self.rows if steady]
        self._ends = [(until, key) for key, (_, until, steady) in self.rows if not steady]
        heapify(self._steady_ends)
        heapify(self._ends)

    def put(self, key: str, level: int, until_ms: int, now_ms: int, steady_ms: int) -> tuple[int, int]:
        """Raise an entry; returns level and end.  One that has ended is made too: the time may be wrong."""
        left_ms = until_ms - now_ms
        new = (level, until_ms, steady_ms + (left_ms if left_ms > 0 else ENDED_KEPT_MS))
        old = self.rows.get(key)
        if old is not None:
            new = (max(new[0], old[0]), max(new[1], old[1]), max(new[2], old[2]))
        self._forget(now_ms, steady_ms)
        self.rows.set(key, new)
        if old is None or new[2] != old[2]:
            heappush(self._steady_ends, (new[2], key))
        if len(self._steady_ends) + len(self._ends) > 2 * len(self.rows) + 64:
            self._schedule()
        return new[:2]

    def _forget(self, now_ms: int, steady_ms: int) -> None:
        """Forget some of the ended entries, so few that no command takes long; the rest have no effect.

        They are those of the earliest ends, whatever was restored from a snapshot meanwhile.
        """
        while self._steady_ends and self._steady_ends[0][0] <= steady_ms:
            steady_end, key = heappop(self._steady_ends)
            entry = self.rows.get(key)
            if entry is not None and entry[2] == steady_end:
                heappush(self._ends, (entry[1], key))
        left = _FORGOTTEN_AT_ONCE
        while left and self._ends and self._ends[0][0] <= now_ms:
            until, key = heappop(self._ends)
            entry = self.rows.get(key)
            if entry is not None and entry[1] == until and entry[2] <= steady_ms:
                self.rows.pop(key)
                left -= 1

    @classmethod
    def load(cls, rows: Iterable[Any], key_check: Check, level_check: Check) -> _Ends:
        """The rows of a snapshot.  Raises ValueError, Malformed."""
        return cls(
            Table(
                (key_check(key), (level_check(level), _until(until), _until(steady)))
                for key, level, until, steady in rows
            )
        )


def _rows(columns: object) -> Iterable[Any]:
    """The rows of a snapshot that had columns.  Raises ValueError."""
    names = ["keys", "levels", "untils"]
    if type(columns) is dict and "steady_ends" in columns:  # it is not in snapshots of release 0.1.0
        names.append("steady_ends")
    given = exact(columns, set(names))
    lists = [given[name] for name in names]
    if any(type(each) is not list for each in lists):
        raise ValueError("revocations are not lists")
    if len(lists) == 3:
        lists.append([0] * len(lists[0]))
    return zip(*lists, strict=True)


class SessionMachine(Machine):
    """Operations and their answers.  ``until_unix_ms`` is when the last token that
    the entry is for ends, at most 400 days ahead (else invalid_input); an entry
    whose end has come already is made like any other, and kept `ENDED_KEPT_MS`.

    ``advance {sid, gen, sub, iat_unix_s, until_unix_ms}`` ->
    ``{minimum_gen, until_unix_ms}``: a token of this generation (1 to
    2**53 - 1) is replaced by the next one, and it and the older ones are
    refused from then on.  token_rejected when it is refused already, so that
    of two changes of one token one wins.
    ``advance_to {..., change}``: as advance, for a caller with a request id.
    change: 64 hex digits that stand for the new claims, so that the same id
    with other ones is a conflict.
    ``revoke_sid {sid, until_unix_ms}`` -> the same, minimum_gen null: all of them are.
    ``revoke_sub {sub, issued_before_unix_s, until_unix_ms}`` ->
    ``{issued_before_unix_s, until_unix_ms}``: every token of the subject that
    was issued at that second or before is.  invalid_input for a moment more
    than 60 s in the future.
    Null for ``issued_before_unix_s`` is now, and 5 s more for the clocks of
    other members; null for ``until_unix_ms`` of a revocation is when the last
    token that can be out ends.  So a repetition is the same command, whenever
    it comes.
    Values only ever rise: the answers tell what holds afterwards.  There is
    no bound on their number: a revocation must never lack room.

    Expired entries leave by replicated time and steady time (see the module),
    when a later one of their kind is made or raised; until then they still
    refuse, which hurts nobody.

    sid: 16 bytes in base64url, 22 characters.  sub: 1 to 256 bytes of UTF-8
    without control characters.  That it is NFC is for the proposer to see to:
    what NFC is depends on the interpreter's Unicode version.

    last_end_unix_ms: from now to when the last token that can be out ends;
    steady_ms: the steady time of the entry that is applied.  Both are part of
    the replicated state.
    """

    NAME = "sessions"
    PROPOSER = "any"
    TABLES = ("sids", "subs")

    def __init__(
        self,
        last_end_unix_ms: Callable[[int], int] = lambda now_unix_ms: now_unix_ms + MAX_AHEAD_MS,
        steady_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__(_OPERATIONS)
        self._last_end_unix_ms = last_end_unix_ms
        self._steady_ms = steady_ms
        self._sids = _Ends(Table())
        self._subs = _Ends(Table())

    def refuses(
        self, sid: str, gen: int, sub: str, iat_unix_s: int
    ) -> Literal["revoked", "superseded"] | None:
        """Why a token must be refused, or None.  Constant time: asked for every token that is opened."""
        known = self._sids.rows.get(sid)
        if known is not None and gen < known[0]:
            return "revoked" if known[0] == _REVOKED else "superseded"
        known = self._subs.rows.get(sub)
        if known is not None and iat_unix_s <= known[0]:
            return "revoked"
        return None

    def earliest_iat_unix_s(self, sub: str) -> int:
        """The first time of issue that is not revoked for a subject: for a new session within that second."""
        known = self._subs.rows.get(sub)
        return 0 if known is None else known[0] + 1

    def ending_between(self, low_unix_ms: int, high_unix_ms: int) -> int:
        """Number of entries that end after the one time and not after the other."""
        return sum(
            low_unix_ms < until <= high_unix_ms
            for table in (self._sids, self._subs)
            for _, (_, until, _) in table.rows
        )

    def set_back(self, from_unix_ms: int, to_unix_ms: int) -> None:
        """The time was set back: what was revoked in the future is revoked until now.

        Otherwise nobody so revoked could sign in again before that future has come.
        """
        latest_s = to_unix_ms // 1000 + _AHEAD_S
        self._subs = _Ends(
            Table(
                (sub, (min(level, latest_s), until, steady))
                for sub, (level, until, steady) in self._subs.rows
            )
        )

    def __len__(self) -> int:
        return len(self._sids.rows) + len(self._subs.rows)

    def list(
        self, after: tuple[str, str] | None, limit: int, now_unix_ms: int = -1
    ) -> builtins.list[Revocation]:
        """At most ``limit`` entries that have not ended: session ids, then subjects, each ascending.

        after: kind and value of the last entry that the caller has; None from the start.
        """
        kind, value = after or ("", "")
        found: builtins.list[Revocation] = []
        for of, table in (("sid", self._sids), ("sub", self._subs)):
            if kind <= of and limit > len(found):
                first = value if kind == of else ""
                rows = table.rows.rows_from(first, after=bool(first))
                live = ((key, level, until) for key, (level, until, _) in rows if until > now_unix_ms)
                for key, level, until in islice(live, limit - len(found)):
                    if of == "sid":
                        found.append(Revocation("sid", key, _shown(level), None, until))
                    else:
                        found.append(Revocation("sub", key, None, level, until))
        return found

    def _advance(self, given: Json, index: int, now_unix_ms: int) -> Json:
        end_ms = self._end(given, now_unix_ms)
        reason = self.refuses(given["sid"], given["gen"], given["sub"], given["iat_unix_s"])
        if reason is not None:
            raise Refused(TokenRejected("token rejected"), reason)
        return self._raise_sid(given["sid"], min(given["gen"] + 1, MAX_GENERATION), end_ms, now_unix_ms)

    def _revoke_sid(self, given: Json, index: int, now_unix_ms: int) -> Json:
        return self._raise_sid(given["sid"], _REVOKED, self._end(given, now_unix_ms), now_unix_ms)

    def _revoke_sub(self, given: Json, index: int, now_unix_ms: int) -> Json:
        end_ms = self._end(given, now_unix_ms)
        issued_s = given["issued_before_unix_s"]
        if issued_s is None:
            issued_s = now_unix_ms // 1000 + _AHEAD_S
        if issued_s > now_unix_ms // 1000 + _SKEW_S:
            raise Refused(InvalidInput("tokens of the future cannot be revoked: check the clocks"))
        level, until_ms = self._subs.put(given["sub"], issued_s, end_ms, now_unix_ms, self._steady_ms())
        return {"issued_before_unix_s": level, "until_unix_ms": until_ms}

    def _raise_sid(self, sid: str, gen: int, end_ms: int, now_unix_ms: int) -> Json:
        level, until_ms = self._sids.put(sid, gen, end_ms, now_unix_ms, self._steady_ms())
        return {"minimum_gen": _shown(level), "until_unix_ms": until_ms}

    def _end(self, given: Json, now_unix_ms: int) -> int:
        """Time when the entry ends.  Raises Refused."""
        until_ms: int | None = given["until_unix_ms"]
        if until_ms is None:
            until_ms = min(self._last_end_unix_ms(now_unix_ms), now_unix_ms + MAX_AHEAD_MS)
        if until_ms > now_unix_ms + MAX_AHEAD_MS:
            raise Refused(InvalidInput("the entry would end in more than 400 days: check the clocks"))
        return until_ms

    def export_state(self) -> dict[str, Any]:
        """Nothing: all is in tables."""
        return {}

    def freeze_tables(self) -> Rows:
        """See Machine: session id or subject, level, end, steady end."""
        tables = {"sids": self._sids.rows.freeze(), "subs": self._subs.rows.freeze()}
        return {name: ([key, *row] for key, row in rows) for name, rows in tables.items()}

    def split_whole(self, state: object) -> tuple[object, Rows]:
        """See Machine."""
        top = exact(state, {"sids", "subs"})
        return {}, {name: _rows(columns) for name, columns in top.items()}

    def prepare_restore(self, state: object, tables: Rows = NO_ROWS) -> Callable[[], None]:
        """See Machine."""
        exact(state, set())
        try:
            sids = _Ends.load(tables.get("sids", ()), _sid, _minimum)
            subs = _Ends.load(tables.get("subs", ()), _sub, _issued)
        except Malformed:
            raise ValueError("a revocation is not valid") from None

        def commit() -> None:
            self._sids = sids
            self._subs = subs

        return commit


def _shown(minimum: int) -> int | None:
    return None if minimum == _REVOKED else minimum


def _sub(value: object) -> str:
    if type(value) is str and 0 < len(value) <= 256:
        try:
            size = len(value) if value.isascii() else len(value.encode("utf-8"))
        except UnicodeEncodeError:  # half of a surrogate pair
            size = 0
        # By code point, since `str.isprintable` depends on the interpreter's Unicode version.
        if 0 < size <= 256 and min(value) >= " " and "\x7f" not in value:
            return value
    raise Malformed("the subject is not valid: use 1 to 256 bytes of utf-8 without control characters")


# The last character holds 2 bits only, so there is one text for each id.
_sid = text(r"[A-Za-z0-9_-]{21}[AQgw]", "the session id is not valid: use 16 bytes in base64url")
_generation = integer(1, MAX_GENERATION, "the generation")
_minimum = integer(1, _REVOKED, "the generation")
_issued = integer(0, MAX_TIME_UNIX_MS // 1000, "the time of issue")
_until = integer(0, MAX_TIME_UNIX_MS + MAX_AHEAD_MS, "the end of the entry")


def _or_null(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


_ADVANCE = {"sid": _sid, "gen": _generation, "sub": _sub, "iat_unix_s": _issued, "until_unix_ms": _until}
_change = text("[0-9a-f]{64}", "the change is not valid: use 64 hex digits")

_OPERATIONS: Operations = {
    "advance": (_ADVANCE, SessionMachine._advance),
    "advance_to": ({**_ADVANCE, "change": _change}, SessionMachine._advance),
    "revoke_sid": ({"sid": _sid, "until_unix_ms": _or_null(_until)}, SessionMachine._revoke_sid),
    "revoke_sub": (
        {"sub": _sub, "issued_before_unix_s": _or_null(_issued), "until_unix_ms": _or_null(_until)},
        SessionMachine._revoke_sub,
    ),
}
