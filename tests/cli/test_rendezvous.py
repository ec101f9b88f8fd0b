"""Requests, retries and output of `cyoloctl rendezvous`."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.cli import main
from cyoloctl.errors import (
    AuthorizationPending,
    CyoloctlError,
    Denied,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from tests.cli.harness import Endpoint

Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]

Capture = pytest.CaptureFixture[str]

ID = "0123456789abcdef" * 2

WAIT = ("POST", "/v1/rendezvous/wait")

LIST = ("GET", "/v1/rendezvous")

RECORD = {
    "id": ID, "kind": "mfa", "state": "claimed", "node": "n1", "initiator": "cli:zoe", "origin": None,
    "data": {"b": "2", "a": "1"}, "claimed_by": "ann", "sealed": False, "failed_attempts": 0,
    "created_at": "2030-01-01T00:00:00Z", "expires_at": "2030-01-01T00:05:00Z",
    "changed_at": "2030-01-01T00:00:09Z",
}  # fmt: skip

STARTED = {
    "id": ID, "user_code": "WDJB-MJHT", "verification_uri": None, "verification_uri_complete": None,
    "expires_in": 300, "interval": 5, "node": "n1",
}  # fmt: skip

ANSWER = {
    "id": ID, "state": "consumed", "kind": "mfa", "approved_by": "ann", "data": {"role": "admin"},
    "sealed_result": None, "node": "n1",
}  # fmt: skip


def test_start_sends_what_is_asked_and_shows_what_to_do_with_it(
    serve: Serve, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "zoe")
    endpoint = serve({("POST", "/v1/rendezvous/start"): STARTED})
    arguments = ["rendezvous", "start", "--kind", "mfa", "--ttl", "90s", "-e", endpoint.url]
    assert main([*arguments, "--data", "a=b=c", "--data", "empty=", "--request-id", "mine"]) == 0
    sent = endpoint.requests[0][2]
    assert (sent["kind"], sent["ttl_s"], sent["data"]) == ("mfa", 90, {"a": "b=c", "empty": ""})
    assert (sent["initiator"], sent["public_key"], sent["request_id"]) == ("operator:zoe", None, "mine")
    lines = dict(re.split("  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (lines["user code"], lines["verification uri"], lines["expires in"]) == ("WDJB-MJHT", "-", "300")


@pytest.mark.parametrize("command", ["claim", "approve", "deny"])
@pytest.mark.parametrize(
    ("given", "stdin", "field", "value"),
    [
        (ID, "", "id", ID),
        ("wdjb mjht", "", "user_code", "wdjb mjht"),
        ("-", f"{ID}\n", "id", ID),
        ("-", " WDJB-MJHT\n", "user_code", "WDJB-MJHT"),
    ],
)
def test_answering_sends_an_id_or_a_code_from_the_argument_or_stdin(
    serve: Serve,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    given: str,
    stdin: str,
    field: str,
    value: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    endpoint = serve({("POST", f"/v1/rendezvous/{command}"): RECORD})
    assert main(["rendezvous", command, given, "--by", "ann", "-e", endpoint.url]) == 0
    sent = endpoint.requests[0][2]
    assert {name: sent[name] for name in ("id", "user_code") if name in sent} == {field: value}
    assert sent["by"] == "ann"
    shown = capsys.readouterr().out
    assert "origin      -\n" in shown
    assert shown.index("data a") < shown.index("data b")


@pytest.mark.parametrize(
    "code",
    ["WDJB-MJHT", "wdjbmjht", "WDJB\N{NON-BREAKING HYPHEN}MJHT", "WDJB\N{EN DASH}MJ\N{NO-BREAK SPACE}HT"],
)
def test_show_finds_a_code_however_it_is_written(serve: Serve, code: str) -> None:
    endpoint = serve({("GET", "/v1/rendezvous/wdjb-mjht"): RECORD})
    assert main(["rendezvous", "show", code, "-e", endpoint.url]) == 0


@pytest.mark.parametrize("text", ["WDJB-MJH", "WDJB-MJHA", "../status", "WDJB-MJHT/x", "", ID + "0"])
def test_show_of_what_is_neither_id_nor_code_asks_nobody(serve: Serve, capsys: Capture, text: str) -> None:
    endpoint = serve({})
    assert main(["rendezvous", "show", text, "-e", endpoint.url]) == InvalidInput.exit_status
    assert "such as WDJB-MJHT" in capsys.readouterr().err
    assert not endpoint.requests


def test_list_follows_the_pages_and_asks_for_the_state(serve: Serve, capsys: Capture) -> None:
    pages = iter(
        [
            {"rendezvous": [RECORD], "next": f"5-{ID}"},
            {"rendezvous": [{**RECORD, "id": "f" * 32}], "next": None},
        ]
    )
    endpoint = serve({LIST: lambda body: next(pages)})
    assert main(["rendezvous", "list", "--state", "claimed", "-e", endpoint.url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", ID, "f" * 32]
    assert f"after=5-{ID}" in endpoint.requests[1][2]["query"]
    assert all("state=claimed" in request[2]["query"] for request in endpoint.requests)


def test_wait_asks_again_after_a_poll_that_ended_and_always_as_the_same_redeemer(
    serve: Serve, capsys: Capture
) -> None:
    answers: list[Any] = [
        AuthorizationPending("not yet"),
        Unavailable("no leader"),
        OutcomeUnknown("?"),
        ANSWER,
    ]

    def failing(body: dict[str, Any]) -> Any:
        answer = answers.pop(0)
        return (
            {"error": {"code": answer.code, "message": "x"}} if isinstance(answer, CyoloctlError) else answer
        )

    endpoint = serve({WAIT: failing})
    assert main(["rendezvous", "wait", ID, "-e", endpoint.url]) == 0
    assert capsys.readouterr().out == "state        approved\napproved by  ann\ndata role    admin\n"
    assert len(endpoint.requests) == 4
    assert len({request[2]["request_id"] for request in endpoint.requests}) == 1


def test_wait_goes_to_the_next_endpoint_and_its_own_redeemer_is_kept(serve: Serve, capsys: Capture) -> None:
    sick = serve({WAIT: Unavailable("no leader")})
    sound = serve({WAIT: ANSWER})
    silent = f"unix://{sick.directory}/none.sock"
    arguments = ["rendezvous", "wait", ID, "--request-id", "secret-of-my-own", "-o", "json"]
    assert main([*arguments, "-e", silent, "-e", sick.url, "-e", sound.url]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, **ANSWER}
    assert [request[2]["request_id"] for request in sound.requests] == ["secret-of-my-own"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(Denied("no"), 4), (NotFound("no"), 3), (AuthorizationPending("no"), 75), (Unavailable("no"), 75)],
)
def test_wait_ends_with_the_status_of_its_error(
    serve: Serve, capsys: Capture, error: CyoloctlError, status: int
) -> None:
    endpoint = serve({WAIT: error})
    assert main(["rendezvous", "wait", ID, "--timeout", "0.6", "-e", endpoint.url]) == status
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "code", ["WDJB-MJHT", "wdjbmjht", "wdjb\N{EN DASH}mjht", "\N{NO-BREAK SPACE}WDJB MJHT"]
)
def test_show_of_a_code_asks_for_it_in_one_spelling(serve: Serve, capsys: Capture, code: str) -> None:
    endpoint = serve({("GET", "/v1/rendezvous/wdjb-mjht"): {"schema_version": 1, **RECORD}})
    assert main(["rendezvous", "show", code, "-e", endpoint.url]) == 0, capsys.readouterr().err
    assert len(endpoint.requests) == 1
    assert main(["rendezvous", "show", "nonsense", "-e", endpoint.url]) == 65
    assert "nonsense" not in capsys.readouterr().err
    assert len(endpoint.requests) == 1


POLICY = ("POST", "/v1/rendezvous/policy")

POLICIES = ("GET", "/v1/rendezvous/policies")


def test_policy_is_sent_whole_with_the_values_that_json_would_have(serve: Serve, capsys: Capture) -> None:
    rule = {"kind": "mfa", "require": {"mfa": True, "group": "ops"}, "allow_self": False}
    endpoint = serve({POLICY: {"schema_version": 1, **rule}})
    given = ("mfa=true", "off=false", "level=3", "code=007", "text=a=b", "empty=")
    options = [word for claim in given for word in ("--require", claim)]
    assert main(["rendezvous", "policy", "mfa", *options, "-e", endpoint.url]) == 0
    sent = endpoint.requests[0][2]
    assert sent["kind"] == "mfa"
    assert sent["require"] == {
        "mfa": True, "off": False, "level": 3, "code": "007", "text": "a=b", "empty": "",
    }  # fmt: skip
    assert sent["allow_self"] is False
    assert capsys.readouterr().out.split("\n")[1].split() == ["mfa", "group=ops,", "mfa=true", "no"]


@pytest.mark.parametrize(("option", "allow_self"), [("--reset", False), ("--allow-self", True)])
def test_policy_without_claims_is_sent_whole_too(serve: Serve, option: str, allow_self: bool) -> None:
    endpoint = serve({POLICY: {"kind": "mfa", "require": {}, "allow_self": allow_self}})
    assert main(["rendezvous", "policy", "mfa", option, "-e", endpoint.url]) == 0
    sent = endpoint.requests[0][2]
    assert (sent["kind"], sent["require"], sent["allow_self"]) == ("mfa", {}, allow_self)


def test_policy_of_a_kind_that_has_none_is_shown_as_the_default(serve: Serve, capsys: Capture) -> None:
    endpoint = serve({POLICIES: {"policies": [{"kind": "door", "require": {}, "allow_self": True}]}})
    assert main(["rendezvous", "policy", "mfa", "-o", "json", "-e", endpoint.url]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema_version": 1, "kind": "mfa", "require": {}, "allow_self": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["policy", "--reset"], 2),
        (["policy", "mfa", "--reset", "--allow-self"], 2),
        (["policy", "mfa", "--require", "mfa"], 65),
        (["policy", "mfa", "--require", "a=1", "--require", "a=2"], 65),
        (["approve", "-", "--token-file", "-"], 2),
    ],
)
def test_policy_or_approval_that_makes_no_sense_is_refused_before_it_is_sent(
    serve: Serve, arguments: list[str], status: int
) -> None:
    endpoint = serve({})
    assert main(["rendezvous", *arguments, "-e", endpoint.url]) == status
    assert endpoint.requests == []


def test_answer_for_a_person_shows_their_session_and_names_nobody_else(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("VAH8-token\n")
    shown = ["--token-file", str(tmp_path / "token"), "--audience", "app"]
    for command in ("claim", "approve", "deny"):
        endpoint = serve({("POST", f"/v1/rendezvous/{command}"): RECORD})
        assert main(["rendezvous", command, ID, *shown, "-e", endpoint.url]) == 0
        sent = endpoint.requests[0][2]
        assert (sent["by"], sent["token"], sent["audience"]) == (None, "VAH8-token", "app")
