"""The counter machine, through the bytes that Raft applies."""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl import errors
from cyoloctl.state import ClusterState
from tests.support.old_commands import encode_command
from tests.support.results import decode_result

MIN, MAX = -(2**63), 2**63 - 1


class Counters:
    """A cluster state with a new request id for every command."""

    def __init__(self) -> None:
        self.cluster = ClusterState()
        self.machine = self.cluster.counters
        self.index = 0

    def do(self, operation: str, **arguments: Any) -> dict[str, Any]:
        self.index += 1
        command = encode_command(
            "counter", operation, arguments, request_id=f"r{self.index}", automatic=True, time_unix_ms=0
        )
        return decode_result(self.cluster.apply(self.index, command))


@pytest.fixture
def counters() -> Counters:
    return Counters()


def test_add_begins_at_zero_and_sums(counters: Counters) -> None:
    assert counters.do("add", name="a", by=5) == {"name": "a", "value": 5}
    assert counters.do("add", name="a", by=-7) == {"name": "a", "value": -2}
    assert counters.machine.get("a") == -2
    assert counters.machine.get("b") is None


@pytest.mark.parametrize(
    ("start", "by"), [(MAX, 1), (MIN, -1), (1, MAX), (0, 2**63), (-1, MIN), (MAX, 2**63), (MIN, MIN)]
)
def test_add_beyond_64_bits_is_counter_overflow_and_changes_nothing(
    counters: Counters, start: int, by: int
) -> None:
    counters.do("add", name="a", by=start)
    with pytest.raises(errors.CounterOverflow, match="nothing was changed"):
        counters.do("add", name="a", by=by)
    assert counters.machine.get("a") == start


def test_add_overflow_of_a_new_counter_does_not_make_it(counters: Counters) -> None:
    with pytest.raises(errors.CounterOverflow):
        counters.do("add", name="a", by=2**63)
    assert counters.machine.list(None, 5) == []


def test_add_of_minus_the_minimum_is_possible(counters: Counters) -> None:
    counters.do("add", name="a", by=MIN)
    assert counters.do("add", name="a", by=2**63)["value"] == 0
    counters.do("add", name="a", by=MAX)
    assert counters.do("add", name="a", by=MIN)["value"] == -1


def test_reset_sets_zero_and_keeps_the_counter_listed(counters: Counters) -> None:
    counters.do("add", name="a", by=5)
    assert counters.do("reset", name="a") == {"name": "a", "value": 0}
    assert counters.machine.list(None, 5) == [("a", 0)]


def test_reset_of_an_unknown_counter_makes_it(counters: Counters) -> None:
    assert counters.do("reset", name="new") == {"name": "new", "value": 0}
    assert counters.machine.get("new") == 0


def test_list_is_sorted_and_paged(counters: Counters) -> None:
    for name in ("d", "b", "a", "c"):
        counters.do("add", name=name, by=1)
    machine = counters.machine
    assert [name for name, _ in machine.list(None, 3)] == ["a", "b", "c"]
    assert [name for name, _ in machine.list("c", 3)] == ["d"]
    assert [name for name, _ in machine.list("bb", 1)] == ["c"]
    assert machine.list("d", 3) == machine.list(None, 0) == machine.list(None, -1) == []


def test_list_after_restore_is_sorted(counters: Counters) -> None:
    for name in ("d", "b", "a"):
        counters.do("add", name=name, by=1)
    other = Counters()
    other.cluster.restore(b"".join(counters.cluster.begin_snapshot()()))
    other.index = counters.index
    other.do("add", name="c", by=1)
    assert [name for name, _ in other.machine.list(None, 9)] == ["a", "b", "c", "d"]


def test_on_change_is_called_for_what_was_applied_only(counters: Counters) -> None:
    seen: list[tuple[str, int]] = []
    counters.machine.on_change = lambda *change: seen.append(change)
    counters.do("add", name="a", by=5)
    counters.do("add", name="a", by=0)
    with pytest.raises(errors.CounterOverflow):
        counters.do("add", name="a", by=MAX)
    counters.do("reset", name="a")
    again = encode_command(
        "counter", "add", {"name": "a", "by": 5}, request_id="r1", automatic=True, time_unix_ms=0
    )
    counters.cluster.apply(9, again)
    assert seen == [("a", 1), ("a", 2), ("a", 4)]


def test_on_change_that_raises_changes_no_answer_and_no_state(counters: Counters) -> None:
    plain = Counters()
    counters.machine.on_change = lambda *change: 1 // 0  # type: ignore[assignment]  # the point
    assert counters.do("add", name="a", by=5) == plain.do("add", name="a", by=5)
    assert counters.cluster.digest() == plain.cluster.digest()
