"""Cluster time: a clock that a majority of the voters keeps.

Pure: the wall clock, the monotonic clock and what peers' clocks showed are
arguments.  One `ClusterClock` belongs to one process of a node.

How it goes
-----------
The leader stamps every entry that it appends with the time of its
`ClusterClock`; nobody else's word about time moves anything.  That clock runs
with the leader's monotonic clock and is steered by one number, the
*majority's time*: the latest time that a majority of the voters' wall clocks
show or have passed.  With three voters it is the second latest clock, with
two the earlier one, with one its own.  A measurement of a peer's clock is a
lower bound (what it showed when it answered, plus what has passed since), so
the round trip never lets time run ahead.  It counts while it is younger than
`MEASURED_S` and was made since this node leads; a wall clock before 2020 or
after 2200 is no clock.

- Less than `STEP_S` behind the majority: the clock runs up to a tenth faster.
- Further behind, and the same majority has said so for `SURE_S`: it steps
  forward, once `ready` allows it (certificates are renewed first) or
  `HOLD_S` have passed.
- Ahead of the majority (their clocks were set back): it goes on, a tenth
  slower while the difference is below ten minutes.  Nothing expires early.
- A majority that cannot be asked moves nothing: the clock runs.

A step, and a new cluster's first time, has two phases: the leader stamps an
entry with it at once (`step_is_due`), and its clock, like everybody's, moves
when that entry is applied.  So nobody shows a step that the next leader may
not know.  A new leader whose log holds a later time than it shows says
nothing about time until it has applied it.

Other nodes follow the leader: by the stamps that they apply and by what the
leader's answers to pings say, in between by their own monotonic clock.  Cut
off, they go on by it.  No node's clock goes back, but for a new *epoch*: the
operator's ``cluster set-time``, replicated, raises it.

Besides the time a stamp carries *steady* milliseconds, which leaders'
monotonic clocks alone move: no step of time makes anything older by it.

Bounds, with any minority of wall clocks wrong in any way and monotonic
clocks true to a tenth: cluster time is never later than the latest right
clock; it is behind the earliest right one by at most `STEP_S`, and after a
cold start or a change of leader for a few seconds more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from cyoloctl.model import NO_STAMP, Stamp, majority

__all__ = [
    "FIRST_WALL_UNIX_MS",
    "HOLD_S",
    "LAST_WALL_UNIX_MS",
    "MEASURED_S",
    "STEP_S",
    "SURE_S",
    "ClusterClock",
    "is_a_time",
]

FIRST_WALL_UNIX_MS = 1_577_836_800_000
"""2020-01-01: a wall clock before it was never set."""
LAST_WALL_UNIX_MS = 7_258_118_400_000
"""2200-01-01: a wall clock after it is broken."""

MEASURED_S = 4.0
"""How long a measurement of a peer's clock counts; peers are asked every second."""
STEP_S = 6.0
"""Time that is further behind than this steps; slewing corrects 6 seconds per minute."""
SURE_S = 3.0
"""How long the same majority must say that time is behind before it steps."""
HOLD_S = 60.0
"""How long a step waits for `ClusterClock.ready`."""

_SLEW = 0.1
_SLEW_LIMIT_MS = 600_000
# Differences that are the network's, not a clock's.
_NOISE_MS = 20
# A follower that is ahead of its leader by more than this, for SURE_S, takes the leader's time.
_FAR_AHEAD_MS = 10_000
_JUDGE_EVERY_S = 0.2
_MAX_UNIX_MS = 2**53


def is_a_time(wall_unix_ms: int) -> bool:
    """Whether a wall clock that shows this was ever set: 2020 to 2200."""
    return FIRST_WALL_UNIX_MS <= wall_unix_ms <= LAST_WALL_UNIX_MS


class _Measured(NamedTuple):
    """wall_unix_ms: what a peer's clock showed at monotonic second `at`, our time of its arrival."""

    wall_unix_ms: int
    at: float
    trip_s: float

    def counts(self, now: float, since: float) -> bool:
        """Whether it is new enough, and was asked for at `since` or later."""
        return now - self.at + self.trip_s <= MEASURED_S and self.at - self.trip_s >= since


class _Step(NamedTuple):
    """A time that the clock takes once an entry with its stamp is applied.

    to: what the clock is to show at monotonic second `at`.  logged: an entry with it is in the log.
    inherited: the log of a new leader held it.
    """

    to: Stamp
    at: float
    logged: bool
    inherited: bool = False


