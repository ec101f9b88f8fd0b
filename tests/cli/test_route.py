"""Requests and output of `cyoloctl route`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cyoloctl.cli import main
from tests.cli.harness import Endpoint

Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]

Capture = pytest.CaptureFixture[str]

ROUTES = ("GET", "/v1/routes")


def backend(name: str, host: str | None, *, gateway: bool = True, alive: bool = True) -> dict[str, Any]:
    address = f"127.0.0.{name[1:]}:8080"
    return {
        "name": name, "host": host, "address": address if gateway else None, "url": None, "alive": alive,
        "role": "follower",
    }  # fmt: skip


def table(*backends: dict[str, Any], shared: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"backends": list(backends), "shared_hosts": list(shared), "index": 7}


def test_share_and_unshare_send_one_host_with_a_request_id(serve: Serve, capsys: Capture) -> None:
    endpoint = serve({("POST", "/v1/routes/share"): {"host": "app.example.com", "shared": True}})
    for command in ("share", "unshare"):
        assert main(["route", command, "app.example.com", "-e", endpoint.url]) == 0
    assert capsys.readouterr().out == "app.example.com\n" * 2
    sent = [request[2] for request in endpoint.requests]
    assert [body["shared"] for body in sent] == [True, False]
    assert len({body["request_id"] for body in sent}) == 2


def test_route_list_shows_who_serves_what(serve: Serve, capsys: Capture) -> None:
    rows = (backend("n1", "app-1.example.com"), backend("n2", None, gateway=False, alive=False))
    endpoint = serve({ROUTES: table(*rows, shared=("app.example.com",))})
    assert main(["route", "list", "-e", endpoint.url]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["HOST", "NODE", "GATEWAY", "ALIVE", "ROLE"],
        ["app-1.example.com", "n1", "127.0.0.1:8080", "yes", "follower"],
        ["-", "n2", "no", "gateway", "no", "follower"],
        ["app.example.com", "any", "-", "-", "-"],
    ]


def test_resolve_names_the_own_node_then_those_that_proxies_know(serve: Serve, capsys: Capture) -> None:
    rows = (
        backend("n1", "app-1.example.com", gateway=False),
        backend("n2", None, gateway=False),
        backend("n3", None),
    )
    endpoint = serve({ROUTES: table(*rows, shared=("app.example.com",))})
    for host, names in (("App-1.example.com", "n1\nn3\n"), ("app.example.com", "n3\n")):
        assert main(["route", "resolve", host, "-e", endpoint.url]) == 0
        assert capsys.readouterr().out == names
    assert main(["route", "resolve", "app-1.example.com", "-o", "json", "-e", endpoint.url]) == 0
    assert json.loads(capsys.readouterr().out)["order"][0] == {"name": "n1", "address": None, "alive": True}
    assert main(["route", "resolve", "other.example.com", "-e", endpoint.url]) == 3


def test_which_and_resolve_without_a_live_member_are_unavailable(serve: Serve, capsys: Capture) -> None:
    endpoint = serve({ROUTES: table(backend("n1", None, alive=False), shared=("app.example.com",))})
    assert main(["route", "which", "key", "-e", endpoint.url]) == 75
    assert main(["route", "resolve", "app.example.com", "-e", endpoint.url]) == 75
    assert capsys.readouterr().out == ""
