"""Requests, output and exit statuses of `cyoloctl status`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.cli import main
from cyoloctl.errors import Conflict
from tests.cli.harness import LIMIT_S, Endpoint, member, status

Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]

Capture = pytest.CaptureFixture[str]

COMMAND = [sys.executable, "-m", "cyoloctl"]

STATUS = ("GET", "/v1/status")


def test_status_without_a_terminal_is_aligned_and_says_what_is_wrong(serve: Serve, capsys: Capture) -> None:
    document = status(
        member("a", role="leader"),
        member("b", reachable=False, uptime_s=None, applied_index=None, lag=None),
        member("c", certificate_expires_at="2001-01-01T00:00:00Z", clock_skew_ms=-4200, fsync_p99_ms=250),
        healthy=False,
        failure_tolerance=0,
    )
    problem = {"code": "away", "member": "b", "message": "b is away", "command": "cyoloctl member show b"}
    document["problems"] = [problem]
    endpoint = serve({STATUS: document})
    assert main(["status", "-e", endpoint.url]) == 0
    out = capsys.readouterr().out
    for text in (
        "NOT HEALTHY",
        "the next failure stops the cluster",
        "b is away: cyoloctl member show b",
        "expired ",
        "c has a slow disk",
        "1d 2h",
    ):
        assert text in out
    heading = next(line for line in out.splitlines() if line.startswith("NAME"))
    for row in out.splitlines()[4:7]:
        assert row[heading.index("ROLE") - 1] == " "
        assert row[heading.index("ROLE")] in "lf"
    assert main(["status", "--check", "-e", endpoint.url]) == Conflict.exit_status
    assert "b is away" in capsys.readouterr().err


def test_status_says_what_a_power_cut_costs_and_where_the_history_broke(
    serve: Serve, capsys: Capture
) -> None:
    document = status(member("a", role="leader"))
    document["cluster"]["storage"] = "memory"
    broken = {"kind": "recovered", "epoch": 3, "by": "a", "at": "2026-01-01T00:00:00Z", "left_behind": ["b"]}
    document["history"] = [{**broken, "epoch": 2}, broken]
    endpoint = serve({STATUS: document})
    assert main(["status", "-e", endpoint.url]) == 0
    out = capsys.readouterr().out
    assert "in memory: a power cut that takes a majority at once loses the whole state, permanently\n" in out
    assert "epoch 3: recovered on a at 2026-01-01T00:00:00Z, without b\n" in out
    assert "epoch 2" not in out


def test_status_without_a_quorum_says_so_first(serve: Serve, capsys: Capture) -> None:
    down = [member(name, reachable=False) for name in "bc"]
    endpoint = serve({STATUS: status(member("a"), *down, leader=None, healthy=False, failure_tolerance=0)})
    assert main(["status", "-e", endpoint.url]) == 75
    shown = capsys.readouterr()
    warnings = [line for line in shown.out.splitlines() if line.startswith("! ")]
    assert warnings[0].startswith("! no quorum: only 1 of 3 voters")
    assert "leader" in shown.err


def test_status_without_a_leader_in_json_still_prints_and_exits_75(serve: Serve, capsys: Capture) -> None:
    document = status(leader=None, healthy=False)
    endpoint = serve({STATUS: document})
    assert main(["status", "--check", "-o", "json", "-e", endpoint.url]) == 75
    shown = capsys.readouterr()
    assert json.loads(shown.out) == document
    assert json.loads(shown.err)["error"]["code"] == "no_leader"


def test_status_check_of_a_healthy_cluster_exits_0(serve: Serve, capsys: Capture) -> None:
    endpoint = serve({STATUS: status()})
    assert main(["status", "--check", "-e", endpoint.url]) == 0
    assert "! " not in capsys.readouterr().out


def test_status_of_a_node_that_knows_little_is_shown(serve: Serve, capsys: Capture) -> None:
    nothing = dict.fromkeys(member("x")) | {"name": "x", "role": "learner"}
    endpoint = serve({STATUS: status(member("a", role="leader"), nothing, learners=1)})
    assert main(["status", "-e", endpoint.url]) == 0
    assert "1 learner" in capsys.readouterr().out


@pytest.mark.parametrize("interval", ["0", "x", "nan", "99999"])
def test_status_watch_with_a_bad_interval_exits_65(interval: str, tmp_path: Path) -> None:
    assert main(["status", "--watch", "--interval", interval, "-d", str(tmp_path)]) == 65


def test_status_watch_streams_one_object_a_line_until_interrupted(serve: Serve) -> None:
    endpoint = serve({STATUS: status()})
    process = subprocess.Popen(
        [*COMMAND, "status", "--watch", "--interval", "0.2", "-o", "json", "-e", endpoint.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    seen = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert seen == [status(), status()]
    assert process.returncode == 130
