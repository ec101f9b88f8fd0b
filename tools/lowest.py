"""The lowest releases of our dependencies that pyproject.toml allows, as constraints: ``make lowest``.

What is promised there is tried with them, and not with the newest ones alone.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

__all__ = ["constraints", "main"]

_ROOT = Path(__file__).parent.parent
_LOWEST = re.compile(r"([A-Za-z0-9_.-]+)>=([0-9.]+)")


def constraints(pyproject: str) -> list[str]:
    """``NAME==RELEASE`` for each dependency of a run that names its lowest release."""
    dependencies = tomllib.loads(pyproject)["project"]["dependencies"]
    found = (_LOWEST.match(dependency) for dependency in dependencies)
    return [f"{match[1]}=={match[2]}" for match in found if match is not None]


def main() -> int:
    """Print them, one to a line."""
    print(*constraints((_ROOT / "pyproject.toml").read_text()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
