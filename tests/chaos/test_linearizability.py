"""The checker itself: good histories are accepted, planted faults are found."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.chaos.history import History, Record
from tests.chaos.linearizability import COUNTER, MAP, REGISTER, Model, Op, check, check_key

_NEVER = math.inf


def _add(start: float, end: float, value: int | None, by: int = 1, key: str = "c") -> Op:
    if value is None:
        return Op(key, "add", (by,), None, start, _NEVER, "unknown")
    return Op(key, "add", (by,), value, start, end)


def _get(start: float, end: float, value: int | None, key: str = "c") -> Op:
    if value is None:
        return Op(key, "get", (), None, start, _NEVER, "unknown")
    return Op(key, "get", (), value, start, end)


def _counted(start: float, end: float, value: int | None, by: int) -> Op:
    return _add(start, end, value, by) if by else _get(start, end, value)


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
        ops.append(_counted(start, end, None if unknown and by else value, by))
    return ops


def test_empty_history_is_linearizable() -> None:
    assert check([]) == []
    assert check_key([]).linearizable


@given(st.lists(st.integers(0, 3), max_size=30))
def test_sequential_history_is_accepted(steps: list[int]) -> None:
    value = 0
    ops = []
    for position, by in enumerate(steps):
        value += by
        ops.append(_counted(position, position + 0.5, value, by))
    assert check_key(ops).linearizable


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30), st.data())
def test_sequential_history_with_one_wrong_answer_is_rejected(steps: list[int], data: st.DataObject) -> None:
    value = 0
    ops = []
    for position, by in enumerate(steps):
        value += by
        ops.append(_counted(position, position + 0.5, value, by))
    wrong = data.draw(st.integers(0, len(ops) - 1))
    right = ops[wrong].answer
    answer = data.draw(st.integers(0, value + 3).filter(lambda other: other != right))
    ops[wrong] = replace(ops[wrong], answer=answer)
    verdict = check_key(ops)
    assert verdict.offender == ops[wrong]
    assert "NOT LINEARIZABLE" in verdict.explain()


@given(st.randoms(use_true_random=False), st.integers(0, 80), st.sampled_from([0.0, 0.1, 0.4]))
def test_history_with_an_effect_inside_each_interval_is_accepted(
    rng: random.Random, count: int, lost: float
) -> None:
    verdict = check_key(_concurrent_history(rng, count, lost))
    assert verdict.linearizable, verdict.explain()


@given(st.randoms(use_true_random=False), st.integers(5, 100))
def test_stale_read_planted_in_a_concurrent_history_is_rejected(rng: random.Random, count: int) -> None:
    ops = _concurrent_history(rng, count, 0.1)
    written = [op for op in ops if op.call == "add" and op.outcome == "ok"]
    assume(len(written) >= 1)
    seen = rng.choice(written)
    assert isinstance(seen.answer, int)
    # A read that begins after the answer and returns less than the answer.
    ops.append(_get(seen.end_s + 1e-6, seen.end_s + 5, seen.answer - 1))
    assert not check_key(ops).linearizable


@given(st.randoms(use_true_random=False), st.integers(5, 100))
def test_lost_update_planted_in_a_concurrent_history_is_rejected(rng: random.Random, count: int) -> None:
    ops = _concurrent_history(rng, count, 0.0)
    last = max(op.end_s for op in ops) + 1
    total = max(int(str(op.answer)) for op in ops)
    # Acknowledged, and a read afterwards does not have it.
    ops += [_add(last, last + 1, total + 1), _get(last + 2, last + 3, total)]
    assert not check_key(ops).linearizable


@given(st.randoms(use_true_random=False), st.integers(5, 100))
def test_increment_applied_twice_is_rejected(rng: random.Random, count: int) -> None:
    ops = _concurrent_history(rng, count, 0.0)
    last = max(op.end_s for op in ops) + 1
    total = max(int(str(op.answer)) for op in ops)
    ops += [_add(last, last + 1, total + 1), _get(last + 2, last + 3, total + 2)]
    assert not check_key(ops).linearizable


def test_increment_answered_not_applied_but_seen_is_rejected() -> None:
    # The refused increment is not in the history, so nothing explains the 1.
    assert not check_key([_get(0, 1, 0), _get(2, 3, 1)]).linearizable


def test_two_increments_with_the_same_answer_are_rejected() -> None:
    assert not check_key([_add(0, 5, 1), _add(1, 6, 1)]).linearizable


def test_reads_that_go_back_in_time_are_rejected() -> None:
    ops = [_add(0, 10, 1), _get(1, 2, 1), _get(3, 4, 0)]
    assert not check_key(ops).linearizable
    assert check_key([ops[0], _get(1, 2, 0), _get(3, 4, 1)]).linearizable


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
    assert check_key(ops).linearizable is good


def test_unknown_increment_does_not_take_effect_before_it_was_sent() -> None:
    assert not check_key([_get(0, 1, 1), _add(2, 2, None)]).linearizable


def test_counters_are_judged_one_by_one() -> None:
    ops = [_add(0, 1, 1, key="good"), _add(0, 1, 1, key="bad"), _get(2, 3, 0, key="bad")]
    assert {verdict.key: verdict.linearizable for verdict in check(ops)} == {"good": True, "bad": False}


def test_long_history_with_many_unknown_increments_is_checked_quickly() -> None:
    ops = _concurrent_history(random.Random(1), 5000, 0.03, sizes=(1,))
    assert check_key(ops).linearizable


@pytest.mark.parametrize(
    ("by", "end_s", "outcome"),
    [
        (-1, 1.0, "ok"),
        (0, 1.0, "ok"),
        (1, 1.0, "unknown"),
        (1, _NEVER, "ok"),
        (1, _NEVER, "refused"),
        (1, -1.0, "ok"),
    ],
    ids=[
        "negative",
        "zero",
        "unknown with an end",
        "answer without an end",
        "refused without an end",
        "ends before it starts",
    ],
)
def test_operation_that_makes_no_sense_is_refused(by: int, end_s: float, outcome: Any) -> None:
    with pytest.raises(ValueError):
        Op("c", "add", (by,), 1, 0.0, end_s, outcome)


def test_check_key_of_several_counters_is_refused() -> None:
    with pytest.raises(ValueError):
        check_key([_get(0, 1, 0, key="a"), _get(0, 1, 0, key="b")])


# --- a second judge: the definition, tried order by order ---------------------------------------------


def _is_explained(ops: Sequence[Op], kind: str) -> bool:
    """The definition, without any cleverness and with nothing of the checker's.

    Some order of all answered and some unknown operations, in which none comes
    after one that began after its answer, gives the answers.  All keys at once.
    """
    return _goes_on({}, [op for op in ops if op.outcome != "refused"], kind)


def _goes_on(state: dict[str, Any], left: Sequence[Op], kind: str) -> bool:
    answered = [op for op in left if op.outcome == "ok"]
    if not answered:
        return True  # what is unknown may never have happened
    first_end = min(op.end_s for op in answered)
    for op in left:
        if op.start_s > first_end:
            continue  # another one was answered before this one began
        then, answer = _do(state, op, kind)
        if op.outcome == "ok" and answer != op.answer:
            continue
        if _goes_on(then, [other for other in left if other is not op], kind):
            return True
    return False


def _do(state: dict[str, Any], op: Op, kind: str) -> tuple[dict[str, Any], object]:
    now = state.get(op.key, 0 if kind == "counter" else None)
    if op.call in ("get", "read"):
        return state, now
    if op.call == "add":
        return {**state, op.key: now + op.given[0]}, now + op.given[0]
    if op.call in ("write", "put"):
        return {**state, op.key: op.given[0]}, None
    if op.call == "delete":
        return {key: value for key, value in state.items() if key != op.key}, now is not None
    assert op.call == "cas"
    return ({**state, op.key: op.given[1]}, True) if now == op.given[0] else (state, False)


_MODELS: dict[str, Model] = {"counter": COUNTER, "register": REGISTER, "map": MAP}


def _asked(rng: random.Random, kind: str) -> tuple[str, tuple[Any, ...]]:
    value, other = rng.randrange(3), rng.randrange(3)
    read, write = ("read", "write") if kind == "register" else ("get", "put")
    if kind == "counter":
        return rng.choice([("get", ()), ("add", (1,)), ("add", (2,))])
    calls = [(read, ()), (write, (value,)), ("cas", (value, other))]
    return rng.choice([*calls, ("delete", ())] if kind == "map" else calls)


def _history(rng: random.Random, kind: str, count: int) -> list[Op]:
    """What overlapping clients may have seen: each operation takes effect within its time, or is lost.

    A third of the histories then get one wrong answer, a refused operation
    that took effect, or a time that is not true, which may break them or not.
    """
    keys = ("a", "b") if kind == "map" else ("a",)
    planned = []
    for _ in range(count):
        # Of few moments, so that many operations touch.
        start = rng.randrange(count)
        effect = start + rng.randrange(4)
        end = effect + rng.randrange(4)
        outcome = rng.choices(["ok", "refused", "unknown"], [7, 1, 2])[0]
        call, given = _asked(rng, kind)
        planned.append(
            (effect + rng.random(), Op(rng.choice(keys), call, given, None, start, end + 1), outcome)
        )
    state: dict[str, Any] = {}
    ops = []
    for _, op, outcome in sorted(planned, key=lambda plan: plan[0]):
        if outcome == "ok":
            state, answer = _do(state, op, kind)
            ops.append(replace(op, answer=answer))
        elif outcome == "refused":
            if rng.random() < 0.15:  # a lie
                state, _ = _do(state, op, kind)
            ops.append(replace(op, outcome="refused"))
        else:
            if rng.random() < 0.5:
                state, _ = _do(state, op, kind)
            ops.append(replace(op, outcome="unknown", end_s=_NEVER))
    if rng.random() < 0.33:
        which = rng.randrange(count)
        op = ops[which]
        if op.outcome == "ok" and op.call in ("get", "read", "add"):
            ops[which] = replace(
                op, answer=rng.choice([0, 1, 2, 3] if kind == "counter" else [None, 0, 1, 2])
            )
        elif op.outcome == "ok" and op.call in ("cas", "delete"):
            ops[which] = replace(op, answer=not op.answer)
        else:
            ops[which] = replace(op, start_s=op.start_s - 2)
    return ops


@pytest.mark.parametrize("kind", ["counter", "register", "map"])
def test_verdict_on_thousands_of_small_histories_is_that_of_trying_every_order(kind: str) -> None:
    rng = random.Random(f"small {kind}")
    found = {True: 0, False: 0}
    for number in range(6000):
        ops = _history(rng, kind, rng.randint(1, 7))
        verdict = all(each.linearizable for each in check(ops, _MODELS[kind]))
        assert verdict == _is_explained(ops, kind), "\n".join([f"history {number}:", *map(str, ops)])
        found[verdict] += 1
    assert min(found.values()) >= 600, found  # neither judge says the same to everything


def _op(start: float, end: float, call: str, *given: Any, answer: Any = None, key: str = "a") -> Op:
    return Op(key, call, given, answer, start, end)


_W1 = _op(0, 1, "write", 1)


@pytest.mark.parametrize(
    ("model", "ops"),
    [
        (REGISTER, [_W1, _op(2, 3, "write", 2), _op(4, 5, "read", answer=1)]),
        (REGISTER, [_W1, _op(2, 9, "write", 2), _op(3, 4, "read", answer=2), _op(5, 6, "read", answer=1)]),
        (REGISTER, [_W1, _op(2, 5, "cas", 1, 2, answer=True), _op(2, 5, "cas", 1, 3, answer=True)]),
        (REGISTER, [_W1, _op(2, 3, "cas", 1, 2, answer=False), _op(4, 5, "read", answer=1)]),
        (REGISTER, [replace(_op(0, 1, "write", 5), outcome="refused"), _op(2, 3, "read", answer=5)]),
        (MAP, [_op(0, 1, "put", 1), _op(2, 3, "delete", answer=True), _op(4, 5, "get", answer=1)]),
        (MAP, [_op(0, 1, "put", 1), _op(2, 3, "delete", answer=False)]),
        (MAP, [_op(0, 1, "put", 1, key="b"), _op(2, 3, "get", answer=1)]),
        (COUNTER, [_add(0, 1, 1), replace(_add(2, 3, 0), answer=None, outcome="refused"), _get(4, 5, 2)]),
    ],
    ids=[
        "stale read", "reads go back", "two win one compare", "a compare fails that fits", "refused and seen",
        "deleted and seen", "deleted and not found", "on the wrong key", "a refused increment that counts",
    ],
)  # fmt: skip
def test_planted_fault_is_found(model: Model, ops: list[Op]) -> None:
    assert not all(verdict.linearizable for verdict in check(ops, model))


@pytest.mark.parametrize("when", [2.5, 8.5])
def test_unknown_write_explains_what_is_read_from_then_on(when: float) -> None:
    unknown = Op("a", "write", (7,), None, when, _NEVER, "unknown")
    ops = [_op(0, 1, "write", 1), unknown, _op(3, 4, "read", answer=1), _op(5, 6, "read", answer=7)]
    assert check_key(ops, REGISTER).linearizable is (when < 5)


# --- the same history, in the form that other judges read ----------------------------------------------

_EDN = re.compile(
    r"\{:process (\d+), :type :(invoke|ok|fail|info), :f :(add|get), :key \"(.*)\", "
    r":value (?:\[(\d+) (\d+|nil)\]|(\d+|nil)), :time (\d+), :index (\d+)\}"
)


def _read_edn(path: Path) -> list[Op]:
    """As the reader of porcupine's own test logs does it: by the process, not by our objects."""
    ops: list[Op] = []
    waits: dict[str, Op] = {}
    for number, line in enumerate(path.read_text().splitlines()):
        match = _EDN.fullmatch(line)
        assert match is not None, line
        process, kind, call, key, by, result, value, time, index = match.groups()
        assert int(index) == number
        if kind == "invoke":
            assert process not in waits, "a process has one operation at a time"
            given = (int(by),) if by else ()
            waits[process] = Op(key, call, given, None, int(time), _NEVER, "unknown")
            continue
        op = waits[process]
        if kind == "info":
            ops.append(op)  # the process stays occupied
            continue
        del waits[process]
        answer = result or value
        outcome: Any = "refused" if kind == "fail" else "ok"
        ops.append(
            replace(op, answer=None if answer == "nil" else int(answer), end_s=int(time), outcome=outcome)
        )
    return ops


