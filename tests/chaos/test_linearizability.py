"""The checker itself: good histories are accepted, planted faults are found."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.chaos.linearizability import Op, check, check_counter

_NEVER = math.inf


def _add(start: float, end: float, value: int | None, by: int = 1, counter: str = "c") -> Op:
    return Op(counter, by, value, start, _NEVER if value is None else end)


def _get(start: float, end: float, value: int, counter: str = "c") -> Op:
    return Op(counter, 0, value, start, end)


def _by_trying_every_order(ops: Sequence[Op]) -> bool:
    """The definition, without any cleverness: some order of all answered and some unknown operations."""
    answered = [op for op in ops if op.value is not None]
    unknown = [op for op in ops if op.value is None and op.by]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            for order in itertools.permutations([*answered, *chosen]):
                if _explains(order):
                    return True
    return False


def _explains(order: Sequence[Op]) -> bool:
    value = 0
    latest_start = -math.inf
    for op in order:
        latest_start = max(latest_start, op.start_s)
        if op.end_s < latest_start:
            return False
        value += op.by
        if op.value is not None and op.value != value:
            return False
    return True


def _concurrent_history(
    rng: random.Random, count: int, lost: float, sizes: Sequence[int] = (1, 2)
) -> list[Op]:
    """Answers of correct counters to overlapping clients: an effect inside each interval."""
    raw = []
    for _ in range(count):
        start = rng.random() * count
        effect = start + rng.random() * 3
        raw.append((effect, start, effect + rng.random() * 3, rng.choice([0, *sizes]), rng.random() < lost))
    ops = []
    value = 0
    for _, start, end, by, unknown in sorted(raw):
        if unknown and rng.random() < 0.5:
            ops.append(_add(start, end, None, by or 1))  # never took effect
            continue
        value += by
        ops.append(_add(start, end, None if unknown and by else value, by))
    return ops


def test_empty_history_is_linearizable() -> None:
    assert check([]) == []
    assert check_counter([]).linearizable


@given(st.lists(st.integers(0, 3), max_size=30))
def test_sequential_history_is_accepted(steps: list[int]) -> None:
    value = 0
    ops = []
    for position, by in enumerate(steps):
        value += by
        ops.append(Op("c", by, value, position, position + 0.5))
    assert check_counter(ops).linearizable


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30), st.data())
def test_sequential_history_with_one_wrong_answer_is_rejected(steps: list[int], data: st.DataObject) -> None:
    value = 0
    ops = []
    for position, by in enumerate(steps):
        value += by
        ops.append(Op("c", by, value, position, position + 0.5))
    wrong = data.draw(st.integers(0, len(ops) - 1))
    right = ops[wrong].value
    assert right is not None
    answer = data.draw(st.integers(0, value + 3).filter(lambda other: other != right))
    ops[wrong] = Op("c", ops[wrong].by, answer, ops[wrong].start_s, ops[wrong].end_s)
    verdict = check_counter(ops)
    assert verdict.offender == ops[wrong]
    assert "NOT LINEARIZABLE" in verdict.explain()


@given(st.randoms(use_true_random=False), st.integers(0, 80), st.sampled_from([0.0, 0.1, 0.4]))
def test_history_with_an_effect_inside_each_interval_is_accepted(
    rng: random.Random, count: int, lost: float
) -> None:
    verdict = check_counter(_concurrent_history(rng, count, lost))
    assert verdict.linearizable, verdict.explain()


@given(st.randoms(use_true_random=False), st.integers(5, 100))
def test_stale_read_planted_in_a_concurrent_history_is_rejected(rng: random.Random, count: int) -> None:
    ops = _concurrent_history(rng, count, 0.1)
    written = [op for op in ops if op.by and op.value is not None]
    assume(len(written) >= 1)
    seen = rng.choice(written)
    assert seen.value is not None
    # A read that begins after the answer and returns less than the answer.
    ops.append(_get(seen.end_s + 1e-6, seen.end_s + 5, seen.value - 1))
    assert not check_counter(ops).linearizable


@given(st.randoms(use_true_random=False), st.integers(5, 100))
def test_lost_update_planted_in_a_concurrent_history_is_rejected(rng: random.Random, count: int) -> None:
    ops = _concurrent_history(rng, count, 0.0)
    last = max(op.end_s for op in ops) + 1
    total = max((op.value or 0) for op in ops)
    # Acknowledged, and a read afterwards does not have it.
    ops += [_add(last, last + 1, total + 1), _get(last + 2, last + 3, total)]
    assert not check_counter(ops).linearizable


@given(st.randoms(use_true_random=False), st.integers(5, 100))
def test_increment_applied_twice_is_rejected(rng: random.Random, count: int) -> None:
    ops = _concurrent_history(rng, count, 0.0)
    last = max(op.end_s for op in ops) + 1
    total = max((op.value or 0) for op in ops)
    ops += [_add(last, last + 1, total + 1), _get(last + 2, last + 3, total + 2)]
    assert not check_counter(ops).linearizable


def test_increment_answered_not_applied_but_seen_is_rejected() -> None:
    # The refused increment is not in the history, so nothing explains the 1.
    assert not check_counter([_get(0, 1, 0), _get(2, 3, 1)]).linearizable


def test_two_increments_with_the_same_answer_are_rejected() -> None:
    assert not check_counter([_add(0, 5, 1), _add(1, 6, 1)]).linearizable


def test_reads_that_go_back_in_time_are_rejected() -> None:
    ops = [_add(0, 10, 1), _get(1, 2, 1), _get(3, 4, 0)]
    assert not check_counter(ops).linearizable
    assert check_counter([ops[0], _get(1, 2, 0), _get(3, 4, 1)]).linearizable


@pytest.mark.parametrize(
    ("reads", "good"),
    [
        ([0, 0], True),  # never applied, or not yet
        ([0, 1], True),  # applied late
        ([1, 1], True),
        ([1, 0], False),  # an effect does not vanish
        ([0, 2], False),  # nor double
    ],
)
def test_unknown_increment_may_take_effect_at_any_later_time_once(reads: list[int], good: bool) -> None:
    ops = [_add(0, 0, None), _get(10, 11, reads[0]), _get(20, 21, reads[1])]
    assert check_counter(ops).linearizable is good


def test_unknown_increment_does_not_take_effect_before_it_was_sent() -> None:
    assert not check_counter([_get(0, 1, 1), _add(2, 2, None)]).linearizable


def test_counters_are_judged_one_by_one() -> None:
    ops = [_add(0, 1, 1, counter="good"), _add(0, 1, 1, counter="bad"), _get(2, 3, 0, counter="bad")]
    assert {verdict.counter: verdict.linearizable for verdict in check(ops)} == {"good": True, "bad": False}


@given(
    st.lists(
        st.tuples(
            st.integers(0, 6),
            st.integers(0, 4),
            st.integers(0, 2),
            st.one_of(st.none(), st.integers(0, 4)),
        ),
        max_size=6,
    )
)
def test_verdict_is_that_of_trying_every_order(rows: list[tuple[int, int, int, int | None]]) -> None:
    ops = [
        Op("c", by, value, start, _NEVER if value is None else start + length)
        for start, length, by, value in rows
    ]
    assert check_counter(ops).linearizable == _by_trying_every_order(ops)


@given(st.randoms(use_true_random=False), st.integers(1, 6), st.booleans())
def test_verdict_on_nearly_good_histories_is_that_of_trying_every_order(
    rng: random.Random, count: int, spoil: bool
) -> None:
    ops = _concurrent_history(rng, count, 0.3)
    if spoil:
        which = rng.randrange(count)
        op = ops[which]
        if op.value is not None:
            ops[which] = Op("c", op.by, max(0, op.value + rng.choice([-1, 1])), op.start_s, op.end_s)
    assert check_counter(ops).linearizable == _by_trying_every_order(ops)


def test_long_history_with_many_unknown_increments_is_checked_quickly() -> None:
    ops = _concurrent_history(random.Random(1), 5000, 0.03, sizes=(1,))
    assert check_counter(ops).linearizable


@pytest.mark.parametrize(
    "fields",
    [(-1, 1, 0.0, 1.0), (1, None, 0.0, 1.0), (1, 1, 0.0, _NEVER), (1, 1, 2.0, 1.0)],
    ids=["negative", "unknown with an end", "answer without an end", "ends before it starts"],
)
def test_operation_that_makes_no_sense_is_refused(fields: tuple[int, int | None, float, float]) -> None:
    with pytest.raises(ValueError):
        Op("c", *fields)


def test_check_counter_of_several_counters_is_refused() -> None:
    with pytest.raises(ValueError):
        check_counter([_get(0, 1, 0, counter="a"), _get(0, 1, 0, counter="b")])
