"""The reports of engine faults in upstream/: each shows its fault, and its diff mends it."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pysyncobj
import pytest

from tests.support.unified_diff import apply_diff, find_diff

pytestmark = pytest.mark.fault

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "upstream"
NAMES = sorted(path.stem for path in REPORTS.glob("[0-9]*.py"))
INDEX = (REPORTS / "README.md").read_text(encoding="utf-8")
REPORTED, NOT_REPORTED = INDEX.split("## Not reported")
SECTIONS = ["Expected:", "Observed:", "Cause:", "Change:"]

Ended = tuple[int, str]  # exit status, output


def source(name: str) -> str:
    return (REPORTS / f"{name}.py").read_text(encoding="utf-8")


def docstring(name: str) -> str:
    return ast.get_docstring(ast.parse(source(name)), clean=False) or ""


def run(name: str, package_at: Path | None) -> Ended:
    """Runs a report with pysyncobj from `package_at`, or the installed release."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    if package_at:
        environment["PYTHONPATH"] = str(package_at)
    ended = subprocess.run(
        [sys.executable, str(REPORTS / f"{name}.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


def run_mended(name: str, directory: Path) -> Ended:
    stock = Path(pysyncobj.__file__).parent
    shutil.copytree(stock, directory / "pysyncobj", ignore=shutil.ignore_patterns("__pycache__"))
    apply_diff(find_diff(docstring(name)), directory)
    return run(name, directory)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Future[Ended]]:
    """All runs, started at once."""
    futures: dict[tuple[str, str], Future[Ended]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name in NAMES:
            futures[name, "stock"] = pool.submit(run, name, None)
            if find_diff(docstring(name)):
                futures[name, "mended"] = pool.submit(run_mended, name, tmp_path_factory.mktemp("mended"))
    return futures


@pytest.mark.parametrize("name", NAMES)
def test_report_shows_its_fault_in_the_release(name: str, runs: dict[tuple[str, str], Future[Ended]]) -> None:
    status, output = runs[name, "stock"].result()
    assert status == 1, output
    assert output.splitlines()[-1].startswith("FAULT: "), output


@pytest.mark.parametrize("name", [name for name in NAMES if find_diff(docstring(name))])
def test_report_diff_applies_and_mends_the_fault(
    name: str, runs: dict[tuple[str, str], Future[Ended]]
) -> None:
    status, output = runs[name, "mended"].result()
    assert status == 0, output
    assert output.splitlines()[-1].startswith("no fault: "), output


def test_diff_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    diff = ["--- a/file", "+++ b/file", "@@ -1,2 +1,2 @@", " one", "-two", "+three"]
    (tmp_path / "file").write_text("one\ntwo\n")
    apply_diff(diff, tmp_path)
    assert (tmp_path / "file").read_text() == "one\nthree\n"
    with pytest.raises(AssertionError, match="does not apply"):
        apply_diff(diff, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_report_has_the_form_of_an_issue(name: str) -> None:
    text = docstring(name)
    assert "pysyncobj 0.3.17" in text
    starts = [text.find(f"\n{section}") for section in SECTIONS]
    assert -1 not in starts
    assert starts == sorted(starts)


@pytest.mark.parametrize("name", [*NAMES, "harness"])
def test_report_needs_pysyncobj_and_the_standard_library_only(name: str) -> None:
    allowed = sys.stdlib_module_names | {"pysyncobj", "harness"}
    for node in ast.walk(ast.parse(source(name))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] in allowed


def index_rows() -> dict[str, list[str]]:
    """The index table: the report's name and the cells behind it."""
    found = re.findall(r"^\| \[([\w-]+)\]\(\1\.py\) \|(.*)\|$", REPORTED, re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in found}


def test_index_lists_every_report_and_whether_it_has_a_diff() -> None:
    assert sorted(index_rows()) == NAMES
    with_diff = {name for name, cells in index_rows().items() if cells[3] == "yes"}
    assert with_diff == {name for name in NAMES if find_diff(docstring(name))}


def test_every_row_of_the_design_is_reported_or_is_not_upstreams() -> None:
    design = (ROOT / "cyoloctl" / "raft" / "DESIGN.md").read_text(encoding="utf-8")
    rows = set(map(int, re.findall(r"^\| (\d+) ", design, re.MULTILINE)))
    reported = {int(row) for cells in index_rows().values() for row in re.findall(r"\d+", cells[1])}
    not_reported = set(map(int, re.findall(r"^\| (\d+) ", NOT_REPORTED, re.MULTILINE)))
    not_wholly = set(map(int, re.findall(r"^\| (\d+), ", NOT_REPORTED, re.MULTILINE)))  # a part of the row
    assert rows == set(range(1, 27))
    assert reported | not_reported == rows
    assert reported & not_reported == set()
    assert not_wholly <= reported
