"""Requests, figures, keys and exit statuses of `cyoloctl top`."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.cli import main
from cyoloctl.errors import AccessDenied, NotFound, Unavailable
from cyoloctl.metrics.counts import Histogram, Requests
from cyoloctl.metrics.families import NODE
from cyoloctl.metrics.text import page
from tests.cli.harness import LIMIT_S, Endpoint, member, status
from tests.support.cluster import wait_until

Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]
Capture = pytest.CaptureFixture[str]
STATUS, METRICS = ("GET", "/v1/status"), ("GET", "/metrics")
READ = ("GET", "/v1/kv/get", "read")


class Busy:
    """A node that commits ten writes, and answers forty reads, between two looks."""

    def __init__(self) -> None:
        self.commits, self.requests, self.looks = Histogram(), Requests(), 0

    def __call__(self, body: dict[str, Any]) -> str:
        self.looks += 1
        for _ in range(10):
            self.commits.observe(0.0007)
        for _ in range(40):
            self.requests.observe(READ, 200, 0.001)
        return page(
            NODE,
            {
                "node_info": {("a", "c", "1", "disk"): 1},
                "commit_duration_seconds": self.commits,
                "journal_sync_duration_seconds": self.commits,
                "api_requests": self.requests.counts(),
                "raft_leader_changes": 3,
                "raft_elections": 2,
            },
        )


def answers() -> dict[tuple[str, str], Any]:
    document = status(
        member("a", role="leader"),
        member("b", lag=7),
        member("c", reachable=False, lag=None, uptime_s=None),
        healthy=False,
    )
    problem = {"code": "away", "member": "c", "message": "c is away", "command": "cyoloctl member show c"}
    document["problems"] = [problem]
    return {STATUS: document, METRICS: Busy()}


def test_json_is_a_line_per_interval_with_what_each_node_did(serve: Serve, capsys: Capture) -> None:
    url = serve(answers()).url
    assert main(["top", "--interval", "0.2", "--count", "2", "-o", "json", "-e", url]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(shown) == 2
    for document in shown:
        assert next(iter(document)) == "schema_version"
        assert document["cluster"]["healthy"] is False
        assert document["problems"][0]["code"] == "away"
        a, b, c = document["nodes"]
        assert (a["name"], a["role"], a["answered"], a["silent_because"]) == ("a", "leader", True, None)
        assert 0 < a["writes_per_s"] <= 50
        assert a["reads_per_s"] == pytest.approx(4 * a["writes_per_s"], rel=0.01)
        assert (a["commit_p50_ms"], a["commit_p99_ms"], a["sync_p99_ms"]) == (0.75, 0.99, 0.99)
        assert (a["leader_changes"], a["elections"], a["lag"]) == (3, 2, 0)
        # The status tells of the others, whom nobody asked: no endpoint names them.
        assert (b["answered"], b["writes_per_s"], b["lag"], b["leader_changes"]) == (False, None, 7, None)
        assert "--credentials" in b["silent_because"]
        assert (c["reachable"], c["problems"], c["silent_because"]) == (False, 1, None)


def test_without_a_terminal_it_is_one_line_per_interval(serve: Serve, capsys: Capture) -> None:
    url = serve(answers()).url
    assert main(["top", "--interval", "0.2", "--count", "1", "-e", url]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert " NOT HEALTHY, leader a, " in line
    assert "commit p50 0.8 ms, p99 1.0 ms, sync p99 1.0 ms, lag 7, 1 problems" in line


def test_node_of_an_earlier_release_is_shown_by_its_status(serve: Serve, capsys: Capture) -> None:
    url = serve(answers() | {METRICS: NotFound("no such path")}).url
    assert main(["top", "--interval", "0.2", "--count", "1", "-o", "json", "-e", url]) == 0
    a, *_ = json.loads(capsys.readouterr().out)["nodes"]
    assert (a["role"], a["writes_per_s"]) == ("leader", None)


def test_every_endpoint_is_asked_and_one_that_does_not_answer_keeps_nobody_away(
    serve: Serve, capsys: Capture, tmp_path: Path
) -> None:
    url = serve(answers()).url
    dead = f"unix://{tmp_path}/control.sock"
    assert main(["top", "--interval", "0.2", "--count", "1", "-o", "json", "-e", dead, "-e", url]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"][0]["answered"] is True


@pytest.mark.parametrize("error", [AccessDenied("not you"), Unavailable("not now")])
def test_first_look_that_fails_is_the_commands_error(serve: Serve, capsys: Capture, error: Any) -> None:
    url = serve({STATUS: error}).url
    assert main(["top", "-e", url]) == error.exit_status
    assert error.message in capsys.readouterr().err


def test_look_that_fails_later_is_told_and_the_last_one_decides(serve: Serve, capsys: Capture) -> None:
    given = answers()
    first, looks = given[STATUS], 0

    def sometimes(body: dict[str, Any]) -> Any:
        nonlocal looks
        looks += 1
        return first if looks != 2 else Unavailable("not now")

    url = serve(given | {STATUS: sometimes}).url
    assert main(["top", "--interval", "0.2", "--count", "2", "-o", "json", "-e", url]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert err == "no figures: not now\n"
    looks = 0
    assert main(["top", "--interval", "0.2", "--count", "1", "-e", url]) == Unavailable.exit_status


@pytest.mark.parametrize("option", [("--interval", "0.1s"), ("--interval", "2h"), ("--count", "0")])
def test_bad_number_exits_65(option: tuple[str, str], tmp_path: Path) -> None:
    assert main(["top", *option, "-d", str(tmp_path)]) == 65


# -- on a terminal ------------------------------------------------------------------------------


class Terminal:
    """The command on a terminal of its own.  screen: what was written since it was cleared last."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor
        self._written = b""
        os.set_blocking(descriptor, False)

    def _read(self) -> None:
        try:
            while piece := os.read(self._descriptor, 65536):
                self._written += piece
        except OSError:  # nothing at present, or Linux's EIO at the end
            return

    def screen(self) -> list[str]:
        self._read()
        text = self._written.decode(errors="replace").rpartition("\x1b[H")[2]
        return [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).rstrip() for line in text.splitlines()]

    def shows(self, *texts: str) -> bool:
        return all(any(text in line for line in self.screen()) for text in texts)

    def press(self, key: bytes) -> None:
        os.write(self._descriptor, key)

    def shows_what_is_typed(self) -> bool:
        return bool(termios.tcgetattr(self._descriptor)[3] & termios.ICANON)

    def end(self) -> tuple[int, bytes]:
        """Exit status, and all that was written."""

        def ended() -> tuple[int, int] | None:
            self._read()
            pid, raw = os.waitpid(self.pid, os.WNOHANG)
            return (pid, raw) if pid else None

        _, raw = wait_until("the command ended", ended) or (0, 0)
        self._read()
        return os.waitstatus_to_exitcode(raw), self._written


