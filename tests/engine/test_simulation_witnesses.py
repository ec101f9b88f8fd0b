"""Witnesses in simulated clusters: they hold no key, give way, and keep two others in service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from cyoloctl.authorities.machine import AuthorityMachine
from cyoloctl.keys.machine import KeyMachine
from cyoloctl.raft.elections import Elections
from cyoloctl.raft.handover import Handover
from cyoloctl.sim import run_seed
from cyoloctl.sim.standing_back import Witness

pytestmark = [pytest.mark.fault, pytest.mark.slow]

Plant = Callable[[pytest.MonkeyPatch], None]


def with_witness(seeds: range) -> list[int]:
    """The seeds of these in which one of three voters is a witness."""
    return [seed for seed in seeds if Witness.draw(seed, ["n1", "n2", "n3"]) is not None]


def test_simulation_witnesses_lead_only_in_need_and_writes_go_on_without_either_of_the_others() -> None:
    counts: Counter[str] = Counter()
    for seed in with_witness(range(2000, 2040)):
        report = run_seed(seed, nodes=3)
        assert report.violation is None, report.violation
        counts.update(report.counts)
        counts.update(report.applied)
    for what in (
        *("dead beside a witness", "witness leads", "answered in time"),
        *("members.invite_witness", "members.invite_witness refused"),
        *("members.grant_witness", "members.grant_witness refused"),
    ):
        assert counts[what] > 0, what


def never_gives_way(patch: pytest.MonkeyPatch) -> None:
    """A witness that was elected goes on leading."""
    patch.setattr(Handover, "_give_way", lambda self, now: None)


def does_not_vote(patch: pytest.MonkeyPatch) -> None:
    """A witness answers nobody who asks whether an election would be won."""
    on_pre_vote = Elections.on_pre_vote

    def wrong(self: Elections, node: Any, message: Any) -> None:
        if not self._core.stands_back(self._core.raft_id):
            on_pre_vote(self, node, message)

    patch.setattr(Elections, "on_pre_vote", wrong)


def keys_are_sealed_to_it(patch: pytest.MonkeyPatch) -> None:
    """A witness announces where keys may be sealed to."""
    patch.setattr(KeyMachine, "_refuse_witness", lambda self, name: None)


def ca_key_is_sealed_to_it(patch: pytest.MonkeyPatch) -> None:
    """A rotation may seal the key of the CA to any name."""
    patch.setattr(AuthorityMachine, "_refuse_witnesses", lambda self, keys: None)


PLANTED: list[tuple[Plant, range, str]] = [
    (never_gives_way, range(2010, 2030), "witness"),
    (does_not_vote, range(2008, 2018), "liveness"),
    (keys_are_sealed_to_it, range(2000, 2010), "witness"),
    (ca_key_is_sealed_to_it, range(2104, 2112), "witness"),
]


@pytest.mark.parametrize(("plant", "seeds", "kind"), PLANTED, ids=[plant.__name__ for plant, *_ in PLANTED])
def test_simulation_finds_a_planted_fault_of_witnesses(
    plant: Plant, seeds: range, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = [run_seed(seed, nodes=3).violation for seed in with_witness(seeds)]
    assert {each.kind for each in found if each is not None} == {kind}
