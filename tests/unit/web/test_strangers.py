"""The accounts of connections that nobody vouches for."""

from __future__ import annotations

import pytest

from cyoloctl.web.strangers import (
    Budget,
    StrangerLimits,
    Visit,
    Visitors,
    callers_limit,
    reserved_descriptors,
    source_of,
    stranger_limits,
)

LIMITS = StrangerLimits(connections=6, per_source=3, grace_s=0.5)


def _come(visitors: Visitors, source: str, now: float) -> Visit:
    visit, _ = visitors.admit(source, now)
    assert visit is not None
    return visit


def test_visitors_over_the_limit_of_a_source_lose_their_oldest() -> None:
    visitors = Visitors(LIMITS)
    first = [_come(visitors, "a", float(n)) for n in range(3)]
    other = _come(visitors, "b", 3.0)
    visit, gone = visitors.admit("a", 4.0)
    assert visit is not None
    assert gone == [first[0]]
    assert len(visitors) == 4
    visitors.left(other)
    assert len(visitors) == 3


def test_visitors_over_the_limit_in_all_lose_the_oldest_of_the_fullest_source() -> None:
    visitors = Visitors(LIMITS)
    _come(visitors, "old", 0.0)
    crowd = [_come(visitors, "a", 1.0 + n) for n in range(3)]
    for n in range(2):
        _come(visitors, f"s{n}", 5.0)
    visit, gone = visitors.admit("new", 6.0)
    assert visit is not None
    assert gone == [crowd[0]]
    assert len(visitors) == 6


def test_visitor_in_its_first_moment_is_not_sent_away() -> None:
    visitors = Visitors(LIMITS)
    for _ in range(3):
        _come(visitors, "a", 1.0)
    assert visitors.admit("a", 1.4) == (None, [])
    assert visitors.admit("a", 1.6)[0] is not None
    assert len(visitors) == 3


def test_visitors_that_all_just_came_stay_when_there_are_too_many_in_all() -> None:
    visitors = Visitors(LIMITS)
    for number in range(6):
        _come(visitors, f"s{number}", 1.0)
    assert visitors.admit("new", 1.4) == (None, [])
    assert visitors.admit("new", 1.6)[0] is not None
    assert len(visitors) == 6


@pytest.mark.parametrize(
    ("step", "limit_s"),
    [("begun", LIMITS.head_s), ("asked", LIMITS.busy_s), ("answered", LIMITS.idle_s)],
)
def test_visitor_has_so_long_for_each_step_and_no_longer(step: str, limit_s: float) -> None:
    visitors = Visitors(LIMITS)
    visit = _come(visitors, "a", 0.0)
    getattr(visitors, step)(visit, 3.0)
    assert visitors.expired(3.0 + limit_s - 0.1) == []
    assert visitors.expired(3.0 + limit_s) == [visit]


def test_visitor_that_is_being_answered_goes_after_those_who_wait() -> None:
    visitors = Visitors(LIMITS)
    busy, waiting, _ = (_come(visitors, "a", 1.0) for _ in range(3))
    visitors.asked(busy, 1.1)
    assert visitors.admit("a", 3.0)[1] == [waiting]


def test_identified_callers_do_not_count() -> None:
    visitors = Visitors(LIMITS)
    for n in range(1000):
        visitors.identified(_come(visitors, "a", n / 1000))
    assert len(visitors) == 0
    visit = _come(visitors, "a", 2.0)
    visitors.identified(visit)
    assert visitors.expired(1e9) == []
    visitors.unidentified(visit, 3.0)
    visitors.unidentified(visit, 3.0)
    assert len(visitors) == 1
    visitors.left(visit)
    visitors.left(visit)
    assert len(visitors) == 0
    visitors.unidentified(visit, 3.0)
    assert len(visitors) == 0


def test_visitor_past_each_of_its_deadlines_is_expired() -> None:
    visitors = Visitors(LIMITS)
    visit = _come(visitors, "a", 0.0)
    assert visitors.expired(LIMITS.handshake_s - 0.1) == []
    visitors.begun(visit, 4.0)
    assert visitors.expired(4.0 + LIMITS.head_s - 0.1) == []
    visitors.asked(visit, 8.0)
    assert visitors.expired(8.0 + LIMITS.busy_s - 0.1) == []
    visitors.answered(visit, 50.0)
    assert visitors.expired(50.0 + LIMITS.idle_s - 0.1) == []
    assert visitors.expired(50.0 + LIMITS.idle_s) == [visit]
    assert visitors.expired(99.0) == []
    assert len(visitors) == 0


def test_shed_ends_the_oldest_of_the_fullest_sources() -> None:
    visitors = Visitors(LIMITS)
    one = _come(visitors, "one", 0.0)
    crowd = [_come(visitors, "a", 1.0) for _ in range(3)]
    assert visitors.shed(2) == crowd[:2]
    assert set(visitors.shed(9)) == {one, crowd[2]}
    assert visitors.shed(9) == []


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_source_of_an_address_is_what_one_caller_can_fill(address: str, source: str) -> None:
    assert source_of(address) == source


@pytest.mark.parametrize("descriptors", [64, 256, 1024, 4096, 65536, 1 << 20])
def test_limits_leave_a_reserve_of_descriptors(descriptors: int) -> None:
    strangers = stranger_limits(descriptors)
    taken = 2 * strangers.connections + callers_limit(descriptors)  # API and gateway
    if descriptors >= 256:
        assert taken + reserved_descriptors(descriptors) <= descriptors
    assert 4 <= strangers.per_source <= strangers.connections <= 512


def test_reserve_is_a_quarter_within_bounds() -> None:
    assert [reserved_descriptors(number) for number in (0, 100, 1024, 65_536)] == [64, 64, 256, 1024]


def test_budget_is_bounded_by_caller_and_in_all() -> None:
    budget = Budget(in_all=10, each=6)
    assert budget.take("a", 6)
    assert not budget.take("a", 1)
    assert not budget.take("b", 5)
    assert budget.take("b", 4)
    assert not budget.take("c", 1)
    budget.give_back("a", 6)
    assert (budget.used_by("a"), budget.total) == (0, 4)
    assert budget.take("c", 6)
