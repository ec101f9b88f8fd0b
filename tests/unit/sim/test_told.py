"""What clients were told, held against what was applied."""

from __future__ import annotations

import pytest

from cyoloctl.errors import NoLeader, OutcomeUnknown, Overloaded, StorageError
from cyoloctl.sim.timeline import Timeline
from cyoloctl.sim.told import Told


@pytest.mark.parametrize("error", [NoLeader("no"), Overloaded("no")])
@pytest.mark.parametrize("applied_first", [True, False])
def test_told_finds_what_was_applied_though_it_was_said_never_to_be(
    error: Overloaded | NoLeader, *, applied_first: bool
) -> None:
    told = Told(Timeline())
    attempt = told.asked("r1")
    if applied_first:
        told.applied("r1", 5)
        assert attempt.failed(error)
    else:
        assert attempt.failed(error)
        assert told.time.broken is None
        told.applied("r1", 5)
    assert told.time.broken == ("told", f"r1 was told {error.code}, which means never, and was applied at 5")


@pytest.mark.parametrize("error", [OutcomeUnknown("either"), StorageError("full")])
def test_told_lets_an_open_outcome_be_either(error: OutcomeUnknown | StorageError) -> None:
    told = Told(Timeline())
    assert not told.asked("r1").failed(error)
    told.applied("r1", 5)
    assert told.time.broken is None


def test_told_lets_another_attempt_be_what_was_applied() -> None:
    told = Told(Timeline())
    first, second = told.asked("r1"), told.asked("r1")
    first.failed(NoLeader("no"))
    told.applied("r1", 5)
    assert told.time.broken is None
    second.failed(NoLeader("no"))
    assert told.time.broken is not None
