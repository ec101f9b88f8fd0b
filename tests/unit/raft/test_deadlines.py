"""What waited too long is ended, what is over is not, and without anything there is no timer."""

from __future__ import annotations

import asyncio
import weakref
from types import SimpleNamespace

from cyoloctl.raft.deadlines import Deadlines


class Loop:
    """Time that passes when a test says so, and the timers that were asked for."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, object]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, call: object) -> asyncio.Handle:
        timer = (self.now + seconds, call)
        self.timers.append(timer)
        return SimpleNamespace(cancel=lambda: self.timers.remove(timer))  # type: ignore[return-value]

    def passes(self, seconds: float) -> None:
        """Call what is due, in its order."""
        end = self.now + seconds
        while due := sorted((timer for timer in self.timers if timer[0] <= end), key=lambda timer: timer[0]):
            self.timers.remove(due[0])
            self.now = due[0][0]
            due[0][1]()  # type: ignore[operator]
        self.now = end


def deadlines_of(loop: Loop, ended: list[str]) -> Deadlines[str]:
    return Deadlines(loop, lambda waiting, timeout_s: ended.append(f"{waiting} {timeout_s:g}"))  # type: ignore[arg-type]


def test_each_is_ended_once_soon_after_its_deadline_and_in_no_case_before() -> None:
    loop, ended = Loop(), list[str]()
    deadlines = deadlines_of(loop, ended)
    deadlines.add("first", 1.0)
    loop.passes(0.5)
    deadlines.add("second", 0.2)
    loop.passes(0.19)
    assert ended == []
    loop.passes(0.07)
    assert ended == ["second 0.2"]
    loop.passes(0.2)
    assert ended == ["second 0.2"]
    loop.passes(0.1)
    assert ended == ["second 0.2", "first 1"]
    loop.passes(5.0)
    assert ended == ["second 0.2", "first 1"]


def test_what_is_removed_is_kept_no_longer_not_ended_and_leaves_no_timer() -> None:
    loop, ended = Loop(), list[str]()
    deadlines: Deadlines[Loop] = Deadlines(loop, lambda waiting, timeout_s: ended.append("one"))  # type: ignore[arg-type]
    one = Loop()
    kept = weakref.ref(one)
    deadlines.add(one, 60.0)
    deadlines.remove(one)
    deadlines.remove(one)
    del one
    assert kept() is None
    loop.passes(0.06)
    assert loop.timers == []
    deadlines.add(Loop(), 0.1)
    loop.passes(0.2)
    assert ended == ["one"]
    assert loop.timers == []


def test_one_that_ends_may_begin_another_and_take_out_itself() -> None:
    loop, ended = Loop(), list[str]()

    def end(waiting: str, timeout_s: float) -> None:
        ended.append(waiting)
        deadlines.remove(waiting)
        if waiting == "one":
            deadlines.add("another", 0.1)

    deadlines = Deadlines(loop, end)  # type: ignore[arg-type]
    deadlines.add("one", 0.1)
    loop.passes(0.4)
    assert ended == ["one", "another"]


def test_nothing_is_ended_after_the_stop() -> None:
    loop, ended = Loop(), list[str]()
    deadlines = deadlines_of(loop, ended)
    deadlines.add("one", 0.1)
    deadlines.stop()
    loop.passes(1.0)
    assert ended == []
    assert loop.timers == []
