"""An ordered table, of which the rows of a moment can be had at once, however many they are.

The rows are in blocks of ascending keys.  `Table.freeze` copies the list of
blocks, a few thousand for a million rows; a block that is changed afterwards is
copied first.  So a snapshot reads the rows of its moment in another thread
while commands change the table, without a copy of it and without a lock.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

__all__ = ["Frozen", "Table"]

_V = TypeVar("_V")

_LARGEST = 256
"""Rows of a block: more are split, fewer than an eighth are joined with the next block's."""


class _Block(Generic[_V]):
    __slots__ = ("age", "keys", "values")

    def __init__(self, keys: list[str], values: list[_V], age: int) -> None:
        self.keys = keys
        self.values = values
        self.age = age


class Frozen(Generic[_V]):
    """The rows of a moment, ascending, to be read from any thread, as often as wanted."""

    def __init__(self, blocks: list[_Block[_V]], length: int) -> None:
        self._blocks = blocks
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[str, _V]]:
        for block in self._blocks:
            yield from zip(block.keys, block.values, strict=True)


class Table(Generic[_V]):
    """Rows by key, which is text, ascending by code point.

    A row takes 16 bytes beside its key and value.  Reading and writing one takes
    about a microsecond, whatever the number of rows.
    Values are never changed in place: whoever changes one sets another.
    """

    def __init__(self, rows: Iterable[tuple[str, _V]] = ()) -> None:
        """rows: ascending by key, none twice.  Raises ValueError."""
        self._age = 0
        self._blocks: list[_Block[_V]] = []
        self._length = 0
        keys: list[str] = []
        values: list[_V] = []
        last: str | None = None
        for key, value in rows:
            if last is not None and key <= last:
                raise ValueError("the keys are not in order")
            last = key
            keys.append(key)
            values.append(value)
            if len(keys) == _LARGEST // 2:  # with room for as many again
                self._append(keys, values)
                keys, values = [], []
        if keys:
            self._append(keys, values)
        self._lasts = [block.keys[-1] for block in self._blocks]

    def _append(self, keys: list[str], values: list[_V]) -> None:
        self._blocks.append(_Block(keys, values, 0))
        self._length += len(keys)

    def __len__(self) -> int:
        return self._length

    def __contains__(self, key: str) -> bool:
        at = bisect_left(self._lasts, key)
        if at == len(self._lasts):
            return False
        keys = self._blocks[at].keys
        return keys[bisect_left(keys, key)] == key

    def get(self, key: str) -> _V | None:
        """The value of a key; None where there is none."""
        at = bisect_left(self._lasts, key)
        if at == len(self._lasts):
            return None
        block = self._blocks[at]
        place = bisect_left(block.keys, key)
        return block.values[place] if block.keys[place] == key else None

    def __iter__(self) -> Iterator[tuple[str, _V]]:
        """Every row, ascending.  The table must not change meanwhile: see `freeze`."""
        return iter(self.freeze())

    def rows_from(self, key: str, *, after: bool = False) -> Iterator[tuple[str, _V]]:
        """The rows from a key on, ascending; after: without its own.  The table must not change meanwhile."""
        at = bisect_left(self._lasts, key)
        if at == len(self._lasts):
            return
        block = self._blocks[at]
        start = (bisect_right if after else bisect_left)(block.keys, key)
        yield from zip(block.keys[start:], block.values[start:], strict=True)
        for later in range(at + 1, len(self._blocks)):
            block = self._blocks[later]
            yield from zip(block.keys, block.values, strict=True)

    def set(self, key: str, value: _V) -> None:
        """Make a row, or replace its value."""
        at = bisect_left(self._lasts, key)
        if at == len(self._lasts):
            if not at:
                self._blocks.append(_Block([key], [value], self._age))
                self._lasts.append(key)
                self._length = 1
                return
            at -= 1  # after the last of all
        block = self._own(at)
        keys = block.keys
        place = bisect_left(keys, key)
        if place < len(keys) and keys[place] == key:
            block.values[place] = value
            return
        keys.insert(place, key)
        block.values.insert(place, value)
        self._length += 1
        if len(keys) > _LARGEST:
            middle = len(keys) // 2
            self._blocks.insert(at + 1, _Block(keys[middle:], block.values[middle:], self._age))
            self._lasts.insert(at + 1, keys[-1])
            del keys[middle:], block.values[middle:]
        self._lasts[at] = keys[-1]

    def pop(self, key: str) -> _V | None:
        """Take a row away; its value, None where there was none."""
        at = bisect_left(self._lasts, key)
        if at == len(self._lasts):
            return None
        place = bisect_left(self._blocks[at].keys, key)
        if self._blocks[at].keys[place] != key:
            return None
        block = self._own(at)
        del block.keys[place]
        value = block.values.pop(place)
        self._length -= 1
        if len(block.keys) < _LARGEST // 8:
            self._join(at)
        else:
            self._lasts[at] = block.keys[-1]
        return value

    def _join(self, at: int) -> None:
        """A block has become small: put it together with the next one, or the one before."""
        if len(self._blocks) > 1:
            at = min(at, len(self._blocks) - 2)
            block, following = self._own(at), self._blocks[at + 1]
            if len(block.keys) + len(following.keys) <= _LARGEST:
                block.keys += following.keys
                block.values += following.values
                del self._blocks[at + 1], self._lasts[at + 1]
            else:
                self._refresh(at + 1)
        self._refresh(at)

    def _refresh(self, at: int) -> None:
        keys = self._blocks[at].keys
        if keys:
            self._lasts[at] = keys[-1]
        else:
            del self._blocks[at], self._lasts[at]

    def clear(self) -> None:
        """Take every row away."""
        self._blocks, self._lasts, self._length = [], [], 0

    def freeze(self) -> Frozen[_V]:
        """The rows of this moment, whatever is changed meanwhile.  A few microseconds per 10,000 rows."""
        self._age += 1
        return Frozen(self._blocks.copy(), self._length)

    def copy(self) -> Table[_V]:
        """Another table of the same rows: neither sees the other's changes.  Costs what `freeze` does."""
        frozen = self.freeze()
        copy: Table[_V] = Table()
        copy._age, copy._length = self._age, self._length
        copy._blocks, copy._lasts = frozen._blocks, self._lasts.copy()
        return copy

    def _own(self, at: int) -> _Block[_V]:
        """The block, copied first where a frozen table may have it too."""
        block = self._blocks[at]
        if block.age != self._age:
            block = self._blocks[at] = _Block(block.keys.copy(), block.values.copy(), self._age)
        return block
