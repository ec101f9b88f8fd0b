"""Voters that are removed by force in simulated clusters while too few of those that stay are up."""

from __future__ import annotations

from collections import Counter

import pytest

from cyoloctl.sim import run_seed

pytestmark = [pytest.mark.fault, pytest.mark.slow]


def test_simulation_forced_removal_waits_for_those_that_stay_and_breaks_no_invariant() -> None:
    counts: Counter[str] = Counter()
    for seed in range(10):
        report = run_seed(seed, faults=("force",), nodes=5)
        assert report.violation is None, report.violation
        counts.update(report.counts)
    assert counts["converged"] == 10
    for outcome in ("removal refused without force", "forced removal", "ended: removed"):
        assert counts[outcome] > 0, outcome
