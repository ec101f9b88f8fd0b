"""What clients of data and locks noted, and what of it is wrong.  Pure.

Every change has a revision, and the watchers saw them all, or are found wrong:
so a write of unknown outcome was carried out exactly when its value, which no
other write has, is among the changes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Any, Literal, NamedTuple

from tests.chaos.linearizability import REVISIONS, Op, Verdict, check

__all__ = [
    "REGISTER",
    "Call",
    "Change",
    "Fenced",
    "Hold",
    "Notes",
    "Page",
    "judge",
    "judge_locks",
    "judge_registers",
    "judge_set",
    "judge_stale",
    "judge_watches",
]

REGISTER = "register/"
"""What the keys of registers begin with."""
_NO_REVISION = 2**62
"""Of a change that was not made: above all that are."""


@dataclass(slots=True)
class Call:
    """One operation on a key.

    f, given: get; put VALUE; cas REVISION VALUE; delete.  answer: of a get
    value and revision, None where there was no key; of the others whether they
    changed it.  revision: of the change.  Times as in `history.Record`.
    """

    client: str
    key: str
    f: str
    given: tuple[Any, ...]
    start_s: float
    end_s: float = math.inf
    outcome: Literal["open", "ok", "refused", "unknown"] = "open"
    answer: Any = None
    revision: int | None = None
    via: str = ""

    def done(self, answer: Any, now_s: float, via: str) -> None:
        """It was answered."""
        self.answer, self.end_s, self.outcome, self.via = answer, now_s, "ok", via

    def refused(self, now_s: float) -> None:
        """It was certainly not applied."""
        self.outcome, self.end_s = "refused", now_s

    @property
    def changed(self) -> bool:
        """Whether it is known to have changed the key."""
        return self.outcome == "ok" and self.f != "get" and self.answer is True

    def edn(self, *, returned: bool) -> str:
        """Its value in the history: see `History.write_edn`."""
        given = [json.dumps(each) for each in self.given]
        if self.f == "get":
            seen = "nil" if self.answer is None else f"[{json.dumps(self.answer[0])} {self.answer[1]}]"
            return seen if returned else "nil"
        shown = "nil" if not returned or self.revision is None else str(self.revision)
        return f"[{' '.join((*given, shown))}]"


class Page(NamedTuple):
    """A list of keys, as a node had them: value and revision by key, and the revision of it all."""

    start_s: float
    end_s: float
    via: str
    revision: int
    found: dict[str, tuple[str | None, int]]


class Change(NamedTuple):
    """One change as a watcher was told of it; the last three of a put only."""

    revision: int
    type: str
    key: str
    value: str | None
    version: int
    created_revision: int


@dataclass(slots=True)
class Hold:
    """A lock that was given.

    asked_s: when that was asked first.  got_s: when it was answered.  until_s:
    it is held so long at least, unless it is given back: released_s, when that
    was asked, and free_s, when that was answered.
    """

    lock: str
    token: int
    asked_s: float
    got_s: float
    until_s: float
    released_s: float = math.inf
    free_s: float = math.inf

    @property
    def certain_s(self) -> float:
        """Until then nobody else has it."""
        return min(self.until_s, self.released_s)


@dataclass(slots=True)
class Fenced:
    """A write under the fence of a lock.  revision: of the change, where it is known to be one."""

    lock: str
    token: int
    value: str
    start_s: float
    end_s: float = math.inf
    outcome: Literal["open", "ok", "refused"] = "open"
    revision: int | None = None


@dataclass(slots=True)
class Notes:
    """All that the clients noted.

    added: puts of the keys of the set.  lists: of the set: when it was asked
    and answered, and the keys.  changes: of each watcher.  stale: reads of keys without
    confirmation, and pages: lists of all registers, which need not be the newest.
    """

    calls: list[Call] = field(default_factory=list)
    added: list[Call] = field(default_factory=list)
    lists: list[tuple[float, float, list[str]]] = field(default_factory=list)
    changes: list[list[Change]] = field(default_factory=list)
    stale: list[Call] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    fenced: list[Fenced] = field(default_factory=list)


def judge(notes: Notes, end_s: float) -> tuple[list[Verdict], list[str]]:
    """The verdict on each register, and what else is wrong.

    end_s: when all had ended.
    """
    changes = notes.changes[0] if notes.changes else []
    verdicts, problems = judge_registers(notes.calls, changes, end_s)
    problems += [verdict.explain() for verdict in verdicts if not verdict.linearizable]
    problems += judge_set(notes.added, notes.lists)
    problems += judge_watches(notes)
    problems += judge_stale(notes)
    return verdicts, problems + judge_locks(notes.holds, notes.fenced, changes)


def judge_registers(
    calls: Iterable[Call], changes: Iterable[Change], end_s: float
) -> tuple[list[Verdict], list[str]]:
    """Whether each key is linearizable, revisions and all."""
    made = {change.value: change.revision for change in changes if change.type == "put"}
    problems: list[str] = []
    ops: list[Op] = []
    for call in calls:
        value = call.given[-1] if call.given else None
        revision = call.revision if call.changed else made.get(value) if call.f in ("put", "cas") else None
        if call.outcome == "refused":
            if value in made:
                problems.append(f"{call} was refused, and is revision {made[value]}")
        elif call.outcome == "ok":
            ops.append(_op(call, call.answer, revision, call.end_s))
        elif revision is not None:
            ops.append(_op(call, True, revision, end_s))
    return check([*ops, *_open_deletes(list(calls), changes, end_s)], REVISIONS), problems


def _op(call: Call, answer: Any, revision: int | None, end_s: float) -> Op:
    given = call.given if call.f == "get" else (*call.given, _NO_REVISION if revision is None else revision)
    return Op(call.key, call.f, given, answer, call.start_s, end_s, label=f"{call.client} via {call.via}")


def _open_deletes(calls: Sequence[Call], changes: Iterable[Change], end_s: float) -> Iterator[Op]:
    """Deletions that happened and were not answered: each may be that of any call which was not."""
    answered = {(call.key, call.revision) for call in calls if call.f == "delete" and call.changed}
    for change in changes:
        if change.type != "delete" or (change.key, change.revision) in answered:
            continue
        starts = [c.start_s for c in calls if c.key == change.key and c.f == "delete" and c.outcome == "open"]
        if starts:
            yield Op(change.key, "delete", (change.revision,), True, min(starts), end_s, label="not answered")


def judge_set(added: Iterable[Call], lists: Iterable[tuple[float, float, list[str]]]) -> list[str]:
    """Whether every list holds all that was acknowledged before it was asked for, and nothing else."""
    calls = {call.key: call for call in added}
    problems = []
    for start_s, end_s, keys in lists:
        where = f"the list of {start_s:.3f} to {end_s:.3f} s"
        if sorted(set(keys)) != keys:
            problems.append(f"{where} is out of order, or has a key twice")
        found = set(keys)
        for key, call in calls.items():
            if call.changed and call.end_s < start_s and key not in found:
                problems.append(f"{where} lacks {key}, acknowledged at {call.end_s:.3f} s")
            if key in found and (call.outcome == "refused" or call.start_s > end_s):
                problems.append(f"{where} has {key}, which was {call.outcome}, from {call.start_s:.3f} s on")
        problems += [f"{where} has {key}, which nobody made" for key in sorted(found - calls.keys())]
    return problems


def judge_stale(notes: Notes) -> list[str]:
    """Whether each read without confirmation was answered what was there at some moment before its end.

    Nothing more is promised: not the newest, not the same through two nodes, and of one node not
    that it goes forward, which it does not when it starts again.  A list is what was there at one moment.
    """
    changes = notes.changes[0] if notes.changes else []
    told = {(change.key, change.revision): change for change in changes}
    began = {call.given[-1]: call.start_s for call in notes.calls if call.f in ("put", "cas")}
    problems = []

    def wrong(key: str, answer: tuple[str | None, int], end_s: float) -> str | None:
        change = told.get((key, answer[1]))
        if change is None or (change.type, change.value) != ("put", answer[0]):
            return f"what no watcher was told: {change}"
        if began.get(change.value, math.inf) > end_s:
            return f"what nobody had asked for yet: {change}"
        return None

    for call in notes.stale:
        # None is what was there before the first change.
        why = None if call.answer is None else wrong(call.key, call.answer, call.end_s)
        if why is not None:
            problems.append(f"{call} was answered {why}")
    for page in notes.pages:
        there = _at(changes, page.revision)
        if page.found != there:
            problems.append(f"{page} is not what was there at this revision: {there}")
        for key, answer in page.found.items():
            why = wrong(key, answer, page.end_s)
            if why is not None:
                problems.append(f"{page} has in {key} {why}")
    return problems


def _at(changes: Iterable[Change], revision: int) -> dict[str, tuple[str | None, int]]:
    """The registers as they were at a revision."""
    found: dict[str, tuple[str | None, int]] = {}
    for change in changes:
        if change.revision > revision:
            break
        if change.key.startswith(REGISTER):
            found.pop(change.key, None)
            if change.type == "put":
                found[change.key] = (change.value, change.revision)
    return found


def judge_watches(notes: Notes) -> list[str]:
    """Whether each watcher was told of every change, in order and once, and of nothing else."""
    problems: list[str] = []
    for number, changes in enumerate(notes.changes):
        problems += [f"watcher {number}: {problem}" for problem in _chain(changes)]
    for one, other in pairwise(notes.changes):
        if one != other:
            at = next((n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
            at = min(len(one), len(other)) if at is None else at
            problems.append(f"two watchers were told otherwise: {one[at : at + 1]} and {other[at : at + 1]}")
    if notes.changes:
        problems += _not_told(notes, {(c.key, c.revision): c for c in notes.changes[0]})
    return problems


def _chain(changes: Sequence[Change]) -> Iterator[str]:
    """What is wrong in the order of the changes, and with each key's versions, which have no gap."""
    last = (0, "")
    versions: dict[str, tuple[int, int]] = {}
    seen: set[tuple[int, str]] = set()
    for change in changes:
        if change.revision < last[0] or (change.revision, change.key) in seen:
            yield f"{change} came after {last}"
        seen.add((change.revision, change.key))
        last = (change.revision, change.key)
        before = versions.get(change.key)
        if change.type != "put":
            if versions.pop(change.key, None) is None:
                yield f"{change}, and the key was not there"
            continue
        version, created = (0, change.revision) if before is None else before
        if (change.version, change.created_revision) != (version + 1, created):
            yield f"{change} follows version {version} of a key that was made at {created}"
        versions[change.key] = (change.version, change.created_revision)


