"""Upgrade of a data directory that release 0.1.0 wrote: a backup beside it, once, then it is used.

The journal's format is raised from 1 to 2 when this release opens it, since
the entries that follow mean nothing to release 0.1.0.  Until then nothing in
the directory is changed; the backup is complete before, or there is none.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cyoloctl.errors import Conflict, StorageError

__all__ = ["BACKUP_NAME", "back_up_old", "journal_format"]

BACKUP_NAME = "backup-0.1.0"
"""The directory in the data directory that holds what release 0.1.0 wrote."""

_OLD_FORMAT = 1
# Everything of a node but its log file, its sockets and what is temporary.
_KEPT = ("raft.db", "raft.db-wal", "snapshot", "node.yaml", "operator.yaml", "peers.json", "pki")
_USER_VERSION = slice(60, 64)  # https://www.sqlite.org/fileformat2.html section 1.3.13


def journal_format(path: Path) -> int:
    """The format version of a journal, from the header of its file; 0 for an empty file or none."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        return int.from_bytes(file.read(100)[_USER_VERSION], "big")
    return 0


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """No node of whatever release has the journal open meanwhile.  Raises Conflict, OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"{path} is in use by another process: stop that node, then start this release"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(descriptor)


def _copy(source: Path, target: Path) -> None:
    """A file or a directory with its modes, synced."""
    if source.is_dir():
        target.mkdir(mode=0o700)
        for child in sorted(source.iterdir()):
            _copy(child, target / child.name)
        _sync(target)
        return
    shutil.copyfile(source, target)
    os.chmod(target, source.stat().st_mode & 0o700)
    _sync(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def back_up_old(data_dir: Path, journal: str) -> Path | None:
    """Copy a directory of release 0.1.0 to `BACKUP_NAME` in it; None where there is nothing to do.

    Idempotent: a backup that is there stays as it is.  Raises Conflict while a
    node runs there, StorageError when the copy cannot be made; nothing is
    changed then.
    """
    path, backup = data_dir / journal, data_dir / BACKUP_NAME
    staging: str | None = None
    try:
        if journal_format(path) != _OLD_FORMAT:
            return None
        with _locked(path):
            if backup.exists():
                return backup
            staging = tempfile.mkdtemp(prefix=f".{BACKUP_NAME}.", dir=data_dir)
            for name in _KEPT:
                if (data_dir / name).exists():
                    _copy(data_dir / name, Path(staging, name))
            _sync(Path(staging))
            os.rename(staging, backup)
            staging = None
            _sync(data_dir)
    except OSError as error:
        raise StorageError(
            f"{data_dir} is of release 0.1.0 and cannot be backed up to {backup}: {error.strerror}; make "
            "room for a copy of it, or correct the permissions, then start the node again"
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return backup
