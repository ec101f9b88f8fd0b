"""`cyoloctl dev` with real nodes: what can be done with it, how it ends, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from cyoloctl.cli import main
from tests.cli.harness import LIMIT_S, processes_of, run
from tests.support.cluster import wait_until

pytestmark = pytest.mark.cluster


@dataclass
class Dev:
    """A running `dev`.  home: where temporary directories are made."""

    process: subprocess.Popen[str]
    home: Path
    errors: IO[str]

    def document(self) -> dict[str, Any]:
        """What it prints with -o json, as soon as it is there."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.told()
        found: dict[str, Any] = json.loads(line)
        return found

    def told(self) -> str:
        """What is on stderr so far."""
        self.errors.seek(0)
        return self.errors.read()

    def end(self, number: signal.Signals) -> int:
        """Send it a signal; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(LIMIT_S)


@contextmanager
def started(
    home: Path, *options: str, program: Sequence[str] = (sys.executable, "-m", "cyoloctl")
) -> Iterator[Dev]:
    home.mkdir()
    with (home.parent / "errors").open("w+") as errors:
        process = subprocess.Popen(
            [*program, "dev", *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "TMPDIR": str(home)},
        )
        with process:
            try:
                yield Dev(process, home, errors)
            finally:
                process.kill()


def assert_gone(dev: Dev) -> None:
    assert processes_of(dev.home) == []
    assert list(dev.home.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_dev_node_does_what_it_is_asked_until_it_is_ended_and_leaves_nothing(
    directory: Path, number: signal.Signals
) -> None:
    with started(directory / "tmp", "-o", "json") as dev:
        shown = dev.document()
        assert list(shown) == ["schema_version", "ready", "ready_s", "environment", "gateway", "nodes"]
        (node,) = shown["nodes"]
        assert node["pid"] in processes_of(dev.home)
        assert Path(node["data_dir"]).parent.stat().st_mode & 0o777 == 0o700
        environment = shown["environment"]
        assert run("counter", "incr", env=environment).stdout == "1\n"
        assert run("token", "mint", "--sub", "zoe", env=environment).returncode == 0
        assert json.loads(run("node", "info", "-o", "json", env=environment).stdout)["storage"] == "memory"
        with urllib.request.urlopen(f"{shown['gateway']}/healthz", timeout=LIMIT_S) as answer:
            assert answer.status == 200
        assert dev.end(number) == 0, dev.told()
        assert_gone(dev)


def test_dev_prints_lines_for_the_shell(directory: Path) -> None:
    with started(directory / "tmp") as dev:
        assert dev.process.stdout is not None
        lines = [dev.process.stdout.readline() for _ in range(3)]
        assert re.fullmatch(r"# gateway of n1: http://127\.0\.0\.1:[0-9]+\n", lines[-1])
        told = "".join(lines) + f"{sys.executable} -m cyoloctl counter incr\n"
        done = subprocess.run(["sh"], input=told, capture_output=True, text=True, timeout=LIMIT_S, check=True)
        assert done.stdout == "1\n"
        assert re.search(r"^ready after [0-9.]+ s; Ctrl-C ends it", dev.told(), re.MULTILINE)
        assert dev.end(signal.SIGTERM) == 0
        assert_gone(dev)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dev_that_is_interrupted_while_it_starts_leaves_nothing(
    directory: Path, number: signal.Signals
) -> None:
    with started(directory / "tmp", "--nodes", "3") as dev:
        wait_until("a node", lambda: any(pid != dev.process.pid for pid in processes_of(dev.home)))
        assert dev.end(number) == 130, dev.told()
        assert_gone(dev)


def test_dev_kills_a_node_that_does_not_end_and_removes_its_socket_wherever_that_is(directory: Path) -> None:
    with started(directory / ("long" * 30), "-o", "json") as dev:
        shown = dev.document()
        socket = Path(shown["environment"]["CYOLOCTL_ENDPOINT"].removeprefix("unix://"))
        assert dev.home not in socket.parents
        assert socket.exists()
        os.kill(shown["nodes"][0]["pid"], signal.SIGSTOP)
        assert dev.end(signal.SIGTERM) == 0, dev.told()
        assert not socket.exists()
        assert_gone(dev)


def test_dev_that_is_killed_takes_its_nodes_with_it(directory: Path) -> None:
    with started(directory / "tmp", "-o", "json") as dev:
        dev.document()
        dev.end(signal.SIGKILL)
        wait_until("no process", lambda: processes_of(dev.home) == [])


def test_dev_of_three_survives_a_node_and_ends_what_took_its_place(directory: Path) -> None:
    with started(directory / "tmp", "--nodes", "3", "-o", "json") as dev:
        shown = dev.document()
        environment = shown["environment"]
        assert run("counter", "incr", env=environment).stdout == "1\n"
        victim = shown["nodes"][2]
        os.kill(victim["pid"], signal.SIGKILL)
        wait_until("its end", lambda: not Path(f"/proc/{victim['pid']}").exists())
        again = run("node", "start", "-d", victim["data_dir"], "--background", "-o", "json")
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout)["pid"] in processes_of(dev.home)
        assert run("counter", "incr", "-d", victim["data_dir"], "--timeout", "20").stdout == "2\n"
        assert dev.end(signal.SIGTERM) == 0, dev.told()
        assert_gone(dev)


def test_dev_ends_when_its_node_was_stopped(directory: Path) -> None:
    with started(directory / "tmp", "-o", "json") as dev:
        environment = dev.document()["environment"]
        assert run("node", "stop", "--force", env=environment).returncode == 0
        assert dev.process.wait(LIMIT_S) == 0, dev.told()
        assert_gone(dev)


def test_dev_whose_node_was_killed_keeps_its_log_and_says_where(directory: Path) -> None:
    with started(directory / "tmp", "-o", "json") as dev:
        (node,) = dev.document()["nodes"]
        os.kill(node["pid"], signal.SIGKILL)
        assert dev.process.wait(LIMIT_S) == 75
        assert "n1 ended with SIGKILL" in dev.told()
        assert str(Path(node["data_dir"]).parent / "*/node.log") in dev.told()
        assert (Path(node["data_dir"]) / "node.log").exists()


def test_dev_that_a_shell_became_does_not_spin_on_what_else_the_shell_had_started(directory: Path) -> None:
    program = f'sleep 300 & echo $! >&2; exec "{sys.executable}" -m cyoloctl "$@"'
    with started(directory / "tmp", "-o", "json", program=["sh", "-c", program, "sh"]) as dev:
        dev.document()
        child = int(dev.told().split()[0])
        os.kill(child, signal.SIGKILL)
        wait_until("somebody to take its status", lambda: not Path(f"/proc/{child}").exists())
        assert dev.end(signal.SIGTERM) == 0, dev.told()
        assert_gone(dev)


def test_dev_removes_what_it_made_of_a_directory_and_nothing_else(directory: Path) -> None:
    with started(directory / "tmp", "-o", "json", "-d", str(directory / "a" / "b")) as dev:
        dev.document()
        assert dev.end(signal.SIGTERM) == 0
        assert not (directory / "a").exists()
    mine = directory / "mine"
    mine.mkdir()
    with started(directory / "tmp2", "-o", "json", "-d", str(mine)) as dev:
        dev.document()
        (mine / "notes").touch()
        assert dev.end(signal.SIGTERM) == 0
        assert [path.name for path in mine.iterdir()] == ["notes"]


def test_dev_in_a_directory_that_holds_something_exits_4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").touch()
    assert main(["dev", "--data-dir", str(tmp_path)]) == 4
    assert f"{tmp_path} is not empty: name a new or an empty directory" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("count", ["0", "8", "x"])
def test_dev_with_a_wrong_number_of_nodes_exits_65(count: str) -> None:
    assert main(["dev", "--nodes", count]) == 65


@pytest.mark.alone
def test_dev_is_ready_in_under_two_seconds(directory: Path) -> None:
    """The fastest of a few: a busy machine gets more turns, and a slow program does not profit from them."""
    took_s = []
    for turn in range(5):
        began = time.monotonic()
        with started(directory / str(turn), "-o", "json") as dev:
            dev.document()
            took_s.append(time.monotonic() - began)
            assert dev.end(signal.SIGTERM) == 0
        if took_s[-1] < 2:
            break
    assert min(took_s) < 2
