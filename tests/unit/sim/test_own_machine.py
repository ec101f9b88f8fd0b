"""A machine of a user's in simulated clusters: carried out, judged, and no part of any other run."""

from __future__ import annotations

from typing import Any, ClassVar

from cyoloctl import StateMachine, Table, operation
from cyoloctl.machines.code import Code, code_of
from cyoloctl.replicated.command import decode_command, encode_command
from cyoloctl.sim import run_seed
from cyoloctl.sim.own_machine import OwnDraws, OwnJudge


class Tally(StateMachine):
    NAME = "tally"

    @operation
    def add(self, table: Table, key: str, by: int = 1) -> int:
        table.set(f"k{key}", (table.get(f"k{key}", 0) + by) % 1000)
        return int(table.get(f"k{key}"))


class Leaking(Tally):
    """It counts its calls outside the table."""

    calls: ClassVar[list[str]] = []

    @operation
    def add(self, table: Table, key: str, by: int = 1) -> int:
        self.calls.append(key)
        return super().add(table, key, len(self.calls))


def code(cls: Any) -> Code:
    return code_of(cls, "a" * 64)


def test_machine_lives_through_faults_and_the_same_seed_gives_the_same_run() -> None:
    reports = [run_seed(seed, code=code(Tally)) for seed in (3, 4, 5, 3)]
    assert [report.violation for report in reports] == [None] * 4
    assert reports[0] == reports[3]
    assert all(report.applied["machines.apply"] > 10 for report in reports)
    assert sum(sum(report.faults.values()) for report in reports) > 20


def test_machine_that_differs_from_node_to_node_is_found() -> None:
    found = run_seed(3, code=code(Leaking)).violation
    assert found is not None
    assert "answered" in found.claim
    assert "not {'value'" in found.claim


def test_run_that_is_asked_for_no_machine_has_none() -> None:
    assert "machines.apply" not in run_seed(3).applied


def test_judge_notices_an_answer_that_comes_from_twice_the_operation() -> None:
    judge = OwnJudge(code(Tally))
    given = {"machine": "tally", "operation": "add", "arguments": {"key": "a", "by": 2}}
    command = decode_command(encode_command("machines", "apply", given, request_id="r"))
    assert judge.applied(command, {"index": 5, "value": {"answer": 2, "version": 1}}, 5, 0) is None
    assert judge.applied(command, {"index": 6, "value": {"answer": 4, "version": 1}}, 6, 0) is None
    assert "not" in str(judge.applied(command, {"index": 7, "value": {"answer": 8, "version": 1}}, 7, 0))
    unknown = decode_command(encode_command("machines", "apply", {**given, "operation": "x"}, request_id="r"))
    assert judge.applied(unknown, {"index": 8, "value": {"answer": 0, "version": 1}}, 8, 0) is not None


def test_draws_of_a_seed_are_the_same_again_and_not_all_of_a_run() -> None:
    one, other = OwnDraws(code(Tally), 7), OwnDraws(code(Tally), 7)
    steps = [one.step() for _ in range(100)]
    assert steps == [other.step() for _ in range(100)]
    assert 20 < steps.count(None) < 45
