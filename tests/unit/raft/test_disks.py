"""When leadership is worth moving to a better disk, as a pure function of what the voters tell."""

from __future__ import annotations

import pytest

from cyoloctl.raft.disks import LASTING_S, PAUSE_S, SLOW_MS, DiskChoice, DiskState, SyncTimes, disk_told

FAST, SLOW = DiskState(1.0), DiskState(100.0)


def moves(
    own: DiskState,
    others: dict[str, DiskState],
    *,
    for_s: float = LASTING_S,
    waited_s: float = 1e9,
    able: str = "n2 n3",
    choice: DiskChoice | None = None,
) -> str | None:
    """Where leadership goes when this has lasted."""
    choice = choice or DiskChoice()
    for step in range(int(for_s * 10) + 1):
        found = choice.better_disk(
            100.0 + step / 10, own, others, able.split().__contains__, waited_s=waited_s
        )
        if found is not None:
            return found
    return None


def test_leader_with_a_slow_disk_gives_way_to_the_fastest() -> None:
    assert moves(SLOW, {"n2": DiskState(9.0), "n3": FAST}) == "n3"


def test_slow_disk_of_a_follower_moves_nothing() -> None:
    assert moves(FAST, {"n2": SLOW, "n3": FAST}, for_s=60.0) is None


def test_disks_that_are_all_slow_move_nothing() -> None:
    assert moves(SLOW, {"n2": DiskState(60.0), "n3": DiskState(26.0)}, for_s=60.0) is None
    assert moves(SLOW, {"n2": DiskState(60.0), "n3": DiskState(25.0)}) == "n3"


def test_syncs_of_a_few_milliseconds_are_no_reason_to_move() -> None:
    assert moves(DiskState(SLOW_MS - 0.1), {"n2": DiskState(0.1)}, for_s=60.0) is None
    assert moves(DiskState(SLOW_MS), {"n2": DiskState(0.1)}) == "n2"


def test_disk_that_is_slow_for_a_moment_moves_nothing() -> None:
    choice = DiskChoice()
    for _ in range(5):
        assert moves(SLOW, {"n2": FAST}, for_s=LASTING_S - 0.2, choice=choice) is None
        assert moves(FAST, {"n2": FAST}, for_s=0.0, choice=choice) is None


def test_leadership_that_was_moved_lately_stays() -> None:
    assert moves(SLOW, {"n2": FAST}, waited_s=PAUSE_S - 0.1, for_s=9.0) is None
    assert moves(SLOW, {"n2": FAST}, waited_s=PAUSE_S) == "n2"


def test_leadership_goes_to_nobody_who_may_not_have_it() -> None:
    assert moves(SLOW, {"n2": FAST, "n3": DiskState(5.0)}, able="n3") == "n3"
    assert moves(SLOW, {"n2": FAST}, able="") is None


def test_disk_of_which_nothing_is_known_is_neither_slow_nor_fast() -> None:
    assert moves(DiskState(), {"n2": FAST}) is None
    assert moves(SLOW, {"n2": DiskState()}) is None


def test_what_a_new_leader_saw_when_it_led_before_does_not_count() -> None:
    choice = DiskChoice()
    assert moves(SLOW, {"n2": FAST}, for_s=LASTING_S - 0.2, choice=choice) is None
    choice.leads()
    assert choice.better_disk(200.0, SLOW, {"n2": FAST}, lambda name: True, waited_s=1e9) is None


@pytest.mark.parametrize("told", [None, True, "1", -1, float("nan"), 1e300])
def test_what_a_peer_cannot_mean_is_not_known(told: object) -> None:
    assert disk_told({"sync_ms": told}) == DiskState()


def test_peer_of_an_earlier_release_tells_nothing_of_its_disk() -> None:
    assert disk_told({"role": "follower"}) == DiskState()


def test_what_a_peer_tells_of_its_disk_is_taken() -> None:
    assert disk_told({"sync_ms": 3, "role": "follower"}) == DiskState(3.0)


def test_time_of_a_sync_is_that_of_the_last_ones() -> None:
    times = SyncTimes()
    assert times.typical_ms(0.0) is None
    for number in range(4):
        times.observe(float(number), 0.1)
    assert times.typical_ms(4.0) is None
    times.observe(4.0, 3.0)  # one that hung tells nothing of the others
    assert times.typical_ms(4.0) == pytest.approx(100.0)
    for number in range(32):
        times.observe(5.0 + number / 10, 0.002)
    assert times.typical_ms(9.0) == pytest.approx(2.0)
    assert times.typical_ms(60.0) is None


def test_leadership_goes_to_no_fast_disk_without_room() -> None:
    assert moves(SLOW, {"n2": DiskState(1.0, True), "n3": DiskState(9.0)}) == "n3"
    assert moves(SLOW, {"n2": DiskState(1.0, True)}, for_s=60.0) is None


def test_attempts_to_leave_a_disk_without_room_have_pauses() -> None:
    choice, own = DiskChoice(), DiskState(1.0, True)
    found = [
        choice.better_disk(100.0 + step / 10, own, {"n2": FAST}, lambda name: True, waited_s=0.0)
        for step in range(50)
    ]
    assert found.count("n2") == 3
    assert found[0] == "n2"


def test_attempt_to_leave_a_disk_without_room_that_failed_holds_up_no_other_voter() -> None:
    choice, own = DiskChoice(), DiskState(1.0, True)
    found = [
        choice.better_disk(
            100.0 + step / 4, own, {"n2": FAST, "n3": DiskState(9.0)}, {"n2", "n3"}.__contains__, waited_s=0.0
        )
        for step in range(10)
    ]
    assert [name for name in found if name is not None] == ["n2", "n3", "n2", "n3"]
    assert found[:2] == ["n2", "n3"]


def test_peer_tells_that_its_disk_has_no_room() -> None:
    assert disk_told({"disk_short": True, "disk_free_bytes": 5}) == DiskState(None, True, 5)
    assert disk_told({"disk_short": 1, "disk_free_bytes": -5}) == DiskState()
