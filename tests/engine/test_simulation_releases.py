"""Two releases in one simulated cluster, and a planted fault of the older one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from cyoloctl.errors import VersionMismatch
from cyoloctl.replicated.command import encode_refusal
from cyoloctl.replicated.requests import LIMITS
from cyoloctl.sim import FAULTS, run_seed
from cyoloctl.sim.releases import Newer, Older

pytestmark = [pytest.mark.fault, pytest.mark.slow]

MIXED = (*FAULTS, "releases")


def test_simulation_older_release_stops_refuses_and_catches_up_once_upgraded() -> None:
    counts: Counter[str] = Counter()
    for seed in range(12):
        report = run_seed(seed, faults=MIXED)
        assert report.violation is None, report.violation
        counts.update(report.counts)
    assert counts["converged"] == 12
    for outcome in (
        "older release stopped",
        "unknown to an older leader",
        "upgraded",
    ):
        assert counts[outcome] > 0, outcome


def test_simulation_finds_an_older_release_that_answers_what_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answers(self: Older, index: int, *given: Any) -> bytes:
        try:
            return super(Older, self).apply(index, *given)
        except VersionMismatch as error:
            return encode_refusal(index, error.code, error.message)

    monkeypatch.setattr(Older, "apply", answers, raising=False)
    found = (run_seed(seed, faults=MIXED).violation for seed in range(12))
    assert "state machine safety" in {each.kind for each in found if each is not None}


def test_simulation_older_release_refuses_a_newer_snapshot_which_the_newer_one_takes() -> None:
    data = Newer(limits=LIMITS).begin_snapshot()()
    older, newer = Older(limits=LIMITS), Newer(limits=LIMITS)
    before = older.digest()
    with pytest.raises(VersionMismatch):
        older.restore(data)
    assert older.digest() == before
    newer.restore(data)
    assert newer.begin_snapshot()() == data
