"""Is a history of operations on counters, registers or a map linearizable?

Wing and Gong's search in the form of Lowe ("Testing for linearizability",
2017): just-in-time linearization, one key at a time.  A history is
linearizable if and only if its restriction to each key is (Herlihy and Wing's
locality; Lowe calls it partitioning), so each is searched by itself.

The search walks through starts and returns in order of time and keeps every
state in which the key may be.  An operation need not take effect before some
operation is about to return, so only returns branch.  An operation whose
outcome is unknown never returns: it may take effect at any time after its
start, or never.  One that was refused never takes effect.

What the operations mean is a `Model`: `COUNTER`, `REGISTER`, `MAP` and
`REVISIONS` are here.  Four facts keep the search small; each is argued where it is used, and
the whole is compared with trying every order in the tests:

- a read that fits the present state is taken at once;
- unknown operations that ask the same are interchangeable, so they are
  counted, not told apart;
- an unknown operation that would change nothing need not happen;
- increments are positive, so a counter above what an operation returned is dead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

__all__ = ["COUNTER", "MAP", "REGISTER", "REVISIONS", "Model", "Op", "Verdict", "check", "check_key"]

_State = Hashable


@dataclass(frozen=True, slots=True)
class Op:
    """An operation on one key.

    call, given: what was asked, as the model knows it.  answer: with outcome ok.
    start_s, end_s: when it was sent and answered, on one monotonic clock; end_s
    is infinite when the outcome is unknown.  label: for the reader of a report.
    """

    key: str
    call: str
    given: tuple[_State, ...]
    answer: object
    start_s: float
    end_s: float
    outcome: Literal["ok", "refused", "unknown"] = "ok"
    label: str = ""

    def __post_init__(self) -> None:
        if self.call == "add" and not (isinstance(self.given[0], int) and self.given[0] > 0):
            raise ValueError("increments must be positive: the search relies on it")
        if (self.outcome == "unknown") != math.isinf(self.end_s):
            raise ValueError("an operation has an end exactly when its outcome is known")
        if self.end_s < self.start_s:
            raise ValueError("an operation cannot end before it starts")

    def __str__(self) -> str:
        seen = f"-> {self.answer}" if self.outcome == "ok" else self.outcome
        end = "          " if self.outcome == "unknown" else f"{self.end_s:10.4f}"
        what = " ".join((self.call, *map(str, self.given)))
        return f"{self.start_s:10.4f} {end}  {self.key} {what} {seen}  {self.label}"


@dataclass(frozen=True, slots=True)
class Model:
    """What the operations on one key mean.

    initial: the state at first.  apply: state, call and arguments to the next
    state and the answer; pure.  reads: whether an answered operation changes
    no state at all.  may_become: False when no state that follows this one
    can give the answer of that operation.
    """

    initial: _State
    apply: Callable[[_State, str, tuple[_State, ...]], tuple[_State, object]]
    reads: Callable[[Op], bool]
    may_become: Callable[[_State, Op], bool] = lambda state, op: True


def _count(state: _State, call: str, given: tuple[_State, ...]) -> tuple[_State, object]:
    """get; add BY, which answers with the new value."""
    assert isinstance(state, int)
    if call == "get":
        return state, state
    assert call == "add"
    assert isinstance(given[0], int)
    return state + given[0], state + given[0]


def _register(state: _State, call: str, given: tuple[_State, ...]) -> tuple[_State, object]:
    """read; write VALUE; cas OLD NEW, which answers whether it found the old value."""
    if call == "read":
        return state, state
    if call == "write":
        return given[0], None
    assert call == "cas"
    old, new = given
    return (new, True) if state == old else (state, False)


def _one_of_a_map(state: _State, call: str, given: tuple[_State, ...]) -> tuple[_State, object]:
    """get; put VALUE; cas OLD NEW; delete, which answers whether the key was there.  None: it is not."""
    if call == "delete":
        return None, state is not None
    return _register(state, {"get": "read", "put": "write"}.get(call, call), given)


def _revisions(state: _State, call: str, given: tuple[_State, ...]) -> tuple[_State, object]:
    """get; put VALUE AT; cas REVISION VALUE AT; delete AT.

    The state is the value, None where there is no key, and the revision of the
    last change.  AT is the revision that the change got: higher than the one
    before, so it is part of what was asked.  cas and delete answer whether
    they found the key at that revision (0: not there), or at all.
    """
    assert isinstance(state, tuple)
    there, last = state
    if call == "get":
        return state, None if there is None else state
    if (call == "delete" and there is None) or (call == "cas" and given[0] != (there is not None) * last):
        return state, False
    at = given[-1]
    return (None if call == "delete" else given[-2], at), at > last  # type: ignore[operator]


def _may_have_revision(state: _State, op: Op) -> bool:
    """A key that has a later revision than an operation saw or gave never has that one again."""
    assert isinstance(state, tuple)
    if op.call == "get":
        return op.answer is None or state[1] <= op.answer[1]  # type: ignore[index, no-any-return]
    return op.answer is not True or state[1] <= op.given[-1]  # type: ignore[operator]


def _only_reads(op: Op) -> bool:
    return op.call in ("get", "read") or (op.call in ("cas", "delete") and op.answer is False)


COUNTER = Model(0, _count, _only_reads, lambda state, op: state <= op.answer)  # type: ignore[operator]
REGISTER = Model(None, _register, _only_reads)
MAP = Model(None, _one_of_a_map, _only_reads)
"""One key of it: a map is linearizable when each of its keys is."""
REVISIONS = Model((None, 0), _revisions, _only_reads, _may_have_revision)
"""The same, where every change has a revision, which is known for all that have taken effect."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of the search for one key.

    offender: the operation that no order explains, None when the history is
    linearizable.  possible: the states that the key may have had just
    before it returned.  excerpt: the operations around it.
    """

    key: str
    operations: int
    offender: Op | None = None
    possible: tuple[_State, ...] = ()
    excerpt: tuple[Op, ...] = ()

    @property
    def linearizable(self) -> bool:
        return self.offender is None

    def explain(self) -> str:
        """The violation for people, or one line that there is none."""
        if self.offender is None:
            return f"{self.key}: {self.operations} operations, linearizable"
        lines = [
            f"{self.key}: NOT LINEARIZABLE: no order explains this operation:",
            f"    {self.offender}",
            f"just before it returned it could only be {list(self.possible)}; around it:",
            *(f"  {'>' if op is self.offender else ' '} {op}" for op in self.excerpt),
        ]
        return "\n".join(lines)


# What may have happened so far: the state, which of the open operations have taken effect (by
# position in the history), and how many unknown operations of each kind have.
_Config = tuple[_State, frozenset[int], tuple[int, ...]]


def check(history: Iterable[Op], model: Model = COUNTER) -> list[Verdict]:
    """One verdict per key, by name."""
    ordered = sorted(history, key=lambda op: op.key)
    return [check_key(list(ops), model) for _, ops in groupby(ordered, key=lambda op: op.key)]


def check_key(history: Sequence[Op], model: Model = COUNTER) -> Verdict:
    """The verdict on the operations of one key, in any order.

    Operations that touch in time (one ends when the other starts) count as
    concurrent, which can only miss a violation, never invent one.
    Raises ValueError for operations on several keys.
    """
    names = {op.key for op in history}
    if len(names) > 1:
        raise ValueError(f"operations on several keys: {sorted(names)}")
    ops = sorted((op for op in history if op.outcome != "refused"), key=lambda op: op.start_s)
    events = [(op.start_s, 0, position) for position, op in enumerate(ops)]
    events += [(op.end_s, 1, position) for position, op in enumerate(ops) if op.outcome == "ok"]
    search = _Search(ops, model)
    configs = search.initial()
    for _, returns, position in sorted(events):
        if not returns:
            search.begin(position)
            continue
        after = search.end(position, configs)
        if not after:
            return Verdict(
                key=ops[position].key,
                operations=len(history),
                offender=ops[position],
                possible=tuple(sorted({state for state, _, _ in configs}, key=_in_order)),
                excerpt=_excerpt(ops, position),
            )
        configs = after
    return Verdict(key=next(iter(names), ""), operations=len(history))


def _in_order(state: _State) -> Any:
    """For a report: parts of a tuple may be None, which has no order."""
    return str(type(state)), repr(state) if isinstance(state, tuple) else state


class _Search:
    """The open operations, and the step over one return."""

    def __init__(self, ops: Sequence[Op], model: Model) -> None:
        self._ops, self._model = ops, model
        self._open: set[int] = set()
        self._open_reads: set[int] = set()
        # Unknown operations of each kind, and how many of it have started.
        self._kinds = list(dict.fromkeys((op.call, op.given) for op in ops if op.outcome == "unknown"))
        self._started = [0] * len(self._kinds)

    def initial(self) -> set[_Config]:
        return {(self._model.initial, frozenset(), (0,) * len(self._kinds))}

    def begin(self, position: int) -> None:
        op = self._ops[position]
        if op.outcome == "unknown":
            self._started[self._kinds.index((op.call, op.given))] += 1
        else:
            (self._open_reads if self._model.reads(op) else self._open).add(position)

    def end(self, position: int, configs: set[_Config]) -> set[_Config]:
        """Every configuration after the return; none when no order explains it."""
        ops, apply, may_become = self._ops, self._model.apply, self._model.may_become
        target = ops[position]
        after: set[_Config] = set()
        seen: set[_Config] = set()
        todo = list(configs)
        while todo:
            state, done, used = config = todo.pop()
            if config in seen:
                continue
            seen.add(config)
            # A read that fits changes nothing: having taken it leaves every later choice open.
            done = done.union(
                other
                for other in self._open_reads - done
                if apply(state, ops[other].call, ops[other].given)[1] == ops[other].answer
            )
            if position in done:
                after.add((state, done - {position}, used))
                continue
            for other in self._open - done:
                op = ops[other]
                then, answer = apply(state, op.call, op.given)
                if answer == op.answer and may_become(then, target):
                    todo.append((then, done | {other}, used))
            # Of the unknown operations of one kind, taking the one that started first is as good
            # as any: another could be exchanged with it in every order.
            for which, (call, given) in enumerate(self._kinds):
                if used[which] < self._started[which]:
                    then, _ = apply(state, call, given)
                    if then != state and may_become(then, target):
                        todo.append((then, done, (*used[:which], used[which] + 1, *used[which + 1 :])))
        self._open.discard(position)
        self._open_reads.discard(position)
        return after


def _excerpt(ops: Sequence[Op], position: int, around: int = 12) -> tuple[Op, ...]:
    """The operations that overlap with the offender or ended last before it."""
    offender = ops[position]
    before = sorted((op for op in ops if op.end_s < offender.start_s), key=lambda op: op.end_s)[-around:]
    overlap = [op for op in ops if op.start_s <= offender.end_s and op.end_s >= offender.start_s]
    known = [op for op in overlap if op.outcome == "ok"]
    unknown = [op for op in overlap if op.outcome == "unknown"][-around:]
    return tuple(sorted({*before, *known, *unknown}, key=lambda op: op.start_s))
