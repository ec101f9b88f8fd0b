"""Commands that start and end real node processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyoloctl.cli import main
from cyoloctl.errors import Conflict
from tests.cli.harness import LIMIT_S, run
from tests.support.cluster import free_port

pytestmark = pytest.mark.cluster

Capture = pytest.CaptureFixture[str]


def _processes_of(directory: Path) -> list[int]:
    """Processes whose command line names the directory, this one excepted."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.startswith(os.fsencode(directory)) for word in words):
                found.append(int(entry.name))
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory whose node processes are ended whatever the test does."""
    yield tmp_path
    for pid in _processes_of(tmp_path):
        os.kill(pid, signal.SIGKILL)


def test_node_start_in_the_background_returns_when_it_serves_and_stop_when_it_is_gone(
    directory: Path, capsys: Capture
) -> None:
    node = str(directory / "a")
    assert main(["cluster", "init", "-d", node, "--name", "a", "--listen", f"127.0.0.1:{free_port()}"]) == 0
    capsys.readouterr()
    assert main(["node", "start", "-d", node, "--background", "-o", "json"]) == 0
    pid = json.loads(capsys.readouterr().out)["pid"]
    assert _processes_of(directory) == [pid]
    assert (directory / "a" / "node.log").stat().st_mode & 0o777 == 0o600
    assert main(["counter", "incr", "-d", node]) == 0
    assert capsys.readouterr().out == "1\n"
    # A second one is told why it cannot run.
    assert main(["node", "start", "-d", node, "--background"]) == Conflict.exit_status
    assert "use" in capsys.readouterr().err
    assert main(["node", "stop", "-d", node]) == 0
    os.waitpid(pid, 0)  # a child of this process, as the command ran inside it
    assert _processes_of(directory) == []
    assert main(["node", "stop", "-d", node]) == 69


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
    assert _processes_of(directory) == []


def test_demo_proves_each_step_and_leaves_no_process(directory: Path) -> None:
    done = run("demo", "-o", "json", "--data-dir", str(directory / "demo"))
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    steps = {step["step"]: step for step in shown["steps"]}
    assert list(steps) == ["init", "join", "replicate", "session", "failover", "nothing-lost", "restart"]
    assert all(step["ok"] for step in steps.values())
    assert steps["nothing-lost"]["after"] == steps["nothing-lost"]["before"] + 1
    assert steps["failover"]["killed"] != steps["failover"]["leader"]
    assert shown["status"]["cluster"]["healthy"] is True
    assert len(shown["status"]["members"]) == 3
    assert _processes_of(directory) == []


def test_demo_kept_goes_on_running_and_stops_as_it_says(directory: Path) -> None:
    done = run("demo", "--keep", "-o", "json", "--data-dir", str(directory / "demo"))
    assert done.returncode == 0, done.stderr
    kept = json.loads(done.stdout)
    assert sorted(kept["pids"].values()) == sorted(_processes_of(directory))
    assert run("counter", "incr", "demo", env=kept["environment"]).stdout == "22\n"
    for command in kept["stop"]:
        stopped = run(*command.split()[1:])
        assert stopped.returncode == 0, stopped.stderr
    assert _processes_of(directory) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_that_is_interrupted_ends_its_processes(directory: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cyoloctl", "demo", "--data-dir", str(directory / "demo")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "n1 created cluster" in process.stdout.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert _processes_of(directory) == []


def test_demo_in_a_directory_that_holds_something_exits_4(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    assert main(["demo", "--data-dir", str(tmp_path)]) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
