"""The command line with faults that a running node has no setting for.

    CYOFAULT_COMPACT=ENTRIES python -m tests.chaos.node ARGUMENTS OF CYOLOCTL...

CYOFAULT_COMPACT: lower limits of compaction, so that a short run has snapshots.
CYOFAULT_APART: a peer with which this node makes no link, as if the way
between the two were closed.  CYOFAULT_TROUBLE: a file that says what fails
from now on, as long as it is there: ``slow SECONDS`` and ``eio`` (syncs of the
journal), ``deaf NAME`` (nothing of that peer arrives), ``memory`` (applying an
entry).  CYOFAULT_STAYS: this node never hands leadership over by itself, as
where nobody reaches more members.  Nothing else differs from `python -m cyoloctl`.
Without the variables nothing does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any

from cyoloctl.cli import main
from cyoloctl.errors import StorageError
from cyoloctl.node.run import Node
from cyoloctl.raft import SqliteStore, settings
from cyoloctl.raft.journal import Batch
from cyoloctl.raft.links import Link
from cyoloctl.raft.vantage import Vantage
from cyoloctl.state import ClusterState


def _keep_apart(name: str) -> None:
    identify = Node._identify_peer

    def identify_others(self: Node, tls: Any) -> str | None:
        found = identify(self, tls)
        return None if found == name else found

    Node._identify_peer = identify_others  # type: ignore[method-assign]


class _Trouble:
    """What the file says, read whenever it matters."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def of(self, kind: str) -> list[str]:
        """The words after this kind; none while the trouble is another one."""
        with contextlib.suppress(OSError):
            word, *rest = self._path.read_text().split()
            if word == kind:
                return rest or [""]
        return []

    def install(self) -> None:
        commit, received, apply = SqliteStore.commit, Link.received, ClusterState.apply

        def slow_commit(store: SqliteStore, batch: Batch) -> None:
            for seconds in self.of("slow"):
                threading.Event().wait(float(seconds))  # libfaketime breaks time.sleep
            if self.of("eio"):
                raise StorageError(f"{store.path} cannot be written: {os.strerror(errno.EIO).lower()}")
            commit(store, batch)

        def deaf_received(link: Link, data: bytes) -> None:
            if link.name not in self.of("deaf"):
                received(link, data)

        def hungry_apply(state: ClusterState, *arguments: Any) -> bytes:
            if self.of("memory"):
                raise MemoryError
            return apply(state, *arguments)

        SqliteStore.commit = slow_commit  # type: ignore[method-assign]
        Link.received = deaf_received  # type: ignore[method-assign]
        ClusterState.apply = hungry_apply  # type: ignore[method-assign,assignment]


def run() -> int:
    """The command line with what the environment asks for; its exit status."""
    if os.environ.get("CYOFAULT_TROUBLE"):
        _Trouble(os.environ["CYOFAULT_TROUBLE"]).install()
    entries = int(os.environ.get("CYOFAULT_COMPACT", "0"))
    if entries:
        # The default of every engine is this one object, and a node has no setting for it.
        object.__setattr__(settings.DEFAULT_LIMITS, "compact_entries", entries)
        object.__setattr__(settings.DEFAULT_LIMITS, "keep_entries", max(1, entries // 10))
    if os.environ.get("CYOFAULT_APART"):
        _keep_apart(os.environ["CYOFAULT_APART"])
    if os.environ.get("CYOFAULT_STAYS"):
        Vantage.better_place = lambda *_: None  # type: ignore[method-assign]
    return main()


if __name__ == "__main__":
    sys.exit(run())
