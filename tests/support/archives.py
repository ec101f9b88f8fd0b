"""Unpacking archives: `tarfile` knows filters only since Python 3.11.4, and asks for one since 3.12."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["unpack"]


def unpack(archive: Path, into: Path) -> None:
    """Put what an archive of our own holds into a directory, made where it is not there."""
    into.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["tar", "--extract", "--file", archive, "--directory", into, "--no-same-owner"],
        check=True,
        timeout=120,
    )
