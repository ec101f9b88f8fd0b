"""Plain command lines: read without typer, they give each command the values that typer gives it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyoloctl.cli import plain, tree
from cyoloctl.cli.invocation import Leaf, common_parameters
from cyoloctl.cli.modules import GROUPS, MODULES
from cyoloctl.cli.parameters import REQUIRED, Argument, Option, Parameter
from cyoloctl.errors import CyoloctlError

LEAVES: dict[tuple[str, ...], Leaf] = {
    (name, leaf) if name in GROUPS else (leaf,): found
    for name in MODULES
    for leaf, found in MODULES[name]().COMMANDS.items()
}
TEXTS = {bool: [""], int: ["7"], str: ["", "x=y", "--"], Path: ["", "a//b"]}

Run = tuple[Leaf, dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def calls() -> Iterator[list[Run]]:
    """Every command notes what it is called with, and does nothing."""
    noted: list[Run] = []
    built = tree.command_tree()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Leaf, "__call__", lambda leaf, **values: noted.append((leaf, values)))
        patch.setattr(tree, "command_tree", lambda: built)
        yield noted


def by_typer(calls: list[Run], words: Sequence[str]) -> Run | None:
    """What typer makes of a line; None where it refuses it, or shows a text."""
    calls.clear()
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", nowhere)
            tree.run(words)
    except CyoloctlError:
        return None
    return calls[-1] if calls else None


def spelled(option: Parameter, text: str) -> list[list[str]]:
    """The plain ways to give an option a value."""
    assert isinstance(option.declared, Option)
    names = option.declared.names
    if option.kind is bool:
        return [[name] for name in names]
    return [[name, text] for name in names] + [[f"{n}={text}"] for n in names if n.startswith("--")]


def least(leaf: Leaf) -> list[str]:
    """Words for what a command has to be given."""
    words: list[str] = []
    for each in leaf.parameters():
        if each.default is REQUIRED:
            words += ["word"] if isinstance(each.declared, Argument) else spelled(each, "word")[0]
    return words


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_each_option_of_a_command_has_the_value_that_typer_gives_it(
    path: tuple[str, ...], calls: list[Run]
) -> None:
    leaf = LEAVES[path]
    plainest = [*path, *least(leaf)]
    everything = list(plainest)
    lines = [plainest, everything]
    for parameter in leaf.parameters():
        if isinstance(parameter.declared, Option):
            ways = [way for text in TEXTS[parameter.kind] for way in spelled(parameter, text)]
            lines += [[*plainest, *way] for way in ways]
            everything += [*ways[0], *ways[-1]]
    for words in lines:
        found = plain.command_of(words)
        assert found is not None, words
        assert found[0] is leaf, words
        assert by_typer(calls, words) == found, words


PIECES = {
    path: [
        way
        for parameter in leaf.parameters()
        for way in (
            [["word"]]
            if isinstance(parameter.declared, Argument)
            else [way for text in TEXTS[parameter.kind] for way in spelled(parameter, text)]
        )
    ]
    for path, leaf in LEAVES.items()
}
COMMON = [way for option in common_parameters() for way in spelled(option, "json")]
ODD = [
    ["-"], ["--"], ["--help"], ["-h"], ["--version"], ["-ojson"], ["-o=json"], ["-e"], ["--output"], ["--"],
    ["--stale=1"], ["--no-such"], ["-5"], [""], ["-d", "--"], ["--b"], ["--by"], ["\u0661"], ["a\0b"],
    ["-ehttp"],
]  # fmt: skip


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A line for some command: its options in any order, common ones before it, and what is not plain."""
    path = draw(st.sampled_from(list(LEAVES)))
    odd = draw(st.booleans())
    words: list[str] = []
    for name in path:
        for piece in draw(st.lists(st.sampled_from(COMMON + (ODD if odd else [])), max_size=2)):
            words += piece
        words.append(name)
    own = st.sampled_from([*PIECES[path], ["word"], *(ODD if odd else [])])
    pieces = [*draw(st.lists(own, max_size=5)), *([least(LEAVES[path])] * draw(st.booleans()))]
    for piece in draw(st.permutations(pieces)):
        words += piece
    return words


@given(lines())
def test_line_is_read_as_typer_reads_it_or_left_to_typer(calls: list[Run], words: list[str]) -> None:
    found = plain.command_of(words)
    if found is not None:
        assert by_typer(calls, words) == found


@pytest.mark.parametrize(
    "line",
    [
        "", "counter", "--help", "-h", "--version", "counter --help", "counter incr --help",
        "counter incr -h", "counter icnr", "cuonter incr", "counter incr a b", "counter incr --bye 1",
        "counter incr --by",
        "counter incr -- a", "counter incr -ojson", "counter incr -o=json", "counter get --stale=yes",
        "kv get", "kv put", "-ojson counter incr", "-x counter incr", "counter -x incr", "counter -o json",
        "counter incr --endpoint", "- counter incr", "help key list", "help", "-e x node start",
        "node start --ready-fd x", "lock run a -- true",
    ],
)  # fmt: skip
def test_line_of_which_something_is_to_be_said_is_left_to_typer(line: str) -> None:
    assert plain.command_of(line.split()) is None


def test_line_with_a_byte_that_no_process_can_be_given_is_left_to_typer() -> None:
    assert plain.command_of(["kv", "get", "a\0b"]) is None


def test_common_options_before_a_command_count_as_if_they_stood_after_it() -> None:
    found = plain.command_of(["-o", "json", "-e", "a", "counter", "-e", "b", "incr", "-e", "c", "-o", "yaml"])
    assert found is not None
    assert (found[1]["endpoint_"], found[1]["output_"]) == (["a", "b", "c"], "yaml")
