"""Unified diffs in a text, applied strictly by ``git apply``."""

from __future__ import annotations

import os
import subprocess
from itertools import takewhile
from pathlib import Path

__all__ = ["apply_diff", "find_diff"]


def find_diff(text: str) -> list[str]:
    """The lines of the diff in `text`, from its first `--- a/` on; [] if there is none."""
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines) if line.startswith("--- a/")), len(lines))
    return list(takewhile(lambda line: line == "" or line[0] in "-+ @", lines[start:]))


def apply_diff(diff: list[str], root: Path) -> None:
    """Changes the files below `root` that `diff` names; white space at the end of a line does not count.

    AssertionError: it does not fit, and nothing was changed.
    """
    text = "".join(f"{line or ' '}\n" for line in diff)  # an empty line is an empty context line
    applied = subprocess.run(
        ["git", "apply", "--ignore-whitespace", "--whitespace=nowarn", "-"],
        cwd=root,
        env={
            **os.environ,
            "GIT_CEILING_DIRECTORIES": str(root.parent),
        },  # not a path in a repository around it
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert applied.returncode == 0, applied.stderr
