"""Plain command lines, read without typer, whose import takes longer than most commands.

Plain is a line of which nothing has to be said: known commands, known options by their whole names, each
with its value, and as many arguments as there are.  For any other (help, a mistake, ``-ojson``, ``--``)
`command_of` gives None, and typer reads it (`tree`), so that every text and every rule stays typer's.
``tests/cli/test_plain.py`` holds the two together: what is read here is what typer reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cyoloctl.cli.invocation import Leaf, common_parameters
from cyoloctl.cli.modules import GROUPS, MODULES
from cyoloctl.cli.parameters import REQUIRED, Argument, Option, Parameter

__all__ = ["command_of"]

_NOT_PLAIN = object()


def command_of(words: Sequence[str]) -> tuple[Leaf, dict[str, Any]] | None:
    """The command of a line and a value for each of its parameters; None: the line is not plain."""
    if any("\0" in word for word in words):  # a path that typer refuses; no process is started with one
        return None
    line = list(words)
    given = _common_options(line)
    name = leaf_name = _first(line)
    if name in GROUPS:
        given += _common_options(line)
        leaf_name = _first(line)
    if name not in MODULES:
        return None
    leaf = MODULES[name]().COMMANDS.get(leaf_name)
    if leaf is None:
        return None
    values = _values(leaf.parameters(), [*given, *line])
    return None if values is None else (leaf, values)


def _first(line: list[str]) -> str:
    return line.pop(0) if line else ""


def _common_options(line: list[str]) -> list[str]:
    """Take the options that stand before a sub-command off a line: they count as if they stood after it."""
    names = _options(common_parameters())
    taken: list[str] = []
    while line:
        name, equals, _ = line[0].partition("=")
        if name not in names:
            break
        count = 1 if equals else 2
        taken += line[:count]
        del line[:count]
    return taken


def _options(parameters: Sequence[Parameter]) -> dict[str, Parameter]:
    """The parameters that are options, by each of their names."""
    return {
        name: parameter
        for parameter in parameters
        if isinstance(parameter.declared, Option)
        for name in parameter.declared.names
    }


def _values(parameters: Sequence[Parameter], words: Sequence[str]) -> dict[str, Any] | None:
    """A value for each parameter; None where the words are not plain."""
    options = _options(parameters)
    given: dict[str, list[str]] = {}
    arguments: list[str] = []
    left = iter(words)
    for word in left:
        if word == "-" or not word.startswith("-"):
            arguments.append(word)
            continue
        name, equals, value = word.partition("=")
        option = options.get(name)
        flag = option is not None and option.kind is bool
        if option is None or (equals and (flag or not name.startswith("--"))):
            return None
        if not equals and not flag:
            following = next(left, None)
            if following is None:
                return None
            value = following
        given.setdefault(option.name, []).append(value)
    for parameter in parameters:
        if isinstance(parameter.declared, Argument) and arguments:
            count = len(arguments) if parameter.is_list else 1
            given[parameter.name], arguments = arguments[:count], arguments[count:]
    return None if arguments else _converted(parameters, given)


def _converted(parameters: Sequence[Parameter], given: dict[str, list[str]]) -> dict[str, Any] | None:
    values: dict[str, Any] = {}
    for parameter in parameters:
        value = parameter.default
        if parameter.name in given:
            found = [_value(parameter.kind, text) for text in given[parameter.name]]
            value = found if parameter.is_list else found[-1]
        if value is REQUIRED or value is _NOT_PLAIN:
            return None
        values[parameter.name] = value
    return values


def _value(kind: Any, text: str) -> Any:
    """The value that a word gives a parameter of this kind."""
    if kind is str:
        return text
    if kind is bool:
        return True
    if kind is int:
        return int(text) if text.isascii() and text.isdigit() else _NOT_PLAIN
    from pathlib import Path

    return Path(text)
