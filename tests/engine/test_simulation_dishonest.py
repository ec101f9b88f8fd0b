"""Disks that do not keep what they synced: what is promised then holds, and the defences are needed."""

from __future__ import annotations

from collections import Counter

import pytest

from cyoloctl.raft import sqlite_store
from cyoloctl.raft.verdicts import Verdicts
from cyoloctl.sim import FAULTS, OPT_IN, run_seed
from cyoloctl.sim.run import Report

pytestmark = [pytest.mark.fault, pytest.mark.slow]

SEEDS = range(14)


def run(seed: int) -> Report:
    """One run of three voters."""
    return run_seed(seed, faults=("compaction", "dishonest"), nodes=3)


def first_kind(seeds: range) -> str | None:
    """The kind of the first violation in these seeds."""
    return next((found.kind for seed in seeds if (found := run(seed).violation) is not None), None)


def test_simulation_dishonest_disks_are_kept_out_refused_or_lost_nothing() -> None:
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        report = run(seed)
        assert report.violation is None, report.violation
        counts.update(report.counts)
    outcomes = ("by the leader", "by a majority", "by all, too few to end it", "after the leader was lost")
    kept_out = sum(counts[f"kept out as older disk: {how}"] for how in outcomes)
    caught_up = counts["caught up after the leader was lost"]
    rotten = counts["disk lied: journal"] + counts["disk lied: snapshot"]
    lied = rotten + counts["disk lied: tail"] + counts["disk lied: older"]
    assert counts["disk lied: journal"] > 0
    assert counts["disk lied: snapshot"] > 0
    assert counts["refused to start: bit rot"] == rotten
    assert counts["kept out as older disk: by a majority"] > 0
    assert counts["leader lost after a disk forgot"] > 0
    assert counts["came back unnoticed"] > 0
    assert lied == rotten + kept_out + caught_up + counts["came back unnoticed"]
    assert 0 < counts["removed for its disk"] <= rotten + kept_out  # a run may end before the last is counted
    assert counts["converged"] == len(SEEDS)


def test_simulation_dishonest_disks_come_only_where_they_are_named() -> None:
    assert "dishonest" in OPT_IN
    assert not set(OPT_IN) & set(FAULTS)
    assert not any(name.startswith("disk lied") for name in run_seed(0).counts)


def test_simulation_finds_an_older_disk_that_nobody_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Verdicts, "refusal", lambda self, hello: None)
    assert first_kind(SEEDS) == "copy"


def test_simulation_finds_a_link_with_an_older_disk_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Verdicts, "doubtful", lambda self: ())
    assert first_kind(SEEDS) == "copy"


def test_simulation_finds_a_journal_whose_checksums_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "_entry_is_whole", lambda *row: True)
    assert first_kind(SEEDS) == "bit rot"
