"""The command line with lower limits of compaction, so that a short run has snapshots.

    CYOFAULT_COMPACT=ENTRIES python -m tests.chaos.node ARGUMENTS OF CYOLOCTL...

Nothing else differs from `python -m cyoloctl`.  Without the variable nothing does.
"""

from __future__ import annotations

import os
import sys

from cyoloctl.cli import main
from cyoloctl.raft import settings

if __name__ == "__main__":
    entries = int(os.environ.get("CYOFAULT_COMPACT", "0"))
    if entries:
        # The default of every engine is this one object, and a node has no setting for it.
        object.__setattr__(settings.DEFAULT_LIMITS, "compact_entries", entries)
        object.__setattr__(settings.DEFAULT_LIMITS, "keep_entries", max(1, entries // 10))
    sys.exit(main())
