"""What commands that were killed leave in a data directory.

While the first node of a cluster is being made, ``node.yaml.unfinished`` is
there, and locked, from before anything else is made until it becomes
node.yaml.  So whoever finds it unlocked finds what a killed command has left,
which never was a node, and may begin again.
Files that were being written have hidden names until they are whole.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cyoloctl.errors import AlreadyExists, StorageError
from cyoloctl.node.config import CONFIG_NAME
from cyoloctl.paths import file_error, hand_to_owner_of, sync_directory
from cyoloctl.pki.files import PKI_DIRECTORY

__all__ = ["UNFINISHED_NAME", "founding", "leftovers", "sweep"]

_log = logging.getLogger("cyoloctl.node")

UNFINISHED_NAME = f"{CONFIG_NAME}.unfinished"

_LEFTOVER = re.compile(r"\.(pki\.[a-z0-9_]{8}|.{1,64}\.[0-9a-f]{16})")
"""What writing files whole leaves behind when it is killed (`paths.write_private`, `pki.founding`)."""

_IN_USE_S = 3600.0


def leftovers(directory: Path) -> list[Path]:
    """Hidden files and directories that a killed command has left."""
    return [path for path in directory.iterdir() if _LEFTOVER.fullmatch(path.name)]


def sweep(data_dir: Path, *, older_than_s: float = _IN_USE_S) -> None:
    """Remove hidden files that killed commands have left; private keys may be in them.

    older_than_s: what changed since then may still be written.
    """
    for directory in (data_dir, data_dir / PKI_DIRECTORY):
        with suppress(OSError):
            for path in leftovers(directory):
                if path.is_file() and time.time() - path.stat().st_mtime > older_than_s:
                    path.unlink()
                    _log.info("removed what a killed command left", extra={"path": str(path)})


@contextmanager
def founding(data_dir: Path, remove: Callable[[Collection[Path]], None]) -> Iterator[Callable[[str], None]]:
    """Make a first node in a directory; the value writes node.yaml, which ends it.

    remove: called first where a killed command was at work here, with the
    hidden files that it has left; it removes everything else that is made.
    Raises AlreadyExists for a directory that holds a node, or in which
    another process makes one, and what file_error gives.
    """
    path = data_dir / UNFINISHED_NAME
    was_there = os.path.lexists(path)
    with _writing(path):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
    try:
        _lock(descriptor, data_dir)
        try:
            if os.path.lexists(data_dir / CONFIG_NAME):
                raise AlreadyExists(
                    f"{data_dir} already holds a node ({CONFIG_NAME}): choose another data directory, or "
                    "move it away"
                )
            with _writing(path):
                if was_there:
                    remove(leftovers(data_dir))
                os.fchmod(descriptor, 0o600)
                hand_to_owner_of(data_dir, descriptor)
                sync_directory(data_dir)
            yield lambda text: _finish(descriptor, path, text)
        finally:
            with suppress(OSError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False)):
                    os.unlink(path)
    finally:
        os.close(descriptor)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise file_error(path, error, "write") from None


def _lock(descriptor: int, data_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AlreadyExists(
            f"another command makes a node in {data_dir}: wait for its end, or choose another data directory"
        ) from None
    except OSError as error:
        raise StorageError(
            f"{data_dir} cannot be locked: {error.strerror}; use a file system that has locks (flock)"
        ) from None


def _finish(descriptor: int, path: Path, text: str) -> None:
    with _writing(path):
        with open(descriptor, "wb", closefd=False) as file:
            file.truncate(0)
            file.write(text.encode())
            file.flush()
            os.fsync(descriptor)
        os.rename(path, path.with_name(CONFIG_NAME))
        sync_directory(path.parent)
