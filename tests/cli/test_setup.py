"""Making a node's files: cluster init, node info, and what node join and node start refuse."""

from __future__ import annotations

import json
import os
import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cyoloctl.cli import main
from cyoloctl.errors import StorageError, Unreachable
from cyoloctl.model import Address, ClusterId, NodeName
from cyoloctl.node import create
from cyoloctl.node.config import load_config
from cyoloctl.pki import join_token
from cyoloctl.pki.ca import create_ca, new_cluster_id
from cyoloctl.pki.files import check_private_files
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.x509 import certificate_sha256
from tests.cli.harness import run

Capture = pytest.CaptureFixture[str]
INIT = ["cluster", "init", "--name", "a", "--listen", "127.0.0.1:7001"]


def _tree(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): stat.S_IMODE(path.stat().st_mode)
        for path in sorted(directory.rglob("*"))
    }


@pytest.fixture
def token() -> join_token.JoinToken:
    """A token of a cluster that nobody runs: port 1 of the loopback refuses."""
    now = datetime.now(UTC)
    cluster_id = new_cluster_id()
    ca_pem, _ = create_ca(cluster_id, "cyolo", now)
    return join_token.JoinToken(
        cluster_id=ClusterId(cluster_id),
        cluster=NodeName("cyolo"),
        ca_sha256=certificate_sha256(ca_pem),
        name=NodeName("b"),
        learner=False,
        secret=join_token.new_secret(),
        expires_unix_s=int((now + timedelta(hours=1)).timestamp()),
        members=((NodeName("a"), Address("127.0.0.1", 1)),),
    )


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

    monkeypatch.setattr(create, "write_config", full)
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


def test_node_info_works_without_a_node_running_and_tells_a_problem(tmp_path: Path, capsys: Capture) -> None:
    assert main([*INIT, "-d", str(tmp_path / "a"), "--storage", "memory"]) == 0
    capsys.readouterr()
    assert main(["node", "info", "-d", str(tmp_path / "a"), "-o", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["storage"], shown["problem"]) == ("a", "memory", None)
    assert shown["certificate_expires_at"].endswith("Z")
    os.chmod(tmp_path / "a" / "pki" / "node.key", 0o644)
    assert main(["node", "info", "-d", str(tmp_path / "a"), "-o", "json"]) == 0
    assert "chmod 600" in json.loads(capsys.readouterr().out)["problem"]


@pytest.mark.parametrize("command", ["start", "info"])
def test_command_on_a_directory_without_a_node_exits_78_and_says_what_to_do(
    command: str, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["node", command, "-d", str(tmp_path)]) == 78
    shown = capsys.readouterr().err
    assert "cluster init" in shown
    assert "node join" in shown


@pytest.mark.parametrize("text", ["", "cyolojoin2.", "cyolojoin2.e30", "hello", "x" * 70_000])
def test_node_join_with_a_malformed_token_exits_65(text: str, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    arguments = ["node", "join", "--name", "b", "--listen", "127.0.0.1:7002", "--token-file", str(path)]
    assert main([*arguments, "-d", str(tmp_path / "b")]) == 65
    assert not (tmp_path / "b").exists()
    assert "Traceback" not in capsys.readouterr().err


def test_node_join_reads_the_token_from_stdin_and_leaves_nothing_when_no_node_answers(
    token: join_token.JoinToken, tmp_path: Path
) -> None:
    done = run(
        *["node", "join", "-d", str(tmp_path / "b"), "--name", "b", "--listen", "127.0.0.1:7002"],
        *["--token-file", "-", "--timeout", "2"],
        stdin=join_token.encode_token(token),
    )
    assert done.returncode == Unreachable.exit_status
    assert token.secret not in done.stderr
    assert not (tmp_path / "b").exists()


def test_node_join_with_a_token_for_another_name_exits_77(
    token: join_token.JoinToken, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text(join_token.encode_token(token))
    arguments = ["node", "join", "--name", "c", "--listen", "127.0.0.1:7002", "--token-file", str(path)]
    assert main([*arguments, "-d", str(tmp_path / "c")]) == 77
    assert not (tmp_path / "c").exists()


def test_node_join_over_keys_of_another_cluster_exits_4_and_keeps_them(
    token: join_token.JoinToken, tmp_path: Path
) -> None:
    directory = tmp_path / "b"
    new_cluster(directory, name="b", cluster="other", now=datetime.now(UTC))
    before = _tree(directory)
    path = tmp_path / "token"
    path.write_text(join_token.encode_token(token))
    arguments = ["node", "join", "--name", "b", "--listen", "127.0.0.1:7002", "--token-file", str(path)]
    assert main([*arguments, "-d", str(directory)]) == 4
    assert _tree(directory) == before


def test_node_join_over_a_node_exits_4(token: join_token.JoinToken, tmp_path: Path) -> None:
    assert main([*INIT, "-d", str(tmp_path / "b")]) == 0
    path = tmp_path / "token"
    path.write_text(join_token.encode_token(token))
    arguments = ["node", "join", "--name", "b", "--listen", "127.0.0.1:7002", "--token-file", str(path)]
    assert main([*arguments, "-d", str(tmp_path / "b")]) == 4


def test_node_join_over_the_journal_of_another_node_exits_4_before_the_token_is_spent(
    token: join_token.JoinToken, tmp_path: Path
) -> None:
    directory = tmp_path / "b"
    assert main([*INIT, "-d", str(directory)]) == 0
    for left in ("node.yaml", "operator.yaml"):
        (directory / left).unlink()
    shutil.rmtree(directory / "pki")
    journal = (directory / "raft.db").read_bytes()
    path = tmp_path / "token"
    path.write_text(join_token.encode_token(token))
    arguments = ["node", "join", "--name", "b", "--listen", "127.0.0.1:7002", "--token-file", str(path)]
    # 69 would mean that the cluster was asked.
    assert main([*arguments, "-d", str(directory)]) == 4
    assert (directory / "raft.db").read_bytes() == journal
