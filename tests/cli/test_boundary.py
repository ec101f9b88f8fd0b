"""Common behaviour of every command: options, environment, output modes, errors, streams."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cyoloctl import __version__
from cyoloctl.cli import main
from cyoloctl.errors import (
    CyoloctlError,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    StorageError,
    error_classes,
)
from tests.cli.harness import LIMIT_S, Endpoint, counter, run

INCREMENT = ("POST", "/v1/counters/default/increment")
GET = ("GET", "/v1/counters/default")
Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]
Capture = pytest.CaptureFixture[str]


def test_version_option_prints_the_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cyoloctl {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "missing command"),
        (["counter"], "missing command"),
        (["counter", "icnr"], "did you mean 'incr'"),
        (["counter", "incr", "--bye", "1"], "no such option: --bye"),
        (["counter", "incr", "a", "b"], "unexpected extra argument"),
        (["cluster", "init", "--name", "a"], "missing option '--listen'"),
        (["status", "-o", "xml"], "use table, json or yaml"),
        (["status", "-e", "ftp://a"], "endpoint"),
        (["status", "-e", "https://a:1"], "--credentials"),
        (["node", "start", "--log-level", "loud"], "--log-level"),
    ],
)
def test_wrong_command_line_exits_2_and_says_why(
    arguments: list[str], complaint: str, capsys: Capture
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert complaint in shown.err.lower()
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["incr", "--by", "9223372036854775808"],
        ["incr", "--by", "-9223372036854775809"],
        ["incr", "--by", "1" * 200],
        ["incr", "--by", "1.0"],
        ["incr", "--by", "\u0661"],
        ["incr", "--by", "0"],
        ["decr", "--by", "-9223372036854775808"],
        ["incr", "UPPER"],
        ["incr", "--request-id", "with space"],
        ["incr", "--request-id", ""],
        ["get", "--timeout", "nan"],
        ["get", "--timeout", "301"],
        ["get", "--timeout", "soon"],
        ["get", ""],
    ],
)
def test_malformed_name_or_number_exits_65(arguments: list[str], tmp_path: Path, capsys: Capture) -> None:
    assert main(["counter", *arguments, "-d", str(tmp_path)]) == 65
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("cls", [cls for cls in error_classes() if cls.exit_status != 130])
def test_error_of_the_node_gives_its_exit_status_and_code(
    serve: Serve, cls: type[CyoloctlError], capsys: Capture
) -> None:
    endpoint = serve({INCREMENT: cls("what happened")})
    status = main(["counter", "incr", "-o", "json", "-e", endpoint.url])
    shown = capsys.readouterr()
    assert shown.out == ""
    error = json.loads(shown.err)["error"]
    assert (status, error["exit_status"], error["code"]) == (cls.exit_status, cls.exit_status, cls.code)
    assert "what happened" in error["message"]


def test_unreachable_node_exits_69(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "node.yaml").write_text("")
    assert main(["counter", "incr", "-d", str(tmp_path)]) == 69
    assert "node start" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mode", "parse"), [("json", json.loads), ("yaml", yaml.safe_load)], ids=["json", "yaml"]
)
def test_errors_and_results_have_the_form_that_was_asked_for(
    serve: Serve, mode: str, parse: Callable[[str], Any], capsys: Capture
) -> None:
    endpoint = serve({GET: counter("default", -(2**63))})
    assert main(["counter", "get", f"--output={mode}", "-e", endpoint.url]) == 0
    document = parse(capsys.readouterr().out)
    assert (document["schema_version"], document["value_string"]) == (1, str(-(2**63)))
    endpoint.answers[GET] = NotFound("there is none")
    assert main(["counter", "get", f"-o{mode}", "-e", endpoint.url]) == 3
    error = parse(capsys.readouterr().err)
    assert error == {
        "schema_version": 1,
        "error": {"code": "not_found", "message": "there is none", "exit_status": 3},
    }


def test_usage_error_in_json_mode_is_json(capsys: Capture) -> None:
    assert main(["counter", "incr", "-o", "json", "--what"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "usage"


def test_flags_beat_the_environment(serve: Serve, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    named, other = serve({GET: counter("default", 1)}), serve({GET: counter("default", 2)})
    monkeypatch.setenv("CYOLOCTL_ENDPOINT", f"unix:///nowhere/x.sock, {other.url}")
    monkeypatch.setenv("CYOLOCTL_OUTPUT", "json")
    monkeypatch.setenv("CYOLOCTL_TIMEOUT", "7")
    monkeypatch.setenv("CYOLOCTL_DATA_DIR", "/nowhere")
    assert main(["counter", "get"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == 2
    assert main(["counter", "get", "-o", "table", "-e", named.url]) == 0
    assert capsys.readouterr().out == "1\n"
    # A directory on the command line means the node in it, whatever the environment says.
    assert main(["counter", "get", "-o", "table", "-d", str(named.directory), "--timeout", "2"]) == 0
    assert capsys.readouterr().out == "1\n"
    asked_s = float(named.requests[-1][2]["query"].rpartition("timeout_s=")[2])
    assert 1 < asked_s < 2  # a little less than 2, so that the node's answer still arrives


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [("CYOLOCTL_OUTPUT", "xml", 2), ("CYOLOCTL_TIMEOUT", "x", 65), ("CYOLOCTL_ENDPOINT", "ftp://x", 2)],
)
def test_malformed_environment_names_the_variable_or_value(
    variable: str, value: str, expected: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert main(["counter", "get"]) == expected
    assert value in capsys.readouterr().err


def test_several_endpoints_are_tried_in_turn(serve: Serve, capsys: Capture) -> None:
    down = serve({INCREMENT: NoLeader("no leader here")})
    full = serve({INCREMENT: Overloaded("full")})
    good = serve({INCREMENT: counter("default", 5)})
    endpoints = [part for endpoint in (down, full, good) for part in ("-e", endpoint.url)]
    assert main(["counter", "incr", *endpoints]) == 0
    assert capsys.readouterr().out == "5\n"
    sent = {endpoint.requests[0][2]["request_id"] for endpoint in (down, full, good)}
    assert len(sent) == 1


def test_unknown_outcome_exits_80_and_names_the_request_id(serve: Serve, capsys: Capture) -> None:
    endpoint = serve({INCREMENT: OutcomeUnknown("perhaps")})
    assert main(["counter", "incr", "-e", endpoint.url]) == 80
    assert endpoint.requests[0][2]["request_id"] in capsys.readouterr().err


def test_unexpected_exception_exits_70_with_a_traceback_only_for_developers(
    serve: Serve, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = serve({GET: {"no value": 1}})
    assert main(["counter", "get", "-e", endpoint.url]) == 70
    shown = capsys.readouterr().err
    assert "report" in shown
    assert "Traceback" not in shown
    monkeypatch.setenv("CYOLOCTL_DEBUG", "1")
    assert main(["counter", "get", "-e", endpoint.url]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_closed_pipe_ends_the_command_quietly(serve: Serve) -> None:
    endpoint = serve({GET: counter("default", 1)})
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "cyoloctl", "counter", "get", "-e", endpoint.url],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=LIMIT_S,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_full_disk_under_stdout_exits_74(serve: Serve) -> None:
    endpoint = serve({GET: counter("default", 1)})
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cyoloctl", "counter", "get", "-e", endpoint.url],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    assert done.returncode == StorageError.exit_status
    assert "stdout" in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupt_exits_130(serve: Serve) -> None:
    reached, proceed = os.pipe(), os.pipe()

    def hang(body: dict[str, Any]) -> dict[str, Any]:
        os.write(reached[1], b"x")
        os.read(proceed[0], 1)
        return counter("default", 1)

    endpoint = serve({GET: hang})
    process = subprocess.Popen(
        [sys.executable, "-m", "cyoloctl", "counter", "get", "-e", endpoint.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.read(reached[0], 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT_S)
    os.write(proceed[1], b"x")
    for descriptor in (*reached, *proceed):
        os.close(descriptor)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


def _in_terminal(
    arguments: list[str], answer: bytes = b"", env: dict[str, str] | None = None
) -> tuple[int, str]:
    """Run with stdin, stdout and stderr on a terminal; its exit status and all that it showed."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - the child becomes the command
        os.environ.update({"TERM": "xterm", "COLUMNS": "200", **(env or {})})
        os.execv(sys.executable, [sys.executable, "-m", "cyoloctl", *arguments])
    shown = b""
    try:
        while piece := os.read(terminal, 4096):
            shown += piece
            if answer and b"[y/N] " in shown:
                os.write(terminal, answer)
                answer = b""
    except OSError:  # Linux answers EIO when the last process has closed the terminal
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def test_destructive_command_without_yes_and_terminal_exits_2(serve: Serve) -> None:
    endpoint = serve({})
    done = run("counter", "reset", "default", "-e", endpoint.url)
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert endpoint.requests == []


@pytest.mark.parametrize(("answer", "expected"), [(b"y\n", 0), (b"\n", 4)])
def test_destructive_command_on_a_terminal_asks(serve: Serve, answer: bytes, expected: int) -> None:
    endpoint = serve({("POST", "/v1/counters/default/reset"): counter("default", 0)})
    status, shown = _in_terminal(["counter", "reset", "default", "-e", endpoint.url], answer)
    assert (status, len(endpoint.requests)) == (expected, 1 if expected == 0 else 0)
    assert "reset counter default" in shown


def test_table_is_boxed_and_coloured_on_a_terminal_only() -> None:
    status, shown = _in_terminal(["help", "exit-codes"])
    assert status == 0
    assert "╭" in shown
    assert "\x1b[" in shown
    _, plain = _in_terminal(["help", "exit-codes"], env={"NO_COLOR": "1"})
    assert "\x1b[1" not in plain
    assert "\x1b[3" not in plain
    done = run("help", "exit-codes")
    assert "╭" not in done.stdout
    assert "\x1b" not in done.stdout
