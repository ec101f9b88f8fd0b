"""Requests, output and files of `cyoloctl member`."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.cli import main
from cyoloctl.errors import AccessDenied, Conflict, NotFound
from tests.cli.harness import Endpoint, member, run

Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]

Capture = pytest.CaptureFixture[str]

INVITE = ("POST", "/v1/members/invitations")

INVITATION = {
    "token": "cyolojoin2.abc",
    "name": "b",
    "learner": False,
    "expires_at": "2030-01-01T00:00:00Z",
    "replaced": False,
}


def test_member_invite_prints_the_token_alone(serve: Serve, capsys: Capture) -> None:
    endpoint = serve({INVITE: INVITATION})
    assert main(["member", "invite", "--name", "b", "--ttl", "2h", "-e", endpoint.url]) == 0
    shown = capsys.readouterr()
    assert shown.out == "cyolojoin2.abc\n"
    assert "node join" in shown.err
    sent = endpoint.requests[0][2]
    assert (sent["name"], sent["learner"], sent["ttl_s"]) == ("b", False, 7200)


def test_member_invite_that_replaces_another_says_so(serve: Serve, capsys: Capture) -> None:
    endpoint = serve({INVITE: {**INVITATION, "replaced": True}})
    assert main(["member", "invite", "--name", "b", "-e", endpoint.url]) == 0
    shown = capsys.readouterr()
    assert shown.out == "cyolojoin2.abc\n"
    assert "older invitation for b" in shown.err


INVITATIONS = [
    {
        "name": "b",
        "learner": False,
        "created_at": "2029-12-31T23:00:00Z",
        "expires_at": "2030-01-01T00:00:00Z",
        "state": "open",
        "by": "file",
    },
    {
        "name": "old",
        "learner": True,
        "created_at": None,
        "expires_at": "2030-01-01T00:00:00Z",
        "state": "outdated",
        "by": "token",
    },
]


def test_member_invitations_are_listed_with_their_state(serve: Serve, capsys: Capture) -> None:
    endpoint = serve({("GET", "/v1/invitations"): {"invitations": INVITATIONS}})
    assert main(["member", "invitations", "-e", endpoint.url]) == 0
    shown = capsys.readouterr()
    rows = [line.split() for line in shown.out.splitlines()]
    assert rows[1] == ["b", "voter", "open", "file", "2029-12-31T23:00:00Z", "2030-01-01T00:00:00Z"]
    assert rows[2][:5] == ["old", "learner", "outdated", "token", "-"]
    assert "old" in shown.err
    assert "member invite" in shown.err
    assert main(["member", "invitations", "-e", endpoint.url, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "invitations": INVITATIONS}


def test_member_uninvite_prints_the_name_and_exits_3_without_an_invitation(
    serve: Serve, capsys: Capture
) -> None:
    endpoint = serve(
        {
            ("POST", "/v1/invitations/b/withdraw"): {"name": "b", "uninvited": True},
            ("POST", "/v1/invitations/c/withdraw"): NotFound("there is no invitation for c"),
        }
    )
    assert main(["member", "uninvite", "b", "-e", endpoint.url]) == 0
    assert capsys.readouterr().out == "b\n"
    assert main(["member", "uninvite", "c", "-e", endpoint.url]) == 3
    assert main(["member", "uninvite", "No", "-e", endpoint.url]) == 65


@pytest.mark.parametrize("ttl", ["59", "8d", "1w", "-1h", "", "1h30", "90.5"])
def test_member_invite_with_a_bad_ttl_exits_65(ttl: str, tmp_path: Path) -> None:
    assert main(["member", "invite", "--name", "b", "--ttl", ttl, "-d", str(tmp_path)]) == 65


def test_member_invite_out_writes_a_private_file_and_no_token_elsewhere(
    serve: Serve, tmp_path: Path, capsys: Capture
) -> None:
    endpoint = serve({INVITE: INVITATION})
    path = tmp_path / "token"
    earlier = os.umask(0)
    try:
        assert main(["member", "invite", "--name", "b", "--out", str(path), "-e", endpoint.url]) == 0
    finally:
        os.umask(earlier)
    assert path.read_text() == "cyolojoin2.abc\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    shown = capsys.readouterr()
    assert "cyolojoin2" not in shown.out + shown.err
    # A token works once: one that could not be stored is not even asked for.
    assert main(["member", "invite", "--name", "b", "--out", str(path), "-e", endpoint.url]) == 4
    assert len(endpoint.requests) == 1


def test_member_invite_out_that_is_refused_leaves_no_file(serve: Serve, tmp_path: Path) -> None:
    endpoint = serve({INVITE: AccessDenied("no")})
    path = tmp_path / "token"
    assert main(["member", "invite", "--name", "b", "--out", str(path), "-e", endpoint.url]) == 77
    assert not path.exists()


def test_member_list_and_show(serve: Serve, capsys: Capture) -> None:
    endpoint = serve(
        {
            ("GET", "/v1/members"): {"members": [member("a", role="leader"), member("b")]},
            ("GET", "/v1/members/b"): member("b"),
            ("GET", "/v1/members/c"): NotFound("there is no member c"),
        }
    )
    assert main(["member", "list", "-e", endpoint.url]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["NAME", "ROLE"],
        ["a", "leader"],
        ["b", "follower"],
    ]
    assert main(["member", "show", "b", "-e", endpoint.url]) == 0
    assert ["name", "b"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert main(["member", "show", "c", "-e", endpoint.url]) == 3


def test_member_remove_dry_run_needs_no_yes_and_prints_the_tolerance(serve: Serve, capsys: Capture) -> None:
    answer = {
        "name": "b",
        "removed": False,
        "dry_run": True,
        "failure_tolerance_before": 1,
        "failure_tolerance_after": 0,
    }
    endpoint = serve({("POST", "/v1/members/b/remove"): answer})
    assert main(["member", "remove", "b", "--dry-run", "-e", endpoint.url]) == 0
    assert capsys.readouterr().out == "b would be removed; failure tolerance 1 -> 0\n"
    assert endpoint.requests[0][2]["dry_run"] is True


VOTES = {"voters": 3, "quorum": 2, "failure_tolerance": 1, "reachable": ["a", "b", "c"], "unreachable": []}
FEWER = {"voters": 2, "quorum": 2, "failure_tolerance": -1, "reachable": ["a"], "unreachable": ["b"]}


@pytest.mark.parametrize(
    ("options", "changed", "said"),
    [
        ([], True, "c is now a learner"),
        (["--dry-run"], True, "c would be a learner"),
        ([], False, "c is a learner"),
    ],
)
def test_member_demote_says_the_role_and_on_stderr_how_the_voters_stand(
    serve: Serve, capsys: Capture, options: list[str], changed: bool, said: str
) -> None:
    answer = {
        "name": "c",
        "role": "learner",
        "changed": changed,
        "dry_run": bool(options),
        "before": VOTES,
        "after": FEWER if changed else VOTES,
        "ca_rotation_due": True,
    }
    endpoint = serve({("POST", "/v1/members/c/demote"): answer})
    assert main(["member", "demote", "c", *options, "--request-id", "r", "-e", endpoint.url]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{said}\n"
    stands = "voters 3 -> 2, quorum 2 -> 2, failure tolerance 1 -> -1; not reachable: b"
    assert (stands if changed else "voters 3, quorum 2, failure tolerance 1\n") in printed.err
    assert "c has had the CA's key" in printed.err
    sent = endpoint.requests[0][2]
    assert (sent["dry_run"], sent["request_id"]) == (bool(options), "r")
    assert main(["member", "demote", "c", *options, "-e", endpoint.url, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, **answer}


def test_member_promote_of_an_unready_one_is_refused_with_the_reason(serve: Serve, capsys: Capture) -> None:
    endpoint = serve({("POST", "/v1/members/c/promote"): Conflict("c has not caught up")})
    assert main(["member", "promote", "c", "-e", endpoint.url]) == 4
    assert "c has not caught up" in capsys.readouterr().err


def test_member_set_address_sends_a_dialable_address_and_prints_it(serve: Serve, capsys: Capture) -> None:
    answer = {
        "name": "c",
        "address": "10.0.0.9:7",
        "previous": "10.0.0.3:7",
        "changed": True,
        "dry_run": False,
        "before": VOTES,
        "after": VOTES,
    }
    endpoint = serve({("POST", "/v1/members/c/address"): answer})
    assert main(["member", "set-address", "c", "10.0.0.9:7", "-e", endpoint.url]) == 0
    printed = capsys.readouterr()
    assert (printed.out, "c was at 10.0.0.3:7" in printed.err) == ("10.0.0.9:7\n", True)
    assert endpoint.requests[0][2]["address"] == "10.0.0.9:7"
    for wrong in ("0.0.0.0:7", "10.0.0.9", "10.0.0.9:0", "[::]:7"):
        assert main(["member", "set-address", "c", wrong, "-e", endpoint.url]) == 65
    assert len(endpoint.requests) == 1


def test_member_remove_without_yes_and_terminal_sends_nothing(serve: Serve) -> None:
    endpoint = serve({})
    done = run("member", "remove", "b", "--force", "-e", endpoint.url)
    assert (done.returncode, endpoint.requests) == (2, [])


def test_member_transfer_leadership_prints_the_new_leader(serve: Serve, capsys: Capture) -> None:
    endpoint = serve(
        {("POST", "/v1/members/transfer-leadership"): {"schema_version": 1, "leader": "b", "previous": "a"}}
    )
    assert main(["member", "transfer-leadership", "--to", "b", "-e", endpoint.url]) == 0
    assert capsys.readouterr().out == "b\n"
    assert endpoint.requests[0][2]["to"] == "b"
