"""Locks, as programs and `lock run` use them.

A lock is a lease.  Its time is what this machine's own clock counts from the moment at which the last
request that succeeded was *sent*: the cluster began to count later.  A machine that slept counts its
sleep (CLOCK_BOOTTIME).  Whoever works under the lock is told to end while a part of that time is left;
before it is over the cluster gives the lock to nobody else.
"""

from __future__ import annotations

import os
import re
import socket
import time
from typing import TYPE_CHECKING, Any, TypeVar, overload

from cyoloctl.errors import Conflict, CyoloctlError, InvalidInput, OutcomeUnknown, Unavailable, Unreachable
from cyoloctl.web.steps import Blocking, Group, InLoop, Pause, Turns, consistency, operation

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from cyoloctl.locks.api import Lock, LockBroken
    from cyoloctl.web.steps import Caller, Runner, Steps

__all__ = [
    "HeldLock",
    "Lease",
    "LockContext",
    "Locks",
    "LoopLockContext",
    "acquire",
    "keep",
    "now",
    "release",
    "this_process",
]

M = TypeVar("M")

_PAGE = 1000
_MAX_S = 86_400
# A poll is short enough for the death of its node to be noticed, and long enough to cost little.
_POLL_S = 10.0
_AGAIN_S = 0.2
_ATTEMPTS = 3
# The part of a lease in which whoever works under it is to end, and its bound in seconds.
_GRACE_SHARE, _GRACE_S = 0.2, 10.0
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds on the clock by which leases are counted."""
    return time.clock_gettime(_CLOCK)


class Lease:
    """A lock that this process has.

    token: greater than that of every holder before, of any lock.  deadline: until when the lease counts,
    by `now`.  grace_s: what is left of it when whoever works under it has to end.  lost: why somebody
    else may have the lock; None while that is not known.  trouble: why it was not kept the last time.
    """

    def __init__(self, name: str, token: int, ttl_s: float, sent: float, turns: Turns) -> None:
        """sent: when it was asked for."""
        self.name = name
        self.token = token
        self.ttl_s = ttl_s
        self.turns = turns
        self.kept = sent
        self.grace_s = min(ttl_s * _GRACE_SHARE, _GRACE_S)
        self.lost: str | None = None
        self.trouble: str | None = None

    @property
    def deadline(self) -> float:
        """Until when it counts."""
        return self.kept + self.ttl_s

    def why_over(self) -> str | None:
        """Why whoever works under it has to end now; None while it is safe."""
        if self.lost is not None:
            return self.lost
        if now() < self.deadline - self.grace_s:
            return None
        return f"it could not be kept for {self.ttl_s:g} s: {self.trouble or 'this machine stood still'}"


def acquire(
    caller: Caller, name: str, *, owner: str, ttl_s: float, wait_s: float, timeout_s: float
) -> Steps[Lease]:
    """The lock, with more than half of its time left.

    Raises Unavailable when somebody else has it until the wait is over, and
    OutcomeUnknown when it may have been acquired and nobody can say so.
    """
    turns, until, failed, late, unknown = Turns(caller), now() + wait_s, 0, 0, False
    body = {"holder": os.urandom(16).hex(), "owner": owner, "ttl_s": ttl_s}
    while True:
        sent = now()
        poll_s = min(max(0.0, until - sent), _POLL_S)
        try:
            # A node waits for a part of the time of a call at most.
            within_s = min(max(0.1, timeout_s + 1.5 * poll_s), 300.0)
            asked = {**body, "wait_s": poll_s}
            answer = yield from turns.ask("lock_acquire", name, asked, timeout_s=within_s)
        except CyoloctlError as error:
            failed, unknown = failed + 1, unknown or isinstance(error, OutcomeUnknown)
            passing = isinstance(error, Unavailable | Unreachable | OutcomeUnknown)
            if failed >= len(turns):
                if not passing or now() >= until:
                    raise _not_known(name, ttl_s, error) if unknown else error from None
                yield Pause(_AGAIN_S)  # all of them may be down: do not spin
            continue
        failed, unknown = 0, False
        if not answer["acquired"]:
            if now() >= until:
                raise Unavailable(
                    f"lock {name} is held by {answer['owner'] or answer['by']} until {answer['expires_at']} "
                    "or longer: try again, or wait for it (wait_s, --wait)"
                )
        elif now() - sent < ttl_s / 2:
            return Lease(name, answer["token"], ttl_s, sent, turns)
        elif (late := late + 1) >= _ATTEMPTS:  # before: the same holder asks for the whole time again
            yield from turns.ask("lock_release", name, {"token": answer["token"]}, timeout_s=timeout_s)
            raise Unavailable(
                f"the cluster is too slow for a lease of {ttl_s:g} s: use a longer one (ttl_s, --ttl)"
            )


def _not_known(name: str, ttl_s: float, error: CyoloctlError) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"nobody can say whether lock {name} was acquired ({error.message}): nothing was done under it, "
        f"and the lock is free again after {ttl_s:g} s at the latest"
    )


def keep(lease: Lease, timeout_s: float) -> Steps[None]:
    """Ask for more time whenever a third of it has passed, and soon again where nobody answers.

    Ends when the lease is over: `why_over` says why.
    """
    due = lease.kept + lease.ttl_s / 3
    while True:
        yield Pause(max(0.0, due - now()))
        if lease.why_over() is not None:
            return
        sent = now()
        # One node that hangs must leave time for the others.
        within_s = min(timeout_s, max(0.2, (lease.deadline - lease.grace_s - sent) / 3))
        try:
            body = {"token": lease.token, "ttl_s": lease.ttl_s}
            yield from lease.turns.ask("lock_keep", lease.name, body, timeout_s=within_s)
        except Conflict as error:
            lease.lost = error.message
            return
        except CyoloctlError as error:
            lease.trouble = error.message
            due = now() + min(0.5, lease.ttl_s / 20)
            continue
        lease.trouble = None
        lease.kept = sent
        due = sent + lease.ttl_s / 3


def release(lease: Lease, timeout_s: float) -> Steps[str | None]:
    """Release the lock through any node; why that was not possible: then it ends by itself."""
    trouble: str | None = None
    for _ in range(len(lease.turns)):
        try:
            yield from lease.turns.ask(
                "lock_release", lease.name, {"token": lease.token}, timeout_s=timeout_s
            )
            return None
        except CyoloctlError as error:
            trouble = error.message
    return trouble


def _lost_while_working(lease: Lease, why: str) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"lock {lease.name} was lost while work was done under it: {why}; see what that left behind before "
        "it is done again"
    )


class HeldLock:
    """A lock that is held.

    name: of the lock.  token: a number greater than that of every holder before, of any lock.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self.name = lease.name
        self.token = lease.token

    @property
    def fence(self) -> str:
        """``NAME=TOKEN``, for `fence` of the writes of keys: they are refused once the lock is lost."""
        return f"{self.name}={self.token}"

    @property
    def lost(self) -> bool:
        """Whether work under the lock has to end: it was taken away, or was not kept in time.

        True while a fifth of the lease is left (10 s at most), in which nobody else gets the lock.
        """
        return self._lease.why_over() is not None


