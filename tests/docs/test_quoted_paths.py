"""Every path in a command that a message shows is quoted, so that the shell reads it as one word."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.generate import commands

PACKAGE = Path(__file__).resolve().parents[2] / "cyoloctl"

PATH_OPTIONS = sorted(
    {
        name
        for command in commands()
        for option in command.options
        for name in option.names
        if re.search("FILE|DIR|CERT", option.metavar)
    }
)

# What stands before a path in a command: an option that takes one, or a program that does.
BEFORE_A_PATH = re.compile(
    rf"(?:(?:^|\s)(?:{'|'.join(map(re.escape, PATH_OPTIONS))})[ =]"
    r"|\bchmod [0-7]{3,4} |\bchown (?:-R )?[^-\s]\S* |\brm (?:-[rf]+ )?|\bmv |\bcp (?:-[ar]+ )?|\bcd )$"
)


def _unquoted(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and source of every path that an f-string puts into a command without quoted()."""
    safe = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _is_quoted(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        before = ""
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                value = part.value
                quoted = _is_quoted(value) or (isinstance(value, ast.Name) and value.id in safe)
                if BEFORE_A_PATH.search(before) and not quoted:
                    yield value.lineno, ast.unparse(value)
                before += "0"
            elif isinstance(part, ast.Constant):
                before += str(part.value)


def _is_quoted(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "quoted"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('f"run cyoloctl node start -d {path}"', ["path"]),
        ('f"run `chmod 600 {path}`"', ["path"]),
        ('f"run `sudo chown -R {me} {path.parent}`"', ["path.parent"]),
        ('f"run cyoloctl node start -d {shlex.quote(path)}"', ["shlex.quote(path)"]),
        ('f"run cyoloctl node start -d {quoted(path)}"', []),
        ('path = quoted(p); f"cyoloctl node renew --grant {path}"', []),
        ('f"{path} is not there"', []),
    ],
)
def test_search_finds_what_is_not_quoted(source: str, found: list[str]) -> None:
    assert [text for _, text in _unquoted(ast.parse(source))] == found


def test_every_path_in_a_command_that_a_message_shows_is_quoted() -> None:
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{line}: {text}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in _unquoted(ast.parse(path.read_text("utf-8")))
    ]
    assert found == [], "write {quoted(path)}, of cyoloctl.paths"


def test_there_is_one_way_to_quote() -> None:
    users = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if "shlex.quote" in path.read_text("utf-8")
    ]
    assert users == ["paths.py"]
