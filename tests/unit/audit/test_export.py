"""Export files: verified, gone on with, and joined to the cluster's log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.audit.export import ExportFile, export_file, join, verify_file
from cyoloctl.errors import AlreadyExists, AuditBroken, ConfigError, Conflict, InvalidInput
from tests.unit.audit.test_lines import chain_of

LINES = chain_of(6)


def write(path: Path, lines: list[Any], *, append: bool = True) -> None:
    with export_file(path, append=append) as file:
        file.write(lines)
        file.sync()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_export_is_private_and_goes_on_where_it_ended(path: Path) -> None:
    write(path, LINES[:2], append=False)
    assert path.stat().st_mode & 0o777 == 0o600
    write(path, LINES[2:])
    assert verify_file(path)["data"][:2] == (1, 6)
    assert path.read_bytes().count(b"\n") == 6
    write(path, [])
    assert verify_file(path)["data"].last == 6


def test_new_export_takes_nobodys_place(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(AlreadyExists):
        write(path, LINES, append=False)
    assert path.read_text() == "mine"


def test_export_that_was_killed_in_a_line_goes_on(path: Path) -> None:
    write(path, LINES[:3])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"address":"10')
    with pytest.raises(AuditBroken, match="line 4: it is cut short"):
        verify_file(path)
    write(path, LINES[3:])
    assert path.read_bytes().startswith(whole)
    assert verify_file(path)["data"].last == 6


def test_line_that_does_not_follow_is_not_written(path: Path) -> None:
    write(path, LINES[:2])
    before = path.read_bytes()
    with pytest.raises(AuditBroken, match="does not follow"):
        write(path, LINES[3:])
    assert path.read_bytes() == before


def test_new_export_that_failed_before_its_first_line_leaves_no_file(path: Path) -> None:
    with pytest.raises(Conflict), export_file(path, append=True):
        raise Conflict("no lines")
    assert not path.exists()


def test_export_that_failed_later_keeps_its_lines(path: Path) -> None:
    def fail(file: ExportFile) -> None:
        file.write(LINES[:2])
        raise Conflict("the node went away")

    with pytest.raises(Conflict), export_file(path, append=True) as file:
        fail(file)
    assert verify_file(path)["data"].last == 2


def test_two_exports_do_not_write_one_file(path: Path) -> None:
    write(path, LINES[:1])
    with export_file(path, append=True), pytest.raises(Conflict, match="another export"):
        write(path, LINES[1:])


@pytest.mark.parametrize("number", [1, 3, 6])
def test_first_line_that_was_changed_is_named(path: Path, number: int) -> None:
    write(path, LINES)
    texts = path.read_text().splitlines(keepends=True)
    texts[number - 1] = texts[number - 1].replace('"who":"ann"', '"who":"eve"')
    path.write_text("".join(texts))
    with pytest.raises(AuditBroken, match=f"line {number}: it was changed"):
        verify_file(path)
    with pytest.raises(AuditBroken, match=f"line {number}: it was changed"):
        write(path, [])


@pytest.mark.parametrize("data", [b"\n", b"\xff\n", b"x" * 10_000, b"x" * 10_000 + b"\n", b"{}\n", b"\x00"])
def test_file_that_is_no_export_is_refused_and_left_as_it_is(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(AuditBroken):
        verify_file(path)
    if data != b"\x00":  # which may be the beginning of a line
        with pytest.raises(AuditBroken):
            write(path, LINES)
        assert path.read_bytes() == data


def test_file_that_is_none_is_told_as_such(tmp_path: Path) -> None:
    for wrong in (tmp_path / "none", tmp_path):
        with pytest.raises(InvalidInput):
            verify_file(wrong)
    with pytest.raises(InvalidInput):
        write(tmp_path, LINES)
    with pytest.raises(InvalidInput):
        write(tmp_path / "none" / "export", LINES)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises((AlreadyExists, InvalidInput, ConfigError)):
        write(tmp_path / "pipe", LINES)


def page(last: int, cut_through: int = 0) -> dict[str, Any]:
    lines = chain_of(max(last, 1))
    cut = lines[cut_through - 1]["hash"] if cut_through else "0" * 64
    return {"chain": "data", "last": last, "cut_through": cut_through, "cut_hash": cut}


def test_export_joins_a_cluster_that_has_its_last_line(path: Path) -> None:
    write(path, LINES)
    ends = verify_file(path)
    assert join(ends, page(9), LINES[5]) == 3
    assert join(ends, page(9, cut_through=6), None) == 3
    assert join({}, page(9), None) == 9


def test_cluster_that_was_written_anew_is_found(path: Path) -> None:
    write(path, LINES)
    ends = verify_file(path)
    for at in (chain_of(6, "b")[5], None):
        with pytest.raises(AuditBroken, match="written anew"):
            join(ends, page(9), at)
    with pytest.raises(AuditBroken, match="older state"):
        join(ends, page(5), None)


def test_lines_that_are_in_neither_are_told(path: Path) -> None:
    write(path, LINES)
    with pytest.raises(Conflict, match="lines 7 to 8 were cut"):
        join(verify_file(path), page(9, cut_through=8), None)
