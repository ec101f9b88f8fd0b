"""The runbook (docs/runbook.md), as tests read it: what somebody sees, and where it stands.

A block marked ``symptom`` has a line for each thing that somebody sees: where, a colon, and the words.  In
them capitals (NAME), numbers and ``...`` stand for what varies.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.docs.reading import blocks, occurs, pages

__all__ = ["PAGE", "Symptom", "entries", "symptoms", "tells"]

PAGE = "docs/runbook.md"
LINE = re.compile(r"(exit|problem|page|status|log)(?: (\w+))?(?:: (.+))?")


@dataclass(frozen=True)
class Symptom:
    """One line.  kind: where it is seen.  key: exit status, code or HTTP status.  words: "" for any."""

    line: int
    kind: str
    key: str
    words: str


def symptoms(first: int = 0, last: int = 1 << 30) -> list[Symptom]:
    """Those of the lines of the page from first to last."""
    found = []
    for block in blocks(PAGE):
        if block.info == "symptom" and first <= block.line <= last:
            for number, text in enumerate(block.text.splitlines(), block.line):
                matched = LINE.fullmatch(text)
                assert matched is not None, f"{PAGE}:{number}: what is {text!r}?"
                found.append(Symptom(number, matched[1], matched[2] or "", matched[3] or ""))
    return found


def entries(level: str = "## ") -> dict[str, tuple[int, int]]:
    """First and last line of each entry, by its heading."""
    lines = pages()[PAGE].splitlines()
    starts = [number for number, line in enumerate(lines, 1) if line.startswith(level)]
    ends = [number - 1 for number in starts[1:]] + [len(lines)]
    return {
        lines[start - 1].removeprefix(level): (start, end) for start, end in zip(starts, ends, strict=True)
    }


def tells(status: int, stderr: str) -> bool:
    """Whether the page has the error with which a command ended."""
    return any(each.key == str(status) and occurs(each.words, stderr) for each in symptoms())
