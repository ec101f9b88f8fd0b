"""Results that get lost on their way to the user: under which request id each can be had again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.cli import main
from cyoloctl.cli.tree import command_tree
from cyoloctl.errors import AuthorizationPending, NoLeader, OutcomeUnknown, StorageError
from tests.cli.harness import LIMIT_S, Endpoint, counter, run

Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]

Capture = pytest.CaptureFixture[str]

ID = "0123456789abcdef" * 2

TOKEN = {
    "valid": True, "sub": "alice", "sid": "s", "gen": 2, "issued_at": "2030-01-01T00:00:00Z",
    "expires_at": "2030-01-01T00:15:00Z", "max_expires_at": "2030-01-01T08:00:00Z", "key_id": "fc000000",
    "claims": {}, "token": "new-token",
}  # fmt: skip

ANSWER = {
    "id": ID, "state": "consumed", "kind": "mfa", "approved_by": "ann", "data": {"role": "admin"},
    "sealed_result": None, "node": "n1",
}  # fmt: skip

INCREMENT = ("POST", "/v1/counters/default/increment")

WAIT = ("POST", "/v1/rendezvous/wait")

ANSWERS: dict[tuple[str, str], Any] = {
    INCREMENT: counter("default", 1),
    ("POST", "/v1/tokens/update"): TOKEN,
    WAIT: ANSWER,
}

WRITES = {
    "counter incr": ["counter", "incr"],
    "token update": ["token", "update", "old-token"],
    "rendezvous wait": ["rendezvous", "wait", ID],
}


def _process(endpoint: Endpoint, arguments: list[str], stdout: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cyoloctl", *arguments, "-e", endpoint.url],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.mark.parametrize("arguments", WRITES.values(), ids=WRITES)
def test_result_that_cannot_be_written_names_the_request_id_that_gives_it_again(
    serve: Serve, arguments: list[str]
) -> None:
    endpoint = serve(ANSWERS)
    with open("/dev/full", "w") as full:
        done = _process(endpoint, arguments, full)
    assert done.returncode == StorageError.exit_status
    sent = endpoint.requests[0][2]["request_id"]
    assert f"the same command with --request-id {sent} gives the result again" in done.stderr
    again = run(*arguments, "--request-id", sent, "-e", endpoint.url)
    first, second = ({**request[2], "query": ""} for request in endpoint.requests)
    assert (again.returncode, second) == (0, first)


def test_error_in_json_has_the_request_id_as_a_field(serve: Serve) -> None:
    endpoint = serve(ANSWERS)
    with open("/dev/full", "w") as full:
        done = _process(endpoint, ["counter", "incr", "-o", "json"], full)
    error = json.loads(done.stderr)["error"]
    assert (error["exit_status"], error["request_id"]) == (74, endpoint.requests[0][2]["request_id"])


def test_result_that_nobody_reads_names_the_request_id(serve: Serve) -> None:
    endpoint = serve(ANSWERS)
    reader, writer = os.pipe()
    os.close(reader)
    done = _process(endpoint, ["counter", "incr"], writer)
    os.close(writer)
    assert done.returncode == 0
    assert endpoint.requests[0][2]["request_id"] in done.stderr


def test_closed_stdout_names_the_request_id(serve: Serve) -> None:
    endpoint = serve(ANSWERS)
    command = [sys.executable, "-m", "cyoloctl", "counter", "incr", "-e", endpoint.url]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command],
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == StorageError.exit_status
    assert endpoint.requests[0][2]["request_id"] in done.stderr


def test_interrupted_write_names_the_request_id(serve: Serve) -> None:
    reached, proceed = os.pipe(), os.pipe()

    def hang(body: dict[str, Any]) -> dict[str, Any]:
        os.write(reached[1], b"x")
        os.read(proceed[0], 1)
        return counter("default", 1)

    endpoint = serve({INCREMENT: hang})
    process = subprocess.Popen(
        [sys.executable, "-m", "cyoloctl", "counter", "incr", "-e", endpoint.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.read(reached[0], 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT_S)
    os.write(proceed[1], b"x")
    for descriptor in (*reached, *proceed):
        os.close(descriptor)
    assert process.returncode == 130
    assert endpoint.requests[0][2]["request_id"] in err


@pytest.mark.parametrize("arguments", [WRITES["token update"], WRITES["rendezvous wait"]])
def test_request_id_of_an_answer_that_can_be_had_once_is_told_before_it_is_asked(
    serve: Serve, capsys: Capture, arguments: list[str]
) -> None:
    told: list[str] = []

    def told_by_now(answer: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def asked(body: dict[str, Any]) -> dict[str, Any]:
            told.append(capsys.readouterr().err)
            return answer

        return asked

    endpoint = serve({key: told_by_now(answer) for key, answer in ANSWERS.items()})
    assert main([*arguments, "-e", endpoint.url]) == 0
    assert f"--request-id {endpoint.requests[0][2]['request_id']}" in told[0]
    assert main([*arguments, "-e", endpoint.url, "--request-id", "mine"]) == 0
    assert main([*arguments, "-e", endpoint.url, "-o", "json"]) == 0
    assert (told[1:], capsys.readouterr().err) == (["", ""], "")


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ([OutcomeUnknown("?"), NoLeader("none")], 80),  # the first may have redeemed it
        ([OutcomeUnknown("?"), AuthorizationPending("not yet"), NoLeader("none")], 75),
    ],
)
def test_wait_that_may_have_redeemed_never_says_that_nothing_was_done(
    serve: Serve, capsys: Capture, answers: list[Any], status: int
) -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        error = answers.pop(0) if len(answers) > 1 else answers[0]
        return {"error": {"code": error.code, "message": error.message}}

    endpoint = serve({WAIT: answer})
    assert main(["rendezvous", "wait", ID, "--timeout", "1.2", "-e", endpoint.url]) == status
    assert (endpoint.requests[0][2]["request_id"] in capsys.readouterr().err.splitlines()[-1]) == (
        status == 80
    )


def test_bug_after_a_write_names_the_request_id(serve: Serve, capsys: Capture) -> None:
    endpoint = serve({INCREMENT: {"no value": 1}})
    assert main(["counter", "incr", "-e", endpoint.url]) == 70
    assert re.search(rf"--request-id {endpoint.requests[0][2]['request_id']}\b", capsys.readouterr().err)


def test_refused_input_leaves_no_request_id_behind(tmp_path: Path, capsys: Capture) -> None:
    assert main(["counter", "incr", "--request-id", "with space", "-d", str(tmp_path), "-o", "json"]) == 65
    assert "request_id" not in json.loads(capsys.readouterr().err)["error"]


READERS = {
    "audit list", "audit verify",
    "bench",  # writes again and again, and to names of its own
    # nothing of the cluster changes: a repetition does no harm
    "demo", "dev", "doctor", "status", "sim", "help exit-codes",
    "completion bash", "completion zsh", "completion fish",
    "counter get", "counter list", "counter watch",
    "credentials list", "credentials show", "credentials request",
    "key list", "key status", "key export", "key identity",
    "kv get", "kv list", "kv watch", "lock list", "lock show",
    "machine list", "machine query", "machine check",
    "top", "console",
    "lock run",  # a holder of its own for each process, who asks again until it knows
    "member list", "member show", "member invitations",
    "pki status",
    "rendezvous list", "rendezvous show",
    "route export", "route list", "route resolve", "route watch", "route which",
    "token inspect", "token mint", "token refresh", "token revocations",
    # about one node and its directory
    "support-bundle", "cluster init", "cluster recover", "config check", "config show",
    "snapshot save", "snapshot inspect",
    "node accept", "node info", "node inspect", "node join", "node log", "node reload",
    "node renew", "node request", "node set-address", "node start", "node stop",
}  # fmt: skip


def _leaves(command: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    if not hasattr(command, "commands"):
        return {" ".join(path): command}
    found: dict[str, Any] = {}
    for name in command.commands:
        found |= _leaves(command.commands[name], (*path, name))
    return found


def test_every_command_that_writes_to_the_cluster_takes_a_request_id() -> None:
    without = {
        path
        for path, command in _leaves(command_tree()).items()
        if not any("--request-id" in parameter.opts for parameter in command.params)
    }
    assert without == READERS


def test_revoke_takes_a_whole_cookie_header_from_stdin_as_inspect_does(serve: Serve) -> None:
    revoked = {"kind": "sid", "value": "s", "minimum_gen": None, "issued_before": None, "expires_at": "x"}
    endpoint = serve({("POST", "/v1/tokens/revoke"): revoked})
    header = "Cookie: a=b; my-sid=VAH8-token\n"
    arguments = ["token", "revoke", "--cookie", "--cookie-name", "my-sid", "-e", endpoint.url]
    done = run(*arguments, stdin=header)
    assert done.returncode == 0, done.stderr
    sent = endpoint.requests[0][2]
    assert (sent["cookie"], sent["cookie_name"]) == ("a=b; my-sid=VAH8-token", "my-sid")
    assert "token" not in sent
    assert run(*arguments, "--sub", "bob", stdin=header).returncode == 2
