"""Snapshots that a node takes by itself: when the next one is due, and which old ones go."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cyoloctl.beat import until_beat
from cyoloctl.errors import AlreadyExists, CyoloctlError
from cyoloctl.members.api import Problem
from cyoloctl.members.facts import problem
from cyoloctl.node.config import CONFIG_NAME, load_config
from cyoloctl.node.config_writer import rewrite_snapshots
from cyoloctl.paths import check_ownership, file_error
from cyoloctl.snapshots.file import Head, encode_head, new_snapshot_file
from cyoloctl.snapshots.operations import SnapshotOperations, Spooled
from cyoloctl.snapshots.policy import SnapshotPolicy

__all__ = ["SnapshotSchedule", "newest_snapshot", "own_snapshots", "set_policy"]

_log = logging.getLogger("cyoloctl.node")

_LOOK_EVERY_S = 5.0
_TRY_AGAIN_S = 60.0
_TIMEOUT_S = 30.0


def set_policy(data_dir: Path, policy: SnapshotPolicy | None) -> dict[str, Any]:
    """Put a policy into node.yaml, or take it out; the rest stays.  A running node wants a reload.

    Raises ConfigError, StorageError, what file_error gives for a directory that is not there.
    """
    check_ownership(data_dir)
    path = data_dir / CONFIG_NAME
    before = load_config(path)
    if policy is not None:
        try:
            os.listdir(policy.directory)
        except OSError as error:
            raise file_error(policy.directory, error, "list") from None
    after = replace(before, snapshots=policy)
    if after != before:
        rewrite_snapshots(path, after)
    return {
        "schema_version": 1,
        "name": after.name,
        "changed": after != before,
        "every": None if policy is None else policy.every,
        "keep": None if policy is None else policy.keep,
        "directory": None if policy is None else policy.directory,
        "data_dir": str(data_dir),
    }


def own_snapshots(name: str, policy: SnapshotPolicy) -> list[Path]:
    """The snapshots that a node saved by a policy, the oldest first: their names hold the time.

    Raises OSError.
    """
    pattern = re.compile(re.escape(name) + r"-[0-9]{8}T[0-9]{6}Z\.snapshot")
    with os.scandir(policy.directory) as entries:
        return sorted(Path(entry.path) for entry in entries if pattern.fullmatch(entry.name))


def newest_snapshot(name: str, policy: SnapshotPolicy) -> Path | None:
    """The last of them.  Raises OSError."""
    return next(reversed(own_snapshots(name, policy)), None)


class SnapshotSchedule:
    """The snapshots of one running node.

    policy: the present one, None for none; may change while it runs.
    """

    def __init__(
        self,
        name: str,
        snapshots: SnapshotOperations,
        policy: SnapshotPolicy | None,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.policy = policy
        self._snapshots = snapshots
        self._wall_clock = wall_clock
        self._name = name
        self._failed: str | None = None

    async def run(self) -> None:
        """Take what is due while the node runs."""
        while True:
            taken = await self.step()
            await asyncio.sleep(until_beat(time.monotonic(), _LOOK_EVERY_S) if taken else _TRY_AGAIN_S)

    async def step(self) -> bool:
        """Take one if it is due.  False when that failed; `problems` says why."""
        policy = self.policy
        if policy is None:
            self._failed = None
            return True
        try:
            if not await asyncio.to_thread(self._is_due, policy):
                return True
            await self._take(policy)
        except (CyoloctlError, OSError) as error:
            reason = error.message if isinstance(error, CyoloctlError) else str(error)
            if reason != self._failed:
                _log.warning("no snapshot could be saved", extra={"reason": reason})
            self._failed = reason
            return False
        self._failed = None
        return True

    def problems(self) -> Iterator[Problem]:
        """The last attempt, if it failed."""
        if self._failed is not None:
            yield problem(
                "snapshot_failed",
                self._name,
                f"{self._name} cannot save its snapshots: {self._failed}",
                "cyoloctl snapshot save FILE",
            )

    def _unfinished(self, policy: SnapshotPolicy) -> list[Path]:
        """What this node was writing when it was killed (`new_snapshot_file`): it writes one at a time."""
        pattern = re.compile(r"\." + re.escape(self._name) + r"-[0-9]{1,8}(T.*)?\.[0-9a-f]{16}")
        with os.scandir(policy.directory) as entries:
            return [Path(entry.path) for entry in entries if pattern.fullmatch(entry.name)]

    def _is_due(self, policy: SnapshotPolicy) -> bool:
        newest = newest_snapshot(self._name, policy)
        if newest is None:
            return True
        age_s = self._wall_clock() - newest.stat().st_mtime
        return not 0 <= age_s < policy.every_s  # of the future: a clock was wrong

    async def _take(self, policy: SnapshotPolicy) -> None:
        head, state = await self._snapshots.take(consistency="linearizable", timeout_s=_TIMEOUT_S)
        try:
            path = await asyncio.to_thread(self._write, policy, head, state)
        finally:
            await state.let_go()
        _log.info("a snapshot was saved", extra={"path": str(path), "index": head.index})

    def _write(self, policy: SnapshotPolicy, head: Head, state: Spooled) -> Path:
        now = datetime.fromtimestamp(self._wall_clock(), UTC)
        path = Path(policy.directory, f"{self._name}-{now:%Y%m%dT%H%M%SZ}.snapshot")
        for left in self._unfinished(policy):
            left.unlink(missing_ok=True)
        try:
            with new_snapshot_file(path) as write:
                write(encode_head(head))
                for part in state.parts():
                    write(part)
        except AlreadyExists:
            os.utime(path)  # taken in this very second
        for old in own_snapshots(self._name, policy)[: -policy.keep]:
            old.unlink(missing_ok=True)
        return path
