"""docs/security.md says what stolen things are worth, and each row names the tests that play the thief."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NAME = re.compile(r"`(test_\w+)`")
_DEFINED = re.compile(r"^(?:async )?def (test_\w+)\(", re.MULTILINE)


def thief_rows() -> list[list[str]]:
    """The cells of the rows of the table whose last column is `test`."""
    rows: list[list[str]] = []
    inside = False
    for line in (ROOT / "docs" / "security.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[-1] == "test":
            inside = True
        elif inside and set(line) - set("|- "):
            rows.append(cells)
    return rows


def defined_tests() -> dict[str, set[str]]:
    """The names of the test functions of each file, by its path below tests/."""
    tests = ROOT / "tests"
    return {
        path.relative_to(tests).as_posix(): set(_DEFINED.findall(path.read_text()))
        for path in tests.glob("*/**/test_*.py")
    }


def test_every_row_of_the_thieves_table_names_tests_that_exist() -> None:
    rows = thief_rows()
    assert len(rows) >= 11, "the table of docs/security.md has lost rows, or its column `test`"
    known: set[str] = set().union(*defined_tests().values())
    for cells in rows:
        named = _NAME.findall(cells[-1])
        assert named, f"no test for: {cells[0]}"
        assert not [name for name in named if name not in known], f"{cells[0]}: {named}"


def test_every_test_of_the_thieves_stands_in_the_table() -> None:
    named = {name for cells in thief_rows() for name in _NAME.findall(cells[-1])}
    assert defined_tests()["cluster/test_thieves.py"] - named == set()