class ClusterClock:
    """Cluster time as one process knows it: see the module.

    name: this node's.  wall_unix_ms: its wall clock.  monotonic: seconds.
    ready: asked before a step forward, with the time to step to; False holds
    the step for up to `HOLD_S`.
    """

    def __init__(
        self,
        name: str,
        *,
        wall_unix_ms: Callable[[], int],
        monotonic: Callable[[], float],
        ready: Callable[[int], bool] = lambda unix_ms: True,
    ) -> None:
        self._name = name
        self._wall = wall_unix_ms
        self._monotonic = monotonic
        self.ready = ready
        self.epoch = 0
        self._base_ms = 0.0
        self._base_at = monotonic()
        self._rate = 1.0
        self._leads_since: float | None = None
        self._steady_ms = 0.0
        self._steady_at = self._base_at
        self._last = NO_STAMP
        self._measured: dict[str, _Measured] = {}
        self._judged_at = -1e9
        self._behind: tuple[float, set[str]] | None = None  # since when, and who has said so throughout
        self._held_since: float | None = None
        self._pending_ms: int | None = None
        self._step: _Step | None = None
        self._far_ahead_since: float | None = None

    # What everybody reads.

    def now_unix_ms(self) -> int:
        """Cluster time in Unix milliseconds; 0 while it was never known.  Never goes back within an epoch."""
        return self._at(self._monotonic())

    def _at(self, at: float) -> int:
        """Cluster time at a monotonic second."""
        if not self._base_ms:
            return 0
        elapsed = max(0.0, at - self._base_at)
        return min(int(self._base_ms + elapsed * 1000 * self._rate), _MAX_UNIX_MS)

    def told(self) -> tuple[int, int]:
        """(epoch, Unix milliseconds) for whoever asks this node; 0 milliseconds: not known."""
        if self._step is not None and self._step.inherited:
            return self.epoch, 0
        return self.epoch, self.now_unix_ms()

    def _set(self, now_ms: float, rate: float = 1.0, *, at: float | None = None) -> None:
        """Let the clock show a time and run at a rate from now on.

        at: the monotonic second for which the time was worked out.  With another look at the monotonic
        clock, what passes between the two would be lost: the process may stall there for seconds.
        """
        self._base_ms, self._base_at, self._rate = now_ms, self._monotonic() if at is None else at, rate

    def _go_on(self, at: float, rate: float = 1.0) -> None:
        """Run at a rate from this monotonic second on, from what the clock shows then."""
        self._set(self._at(at), rate, at=at)

    def walls(self, *, since: float = -1e9) -> Mapping[str, int]:
        """Least present readings of the wall clocks, by name: this node's own and those measured lately.

        since: measurements before this monotonic second do not count.  Clocks that show no time are left out.
        """
        now = self._monotonic()
        found = {
            name: measured.wall_unix_ms + int((now - measured.at) * 1000)
            for name, measured in self._measured.items()
            if measured.counts(now, since)
        }
        found[self._name] = self._wall()
        return {name: wall for name, wall in found.items() if is_a_time(wall)}

    def skews_ms(self, *, since: float = -1e9) -> Mapping[str, float]:
        """Each measured wall clock less cluster time, by name; clocks that show no time, too.

        since: see `walls`.
        """
        now, cluster = self._monotonic(), self.now_unix_ms()
        found = {
            name: measured.wall_unix_ms + (now - measured.at + measured.trip_s / 2) * 1000 - cluster
            for name, measured in self._measured.items()
            if measured.counts(now, since)
        }
        found[self._name] = float(self._wall() - cluster)
        return found

    def majority_unix_ms(self, voters: Collection[str], *, since: float = -1e9) -> int | None:
        """The latest time that a majority of these voters' clocks show or have passed; None: not known."""
        walls = self.walls(since=since)
        shown = sorted((walls[name] for name in voters if name in walls), reverse=True)
        needed = majority(len(voters))
        return shown[needed - 1] if voters and len(shown) >= needed else None

    def is_behind(self, voters: Collection[str]) -> bool | None:
        """Whether time is about to step forward: a majority's clocks are further ahead than slewing mends.

        None: their clocks are not known.
        """
        majority = self.majority_unix_ms(voters)
        return None if majority is None else majority - self.now_unix_ms() > STEP_S * 1000

    def pending_unix_ms(self) -> int | None:
        """As leader: the time to which a held step is due; None while none is held."""
        return self._pending_ms

    # Measurements.

    def measured(self, name: str, wall_unix_ms: int, trip_s: float) -> None:
        """A peer's wall clock showed this when it answered, and the answer is here now.

        trip_s: seconds from the question to the answer.
        """
        self._measured[name] = _Measured(wall_unix_ms, self._monotonic(), max(0.0, trip_s))

    def forget(self, name: str) -> None:
        """The link with a peer ended: its clock is no longer measured."""
        self._measured.pop(name, None)

    # As a follower.

    def observe(self, epoch: int, time_unix_ms: int) -> None:
        """The leader's clock showed this a moment ago; 0: it does not know the time yet."""
        if self._leads_since is not None or epoch < self.epoch or not time_unix_ms:
            return
        at = self._monotonic()
        now = self._at(at)
        if epoch > self.epoch or time_unix_ms >= now:
            self.epoch = epoch
            self._far_ahead_since = None
            self._set(time_unix_ms)
            return
        if now - time_unix_ms <= _FAR_AHEAD_MS:
            self._far_ahead_since = None
        elif self._far_ahead_since is None:
            self._far_ahead_since = at
        elif at - self._far_ahead_since >= SURE_S:
            self._far_ahead_since = None
            self._set(time_unix_ms)
            return
        self._go_on(at, 1.0 - _SLEW if now - time_unix_ms > _NOISE_MS else 1.0)

    def applied(self, stamp: Stamp) -> None:
        """The state machine holds this stamp: time is not earlier, and a new epoch sets it."""
        if stamp.epoch > self.epoch:
            self.epoch = stamp.epoch
            self._set(stamp.time_unix_ms, self._rate)
            self._behind = self._pending_ms = self._held_since = None
        elif stamp.epoch == self.epoch and stamp.time_unix_ms > self.now_unix_ms():
            self._set(stamp.time_unix_ms, self._rate)
        if self._step is not None and self._step.to.moment <= stamp.moment:
            self._step = None
        if stamp.steady_ms > self._steady_now():
            self._steady_ms, self._steady_at = float(stamp.steady_ms), self._monotonic()

    # As the leader.

    def lead(self, last: Stamp) -> None:
        """This node leads from now on; last: the latest stamp in its log."""
        now = self._monotonic()
        self._leads_since = now
        self._steady_ms, self._steady_at = float(last.steady_ms), now
        self._last = last
        self._go_on(now)
        self._behind = self._pending_ms = self._held_since = None
        ahead = last.moment > (self.epoch, self.now_unix_ms())
        self._step = _Step(last, now, logged=True, inherited=True) if ahead else None
        self._judged_at = -1e9

    def follow(self) -> None:
        """This node has stopped leading."""
        self._steady_ms = self._steady_now()
        self._leads_since = None
        self._go_on(self._monotonic())
        self._behind = self._pending_ms = self._held_since = self._step = None

    def _steady_now(self) -> float:
        if self._leads_since is None:
            return self._steady_ms
        return self._steady_ms + max(0.0, self._monotonic() - self._steady_at) * 1000

    def step_is_due(self) -> bool:
        """As leader: whether an entry is to be appended for the sake of its stamp, now."""
        return self._step is not None and not self._step.logged

    def stamp(self) -> Stamp:
        """The stamp of an entry that is appended now; never behind one before it in its epoch."""
        last, step = self._last, self._step
        epoch, time_ms = self.epoch, self.now_unix_ms()
        if step is not None:
            elapsed_ms = int(max(0.0, self._monotonic() - step.at) * 1000)
            stepped = (step.to.epoch, min(step.to.time_unix_ms + elapsed_ms, _MAX_UNIX_MS))
            epoch, time_ms = max((epoch, time_ms), stepped)
            self._step = _Step(step.to, step.at, logged=True, inherited=step.inherited)
        if last.epoch == epoch:
            time_ms = max(time_ms, last.time_unix_ms)
        self._last = Stamp(epoch, time_ms, max(int(self._steady_now()), last.steady_ms))
        return self._last

    def judge(self, voters: Collection[str]) -> None:
        """Steer by the majority of the voters' clocks; call often, as leader."""
        at = self._monotonic()
        since = self._leads_since
        if since is None or at - self._judged_at < _JUDGE_EVERY_S:
            return
        self._judged_at = at
        majority = self.majority_unix_ms(voters, since=since)
        now = self._at(at)
        if self._step is not None and self._step.logged:
            return  # time moves when its entry is applied
        self._step = None
        if majority is None:
            self._behind = self._pending_ms = None
            self._go_on(at)
            return
        if not now:
            self._begin_step(majority)  # a new cluster: there is nothing yet that could expire
            return
        behind_ms = majority - now
        if behind_ms > STEP_S * 1000:
            self._go_on(at)
            self._maybe_step(at, now, voters, since)
            return
        self._behind = self._pending_ms = self._held_since = None
        if behind_ms > _NOISE_MS:
            # Not past the majority's time before the next look.
            self._go_on(at, 1.0 + min(_SLEW, behind_ms / 2000))
        elif _NOISE_MS < -behind_ms < _SLEW_LIMIT_MS:
            self._go_on(at, 1.0 - _SLEW)
        else:
            self._go_on(at)

    def _maybe_step(self, at: float, now: int, voters: Collection[str], since: float) -> None:
        walls = self.walls(since=since)
        later = {name for name in voters if walls.get(name, 0) > now + STEP_S * 1000}
        needed = majority(len(voters))
        if self._behind is None or len(self._behind[1] & later) < needed:
            self._behind = (at, later)
            self._pending_ms = self._held_since = None
            return
        self._behind = (self._behind[0], self._behind[1] & later)
        if at - self._behind[0] < SURE_S:
            return
        # Only clocks that have said so throughout: one that came and went is not among them.
        target = sorted((walls[name] for name in self._behind[1]), reverse=True)[needed - 1]
        if not self.ready(target) and (self._held_since is None or at - self._held_since < HOLD_S):
            self._held_since = at if self._held_since is None else self._held_since
            self._pending_ms = target
            return
        self._behind = self._pending_ms = self._held_since = None
        self._begin_step(target)

    def _begin_step(self, to_ms: int) -> None:
        self._step = _Step(Stamp(self.epoch, to_ms, 0), self._monotonic(), logged=False)
