"""`cyoloctl node`: start and stop real processes, tell what is there, and refuse to join over something."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cyoloctl.cli import main
from cyoloctl.errors import Conflict, Unreachable
from cyoloctl.model import Address, ClusterId, NodeName
from cyoloctl.pki import join_token
from cyoloctl.pki.ca import create_ca, new_cluster_id
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.x509 import certificate_sha256
from tests.cli.harness import processes_of, run
from tests.support.cluster import free_port

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


@pytest.mark.cluster
def test_node_start_in_the_background_returns_when_it_serves_and_stop_when_it_is_gone(
    directory: Path, capsys: Capture
) -> None:
    node = str(directory / "a")
    assert main(["cluster", "init", "-d", node, "--name", "a", "--listen", f"127.0.0.1:{free_port()}"]) == 0
    capsys.readouterr()
    assert main(["node", "start", "-d", node, "--background", "-o", "json"]) == 0
    pid = json.loads(capsys.readouterr().out)["pid"]
    assert processes_of(directory) == [pid]
    assert (directory / "a" / "node.log").stat().st_mode & 0o777 == 0o600
    assert main(["counter", "incr", "-d", node]) == 0
    assert capsys.readouterr().out == "1\n"
    # A second one is told why it cannot run.
    assert main(["node", "start", "-d", node, "--background"]) == Conflict.exit_status
    assert f"runs already, as process {pid}" in capsys.readouterr().err
    assert main(["node", "stop", "-d", node]) == 0
    os.waitpid(pid, 0)  # a child of this process, as the command ran inside it
    assert processes_of(directory) == []
    assert main(["node", "stop", "-d", node]) == 0  # as it is already


@pytest.mark.cluster
def test_node_start_with_a_port_in_use_ends_with_the_nodes_reason(directory: Path, capsys: Capture) -> None:
    node = str(directory / "a")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert main(["cluster", "init", "-d", node, "--name", "a", "--listen", f"127.0.0.1:{port}"]) == 0
        capsys.readouterr()
        assert main(["node", "start", "-d", node, "--background", "-o", "json"]) == Conflict.exit_status
    error = json.loads(capsys.readouterr().err)["error"]
    assert (error["code"], str(port) in error["message"]) == ("conflict", True)
    assert processes_of(directory) == []
