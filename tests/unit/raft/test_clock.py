"""Cluster time: what moves it, what does not, and what it does when clocks are wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cyoloctl.model import Stamp
from cyoloctl.raft.clock import HOLD_S, MEASURED_S, STEP_S, SURE_S, ClusterClock

START = 1_780_000_000_000
DAY = 86_400_000
THREE = ("n1", "n2", "n3")


class World:
    """A leader n1, and the wall clocks that it can ask: right, but for `off`."""

    def __init__(
        self, voters: tuple[str, ...] = THREE, *, ready: Callable[[int], bool] | None = None
    ) -> None:
        self.seconds = 500.0
        self.voters = voters
        self.off: dict[str, float] = {}
        self.away: set[str] = set()
        self.clock = ClusterClock(
            "n1",
            wall_unix_ms=lambda: self.wall("n1"),
            monotonic=lambda: self.seconds,
            ready=ready or (lambda unix_ms: True),
        )

    def true(self) -> int:
        return START + int(self.seconds * 1000)

    def wall(self, name: str) -> int:
        return self.true() + int(self.off.get(name, 0))

    def tick(self) -> None:
        """A tenth of a second, in which nothing is appended."""
        self.seconds += 0.1
        if round(self.seconds * 10) % 10 == 0:
            for name in self.voters:
                if name != "n1" and name not in self.away:
                    self.clock.measured(name, self.wall(name), 0.01)
        self.clock.judge(self.voters)

    def pass_time(self, seconds: float) -> None:
        """So many seconds, in which an entry that the clock asks for is appended and applied at once."""
        for _ in range(int(seconds * 10)):
            self.tick()
            if self.clock.step_is_due():
                self.clock.applied(self.clock.stamp())

    def lead(self, last: Stamp | None = None) -> None:
        last = last or Stamp(0, self.true(), 0)
        self.clock.applied(last)
        self.clock.lead(last)
        self.pass_time(3)

    def error(self) -> int:
        return self.clock.now_unix_ms() - self.true()


@pytest.mark.parametrize("off", [20 * 60_000, 9 * DAY, 400 * DAY, -400 * DAY, -START - DAY, 2**53])
@pytest.mark.parametrize("name", THREE)
def test_clock_of_one_of_three_wrong_in_any_way_moves_nothing(name: str, off: int) -> None:
    world = World()
    world.lead()
    world.off[name] = off
    world.pass_time(30)
    assert abs(world.error()) <= 20
    assert world.clock.stamp().time_unix_ms == world.clock.now_unix_ms()


@pytest.mark.parametrize("off", [9 * DAY, -9 * DAY])
def test_clock_of_one_of_two_that_are_left_of_three_moves_nothing_forward(off: int) -> None:
    world = World()
    world.lead()
    world.away.add("n3")
    world.off["n2"] = off
    world.pass_time(30)
    assert abs(world.error()) <= 30_000 * 0.1 + 20  # at most a tenth slower


def test_two_voters_that_disagree_nothing_expires_early_and_time_goes_on() -> None:
    world = World(("n1", "n2"))
    world.lead()
    for off in (9 * DAY, -9 * DAY):
        world.off["n2"] = off
        before = world.clock.now_unix_ms()
        world.pass_time(10)
        assert 9_000 <= world.clock.now_unix_ms() - before <= 10_050


def test_one_voter_has_its_own_clock() -> None:
    world = World(("n1",))
    world.lead()
    world.off["n1"] = 3600_000
    world.pass_time(SURE_S + 1)
    assert abs(world.error() - 3600_000) <= 20


def test_first_leader_of_a_new_cluster_takes_the_majority_at_once() -> None:
    world = World()
    world.clock.lead(Stamp(0, 0, 0))
    assert world.clock.now_unix_ms() == 0
    world.pass_time(1.2)
    assert abs(world.error()) <= 20


def test_time_behind_the_majority_steps_once_they_have_said_so_for_a_while() -> None:
    world = World()
    world.lead(Stamp(0, world.true() - 8 * 3600_000, 0))  # measured for 3 s by now
    assert world.error() < -3600_000
    world.pass_time(SURE_S + 1.5)
    assert abs(world.error()) <= 20


def test_time_that_is_about_to_step_is_behind_until_it_has() -> None:
    world = World()
    assert world.clock.is_behind(THREE) is None  # nobody was asked yet
    world.lead(Stamp(0, world.true() - 8 * 3600_000, 0))
    assert world.clock.is_behind(THREE) is True
    world.pass_time(SURE_S + 1.5)
    assert world.clock.is_behind(THREE) is False
    world.off["n3"] = 9 * DAY  # one wrong clock says nothing
    world.pass_time(2)
    assert world.clock.is_behind(THREE) is False


def test_time_a_little_behind_is_mended_by_running_faster() -> None:
    world = World()
    world.lead(Stamp(0, world.true() - int(STEP_S * 1000) + 500, 0))
    before = world.clock.now_unix_ms()
    world.pass_time(2)
    assert 2_000 < world.clock.now_unix_ms() - before <= 2_250
    world.pass_time(90)
    assert abs(world.error()) <= 50


def test_a_majority_that_changes_its_members_steps_nothing() -> None:
    world = World()
    world.lead()
    for round_ in range(20):  # in every second two clocks say that it is tomorrow, each time others
        world.off = dict.fromkeys([("n2", "n3"), ("n1", "n3"), ("n1", "n2")][round_ % 3], DAY)
        world.pass_time(1)
    assert abs(world.error()) < 20_000 * 0.1


def test_time_ahead_of_the_majority_goes_on_slower_and_never_back() -> None:
    world = World()
    world.lead()
    world.off = dict.fromkeys(THREE, -300_000.0)
    before = world.clock.now_unix_ms()
    world.pass_time(10)
    assert 8_990 <= world.clock.now_unix_ms() - before <= 9_250
    world.off = dict.fromkeys(THREE, float(-30 * DAY))
    before = world.clock.now_unix_ms()
    world.pass_time(10)
    assert 9_850 <= world.clock.now_unix_ms() - before <= 10_050


def test_measurements_that_are_old_or_from_before_the_leader_count_no_more() -> None:
    world = World()
    world.lead()
    world.away = {"n2", "n3"}
    world.pass_time(MEASURED_S + 0.5)
    assert world.clock.majority_unix_ms(THREE) is None
    world.away = set()
    world.pass_time(1.1)
    assert world.clock.majority_unix_ms(THREE) is not None
    since = world.seconds
    assert world.clock.majority_unix_ms(THREE, since=since) is None


def test_a_session_that_ended_takes_its_measurement_with_it() -> None:
    world = World()
    world.lead()
    world.clock.forget("n2")
    assert set(world.clock.walls()) == {"n1", "n3"}


def test_leader_that_takes_over_goes_on_from_the_log_and_from_what_it_showed() -> None:
    world = World()
    world.clock.observe(0, world.true())
    world.pass_time(2)
    shown = world.clock.now_unix_ms()
    world.clock.lead(Stamp(0, shown - 5_000, 77))
    assert world.clock.now_unix_ms() >= shown
    assert world.clock.stamp().steady_ms >= 77
    world.clock.lead(Stamp(0, shown + 9_000, 80))
    assert world.clock.stamp() >= Stamp(0, shown + 9_000, 80)


def test_follower_follows_its_leader_and_does_not_go_back() -> None:
    world = World()
    world.clock.observe(0, world.true())
    world.seconds += 1
    now = world.clock.now_unix_ms()
    world.clock.observe(0, now - 400)
    assert world.clock.now_unix_ms() >= now
    world.seconds += 10
    assert world.clock.now_unix_ms() - now == pytest.approx(9_000, abs=5)
    world.clock.observe(0, world.true() + DAY)
    assert world.clock.now_unix_ms() == world.true() + DAY


def test_cut_off_node_goes_on_by_its_monotonic_clock_whatever_its_wall_clock_says() -> None:
    world = World()
    world.clock.observe(0, world.true())
    world.off["n1"] = 400 * DAY
    world.seconds += 3600
    assert world.error() == 0


def test_new_epoch_sets_time_back_and_an_older_one_is_ignored() -> None:
    world = World()
    world.lead(Stamp(0, world.true() + 400 * DAY, 0))
    world.clock.applied(Stamp(1, world.true(), 5))
    assert world.error() == 0
    world.clock.applied(Stamp(0, world.true() + 400 * DAY, 6))
    world.clock.follow()
    world.clock.observe(0, world.true() + 400 * DAY)
    assert world.error() == 0
    assert world.clock.stamp().epoch == 1


def test_stamps_never_go_back_and_steady_time_knows_no_step() -> None:
    world = World()
    world.lead(Stamp(0, world.true() - 30 * DAY, 1_000))
    before, stamps = world.clock.stamp(), []
    for _ in range(100):
        world.pass_time(0.1)
        stamps.append(world.clock.stamp())
    assert stamps == sorted(stamps)
    assert stamps[-1].time_unix_ms - before.time_unix_ms > 29 * DAY
    assert stamps[-1].steady_ms - before.steady_ms == pytest.approx(10_000, abs=200)


def test_step_waits_until_it_is_ready_and_not_for_long() -> None:
    asked: list[int] = []

    def ready(unix_ms: int) -> bool:
        asked.append(unix_ms)
        return False

    world = World(ready=ready)
    world.lead(Stamp(0, world.true() - 3 * 365 * DAY, 0))
    world.pass_time(10)
    assert world.error() < -1000 * DAY
    pending = world.clock.pending_unix_ms()
    assert pending is not None
    assert abs(pending - world.true()) < 500
    assert asked
    world.pass_time(HOLD_S)
    assert abs(world.error()) <= 20
    assert world.clock.pending_unix_ms() is None


def test_skews_are_against_cluster_time() -> None:
    world = World()
    world.lead()
    world.off = {"n2": 9_000.0}
    world.pass_time(1.1)
    skews = world.clock.skews_ms()
    assert skews["n2"] == pytest.approx(9_000, abs=50)
    assert skews["n1"] == pytest.approx(0, abs=30)


def test_a_step_is_shown_by_nobody_before_its_entry_is_applied() -> None:
    world = World()
    eight_hours_ago = Stamp(0, world.true() - 8 * 3600_000, 0)
    world.clock.applied(eight_hours_ago)
    world.clock.lead(eight_hours_ago)
    for _ in range(80):
        world.tick()
        if world.clock.step_is_due():
            break
    stamp = world.clock.stamp()
    assert abs(stamp.time_unix_ms - world.true()) <= 20
    assert not world.clock.step_is_due()  # one entry is enough
    for _ in range(20):
        world.tick()
    assert world.error() < -7 * 3600_000
    assert world.clock.told() == (0, world.clock.now_unix_ms())
    assert world.clock.stamp().time_unix_ms - stamp.time_unix_ms == pytest.approx(2_000, abs=5)
    world.clock.applied(stamp)
    world.pass_time(30)
    assert abs(world.error()) <= 60


def test_a_step_that_a_leader_did_not_get_through_ends_with_its_leadership() -> None:
    world = World()
    world.clock.lead(Stamp(0, 0, 0))
    for _ in range(13):
        world.tick()
    assert world.clock.step_is_due()
    assert world.clock.now_unix_ms() == 0
    world.clock.stamp()
    world.clock.follow()
    assert world.clock.told() == (0, 0)
    world.clock.observe(0, START)
    assert world.clock.now_unix_ms() == START


def test_new_leader_says_nothing_about_time_until_it_has_applied_the_time_in_its_log() -> None:
    world = World()
    shown = world.true()
    world.clock.applied(Stamp(0, shown, 5))
    world.clock.lead(Stamp(0, shown + 3 * DAY, 7))
    assert world.clock.told() == (0, 0)
    assert world.clock.now_unix_ms() == shown
    assert world.clock.stamp() == Stamp(0, shown + 3 * DAY, 7)
    world.clock.applied(Stamp(0, shown + 3 * DAY, 7))
    assert world.clock.told() == (0, shown + 3 * DAY)


def test_leader_that_does_not_know_the_time_takes_nobody_back() -> None:
    world = World()
    world.clock.observe(0, world.true())
    for _ in range(100):
        world.seconds += 0.1
        world.clock.observe(0, 0)
    assert world.error() == 0


@pytest.mark.parametrize("trip_s", [0.0, 0.5, 3.0, -1.0])
def test_measurement_over_a_slow_network_never_makes_a_clock_seem_later_than_it_is(trip_s: float) -> None:
    world = World()
    shown = world.wall("n2")
    world.seconds += max(0.0, trip_s) / 2  # on its way back
    world.clock.measured("n2", shown, trip_s)
    for _ in range(3):
        world.seconds += 0.3
        assert world.clock.walls().get("n2", 0) <= world.wall("n2")


def test_first_leader_of_a_new_cluster_waits_for_a_clock_that_shows_a_time() -> None:
    world = World()
    world.off = {"n1": -START - DAY, "n2": 2**53}  # one was never set, one is broken
    world.clock.lead(Stamp(0, 0, 0))
    world.pass_time(5)
    assert world.clock.now_unix_ms() == 0
    assert set(world.clock.walls()) == {"n3"}
    world.off.pop("n1")
    world.pass_time(2)
    assert abs(world.error()) <= 20


def test_majority_of_the_voters_is_needed_not_of_those_that_are_heard() -> None:
    world = World(("n1", "n2", "n3", "n4"))
    world.away = {"n3", "n4"}
    world.lead()
    assert world.clock.majority_unix_ms(world.voters) is None
    assert world.clock.majority_unix_ms(()) is None
    world.away = {"n4"}
    world.pass_time(2)
    assert world.clock.majority_unix_ms(world.voters) is not None


def test_clock_of_a_node_that_is_no_voter_does_not_count() -> None:
    world = World()
    world.lead()
    for name in ("learner", "stranger"):
        world.clock.measured(name, world.true() + DAY, 0.01)
    majority = world.clock.majority_unix_ms(THREE)
    assert majority is not None
    assert abs(majority - world.true()) <= 20


def test_leader_takes_no_time_from_anybody() -> None:
    world = World()
    world.lead()
    world.clock.observe(0, world.true() + DAY)
    world.clock.observe(1, world.true() + DAY)
    assert abs(world.error()) <= 20
    assert world.clock.epoch == 0


def test_follower_takes_a_new_epoch_from_its_leader_at_once() -> None:
    world = World()
    world.clock.observe(0, world.true() + DAY)
    world.clock.observe(1, world.true())
    assert world.clock.told() == (1, world.true())


def test_follower_far_ahead_of_its_leader_takes_its_time_after_a_while() -> None:
    world = World()
    world.clock.observe(0, world.true() + DAY)
    for _ in range(int(SURE_S)):
        world.clock.observe(0, world.true())
        assert world.error() > DAY / 2
        world.seconds += 1.0
    world.clock.observe(0, world.true())
    assert world.error() == 0


def test_applied_stamp_is_the_least_that_the_clock_shows() -> None:
    world = World()
    world.clock.applied(Stamp(0, START, 0))
    assert world.clock.now_unix_ms() == START
    world.clock.applied(Stamp(0, START - DAY, 0))
    assert world.clock.now_unix_ms() == START


def test_time_behind_the_majority_steps_only_after_they_have_said_so_for_a_while() -> None:
    world = World()
    world.lead()
    world.pass_time(5)
    world.off = dict.fromkeys(THREE, float(DAY))
    world.pass_time(SURE_S - 0.5)
    world.off = {}
    world.pass_time(10)
    assert abs(world.error()) <= 1000


def test_monotonic_clock_that_goes_back_takes_no_time_back() -> None:
    world = World()
    world.clock.observe(0, START)
    world.seconds -= 100.0
    assert world.clock.now_unix_ms() == START
    world.clock.lead(Stamp(0, START, 0))
    world.seconds += 10.0
    stamp = world.clock.stamp()
    world.seconds -= 5.0
    assert world.clock.stamp() >= stamp


@pytest.mark.parametrize("name", THREE)
def test_clock_of_one_of_three_a_little_ahead_moves_nothing(name: str) -> None:
    world = World()
    world.off[name] = STEP_S * 500
    world.lead()
    world.pass_time(60)
    assert abs(world.error()) <= 50


def test_leader_that_steps_down_before_it_applied_the_time_in_its_log_goes_on_with_its_own() -> None:
    world = World()
    shown = world.true()
    world.clock.applied(Stamp(0, shown, 5))
    world.clock.lead(Stamp(0, shown + 3 * DAY, 7))
    assert world.clock.told() == (0, 0)
    world.clock.follow()
    assert world.clock.told() == (0, shown)


def test_majority_whose_members_change_without_a_gap_has_to_say_so_for_as_long_again() -> None:
    world = World()
    world.lead()
    world.off = {"n2": float(DAY), "n3": float(DAY)}
    world.pass_time(SURE_S - 0.1)
    world.off = {"n2": float(DAY), "n1": float(DAY)}
    world.pass_time(SURE_S - 0.1)
    world.off = {}
    world.pass_time(2)
    assert abs(world.error()) <= 1000


@pytest.mark.parametrize("leads", [False, True])
def test_what_passes_between_two_looks_at_the_monotonic_clock_is_not_lost(leads: bool) -> None:
    passed = 0.0

    def monotonic() -> float:
        nonlocal passed
        passed += 3.0  # the process stalls before every look
        return passed

    began = START
    clock = ClusterClock("a", wall_unix_ms=lambda: began + int(passed * 1000), monotonic=monotonic)
    clock.applied(Stamp(0, began, 0))
    if leads:
        clock.lead(Stamp(0, began, 0))
    before, since = clock.now_unix_ms(), passed
    for _ in range(5):
        if leads:
            clock.judge({"a"})
        else:
            clock.observe(0, clock.now_unix_ms() - 100)
    assert clock.now_unix_ms() - before >= 0.89 * (passed - since) * 1000
