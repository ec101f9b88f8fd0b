"""A chain in memory: what is kept, what is cut, and what a snapshot gives back."""

from __future__ import annotations

import pytest

from cyoloctl.audit.chain import AuditLimits, Lines, Row
from cyoloctl.audit.lines import FIRST, Verifier, common_of

SMALL = AuditLimits(lines=40, bytes=10**6, block=8)
ANN = common_of("data", ("ann", "operator", "", "socket", "n1", "counter.add"))


def row(number: int, subject: str = "c") -> Row:
    return (ANN, 1, number, "done", f"r{number}", subject, number)


def filled(count: int, limits: AuditLimits = SMALL) -> Lines:
    lines = Lines("data", limits)
    for number in range(1, count + 1):
        lines.append(row(number))
    return lines


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 63, 64, 65, 200])
def test_what_is_left_verifies_and_joins_what_was_cut(count: int) -> None:
    lines, whole = filled(count), filled(count, AuditLimits())
    assert lines.last == count
    assert lines.head == whole.head
    assert len(lines) <= 40
    page = lines.page(1, 1000)
    assert page == whole.page(lines.cut_through + 1, 1000)
    assert lines.cut_hash == (whole.hash_at(lines.cut_through) or FIRST)
    verifier = Verifier()
    for line in page:
        verifier.follow(line)
    if page:
        assert verifier.ends["data"] == (lines.cut_through + 1, count, lines.cut_hash, lines.head)


def test_the_oldest_are_cut_before_there_are_more_than_the_bound() -> None:
    lines = Lines("data", SMALL)
    most = 0
    for number in range(1, 500):
        lines.append(row(number))
        most = max(most, len(lines))
        assert lines.last - lines.cut_through == len(lines.page(1, 1000))
    assert 32 <= most <= 40


def test_the_oldest_are_cut_before_they_take_more_bytes_than_the_bound() -> None:
    limits = AuditLimits(lines=10**6, bytes=40_000, block=8)
    lines = Lines("data", limits)
    for number in range(1, 500):
        lines.append(row(number, "k" * 120))
        assert lines.size <= 40_000
    assert lines.cut_through > 300


def test_pages_begin_where_they_are_asked_to() -> None:
    lines = filled(100)
    first = lines.cut_through + 1
    assert [line["sequence"] for line in lines.page(first + 10, 5)] == list(range(first + 10, first + 15))
    assert [line["sequence"] for line in lines.page(99, 5)] == [99, 100]
    assert lines.page(101, 5) == []
    assert [line["sequence"] for line in lines.page(1, 2)] == [first, first + 1]


def test_hash_is_known_of_what_is_here_and_of_the_last_that_was_cut() -> None:
    lines = filled(100)
    assert lines.hash_at(100) == lines.head
    assert lines.hash_at(lines.cut_through) == lines.cut_hash
    assert lines.hash_at(lines.cut_through - 1) is None
    assert lines.hash_at(101) is None


def test_rows_of_a_moment_stay_as_they_are_while_lines_are_added_and_cut() -> None:
    lines = filled(30)
    frozen, count = lines.freeze_rows(), len(lines)
    for number in range(31, 200):
        lines.append(row(number))
    assert [fields[7] for fields in frozen] == list(range(31 - count, 31))


@pytest.mark.parametrize("count", [0, 5, 8, 64, 100, 203])
def test_restored_chain_is_the_same_and_goes_on_alike(count: int) -> None:
    lines, other = filled(count), filled(3)
    rows = [(ANN, *fields[6:]) for fields in lines.freeze_rows()]
    other.prepare_restore(lines.export_state(), rows)()  # type: ignore[arg-type]  # a row of a list
    for number in range(count + 1, count + 150):
        assert other.export_state() == lines.export_state()
        assert other.size == lines.size
        for each in (lines, other):
            each.append(row(number))
    assert other.page(1, 1000) == lines.page(1, 1000)


def test_share_counts_what_was_not_exported_only() -> None:
    lines = filled(30)
    assert lines.unexported_share() == pytest.approx(0.75)
    lines.exported_through = 20
    assert lines.unexported_share() == pytest.approx(0.25)
    lines.exported_through = 30
    assert lines.unexported_share() == 0
    assert Lines("trust", SMALL).unexported_share() == 0
