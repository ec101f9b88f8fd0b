"""The files that `cyoloctl cluster init` makes, and when it makes none."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from cyoloctl.cli import main
from cyoloctl.errors import StorageError
from cyoloctl.node import create
from cyoloctl.node.config import load_config
from cyoloctl.pki.files import check_private_files

Capture = pytest.CaptureFixture[str]

INIT = ["cluster", "init", "--name", "a", "--listen", "127.0.0.1:7001"]


def _tree(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): stat.S_IMODE(path.stat().st_mode)
        for path in sorted(directory.rglob("*"))
    }


def test_cluster_init_makes_private_files_that_fit_together(tmp_path: Path, capsys: Capture) -> None:
    directory = tmp_path / "new" / "node"
    assert main([*INIT, "-d", str(directory), "-o", "json", "--cluster", "blue"]) == 0
    shown = capsys.readouterr()
    made = json.loads(shown.out)
    assert shown.err == ""
    assert (made["name"], made["cluster"]["name"], made["address"]) == ("a", "blue", "127.0.0.1:7001")
    config = load_config(directory / "node.yaml")
    files = check_private_files(directory / "pki", name="a", cluster_id=config.cluster_id)
    assert files.has_ca_key
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    modes = _tree(directory)
    assert modes.pop("pki") == 0o700
    assert set(modes.values()) == {0o600}
    assert {"node.yaml", "operator.yaml"} <= set(modes)


def test_cluster_init_says_what_to_do_next_on_stderr(tmp_path: Path, capsys: Capture) -> None:
    assert main([*INIT, "-d", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr()
    assert "node start" not in shown.out
    assert f"cyoloctl node start -d {tmp_path / 'a'}" in shown.err


def test_cluster_init_in_memory_says_what_a_restart_and_a_power_cut_cost(
    tmp_path: Path, capsys: Capture
) -> None:
    assert main([*INIT, "-d", str(tmp_path / "a"), "--storage", "memory"]) == 0
    told = capsys.readouterr().err
    assert "its restart loses the state" in told
    assert "a power cut that takes a majority at once does" in told


def test_cluster_init_in_a_directory_with_a_node_changes_nothing_and_exits_4(tmp_path: Path) -> None:
    directory = tmp_path / "a"
    assert main([*INIT, "-d", str(directory)]) == 0
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert main([*INIT, "-d", str(directory)]) == 4
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("left", ["pki", "raft.db", "operator.yaml"])
def test_cluster_init_in_a_directory_with_parts_of_a_node_exits_4(left: str, tmp_path: Path) -> None:
    (tmp_path / left).mkdir()
    assert main([*INIT, "-d", str(tmp_path)]) == 4
    assert list(_tree(tmp_path)) == [left]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["--name", "A"], 65),
        (["--cluster", "a_b"], 65),
        (["--listen", "7001"], 65),
        (["--listen", "0.0.0.0:7001"], 65),
        (["--advertise", "[::]:7001"], 65),
        (["--listen", "[::0]:7001"], 65),
        (["--listen", "0x0:7001"], 65),
        (["--advertise", "[::ffff:0.0.0.0]:7001"], 65),
        (["--advertise", "b\u00fccher.example:7001"], 65),
        (["--gateway", "0:7002"], 65),
        (["--storage", "tape"], 2),
    ],
)
def test_cluster_init_with_bad_values_leaves_nothing(
    changes: list[str], expected: int, tmp_path: Path
) -> None:
    assert main([*INIT, *changes, "-d", str(tmp_path / "a")]) == expected
    assert list(tmp_path.iterdir()) == []


def test_cluster_init_that_fails_half_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **settings: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(create, "dump_config", full)
    assert main([*INIT, "-d", str(tmp_path / "a")]) == 74
    assert list(tmp_path.iterdir()) == []


def test_cluster_init_where_others_can_write_exits_78(tmp_path: Path) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(0o777)
    assert main([*INIT, "-d", str(directory)]) == 78
    assert list(directory.iterdir()) == []


def test_cluster_init_closes_an_empty_directory_of_ours(tmp_path: Path) -> None:
    directory = tmp_path / "a"
    directory.mkdir(0o755)
    assert main([*INIT, "-d", str(directory)]) == 0
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
