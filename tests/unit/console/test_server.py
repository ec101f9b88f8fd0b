"""The console's HTTP, over a real socket: headers, cookie, refusals, and what each answer may be."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import NamedTuple

import pytest

from cyoloctl.console.guard import COOKIE, Door
from cyoloctl.console.run import bind
from cyoloctl.console.server import SECURITY, ConsoleServer
from cyoloctl.errors import ConfigError, Conflict
from tests.unit.console.test_guard import secrets

PAGE = sorted(path.name for path in resources.files("cyoloctl.console").joinpath("page").iterdir())
HOSTILE = "<img src=x onerror=alert(1)>\u2028\udcff"


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Console:
    """A server, and a program that asks it."""

    def __init__(self, server: ConsoleServer, door: Door, port: int, opened: list[str]) -> None:
        self.server, self.door, self.port, self.opened = server, door, port, opened
        self.cookie = ""

    async def ask(self, path: str, method: str = "GET", body: str = "", **headers: str) -> Answer:
        return await asyncio.to_thread(self._ask, path, method, body, headers)

    def _ask(self, path: str, method: str, body: str, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie:
            given = {"Cookie": self.cookie} | given
        try:
            connection.request(method, path, body or None, given)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    async def come_in(self) -> Answer:
        answer = await self.ask(self.door.link)
        self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        return answer


@asynccontextmanager
async def console() -> AsyncIterator[Console]:
    door, opened = Door(secrets()), []
    server = ConsoleServer(door, lambda: {"name": HOSTILE}, lambda: opened.append(door.link))
    listening = bind("127.0.0.1", 0)
    port = listening.getsockname()[1]
    server.start(listening)
    try:
        yield Console(server, door, port, opened)
    finally:
        await server.close()


def guarded(answer: Answer) -> bool:
    """Whether an answer has every protection, and opens itself to nobody else."""
    names = {name.lower() for name in answer.headers}
    return all(answer.headers.get_all(name) == [value] for name, value in SECURITY.items()) and not any(
        name.startswith("access-control-") for name in names
    )


def test_policy_lets_nothing_of_elsewhere_nothing_inline_and_no_html_from_text() -> None:
    policy = dict(part.strip().partition(" ")[::2] for part in SECURITY["Content-Security-Policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


async def test_link_gives_a_cookie_for_an_unguessable_path_and_leads_there() -> None:
    async with console() as it:
        answer = await it.come_in()
        assert answer.status == 303
        assert answer.headers["Location"] == it.door.home
        assert answer.headers["Set-Cookie"].endswith(f"; Path={it.door.home}; HttpOnly; SameSite=Strict")
        assert guarded(answer)
        assert it.opened == [it.door.link]


@pytest.mark.parametrize("name", PAGE)
async def test_every_file_of_the_page_is_served_to_who_came_in_and_to_nobody_else(name: str) -> None:
    path = "" if name == "console.html" else name
    async with console() as it:
        assert (await it.ask(it.door.home + path)).status == 403
        await it.come_in()
        answer = await it.ask(it.door.home + path)
        assert answer.status == 200
        assert answer.body == resources.files("cyoloctl.console").joinpath("page", name).read_bytes()
        assert answer.headers["Content-Type"].split(";")[0] in (
            "text/html",
            "text/css",
            "text/javascript",
            "image/svg+xml",
        )
        assert guarded(answer)


async def test_data_is_json_whatever_a_node_has_said() -> None:
    async with console() as it:
        assert (await it.ask(f"{it.door.home}data")).status == 403
        await it.come_in()
        answer = await it.ask(f"{it.door.home}data")
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        assert json.loads(answer.body) == {"name": HOSTILE.replace("\udcff", "?")}
        assert guarded(answer)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["", "data", "console.js", "../open/x"])
async def test_no_path_takes_any_method_that_could_change_something(method: str, path: str) -> None:
    async with console() as it:
        await it.come_in()
        answer = await it.ask(it.door.home + path, method, "x=1")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
        assert guarded(answer)


async def test_head_has_no_body_and_uses_no_link_up() -> None:
    async with console() as it:
        assert (await it.ask(it.door.link, "HEAD")).status == 403
        await it.come_in()
        answer = await it.ask(it.door.home, "HEAD")
        assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "rebound.example.com"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Cookie": f"{COOKIE}=guess"}, 403),
        ({"Host": "localhost:8600", "Sec_Fetch_Site": "same-origin"}, 200),
    ],
)
async def test_who_asks_for_data_has_to_be_the_page_itself(headers: dict[str, str], status: int) -> None:
    async with console() as it:
        await it.come_in()
        answer = await it.ask(f"{it.door.home}data", **headers)
        assert answer.status == status
        assert guarded(answer)


async def test_link_of_another_site_opens_nothing_and_stays_good() -> None:
    async with console() as it:
        assert (await it.ask(it.door.link, Sec_Fetch_Site="cross-site")).status == 403
        assert (await it.ask(it.door.link, Host="rebound.example.com")).status == 421
        assert it.opened == []
        assert (await it.come_in()).status == 303


async def test_used_link_opens_nothing() -> None:
    async with console() as it:
        link = it.door.link
        await it.come_in()
        it.cookie = ""
        assert (await it.ask(link)).status == 403


async def test_what_is_not_there_is_404_inside_and_403_outside() -> None:
    async with console() as it:
        assert (await it.ask("/favicon.ico")).status == 403
        await it.come_in()
        for path in ("nothing", "../server.py", "console.html", "%2e%2e/guard"):
            assert (await it.ask(it.door.home + path)).status == 404


async def test_what_is_not_http_is_answered_and_ended() -> None:
    async with console() as it:

        def ask() -> bytes:
            with socket.create_connection(("127.0.0.1", it.port), timeout=30) as connection:
                connection.sendall(b"\x16\x03\x01 no http\r\n\r\n")
                return b"".join(iter(lambda: connection.recv(65536), b""))

        assert (await asyncio.to_thread(ask)).split()[1] == b"400"


def test_port_of_another_process_is_a_conflict_and_an_address_of_nobody_is_told() -> None:
    with bind("127.0.0.1", 0) as taken, pytest.raises(Conflict, match="--listen"):
        bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match="cannot listen"):
        bind("192.0.2.1", 0)
