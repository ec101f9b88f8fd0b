"""Surroundings of the processes that cyoloctl starts: code, descriptors, signals."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Node, environment, free_port, run, wait_until

pytestmark = pytest.mark.cluster

# Modules that a node imports late or early; each leaves a mark when it is taken from the wrong place.
PLANTED = ("queue", "yaml", "json", "multiprocessing", "pickle", "httptools", "uvloop", "sitecustomize")


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The console script as pip writes it: on the path is its own directory, not the caller's."""
    script = tmp_path_factory.mktemp("bin") / "cyoloctl"
    script.write_text(
        "import sys\nfrom cyoloctl.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    return [sys.executable, str(script)]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """One node, made and not started; ended by its pid."""
    node = Node(tmp_path / "n1", "n1", free_port())
    made = node.cli(
        *("cluster", "init", "--name", "n1", "--listen", node.address),
        *("--gateway", f"127.0.0.1:{free_port()}"),
    )
    assert made.returncode == 0, made.stderr
    yield node
    run("node", "stop", "-d", node.directory)
    node.end()


def _plant(directory: Path) -> Path:
    """A directory full of traps, and the file that any of them makes."""
    directory.mkdir()
    mark = directory / "RAN"
    for name in PLANTED:
        (directory / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write({name!r})\n")
    return mark


def _background(console: list[str], node: Node, **options: object) -> int:
    """`node start --background` through the console script; the pid."""
    result = subprocess.run(
        [*console, "node", "start", "-d", str(node.directory), "--background", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **{"env": environment(), **options},  # type: ignore[call-overload]
    )
    assert result.returncode == 0, result.stderr
    return int(json.loads(result.stdout)["pid"])


def test_background_node_takes_no_code_from_the_directory_that_the_caller_stands_in(
    console: list[str], node: Node, tmp_path: Path
) -> None:
    mark = _plant(tmp_path / "evil")
    pid = _background(console, node, cwd=mark.parent)
    assert not mark.exists(), mark.read_text()
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


def test_background_node_takes_no_code_from_python_variables(node: Node, tmp_path: Path) -> None:
    # The command itself is started without them: what an interpreter does with its own is not ours.
    mark = _plant(tmp_path / "evil")
    script = (
        "import os, sys; from cyoloctl.cli import main; "
        f"os.environ.update(PYTHONPATH={str(mark.parent)!r}, PYTHONSTARTUP='x', PYTHONINSPECT='1'); "
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, "node", "start", "-d", str(node.directory), "--background"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not mark.exists(), mark.read_text()
    found = re.search(r"pid +([0-9]+)", done.stdout)
    assert found is not None
    names = Path(f"/proc/{found[1]}/environ").read_bytes()
    assert b"PYTHON" not in names


def test_sim_workers_take_no_code_from_the_directory_that_the_caller_stands_in(
    console: list[str], tmp_path: Path
) -> None:
    mark = _plant(tmp_path / "evil")
    done = subprocess.run(
        [*console, "sim", "--seeds", "0:2", "--jobs", "2"],
        cwd=mark.parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not mark.exists(), mark.read_text()


def test_command_of_route_watch_gets_no_python_variables(node: Node, tmp_path: Path) -> None:
    node.start()
    seen = tmp_path / "environ"
    script = tmp_path / "hook"
    script.write_text(f"#!/bin/sh\nenv >{shlex.quote(str(seen))}\n")
    script.chmod(0o700)
    watch = (
        *("route", "watch", "--format", "nginx", "--out", tmp_path / "out.conf", "--check", "test -f {}"),
        *("--exec", str(script), "--once", "-d", node.directory, "--fragment", "--listen", "127.0.0.1:1"),
    )
    variables = {"PYTHONPATH": "/nowhere", "PYTHONSTARTUP": "/nowhere"}
    # Until the node has said where its gateway is.
    wait_until("a configuration", lambda: run(*watch, **variables).returncode == 0)
    assert "PYTHON" not in seen.read_text()


def _shell(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", text], capture_output=True, text=True, timeout=60, env=environment(), check=False
    )


CLOSED = [
    " ".join(chosen)
    for count in range(1, 4)
    for chosen in itertools.combinations(("<&-", ">&-", "2>&-"), count)
]
"""Every combination of standard streams that a service manager or cron may leave closed."""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_background_node_started_without_standard_streams_is_ready(node: Node, closed: str) -> None:
    command = f"{sys.executable} -m cyoloctl node start -d {node.directory} --background"
    assert _shell(f"{command} {closed}").returncode == 0
    assert node.client().counters.incr("x", 1)["value"] == 1
    assert "ready" not in (node.directory / "node.log").read_text(), "that line is for the command"


@pytest.mark.parametrize("closed", CLOSED)
def test_node_started_without_standard_streams_stops_when_told(node: Node, closed: str) -> None:
    command = f"{sys.executable} -m cyoloctl node start -d {node.directory}"
    with subprocess.Popen(
        ["/bin/sh", "-c", f"exec {command} {closed}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    ) as process:
        wait_until("the node answering", lambda: node.client().health())
        for number, stream in enumerate(("<&-", ">&-", "2>&-")):
            if stream in closed.split():
                assert os.readlink(f"/proc/{process.pid}/fd/{number}") == "/dev/null"
        process.terminate()
        assert process.wait(60) == 0


def test_node_that_is_hung_up_on_goes_on_and_reloads(console: list[str], node: Node) -> None:
    pid = _background(console, node)
    log = node.directory / "node.log"
    log.rename(node.directory / "moved.log")
    done = node.cli("node", "reload", "-o", "json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["schema_version"], told["reloaded"], told["pid"], told["applied"]) == (1, True, pid, [])
    assert "reloaded" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    os.kill(pid, signal.SIGHUP)
    wait_until("another line", lambda: log.read_text().count("reloaded") == 2)
    assert node.client().counters.incr("x", 1)["value"] == 1


def test_node_hung_up_on_with_broken_files_keeps_what_it_has(console: list[str], node: Node) -> None:
    pid = _background(console, node)
    key = node.directory / "pki" / "node.key"
    good = key.read_bytes()
    key.write_bytes(b"garbage")
    os.kill(pid, signal.SIGHUP)
    log = node.directory / "node.log"
    wait_until("a complaint", lambda: "not reloaded" in log.read_text())
    assert "node.key" in log.read_text()
    key.write_bytes(good)
    assert node.client().counters.incr("x", 1)["value"] == 1
    wait_until("health", lambda: node.cli("status", "--check").returncode == 0)


@pytest.mark.parametrize("what", ["a symbolic link", "a pipe", "a directory"])
def test_background_node_writes_no_log_into_what_is_not_its_file(
    node: Node, tmp_path: Path, what: str
) -> None:
    log, elsewhere = node.directory / "node.log", tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    if what == "a symbolic link":
        log.symlink_to(elsewhere)
    elif what == "a pipe":
        os.mkfifo(log)
    else:
        log.mkdir()
    refused = node.cli("node", "start", "--background", timeout_s=20)
    assert refused.returncode == 78, refused.stderr
    assert str(log) in refused.stderr
    assert what == "a symbolic link" or "move it away" in refused.stderr
    assert elsewhere.read_text() == "precious"


def test_node_listens_with_the_backlog_that_it_asks_for(node: Node) -> None:
    """Connections of callers that come all at once, while the node is busy, wait in line."""
    gateway = int(_listening(node.directory).rpartition(":")[2])
    node.start()
    os.kill(node.pid, signal.SIGSTOP)
    try:
        with contextlib.ExitStack() as opened:
            for port in (node.port, gateway):
                for _ in range(400):
                    opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30.0))
            for _ in range(400):
                caller = opened.enter_context(socket.socket(socket.AF_UNIX))
                caller.setblocking(False)  # a full line would be BlockingIOError
                caller.connect(str(node.directory / "control.sock"))
    finally:
        os.kill(node.pid, signal.SIGCONT)
    node.wait_ready()


def _listening(directory: Path) -> str:
    """Address of the gateway in node.yaml."""
    found = re.search(r"^gateway:\n  listen: \"?([^\"\n]+)", (directory / "node.yaml").read_text(), re.M)
    assert found is not None
    return found[1]


def test_reload_of_a_node_that_does_not_run_says_so(node: Node) -> None:
    done = node.cli("node", "reload")
    assert done.returncode == 69, done.stderr
    assert "cyoloctl node start" in done.stderr


def test_node_leaves_no_core_and_cannot_be_traced(console: list[str], node: Node) -> None:
    pid = _background(console, node)
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"Max core file size +0 +0 ", limits)
    # PR_SET_DUMPABLE 0: the files in /proc belong to root, whoever runs the node.
    assert os.stat(f"/proc/{pid}/mem").st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two users")
def test_root_starting_a_service_users_node_is_refused_before_it_leaves_files(node: Node) -> None:
    for path in [node.directory, *node.directory.rglob("*")]:
        os.chown(path, 12345, 12345)
    before = sorted(node.directory.rglob("*"))
    done = run("node", "start", "-d", node.directory)
    assert done.returncode == 78, done.stderr
    assert "12345" in done.stderr
    assert "sudo -u" in done.stderr
    assert sorted(node.directory.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two users")
def test_root_starting_a_service_users_node_in_the_background_leaves_no_log_of_its_own(node: Node) -> None:
    for path in [node.directory, *node.directory.rglob("*")]:
        os.chown(path, 12345, 12345)
    done = run("node", "start", "-d", node.directory, "--background")
    assert done.returncode == 78, done.stderr
    assert not (node.directory / "node.log").exists()


@pytest.fixture
def service_directory() -> Iterator[Path]:
    """An empty directory of a service user, which that user can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as reachable:
        os.chmod(reachable, 0o755)
        directory = Path(reachable) / "n1"
        directory.mkdir(0o700)
        os.chown(directory, 12345, 12345)
        yield directory


@contextlib.contextmanager
def _run_by_the_service_user(node: Node) -> Iterator[subprocess.Popen[bytes]]:
    # All modules first: the other user may not be able to read them where they are.
    script = (
        "import os, sys; import cyoloctl.node.run, cyoloctl.cli.node, cyoloctl.cli.launch, uvloop; "
        "import encodings.idna; from cyoloctl.cli import main; "
        "os.setgroups([]); os.setgid(12345); os.setuid(12345); sys.exit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "node", "start", "-d", str(node.directory)],
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two users")
def test_what_root_makes_in_a_service_users_directory_belongs_to_that_user(service_directory: Path) -> None:
    node = Node(service_directory, "n1", free_port())
    made = node.cli("cluster", "init", "--name", "n1", "--listen", node.address)
    assert made.returncode == 0, made.stderr
    assert node.cli("node", "renew").returncode == 0
    (service_directory / "pki" / "node.csr").unlink(missing_ok=True)
    request = service_directory.parent / "request"
    assert node.cli("node", "renew", "--request", request).returncode == 0
    assert request.stat().st_uid == 0, "what is not the node's stays root's"
    owners = {path: path.stat().st_uid for path in service_directory.rglob("*")}
    assert len(owners) > 8
    assert set(owners.values()) == {12345}, owners
    with _run_by_the_service_user(node) as process:
        wait_until("the node answering", lambda: node.client().health())
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two users")
def test_what_a_crashed_node_of_root_left_does_not_keep_the_owner_from_starting(
    service_directory: Path,
) -> None:
    node = Node(service_directory, "n1", free_port())
    made = node.cli("cluster", "init", "--name", "n1", "--listen", node.address)
    assert made.returncode == 0, made.stderr
    left = service_directory / "control.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(left))
        left.chmod(0o600)
        for name in ("node.log", "node.log.1"):
            (service_directory / name).write_text("root's")
            (service_directory / name).chmod(0o600)
        with _run_by_the_service_user(node) as process:
            # As long as somebody has it, it is nobody else's.
            assert process.wait(60) == 4
            assert process.stderr is not None
            assert b"another process answers" in process.stderr.read()
    assert left.stat().st_uid == 0
    with _run_by_the_service_user(node) as process:
        wait_until("the node answering", lambda: node.client().health())
        assert left.stat().st_uid == 12345
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two users")
def test_node_with_files_of_another_user_names_the_file_and_the_command(node: Node) -> None:
    node.start()
    node.kill()
    with tempfile.TemporaryDirectory(dir="/tmp") as reachable:
        os.chmod(reachable, 0o755)
        directory = Path(reachable) / "n1"
        shutil.copytree(node.directory, directory, ignore=lambda _where, _names: ["control.sock"])
        for path in [directory, *directory.rglob("*")]:
            os.chown(path, 12345, 12345)
        journal = directory / "raft.db"
        os.chown(journal, 0, 0)
        # All modules first: the other user may not be able to read them where they are.
        script = (
            "import ctypes, os, shlex, sys; "
            "import cyoloctl.node.run, cyoloctl.cli.node, cyoloctl.cli.launch; "
            "from cyoloctl.cli import main; os.setgid(12345); os.setuid(12345); sys.exit(main())"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, "node", "start", "-d", str(directory)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 78, done.stderr
    assert str(journal) in done.stderr
    assert "chown" in done.stderr
