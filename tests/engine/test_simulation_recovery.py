"""Simulated clusters that lose a majority of their disks and are recovered, and planted faults of that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cyoloctl.node import recover
from cyoloctl.raft.verdicts import Verdicts
from cyoloctl.replicated.history import HistoryMachine
from cyoloctl.sim.causes import listening
from cyoloctl.sim.recovering import run_recovery
from cyoloctl.state import AppliedMembership

pytestmark = [pytest.mark.fault, pytest.mark.slow]


def runs(seeds: range) -> tuple[Counter[str], set[str]]:
    """Counts of these runs, and the kinds of what broke."""
    counts, kinds = Counter[str](), set[str]()
    for seed in seeds:
        with listening():
            time = run_recovery(seed).time
        counts.update(time.counts)
        if time.broken is not None:
            kinds.add(time.broken[0])
    return counts, kinds


def test_simulation_recovered_cluster_keeps_what_was_acknowledged_and_never_mixes_with_the_old_one() -> None:
    counts, kinds = runs(range(10))
    assert kinds == set()
    assert counts["left behind and told"] == 10
    assert 0 < counts["old majority lives on"] < 10
    assert counts["acknowledged and on the disk"] > 100


def nobody_is_kept_out(patch: pytest.MonkeyPatch) -> None:
    """The recovered node takes those in whom it left behind."""
    patch.setattr(Verdicts, "removal", lambda self, raft_id: None)


def the_reason_is_another(patch: pytest.MonkeyPatch) -> None:
    """Those who were left behind are told that they were removed."""
    patch.setattr(AppliedMembership, "is_left_behind", lambda self, name: False)


def epoch_stays(patch: pytest.MonkeyPatch) -> None:
    """The history breaks, and its epoch is the old one."""
    patch.setattr(HistoryMachine, "epoch", property(lambda self: 1))


def uncertain_end_is_cut(patch: pytest.MonkeyPatch) -> None:
    """What the disk does not know to be committed is dropped, though it was acknowledged."""
    become = recover.become_sole_voter

    def wrong(journal: Any, found: Any, *given: Any, **more: Any) -> None:
        journal.truncate_from(found.certain_index + 1)
        become(journal, replace(found, last_index=journal.last_index), *given, **more)

    patch.setattr(recover, "become_sole_voter", wrong)


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (nobody_is_kept_out, "link"),
        (the_reason_is_another, "link"),
        (epoch_stays, "recovery"),
        (uncertain_end_is_cut, "recovery"),
    ],
)
def test_simulation_finds_a_planted_fault_of_recovery(
    plant: Callable[[pytest.MonkeyPatch], None], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert kind in runs(range(9, 11))[1]