def test_history_in_edn_says_the_same(tmp_path: Path) -> None:
    rng = random.Random(4)
    history = History()
    seen = {True: 0, False: 0}
    for number in range(60):
        history.records = []
        for op in _history(rng, "counter", 12):
            outcome: Any = op.outcome
            by = int(str(op.given[0])) if op.given else 0
            if not by and outcome == "unknown":
                continue  # the clients call a read without an answer refused
            value = int(str(op.answer)) if op.answer is not None else None
            client = f"client-{len(history.records)}" if number % 2 else f"client-{len(history.records) % 3}"
            history.records.append(Record(client, "a", by, "-", op.start_s + 2, op.end_s + 2, outcome, value))
        if not number % 2:  # three clients, one operation after the other
            for client in {record.client for record in history.records}:
                mine = [record for record in history.records if record.client == client]
                for place, record in enumerate(mine):
                    record.start_s = 10 * place + rng.random()
                    record.end_s = record.start_s + rng.random() * 9 if record.end_s < _NEVER else _NEVER
        history.write_edn(tmp_path / "history.edn")
        read = _read_edn(tmp_path / "history.edn")
        assert sorted((op.call, op.given, str(op.answer), op.outcome) for op in read) == sorted(
            (op.call, op.given, str(op.answer), op.outcome) for op in history.ops()
        )
        verdict = check_key(history.ops()).linearizable
        assert check_key(read).linearizable == verdict
        seen[verdict] += 1
    assert min(seen.values()) > 5, seen
