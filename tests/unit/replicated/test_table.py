"""The ordered table: what it holds, and that a frozen one stays as it was."""

from __future__ import annotations

import random
import threading

import pytest

from cyoloctl.replicated.table import Frozen, Table


def _agree(table: Table[int], model: dict[str, int]) -> None:
    assert list(table) == sorted(model.items())
    assert len(table) == len(model)


@pytest.mark.parametrize("seed", range(8))
def test_table_does_as_a_dictionary_and_frozen_ones_stay(seed: int) -> None:
    rng = random.Random(seed)
    known = sorted(f"k{number:05d}" for number in rng.sample(range(3000), 700))
    table, model = Table((key, 0) for key in known), dict.fromkeys(known, 0)
    kept: list[tuple[Frozen[int], list[tuple[str, int]]]] = []
    growing = True
    for step in range(12_000):
        if step % 3000 == 0:
            growing = not growing
        key = f"k{rng.randrange(3000):05d}"
        if rng.random() < (0.7 if growing else 0.3):
            table.set(key, step)
            model[key] = step
        else:
            assert table.pop(key) == model.pop(key, None)
        assert table.get(key) == model.get(key)
        assert (key in table) == (key in model)
        if rng.random() < 0.01:
            kept.append((table.freeze(), sorted(model.items())))
        if step % 500 == 0:
            _agree(table, model)
            start = f"k{rng.randrange(3100):05d}"
            rows = sorted(model.items())
            assert list(table.rows_from(start)) == [row for row in rows if row[0] >= start]
            assert list(table.rows_from(start, after=True)) == [row for row in rows if row[0] > start]
    for frozen, rows in kept:
        assert list(frozen) == rows == list(frozen)
        assert len(frozen) == len(rows)


def test_table_can_be_emptied_and_filled_again() -> None:
    table: Table[int] = Table()
    for _ in range(2):
        for number in range(2000):
            table.set(f"{number:04d}", number)
        frozen = table.freeze()
        for number in reversed(range(2000)):
            assert table.pop(f"{number:04d}") == number
        _agree(table, {})
        assert table.get("0001") is None
        assert "0001" not in table
        assert table.pop("0001") is None
        assert len(list(frozen)) == 2000
    table.set("a", 1)
    table.clear()
    _agree(table, {})


def test_rows_out_of_order_are_refused() -> None:
    for rows in ([("b", 1), ("a", 1)], [("a", 1), ("a", 2)]):
        with pytest.raises(ValueError, match="order"):
            Table(rows)


def test_frozen_table_is_read_in_another_thread_while_the_table_changes() -> None:
    table = Table((f"{number:06d}", 0) for number in range(20_000))
    frozen, sums, started = table.freeze(), list[int](), threading.Event()

    def read() -> None:
        started.set()
        for _ in range(5):
            sums.append(sum(value for _, value in frozen))

    thread = threading.Thread(target=read)
    thread.start()
    assert started.wait(10)
    number = 0
    while thread.is_alive() and number < 2_000_000:
        table.set(f"{number % 30_000:06d}", 1)
        if number % 7 == 0:
            table.pop(f"{(number * 31) % 30_000:06d}")
        number += 1
    thread.join(30)
    assert sums == [0] * 5


def _blocks(table: Table[int]) -> list[list[str]]:
    """The keys of each block; what the table knows of them is right."""
    blocks = [block.keys for block in table._blocks]
    assert table._lasts == [keys[-1] for keys in blocks]
    assert all(len(block.keys) == len(block.values) for block in table._blocks)
    return blocks


def _most(table: Table[int]) -> int:
    return max(map(len, _blocks(table)))


@pytest.mark.parametrize("seed", range(2))
def test_blocks_are_neither_large_nor_many_and_their_last_keys_are_known(seed: int) -> None:
    rng = random.Random(seed)
    keys = [f"{number:05d}" for number in range(20_000)]
    table = Table((key, 0) for key in keys[::2])
    for order in (keys, keys[::-1], rng.sample(keys, len(keys))):
        for number, key in enumerate(order):
            table.set(key, number)
            if number % 500 == 0:
                assert _most(table) <= 256
        assert len(_blocks(table)) <= len(table) // 64
        for number, key in enumerate(rng.sample(keys, 19_900)):
            table.pop(key)
            if number % 500 == 0:
                assert _most(table) <= 256
        assert len(table) == 100
        assert len(_blocks(table)) <= 20


def test_last_block_that_becomes_small_beside_a_full_one_keeps_its_rows() -> None:
    """The two are too many to be put together."""
    table: Table[int] = Table()
    for number in range(129 + 250):
        table.set(f"{number:04d}", number)
    assert list(map(len, _blocks(table))) == [128, 251]
    for number in range(120):
        table.set(f"0000-{number:04d}", number)
    assert list(map(len, _blocks(table))) == [248, 251]
    for number in reversed(range(130, 379)):
        table.pop(f"{number:04d}")
        assert table.get(f"{number - 1:04d}") == number - 1
        assert f"{number:04d}" not in table
        _blocks(table)
    assert len(table) == 130 + 120


def test_block_that_is_joined_with_the_one_before_leaves_frozen_rows() -> None:
    table = Table((f"{number:04d}", number) for number in range(128 + 40))
    assert list(map(len, _blocks(table))) == [128, 40]
    for number in range(128, 136):
        table.pop(f"{number:04d}")
    frozen = table.freeze()
    rows = list(frozen)
    table.pop("0136")
    assert list(map(len, _blocks(table))) == [159]
    assert list(frozen) == rows
    assert len(rows) == 160


def test_copy_and_table_do_not_see_each_others_changes() -> None:
    rng = random.Random(7)
    table, naive = Table[int](), dict[str, int]()
    for step in range(3000):
        copy, before = table.copy(), dict(naive)
        for _ in range(rng.randrange(3)):
            key = str(rng.randrange(900))
            if rng.random() < 0.3:
                copy.pop(key)
                naive.pop(key, None)
            else:
                copy.set(key, step)
                naive[key] = step
        if step % 100 == 0:
            table.set("x", -step)
            assert dict(table) == {**before, "x": -step}
            assert "x" not in copy
            table.pop("x")
        assert len(table) == len(before)
        if step % 50 == 0:
            assert dict(copy) == naive
            assert dict(table) == before
        table = copy
    assert list(table) == sorted(naive.items())
