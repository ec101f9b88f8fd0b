"""Requests and output of `cyoloctl counter`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cyoloctl.cli import main
from cyoloctl.errors import Unavailable
from tests.cli.harness import Endpoint, counter

Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]

Capture = pytest.CaptureFixture[str]

INCREMENT = ("POST", "/v1/counters/default/increment")

DECREMENT = ("POST", "/v1/counters/default/decrement")


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
