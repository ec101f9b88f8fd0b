"""What `make lowest` tries: the lowest release of each dependency that names one."""

from __future__ import annotations

from pathlib import Path

from tools.lowest import constraints

ROOT = Path(__file__).parent.parent.parent


def test_lowest_release_of_each_dependency_that_names_one() -> None:
    text = """
        [project]
        dependencies = [
            "both>=1.2,<3",
            "exact==1.0",
            "any",
            "marked>=7; sys_platform != 'win32'",
            "with-dash>=0.1.5",
        ]
        [project.optional-dependencies]
        dev = ["left-out>=9"]
    """
    assert constraints(text) == ["both==1.2", "marked==7", "with-dash==0.1.5"]


def test_json_and_http_are_read_by_releases_that_were_tried() -> None:
    lowest = constraints((ROOT / "pyproject.toml").read_text())
    names = {each.partition("==")[0] for each in lowest}
    assert {"cryptography", "httptools", "msgspec", "typer"} <= names
