"""What commands that were killed leave in a data directory."""

from __future__ import annotations

import os
from pathlib import Path

from cyoloctl.node.unfinished import leftovers, sweep

HIDDEN = (".node.key.0123456789abcdef", ".pki.abcdef_1")


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
