"""The lowest releases of our dependencies that pyproject.toml allows, as constraints: ``make lowest``.

What is promised there is tried with them, and not with the newest ones alone.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

__all__ = ["constraints", "main"]

_ROOT = Path(__file__).parent.parent


def constraints(pyproject: str) -> list[str]:
    """``NAME==RELEASE`` for each dependency of a run that names its lowest release."""
    dependencies = map(Requirement, tomllib.loads(pyproject)["project"]["dependencies"])
    return [
        f"{each.name}=={bound.version}"
        for each in dependencies
        for bound in each.specifier
        if bound.operator == ">="
    ]


def main() -> int:
    """Print them, one to a line."""
    print(*constraints((_ROOT / "pyproject.toml").read_text()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
