"""Settings of a node by the machine that it runs on: `profile` of node.yaml.

Members of one cluster may have different ones, for a while or for good:
no leader's heartbeat is longer than half of what any member waits for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cyoloctl.node.config import Profile
from cyoloctl.raft import Limits, Timing

__all__ = ["PROFILES", "ProfileSettings", "engine_settings"]


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """What a profile decides."""

    timing: Timing
    limits: Limits


PROFILES: dict[Profile, ProfileSettings] = {
    "standard": ProfileSettings(Timing(), Limits()),
    # A core at a tenth of its time stands still for nine tenths of a second now and then, and no
    # election shall come of it.  Entries since the last snapshot are in memory, and so is what waits.
    "small": ProfileSettings(
        Timing(heartbeat_s=0.25, election_min_s=1.5, election_max_s=3.0, leader_fallback_s=4.0),
        Limits(
            window_bytes=2 * 2**20,
            pending_commands=2_000,
            pending_bytes=8 * 2**20,
            pending_reads=2_000,
            compact_entries=2_000,
            compact_bytes=2 * 2**20,
            compact_growth=1,  # the log is in memory, too
            keep_entries=250,
        ),
    ),
}


def engine_settings(profile: Profile) -> dict[str, Any]:
    """The arguments by which an Engine differs from one with settings of its own."""
    if profile == "standard":
        return {}
    found = PROFILES[profile]
    return {"timing": found.timing, "limits": found.limits}
