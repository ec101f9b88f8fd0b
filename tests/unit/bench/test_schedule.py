"""When operations begin, in a closed loop and in an open one."""

from __future__ import annotations

import pytest

from cyoloctl.bench.schedule import Closed, Open


def test_closed_loop_begins_when_it_is_asked_until_the_time_is_over() -> None:
    schedule = Closed(2.0)
    assert [schedule.next(now) for now in (0.0, 0.7, 1.999, 2.0, 3.0)] == [0.0, 0.7, 1.999, None, None]
    assert schedule.unsent() == []


def test_open_loop_keeps_its_plan_however_late_it_is_asked() -> None:
    schedule = Open(1.0, 4)
    assert [schedule.next(0.0), schedule.next(0.9), schedule.next(0.9)] == [0.0, 0.25, 0.5]
    assert schedule.next(0.95) == 0.75
    assert schedule.next(0.95) is None
    assert schedule.unsent() == []


def test_open_loop_that_nobody_keeps_up_with_tells_what_it_had_planned() -> None:
    schedule = Open(1.0, 4)
    assert schedule.next(0.0) == 0.0
    assert schedule.next(1.0) is None
    assert schedule.unsent() == [0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("seconds", "rate", "planned"), [(1.0, 10, 10), (0.1, 30, 3), (0.15, 10, 2), (3.0, 1, 3), (0.1, 1, 1)]
)
def test_open_loop_plans_every_begin_before_the_end_and_none_at_it(
    seconds: float, rate: float, planned: int
) -> None:
    begins = Open(seconds, rate).unsent()
    assert begins == [number / rate for number in range(planned)]
    assert begins[-1] < seconds <= planned / rate + 1e-9
