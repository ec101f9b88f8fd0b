"""The keys and their entries: a table of plain rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cyoloctl.kv.records import Entry
from cyoloctl.replicated.table import Frozen, Table

__all__ = ["Entries"]


class Entries:
    """Entries by key, ascending.

    They are kept as tuples of bytes and numbers alone, which Python's collector of cycles lets go
    of: with a million objects of a class it takes half a second to walk them, and nothing else runs.
    """

    def __init__(self, rows: Iterable[tuple[str, tuple[Any, ...]]] = ()) -> None:
        """rows: entries or their fields, ascending by key, none twice.  Raises ValueError."""
        self._table: Table[tuple[Any, ...]] = Table((key, tuple(entry)) for key, entry in rows)

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, key: str) -> bool:
        return key in self._table

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        """Every entry, ascending.  None may change meanwhile: see `freeze`."""
        return ((key, Entry(*row)) for key, row in self._table)

    def get(self, key: str) -> Entry | None:
        """The entry of a key; None where there is none."""
        row = self._table.get(key)
        return None if row is None else Entry(*row)

    def rows_from(self, key: str, *, after: bool = False) -> Iterator[tuple[str, Entry]]:
        """The entries from a key on, ascending; after: without its own.  None may change meanwhile."""
        return ((each, Entry(*row)) for each, row in self._table.rows_from(key, after=after))

    def set(self, key: str, entry: Entry) -> None:
        """Make an entry, or replace it."""
        self._table.set(key, tuple(entry))

    def pop(self, key: str) -> Entry | None:
        """Take an entry away; None where there was none."""
        row = self._table.pop(key)
        return None if row is None else Entry(*row)

    def freeze(self) -> Frozen[tuple[Any, ...]]:
        """The fields of all entries at this moment, whatever is changed meanwhile."""
        return self._table.freeze()