def _not_told(notes: Notes, told: Mapping[tuple[str, int], Change]) -> Iterator[str]:
    for call in (*notes.calls, *notes.added):
        if call.changed:
            change = told.get((call.key, call.revision or 0))
            value = None if call.f == "delete" else call.given[-1]
            if change is None or change.value != value:
                yield f"no watcher was told of {call}, but of {change}"
        elif call.f == "get" and call.answer is not None:
            change = told.get((call.key, call.answer[1]))
            if change is None or change.value != call.answer[0]:
                yield f"{call} was answered what no watcher was told: {change}"
    given = {call.given[-1] for call in (*notes.calls, *notes.added) if call.given}
    given |= {write.value for write in notes.fenced}
    for change in told.values():
        if change.type == "put" and change.value not in given:
            yield f"watchers were told of {change}, which nobody asked for"


def judge_locks(holds: Sequence[Hold], fenced: Iterable[Fenced], changes: Iterable[Change]) -> list[str]:
    """Whether tokens only grew, no stale one was let through, and no lease ended early.

    Early: somebody else had the lock, or a write was refused, before the end that was promised.
    """
    made = {change.value: change.revision for change in changes if change.type == "put"}
    problems: list[str] = []
    for one, other in combinations(sorted(holds, key=lambda hold: hold.got_s), 2):
        if one.lock == other.lock:
            problems += _wrong_tokens(one, other)
            if one.token < other.token and one.got_s < other.asked_s and other.got_s < one.certain_s:
                problems.append(f"two hold the lock at once: {one} and {other}")
    by_lock: dict[str, list[tuple[int, int]]] = {}
    for write in fenced:
        revision = write.revision or made.get(write.value)
        mine = next(hold for hold in holds if (hold.lock, hold.token) == (write.lock, write.token))
        if revision is None:
            held = write.start_s > mine.got_s and write.end_s < mine.certain_s
            if write.outcome == "refused" and held:
                problems.append(f"{write} is refused, and the lock was held: {mine}")
            continue
        if write.outcome == "refused":
            problems.append(f"{write} is refused, and was carried out at revision {revision}")
        by_lock.setdefault(write.lock, []).append((revision, write.token))
        if write.start_s > mine.free_s:
            problems.append(f"{write} is taken, and the lock had been given back: {mine}")
        later = [
            h for h in holds if h.lock == write.lock and h.token > write.token and h.got_s < write.start_s
        ]
        problems += [f"{write} is taken, and somebody else had the lock: {hold}" for hold in later[:1]]
    for lock, writes in by_lock.items():
        for before, after in pairwise(sorted(writes)):
            if after[1] < before[1]:
                problems.append(f"{lock}: a write of token {after[1]} follows one of token {before[1]}")
    return problems


def _wrong_tokens(one: Hold, other: Hold) -> Iterator[str]:
    """one was answered first."""
    if one.token == other.token:
        yield f"two holders have one token: {one} and {other}"
    elif one.got_s < other.asked_s and other.token < one.token:
        yield f"a later token is smaller: {one} and {other}"
