"""Advice in messages, read in the state in which it appears: it works, and breaks nothing."""

from __future__ import annotations

import json
import os
import shlex
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.cli import main
from cyoloctl.errors import AlreadyExists, ConfigError, Conflict, NotFound, Unreachable, VersionMismatch
from tests.cli.harness import Endpoint
from tests.support.cluster import Node, free_port

Capture = pytest.CaptureFixture[str]

FAR = ["-e", "https://127.0.0.1:1", "--timeout", "0.2"]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """One node, made and not started; ended by its pid."""
    node = Node(tmp_path / "n 1", "n1", free_port())
    made = node.cli("cluster", "init", "--name", "n1", "--listen", node.address)
    assert made.returncode == 0, made.stderr
    yield node
    node.end()


def _credentials(path: Path, **fields: object) -> Path:
    bundle = {"schema_version": 1, "ca_pem": "c", "cluster_id": "i", "certificate_pem": "p", "key_pem": "k"}
    path.write_text(json.dumps({**bundle, **fields}))
    return path


def test_credentials_open_to_others_are_closed_by_the_command_in_the_message(
    tmp_path: Path, capsys: Capture
) -> None:
    path = _credentials(tmp_path / "my credentials.yaml")
    path.chmod(0o644)
    assert main(["status", *FAR, "--credentials", str(path)]) == ConfigError.exit_status
    advice = capsys.readouterr().err.partition("`")[2].partition("`")[0]
    assert shlex.split(advice) == ["chmod", "600", str(path)]
    subprocess.run(shlex.split(advice), check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user")
def test_credentials_of_another_user_are_to_be_copied(tmp_path: Path, capsys: Capture) -> None:
    path = _credentials(tmp_path / "operator.yaml")
    path.chmod(0o644)
    os.chown(path, 12345, -1)
    assert main(["status", *FAR, "--credentials", str(path)]) == ConfigError.exit_status
    shown = capsys.readouterr().err
    assert "belongs to user 12345" in shown
    assert "chmod" not in shown


@pytest.mark.parametrize("name", ["/etc/passwd", "../../../../../../etc/passwd"])
def test_credentials_that_name_a_file_of_the_machine_as_their_key_close_nothing(
    tmp_path: Path, name: str, capsys: Capture
) -> None:
    path = _credentials(tmp_path / "operator.yaml", key_file=name)
    document = json.loads(path.read_text())
    del document["key_pem"]
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    assert main(["status", *FAR, "--credentials", str(path)]) == ConfigError.exit_status
    assert "chmod" not in capsys.readouterr().err


@pytest.mark.parametrize("mode", [0o1777, 0o777])
def test_init_in_a_directory_for_everybody_leaves_its_mode_alone(
    tmp_path: Path, mode: int, capsys: Capture
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("of somebody")
    shared.chmod(mode)
    line = ["cluster", "init", "--name", "n1", "--listen", "127.0.0.1:1"]
    assert main([*line, "-d", str(shared)]) == ConfigError.exit_status
    shown = capsys.readouterr().err
    assert "others can write" in shown
    assert "chmod" not in shown
    if mode & stat.S_ISVTX:  # what it offers instead works
        assert f"such as {shared}/cyoloctl" in shown
        assert main([*line, "-d", f"{shared}/cyoloctl"]) == 0
    assert stat.S_IMODE(shared.stat().st_mode) == mode


def test_file_in_the_way_of_a_new_one_is_never_to_be_removed(tmp_path: Path, capsys: Capture) -> None:
    for line in (
        ["member", "invite", "--name", "n2", "--out", "/etc/passwd"],
        ["key", "export", "--passphrase-file", "/etc/hostname", "--out", "/etc/passwd"],
        ["member", "grant", "--request", "/etc/hostname", "--out", "/etc/passwd"],
    ):
        assert main([*line, "-d", str(tmp_path)]) == AlreadyExists.exit_status, line
        shown = capsys.readouterr().err
        assert "/etc/passwd exists: choose another file" in shown
        assert "remove" not in shown


def test_node_that_does_not_run_is_started_by_the_command_in_the_message(
    tmp_path: Path, capsys: Capture
) -> None:
    # The path of this one's socket would be too long: it is elsewhere, under a name without meaning.
    for directory in (tmp_path / "with space", tmp_path / ("long" * 30)):
        directory.mkdir()
        (directory / "node.yaml").write_text("")
        assert main(["counter", "get", "-d", str(directory)]) == Unreachable.exit_status
        advice = capsys.readouterr().err.strip().rpartition("with: ")[2]
        assert shlex.split(advice) == ["cyoloctl", "node", "start", "-d", str(directory), "--background"]


def test_directory_without_a_node_is_not_to_be_started(tmp_path: Path, capsys: Capture) -> None:
    assert main(["counter", "get", "-d", str(tmp_path)]) == Unreachable.exit_status
    shown = capsys.readouterr().err
    assert f"{tmp_path} holds no node" in shown
    assert "node start" not in shown


@pytest.mark.cluster
def test_stop_of_a_node_that_does_not_run_is_done_already(node: Node) -> None:
    for _ in range(2):
        done = node.cli("node", "stop")
        assert (done.returncode, done.stdout) == (0, "stopped  yes\n"), done.stderr
        assert f"the node in {node.directory} was not running" in done.stderr
    node.start()
    done = node.cli("node", "stop", "-o", "json")
    assert json.loads(done.stdout) == {"schema_version": 1, "stopped": True, "was_running": True}
    assert node.wait_exit() == 0
    node.start()
    node.kill()  # its socket stays behind
    assert (node.directory / "control.sock").exists()
    done = node.cli("node", "stop", "-o", "json")
    assert json.loads(done.stdout) == {"schema_version": 1, "stopped": True, "was_running": False}


@pytest.mark.cluster
def test_stop_of_a_node_that_just_starts_waits_for_it(node: Node) -> None:
    """A node that holds its journal and does not answer yet is not one that does not run."""
    node.start()
    (node.directory / "control.sock").rename(node.directory / "aside")
    stop = node.cli("node", "stop", "--timeout", "0.5")
    assert stop.returncode == 75, stop.stderr
    assert "holds the journal" in stop.stderr
    (node.directory / "aside").rename(node.directory / "control.sock")
    assert node.cli("node", "stop").returncode == 0


@pytest.mark.parametrize("line", [["inspect", "--copy"], ["renew", "--request"]])
def test_wrong_place_for_a_file_of_a_node_is_told_as_everywhere(
    line: list[str], tmp_path: Path, capsys: Capture
) -> None:
    directory = str(tmp_path / "n1")
    assert main(["cluster", "init", "-d", directory, "--name", "n1", "--listen", "127.0.0.1:1"]) == 0
    for where, status in ((tmp_path, 65), (tmp_path / "none" / "x", 65), ("/etc/passwd", 4)):
        capsys.readouterr()
        assert main(["node", *line, str(where), "-d", directory]) == status
        shown = capsys.readouterr().err
        assert str(where) in shown
        assert "remove" not in shown


@pytest.mark.parametrize("command", ["start", "stop", "reload"])
def test_command_for_a_node_where_there_is_none_says_so(
    command: str, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["node", command, "-d", str(tmp_path)]) == ConfigError.exit_status
    assert "holds no node" in capsys.readouterr().err


def test_reload_of_a_node_of_an_earlier_release_says_what_it_runs(
    serve: Callable[[Any], Endpoint], capsys: Capture
) -> None:
    node = serve({("POST", "/v1/node/reload"): NotFound("no such path: this node speaks API v1")}).directory
    (node / "node.yaml").touch()
    assert main(["node", "reload", "-d", str(node)]) == VersionMismatch.exit_status
    shown = capsys.readouterr().err
    assert "earlier release" in shown
    assert "restart it" in shown


@pytest.mark.cluster
@pytest.mark.parametrize("advertise", [None, "n1.example:7700"])
def test_port_in_use_names_every_setting_that_holds_it(node: Node, advertise: str | None) -> None:
    if advertise is not None:
        path = node.directory / "node.yaml"
        path.write_text(path.read_text().replace(f"advertise: {node.address}", f"advertise: {advertise}"))
    host, _, port = node.address.rpartition(":")
    with socket.create_server((host, int(port))):
        done = node.cli("node", "start")
    assert done.returncode == Conflict.exit_status, done.stderr
    assert ("`listen` and `advertise`" in done.stderr) == (advertise is None), done.stderr
    assert "`listen`" in done.stderr


@pytest.mark.cluster
def test_address_of_another_machine_is_told_so(node: Node) -> None:
    path = node.directory / "node.yaml"
    path.write_text(path.read_text().replace(f"listen: {node.address}", "listen: 192.0.2.1:7700"))
    done = node.cli("node", "start")
    assert done.returncode == ConfigError.exit_status, done.stderr
    assert "no such address" in done.stderr
    assert "0.0.0.0:7700" in done.stderr
