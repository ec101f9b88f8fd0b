"""The file system of the data directory, looked at while the node runs."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from cyoloctl.beat import until_beat
from cyoloctl.members.disk_space import SpaceHistory, low_bytes, reserve_bytes
from cyoloctl.paths import disk_space
from cyoloctl.raft import Engine
from cyoloctl.text import Json

__all__ = ["DiskWatch"]

_log = logging.getLogger("cyoloctl.node")

_LOOK_EVERY_S = 1.0
_COMPACT_EVERY_S = 600.0


class DiskWatch:
    """Measures the space on this node's disk, and acts on it.

    Below one mark the log is compacted early; below another one no new
    entries are taken, until there is a quarter more than that.

    data_dir: on the file system that is looked at.  holds_log: it has the log,
    which is not in memory.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        engine: Engine,
        *,
        holds_log: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._data_dir = Path(data_dir)
        self._engine = engine
        self._holds_log = holds_log
        self._clock = clock
        self._history = SpaceHistory()
        self._is_short = False
        self._compact_at = clock()

    async def run(self) -> None:
        """Look while the node runs."""
        while True:
            self.look()
            await asyncio.sleep(until_beat(time.monotonic(), _LOOK_EVERY_S))

    def look(self) -> None:
        """Measure once, and do what is due."""
        space = disk_space(self._data_dir)
        if space is None:
            return
        now, free = self._clock(), space.free_bytes
        self._history.observe(now, free)
        if not self._holds_log:
            return
        reserve = self._reserve(space.total_bytes)
        was_short, mark = self._engine.is_short(), reserve * 5 // 4 if self._is_short else reserve
        self._is_short = free < mark
        if not self._is_short:
            self._engine.find_room()
        self._engine.set_space(is_short=self._is_short, free_bytes=free)
        if was_short != self._engine.is_short():
            text = "new entries find room again" if was_short else "the disk takes no new entries"
            _log.warning(text, extra={"free_bytes": free, "reserve_bytes": reserve})
        if free < low_bytes(reserve) and now >= self._compact_at:
            self._compact_at = now + _COMPACT_EVERY_S
            self._engine.compact()

    def facts(self) -> Json:
        """Facts about the disk that this node tells its peers; none where the system does not say."""
        space = disk_space(self._data_dir)
        if space is None:
            return {}
        return {
            "disk_free_bytes": space.free_bytes,
            "disk_total_bytes": space.total_bytes,
            "disk_reserve_bytes": self._reserve(space.total_bytes),
            "disk_days_left": self._history.days_left(space.free_bytes),
        }

    def _reserve(self, total_bytes: int) -> int:
        return reserve_bytes(total_bytes, self._engine.snapshot_bytes())
