"""Periods and bounds by the kind of machine."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from typing import get_args

import pytest

from cyoloctl.node.config import Profile
from cyoloctl.node.profiles import PROFILES, engine_settings
from cyoloctl.raft import Limits, Timing

PAIRS = list(itertools.product(PROFILES, repeat=2))
SPOKEN = ("entry_bytes", "batch_bytes", "result_bytes", "term_step", "chunk_bytes", "uncommitted_entries")
"""Bounds on what travels: a member takes what another one sends."""


def test_every_profile_of_the_file_has_settings() -> None:
    assert set(PROFILES) == set(get_args(Profile))


def test_standard_is_what_the_engine_takes_by_itself() -> None:
    assert engine_settings("standard") == {}
    assert (PROFILES["standard"].timing, PROFILES["standard"].limits) == (Timing(), Limits())


def test_small_engine_is_given_the_periods_and_bounds_of_its_profile() -> None:
    small = PROFILES["small"]
    assert engine_settings("small") == {"timing": small.timing, "limits": small.limits}


@pytest.mark.parametrize(("leader", "follower"), PAIRS)
def test_a_follower_of_any_profile_waits_for_two_heartbeats_of_a_leader_of_any(
    leader: Profile, follower: Profile
) -> None:
    assert 2 * PROFILES[leader].timing.heartbeat_s <= PROFILES[follower].timing.election_min_s


@pytest.mark.parametrize("profile", PROFILES)
def test_a_leader_gives_up_no_earlier_than_its_followers_elect_another(profile: Profile) -> None:
    timing = PROFILES[profile].timing
    assert timing.election_min_s < timing.election_max_s <= timing.leader_fallback_s
    assert timing.heartbeat_s < timing.transfer_silence_s


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_members_of_any_two_profiles_agree_on_what_travels(one: Profile, other: Profile) -> None:
    ours, theirs = asdict(PROFILES[one].limits), asdict(PROFILES[other].limits)
    assert {key: ours[key] for key in SPOKEN} == {key: theirs[key] for key in SPOKEN}


def test_small_wakes_the_processor_and_fills_the_memory_less() -> None:
    small, standard = PROFILES["small"], PROFILES["standard"]
    assert small.timing.heartbeat_s > standard.timing.heartbeat_s
    assert all(ours <= asdict(standard.limits)[key] for key, ours in asdict(small.limits).items())
    assert small.limits.window_bytes >= small.limits.batch_bytes + small.limits.entry_bytes
    assert small.limits.pending_bytes >= small.limits.entry_bytes
