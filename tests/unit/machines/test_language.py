"""Tables as machines see them."""

from __future__ import annotations

from typing import Any

import pytest

import cyoloctl
from cyoloctl.machines.language import MAX_RANGE, ReadTable, Table, Unfit
from cyoloctl.replicated.table import Table as Rows


def table(*keys: str) -> Table:
    made = Table(Rows())
    for number, key in enumerate(keys):
        made.set(key, number)
    return made


def keys(found: list[tuple[str, Any]]) -> list[str]:
    return [key for key, _ in found]


def test_package_offers_what_machines_are_written_in() -> None:
    from cyoloctl.machines import language

    for name in ("StateMachine", "operation", "query", "Refuse", "Table", "ReadTable"):
        assert getattr(cyoloctl, name) is getattr(language, name)
        assert name in cyoloctl.__all__


def test_range_is_of_a_prefix_in_order_and_bounded() -> None:
    rows = table("b/2", "a", "b/1", "b", "c", "b0", "é")
    assert keys(rows.range()) == ["a", "b", "b/1", "b/2", "b0", "c", "é"]
    assert keys(rows.range("b/")) == ["b/1", "b/2"]
    assert keys(rows.range("b", limit=2)) == ["b", "b/1"]
    assert keys(rows.range("b", start="b/2")) == ["b/2", "b0"]
    assert keys(rows.range("b", after="b/1")) == ["b/2", "b0"]
    assert keys(rows.range("b", after="a")) == ["b", "b/1", "b/2", "b0"]
    assert keys(rows.range(start="bz", after="a")) == ["c", "é"]
    assert rows.range("d") == [] == Table(Rows()).range()
    for limit in (0, MAX_RANGE + 1, True):
        with pytest.raises(Unfit):
            rows.range(limit=limit)


def test_value_that_was_read_is_a_copy() -> None:
    rows = table()
    rows.set("a", {"b": [1]})
    rows.get("a")["b"].append(2)
    assert rows.get("a") == {"b": [1]}
    assert rows.range()[0][1] == {"b": [1]}


@pytest.mark.parametrize("key", ["", "x" * 513, "é" * 257, "\ud800", 1, None, b"a"])
def test_key_that_no_table_takes_is_unfit(key: Any) -> None:
    rows = table()
    for call in (
        lambda: rows.set(key, 1),
        lambda: rows.get(key),
        lambda: rows.delete(key),
        lambda: key in rows,
    ):
        with pytest.raises(Unfit):
            call()


@pytest.mark.parametrize(
    "value", [1.0, {1}, b"a", object(), 2**64, -(2**63) - 1, "x" * 262_144, {1: 2}, ["\ud800"]]
)
def test_value_that_no_table_takes_is_unfit_and_changes_nothing(value: Any) -> None:
    rows = table("a")
    with pytest.raises(Unfit):
        rows.set("a", value)
    assert rows.get("a") == 0


def test_largest_key_and_value_are_taken() -> None:
    rows = table()
    rows.set("x" * 512, "y" * 262_142)
    rows.set("n", [2**64 - 1, -(2**63), (1, None, True)])
    assert len(rows.get("x" * 512)) == 262_142
    assert rows.get("n") == [2**64 - 1, -(2**63), [1, None, True]]
    assert (len(rows), "n" in rows, "m" in rows) == (2, True, False)


def test_size_is_told_of_what_was_added_and_taken_away() -> None:
    sizes: list[tuple[int, int]] = []
    rows = Table(Rows(), sized=lambda count, size: sizes.append((count, size)))
    rows.set("key", "a")
    rows.set("key", "abc")
    assert (rows.delete("key"), rows.delete("key")) == (True, False)
    assert sizes == [(1, 6), (0, 2), (-1, -8)]


def test_reader_cannot_write() -> None:
    assert not hasattr(ReadTable(Rows()), "set")
    assert not hasattr(ReadTable(Rows()), "delete")
