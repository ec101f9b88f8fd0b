"""Locks: leases by name, each with a fencing token.

A lock is held until its end, which its holder moves on by keeping it.  What is
left of it is counted in steady time, which only leaders' monotonic clocks move:
no step of cluster time ends a lease early, and while nobody leads it stands
still.  The end that is told, a date, follows from that.

Whoever gets one gets a token too, greater than every token
that was ever given before, for this lock or another: a store that remembers
the greatest token it has seen refuses a holder that lost its lock and does
not know it yet.

A log entry holds several commands, and the log of a new epoch may begin
earlier than that of the one before.  So a token is the greatest of three: the
index, the last token plus one, and the first one of the epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cyoloctl.errors import Conflict, NotFound, Overloaded
from cyoloctl.model import NO_STAMP, Stamp
from cyoloctl.replicated.checks import Check, checked, exact, integer, json_object, text
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, Malformed, Refused
from cyoloctl.replicated.machine import NO_ROWS, Machine, Observed, Operations, Rows
from cyoloctl.text import Json

__all__ = ["MAX_LOCKS", "MAX_TTL_MS", "MIN_TTL_MS", "Lock", "LockLimits", "LockMachine"]

MAX_LOCKS = 10_000
MIN_TTL_MS = 1_000
MAX_TTL_MS = 86_400_000
_MAX_TOKEN = 2**63 - 1
_EPOCH_BITS = 40
"""An epoch has room for so many tokens, 2 to the power of this, before they reach the next one's."""


@dataclass(frozen=True, slots=True)
class LockLimits:
    """locks: how many can be held at once."""

    locks: int = MAX_LOCKS