@contextmanager
def terminal(width: int, *arguments: str) -> Iterator[Terminal]:
    pid, descriptor = pty.fork()
    if pid == 0:  # pragma: no cover - the child becomes the command
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        os.execve(sys.executable, [sys.executable, "-m", "cyoloctl", *arguments], kept | {"TERM": "xterm"})
    try:
        yield Terminal(pid, descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.timeout(2 * LIMIT_S)
@pytest.mark.parametrize(("width", "key"), [(80, b"q"), (80, b"\x03"), (120, b"q")])
def test_screen_shows_every_figure_and_ends_with_q_or_ctrl_c(serve: Serve, width: int, key: bytes) -> None:
    url = serve(answers()).url
    with terminal(width, "top", "--interval", "0.2", "-e", url) as shown:
        wait_until("figures", lambda: shown.shows("leader", "P99", " 0.8 ", "! c is away") or None)
        lines = shown.screen()
        assert max(map(len, lines)) <= width
        heading = next(line for line in lines if line.startswith("NODE"))
        assert " ".join(heading.split()) == "NODE ROLE WR/S RD/S P50 P99 SYNC LAG LEADERS UPTIME BAD"
        assert next(line for line in lines if line.startswith("c ")).split()[:2] == ["c", "away"]
        assert lines[0].startswith("c")
        assert not shown.shows_what_is_typed()
        shown.press(key)
        code, written = shown.end()
        assert shown.shows_what_is_typed()
    assert code == 0
    assert b"\x1b[?1049l" in written  # the screen from before is back
    assert b"\x1b[?25h" in written  # and so is the cursor
    assert b"Traceback" not in written
