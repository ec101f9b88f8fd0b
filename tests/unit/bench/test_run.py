"""Table of the operations, which the command names without importing the run."""

from __future__ import annotations

from cyoloctl.bench.run import OPERATIONS
from tools.generate import commands


def test_command_offers_the_operations_that_there_are() -> None:
    [bench] = [each for each in commands() if each.path[1:] == ("bench",)]
    [option] = [each for each in bench.options if "--op" in each.names]
    assert option.metavar == "|".join(OPERATIONS)
