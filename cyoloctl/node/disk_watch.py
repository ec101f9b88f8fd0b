"""The file system of the data directory, looked at while the node runs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from cyoloctl.members.disk_space import SpaceHistory, reserve_bytes
from cyoloctl.paths import disk_space
from cyoloctl.raft import Engine
from cyoloctl.text import Json

__all__ = ["DiskWatch"]

_LOOK_EVERY_S = 1.0


class DiskWatch:
    """Measures the space on this node's disk.

    data_dir: on the file system that is looked at.
    """

    def __init__(
        self, data_dir: str | os.PathLike[str], engine: Engine, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._data_dir = Path(data_dir)
        self._engine = engine
        self._clock = clock
        self._history = SpaceHistory()

    async def run(self) -> None:
        """Look while the node runs."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK_EVERY_S)

    def look(self) -> None:
        """Measure once."""
        space = disk_space(self._data_dir)
        if space is not None:
            self._history.observe(self._clock(), space.free_bytes)

    def facts(self) -> Json:
        """Facts about the disk that this node tells its peers; none where the system does not say."""
        space = disk_space(self._data_dir)
        if space is None:
            return {}
        return {
            "disk_free_bytes": space.free_bytes,
            "disk_total_bytes": space.total_bytes,
            "disk_reserve_bytes": reserve_bytes(space.total_bytes, self._engine.snapshot_bytes()),
            "disk_days_left": self._history.days_left(space.free_bytes),
        }
