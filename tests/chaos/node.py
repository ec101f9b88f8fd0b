"""The command line with faults that a running node has no setting for.

    CYOFAULT_COMPACT=ENTRIES CYOFAULT_APART=NAME python -m tests.chaos.node ARGUMENTS OF CYOLOCTL...

CYOFAULT_COMPACT: lower limits of compaction, so that a short run has snapshots.
CYOFAULT_APART: a peer with which this node makes no link, as if the way
between the two were closed.  Nothing else differs from `python -m cyoloctl`.
Without the variables nothing does.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from cyoloctl.cli import main
from cyoloctl.node.run import Node
from cyoloctl.raft import settings


def _keep_apart(name: str) -> None:
    identify = Node._identify_peer

    def identify_others(self: Node, tls: Any) -> str | None:
        found = identify(self, tls)
        return None if found == name else found

    Node._identify_peer = identify_others  # type: ignore[method-assign]


if __name__ == "__main__":
    entries = int(os.environ.get("CYOFAULT_COMPACT", "0"))
    if entries:
        # The default of every engine is this one object, and a node has no setting for it.
        object.__setattr__(settings.DEFAULT_LIMITS, "compact_entries", entries)
        object.__setattr__(settings.DEFAULT_LIMITS, "keep_entries", max(1, entries // 10))
    if os.environ.get("CYOFAULT_APART"):
        _keep_apart(os.environ["CYOFAULT_APART"])
    sys.exit(main())
