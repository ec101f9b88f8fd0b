"""`cyoloctl bench` against scripted answers: what it counts, above all while an endpoint stands still."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.cli import main
from cyoloctl.errors import AccessDenied, NoLeader, QuotaExceeded
from tests.cli.harness import LIMIT_S, Endpoint, counter, run
from tests.cli.test_tables import screen
from tests.support.cluster import wait_until

Capture = pytest.CaptureFixture[str]
Serve = Callable[..., Endpoint]

INCREMENT = ("POST", "/v1/counters/bench/increment")
PUT = ("POST", "/v1/kv/put")
STALL_S = 0.6


def standing_still(at: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Answers, of which one comes STALL_S late."""
    asked = 0

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked == at:
            threading.Event().wait(STALL_S)
        return counter("bench", asked)

    return answer


def measured(capsys: Capture, endpoint: Endpoint, *options: str, status: int = 0) -> dict[str, Any]:
    arguments = ["bench", "--clients", "1", *options, "-e", endpoint.url, "-o", "json"]
    assert main(arguments) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_open_loop_counts_what_a_stall_kept_from_being_sent(serve: Serve, capsys: Capture) -> None:
    endpoint = serve({INCREMENT: standing_still(at=21)})
    shown = measured(capsys, endpoint, "--rate", "100", "--seconds", "1")
    assert (shown["loop"], shown["latency_from"]) == ("open", "planned_start")
    # Some sixty were planned meanwhile: the first of them is late by all of the stall, the others by less.
    assert shown["latency_ms"]["p90"] > 1000 * STALL_S / 2
    assert shown["latency_ms"]["max"] >= 1000 * STALL_S


