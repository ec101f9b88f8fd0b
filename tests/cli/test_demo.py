"""`cyoloctl demo` with real nodes: what it proves, what it keeps and what it leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cyoloctl.cli import main
from tests.cli.harness import LIMIT_S, processes_of, run

pytestmark = pytest.mark.cluster


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
    assert processes_of(directory) == []


def test_demo_kept_goes_on_running_and_stops_as_it_says(directory: Path) -> None:
    done = run("demo", "--keep", "-o", "json", "--data-dir", str(directory / "demo"))
    assert done.returncode == 0, done.stderr
    kept = json.loads(done.stdout)
    assert sorted(kept["pids"].values()) == sorted(processes_of(directory))
    assert run("counter", "incr", "demo", env=kept["environment"]).stdout == "22\n"
    for command in kept["stop"]:
        stopped = run(*command.split()[1:])
        assert stopped.returncode == 0, stopped.stderr
    assert processes_of(directory) == []


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
    assert processes_of(directory) == []


def test_demo_in_a_directory_that_holds_something_exits_4(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    assert main(["demo", "--data-dir", str(tmp_path)]) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
