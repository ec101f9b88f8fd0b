"""What machines are written in: the class, its two kinds of methods, and the table that they are handed.

Whoever writes a machine imports these from ``cyoloctl``.  Pure: no clock, no
randomness, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, ClassVar, TypeVar

from cyoloctl.replicated.table import Table as Rows
from cyoloctl.text import canonical_json, parse_canonical_json, utf8_or_none

__all__ = [
    "KIND",
    "MAX_KEY_BYTES",
    "MAX_RANGE",
    "MAX_VALUE_BYTES",
    "ReadTable",
    "Refuse",
    "StateMachine",
    "Stopped",
    "Table",
    "Unfit",
    "fit",
    "operation",
    "query",
]

MAX_KEY_BYTES = 512
MAX_VALUE_BYTES = 256 * 1024
"""Of the canonical JSON of a value."""
MAX_RANGE = 10_000
_MAX_DEPTH = 12

KIND = "__cyoloctl_kind__"
"""The attribute that marks a method."""

_F = TypeVar("_F", bound=Callable[..., Any])


class Refuse(Exception):
    """Raised by an operation or a query that says no: nothing is changed, and the caller reads the text.

    text: lower case, what is wrong and what to do about it; it is cut after 1,000 characters.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Unfit(ValueError):
    """A key or a value that a table, or an answer, cannot hold."""


class Stopped(BaseException):
    """A method has used up what it may use.  No Exception: a method does not catch it by mistake."""


class StateMachine:
    """The base of a machine.

    NAME: of the machine in commands: 1 to 63 of a-z, 0-9 and '-'.
    VERSION: raised, in a module of another name, for each change of the code.

    Methods marked with `operation` and `query` get a table, and what a caller
    gives by the names of their parameters.  An instance is made for each call:
    what has to last is in the table.
    """

    NAME: ClassVar[str]
    VERSION: ClassVar[int] = 1


def operation(method: _F) -> _F:
    """Mark a method that may change the table.  Each call is replicated, and carried out exactly once.

    It depends on its arguments and the table alone, so that it does the same on
    every node.  It gets ``index``, of the log entry, and ``now_unix_ms``, the
    cluster's time, where it has parameters of these names.
    """
    setattr(method, KIND, "operation")
    return method


def query(method: _F) -> _F:
    """Mark a method that reads the table: it gets a `ReadTable`."""
    setattr(method, KIND, "query")
    return method


class ReadTable:
    """An ordered table of text to JSON, of one moment.

    step: called before each row that is read or written; may raise Stopped.
    """

    def __init__(self, rows: Rows[str], step: Callable[[], None] = lambda: None) -> None:
        self._rows = rows
        self._step = step

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        self._step()
        return _key(key) in self._rows

    def get(self, key: str, default: Any = None) -> Any:
        """A copy of the value of a key; default where there is none."""
        self._step()
        text = self._rows.get(_key(key))
        return default if text is None else parse_canonical_json(text)

    def range(
        self, prefix: str = "", *, start: str = "", after: str | None = None, limit: int = 1000
    ) -> list[tuple[str, Any]]:
        """Keys that begin with a prefix, and their values, ascending by code point.

        start: the first key that is wanted.  after: only keys above this one.  limit: 1 to 10,000 rows.

        Raises Unfit for another limit.
        """
        if type(limit) is not int or not 1 <= limit <= MAX_RANGE:
            raise Unfit(f"the limit of a range is not valid: use 1 to {MAX_RANGE}")
        first = max(prefix, start)
        above = after is not None and after >= first
        found = []
        for key, text in islice(self._rows.rows_from((after or "") if above else first, after=above), limit):
            if not key.startswith(prefix):
                break  # those that do stand together, from the prefix on
            self._step()
            found.append((key, parse_canonical_json(text)))
        return found


class Table(ReadTable):
    """The table of an operation.  What it changes counts once the method has returned."""

    def __init__(
        self,
        rows: Rows[str],
        step: Callable[[], None] = lambda: None,
        sized: Callable[[int, int], None] = lambda rows, size: None,
    ) -> None:
        """sized: called with rows and characters that were added; negative ones were taken away."""
        super().__init__(rows, step)
        self._sized = sized

    def set(self, key: str, value: Any) -> None:
        """Give a key a value: text, integers of 64 bits, booleans, None, lists and dicts of those.

        Raises Unfit for anything else, floats too, for a key of more than 512
        bytes, and for a value of more than 256 KiB.
        """
        self._step()
        text = fit(value, MAX_VALUE_BYTES, "a value")
        old = self._rows.get(_key(key))
        if old is None:
            self._sized(1, len(key) + len(text))
        else:
            self._sized(0, len(text) - len(old))
        self._rows.set(key, text)

    def delete(self, key: str) -> bool:
        """Take a key away; False where there was none."""
        self._step()
        old = self._rows.pop(_key(key))
        if old is not None:
            self._sized(-1, -len(key) - len(old))
        return old is not None


def fit(value: object, most_bytes: int, what: str) -> str:
    """The canonical JSON of a value.  Raises Unfit for what is no JSON without fractions, or too long."""
    _check(value, what, 0)
    text = canonical_json(value)
    if len(text) > most_bytes:
        raise Unfit(f"{what} takes {len(text)} bytes as JSON: at most {most_bytes} are possible")
    return text


def _key(key: object) -> str:
    data = utf8_or_none(key) if type(key) is str else None
    if type(key) is not str or data is None or not 0 < len(data) <= MAX_KEY_BYTES:
        raise Unfit(f"a key of a table is not valid: use text of 1 to {MAX_KEY_BYTES} bytes")
    return key


def _check(value: object, what: str, depth: int) -> None:
    if value is None or type(value) is bool:
        return
    if type(value) is str:
        if not value.isascii() and utf8_or_none(value) is None:
            raise Unfit(f"{what} holds half of a surrogate pair, which is no character")
    elif type(value) is int:
        if not -(2**63) <= value < 2**64:
            raise Unfit(f"{what} holds an integer beyond 64 bits: use text")
    elif depth >= _MAX_DEPTH:
        raise Unfit(f"{what} is nested more than {_MAX_DEPTH} deep")
    elif type(value) is dict:
        for name, each in value.items():
            if type(name) is not str:
                raise Unfit(f"{what} holds an object whose names are no text")
            _check(name, what, depth + 1)
            _check(each, what, depth + 1)
    elif type(value) in (list, tuple):
        for each in value:  # type: ignore[attr-defined]  # a list or tuple, by the line above
            _check(each, what, depth + 1)
    else:
        raise Unfit(f"{what} is not JSON: use text, integers, true, false, null, lists and objects")
