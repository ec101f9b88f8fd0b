"""Nodes that enter simulated clusters by file, and a planted fault of that."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from cyoloctl.members.duties import has_place
from cyoloctl.members.machine import MemberMachine
from cyoloctl.sim import run_seed, upkeep
from cyoloctl.sim.run import Report

pytestmark = [pytest.mark.fault, pytest.mark.slow]

SEEDS = range(160026, 160038)

run = partial(run_seed, faults=("membership", "crash"), nodes=3)


def test_simulation_nodes_that_were_granted_a_place_become_members() -> None:
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        report: Report = run(seed)
        assert report.violation is None, report.violation
        counts.update(report.counts)
    assert counts["join by file"] > 0
    assert counts["join"] > counts["join by file"]


def test_simulation_finds_granted_nodes_that_do_not_announce_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def blind(members: MemberMachine, name: str, now_unix_ms: int, *, leads: bool) -> bool:
        return has_place(members, name, 2**62, leads=leads)  # every grant is over

    monkeypatch.setattr(upkeep, "has_place", blind)
    found = [run(seed).violation for seed in SEEDS]
    assert {each.kind for each in found if each is not None} == {"convergence"}
