"""``cyoloctl sim``: what it prints, how it ends, and that a violation can be repeated."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from typing import Any

import pytest

from cyoloctl.cli import main
from cyoloctl.replicated.requests import RequestTable
from cyoloctl.sim import FAULTS
from tools import generate


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["sim", "--jobs", "1", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_sim_without_violation_exits_0_with_the_documented_json(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--seeds", "3:5", "--nodes", "3", "-o", "json")
    document = json.loads(out)
    assert status == 0
    assert list(document) == ["schema_version", "seeds", "violations", "operations", "faults", "seeds_per_s"]
    assert (document["schema_version"], document["seeds"], document["violations"]) == (1, 2, [])
    assert document["operations"] > 0
    assert set(document["faults"]) <= set(FAULTS)
    assert document["seeds_per_s"] > 0


def test_sim_table_names_seeds_violations_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--seeds", "3:13", "--faults", "pause,crash")
    assert status == 0
    lines = dict(re.findall(r"^ *(\S.*?)  +(\S.*)$", out, re.MULTILINE))
    assert (lines["seeds"], lines["violations"]) == ("10", "0")
    assert {"crash", "pause"} == set(lines) & set(FAULTS)
    assert "seeds per second" in lines


def test_sim_on_two_processes_gives_the_result_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    def result(jobs: str) -> dict[str, Any]:
        assert main(["sim", "--seeds", "7:10", "--jobs", jobs, "-o", "json"]) == 0
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        del document["seeds_per_s"]
        return document

    assert result("1") == result("2")


def test_sim_violation_exits_4_with_trace_and_a_command_that_repeats_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RequestTable, "find", lambda self, request_id: None)
    arguments = (
        "--seeds",
        "2000:2020",
        "--faults",
        "drop,crash,partition",
        "--stop-on-failure",
        "-o",
        "json",
    )
    status, out, err = run(capsys, *arguments)
    document = json.loads(out)
    (found,) = document["violations"]
    assert status == 4
    assert found["kind"] == "exactly once"
    assert document["seeds"] == found["seed"] - 2000 + 1  # it stopped there
    assert " leads in term " in err
    assert found["replay"] in err

    words = found["replay"].split()
    assert words[:2] == ["cyoloctl", "sim"]
    status, out, _ = run(capsys, *words[2:], "-o", "json")
    assert (status, json.loads(out)["violations"]) == (4, [found])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--seeds", "5"), 65),
        (("--seeds", "5:5"), 65),
        (("--seeds", "-1:5"), 65),
        (("--seeds", "0:9223372036854775809"), 65),
        (("--faults", "crash,flood"), 2),
        (("--nodes", "0"), 65),
        (("--nodes", "10"), 65),
        (("--nodes", "three"), 65),
        (("--jobs", "0"), 65),
    ],
)
def test_sim_with_a_wrong_option_is_refused_before_it_runs(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], expected: int
) -> None:
    status = main(["sim", *arguments])
    captured = capsys.readouterr()
    assert (status, captured.out) == (expected, "")
    assert arguments[0] in captured.err


def test_sim_help_names_every_fault() -> None:
    (sim,) = [command for command in generate.commands() if command.path[1:] == ("sim",)]
    (option,) = [option for option in sim.options if "--faults" in option.names]
    assert ",".join(FAULTS) in option.help


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_sim_interrupted_exits_130_with_what_it_has(jobs: str) -> None:
    screen, stderr = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cyoloctl", "sim", "--seeds", "0:1000000", "--jobs", jobs, "-o", "json"],
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
    )
    os.close(stderr)
    try:
        seen = b""
        while b"/1000000" not in seen:  # the bar: some seeds are done
            seen += os.read(screen, 4096)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        out, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
        os.close(screen)
    assert process.returncode == 130
    assert 0 < json.loads(out)["seeds"] < 1_000_000
