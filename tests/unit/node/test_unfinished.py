"""What commands that were killed leave in a data directory."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import pytest

from cyoloctl.errors import AlreadyExists
from cyoloctl.node.unfinished import UNFINISHED_NAME, founding, leftovers, sweep

HIDDEN = (".node.key.0123456789abcdef", ".pki.abcdef_1")


def keep(_: Collection[Path]) -> None:
    raise AssertionError("nothing is to be removed")


def test_directory_is_a_nodes_once_it_is_finished_and_no_sooner(tmp_path: Path) -> None:
    with founding(tmp_path, keep) as finish:
        assert [path.name for path in tmp_path.iterdir()] == [UNFINISHED_NAME]
        finish("name: n1\n")
        assert [path.name for path in tmp_path.iterdir()] == ["node.yaml"]
    assert (tmp_path / "node.yaml").read_text() == "name: n1\n"
    assert (tmp_path / "node.yaml").stat().st_mode & 0o777 == 0o600


def test_what_a_killed_command_left_is_removed_first_with_its_hidden_files(tmp_path: Path) -> None:
    (tmp_path / UNFINISHED_NAME).write_text("half of a much longer configuration")
    (tmp_path / HIDDEN[0]).touch()
    (tmp_path / HIDDEN[1]).mkdir()
    (tmp_path / ".bashrc").touch()
    removed: list[str] = []
    with founding(tmp_path, lambda paths: removed.extend(path.name for path in paths)) as finish:
        assert sorted(removed) == sorted(HIDDEN)
        finish("a: b\n")
    assert (tmp_path / "node.yaml").read_text() == "a: b\n"


def test_two_commands_at_once_make_one_node(tmp_path: Path) -> None:
    with founding(tmp_path, keep) as finish:
        with (
            pytest.raises(AlreadyExists, match="another command makes a node"),
            founding(tmp_path, keep),
        ):
            raise AssertionError("both are at work")
        assert (tmp_path / UNFINISHED_NAME).exists(), "the second took the mark of the first away"
        finish("")


def test_node_that_is_there_is_neither_touched_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text("theirs")
    (tmp_path / UNFINISHED_NAME).touch()
    with pytest.raises(AlreadyExists, match="already holds a node"), founding(tmp_path, keep):
        raise AssertionError("it is made over a node")
    assert (tmp_path / "node.yaml").read_text() == "theirs"


def test_hidden_files_go_at_a_start_once_nobody_can_be_writing_them(tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir()
    old, fresh = tmp_path / "pki" / HIDDEN[0], tmp_path / ".node.yaml.0123456789abcdef"
    others = [tmp_path / "node.yaml", tmp_path / ".hidden", tmp_path / "pki" / "node.key"]
    for path in (old, fresh, *others):
        path.touch()
    for path in (old, *others):
        os.utime(path, (1_000, 1_000))
    sweep(tmp_path)
    assert leftovers(tmp_path / "pki") == []
    assert leftovers(tmp_path) == [fresh]
    assert all(path.exists() for path in others)
