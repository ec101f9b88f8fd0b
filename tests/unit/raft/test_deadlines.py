"""What waited too long is ended, what is over is not, and without anything there is no timer."""

from __future__ import annotations

import asyncio
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


def waiting() -> SimpleNamespace:
    return SimpleNamespace(cancelled=False)


def test_each_is_ended_once_soon_after_its_deadline_and_in_no_case_before() -> None:
    loop, ended = Loop(), list[str]()
    deadlines = Deadlines(loop)  # type: ignore[arg-type]
    deadlines.add(waiting(), 1.0, lambda: ended.append("first"))
    loop.passes(0.5)
    deadlines.add(waiting(), 0.2, lambda: ended.append("second"))
    loop.passes(0.19)
    assert ended == []
    loop.passes(0.07)
    assert ended == ["second"]
    loop.passes(0.2)
    assert ended == ["second"]
    loop.passes(0.1)
    assert ended == ["second", "first"]
    loop.passes(5.0)
    assert ended == ["second", "first"]


def test_what_is_over_is_not_ended_and_leaves_no_timer() -> None:
    loop, ended = Loop(), list[str]()
    deadlines = Deadlines(loop)  # type: ignore[arg-type]
    one = waiting()
    deadlines.add(one, 60.0, lambda: ended.append("one"))
    one.cancelled = True
    loop.passes(0.06)
    assert loop.timers == []
    other = waiting()
    deadlines.add(other, 0.1, lambda: ended.append("other"))
    loop.passes(0.2)
    assert ended == ["other"]
    assert loop.timers == []


def test_one_that_ends_may_begin_another() -> None:
    loop, ended = Loop(), list[str]()
    deadlines = Deadlines(loop)  # type: ignore[arg-type]

    def end() -> None:
        ended.append("one")
        deadlines.add(waiting(), 0.1, lambda: ended.append("another"))

    deadlines.add(waiting(), 0.1, end)
    loop.passes(0.4)
    assert ended == ["one", "another"]


def test_nothing_is_ended_after_the_stop() -> None:
    loop, ended = Loop(), list[str]()
    deadlines = Deadlines(loop)  # type: ignore[arg-type]
    deadlines.add(waiting(), 0.1, lambda: ended.append("one"))
    deadlines.stop()
    loop.passes(1.0)
    assert ended == []
    assert loop.timers == []
