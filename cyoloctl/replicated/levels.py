"""Levels: what a release understands, and the first release that understands each level.

Whatever nodes tell each other or keep has a level: commands, the state in
snapshots, messages between peers, files.  A cluster is at one level, which is
replicated, and nothing above it is written until every member understands it
and an operator has raised it (``cyoloctl cluster upgrade``).  So members of
two releases serve together, and until then each can go back to the earlier one.

What this module does not name is of the base level.  CONTRIBUTING.md says
what a developer adds here, and when.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cyoloctl import __version__

__all__ = ["BASE_LEVEL", "MAX_LEVEL", "THIS", "Release"]

BASE_LEVEL = 1
"""What every release understands, and a cluster begins with."""

MAX_LEVEL = 1_000_000


@dataclass(frozen=True)
class Release:
    """What one release understands.

    level: the highest one.  operations: by ``MACHINE.OPERATION``, the level of
    each that is above the base.  since: by level, the first release that
    understands it; the base has none.
    """

    name: str
    level: int = BASE_LEVEL
    operations: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    since: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))

    def level_of(self, machine: str, operation: str) -> int:
        """The level of a command."""
        return self.operations.get(f"{machine}.{operation}", BASE_LEVEL)

    def first(self, level: int) -> str:
        """The first release that understands a level, as far as this one knows."""
        return self.since.get(level, self.name)


THIS = Release(__version__)
"""The release that runs here."""
