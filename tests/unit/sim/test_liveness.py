"""What the judge of liveness takes for an answer, in a cluster without faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cyoloctl.errors import CyoloctlError, NoRoom, OutcomeUnknown, Overloaded
from cyoloctl.sim import run_seed
from cyoloctl.sim.liveness import Liveness
from cyoloctl.sim.node import Node

Propose = Callable[[Node, bytes, Any], None]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[CyoloctlError], int], None]:
    """Have every node answer a write with an error, so often, before it is proposed."""
    propose: Propose = Liveness._propose

    def patch(error: type[CyoloctlError], times: int) -> None:
        asked: dict[tuple[str, bytes], int] = {}

        def refuse(node: Node, command: bytes, done: Any) -> None:
            asked[node.name, command] = number = asked.get((node.name, command), 0) + 1
            if number <= times:
                done(None, error("planted"))
            else:
                propose(node, command, done)

        monkeypatch.setattr(Liveness, "_propose", staticmethod(refuse))

    return patch


@pytest.mark.parametrize("error", [OutcomeUnknown, NoRoom, Overloaded])
def test_write_that_is_to_be_repeated_is_repeated(
    told: Callable[[type[CyoloctlError], int], None], error: type[CyoloctlError]
) -> None:
    told(error, 2)
    report = run_seed(2000, faults=(), nodes=1)
    assert report.violation is None
    assert report.counts["answered in time"] > 0


def test_write_that_is_to_be_repeated_again_and_again_is_not_answered(
    told: Callable[[type[CyoloctlError], int], None],
) -> None:
    told(OutcomeUnknown, 1000)
    report = run_seed(2000, faults=(), nodes=1)
    assert report.violation is not None
    assert report.violation.kind == "liveness"
