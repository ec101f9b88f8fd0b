"""The judges of data and locks: what is right passes, and each planted fault is found."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.history import write_edn
from tests.chaos.judging import (
    Call,
    Change,
    Fenced,
    Hold,
    Notes,
    Page,
    judge,
    judge_locks,
    judge_registers,
    judge_set,
    judge_stale,
    judge_watches,
)
from tests.chaos.linearizability import REVISIONS, Op, check

END_S = 100.0
NO_REVISION = 2**62
"""Of a change that was not made."""


def call(f: str, given: tuple[Any, ...], start: float, end: float, answer: Any, revision: int = 0) -> Call:
    """An answered one; without an answer where it ends at infinity."""
    made = Call("c", "k", f, given, start)
    if not math.isinf(end):
        made.done(answer, end, "n1")
        made.revision = revision or None
    return made


def put(value: str, start: float, end: float, revision: int = 0) -> Call:
    return call("put", (value,), start, end, True, revision)


def get(start: float, end: float, answer: tuple[str, int] | None) -> Call:
    return call("get", (), start, end, answer)


def change(revision: int, value: str | None, version: int = 1, created: int = 0, key: str = "k") -> Change:
    if value is None:
        return Change(revision, "delete", key, None, 0, 0)
    return Change(revision, "put", key, value, version, created or revision)


def linearizable(calls: list[Call], changes: list[Change]) -> bool:
    verdicts, problems = judge_registers(calls, changes, END_S)
    assert problems == []
    return all(verdict.linearizable for verdict in verdicts)


STORY = [
    put("a", 0, 1, 5),
    get(2, 3, ("a", 5)),
    call("cas", (5, "b"), 4, 5, True, 6),
    call("cas", (5, "c"), 6, 7, False),
    put("d", 8, math.inf),
    get(9, 10, ("b", 6)),
    get(11, 12, ("d", 8)),
    call("delete", (), 13, 14, True, 9),
    call("delete", (), 15, 16, False),
    call("cas", (0, "e"), 17, 18, True, 11),
    call("cas", (0, "f"), 19, 20, False),
    put("g", 21, math.inf),
    get(22, 23, ("e", 11)),
]
CHANGES = [
    change(5, "a"),
    change(6, "b", 2, 5),
    change(8, "d", 3, 5),
    change(9, None),
    change(11, "e"),
]


def test_story_of_a_register_is_linearizable_and_each_wrong_answer_in_it_is_not() -> None:
    assert linearizable(STORY, CHANGES)
    wrong = {
        1: get(2, 3, None),  # stale
        5: get(9, 10, ("a", 5)),  # went back
        6: get(11, 12, ("b", 6)),  # while the next one sees that the key is at another revision
        3: call("cas", (6, "c"), 6, 7, False),  # it was at this revision
        8: call("delete", (), 15, 16, True, 10),  # it was not there
        10: call("cas", (0, "f"), 19, 20, True, 12),
        12: get(22, 23, ("a", 5)),
    }
    for at, other in wrong.items():
        story = [*STORY[:at], other, *STORY[at + 1 :]]
        if at == 6:
            story = [*STORY[:6], STORY[6], get(12.5, 12.9, ("b", 6)), *STORY[7:]]
        assert not linearizable(story, CHANGES), at


def test_write_without_an_answer_counts_exactly_where_it_was_seen() -> None:
    silent = put("x", 1, math.inf)
    assert linearizable(
        [put("a", 0, 1, 5), silent, get(3, 4, ("x", 7)), get(5, 6, ("x", 7))], [change(7, "x")]
    )
    assert not linearizable(
        [put("a", 0, 1, 5), silent, get(3, 4, ("x", 7)), get(5, 6, ("a", 5))], [change(7, "x")]
    )
    # It was never made, and somebody read it: the read has no explanation.
    assert not linearizable([put("a", 0, 1, 5), silent, get(3, 4, ("x", 7))], [change(5, "a")])


def test_deletion_without_an_answer_explains_that_the_key_is_gone() -> None:
    story = [put("a", 0, 1, 5), call("delete", (), 2, math.inf, None), get(3, 4, None)]
    assert linearizable(story, [change(5, "a"), change(6, None)])
    assert not linearizable(story, [change(5, "a")])


def test_refused_write_that_was_made_is_found() -> None:
    refused = put("a", 0, math.inf)
    refused.refused(1.0)
    assert judge_registers([refused], [], END_S) == ([], [])
    _, problems = judge_registers([refused], [change(5, "a")], END_S)
    assert "was refused, and is revision 5" in problems[0]


# --- a second judge: every order is tried ---------------------------------------------------------------


State = tuple[tuple[str, int] | None, int]
"""Value and revision where there is a key, and the last revision of all."""


def _after(state: State, op: Op) -> tuple[State, object]:
    """State and answer; an answer that is neither where a revision would not be higher than the last."""
    entry, last = state
    if op.call == "get":
        return state, entry
    if op.call == "delete" and entry is None:
        return state, False
    if op.call == "cas" and op.given[0] != (0 if entry is None else entry[1]):
        return state, False
    at = op.given[-1]
    if not isinstance(at, int) or at <= last:
        return state, "too low"
    return (None if op.call == "delete" else (str(op.given[-2]), at), at), True


def _is_explained(state: State, left: list[Op]) -> bool:
    first_end = min((op.end_s for op in left), default=math.inf)
    for op in left:
        then, answer = _after(state, op)
        rest = [other for other in left if other is not op]
        if op.start_s <= first_end and answer == op.answer and _is_explained(then, rest):
            return True
    return not left


def _history(rng: random.Random, count: int) -> list[Op]:
    """What overlapping clients may have seen; half of the histories then get one wrong answer or time."""
    state: State = (None, 0)
    revision = 0
    ops: list[Op] = []
    moments = sorted((rng.randrange(count) + rng.randrange(3), rng.random()) for _ in range(count))
    for number, (moment, _) in enumerate(moments):
        f = rng.choice(("get", "put", "cas", "cas", "delete"))
        revision += rng.choice((1, 2))
        now = 0 if state[0] is None else state[0][1]
        expected = rng.choice((now, now, max(0, revision - 2)))
        given = {"get": (), "put": (f"v{number}", revision), "delete": (revision,)}.get(
            f, (expected, f"v{number}", revision)
        )
        start, end = moment - rng.randrange(3), moment + 1 + rng.randrange(3)
        op = Op("k", f, given, None, start, end)
        state, answer = _after(state, op)
        if answer is False:
            op = replace(op, given=(*given[:-1], NO_REVISION))
        ops.append(replace(op, answer=answer))
    if rng.random() < 0.5:
        which = rng.randrange(count)
        op = ops[which]
        gets = [other.answer for other in ops if other.call == "get"]
        if op.call == "get":
            ops[which] = replace(op, answer=rng.choice(gets))
        elif op.answer is False:
            ops[which] = replace(op, answer=True, given=(*op.given[:-1], rng.randrange(1, revision + 2)))
        else:
            ops[which] = replace(op, start_s=op.start_s - 4, end_s=op.start_s - 2)
    return ops


def test_verdict_on_thousands_of_small_histories_is_that_of_trying_every_order() -> None:
    rng = random.Random("revisions")
    found = {True: 0, False: 0}
    for number in range(6000):
        ops = _history(rng, rng.randint(1, 7))
        verdict = all(each.linearizable for each in check(ops, REVISIONS))
        assert verdict == _is_explained((None, 0), ops), "\n".join([f"history {number}:", *map(str, ops)])
        found[verdict] += 1
    assert min(found.values()) >= 600, found


def added(key: str, start: float, end: float, outcome: str = "ok") -> Call:
    made = Call("c", key, "put", ("1",), start)
    if outcome == "refused":
        made.refused(end)
    elif not math.isinf(end):
        made.done(True, end, "n1")
    return made


def test_set_lacks_nothing_that_was_acknowledged_and_has_nothing_else() -> None:
    adds = [
        added("set/a", 0, 1),
        added("set/b", 0, 5),
        added("set/c", 0, math.inf),
        added("set/d", 0, 1, "refused"),
        added("set/e", 9, 10),
    ]
    assert judge_set(adds, [(2, 3, ["set/a"]), (6, 7, ["set/a", "set/b", "set/c"])]) == []
    for keys, word in (
        (["set/b"], "lacks set/a"),
        (["set/a", "set/d"], "refused"),
        (["set/a", "set/e"], "from 9.000 s on"),
        (["set/a", "set/z"], "nobody made"),
        (["set/b", "set/a"], "out of order"),
        (["set/a", "set/a"], "twice"),
    ):
        problems = judge_set(adds, [(2, 3, keys)])
        assert len(problems) == 1, keys
        assert word in problems[0]


KEY = "register/0"
KEPT = [change(5, "a", key=KEY), change(6, "b", 2, 5, key=KEY), change(9, None, key=KEY)]


def stale(*answers: tuple[str, int] | None, pages: list[Page] | None = None) -> list[str]:
    """What is wrong with reads without confirmation that end at 4 s; b was asked for at 3 s."""
    writes = [Call("c", KEY, "put", (value,), start) for value, start in (("a", 0), ("b", 3), ("z", 0))]
    calls = [replace(get(2, 4, answer), key=KEY) for answer in answers]
    return judge_stale(Notes(calls=writes, changes=[KEPT], stale=calls, pages=pages or []))


def test_stale_read_may_be_any_past_value_in_any_order_and_nothing_else() -> None:
    assert stale(("b", 6), ("a", 5), None, ("b", 6)) == []
    for answer in (("z", 7), ("a", 6), ("b", 9)):
        (problem,) = stale(answer)
        assert "no watcher was told" in problem
    writes = [Call("c", KEY, "put", ("a",), 5.0)]
    early = Notes(calls=writes, changes=[KEPT], stale=[replace(get(2, 4, ("a", 5)), key=KEY)])
    (problem,) = judge_stale(early)
    assert "nobody had asked for yet" in problem
    assert judge(Notes(changes=[KEPT], stale=[replace(get(2, 4, ("z", 7)), key=KEY)]), END_S)[1]


def test_stale_list_is_what_was_there_at_one_moment() -> None:
    for revision, found in ((4, {}), (5, {KEY: ("a", 5)}), (8, {KEY: ("b", 6)}), (9, {})):
        assert stale(pages=[Page(2, 4, "n1", revision, found)]) == []
    for revision, found in ((5, {}), (8, {KEY: ("a", 5)}), (9, {KEY: ("b", 6)})):
        (problem,) = stale(pages=[Page(2, 4, "n1", revision, found)])
        assert "not what was there" in problem


def notes(*watchers: list[Change]) -> Notes:
    return Notes(calls=list(STORY), changes=list(watchers))


def test_watchers_that_were_told_all_once_and_in_order_pass() -> None:
    assert judge_watches(notes(CHANGES, CHANGES)) == []
    assert judge(notes(CHANGES, CHANGES), END_S)[1] == []


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda c: c.pop(1), "follows version"),
        (lambda c: c.pop(2), "answered what no watcher was told"),
        (lambda c: c.pop(), "no watcher was told of"),
        (lambda c: c.insert(1, c[0]), "came after"),
        (lambda c: c.reverse(), "came after"),
        (lambda c: c.insert(3, change(9, None)), "the key was not there"),
        (lambda c: c.append(change(12, "z", 2, 11)), "nobody asked for"),
        (lambda c: c.__setitem__(4, change(11, "a")), "but of"),
    ],
)
def test_watcher_that_misses_repeats_or_reorders_is_found(
    spoil: Callable[[list[Change]], object], word: str
) -> None:
    spoiled = list(CHANGES)
    spoil(spoiled)
    problems = judge_watches(notes(spoiled))
    assert any(word in problem for problem in problems), problems
    assert any("told otherwise" in problem for problem in judge_watches(notes(CHANGES, spoiled)))


def hold(token: int, asked: float, got: float, until: float, **more: float) -> Hold:
    return Hold("l", token, asked, got, until, **more)


def fenced(token: int, start: float, end: float, revision: int | None, outcome: Any = "ok") -> Fenced:
    return Fenced("l", token, f"{token}/{start}", start, end, outcome, revision)


HOLDS = [hold(5, 0, 1, 3), hold(9, 2, 4, 6, released_s=5.0, free_s=5.5), hold(12, 5.2, 6, 8)]


def test_holders_one_after_the_other_and_their_writes_pass() -> None:
    writes = [
        fenced(5, 1.5, 2, 20),
        fenced(5, 3.5, 4.5, 21),  # the next holder has its answer only later
        fenced(5, 4.6, 4.7, None, "refused"),
        fenced(9, 4.1, 4.5, 22),
        fenced(9, 5.6, 5.8, None, "refused"),
        fenced(12, 6.5, math.inf, None, "open"),
    ]
    assert judge_locks(HOLDS, writes, []) == []
    assert judge_locks(HOLDS, writes, [Change(30, "put", "fenced/l", "12/6.5", 1, 1)]) == []


@pytest.mark.parametrize(
    ("holds", "writes", "word"),
    [
        ([hold(5, 0, 1, 3), hold(9, 1.5, 2, 4)], [], "at once"),
        ([hold(5, 0, 1, 3), hold(5, 4, 5, 7)], [], "one token"),
        ([hold(5, 0, 1, 3), hold(4, 4, 5, 7)], [], "smaller"),
        (HOLDS, [fenced(5, 4.5, 5, 30)], "somebody else had the lock"),
        (HOLDS, [fenced(9, 5.6, 5.8, 30)], "had been given back"),
        (HOLDS, [fenced(9, 4.5, 4.8, None, "refused")], "the lock was held"),
        (HOLDS, [fenced(9, 4.2, 4.5, 30), fenced(5, 3.9, 4.6, 31)], "follows one of token 9"),
    ],
)
def test_two_holders_and_writes_of_a_lost_lock_are_found(
    holds: list[Hold], writes: list[Fenced], word: str
) -> None:
    (found,) = judge_locks(holds, writes, [])
    assert word in found


def test_refused_write_that_a_watcher_saw_is_found() -> None:
    write = fenced(9, 4.2, 4.5, None, "refused")
    problems = judge_locks(HOLDS, [write], [Change(30, "put", "fenced/l", write.value, 1, 30)])
    assert "was carried out at revision 30" in problems[0]


def test_history_of_registers_is_written_for_other_judges(tmp_path: Path) -> None:
    write_edn(tmp_path / "data.edn", [STORY[0], STORY[1], STORY[2], STORY[4], STORY[7]])
    lines = (tmp_path / "data.edn").read_text().splitlines()
    assert [line.split(":type ")[1].split(", :time")[0] for line in lines] == [
        ':invoke, :f :put, :key "k", :value ["a" nil]',
        ':ok, :f :put, :key "k", :value ["a" 5]',
        ':invoke, :f :get, :key "k", :value nil',
        ':ok, :f :get, :key "k", :value ["a" 5]',
        ':invoke, :f :cas, :key "k", :value [5 "b" nil]',
        ':ok, :f :cas, :key "k", :value [5 "b" 6]',
        ':invoke, :f :put, :key "k", :value ["d" nil]',
        ':invoke, :f :delete, :key "k", :value [nil]',
        ':ok, :f :delete, :key "k", :value [9]',
        ':info, :f :put, :key "k", :value ["d" nil]',
    ]
