"""The rate at which a disk fills, and the marks."""

from __future__ import annotations

import random

import pytest

from cyoloctl.members.disk_space import SAMPLE_S, SpaceHistory, low_bytes, reserve_bytes

GIB = 2**30
A_DAY = 86_400 / SAMPLE_S  # samples


def history(free: list[int]) -> SpaceHistory:
    made = SpaceHistory()
    for number, each in enumerate(free):
        made.observe(1000.0 + number * SAMPLE_S, each)
    return made


def falling(count: int, *, days: float, frm: int = 100 * GIB) -> list[int]:
    """Free space that falls so that nothing of it would be left after so many days."""
    return [int(frm * (1 - number / A_DAY / days)) for number in range(count)]


def test_days_left_are_those_of_a_steady_rate() -> None:
    free = falling(60, days=10)
    assert history(free).days_left(free[-1]) == pytest.approx(10 - 59 / A_DAY, abs=0.1)


def test_days_left_are_not_known_before_half_an_hour() -> None:
    free = falling(7, days=1)
    assert history(free[:6]).days_left(free[5]) is None
    assert history(free).days_left(free[6]) == pytest.approx(1.0, abs=0.1)


def test_disk_that_does_not_fill_has_no_last_day() -> None:
    assert history([GIB] * 40).days_left(GIB) is None
    assert history(list(reversed(falling(40, days=5)))).days_left(100 * GIB) is None
    assert history(falling(40, days=100_000)).days_left(100 * GIB) is None


@pytest.mark.parametrize("at", [1, 20, 58])
@pytest.mark.parametrize("jump", [-60 * GIB, 60 * GIB])
def test_file_that_comes_or_goes_at_once_does_not_change_the_rate(at: int, jump: int) -> None:
    free = falling(60, days=10, frm=200 * GIB)
    rate = 200 * GIB / 10
    jumped = [each + (jump if number >= at else 0) for number, each in enumerate(free)]
    days = history(jumped).days_left(jumped[-1])
    assert days == pytest.approx(jumped[-1] / rate, rel=0.02)


def test_rate_of_a_noisy_disk_is_that_of_its_hours() -> None:
    rng = random.Random(1)
    free = [each + rng.randrange(-GIB // 100, GIB // 100) for each in falling(73, days=4)]
    assert history(free).days_left(free[-1]) == pytest.approx(4, abs=0.8)


def test_rate_is_that_of_the_last_six_hours() -> None:
    free = falling(200, days=3) + [30 * GIB] * 73
    assert history(free).days_left(30 * GIB) is None


def test_samples_that_come_too_soon_count_once() -> None:
    made = SpaceHistory()
    for second in range(3600):
        made.observe(float(second), GIB - second * 2**10)
    assert made.days_left(GIB) == pytest.approx(GIB / 2**10 / 86_400, abs=0.1)
    assert len(made._samples) == 12


def test_samples_after_a_standstill_of_the_machine_count_by_their_time() -> None:
    made = SpaceHistory()
    for number in range(20):
        made.observe(number * SAMPLE_S + (86_400 if number > 10 else 0), 10 * GIB - number * GIB // 100)
    days = made.days_left(9 * GIB)
    assert days is not None
    assert days == pytest.approx(9 * 100 / A_DAY, rel=0.1)


def test_reserve_is_a_part_of_a_small_disk_and_bounded_on_a_large_one() -> None:
    assert reserve_bytes(2 * 2**20) == 2**17
    assert reserve_bytes(2**40) == 64 * 2**20
    assert reserve_bytes(2**40, 2**30) == 64 * 2**20 + 2**30
    assert reserve_bytes(2**20, 2**30) == 2**16 + 2**18  # never the most of a disk
    assert low_bytes(reserve_bytes(2**40)) == 256 * 2**20
