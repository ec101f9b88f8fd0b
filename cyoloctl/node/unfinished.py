"""What commands that were killed leave in a data directory.

Files that were being written have hidden names until they are whole.
"""

from __future__ import annotations

import logging
import re
import time
from contextlib import suppress
from pathlib import Path

from cyoloctl.pki.files import PKI_DIRECTORY

__all__ = ["leftovers", "sweep"]

_log = logging.getLogger("cyoloctl.node")

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
