"""Voters that are removed by force in simulated clusters while too few of those that stay are up."""

from __future__ import annotations

from collections import Counter

import pytest

from cyoloctl.model import RaftId
from cyoloctl.raft.membership import Membership
from cyoloctl.raft.proposals import Done
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


def test_simulation_finds_a_forced_removal_that_is_told_before_it_is_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append = Membership._append

    def told_at_once(self: Membership, operation: str, raft_id: RaftId, callback: Done) -> None:
        append(self, operation, raft_id, lambda index, error: None)
        callback(self._core.journal.last_index, None)

    monkeypatch.setattr(Membership, "_append", told_at_once)
    found = (run_seed(seed, faults=("force",), nodes=5).violation for seed in range(3))
    assert {None if each is None else each.kind for each in found} == {"acknowledgement"}