class LockContext:
    """A lock for a ``with`` block, acquired when that begins; a thread keeps it.

    Gives a HeldLock.  The block has to look at its `lost` from time to time: nothing can end a thread.
    Raises at the beginning Unavailable where somebody else has the lock, and OutcomeUnknown where nobody can
    say so; at the end OutcomeUnknown where the lock was lost in the block and the block raised nothing.
    """

    def __init__(self, acquiring: Callable[[], Steps[Lease]], runner: Runner, timeout_s: float) -> None:
        self._acquiring = acquiring
        self._runner = runner
        self._timeout_s = timeout_s

    def __enter__(self) -> HeldLock:
        self._lease: Lease = self._runner.run(self._acquiring())
        self._keeper = self._runner.background(keep(self._lease, self._timeout_s), _nothing)
        return HeldLock(self._lease)

    def __exit__(self, kind: object, *_: object) -> None:
        over = self._lease.why_over()
        self._keeper.stop()
        if over is None:
            self._runner.run(release(self._lease, self._timeout_s))
        elif kind is None:
            raise _lost_while_working(self._lease, over)


class LoopLockContext:
    """A lock for an ``async with`` block, acquired when that begins; a task keeps it.

    Gives a HeldLock.  When the lock is lost the block is cancelled, before anybody else can have the lock,
    and raises OutcomeUnknown.  Raises at the beginning as `LockContext`.
    """

    def __init__(self, acquiring: Callable[[], Steps[Lease]], runner: Runner, timeout_s: float) -> None:
        self._acquiring = acquiring
        self._runner = runner
        self._timeout_s = timeout_s
        self._body: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> HeldLock:
        import asyncio

        self._lease: Lease = await self._runner.run(self._acquiring())
        self._cancelled = False
        self._body = body = asyncio.current_task()
        assert body is not None
        self._cancelling = body.cancelling()
        self._keeper = self._runner.background(keep(self._lease, self._timeout_s), self._on_over)
        return HeldLock(self._lease)

    def _on_over(self) -> None:
        if self._body is not None:
            self._cancelled = True
            self._body.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        import asyncio

        body, self._body = self._body, None  # from now on it is not ours to cancel
        assert body is not None
        over = self._lease.why_over()
        self._keeper.stop()
        # As asyncio.timeout does: others may have cancelled the task as well.
        if self._cancelled and body.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            kind = None
        if over is None and not self._cancelled:
            await self._runner.run(release(self._lease, self._timeout_s))
        elif kind is None:
            raise _lost_while_working(self._lease, over or "nothing kept it any longer")


