"""`cyoloctl console` as a process: the link, the addresses it refuses, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cyoloctl.cli import main
from cyoloctl.errors import AccessDenied, NotFound
from tests.cli.harness import LIMIT_S, Endpoint, status
from tests.support.cluster import wait_until

Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]
Capture = pytest.CaptureFixture[str]
LISTS = [("GET", f"/v1/{name}") for name in ("keys/status", "counters", "locks", "rendezvous")]
STATUS, METRICS = ("GET", "/v1/status"), ("GET", "/metrics")
ANSWERS = {
    STATUS: {**status(), "problems": []},
    **dict.fromkeys(LISTS, NotFound("no such path")),
    METRICS: 'cyoloctl_node_info{name="a"} 1.0\n',
}


class Process:
    """A running console.  lines: what it has printed."""

    def __init__(self, process: subprocess.Popen[str], out: Path) -> None:
        self.process = process
        self._out = out

    def lines(self, count: int = 1) -> list[str]:
        def printed() -> list[str]:
            text = self._out.read_text()
            found = text[: text.rfind("\n") + 1].splitlines()  # without one that is being written
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            return found if len(found) >= count else []

        return wait_until(f"{count} lines of the console", printed)

    def end(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, err


@contextmanager
def console(tmp_path: Path, *arguments: str) -> Iterator[Process]:
    out = tmp_path / "out"
    with out.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "cyoloctl", "console", *arguments],
            stdout=written,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
    try:
        yield Process(process, out)
    finally:
        process.kill()
        process.communicate(timeout=LIMIT_S)


def get(url: str, cookie: str = "") -> tuple[int, http.client.HTTPMessage, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=LIMIT_S)
    try:
        connection.request("GET", parts.path, headers={"Cookie": cookie} if cookie else {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(("number", "ended"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_link_opens_once_another_is_printed_and_a_signal_ends_it(
    serve: Serve, tmp_path: Path, number: int, ended: int
) -> None:
    with console(tmp_path, "-e", serve(ANSWERS).url) as running:
        [link] = running.lines()
        assert link.startswith("http://127.0.0.1:")
        answer, headers, _ = get(link)
        assert answer == 303
        home = link.partition("/open/")[0] + headers["Location"]
        cookie = headers["Set-Cookie"].partition(";")[0]
        answer, _, body = get(f"{home}data", cookie)
        assert (answer, json.loads(body)["cluster"]["name"]) == (200, "cyolo")
        assert get(link)[0] == 403
        first, second = running.lines(2)
        assert first == link
        assert get(second)[0] == 303
        code, err = running.end(number)
    assert code == ended
    assert "Traceback" not in err


def test_links_are_objects_on_lines_for_programs(serve: Serve, tmp_path: Path) -> None:
    with console(tmp_path, "-e", serve(ANSWERS).url, "-o", "json") as running:
        [line] = running.lines()
        found = json.loads(line)
        assert list(found) == ["schema_version", "url"]
        get(found["url"])
        assert json.loads(running.lines(2)[1])["url"] != found["url"]
        assert running.end(signal.SIGTERM) == (0, "")


def test_page_stays_when_whoever_reads_the_links_is_gone(serve: Serve) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cyoloctl", "console", "-e", serve(ANSWERS).url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        link = process.stdout.readline().strip()
        process.stdout.close()
        answer, headers, _ = get(link)
        assert answer == 303
        home = link.partition("/open/")[0] + headers["Location"]
        assert get(home, headers["Set-Cookie"].partition(";")[0])[0] == 200
    finally:
        process.terminate()
        process.wait(LIMIT_S)
        assert process.stderr is not None
        process.stderr.close()
    assert process.returncode == 0


@pytest.mark.parametrize("listen", ["0.0.0.0:8600", "10.0.0.1:8600", "[::]:0", "node.example.com:1"])
def test_address_that_others_reach_exits_65_and_says_why(
    listen: str, capsys: Capture, tmp_path: Path
) -> None:
    assert main(["console", "--listen", listen, "-d", str(tmp_path)]) == 65
    err = capsys.readouterr().err
    assert "serves this machine only" in err
    assert "ssh -L" in err


def test_taken_port_exits_4_and_names_the_option(capsys: Capture, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["console", "--listen", listen, "-e", f"unix://{tmp_path}/control.sock"]) == 4
    assert f"another process listens on {listen}: use --listen" in capsys.readouterr().err


def test_first_look_that_fails_ends_it_without_a_link(serve: Serve, capsys: Capture, tmp_path: Path) -> None:
    assert main(["console", "-e", f"unix://{tmp_path}/control.sock"]) == 69
    denied = AccessDenied("not you")
    assert main(["console", "-e", serve({STATUS: denied}).url]) == denied.exit_status
    out, err = capsys.readouterr()
    assert out == ""
    assert "not you" in err
