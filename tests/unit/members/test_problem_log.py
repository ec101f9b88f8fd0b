"""A problem is told when it begins and when it is over, and not in between."""

from __future__ import annotations

import pytest

from cyoloctl.members.facts import problem
from cyoloctl.members.problem_log import ProblemLog


def test_each_problem_is_logged_once_with_its_cause_and_once_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    log = ProblemLog()
    clock = problem("clock", "n3", "the clock of n3 is 60 minutes ahead", "date")
    later = problem("clock", "n3", "the clock of n3 is 61 minutes ahead", "date")
    full = problem("disk_full", "n2", "the disk of n2 has 3 MiB left", None)

    for now in ([clock], [later, full], [full], [], []):
        log.tell(now)

    said = [(record.levelname, record.message, vars(record)["code"]) for record in caplog.records]
    assert said == [
        ("WARNING", "a problem needs a hand", "clock"),
        ("WARNING", "a problem needs a hand", "disk_full"),
        ("INFO", "a problem is over", "clock"),
        ("INFO", "a problem is over", "disk_full"),
    ]
    first = vars(caplog.records[0])
    assert (first["member"], first["reason"], first["see"]) == ("n3", clock["message"], "date")
