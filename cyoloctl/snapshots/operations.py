"""Operations of a node on snapshots of the state: taken at one moment, and read in parts."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cyoloctl import __version__
from cyoloctl.errors import NotFound, Overloaded
from cyoloctl.model import LocalNode
from cyoloctl.paths import SteadyWriter, file_error
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.security_log import log_security
from cyoloctl.snapshots.api import SnapshotBegun, SnapshotPart
from cyoloctl.snapshots.file import Head
from cyoloctl.state import ClusterState
from cyoloctl.text import rfc3339

__all__ = ["SnapshotOperations", "Spooled"]

_log = logging.getLogger("cyoloctl.node")

_PART_BYTES = 512 * 1024
_AT_ONCE = 2
_KEPT_S = 60.0
"""How long a snapshot is held after it was asked for last."""


class Spooled:
    """The state of a snapshot, in a file without a name: it may be larger than memory has room for.

    size: in bytes.  sha256: of it, in hex.
    """

    def __init__(self, parts: Iterable[bytes], directory: Path) -> None:
        """directory: where the file is.  Raises what file_error gives."""
        digest, self.size = hashlib.sha256(), 0
        try:
            self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - it is held until `close`
        except OSError as error:
            raise file_error(directory, error, "write") from None
        try:
            writer = SteadyWriter(self._file)
            for part in parts:
                writer.write(part)
                digest.update(part)
                self.size += len(part)
            self._file.flush()
        except OSError as error:
            self.close()
            raise file_error(directory, error, "write") from None
        except BaseException:
            self.close()
            raise
        self.sha256 = digest.hexdigest()

    def read(self, offset: int, size: int) -> bytes:
        """Up to so many bytes from there."""
        return os.pread(self._file.fileno(), size, offset)

    def parts(self) -> Iterator[bytes]:
        """All of it, in order."""
        for offset in range(0, self.size, _PART_BYTES):
            yield self.read(offset, _PART_BYTES)

    def close(self) -> None:
        """Let go of the file, which is gone then.  Idempotent."""
        with suppress(OSError):  # what a full disk did not take is tried once more, in vain
            self._file.close()

    async def let_go(self) -> None:
        """As `close`, in another thread: a file system takes a second to free a gigabyte."""
        await asyncio.to_thread(self.close)


@dataclass(slots=True)
class _Held:
    state: Spooled
    until: float


class SnapshotOperations:
    """Implements `snapshots.api.SnapshotApi`."""

    def __init__(self, proposer: Proposer, state: ClusterState, node: LocalNode, directory: Path) -> None:
        """directory: it has room for a snapshot while it is read."""
        self._proposer = proposer
        self._state = state
        self._node = node
        self._directory = directory
        self._held: dict[str, _Held] = {}
        self._making = 0
        self._letting_go: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def take(self, *, consistency: str, timeout_s: float) -> tuple[Head, Spooled]:
        """A snapshot without token keys: of all that was acknowledged before, unless stale.

        Encoded in a thread, so that writes do not wait.  The caller closes it.
        Raises Overloaded, StorageError.
        """
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        self._drop_old()
        if len(self._held) + self._making >= _AT_ONCE:
            raise Overloaded(
                f"{_AT_ONCE} snapshots are being read from this node: try again in a minute, or ask another"
            )
        state, engine = self._state, self._proposer.engine
        encode = state.begin_snapshot()  # of this moment, as is what follows
        index, term, epoch = engine.applied_index(), engine.status().term, state.history.epoch
        time_ms = state.time_unix_ms
        self._making += 1
        try:
            spooled = await asyncio.to_thread(lambda: Spooled(encode(), self._directory))
        finally:
            self._making -= 1
        log_security("snapshot save", index=index)
        _log.info("a snapshot is read", extra={"index": index, "bytes": spooled.size})
        head = Head(
            cluster_id=str(self._node.cluster_id),
            cluster=str(self._node.cluster),
            node=str(self._node.name),
            release=__version__,
            epoch=epoch,
            index=index,
            term=term,
            time_unix_ms=time_ms,
            keys="",
            state_bytes=spooled.size,
            keys_bytes=0,
        )
        return head, spooled

    async def begin(self, *, consistency: str, timeout_s: float) -> SnapshotBegun:
        """Take a snapshot, to be read in parts.  Raises Overloaded."""
        head, state = await self.take(consistency=consistency, timeout_s=timeout_s)
        identifier = os.urandom(16).hex()
        self._held[identifier] = _Held(state, time.monotonic() + _KEPT_S)
        self._drop_old()
        return {
            "id": identifier,
            "cluster_id": head.cluster_id,
            "cluster": head.cluster,
            "node": head.node,
            "release": head.release,
            "epoch": head.epoch,
            "index": head.index,
            "term": head.term,
            "time_unix_ms": head.time_unix_ms,
            "taken_at": rfc3339(head.time_unix_ms / 1000),
            "total_bytes": head.state_bytes,
            "sha256": state.sha256,
        }

    async def part(self, name: str, *, offset: int, timeout_s: float) -> SnapshotPart:
        """A part of a snapshot; the last one lets go of it.  Raises NotFound."""
        self._drop_old()
        held = self._held.get(name)
        if held is None:
            raise NotFound("this snapshot is no longer held here: take another one")
        data = held.state.read(offset, _PART_BYTES)
        end = offset + len(data)
        held.until = time.monotonic() + _KEPT_S
        last = end >= held.state.size
        if last:
            await self._held.pop(name).state.let_go()
        return {
            "offset": offset,
            "data_base64": base64.b64encode(data).decode("ascii"),
            "next": None if last else end,
        }

    def _drop_old(self) -> None:
        now = time.monotonic()
        loop = asyncio.get_running_loop()
        for name in [name for name, held in self._held.items() if held.until <= now]:
            task = loop.create_task(self._held.pop(name).state.let_go())
            self._letting_go.add(task)
            task.add_done_callback(self._letting_go.discard)
        if self._timer is not None:
            self._timer.cancel()
        # A client that never comes back must not leave its snapshot here.
        until = min((held.until for held in self._held.values()), default=None)
        self._timer = None if until is None else loop.call_later(until - now + 0.1, self._drop_old)
