"""`cyoloctl batch` against scripted answers: lines in, lines out, and how a run ends and goes on."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.cli import batch as cli_batch
from cyoloctl.cli import main
from cyoloctl.control.batch import MAX_LINE_BYTES, MAX_OPERATIONS, failed
from cyoloctl.errors import Conflict, CyoloctlError, NoLeader, NotFound, OutcomeUnknown, TokenRejected
from tests.cli.harness import LIMIT_S, Endpoint, run
from tests.support.cluster import wait_until

BATCH = ("POST", "/v1/batch")
Serve = Callable[..., Endpoint]
Capture = pytest.CaptureFixture[str]
Json = dict[str, Any]


def answering(refused: dict[str, CyoloctlError] | None = None) -> dict[tuple[str, str], Any]:
    """A node that carries out what it is asked, but for some ids."""

    def answer(body: Json) -> Json:
        results = []
        for each in body["operations"]:
            error = (refused or {}).get(each["id"])
            results.append(
                {"id": each["id"], "ok": True, "by": each.get("by")}
                if error is None
                else failed(each["id"], error)
            )
            if error is not None and (body["stop_on_error"] or isinstance(error, NoLeader)):
                break
        return {"results": results}

    return {BATCH: answer}


def line(identifier: str | int, **more: Any) -> str:
    return json.dumps({"id": identifier, "op": "counter_increment", "name": "x", **more}) + "\n"


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    def write(*lines: str) -> str:
        (tmp_path / "lines").write_text("".join(lines))
        return str(tmp_path / "lines")

    return write


def shown(capture: Capture) -> list[Json]:
    return [json.loads(each) for each in capture.readouterr().out.splitlines()]


def asked(endpoint: Endpoint) -> list[list[Any]]:
    return [[each["id"] for each in body["operations"]] for _, _, body in endpoint.requests]


def test_each_line_is_answered_by_a_line_in_order(
    serve: Serve, file: Callable[..., str], capsys: Capture
) -> None:
    endpoint = serve(answering())
    where = file(line("a", by=2), "\n", line(7), "  \n", line("c").rstrip())
    assert main(["batch", where, "-e", endpoint.url, "--request-id", "r"]) == 0
    assert shown(capsys) == [
        {"schema_version": 1, "id": "a", "ok": True, "by": 2},
        {"schema_version": 1, "id": 7, "ok": True, "by": None},
        {"schema_version": 1, "id": "c", "ok": True, "by": None},
    ]
    _, _, body = endpoint.requests[0]
    assert body["operations"][0] == {"id": "a", "op": "counter_increment", "name": "x", "by": 2}
    assert (body["request_id"], body["stop_on_error"]) == ("r", False)


def test_runs_without_a_name_have_one_of_their_own(serve: Serve, file: Callable[..., str]) -> None:
    endpoint = serve(answering())
    for _ in range(2):
        assert main(["batch", file(line("a")), "-e", endpoint.url]) == 0
    assert len({body["request_id"] for _, _, body in endpoint.requests}) == 2


def test_line_that_holds_no_operation_is_answered_in_its_place_and_the_rest_goes_on(
    serve: Serve, file: Callable[..., str], capsys: Capture
) -> None:
    endpoint = serve(answering())
    long = json.dumps({"id": "l", "op": "kv_put", "value": "x" * 3 * MAX_LINE_BYTES}) + "\n"
    where = file(line("a"), "{\n", line("b"), '{"id": "c"}\n', long, line("d"))
    assert main(["batch", where, "-e", endpoint.url]) == 65
    found = shown(capsys)
    assert [(each["id"], each["ok"]) for each in found] == [
        ("a", True), (None, False), ("b", True), ("c", False), (None, False), ("d", True),
    ]  # fmt: skip
    told = [each["error"]["message"].split(":")[0] for each in found if not each["ok"]]
    assert told == ["line 2", "line 4", "line 5"]


def test_line_means_the_same_at_the_end_of_a_long_file_as_at_its_beginning(
    serve: Serve, file: Callable[..., str], capsys: Capture
) -> None:
    odd = [
        line("é", by=2**53),
        line("\x7f", by="\x7f"),
        line("f", by=1.5),
        line("\ud800"),
        line("deep", by={"a": [{"b": ":"}]}),
        '{"id":"d","id":"e","op":"x"}\n',
        '{"id":"d","op":"x","by":{"a":1,"a":2}}\n',
        '{"id":"n","op":"x","by":NaN}\n',
        '{"id":"n","op":"x","by":1e400}\n',
        "{}\n",
        "[1]\n",
        "{\n",
    ]
    endpoint = serve(answering())
    many = 2 * cli_batch._MANY
    where = file(*odd, *(line(number) for number in range(many)), *odd)
    assert main(["batch", where, "-e", endpoint.url, "--request-id", "r", "--timeout", "60"]) == 65
    written = [re.sub("line [0-9]+:", "line N:", each) for each in capsys.readouterr().out.splitlines()]
    assert len(written) == many + 2 * len(odd)
    assert written[: len(odd)] == written[-len(odd) :]
    sent = [each for _, _, body in endpoint.requests for each in body["operations"]]
    good = len(sent) - many
    assert good == 2 * 5
    assert sent[:5] == sent[-5:]


def test_exit_status_is_the_highest_among_the_results(
    serve: Serve, file: Callable[..., str], capsys: Capture
) -> None:
    endpoint = serve(answering({"b": NotFound("no"), "d": TokenRejected(), "e": Conflict("no")}))
    where = file(*map(line, "abcdef"))
    assert main(["batch", where, "-e", endpoint.url]) == 77
    out, err = capsys.readouterr()
    assert [json.loads(each)["ok"] for each in out.splitlines()] == [True, False, True, False, False, True]
    assert json.loads(out.splitlines()[1])["error"] == {
        "code": "not_found",
        "message": "no",
        "exit_status": 3,
    }
    assert err.startswith("error: 3 of 6 lines failed")


def test_stop_on_error_ends_with_the_first_line_that_is_refused_and_says_how_to_go_on(
    serve: Serve, file: Callable[..., str], capsys: Capture
) -> None:
    endpoint = serve(answering({"b": Conflict("no")}))
    where = file(*map(line, "abc"))
    options = ["--stop-on-error", "--request-id", "r", "-e", endpoint.url]
    assert main(["batch", where, *options]) == 4
    out, err = capsys.readouterr()
    assert [json.loads(each)["id"] for each in out.splitlines()] == ["a", "b"]
    assert f"`cyoloctl batch {where} --request-id r --from b`" in err
    bad = file(line("a"), "{\n", line("c"))
    assert main(["batch", bad, *options]) == 65
    assert [each["id"] for each in shown(capsys)] == ["a", None]


def test_line_that_stays_unavailable_is_the_last_and_the_rest_is_named(
    serve: Serve, file: Callable[..., str], capsys: Capture
) -> None:
    endpoint = serve(answering({"b": NoLeader("nobody leads")}))
    where = file(*map(line, "abc"))
    assert main(["batch", where, "--timeout", "0.3", "-e", endpoint.url, "-o", "json"]) == 75
    out, err = capsys.readouterr()
    assert [json.loads(each)["ok"] for each in out.splitlines()] == [True, False]
    name = endpoint.requests[0][2]["request_id"]
    error = json.loads(err)["error"]
    assert error["code"] == "no_leader"
    assert f"`cyoloctl batch {where} --request-id {name} --from b`" in error["message"]
    assert len(endpoint.requests) > 2  # it was tried again


def test_from_leaves_out_what_stands_before_its_line(
    serve: Serve, file: Callable[..., str], capsys: Capture
) -> None:
    endpoint = serve(answering())
    where = file(line("a"), "{\n", line("b"), line(7), line("7"))
    arguments = ["batch", where, "--request-id", "r", "-e", endpoint.url]
    assert main([*arguments, "--from", "b"]) == 0
    assert [each["id"] for each in shown(capsys)] == ["b", 7, "7"]
    assert main([*arguments, "--from", "7"]) == 0
    assert [each["id"] for each in shown(capsys)] == [7, "7"]
    assert main([*arguments, "--from", "nobody"]) == 3
    assert "nothing was sent" in capsys.readouterr().err
    assert len(endpoint.requests) == 2


def test_from_without_the_name_of_the_run_is_refused(file: Callable[..., str], capsys: Capture) -> None:
    """Under another name what was applied would be applied again."""
    assert main(["batch", file(line("a")), "--from", "a"]) == 2
    assert "--request-id" in capsys.readouterr().err


def test_node_of_an_earlier_release_is_told_apart(
    serve: Serve, file: Callable[..., str], capsys: Capture
) -> None:
    endpoint = serve({BATCH: NotFound("no such path")})
    assert main(["batch", file(line("a")), "-e", endpoint.url]) == 76
    assert "earlier release" in capsys.readouterr().err


def test_input_that_is_not_there_is_told(tmp_path: Path, capsys: Capture) -> None:
    assert main(["batch", str(tmp_path / "none"), "-d", str(tmp_path)]) == 65
    assert "none" in capsys.readouterr().err


def test_empty_input_is_done(file: Callable[..., str], capsys: Capture) -> None:
    assert main(["batch", file("\n\n"), "-e", "unix:///nonexistent/control.sock"]) == 0
    assert capsys.readouterr().out == ""


def test_yaml_output_has_a_document_for_each_line(
    serve: Serve, file: Callable[..., str], capsys: Capture
) -> None:
    endpoint = serve(answering())
    assert main(["batch", file(*map(line, "ab")), "-e", endpoint.url, "-o", "yaml"]) == 0
    assert capsys.readouterr().out.count("---\n") == 2


# --- as a process ---------------------------------------------------------------------------------


@contextmanager
def started(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "cyoloctl", "batch", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait(LIMIT_S)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def test_lines_of_a_slow_producer_are_answered_as_they_come(serve: Serve) -> None:
    endpoint = serve(answering())
    with started("-e", endpoint.url) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for identifier in ("a", "b"):
            process.stdin.write(line(identifier).encode())
            process.stdin.flush()
            assert select.select([process.stdout], [], [], LIMIT_S)[0]
            assert json.loads(process.stdout.readline())["id"] == identifier
        process.stdin.close()
        assert process.wait(LIMIT_S) == 0
    assert asked(endpoint) == [["a"], ["b"]]


def test_line_that_does_not_end_is_refused_before_it_does(serve: Serve) -> None:
    endpoint = serve(answering())
    with started("-e", endpoint.url) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line("a").encode() + b"x" * (MAX_LINE_BYTES + 200_000))
        process.stdin.flush()
        printed = b""
        while printed.count(b"\n") < 2:
            assert select.select([process.stdout], [], [], LIMIT_S)[0]
            printed += os.read(process.stdout.fileno(), 4096)
        process.stdin.write(b"x" * 100_000 + b"\n" + line("c").encode())
        process.stdin.close()
        printed += process.stdout.read()
        assert process.wait(LIMIT_S) == 65
    found = [json.loads(each) for each in printed.splitlines()]
    assert [each["id"] for each in found] == ["a", None, "c"]
    assert found[1]["error"]["message"].startswith("line 2: is longer")


def test_lines_that_wait_go_out_together_and_a_reader_that_is_slow_stops_nothing(serve: Serve) -> None:
    endpoint = serve(answering())
    count = 20_000
    done = run("batch", "-", "-e", endpoint.url, stdin="".join(line(number) for number in range(count)))
    assert done.returncode == 0, done.stderr
    assert [json.loads(each)["id"] for each in done.stdout.splitlines()] == list(range(count))
    assert max(map(len, asked(endpoint))) == MAX_OPERATIONS
    assert len(endpoint.requests) < 4 * count / MAX_OPERATIONS


def test_reader_that_goes_away_ends_the_run_quietly_and_is_told_how_to_go_on(serve: Serve) -> None:
    endpoint = serve(answering())
    with started("-e", endpoint.url, "--request-id", "r") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(line("a").encode())
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(line("b").encode())
        process.stdin.flush()
        assert process.wait(LIMIT_S) == 0
        told = process.stderr.read().decode()
        process.stdin.close()
    assert "--request-id r --from b" in told
    assert "Traceback" not in told


def test_results_that_find_no_room_are_a_storage_error_that_says_how_to_go_on(
    serve: Serve, file: Callable[..., str]
) -> None:
    endpoint = serve(answering())
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cyoloctl", "batch", file(line("a")), "-e", endpoint.url],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
    assert done.returncode == 74
    assert re.search(r"--request-id [0-9a-f]{32} --from a`", done.stderr)


@pytest.mark.parametrize("busy", [True, False], ids=["while a node is asked", "while it waits for input"])
def test_interrupt_ends_the_run_and_says_how_to_go_on(serve: Serve, busy: bool) -> None:
    release = threading.Event()
    node = answering()[BATCH]

    def answer(body: Json) -> Json:
        if busy:
            release.wait(LIMIT_S)
        return node(body)  # type: ignore[no-any-return]  # as answering() says

    endpoint = serve({BATCH: answer})
    with started("-e", endpoint.url, "--request-id", "r") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line("a").encode())
        process.stdin.flush()
        wait_until("asked", lambda: endpoint.requests)
        if not busy:
            process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        status = process.wait(LIMIT_S)
        release.set()
        assert process.stderr is not None
        told = process.stderr.read().decode()
    assert status == 130
    assert "--request-id r --from a" in told
    assert "the same lines again to `cyoloctl batch" in told


# --- two requests ---------------------------------------------------------------------------------

COUNT = MAX_OPERATIONS + 500
MANY = [line(number, by="x" * 300) for number in range(COUNT)]
"""Three requests; the results of the first two are more than a pipe holds."""


def lines_of(process: subprocess.Popen[bytes], count: int) -> list[Any]:
    """The ids of the next results, and no result more."""
    assert process.stdout is not None
    read = b""
    while read.count(b"\n") < count:
        assert select.select([process.stdout], [], [], LIMIT_S)[0]
        read += os.read(process.stdout.fileno(), 65536)
    return [json.loads(each)["id"] for each in read.splitlines()]


@pytest.fixture
def keep(serve: Serve) -> Serve:
    """As `serve`, of a node that takes many requests on one connection."""

    def open_endpoint(answers: dict[tuple[str, str], Any]) -> Endpoint:
        endpoint = serve(answers)
        endpoint.keeps = True
        return endpoint

    return open_endpoint


def held(numbers: set[int], release: threading.Event) -> dict[tuple[str, str], Any]:
    """A node that answers the requests of these numbers once it is released."""
    node, count = answering()[BATCH], itertools.count(1)

    def answer(body: Json) -> Json:
        if next(count) in numbers:
            release.wait(LIMIT_S)
        return node(body)  # type: ignore[no-any-return]  # as answering() says

    return {BATCH: answer}


def test_next_request_leaves_before_the_results_of_the_last_one_are_read(
    keep: Serve, file: Callable[..., str]
) -> None:
    endpoint = keep(answering())
    with started(file(*MANY), "-e", endpoint.url) as process:
        wait_until("the second request", lambda: len(endpoint.requests) == 2)
        out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, err) == (0, b"")
    assert [json.loads(each)["id"] for each in out.splitlines()] == list(range(COUNT))
    assert [each for some in asked(endpoint) for each in some] == list(range(COUNT))


def test_results_are_shown_while_the_next_request_is_not_answered(
    keep: Serve, file: Callable[..., str]
) -> None:
    release = threading.Event()
    endpoint = keep(held({2}, release))
    with started(file(*MANY), "-e", endpoint.url) as process:
        assert lines_of(process, MAX_OPERATIONS) == list(range(MAX_OPERATIONS))
        assert len(endpoint.requests) == 2
        release.set()
        out, _ = process.communicate(timeout=LIMIT_S)
    assert [json.loads(each)["id"] for each in out.splitlines()] == list(range(MAX_OPERATIONS, COUNT))


@pytest.mark.parametrize("error", [NoLeader("nobody leads"), OutcomeUnknown("lost")])
def test_nothing_leaves_behind_a_request_whose_outcome_is_not_known(
    keep: Serve, file: Callable[..., str], capsys: Capture, error: CyoloctlError
) -> None:
    """It would be carried out before the lines in front of it."""
    endpoint = keep(answering({MAX_OPERATIONS - 1: error}))
    where = file(*map(line, range(COUNT)))
    assert main(["batch", where, "--timeout", "0.3", "-e", endpoint.url]) == error.exit_status
    out, err = capsys.readouterr()
    assert [json.loads(each)["id"] for each in out.splitlines()] == list(range(MAX_OPERATIONS))
    assert f"--from {MAX_OPERATIONS - 1}`" in err
    assert max(map(max, asked(endpoint))) == MAX_OPERATIONS - 1


def test_reader_that_goes_away_between_two_requests_is_told_the_first_line_that_it_did_not_get(
    keep: Serve, file: Callable[..., str]
) -> None:
    release = threading.Event()
    endpoint = keep(held({1}, release))
    with started(file('{"id": "first"}\n', *MANY), "-e", endpoint.url, "--request-id", "r") as process:
        assert process.stdout is not None
        wait_until("the first request", lambda: endpoint.requests)
        process.stdout.close()
        release.set()
        assert process.wait(LIMIT_S) == 0
        assert process.stderr is not None
        told = process.stderr.read().decode()
    assert asked(endpoint) == [list(range(MAX_OPERATIONS - 1)), list(range(MAX_OPERATIONS - 1, COUNT))]
    assert "--request-id r --from first`" in told


def test_interrupt_between_two_requests_goes_on_with_the_second(
    keep: Serve, file: Callable[..., str]
) -> None:
    release = threading.Event()
    endpoint = keep(held({2}, release))
    with started(file(*map(line, range(COUNT))), "-e", endpoint.url, "--request-id", "r") as process:
        lines_of(process, MAX_OPERATIONS)
        stat = Path(f"/proc/{process.pid}/stat")
        wait_until("it waits for the answer", lambda: stat.read_text().rpartition(") ")[2][0] == "S")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(LIMIT_S) == 130
        release.set()
        assert process.stderr is not None
        told = process.stderr.read().decode()
    assert f"--request-id r --from {MAX_OPERATIONS}`" in told


def test_time_that_a_slow_reader_takes_is_not_that_of_the_next_request(
    keep: Serve, file: Callable[..., str]
) -> None:
    endpoint = keep(answering())
    with started(file(*MANY), "-e", endpoint.url, "--timeout", "0.5") as process:
        wait_until("the second request", lambda: len(endpoint.requests) == 2)
        late = time.monotonic() + 1
        wait_until("its time is over", lambda: time.monotonic() > late)
        out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, err) == (0, b"")
    assert [json.loads(each)["id"] for each in out.splitlines()] == list(range(COUNT))


def test_lines_are_read_while_a_node_works(keep: Serve) -> None:
    release = threading.Event()
    endpoint = keep(held({1}, release))
    with started("-e", endpoint.url) as process:
        assert process.stdin is not None
        process.stdin.write(line(0).encode())
        process.stdin.flush()
        wait_until("the first request", lambda: endpoint.requests)
        process.stdin.write("".join(map(line, range(1, 3))).encode())
        process.stdin.flush()
        release.set()
        assert lines_of(process, 3) == [0, 1, 2]
        process.stdin.close()
        assert process.wait(LIMIT_S) == 0


def test_line_without_an_end_is_carried_out_when_stdin_is_closed(keep: Serve) -> None:
    endpoint = keep(answering())
    done = run("batch", "-e", endpoint.url, stdin=line("a") + line("b").rstrip())
    assert (done.returncode, asked(endpoint)) == (0, [["a", "b"]])


def test_input_that_cannot_be_read_is_told(keep: Serve, tmp_path: Path, capsys: Capture) -> None:
    endpoint = keep(answering())
    assert main(["batch", str(tmp_path), "-e", endpoint.url]) == 65
    assert "read the operations from" in capsys.readouterr().err
    assert endpoint.requests == []
