"""The random simulation over our adapter: a fixed set of seeds, and planted faults that it must find.

More seeds: ``run_seed`` in tests/support/simulation.py; the same seed is the same run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from cyoloctl.raft._journal import Journal
from cyoloctl.raft._replica import Replica
from tests.support.simulation import Violation, run_seed

pytestmark = [pytest.mark.fault, pytest.mark.slow]


@pytest.mark.parametrize("first", range(0, 32, 8))
def test_simulation_every_fault_breaks_no_invariant(first: int) -> None:
    totals: Counter[str] = Counter()
    for seed in range(first, first + 8):
        totals.update(run_seed(seed).counts)
    # the faults happened, and work was done in spite of them
    for what in ("down", "partition", "drop", "stall", "pause", "save", "chunk", "join"):
        assert totals[what] > 0, what
    assert totals["acknowledged"] > 300
    assert totals["read"] > 150


def test_simulation_same_seed_is_the_same_run() -> None:
    assert run_seed(5) == run_seed(5)


def find(seeds: range, **options: Any) -> str:
    """The first violation among these seeds."""
    for seed in seeds:
        try:
            run_seed(seed, **options)
        except Violation as violation:
            return str(violation).splitlines()[0]
    return "nothing"


def no_confirmation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader serves reads without asking whether it still leads."""
    monkeypatch.setattr(Replica, "_send_round", lambda self, reading, now: self._complete_round())


def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages leave before the journal is on disk."""
    monkeypatch.setattr(Journal, "sync", lambda self: None)


def commits_what_it_did_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower believes the leader's commit index about its own unverified tail."""
    handle = Replica._on_append_entries

    def wrong(self: Replica, node: Any, message: Any) -> None:
        handle(self, node, message)
        commit = min(message["commit_index"], self._journal.last_index)
        if message["term"] == self._engine.term() and not self._engine.is_leader():
            self._advance_commit(node, message["term"], commit)

    monkeypatch.setitem(Replica.__init__.__globals__["_HANDLERS"], "append_entries", wrong)


@pytest.mark.parametrize(
    ("plant", "claim"),
    [
        (no_confirmation, "stale read"),
        (no_sync, "and stored"),
        (commits_what_it_did_not_see, "another committed entry|two acknowledged commands"),
    ],
)
def test_simulation_finds_a_planted_fault(
    plant: Callable[[pytest.MonkeyPatch], None], claim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert re.search(claim, find(range(100, 130)))
