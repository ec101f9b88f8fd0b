"""The command line: its modules are imported when a command needs them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: `boundary.main`, or names for a completion."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["__names"]:
        from cyoloctl.cli import names

        return names.main(words[1:])
    from cyoloctl.cli import boundary

    return boundary.main(arguments)
