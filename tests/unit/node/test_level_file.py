"""The level that a data directory has reached."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cyoloctl.errors import StorageError, VersionMismatch
from cyoloctl.node.level_file import LEVEL_NAME, note_level, refuse_higher_level
from cyoloctl.replicated.levels import THIS, Release
from cyoloctl.state import ClusterState

NEXT = Release("9.0.0", 2, {}, {2: "9.0.0"})


def raised() -> ClusterState:
    state = ClusterState(release=NEXT)
    state.levels.apply("raise", {"to": 2, "release": "9.0.0"}, 1, 0)
    return state


def test_directory_of_a_cluster_at_the_base_has_no_file(tmp_path: Path) -> None:
    note_level(tmp_path, ClusterState().levels)
    assert list(tmp_path.iterdir()) == []
    refuse_higher_level(tmp_path)


def test_directory_above_what_a_release_understands_is_refused_and_says_which_is_needed(
    tmp_path: Path,
) -> None:
    note_level(tmp_path, raised().levels)
    path = tmp_path / LEVEL_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(VersionMismatch) as caught:
        refuse_higher_level(tmp_path, THIS)
    assert caught.value.message == (
        f"the cluster was raised to level 2, and release {THIS.name} understands level 1: install "
        "release 9.0.0 or a later one"
    )
    refuse_higher_level(tmp_path, NEXT)
    before = path.stat().st_ino
    note_level(tmp_path, raised().levels)
    assert path.stat().st_ino == before  # it is written once


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"level": "x", "release": "1"}', "null"])
def test_damaged_file_says_that_it_may_go(text: str, tmp_path: Path) -> None:
    (tmp_path / LEVEL_NAME).write_text(text)
    with pytest.raises(StorageError, match="remove it"):
        refuse_higher_level(tmp_path)
