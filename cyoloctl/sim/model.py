"""A second, naive implementation of what the replicated state promises.

It is told each command once, in the order of the log, and what the real state
machines answered.  It remembers request ids in one plain list a table, counts
the counters, and keeps a few promises across all machines: see `Promises`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from cyoloctl.counters.machine import MAX_VALUE, MIN_VALUE
from cyoloctl.model import NO_STAMP, Stamp
from cyoloctl.replicated.command import Command, decode_command
from cyoloctl.replicated.machine import Machine
from cyoloctl.replicated.requests import TableLimits
from cyoloctl.sim.own_machine import OwnJudge
from cyoloctl.sim.promises import Promises
from cyoloctl.state import ClusterState, StateLimits
from cyoloctl.text import Json, canonical_json

__all__ = ["Model", "code_of"]

_FORGET_AT_ONCE = 200
_KINDS = ("client", "node", "browser", "refused")
_LIMITS = StateLimits()


def code_of(answer: Json) -> str | None:
    """The code of a refusal; None for a success."""
    error = answer.get("error")
    return None if error is None else error["code"]


@dataclass(frozen=True, slots=True)
class _Request:
    """A request that a table remembers."""

    identity: str
    caller: str
    steady_ms: int
    index: int
    answer: Json


class _Table:
    """The memory of one kind of request ids, as the module ``cyoloctl.state`` promises it."""

    def __init__(self, limits: TableLimits) -> None:
        self._limits = limits
        self._requests: dict[str, _Request] = {}  # the oldest first
        self.horizon = -1

    def find(self, key: str) -> _Request | None:
        return self._requests.get(key)

    def remember(self, key: str, request: _Request) -> None:
        self._requests[key] = request

    def forget(self, steady_ms: int) -> None:
        limits = self._limits
        for _ in range(_FORGET_AT_ONCE):
            if not self._requests:
                return
            count, (key, oldest) = len(self._requests), next(iter(self._requests.items()))
            age = steady_ms - oldest.steady_ms
            old = age >= limits.expiry_ms or (
                limits.keep_ms > 0 and count > limits.soft and age >= limits.keep_ms
            )
            if not old and count > limits.hard:
                key = self._oldest_of_the_largest()
            elif not old:
                return
            self.horizon = max(self.horizon, self._requests.pop(key).index)

    def _oldest_of_the_largest(self) -> str:
        """Of callers with equally many, the one whose oldest is the older."""
        counts = Counter(request.caller for request in self._requests.values())
        most = max(counts.values())
        return next(key for key, request in self._requests.items() if counts[request.caller] == most)


class Model:
    """The expected answers: exactly those of the counters, and of every repetition.

    applied: how often each operation was carried out, and refused, by name.
    """

    def __init__(self, limits: StateLimits = _LIMITS) -> None:
        self.values: dict[str, int] = {}
        self.history: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.given: dict[str, list[tuple[int, bytes, Json]]] = defaultdict(list)
        """Request id -> each index at which it was answered, the command, the answer."""
        self.applied: Counter[str] = Counter()
        self._tables = {kind: _Table(limits.requests.of(kind)) for kind in _KINDS}
        self._executed: dict[tuple[str, str], int] = {}  # kind, id -> the last index where it was carried out
        self._drawn = _drawn()
        self._promises = Promises(limits)
        self.own: OwnJudge | None = None
        self._stamp = NO_STAMP

    def apply(
        self, index: int, command: bytes, after: int | None, answer: Json, stamp: Stamp
    ) -> tuple[str | None, bool]:
        """The fault in the answer to a command at an index, or None; and whether it was carried out.

        stamp: of the entry.
        """
        self._advance(stamp)
        request = decode_command(command)
        self.given[request.request_id].append((index, command, answer))
        table, refused = self._tables[request.kind], self._tables["refused"]
        refused_id = f"{request.kind} {request.request_id}"
        known = table.find(request.request_id) or refused.find(refused_id)
        identity = self._identity(request)
        code, name = code_of(answer), f"request {request.request_id}"
        if known is not None:
            if identity != known.identity:
                return (None if code == "conflict" else f"{name} is another, answered {answer}"), False
            told = f"{name} was answered {known.answer} at {known.index}, {answer} at {index}"
            return (None if answer == known.answer else told), False
        if after is not None and after < max(table.horizon, refused.horizon):
            wrong = f"{name} of {after} is older than what is remembered and was answered {answer} at {index}"
            self.applied["refused as forgotten"] += 1
            return (None if code == "outcome_unknown" else wrong), False
        key = (request.kind, request.request_id)
        before, self._executed[key] = self._executed.get(key, -1), index
        if after is not None and after < before:
            return f"{name} of {after} was applied at {before} and again at {index}", True
        if before >= 0:
            self.applied["asked for again when it was forgotten"] += 1
        self.applied[f"{request.machine}.{request.operation}{' refused' if code else ''}"] += 1
        wrong_answer = self._check(index, request, answer)
        steady_ms = self._stamp.steady_ms
        into, place = (refused, refused_id) if code else (table, request.request_id)
        into.remember(place, _Request(identity, request.caller, steady_ms, index, answer))
        table.forget(steady_ms)
        refused.forget(steady_ms)
        return (None if wrong_answer is None else f"{name}: {wrong_answer}"), True

    def _identity(self, request: Command) -> str:
        drawn = self._drawn.get((request.machine, request.operation), frozenset())
        given = {name: value for name, value in request.arguments.items() if name not in drawn}
        return canonical_json([request.machine, request.operation, given])

    def _advance(self, stamp: Stamp) -> None:
        """Time goes on; an entry of an epoch before was appended before the time was set."""
        now = self._stamp
        time_ms = max(now.time_unix_ms, stamp.time_unix_ms) if stamp.epoch == now.epoch else now.time_unix_ms
        self._stamp = Stamp(now.epoch, time_ms, max(now.steady_ms, stamp.steady_ms))

    def _check(self, index: int, request: Command, answer: Json) -> str | None:
        if request.machine == "counter":
            return self._count(index, request, answer)
        if self.own is not None and (request.machine, request.operation) == ("machines", "apply"):
            return self.own.applied(request, answer, index, self._stamp.time_unix_ms)
        wrong = self._promises.applied(request, answer, self._stamp)
        if request.machine == "clock" and "value" in answer:
            set_to = request.arguments["to_unix_ms"]
            self._stamp = Stamp(self._stamp.epoch + 1, set_to, self._stamp.steady_ms)
        return wrong

    def _count(self, index: int, request: Command, answer: Json) -> str | None:
        name = request.arguments["name"]
        value = 0 if request.operation == "reset" else self.values.get(name, 0) + request.arguments["by"]
        if not MIN_VALUE <= value <= MAX_VALUE:
            return None if code_of(answer) == "counter_overflow" else f"answered {answer} beyond 64 bits"
        expected = {"index": index, "value": {"name": name, "value": value}}
        if answer != expected:
            return f"answered {answer}, not {expected}"
        self.values[name] = value
        self.history[name].append((index, value))
        return None

    def value_at(self, name: str, index: int) -> int | None:
        """The counter after everything up to an index."""
        found = None
        for position, value in reversed(self.history[name]):
            if position <= index:
                found = value
                break
        return found


def _drawn() -> dict[tuple[str, str], frozenset[str]]:
    """Arguments that do not tell two commands apart, by machine and operation."""
    machines = [machine for machine in vars(ClusterState()).values() if isinstance(machine, Machine)]
    return {(each.NAME, operation): names for each in machines for operation, names in each.DRAWN.items()}
