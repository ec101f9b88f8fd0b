"""The level that a data directory has reached, for releases that do not understand it.

A node writes it once its cluster was raised above the base; a directory
without the file is at the base.  A release that understands less ends before
it opens anything else there.
"""

from __future__ import annotations

import json
from pathlib import Path

from cyoloctl.errors import StorageError, VersionMismatch
from cyoloctl.members.levels import LevelMachine, not_understood
from cyoloctl.paths import write_node_file
from cyoloctl.replicated.levels import THIS, Release

__all__ = ["LEVEL_NAME", "note_level", "refuse_higher_level"]

LEVEL_NAME = "level.json"


def refuse_higher_level(data_dir: Path, release: Release = THIS) -> None:
    """Refuse a directory whose cluster is above what this release understands; writes nothing.

    Raises VersionMismatch, StorageError for a file that is damaged.
    """
    path = data_dir / LEVEL_NAME
    try:
        found = json.loads(path.read_text())
        level, since = int(found["level"]), str(found["release"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, KeyError):
        raise StorageError(
            f"{path} cannot be read: remove it, and the node finds its level in the log when it starts"
        ) from None
    if level > release.level:
        raise VersionMismatch(not_understood(release, level, since))


def note_level(data_dir: Path, levels: LevelMachine) -> None:
    """Write the level of the cluster, where the directory does not hold it yet.  Raises StorageError."""
    path = data_dir / LEVEL_NAME
    if not levels.release:
        return
    text = json.dumps({"level": levels.level, "release": levels.release}) + "\n"
    if not path.exists() or path.read_text() != text:
        write_node_file(path, text.encode())
