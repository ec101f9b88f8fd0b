"""What each command sends and shows."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.cli import main
from cyoloctl.errors import AccessDenied, Conflict, NotFound, Unavailable
from tests.cli.harness import LIMIT_S, Endpoint, counter, member, run, status

Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]
Capture = pytest.CaptureFixture[str]

COMMAND = [sys.executable, "-m", "cyoloctl"]
INCREMENT = ("POST", "/v1/counters/default/increment")
DECREMENT = ("POST", "/v1/counters/default/decrement")
STATUS = ("GET", "/v1/status")
INVITE = ("POST", "/v1/members/invitations")
INVITATION = {
    "token": "cyolojoin2.abc",
    "name": "b",
    "learner": False,
    "expires_at": "2030-01-01T00:00:00Z",
    "replaced": False,
}


@pytest.mark.parametrize(
    ("arguments", "route", "by"),
    [
        (["incr"], INCREMENT, 1),
        (["decr"], DECREMENT, 1),
        (["incr", "--by", "-5"], DECREMENT, 5),
        (["incr", "--by=-9223372036854775808"], DECREMENT, 2**63),
        (["decr", "--by", "-5"], INCREMENT, 5),
        (["decr", "--by", "9223372036854775807", "default"], DECREMENT, 2**63 - 1),
    ],
)
def test_counter_incr_and_decr_send_the_amount_and_print_the_bare_value(
    serve: Serve, arguments: list[str], route: tuple[str, str], by: int, capsys: Capture
) -> None:
    endpoint = serve({route: counter("default", -7)})
    assert main(["counter", *arguments, "-e", endpoint.url, "--request-id", "mine"]) == 0
    assert capsys.readouterr() == ("-7\n", "")
    sent = endpoint.requests[0][2]
    assert (sent["by"], sent["request_id"]) == (by, "mine")


def test_counter_get_stale_asks_for_the_nodes_own_state(serve: Serve, capsys: Capture) -> None:
    endpoint = serve({("GET", "/v1/counters/x"): counter("x", 3)})
    assert main(["counter", "get", "x", "--stale", "-e", endpoint.url]) == 0
    assert main(["counter", "get", "x", "-e", endpoint.url]) == 0
    assert capsys.readouterr().out == "3\n3\n"
    assert ["stale" in request[2]["query"] for request in endpoint.requests] == [True, False]


def test_counter_list_follows_the_pages(serve: Serve, capsys: Capture) -> None:
    pages = iter(
        [
            {"counters": [counter("a", 1), counter("bb", -20)], "next": "bb"},
            {"counters": [counter("c", 300)], "next": None},
        ]
    )
    endpoint = serve({("GET", "/v1/counters"): lambda body: next(pages)})
    assert main(["counter", "list", "-e", endpoint.url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [["COUNTER", "VALUE"], ["a", "1"], ["bb", "-20"], ["c", "300"]]
    assert {len(line) for line in lines} == {len(lines[0])}  # values are aligned right
    assert "after=bb" in endpoint.requests[1][2]["query"]


def test_counter_list_in_json_is_one_object(serve: Serve, capsys: Capture) -> None:
    endpoint = serve({("GET", "/v1/counters"): {"counters": [counter("a", 1)], "next": None}})
    assert main(["counter", "list", "-o", "json", "-e", endpoint.url]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema_version"] == 1
    assert [item["value_string"] for item in document["counters"]] == ["1"]


@pytest.mark.parametrize(("mode", "lines"), [("table", ["1", "2"]), ("json", [1, 2])])
def test_counter_watch_prints_one_line_a_change(
    serve: Serve, mode: str, lines: list[Any], capsys: Capture
) -> None:
    endpoint = serve({("GET", "/v1/counters/default/watch"): [counter("default", 1), counter("default", 2)]})
    # The node ends the watch, which is not what was asked for.
    assert main(["counter", "watch", "-o", mode, "-e", endpoint.url]) == Unavailable.exit_status
    shown = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["value"] if mode == "json" else line for line in shown] == lines


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
    },
    {
        "name": "old",
        "learner": True,
        "created_at": None,
        "expires_at": "2030-01-01T00:00:00Z",
        "state": "outdated",
    },
]


def test_member_invitations_are_listed_with_their_state(serve: Serve, capsys: Capture) -> None:
    endpoint = serve({("GET", "/v1/invitations"): {"invitations": INVITATIONS}})
    assert main(["member", "invitations", "-e", endpoint.url]) == 0
    shown = capsys.readouterr()
    rows = [line.split() for line in shown.out.splitlines()]
    assert rows[1] == ["b", "voter", "open", "2029-12-31T23:00:00Z", "2030-01-01T00:00:00Z"]
    assert rows[2][:4] == ["old", "learner", "outdated", "-"]
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


@pytest.mark.parametrize("ttl", ["59", "8d", "1w", "-1h", "", "1.5h"])
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