def test_closed_loop_has_one_slow_answer_of_a_stall_and_says_what_it_measures(
    serve: Serve, capsys: Capture
) -> None:
    shown = measured(capsys, serve({INCREMENT: standing_still(at=21)}), "--seconds", "1")
    assert (shown["loop"], shown["latency_from"]) == ("closed", "send")
    assert shown["latency_ms"]["p90"] < 1000 * STALL_S / 2
    assert shown["latency_ms"]["max"] >= 1000 * STALL_S
    endpoint = serve({INCREMENT: counter("bench", 1)})
    assert main(["bench", "--clients", "1", "--seconds", "0.1", "-e", endpoint.url]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "closed loop" in told
    assert "what it would have sent is missing" in told


def test_what_could_not_be_sent_in_time_counts_with_what_it_had_waited(serve: Serve, capsys: Capture) -> None:
    """The answer to the second one comes when the run is over."""
    shown = measured(capsys, serve({INCREMENT: standing_still(at=3)}), "--rate", "100", "--seconds", "0.5")
    assert shown["seconds"] == 0.5
    assert (shown["succeeded"], shown["unsent"]) == (2, 48)
    assert sum(bar["count"] for bar in shown["histogram"]) == 50
    assert shown["latency_ms"]["p50"] > 200
    assert shown["rate_per_s"] == 2.0  # one in time, which are two a second


def test_failures_are_counted_by_code_and_no_client_fails_as_fast_as_it_can(
    serve: Serve, capsys: Capture
) -> None:
    endpoint = serve({})

    def second(body: dict[str, Any]) -> dict[str, Any]:
        endpoint.answers[INCREMENT] = NoLeader("none")
        return counter("bench", 2)

    def first(body: dict[str, Any]) -> dict[str, Any]:
        endpoint.answers[INCREMENT] = second
        return counter("bench", 1)

    endpoint.answers[INCREMENT] = first
    shown = measured(capsys, endpoint, "--seconds", "0.5")
    assert shown["succeeded"] == 1
    assert shown["failed"] == sum(shown["errors"].values())
    assert 1 <= shown["failed"] <= 6
    assert sum(bar["count"] for bar in shown["histogram"]) == 1


def test_run_in_which_nothing_was_answered_exits_75_and_shows_why(serve: Serve, capsys: Capture) -> None:
    endpoint = serve({INCREMENT: counter("bench", 1)})

    def ends(body: dict[str, Any]) -> dict[str, Any]:
        endpoint.answers[INCREMENT] = NoLeader("none")
        return counter("bench", 1)

    endpoint.answers[INCREMENT] = ends
    shown = measured(capsys, endpoint, "--seconds", "0.2", status=75)
    assert (shown["succeeded"], set(shown["errors"])) == (0, {"no_leader"})
    assert shown["latency_ms"] == dict.fromkeys(("p50", "p90", "p99", "p99_9", "max"))
    assert shown["histogram"] == []
    assert main(["bench", "--seconds", "0.2", "--clients", "1", "-e", endpoint.url]) == 75


@pytest.mark.parametrize(
    ("operation", "answers", "status"),
    [
        ("incr", {INCREMENT: NoLeader("none")}, 75),
        ("incr", {INCREMENT: AccessDenied("no")}, 77),
        ("put", {PUT: QuotaExceeded("full")}, 75),
    ],
)
def test_cluster_that_answers_nobody_is_not_loaded(
    serve: Serve, capsys: Capture, operation: str, answers: dict[tuple[str, str], Any], status: int
) -> None:
    endpoint = serve(answers)
    assert main(["bench", "--op", operation, "--clients", "3", "-e", endpoint.url]) == status
    assert len(endpoint.requests) == 3
    assert capsys.readouterr().out == ""


def test_nobody_there_exits_69(serve: Serve, tmp_path: Path, capsys: Capture) -> None:
    assert main(["bench", "-d", str(tmp_path)]) == 69
    assert "holds no node" in capsys.readouterr().err
    without_leader = serve({INCREMENT: NoLeader("none")})
    both = ["-e", f"unix://{tmp_path}/nobody.sock", "-e", without_leader.url]
    assert main(["bench", "--clients", "4", *both]) == 75
    assert "incr is not answered" in capsys.readouterr().err


def test_clients_begin_with_an_endpoint_each_and_go_on_at_the_other(serve: Serve, capsys: Capture) -> None:
    one, other = serve({INCREMENT: counter("bench", 1)}), serve({INCREMENT: counter("bench", 1)})
    both = ["-e", one.url, "-e", other.url]
    arguments = ["bench", "--clients", "2", "--seconds", "0.2", *both, "-o", "json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["endpoints"] == [one.url, other.url]
    assert len(one.requests) > 1
    assert len(other.requests) > 1
    other.answers[INCREMENT] = NoLeader("none")
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["failed"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_shows_what_it_measured(serve: Serve, number: signal.Signals) -> None:
    endpoint = serve({INCREMENT: counter("bench", 1)})
    process = subprocess.Popen(
        [sys.executable, "-m", "cyoloctl", "bench", "--seconds", "5m", "-e", endpoint.url, "-o", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until("some load", lambda: len(endpoint.requests) > 50)
    process.send_signal(number)
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, err
    shown = json.loads(out)
    assert shown["complete"] is False
    assert 0 < shown["seconds"] < 300
    assert shown["succeeded"] > 0
    assert json.loads(err)["error"]["code"] == "interrupted"


def test_figures_fit_80_columns_with_the_whole_histogram(
    serve: Serve, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.cells import cell_len

    endpoint = serve({INCREMENT: standing_still(at=5)})
    screen(monkeypatch, 80)
    for options in (["--rate", "30"], []):
        assert main(["bench", "--clients", "1", "--seconds", "0.8", *options, "-e", endpoint.url]) == 0
        shown = capsys.readouterr().out
        assert all(cell_len(line) <= 80 for line in shown.splitlines()), shown
        assert "hidden" not in shown
        assert "P99.9" in shown
        assert "█" in shown


def test_histogram_is_ascii_where_stdout_takes_nothing_else(serve: Serve) -> None:
    endpoint = serve({INCREMENT: counter("bench", 1)})
    done = run(
        "bench", "--clients", "1", "--seconds", "0.2", "-e", endpoint.url, env={"PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0, done.stderr
    assert "#" * 36 in done.stdout
    assert "\\u" not in done.stdout


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (["--op", "delete"], 2),
        (["--clients", "0"], 65),
        (["--clients", "501"], 65),
        (["--seconds", "0"], 65),
        (["--seconds", "2h"], 65),
        (["--rate", "0"], 65),
        (["--rate", "1.5"], 65),
    ],
)
def test_option_out_of_its_range_is_refused_before_anything_is_sent(
    serve: Serve, options: list[str], status: int
) -> None:
    endpoint = serve({INCREMENT: counter("bench", 1)})
    assert main(["bench", *options, "-e", endpoint.url]) == status
    assert endpoint.requests == []