_LIMITS = LockLimits()


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that somebody has.

    token: the holder's fencing token.  holder: what the asking process drew;
    whoever knows it is the holder.  owner: the process, for people.  by: the
    caller's name.  It is held until end_ms of steady time, or of cluster time
    where by_date is true: in a snapshot from before steady time counted.
    """

    name: str
    token: int
    holder: str
    owner: str
    by: str
    acquired_unix_ms: int
    end_ms: int
    by_date: bool = False

    def left_ms(self, now: Stamp) -> int:
        """How much longer it is held; 0 or less: it has ended."""
        return self.end_ms - (now.time_unix_ms if self.by_date else now.steady_ms)

    def shown(self, now: Stamp) -> Json:
        """Without what makes somebody the holder."""
        return {
            "name": self.name,
            "token": self.token,
            "owner": self.owner,
            "by": self.by,
            "acquired_unix_ms": self.acquired_unix_ms,
            "expires_unix_ms": min(now.time_unix_ms + self.left_ms(now), MAX_TIME_UNIX_MS),
        }


class LockMachine(Observed, Machine):
    """Operations and their answers:

    ``acquire {name, holder, owner, by, ttl_ms}`` -> ``{acquired, name, token,
    owner, by, acquired_unix_ms, expires_unix_ms}``: the lock for so long.  The
    holder that has it already keeps its token, and the later end.  While
    somebody else has it, acquired is false, and the rest says who and until
    when.  overloaded when so many other locks are held.
    ``keep {name, token, ttl_ms}`` -> the lock: held for so long from now, and
    no shorter than before.  conflict when that token does not hold it.
    ``release {name, token}`` -> ``{name, released}``: free; false when that
    token did not hold it.
    ``break {name}`` -> the lock that was taken away.  not_found when it is free.

    epoch: the present one of the cluster's history.  stamp: of the entry that is applied.
    on_change: called after each operation that made a lock free, or another's.
    """

    NAME = "lock"
    PROPOSER = "any"

    def __init__(
        self,
        epoch: Callable[[], int] = lambda: 1,
        limits: LockLimits = _LIMITS,
        stamp: Callable[[], Stamp] = lambda: NO_STAMP,
    ) -> None:
        super().__init__(_OPERATIONS)
        self._epoch = epoch
        self._stamp = stamp
        self._limits = limits
        self._last_token = 0
        self._locks: dict[str, Lock] = {}
        self._first_end_ms = 0  # no lock ends before this

    def at(self, now_unix_ms: int) -> Stamp:
        """The time now: of the entry that is applied, and after it as far as cluster time has gone on."""
        stamp = self._stamp()
        since_ms = max(0, now_unix_ms - stamp.time_unix_ms)
        return Stamp(stamp.epoch, stamp.time_unix_ms + since_ms, stamp.steady_ms + since_ms)

    def get(self, name: str, now_unix_ms: int) -> Lock | None:
        """The lock, or None when it is free."""
        lock = self._locks.get(name)
        return lock if lock is not None and lock.left_ms(self.at(now_unix_ms)) > 0 else None

    def holds(self, name: str, token: int, now_unix_ms: int) -> bool:
        """Whether this token holds the lock at that time."""
        lock = self.get(name, now_unix_ms)
        return lock is not None and lock.token == token

    def list(self, after: str | None, limit: int, now_unix_ms: int) -> list[Lock]:
        """At most ``limit`` locks that are held, by ascending name, those above ``after`` only."""
        now = self.at(now_unix_ms)
        held = sorted(name for name, lock in self._locks.items() if lock.left_ms(now) > 0)
        start = 0 if after is None else bisect_right(held, after)
        return [self._locks[name] for name in held[start : start + max(0, limit)]]

    def set_back(self, from_unix_ms: int, to_unix_ms: int) -> None:
        """Cluster time was set back: what was held is held for as long as before, and nothing else."""
        less_ms = from_unix_ms - to_unix_ms
        self._load(
            {
                name: replace(
                    lock,
                    acquired_unix_ms=max(0, lock.acquired_unix_ms - less_ms),
                    # One that has ended long ago would end before time began, which no snapshot may say.
                    end_ms=max(0, lock.end_ms - less_ms * lock.by_date),
                )
                for name, lock in self._locks.items()
            }
        )

    def _acquire(self, given: Json, index: int, now_unix_ms: int) -> Json:
        name, now = given["name"], self.at(now_unix_ms)
        self._forget(now)
        held = self._locks.get(name)
        if held is not None:
            if held.holder != given["holder"]:
                return {"acquired": False, **held.shown(now)}
            return {"acquired": True, **self._prolong(held, given["ttl_ms"], now)}
        if len(self._locks) >= self._limits.locks:
            raise Refused(
                Overloaded(f"{self._limits.locks} locks are held already: wait until some are released")
            )
        self._last_token = max(index, self._last_token + 1, (self._epoch() - 1) << _EPOCH_BITS)
        lock = Lock(
            name=name,
            token=self._last_token,
            holder=given["holder"],
            owner=given["owner"],
            by=given["by"],
            acquired_unix_ms=min(now_unix_ms, MAX_TIME_UNIX_MS),
            end_ms=now.steady_ms + given["ttl_ms"],
        )
        self._locks[name] = lock
        self._first_end_ms = min(self._first_end_ms, lock.end_ms)
        self._changed(name, index)
        return {"acquired": True, **lock.shown(now)}

    def _keep(self, given: Json, index: int, now_unix_ms: int) -> Json:
        name = given["name"]
        if not self.holds(name, given["token"], now_unix_ms):
            raise Refused(
                Conflict(f"token {given['token']} does not hold lock {name} any more: acquire it again")
            )
        return self._prolong(self._locks[name], given["ttl_ms"], self.at(now_unix_ms))

    def _prolong(self, lock: Lock, ttl_ms: int, now: Stamp) -> Json:
        end_ms = now.steady_ms + max(lock.left_ms(now), ttl_ms)
        lock = replace(lock, end_ms=end_ms, by_date=False)
        self._locks[lock.name] = lock
        return lock.shown(now)

    def _release(self, given: Json, index: int, now_unix_ms: int) -> Json:
        name = given["name"]
        released = self.holds(name, given["token"], now_unix_ms)
        if released:
            del self._locks[name]
            self._changed(name, index)
        return {"name": name, "released": released}

    def _break(self, given: Json, index: int, now_unix_ms: int) -> Json:
        name = given["name"]
        lock = self.get(name, now_unix_ms)
        if lock is None:
            raise Refused(NotFound(f"nobody holds lock {name}: nothing was changed"))
        del self._locks[name]
        self._changed(name, index)
        return lock.shown(self.at(now_unix_ms))

    def _forget(self, now: Stamp) -> None:
        """Forget the locks that have ended."""
        if now.steady_ms >= self._first_end_ms:
            self._load({name: lock for name, lock in self._locks.items() if lock.left_ms(now) > 0})

    def _load(self, locks: dict[str, Lock]) -> None:
        self._locks = locks
        ends = (0 if lock.by_date else lock.end_ms for lock in locks.values())
        self._first_end_ms = min(ends, default=_MAX_TOKEN)

    def is_new(self) -> bool:
        """See Machine."""
        return self._last_token == 0

    def freeze(self) -> Callable[[], Json]:
        """See Machine."""
        locks, last_token = self._locks.copy(), self._last_token
        return lambda: _exported(locks, last_token)

    def export_state(self) -> Json:
        """The state for the snapshot."""
        return _exported(self._locks, self._last_token)

    def prepare_restore(self, state: object, tables: Rows = NO_ROWS) -> Callable[[], None]:
        """Checks an exported state; the returned function puts it in place.  Raises ValueError."""
        fields = exact(state, {"last_token", "locks"})
        given = json_object(fields["locks"])
        if len(given) > self._limits.locks:
            raise ValueError("there are more locks than there can be")
        try:
            last_token = _last_token(fields["last_token"])
            locks = {name: _restored(name, fields) for name, fields in given.items()}
        except Malformed:
            raise ValueError("a lock is not valid") from None
        tokens = {lock.token for lock in locks.values()}
        if len(tokens) < len(locks) or max(tokens, default=0) > last_token:
            raise ValueError("a token was given twice")

        def commit() -> None:
            self._last_token = last_token
            self._load(locks)

        return commit


def _exported(locks: dict[str, Lock], last_token: int) -> Json:
    return {
        "last_token": last_token,
        "locks": {
            name: {
                "token": lock.token,
                "holder": lock.holder,
                "owner": lock.owner,
                "by": lock.by,
                "acquired_unix_ms": lock.acquired_unix_ms,
                _BY_DATE if lock.by_date else _STEADY: lock.end_ms,
            }
            for name, lock in locks.items()
        },
    }


def _restored(name: str, fields: Any) -> Lock:
    """A lock of a snapshot.  Raises ValueError, Malformed."""
    end = _BY_DATE if type(fields) is dict and _BY_DATE in fields else _STEADY
    given = checked(fields, {**_FIELDS, end: _time})
    return Lock(name=_name(name), end_ms=given.pop(end), by_date=end == _BY_DATE, **given)


_name = text(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}",
    "the name of the lock is not valid: use 1 to 128 of a-z, A-Z, 0-9, '.', '_' and '-', "
    "beginning with a letter or digit",
)
_holder = text(r"[0-9a-f]{32}", "the holder is not valid: use 32 hex digits")
_owner = text(r"[ -~]{0,128}", "the owner is not valid: use up to 128 printable ascii characters")
_by = text(r"[ -~]{0,128}", "the caller is not valid: use up to 128 printable ascii characters")
_token = integer(1, _MAX_TOKEN, "the token")
_last_token = integer(0, _MAX_TOKEN, "the last token")
_ttl = integer(MIN_TTL_MS, MAX_TTL_MS, "the lifetime")
_time = integer(0, MAX_TIME_UNIX_MS, "the time")

_FIELDS: dict[str, Check] = {
    "token": _token,
    "holder": _holder,
    "owner": _owner,
    "by": _by,
    "acquired_unix_ms": _time,
}
_STEADY, _BY_DATE = "end_steady_ms", "expires_unix_ms"
"""The end of a lock in a snapshot; by its date in those from before steady time counted."""

_OPERATIONS: Operations = {
    "acquire": (
        {"name": _name, "holder": _holder, "owner": _owner, "by": _by, "ttl_ms": _ttl},
        LockMachine._acquire,
    ),
    "keep": ({"name": _name, "token": _token, "ttl_ms": _ttl}, LockMachine._keep),
    "release": ({"name": _name, "token": _token}, LockMachine._release),
    "break": ({"name": _name}, LockMachine._break),
}
