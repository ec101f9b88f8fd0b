"""Is a history of increments and reads of counters linearizable?

Wing and Gong's search in the form of Lowe ("Testing for linearizability",
2017): just-in-time linearization, one counter at a time.  A history is
linearizable if and only if its restriction to each counter is (Herlihy and
Wing's locality; Lowe calls it partitioning), so each is searched by itself.

The search walks through starts and returns in order of time and keeps every
state in which the counter may be.  An operation need not take effect before
some operation is about to return, so only returns branch.  An operation whose
outcome is unknown never returns: it may take effect at any time after its
start, or never.

Three facts about counters keep the search small; each is argued where it is
used and the whole is compared with trying every order in the tests:

- a read that fits the present state is taken at once;
- unknown increments of the same size are interchangeable, so they are counted,
  not told apart;
- increments are positive, so a state above what an operation returned is dead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

__all__ = ["Op", "Verdict", "check", "check_counter"]


@dataclass(frozen=True, slots=True)
class Op:
    """An operation on one counter.

    by: what an increment adds, at least 1; 0 for a read.
    value: what it returned (an increment returns the new value); None when the
    outcome is unknown.
    start_s, end_s: when it was sent and answered, on one monotonic clock; end_s
    is infinite when the outcome is unknown.
    label: for the reader of a report.
    """

    counter: str
    by: int
    value: int | None
    start_s: float
    end_s: float
    label: str = ""

    def __post_init__(self) -> None:
        if self.by < 0:
            raise ValueError("increments must be positive: the search relies on it")
        if (self.value is None) != math.isinf(self.end_s):
            raise ValueError("an operation has an end exactly when it has a value")
        if self.end_s < self.start_s:
            raise ValueError("an operation cannot end before it starts")

    def __str__(self) -> str:
        what = f"add {self.by}" if self.by else "get"
        seen = "unknown" if self.value is None else f"-> {self.value}"
        end = "          " if self.value is None else f"{self.end_s:10.4f}"
        return f"{self.start_s:10.4f} {end}  {self.counter} {what} {seen}  {self.label}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of the search for one counter.

    offender: the operation that no order explains, None when the history is
    linearizable.  possible: the values that the counter may have had just
    before it returned.  excerpt: the operations around it.
    """

    counter: str
    operations: int
    offender: Op | None = None
    possible: tuple[int, ...] = ()
    excerpt: tuple[Op, ...] = ()

    @property
    def linearizable(self) -> bool:
        return self.offender is None

    def explain(self) -> str:
        """The violation for people, or one line that there is none."""
        if self.offender is None:
            return f"{self.counter}: {self.operations} operations, linearizable"
        lines = [
            f"{self.counter}: NOT LINEARIZABLE: no order explains this operation:",
            f"    {self.offender}",
            f"just before it returned the counter could only be {list(self.possible)}; around it:",
            *(f"  {'>' if op is self.offender else ' '} {op}" for op in self.excerpt),
        ]
        return "\n".join(lines)


# What may have happened so far: the counter's value, which of the open operations have taken
# effect (by position in the history), and how many unknown increments of each size have.
_Config = tuple[int, frozenset[int], tuple[int, ...]]


def check(history: Iterable[Op]) -> list[Verdict]:
    """One verdict per counter, by name.  Every counter begins at 0."""
    ordered = sorted(history, key=lambda op: op.counter)
    return [check_counter(list(ops)) for _, ops in groupby(ordered, key=lambda op: op.counter)]


def check_counter(history: Sequence[Op], *, initial: int = 0) -> Verdict:
    """The verdict on the operations of one counter, in any order.

    Operations that touch in time (one ends when the other starts) count as
    concurrent, which can only miss a violation, never invent one.
    Raises ValueError for operations on several counters.
    """
    names = {op.counter for op in history}
    if len(names) > 1:
        raise ValueError(f"operations on several counters: {sorted(names)}")
    # A read without an answer says nothing.
    ops = sorted((op for op in history if op.by or op.value is not None), key=lambda op: op.start_s)
    sizes = sorted({op.by for op in ops if op.value is None})
    events = [(op.start_s, 0, position) for position, op in enumerate(ops)]
    events += [(op.end_s, 1, position) for position, op in enumerate(ops) if op.value is not None]
    search = _Search(ops, sizes)
    configs: set[_Config] = {(initial, frozenset(), (0,) * len(sizes))}
    for _, returns, position in sorted(events):
        if not returns:
            search.begin(position)
            continue
        after = search.end(position, configs)
        if not after:
            return Verdict(
                counter=ops[position].counter,
                operations=len(history),
                offender=ops[position],
                possible=tuple(sorted({value for value, _, _ in configs})),
                excerpt=_excerpt(ops, position),
            )
        configs = after
    return Verdict(counter=next(iter(names), ""), operations=len(history))


class _Search:
    """The open operations, and the step over one return."""

    def __init__(self, ops: Sequence[Op], sizes: Sequence[int]) -> None:
        self._ops = ops
        self._sizes = sizes
        self._open: set[int] = set()
        # Unknown increments of each size that have started.
        self._started = [0] * len(sizes)

    def begin(self, position: int) -> None:
        op = self._ops[position]
        if op.value is None:
            self._started[self._sizes.index(op.by)] += 1
        else:
            self._open.add(position)

    def end(self, position: int, configs: set[_Config]) -> set[_Config]:
        """Every configuration after the return; none when no order explains it."""
        target = self._ops[position].value
        assert target is not None
        after: set[_Config] = set()
        seen: set[_Config] = set()
        todo = list(configs)
        while todo:
            value, done, used = config = todo.pop()
            if config in seen:
                continue
            seen.add(config)
            # A read that fits changes nothing: having taken it leaves every later choice open.
            done = done.union(
                other
                for other in self._open
                if not self._ops[other].by and self._ops[other].value == value and other not in done
            )
            if position in done:
                after.add((value, done - {position}, used))
                continue
            for other in self._open - done:
                op = self._ops[other]
                assert op.value is not None
                if op.by and value + op.by == op.value <= target:
                    todo.append((op.value, done | {other}, used))
            # Of the unknown increments of one size, taking the one that started first is as
            # good as any: another could be exchanged with it in every order.
            for which, size in enumerate(self._sizes):
                if used[which] < self._started[which] and value + size <= target:
                    more = (*used[:which], used[which] + 1, *used[which + 1 :])
                    todo.append((value + size, done, more))
        self._open.discard(position)
        return after


def _excerpt(ops: Sequence[Op], position: int, around: int = 12) -> tuple[Op, ...]:
    """The operations that overlap with the offender or ended last before it."""
    offender = ops[position]
    before = sorted((op for op in ops if op.end_s < offender.start_s), key=lambda op: op.end_s)[-around:]
    overlap = [op for op in ops if op.start_s <= offender.end_s and op.end_s >= offender.start_s]
    known = [op for op in overlap if op.value is not None]
    unknown = [op for op in overlap if op.value is None][-around:]
    return tuple(sorted({*before, *known, *unknown}, key=lambda op: op.start_s))
