"""Batches as both sides see them: lines, ids, what one request takes, and what is sent again."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cyoloctl.control import batch
from cyoloctl.control.blocking import BlockingRunner
from cyoloctl.errors import (
    AccessDenied,
    AuthorizationPending,
    Conflict,
    CyoloctlError,
    InvalidInput,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    QueryTimeout,
    Unreachable,
)

Result = dict[str, Any]


def operations(*identifiers: str | int) -> list[dict[str, Any]]:
    return [{"id": each, "op": "counter_increment", "name": "x"} for each in identifiers]


def done(identifier: str | int) -> Result:
    return {"id": identifier, "ok": True, "value": 1}


class Node:
    """Answers requests in turn; the last answer again and again."""

    timeout_s = 5.0
    size = 1

    def __init__(self, *answers: list[Result] | CyoloctlError | Callable[[list[Any]], list[Result]]) -> None:
        self._answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.paused = 0

    def call(self, operation: str, *, body: dict[str, Any], **_: Any) -> Iterator[Any]:
        assert operation == "batch"
        self.asked.append(body)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, CyoloctlError):
            raise answer
        results = answer(body["operations"]) if callable(answer) else answer
        return {"results": results}
        yield

    def send(self, *identifiers: str | int, stop_on_error: bool = False) -> list[Result]:
        def pause(seconds: float) -> None:
            self.paused += 1

        steps = batch.send(self, operations(*identifiers), "run", stop_on_error=stop_on_error)  # type: ignore[arg-type]  # what is used of a caller
        return BlockingRunner(pause).run(steps)

    def ids(self) -> list[list[str]]:
        return [[each["id"] for each in body["operations"]] for body in self.asked]


# --- lines and ids --------------------------------------------------------------------------------


@pytest.mark.parametrize("identifier", ["1", "a b", "é" * 128, 7, -(2**53) + 1])
def test_line_with_an_id_and_an_operation_is_read_as_it_is(identifier: str | int) -> None:
    given = {"id": identifier, "op": "kv_put", "key": "k", "anything": [1, {"else": None}]}
    assert batch.read_line(json.dumps(given).encode(), 1) == given


@pytest.mark.parametrize(
    ("line", "identifier", "word"),
    [
        (b"{", None, "not JSON"),
        (b"[1]", None, "must be a JSON object"),
        (b"\xff", None, "UTF-8"),
        (b'{"op": "x"}', None, "'id'"),
        (b'{"id": "", "op": "x"}', None, "'id'"),
        (b'{"id": true, "op": "x"}', None, "'id'"),
        (b'{"id": 1.5, "op": "x"}', None, "'id'"),
        (b'{"id": 9007199254740992, "op": "x"}', None, "'id'"),
        (json.dumps({"id": "x" * 129, "op": "x"}).encode(), None, "'id'"),
        (b'{"id": "7"}', "7", "'op'"),
        (b'{"id": "7", "op": 1}', "7", "'op'"),
        (b'{"id": "7", "id": "8", "op": "x"}', None, "twice"),
        (b'{"id": "7", "op": "x", "a": NaN}', None, "NaN"),
        (b'{"id": "7", "op": "x", "a": ' + b"[" * 2000 + b"]" * 2000 + b"}", None, "deeply"),
        (b'{"id":"7","op":"x","a":' + b"[" * 490 + b"]" * 490 + b"}", None, "deeply"),
        (b'{"id": "7", "op": "x", "a": "' + b"x" * batch.MAX_LINE_BYTES + b'"}', None, "longer"),
    ],
)
def test_line_that_holds_no_operation_is_a_result_that_names_the_line(
    line: bytes, identifier: str | None, word: str
) -> None:
    result = batch.read_line(line, 41)
    assert (result["id"], result["ok"], "op" in result) == (identifier, False, False)
    assert result["error"]["code"] == "invalid_input"
    assert result["error"]["exit_status"] == InvalidInput.exit_status
    assert result["error"]["message"].startswith("line 41: ")
    assert word in result["error"]["message"]


def test_request_takes_as_many_lines_as_its_bounds_allow_and_at_least_one() -> None:
    assert batch.fitting([b"{}"] * 2000) == batch.MAX_OPERATIONS
    assert batch.fitting([b"{}"] * 3) == 3
    assert batch.fitting([]) == 0
    large = b"x" * (300 * 1024)
    assert batch.fitting([large, large]) == 1
    assert batch.fitting(["é".encode() * (100 * 1024)] * 2) == 1  # thrice as long, as it is sent
    assert batch.fitting([b"x" * (2 << 20)]) == 1
    assert batch.fitting([b"[" * 200] * 256) == 80


@pytest.mark.parametrize(
    ("error", "settled"),
    [
        (NotFound(), True), (Conflict(), True), (AccessDenied(), True), (AuthorizationPending(), True),
        (QueryTimeout(), True), (NoLeader(), False), (Overloaded(), False), (OutcomeUnknown(), False),
        (Unreachable(), False),
    ],
)  # fmt: skip
def test_error_is_settled_unless_the_operation_is_to_be_sent_again(
    error: CyoloctlError, settled: bool
) -> None:
    assert batch.is_settled(error) is settled


# --- sending --------------------------------------------------------------------------------------


def test_results_come_in_order_and_a_refusal_is_one_of_them() -> None:
    refused = batch.failed("2", Conflict("no"))
    node = Node([done("1"), refused, done("3")])
    assert node.send("1", "2", "3") == [done("1"), refused, done("3")]
    assert [body["request_id"] for body in node.asked] == ["run"]


def test_what_a_node_left_out_is_sent_again_without_a_pause() -> None:
    node = Node([done("1")], [done("2"), done("3")])
    assert node.send("1", "2", "3") == [done("1"), done("2"), done("3")]
    assert (node.ids(), node.paused) == ([["1", "2", "3"], ["2", "3"]], 0)


@pytest.mark.parametrize("error", [NoLeader("none"), OutcomeUnknown("?"), Unreachable("nobody")])
def test_request_that_failed_is_sent_again_under_the_same_run(error: CyoloctlError) -> None:
    node = Node(error, error, [done("1"), done("2")])
    assert node.send("1", "2") == [done("1"), done("2")]
    assert node.asked == [node.asked[0]] * 3
    assert node.paused == 2


def test_operation_that_was_unavailable_is_sent_again_with_those_after_it() -> None:
    lost = [batch.failed(each, NoLeader("none")) for each in ("2", "3")]
    node = Node([done("1"), *lost], [done("2"), done("3")])
    assert node.send("1", "2", "3") == [done("1"), done("2"), done("3")]
    assert node.ids() == [["1", "2", "3"], ["2", "3"]]


def test_operation_that_stays_unavailable_is_the_last_result() -> None:
    node = Node([done("1")], [batch.failed("2", NoLeader("none"))])
    node.timeout_s = 0.0
    results = node.send("1", "2", "3")
    assert results == [done("1"), batch.failed("2", NoLeader("none"))]


@pytest.mark.parametrize("after", [[batch.failed("1", NoLeader("none"))], Unreachable("nobody")])
def test_outcome_that_was_unknown_once_stays_unknown_when_nobody_answers_any_more(after: Any) -> None:
    node = Node(OutcomeUnknown("lost"), after)
    node.timeout_s = 0.2
    [result] = node.send("1", "2")
    assert result["error"]["code"] == "outcome_unknown"
    assert len(node.asked) > 1


def test_outcome_of_a_lost_request_stays_unknown_for_what_comes_later_in_it() -> None:
    node = Node(OutcomeUnknown("lost"), [done("1")], [batch.failed("2", NoLeader("none"))])
    node.timeout_s = 0.2
    assert [each["ok"] for each in node.send("1", "2")] == [True, False]
    assert node.send("2")[-1]["error"]["code"] == "no_leader"
    node = Node(OutcomeUnknown("lost"), [done("1")], [batch.failed("2", NoLeader("none"))])
    node.timeout_s = 0.2
    assert node.send("1", "2")[-1]["error"]["code"] == "outcome_unknown"


def test_time_is_over_when_the_clock_that_is_given_says_so() -> None:
    node = Node(NoLeader("none"))
    clock = itertools.count(0.0, node.timeout_s).__next__
    steps = batch.send(node, operations("1"), "run", clock=clock)  # type: ignore[arg-type]  # what is used of a caller
    assert BlockingRunner().run(steps) == [batch.failed("1", NoLeader("none"))]
    assert len(node.asked) == 1


def test_operation_before_one_that_was_carried_out_is_not_sent_again() -> None:
    """It would be applied after that one: their order is that of the input, or the run ends."""
    node = Node([batch.failed("1", Overloaded("full")), done("2")])
    assert node.send("1", "2") == [batch.failed("1", Overloaded("full"))]
    assert len(node.asked) == 1


def test_refusal_of_the_whole_request_is_that_of_an_operation_only_where_it_is_alone() -> None:
    assert Node(InvalidInput("too large")).send("1") == [batch.failed("1", InvalidInput("too large"))]
    with pytest.raises(InvalidInput):
        Node(InvalidInput("too large")).send("1", "2")
    with pytest.raises(AccessDenied):
        Node(AccessDenied("who are you")).send("1")


def test_stop_on_error_asks_for_nothing_after_a_refusal() -> None:
    refused = batch.failed("1", Conflict("no"))
    node = Node([refused])
    assert node.send("1", "2", stop_on_error=True) == [refused]
    assert [body["stop_on_error"] for body in node.asked] == [True]


def test_any_number_of_operations_goes_out_in_requests_that_nodes_take() -> None:
    node = Node(lambda given: [done(each["id"]) for each in given])
    given = operations(*range(2100))
    steps = batch.send_all(node, given, "run", stop_on_error=False)  # type: ignore[arg-type]  # what is used of a caller
    assert BlockingRunner().run(steps) == [done(number) for number in range(2100)]
    assert [len(each) for each in node.ids()] == [1024, 1024, 52]


def test_operations_after_one_that_is_not_settled_are_not_sent() -> None:
    node = Node([batch.failed(0, NoLeader("none"))])
    node.timeout_s = 0.0
    steps = batch.send_all(node, operations(*range(600)), "run", stop_on_error=False)  # type: ignore[arg-type]  # what is used of a caller
    assert BlockingRunner().run(steps) == [batch.failed(0, NoLeader("none"))]
    assert len(node.asked) == 1


@pytest.mark.parametrize("wrong", [{"op": "x"}, {"id": "1", "op": "x", "value": b"bytes"}])
def test_operations_that_cannot_be_sent_are_refused_before_any_is(wrong: dict[str, Any]) -> None:
    node = Node([done("0")])
    steps = batch.send_all(node, [*operations("0"), wrong], "run", stop_on_error=False)  # type: ignore[arg-type]  # what is used of a caller
    with pytest.raises(InvalidInput):
        BlockingRunner().run(steps)
    assert node.asked == []