def _nothing() -> None:
    pass


class Locks(Group[M]):
    """Leases by name (1 to 128 of a-z, A-Z, 0-9, '.', '_' and '-'), each with a fencing token."""

    @overload
    def acquire(
        self: Locks[Blocking], name: str, *, ttl_s: float = ..., wait_s: float = ..., owner: str = ...
    ) -> LockContext: ...
    @overload
    def acquire(
        self: Locks[InLoop], name: str, *, ttl_s: float = ..., wait_s: float = ..., owner: str = ...
    ) -> LoopLockContext: ...

    def acquire(self, name: str, *, ttl_s: float = 15.0, wait_s: float = 0.0, owner: str = "") -> Any:
        """A context manager in which the lock is held and kept: see LockContext and LoopLockContext.

        ttl_s: seconds after which the lock of a holder that died is free, 1 to 86400.  wait_s: seconds to
        wait for a lock that somebody has, 0 to 86400.  owner: for people who wonder who has it; "": this
        host and process.
        """
        if not 1 <= ttl_s <= _MAX_S:
            raise InvalidInput(f"ttl_s must be 1 to {_MAX_S}")
        if not 0 <= wait_s <= _MAX_S:
            raise InvalidInput(f"wait_s must be 0 to {_MAX_S}")
        timeout_s = self._caller.timeout_s

        def asking() -> Steps[Lease]:
            who = owner or this_process()
            return acquire(self._caller, name, owner=who, ttl_s=ttl_s, wait_s=wait_s, timeout_s=timeout_s)

        context: type[Any] = LoopLockContext if self._runner.in_loop else LockContext
        return context(asking, self._runner, timeout_s)

    @operation
    def show(self, name: str, *, stale: bool = False) -> Steps[Lock]:
        """Who holds a lock.  Raises NotFound for one that is free."""
        return self._caller.call("lock_get", name, query=consistency(stale))

    @operation
    def list(self, *, stale: bool = False) -> Steps[list[Lock]]:
        """The locks that are held, by name."""
        found: list[Lock] = []
        after: str | None = None
        while True:
            query = {"limit": _PAGE, "after": after, **consistency(stale)}
            page = yield from self._caller.call("lock_list", query=query)
            found += page["locks"]
            after = page["next"]
            if after is None:
                return found

    @operation
    def release(self, name: str, *, request_id: str | None = None) -> Steps[LockBroken]:
        """Take a lock away from whoever holds it.  Raises NotFound for one that is free."""
        return self._caller.call("lock_break", name, {"request_id": request_id})


def this_process() -> str:
    """This process, for whoever wonders who has a lock."""
    return re.sub(r"[^ -~]", "?", f"{socket.gethostname()[:100]} {os.getpid()}")
