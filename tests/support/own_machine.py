"""A machine of a user's, with methods that go wrong in every way, and one of a later version."""

from __future__ import annotations

from typing import Any

from cyoloctl import ReadTable, Refuse, StateMachine, Table, operation, query
from cyoloctl.machines.code import Code, code_of

__all__ = ["CODE", "LATER", "Later", "Try"]


class Try(StateMachine):
    NAME = "try"

    @operation
    def put(self, table: Table, key: str, value: Any = None) -> Any:
        """Set a row."""
        before = table.get(key)
        table.set(key, value)
        return before

    @operation
    def take(self, table: Table, key: str, count: int | None = None) -> bool:
        return table.delete(key)

    @operation
    def stamp(self, table: Table, index: int, now_unix_ms: int) -> list[int]:
        return [index, now_unix_ms]

    @operation
    def go_wrong(self, table: Table, how: str) -> Any:
        table.set("half", 1)
        if how == "refuse":
            raise Refuse("no: ask again tomorrow")
        if how == "refuse with a number":
            raise Refuse(7)  # type: ignore[arg-type]  # what a careless author writes
        if how == "exit":
            raise SystemExit(3)
        if how == "recurse":
            return self.go_wrong(table, how)
        if how == "many":
            while True:
                try:
                    table.get("a")
                except Exception:
                    return None
        if how == "swallow":
            try:
                while True:
                    table.get("a")
            except BaseException:
                return None
        answers: dict[str, Any] = {
            "float": 0.5,
            "set": {1},
            "long": "x" * 5000,
            "large": 2**64,
            "surrogate": "\ud800",
            "deep": [[[[[[[[[[[[[[[]]]]]]]]]]]]]]],
            "names": {1: 2},
        }
        return answers[how]

    @query
    def get(self, table: ReadTable, key: str) -> Any:
        return table.get(key)

    @query
    def rows(self, table: ReadTable, prefix: str = "", limit: int = 1000) -> list[Any]:
        return [list(row) for row in table.range(prefix, limit=limit)]

    @query
    def spin(self, table: ReadTable, read: bool = False) -> None:
        while True:
            if read:
                table.get("a")


class Later(Try):
    VERSION = 2


CODE: Code = code_of(Try, "a" * 64)
LATER: Code = code_of(Later, "b" * 64)
