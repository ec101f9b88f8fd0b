"""The map of the house in CONTRIBUTING.md is the order that the layout test checks."""

from __future__ import annotations

import re

from tests.docs.reading import ROOT, prose
from tests.unit.test_layout import ORDER

PAGE = "CONTRIBUTING.md"


def section(heading: str) -> str:
    """The prose under a heading."""
    return prose(PAGE).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_map_names_every_home_in_the_order_of_the_layout() -> None:
    items = re.findall(r"^\d+\. (.*?): ", section("The map of the house"), re.MULTILINE)
    named = re.findall(r"`(\w+)(?:/|\.py)`", " ".join(items))
    assert named == ORDER


def test_functions_and_types_that_the_page_names_in_a_file_are_there() -> None:
    """A name for which a newcomer searches must be found."""
    for file, names in {
        "raft/replica.py": ["def tick"],
        "tokens/issuer.py": ["def open"],
        "state.py": ["def _add"],
        "replicated/machine.py": ["class Machine", "NAME", "def export_state", "def prepare_restore"],
        "control/table.py": ["class Node", "def _subjects"],
        "node/service.py": ["def _on_restore"],
        "counters/api.py": ["class HasCounters"],
        "members/api.py": ["class Member", "class Cluster"],
        "members/status.py": ["def rows", "def status", "def describe", "_FACTS"],
    }.items():
        source = (ROOT / "cyoloctl" / file).read_text(encoding="utf-8")
        assert file in prose(PAGE), file
        for name in names:
            assert re.search(rf"\b{name}\b", source), f"{file} has no {name}"
            assert name.split()[-1] in prose(PAGE), name
