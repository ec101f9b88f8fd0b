"""Applies unified diffs strictly: no offset, no fuzz.  A bare Debian has no `patch`."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

__all__ = ["apply_diff", "find_diff"]

_HUNK = re.compile(r"@@ -(\d+),(\d+) \+\d+,(\d+) @@")


def find_diff(text: str) -> list[str]:
    """The lines of the diff in `text`, from its first `--- a/` on; [] if there is none."""
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines) if line.startswith("--- a/")), len(lines))
    return list(takewhile(lambda line: line == "" or line[0] in "-+ @", lines[start:]))


def apply_diff(diff: list[str], root: Path) -> None:
    """Changes the files below `root` that `diff` names (as `patch -p1` does).

    Empty lines count as empty context lines, as GNU patch reads them; white space at the end of a line does
    not count.  AssertionError: a line is not where the diff says, or a hunk is not as long as it says; files
    may be half changed then.
    """
    todo = iter(diff)
    for line in todo:
        if line.startswith("--- a/"):
            path, shift = root / line[len("--- a/") :], 0
            assert next(todo) == f"+++ b/{line[len('--- a/') :]}"
            continue
        match = _HUNK.fullmatch(line)
        if match is None:
            assert line == "", f"not a hunk: {line!r}"
            continue
        start, old_count, new_count = map(int, match.groups())
        old: list[str] = []
        new: list[str] = []
        while len(old) < old_count or len(new) < new_count:
            kind, content = (line := next(todo))[:1] or " ", line[1:]
            old += [content] * (kind in " -")
            new += [content] * (kind in " +")
        lines = path.read_text(encoding="utf-8").split("\n")
        at = start - 1 + shift
        assert [found.rstrip() for found in lines[at : at + old_count]] == old, f"{path.name}:{start} differs"
        assert (len(old), len(new)) == (old_count, new_count), f"{path.name}:{start}: counts are wrong"
        lines[at : at + old_count] = new
        path.write_text("\n".join(lines), encoding="utf-8")
        shift += new_count - old_count
