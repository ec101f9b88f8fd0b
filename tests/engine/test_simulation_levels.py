"""Nodes of two levels in one simulated cluster, an upgrade of it, and planted faults of the level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from cyoloctl.members.levels import LevelMachine
from cyoloctl.sim import FAULTS, rolling, run_seed

pytestmark = [pytest.mark.fault, pytest.mark.slow]

LEVELED = (*FAULTS, "levels")


def test_simulation_level_is_raised_once_all_announced_it_and_refuses_what_is_above_until_then() -> None:
    counts: Counter[str] = Counter()
    for seed in range(8):
        report = run_seed(seed, faults=LEVELED)
        assert report.violation is None, report.violation
        counts.update(report.counts)
    assert counts["converged"] == 8
    for what in (
        *("upgraded", "went back to the older release", "unknown to its own release"),
        *("above the level", "not raised: some members lack the level", "level raised"),
    ):
        assert counts[what] > 0, what


def nobody_is_asked(patch: pytest.MonkeyPatch) -> None:
    """The level is raised whatever the members have announced."""
    patch.setattr(LevelMachine, "lacking", lambda self, level: [])
    patch.setattr(rolling, "target", lambda level, members: (2, []))


def nothing_is_above_the_level(patch: pytest.MonkeyPatch) -> None:
    """Proposers and leaders log what needs a level that the cluster is not at."""
    patch.setattr(LevelMachine, "why_refused", lambda self, machine, operation: None)


@pytest.mark.parametrize("plant", [nobody_is_asked, nothing_is_above_the_level])
def test_simulation_finds_a_planted_fault_of_levels(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = [run_seed(seed, faults=LEVELED).violation for seed in range(4)]
    assert "level" in {each.kind for each in found if each is not None}
