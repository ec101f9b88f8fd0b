"""Every listed fault can be planted, and what should catch it exists."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache

import pytest

from tests.mutants.catalogue import CATALOGUE, PACKAGE, Mutant, NotPlanted, plant, read_catalogue
from tests.support.clone import ROOT

MUTANTS = read_catalogue()


@cache
def functions_of(path: str) -> frozenset[str]:
    """The functions of a file of tests, those of classes as ``Class::function``."""
    names = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}::{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return frozenset(names)


def test_catalogue_names_are_unique_and_files_mirror_modules() -> None:
    assert [
        name for name, times in Counter(mutant.full_name for mutant in MUTANTS).items() if times > 1
    ] == []
    for path in CATALOGUE.rglob("*.yaml"):
        assert (ROOT / PACKAGE / path.relative_to(CATALOGUE)).with_suffix(".py").is_file(), path


@pytest.mark.parametrize("module", sorted({mutant.module for mutant in MUTANTS}))
def test_catalogue_every_fault_of_a_module_can_be_planted_and_its_tests_exist(module: str) -> None:
    for mutant in MUTANTS:
        if mutant.module == module:
            plant(mutant)
            for test in mutant.tests:
                path, _, name = test.partition("::")
                assert name, f"{mutant.full_name}: {test} names no test"
                assert name.partition("[")[0] in functions_of(path), f"{mutant.full_name}: {test}"
            assert mutant.cost.endswith("."), f"{mutant.full_name}: its cost is a sentence"


def of(find: str, replace: str) -> Mutant:
    return Mutant("errors", "x", "None.", find, replace, ("tests/x.py::test_x",), "")


@pytest.mark.parametrize(
    ("mutant", "why"),
    [
        (of("no such text anywhere", ""), "occurs 0 times"),
        (of("import", "input"), "times in"),
        (of("from __future__ import annotations", "from __future__ import annotations"), "changes nothing"),
        (of("from __future__ import annotations", "from from"), "is no Python"),
    ],
)
def test_plant_refuses_what_would_prove_nothing(mutant: Mutant, why: str) -> None:
    with pytest.raises(NotPlanted, match=why):
        plant(mutant)
