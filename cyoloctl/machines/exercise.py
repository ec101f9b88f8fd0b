"""A machine carried twice through random operations, once through snapshots too: what it gave.

``python -m cyoloctl.machines.exercise MODULE:CLASS A B``: seeds A to B-1, one JSON
object on stdout.  A process of its own, because hash seeds are of a process.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any

from cyoloctl.errors import ConfigError
from cyoloctl.machines.code import Code, Failed, Method, Parameter
from cyoloctl.machines.language import ReadTable, Refuse, Stopped
from cyoloctl.machines.loading import load
from cyoloctl.machines.machine import UserMachines
from cyoloctl.members.machine import MemberMachine
from cyoloctl.replicated.command import Refused
from cyoloctl.text import Json, canonical_json, parse_canonical_json

__all__ = ["Exercise", "draw", "exercise"]

_OPERATIONS = 150
_RESTORE = 0.08
_QUERY = 0.2
_SLOW_S = 0.05
_LIMIT_S = 3.0
_ENDLESS = f"it did not end within {_LIMIT_S:.0f} s"
_MAX_QUERY_BYTES = 256 * 1024
_BEGIN_UNIX_MS = 1_800_000_000_000


def draw(code: Code, rng: random.Random) -> tuple[str, Json]:
    """An operation and its arguments: from the ``examples`` of the class where it has them, else by types."""
    examples = getattr(code.cls(), "examples", None)
    if examples is not None:
        operation, arguments = examples(rng)
        return str(operation), dict(arguments)
    operation = rng.choice(sorted(code.operations))
    return operation, _arguments(code.operations[operation], rng)


def _arguments(method: Method, rng: random.Random) -> Json:
    given = {}
    for each in method.parameters.values():
        if each.required or rng.random() < 0.5:
            given[each.name] = _value(each, rng)
    return given


def _value(parameter: Parameter, rng: random.Random) -> Any:
    kinds = parameter.kinds or frozenset({str, int, bool, list, dict, type(None)})
    name = rng.choice(sorted(kind.__name__ for kind in kinds))
    return _DRAWN[name](rng)


def _text(rng: random.Random) -> str:
    return rng.choice(("a", "b", "c", "a/b", "", "é", "x" * 40))


def _number(rng: random.Random) -> int:
    return rng.choice((0, 1, 1, 2, 3, 7, -1, rng.randrange(1000), 2**63 - 1))


_DRAWN: Mapping[str, Any] = {
    "str": _text,
    "int": _number,
    "bool": lambda rng: rng.random() < 0.5,
    "list": lambda rng: [rng.choice((_text, _number))(rng) for _ in range(rng.randrange(4))],
    "dict": lambda rng: {_text(rng): rng.choice((_text, _number))(rng) for _ in range(rng.randrange(3))},
    "NoneType": lambda rng: None,
}


class Exercise:
    """One seed: the same operations for two machines, one of them restored from its snapshot now and then.

    limit: called with the seconds after which to raise Stopped, 0 for never.
    problems: kind and message of each, the first of a kind only.
    """

    def __init__(self, code: Code, seed: int, limit: Callable[[float], None] = lambda limit_s: None) -> None:
        self._code = code
        self._limit = limit
        self._rng = random.Random(f"{seed} {code.name}")
        self._failed: Failed | None = None
        self._steady, self._restored = self._new(), self._new()
        register = {"machine": code.name, "version": code.version, "digest": code.digest}
        for each in (self._steady, self._restored):
            each.apply("register", register, 1, _BEGIN_UNIX_MS)
        self._seen = sha256()
        self.operations = 0
        self.problems: dict[str, str] = {}
        self.slowest_s = 0.0
        self.slowest = ""

    def _new(self) -> UserMachines:
        machine = UserMachines(MemberMachine(), (self._code,))
        machine.on_failed = self._on_failed
        return machine

    def _on_failed(self, machine: str, operation: str, error: BaseException) -> None:
        self._failed = error if isinstance(error, Failed) else None

    def run(self) -> str:
        """The digest of every answer and of the state at the end."""
        now_ms = _BEGIN_UNIX_MS
        for index in range(2, _OPERATIONS + 2):
            now_ms += self._rng.choice((0, 1, 1000, 60_000))
            operation, arguments = draw(self._code, self._rng)
            try:
                command = parse_canonical_json(canonical_json(arguments))
            except (ValueError, TypeError):
                self._problem("examples", f"no command can hold {arguments!r:.200} for {operation}")
                break
            self._step(operation, command, index, now_ms)
            if "endless" in self.problems:
                break
            if self._rng.random() < _RESTORE:
                self._restore()
            if self._rng.random() < _QUERY:
                self._query(index, now_ms)
        self._restore()
        self._seen.update(_exported(self._steady).encode())
        return self._seen.hexdigest()

    def _problem(self, kind: str, message: str) -> None:
        self.problems.setdefault(kind, message)

    def _step(self, operation: str, arguments: Json, index: int, now_ms: int) -> None:
        shown = f"{operation} {json.dumps(arguments)[:200]}"
        began = time.process_time()
        first = self._apply(self._steady, operation, arguments, index, now_ms)
        took_s = time.process_time() - began
        if took_s > self.slowest_s:
            self.slowest_s, self.slowest = took_s, shown
        if self._failed is not None:
            self._fails(shown, self._failed)
        self._failed = None
        second = self._apply(self._restored, operation, arguments, index, now_ms)
        self.operations += 1
        self._seen.update(first.encode())
        if first != second:
            self._problem("differs", f"{shown} gave {first[:200]}, and {second[:200]} when carried out again")

    def _fails(self, shown: str, failed: Failed) -> None:
        self._problem("endless" if failed.why == _ENDLESS else "raises", f"{shown}: {failed.why}")

    def _apply(self, on: UserMachines, operation: str, arguments: Json, index: int, now_ms: int) -> str:
        given = {"machine": self._code.name, "operation": operation, "arguments": arguments}
        self._limit(_LIMIT_S)
        try:
            return canonical_json(on.apply("apply", given, index, now_ms))
        except Refused as refused:
            if refused.error.code in ("not_found", "unprocessable"):
                self._problem("examples", refused.error.message)
            return canonical_json([refused.error.code, refused.error.message])
        finally:
            self._limit(0)

    def _restore(self) -> None:
        """The second machine goes on from what a snapshot holds of it."""
        snapshot = json.loads(_exported(self._restored))
        fresh = self._new()
        fresh.prepare_restore(snapshot["state"], {"rows": snapshot["rows"]})()
        if _exported(fresh) != _exported(self._steady):
            self._problem("differs", "the tables differ between two that carried out the same operations")
        self._restored = fresh

    def _query(self, index: int, now_ms: int) -> None:
        if not self._code.queries:
            return
        name = self._rng.choice(sorted(self._code.queries))
        arguments = _arguments(self._code.queries[name], self._rng)
        answers = []
        for each in (self._steady, self._restored):
            table = ReadTable(each.table(self._code.name))
            self._limit(_LIMIT_S)
            try:
                method = self._code.queries[name]
                answer = self._code.run(
                    method, table, arguments, _MAX_QUERY_BYTES, index=index, now_unix_ms=now_ms
                )
            except Refuse as refused:
                answer = canonical_json(["refused", refused.text])
            except Failed as failed:
                answer = "failed"
                self._fails(f"query {name} {json.dumps(arguments)[:200]}", failed)
            finally:
                self._limit(0)
            answers.append(answer)
            self._seen.update(answer.encode())
        if answers[0] != answers[1]:
            self._problem("differs", f"query {name} {json.dumps(arguments)[:200]} gave two answers")


def _exported(machine: UserMachines) -> str:
    rows = list(machine.freeze_tables()["rows"])
    return canonical_json({"state": machine.export_state(), "rows": rows})


def exercise(code: Code, seeds: Iterable[int], limit: Callable[[float], None] = lambda limit_s: None) -> Json:
    """What the seeds gave: digests, problems with their seeds, the slowest operation."""
    digests, problems, operations, slowest = [], [], 0, (0.0, "")
    for seed in seeds:
        one = Exercise(code, seed, limit)
        digests.append(one.run())
        operations += one.operations
        problems += [{"kind": kind, "seed": seed, "message": text} for kind, text in one.problems.items()]
        slowest = max(slowest, (one.slowest_s, one.slowest))
    slow = f"{slowest[1]} took {slowest[0] * 1000:.0f} ms" if slowest[0] > _SLOW_S else None
    return {"digests": digests, "problems": problems, "operations": operations, "slow": slow}


def _set_alarm(limit_s: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, limit_s)


def main(words: list[str]) -> int:
    """The process: see the module."""
    target, begin, end = words

    def ring(number: int, frame: object) -> None:
        raise Stopped(_ENDLESS)

    signal.signal(signal.SIGALRM, ring)
    try:
        found = exercise(load(target), range(int(begin), int(end)), _set_alarm)
    except ConfigError as error:
        found = {"error": error.message}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
