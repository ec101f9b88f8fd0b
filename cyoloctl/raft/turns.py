"""A replica's turn, in steps between which the journal is written: here, or in another thread.

While a write is made elsewhere the turn stands still, and what comes for the
replica is held until the turn has ended.  So a turn whose writes are made
elsewhere is the same as one that stops everything for them, except that
others than the replica go on: the loop, its clients and stale reads, and
what the replica itself does `meanwhile`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from cyoloctl.errors import CyoloctlError, StorageError
from cyoloctl.raft.proposals import Done

__all__ = ["Steps", "Turns", "Write"]

Write = Callable[[], None]
"""Makes what the journal holds durable; run once, in any thread.  Raises nothing."""

Steps = Iterator[Write]
"""What a turn does, up to each write; it goes on when that was run."""

_MOST_HELD = 20_000
"""Of what waits for a write, which is some thirty messages per second and what the windows of the peers
allow: so many come in minutes in which the disk has not answered at all."""


class Turns:
    """Runs one turn at a time, and holds what comes in between."""

    def __init__(
        self,
        steps: Callable[[], Steps],
        *,
        may_suspend: Callable[[], bool],
        meanwhile: Callable[[], None],
        fail: Callable[[CyoloctlError], None],
    ) -> None:
        """steps: a new turn.  may_suspend: whether others may go on before a write.  meanwhile: what is done
        while one is made elsewhere, which changes nothing that the journal holds.  fail: told what ended a
        turn; none may be run after it.
        """
        self._steps = steps
        self._may_suspend = may_suspend
        self._meanwhile = meanwhile
        self._fail = fail
        self._turn: Steps | None = None
        self._held: deque[tuple[Callable[[], object], Done | None]] = deque()
        self._is_written = False
        self.is_suspended = False
        """From when a write was taken until the turn goes on, which is after `written`."""
        self.write_elsewhere: Callable[[Write], bool] = lambda write: False
        """Takes a write to be run in another thread, and calls `written` after it; false: it is run here."""

    def written(self) -> None:
        """The write that was taken has been run: the next `run` goes on."""
        self._is_written = True

    def hold(self, call: Callable[[], object], done: Done | None = None) -> None:
        """Call this, in the order in which it came, when the turn has ended that `is_suspended` now.

        done: told why, where it never is.
        """
        self._held.append((call, done))
        if len(self._held) > _MOST_HELD:
            self._fail(StorageError("the disk takes no writes and answers nothing: look at it, then restart"))

    def abandon(self, error: CyoloctlError) -> None:
        """Forget what is held, and tell whoever waits for it: nothing of it was begun."""
        held, self._held = self._held, deque()
        for _, done in held:
            if done is not None:
                done(None, error)

    def run(self) -> bool:
        """Go on with the turn, or begin one; nothing but `meanwhile` until its write is `written`.

        True: it ended, and what was held for it was called, which another turn has to follow.
        """
        if self.is_suspended and not self._is_written:
            self._meanwhile()
            return False
        self.is_suspended = False
        if self._turn is None:
            self._turn = self._steps()
        try:
            for write in self._turn:
                self._is_written = False
                if self._may_suspend() and self.write_elsewhere(write):
                    self.is_suspended = True
                    return False
                write()
        except CyoloctlError as error:
            self._turn = None
            self._fail(error)
            return False
        except BaseException:
            self._turn = None
            raise
        self._turn = None
        was_held = bool(self._held)
        while self._held:
            self._held.popleft()[0]()
        return was_held
