"""The runbook: whole, and in the program's own words; tests/support/runbook.py says how it is written."""

from __future__ import annotations

import ast
import asyncio
import functools
import re

import pytest

from cyoloctl import errors
from cyoloctl.doctor.findings import of_problem
from cyoloctl.errors import error_classes
from cyoloctl.members.facts import CODES, problem
from tests.docs.reading import blocks, fixed, occurs, pages, sources, strings, text_of
from tests.support.runbook import PAGE, Symptom, entries, symptoms
from tests.unit.members.test_status import CASES, World

STATUSES = {0} | {cls.exit_status for cls in error_classes()}


@functools.cache
def raised() -> dict[str, set[int]]:
    """Exit statuses of the errors that are made with a message, by the message."""
    found: dict[str, set[int]] = {}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                cls, text = getattr(errors, name, None), text_of(node.args[0])
                if text is not None and isinstance(cls, type) and issubclass(cls, errors.CyoloctlError):
                    found.setdefault(text, set()).add(cls.exit_status)
    return found


def is_put_together(words: str) -> bool:
    """Whether one module has every part of a message, where it is made of several strings."""
    pieces = {piece for part in fixed(words) for piece in part.split(", ") if piece}
    left: dict[str, set[str]] = {}
    for text in strings(docstrings=False):
        parts = left.setdefault(text.where.partition(":")[0], set(pieces))
        parts -= {part for part in parts if part in text.text}
    return not all(left.values())


def table(heading: str) -> dict[str, str]:
    """The rows of a table below a heading: the first cell, and the rest."""
    rows = pages()[PAGE].partition(f"### {heading}\n")[2].partition("\n#")[0]
    return dict(re.findall(r"(?m)^\| (?!---|status \||code \|)([^|]+) \|(.*)\|$", rows))


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What real nodes say of each problem, by its code."""

    async def of(code: str) -> list[str]:
        world = World(tmp_path_factory.mktemp(code) / "n1")
        done = CASES[code][0](world)
        if done is not None:
            await done
        return [found["message"] for found in world.problems() if found["code"] == code]

    return {code: asyncio.run(of(code)) for code in CASES}


@pytest.mark.parametrize("symptom", symptoms(), ids=lambda s: f"{s.line} {s.kind} {s.key} {s.words[:30]}")
def test_symptom_is_what_the_program_says(symptom: Symptom, problems: dict[str, list[str]]) -> None:
    match symptom.kind:
        case "exit":
            assert int(symptom.key) in STATUSES
        case "problem":
            assert symptom.key in CODES
        case "page":
            assert symptom.key in {"401", "503"}
        case _:
            assert symptom.key == ""
    if not symptom.words:
        assert symptom.kind == "problem", "only a problem is known by its code"
        return
    assert max(map(len, fixed(symptom.words))) >= 8, "nothing of it is fixed"
    if any(occurs(symptom.words, message) for message in problems.get(symptom.key, ())):
        return
    said = [text.text for text in strings(docstrings=False) if occurs(symptom.words, text.text)]
    assert said or is_put_together(symptom.words), "no message has these words"
    known = set().union(*(raised().get(text, set()) for text in said))
    if symptom.kind == "exit" and known:
        assert int(symptom.key) in known, f"its status is {known}"


def test_what_real_nodes_say_of_a_problem_is_on_the_page(problems: dict[str, list[str]]) -> None:
    listed = {(each.key, each.words) for each in symptoms() if each.kind == "problem"}
    missing = [
        message
        for code, messages in problems.items()
        for message in messages
        if not any(code == key and occurs(words, message) for key, words in listed)
    ]
    assert missing == []


def test_every_exit_status_and_every_problem_leads_to_an_entry() -> None:
    assert {int(status) for status in table("By exit status")} == STATUSES
    codes = {
        code: rest for cell, rest in table("By problem").items() for code in re.findall(r"`(\w+)`", cell)
    }
    assert codes.keys() == CODES.keys()
    for code, rest in codes.items():
        [entry] = re.findall(r"\[([^]]+)\]", rest)
        first, last = entries()[entry]
        assert (code, "problem") in {(each.key, each.kind) for each in symptoms(first, last)}, entry
        # What doctor shows of it is the same code.
        assert of_problem(problem(code, None, "", None))["code"] == code


def test_exit_statuses_of_a_node_that_does_not_start_have_a_part_each() -> None:
    first, last = entries()["A node does not start"]
    parts = {heading: where for heading, where in entries("### Status ").items() if first < where[0] < last}
    for heading, (start, _) in parts.items():
        number = heading.partition(":")[0]
        end = min([where[0] for where in parts.values() if where[0] > start], default=last)
        assert {each.key for each in symptoms(start, end)} == {number}
    assert {heading.partition(":")[0] for heading in parts} == {"4", "70", "74", "76", "78"}


@pytest.mark.parametrize("entry", list(entries())[1:])
def test_entry_says_what_it_means_and_what_to_run(entry: str) -> None:
    first, last = entries()[entry]
    text = "\n".join(pages()[PAGE].splitlines()[first:last])
    assert "**It means**" in text or "**You know**" in text
    kinds = [block.info for block in blocks(PAGE) if first <= block.line <= last]
    assert "symptom" in kinds or "**You know**" in text
    assert "sh" in kinds or len(text) < 1200  # short ones have their command in a sentence
    for block in blocks(PAGE):
        if first <= block.line <= last and block.info == "sh":
            bare = [line for line in block.text.splitlines() if "#" not in line]
            assert len(bare) <= 3, f"what must these show? {bare}"


def test_check_of_a_status_sees_one_that_is_wrong() -> None:
    assert raised()["no leader within {} s: a majority of the voters must be up and connected"] == {75}
