"""Why peers are away: once in the log for each reason, and all of it for `status`."""

from __future__ import annotations

import logging

import pytest

from cyoloctl.raft.absences import Absences


def _warned(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [record for record in caplog.records if record.levelno == logging.WARNING]
    return [(record.__dict__["address"], record.__dict__["reason"]) for record in found]


def test_attempts_at_two_addresses_in_turn_are_one_line_each(caplog: pytest.LogCaptureFixture) -> None:
    absences = Absences()
    for now in range(20):
        absences.failed("b", "b:1", "connection refused", now)
        absences.failed("b", "b:2", "no answer within 3 s", now)
    assert _warned(caplog) == [("b:1", "connection refused"), ("b:2", "no answer within 3 s")]
    assert absences.reasons() == {"b": "b:1: connection refused; b:2: no answer within 3 s"}


def test_reasons_that_take_turns_at_one_address_are_a_line_each_per_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    absences = Absences()
    for now in range(62):
        absences.failed("b", "b:1", ("refused", "reset")[now % 2], now)
    assert [reason for _, reason in _warned(caplog)] == ["refused", "reset", "refused", "reset"]


def test_peer_that_was_there_meanwhile_is_told_of_again(caplog: pytest.LogCaptureFixture) -> None:
    absences = Absences()
    absences.failed("b", "b:1", "refused", 1.0)
    absences.forget("b")
    assert absences.reasons() == {}
    absences.failed("b", "b:1", "refused", 2.0)
    assert len(_warned(caplog)) == 2
