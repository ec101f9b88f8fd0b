"""`tests.chaos.node` as the fabricated next release of `tests.support.next_release`."""

from __future__ import annotations

import sys

from tests.support import next_release

if __name__ == "__main__":
    next_release.install()  # before anything else of ours is imported
    from tests.chaos import node

    sys.exit(node.run())
