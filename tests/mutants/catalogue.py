"""The list of planted faults: reading it, and planting one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.clone import ROOT

__all__ = ["CATALOGUE", "Mutant", "NotPlanted", "plant", "read_catalogue"]

CATALOGUE = Path(__file__).with_name("catalogue")
PACKAGE = "cyoloctl"

_KEYS = {"name", "cost", "find", "replace"}


class NotPlanted(Exception):
    """The text to find is not in the module exactly once, or the result is no Python."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault.

    module: path below the package, without ``.py``.  cost: what users would
    lose.  caught_by: tests as pytest names them, and ``sim`` with arguments.
    equivalent: why nothing can catch it; empty for all others.
    """

    module: str
    name: str
    cost: str
    find: str
    replace: str
    caught_by: tuple[str, ...]
    equivalent: str

    @property
    def full_name(self) -> str:
        return f"{self.module}:{self.name}"

    @property
    def path(self) -> Path:
        """Of the module, below the root of the repository."""
        return Path(PACKAGE, f"{self.module}.py")

    @property
    def tests(self) -> tuple[str, ...]:
        return tuple(way for way in self.caught_by if not way.startswith("sim "))


def read_catalogue() -> list[Mutant]:
    """All faults, in the order of modules and then as listed.  Raises ValueError for a malformed entry."""
    return [
        mutant
        for path in sorted(CATALOGUE.rglob("*.yaml"))
        for mutant in _read(path, str(path.relative_to(CATALOGUE).with_suffix("")))
    ]


def _read(path: Path, module: str) -> Iterator[Mutant]:
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        yield _mutant(module, entry)


def _mutant(module: str, entry: dict[str, Any]) -> Mutant:
    where = f"{module}:{entry.get('name')}"
    outcome = entry.keys() - _KEYS
    if not entry.keys() >= _KEYS or outcome not in ({"caught_by"}, {"equivalent"}):
        raise ValueError(f"{where}: wants name, cost, find, replace, and caught_by or equivalent")
    caught_by = entry.get("caught_by", [])
    if outcome == {"caught_by"} and not caught_by:
        raise ValueError(f"{where}: caught_by is empty")
    texts = {key: entry[key] for key in (*_KEYS, *(["equivalent"] if "equivalent" in outcome else []))}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{where}: {key} is no text")
    return Mutant(
        module=module,
        name=texts["name"],
        cost=texts["cost"].strip(),
        find=texts["find"].strip("\n"),
        replace=texts["replace"].strip("\n"),
        caught_by=tuple(" ".join(way.split()) for way in caught_by),
        equivalent=texts.get("equivalent", "").strip(),
    )


def plant(mutant: Mutant, root: Path = ROOT) -> str:
    """The module's text with the fault in it.  Raises NotPlanted."""
    source = (root / mutant.path).read_text(encoding="utf-8")
    found = list(_places(source, mutant.find))
    if len(found) != 1:
        raise NotPlanted(f"{mutant.full_name}: its text occurs {len(found)} times in {mutant.path}")
    begin, end, indent = found[0]
    replacement = mutant.replace
    if "\n" in mutant.find or indent:
        replacement = textwrap.indent(replacement, indent)
    planted = source[:begin] + replacement + source[end:]
    if planted == source:
        raise NotPlanted(f"{mutant.full_name}: changes nothing")
    try:
        compile(planted, str(mutant.path), "exec")
    except SyntaxError as error:
        raise NotPlanted(f"{mutant.full_name}: is no Python: {error}") from None
    return planted


def _places(source: str, find: str) -> Iterator[tuple[int, int, str]]:
    """Where the text begins and ends, and how far its lines are indented there."""
    if "\n" not in find:
        begin = source.find(find)
        while begin >= 0:
            line = source[source.rfind("\n", 0, begin) + 1 : begin]
            # A replacement of several lines is indented like the one line that it stands for.
            yield begin - (0 if line.strip() else len(line)), begin + len(find), "" if line.strip() else line
            begin = source.find(find, begin + 1)
        return
    wanted = find.split("\n")
    lines = source.split("\n")
    begin = 0
    for number, line in enumerate(lines):
        if line.endswith(wanted[0]) and not line[: len(line) - len(wanted[0])].strip():
            indent = line[: len(line) - len(wanted[0])]
            there = "\n".join(lines[number : number + len(wanted)])
            if there == textwrap.indent("\n".join(wanted), indent):
                yield begin, begin + len(there), indent
        begin += len(line) + 1
