"""The gateway's listener on a real socket, before a node in memory: slow and many clients, what is off."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from cyoloctl.caller import CALLER, Actor, Caller
from cyoloctl.errors import Conflict, NotFound, TokenRejected
from cyoloctl.gateway.forms import Begun, Forms, network_caller, person_caller
from cyoloctl.gateway.server import Gateway
from cyoloctl.gateway.settings import GatewaySettings, Limits

SETTINGS = GatewaySettings(trusted_proxies=(), metrics_clients=(), begin=("mfa",))
NOW = 1_000_000_000
"""The cluster's time, far from this machine's."""
HEAD = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = (
    b"POST /begin HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\n"
)


class MemoryNode:
    """Knows one record, in the state that a test gives it."""

    name = "n1"

    def __init__(self) -> None:
        self.record: dict[str, Any] = {"state": "pending", "kind": "mfa", "node": "n1", "claimed_by": None}
        self.record |= {"expires_at": "2030-01-01T00:00:00Z", "expires_in_s": 60}
        self.record |= {"id": "1" * 32, "initiator": "x", "origin": None, "data": {}}
        self.record |= {"created_at": "2030-01-01T00:00:00Z"}
        self.callers: list[Caller] = []
        self.actors: list[Actor] = []
        self.request_ids: list[str] = []
        self.hold: asyncio.Event | None = None
        self.shared: list[str] = []
        self.pins: list[str] = []

    def ready(self) -> bool:
        return True

    def facts(self) -> dict[str, Any]:
        return {}

    def form_keys(self) -> list[tuple[bytes, bytes]]:
        return [(b"key1", b"k" * 32)]

    def hosts(self) -> set[str]:
        return {"127.0.0.1", *self.shared, *self.pins}

    def owner_url(self, name: str) -> str | None:
        if name not in ("n1", "n2"):
            raise NotFound("no such node")
        return "https://app-2.example.com" if name == "n2" else None

    def page_url(self, host: str) -> str | None:
        return None

    def shared_hosts(self) -> list[str]:
        return self.shared

    def is_pin(self, host: str) -> bool:
        return host in self.pins

    def now_unix_s(self) -> int:
        return NOW

    async def session(self, cookie: str, *, current: bool, timeout_s: float) -> dict[str, Any]:
        self.callers.append(CALLER.get())
        if self.hold is not None:
            await self.hold.wait()
        for sub in ("alice", "bob"):
            if f"cyolo-sid={sub}" in cookie:
                return {"sub": sub, "sid": f"sid-of-{sub}", "claims": {"mfa": True}}
        raise TokenRejected(reason="no cookie")

    async def refresh(self, cookie: str, *, timeout_s: float) -> str:
        raise TokenRejected(reason="superseded")

    async def find(
        self, user_code: str, *, client: str, actor: Actor, request_id: str, timeout_s: float
    ) -> dict[str, Any]:
        self.callers.append(CALLER.get())
        self.actors.append(actor)
        if user_code != "BCDF-GHJK":
            raise NotFound("no such code")
        return self.record

    async def begin(
        self, kind: str, *, client: str, network: str, actor: Actor, request_id: str, timeout_s: float
    ) -> dict[str, Any]:
        self.callers.append(CALLER.get())
        self.actors.append(actor)
        self.request_ids.append(request_id)
        return {"id": "1" * 32, "user_code": "BCDF-GHJK"}

    async def look(self, id: str, *, timeout_s: float) -> dict[str, Any]:
        return self.record

    async def redeem(self, id: str, redemption: str, *, timeout_s: float) -> dict[str, Any]:
        raise Conflict("the rendezvous was already redeemed: start another")

    async def decide(
        self, operation: str, id: str, *, by: str, actor: Actor, request_id: str, timeout_s: float
    ) -> None:
        self.callers.append(CALLER.get())
        self.actors.append(actor)
        self.request_ids.append(request_id)


class Listener:
    """Gateways of one test, each on a port of its own."""

    def __init__(self) -> None:
        self.node = MemoryNode()
        self.gateways: list[Gateway] = []

    async def start(self, settings: GatewaySettings = SETTINGS, **limits: Any) -> int:
        gateway = Gateway(self.node, settings, Limits(**limits))
        listening = socket.create_server(("127.0.0.1", 0))
        await gateway.start(listening, None)
        self.gateways.append(gateway)
        return int(listening.getsockname()[1])


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    made = Listener()
    yield made
    for gateway in made.gateways:
        await gateway.close(0.1)


async def ask(port: int, data: bytes) -> bytes:
    """The answer to bytes that are sent at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            return head + await reader.readexactly(length)
    finally:
        writer.close()


@pytest.mark.parametrize("sent", [b"", HEAD], ids=["nothing", "half a head"])
async def test_connection_whose_head_does_not_arrive_in_time_is_closed(
    listener: Listener, sent: bytes
) -> None:
    port = await listener.start(idle_s=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()


async def test_head_that_is_dribbled_does_not_buy_more_time(listener: Listener) -> None:
    port = await listener.start(idle_s=0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD)
    ended = asyncio.create_task(reader.read())
    started = time.monotonic()
    while not ended.done():
        assert time.monotonic() - started < 5, "a byte now and then keeps the connection open"
        writer.write(b"X")
        await asyncio.wait([ended], timeout=0.02)
    writer.close()


async def test_body_that_is_dribbled_is_refused_in_time(listener: Listener) -> None:
    port = await listener.start(body_s=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(POST)
    answer = asyncio.create_task(reader.readuntil(b"</html>"))
    started = time.monotonic()
    while not answer.done():
        assert time.monotonic() - started < 5, "a byte now and then keeps the request open"
        writer.write(b"x")
        await asyncio.wait([answer], timeout=0.02)
    body = await answer
    assert body.startswith(b"HTTP/1.1 400 ")
    assert b"did not arrive in 0.2 s" in body
    async with asyncio.timeout(10):
        assert await reader.read() in (b"\n", b"")  # and it is closed: what follows is no request
    writer.close()


async def test_connections_beyond_the_limit_are_closed_and_taken_again_when_one_ends(
    listener: Listener,
) -> None:
    port = await listener.start(connections=2)
    request = HEAD + b"\r\n"
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    for reader, writer in held:
        writer.write(request)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await ask(port, request)
    held[0][1].close()

    async with asyncio.timeout(10):
        while True:
            try:
                assert (await ask(port, request)).startswith(b"HTTP/1.1 200 ")
                break
            except (asyncio.IncompleteReadError, ConnectionError):
                await asyncio.sleep(0.01)
    held[1][1].close()


def get(path: str, cookie: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\n\r\n".encode()


async def test_begin_is_not_there_unless_kinds_are_configured(listener: Listener) -> None:
    port = await listener.start(GatewaySettings(trusted_proxies=(), metrics_clients=()))
    for path in ("/begin", "/begin/wait", "/begin/redeem"):
        answer = await ask(port, get(path))
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert b"Nothing is here" in answer
    assert (await ask(port, POST)).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    ("state", "status", "title", "kept"),
    [
        ("pending", 200, "Waiting for approval", True),
        ("claimed", 200, "Waiting for approval", True),
        ("approved", 200, "Approved: go on", True),
        ("consumed", 200, "Approved: go on", True),
        ("denied", 403, "It was denied", False),
        ("expired", 410, "It has expired", False),
        ("cancelled", 409, "It was cancelled", False),
    ],
)
async def test_wait_page_of_every_state_has_its_title_and_refreshes_while_it_waits(
    listener: Listener, state: str, status: int, title: str, kept: bool
) -> None:
    listener.node.record |= {"state": state, "claimed_by": "<i>bob</i>"}
    port = await listener.start()
    begun = Begun("1" * 32, "2" * 32, "BCDF-GHJK").seal(Forms(listener.node.form_keys, bytes), NOW)
    answer = await ask(port, get("/begin/wait", f"cyolo-begun={begun}"))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert f"<title>{title}</title>".encode() in answer
    assert (b"http-equiv" in answer) == (title == "Waiting for approval")
    assert (b"Max-Age=0" in answer) != kept
    assert b"<i>" not in answer


# -- on whose behalf -------------------------------------------------------------------------------

BROWSER = "A" * 22


class Page:
    """One browser's requests to one gateway."""

    def __init__(self, listener: Listener, port: int, cookie: str = "") -> None:
        self.forms = Forms(listener.node.form_keys, os.urandom)
        self.port = port
        self.cookie = f"cyolo-form={BROWSER}" + (f"; {cookie}" if cookie else "")

    def post(self, path: str, body: str, headers: str = "") -> bytes:
        return (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\n{headers}"
            f"Cookie: {self.cookie}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    async def begin(self, form: str, spelt: str | None = None) -> bytes:
        return await ask(self.port, self.post("/begin", spelt or f"form={form}&kind=mfa"))


async def test_everything_that_a_person_asks_for_is_asked_on_their_behalf_through_any_address(
    listener: Listener,
) -> None:
    port = await listener.start(
        GatewaySettings(trusted_proxies=("127.0.0.1",), metrics_clients=(), begin=("mfa",))
    )
    page = Page(listener, port, "cyolo-sid=alice")
    for address in ("192.0.2.1", "2001:db8::1"):
        said = f"X-Forwarded-For: {address}\r\n"
        begin = page.forms.seal("begin", BROWSER, "", b"", NOW)
        enter = page.forms.seal("enter", BROWSER, "alice", b"", NOW)
        decide = page.forms.seal("decide", BROWSER, "alice", b"1" * 16, NOW)
        for path, body in (
            ("/begin", f"form={begin}&kind=mfa"),
            ("/rendezvous", f"form={enter}&user_code=BCDF-GHJK"),
            ("/rendezvous/approve", f"form={decide}"),
            ("/rendezvous/deny", f"form={decide}"),
        ):
            assert (await ask(port, page.post(path, body, said)))[9:12] in (b"200", b"303")
    asked = [caller for caller in listener.node.callers if caller == person_caller("alice")]
    assert len(asked) == len(listener.node.actors) == 8
    assert {(actor.sub, actor.sid, actor.browsers) for actor in listener.node.actors} == {
        ("alice", "sid-of-alice", (BROWSER,))
    }
    assert all(actor.claims == {"mfa": True} for actor in listener.node.actors)


async def test_who_has_no_session_is_their_network_also_on_a_connection_that_a_person_used(
    listener: Listener,
) -> None:
    port = await listener.start(
        GatewaySettings(trusted_proxies=("127.0.0.1",), metrics_clients=(), begin=("mfa",))
    )
    signed, not_signed = Page(listener, port, "cyolo-sid=alice"), Page(listener, port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for page, address in ((signed, "192.0.2.1"), (not_signed, "192.0.2.1"), (not_signed, "2001:db8::1")):
        form = page.forms.seal("begin", BROWSER, "", b"", NOW)
        writer.write(page.post("/begin", f"form={form}&kind=mfa", f"X-Forwarded-For: {address}\r\n"))
        async with asyncio.timeout(10):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 303 ")
    writer.close()
    assert listener.node.callers[1::2] == [
        person_caller("alice"),
        network_caller(ipaddress.ip_address("192.0.2.1")),
        network_caller(ipaddress.ip_address("2001:db8::ffff")),
    ]


async def test_form_sent_in_many_spellings_is_one_request(listener: Listener) -> None:
    page = Page(listener, await listener.start())
    form = page.forms.seal("begin", BROWSER, "", b"", NOW)
    escaped = "".join(f"%{ord(letter):02x}" for letter in form)
    for spelt in (None, f"kind=mfa&form={form}", f"form={escaped}&kind=%6dfa", f"f%6frm={form}&kind=mfa"):
        assert (await page.begin(form, spelt)).startswith(b"HTTP/1.1 303 ")
    assert len(set(listener.node.request_ids)) == 1
    for spelt in (f"{form}=", f"{form}%20", f"{form[:9]}%0a{form[9:]}", f"{form[:9]}.{form[9:]}"):
        assert (await page.begin(form, f"form={spelt}&kind=mfa")).startswith(b"HTTP/1.1 400 ")
    assert (await page.begin(page.forms.seal("begin", BROWSER, "", b"", NOW))).startswith(b"HTTP/1.1 303 ")
    assert len(set(listener.node.request_ids)) == 2


async def test_form_is_judged_by_the_time_of_the_cluster(listener: Listener) -> None:
    page = Page(listener, await listener.start())
    for age_s, status in ((0, b"303"), (600, b"303"), (601, b"400"), (-61, b"400")):
        answer = await page.begin(page.forms.seal("begin", BROWSER, "", b"", NOW - age_s))
        assert answer[9:12] == status


async def test_too_many_requests_of_one_person_are_refused_and_nobody_elses(listener: Listener) -> None:
    port = await listener.start(caller_requests=2)
    listener.node.hold = asyncio.Event()
    form = Page(listener, port).forms.seal("begin", BROWSER, "", b"", NOW)
    many = [asyncio.create_task(Page(listener, port, "cyolo-sid=alice").begin(form)) for _ in range(5)]
    others = [
        asyncio.create_task(Page(listener, port, cookie).begin(form)) for cookie in ("cyolo-sid=bob", "")
    ]
    began = asyncio.Event()

    async def slow(*_: Any, **__: Any) -> dict[str, Any]:
        await began.wait()
        return {"id": "1" * 32, "user_code": "BCDF-GHJK"}

    listener.node.begin = slow  # type: ignore[method-assign]
    listener.node.hold.set()
    async with asyncio.timeout(10):
        while sum(task.done() for task in many) < 3:
            await asyncio.sleep(0.01)
    began.set()
    answers = [answer[9:12] for answer in await asyncio.gather(*many, *others)]
    assert sorted(answers[:5]) == [b"303", b"303", b"429", b"429", b"429"]
    assert answers[5:] == [b"303", b"303"]
    assert (await Page(listener, port, "cyolo-sid=alice").begin(form)).startswith(b"HTTP/1.1 303 ")


async def test_connections_of_one_network_beyond_its_bound_are_closed_and_of_a_proxy_are_not(
    listener: Listener,
) -> None:
    request, ports = HEAD + b"\r\n", []
    for trusted, works in (((), False), (("127.0.0.1",), True)):
        settings = GatewaySettings(trusted_proxies=trusted, metrics_clients=())
        port = await listener.start(settings, client_connections=2)
        ports.append(port)
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for reader, writer in held:
            writer.write(request)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        if works:
            assert (await ask(port, request)).startswith(b"HTTP/1.1 200 ")
        else:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await ask(port, request)
        for _, writer in held:
            writer.close()
    async with asyncio.timeout(10):
        while listener.gateways[0].connections:
            await asyncio.sleep(0.01)
    for _ in range(2):  # nobody is counted who has left
        assert (await ask(ports[0], request)).startswith(b"HTTP/1.1 200 ")


async def test_refresh_that_is_refused_leaves_the_browser_the_newer_cookie(listener: Listener) -> None:
    port = await listener.start()
    request = (
        b"POST /session/refresh HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\n"
        b"Cookie: cyolo-sid=old\r\nContent-Length: 0\r\n\r\n"
    )
    answer = await ask(port, request)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"Set-Cookie" not in answer


# -- cookies, links and hosts ----------------------------------------------------------------------


def cookies_of(answer: bytes) -> list[str]:
    """The cookies that an answer sets, as a Cookie header has them."""
    lines = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return [line[12:].partition(";")[0] for line in lines if line.lower().startswith("set-cookie: ")]


def location(answer: bytes) -> str:
    assert answer.startswith(b"HTTP/1.1 302 "), answer
    return answer.partition(b"Location: ")[2].partition(b"\r\n")[0].decode()


def form_in(answer: bytes) -> str:
    return answer.partition(b'name="form" value="')[2].partition(b'"')[0].decode()


async def test_two_pages_opened_from_another_site_at_once_have_forms_that_both_work(
    listener: Listener,
) -> None:
    port = await listener.start()
    pages = [await ask(port, get("/begin")) for _ in range(2)]
    kept = [cookie for page in pages for cookie in cookies_of(page)]
    assert len({cookie.partition("=")[0] for cookie in kept}) == 2
    assert all(b"SameSite=Lax" in page and b"HttpOnly" in page for page in pages)
    browser = Page(listener, port)
    browser.cookie = "; ".join(kept)
    for page in pages:
        assert (await browser.begin(form_in(page))).startswith(b"HTTP/1.1 303 ")
    # Each is for the cookie that came with it; one that is known already is not given again.
    begun_by = [actor.browsers for actor in listener.node.actors]
    assert [names[0] for names in begun_by] == [cookie.partition("=")[2] for cookie in kept]
    assert set(begun_by[0]) == set(begun_by[1])
    third = await ask(port, get("/begin", browser.cookie))
    assert cookies_of(third) == []
    assert (await browser.begin(form_in(third))).startswith(b"HTTP/1.1 303 ")
    browser.cookie = ""
    refused = await browser.begin(form_in(third))
    assert refused.startswith(b"HTTP/1.1 400 ")
    assert b"Your browser sent no cookie of this page" in refused


@pytest.mark.parametrize(
    ("head", "status", "words"),
    [
        ("GET /rendezvous HTTP/1.1\r\nCookie: z=" + "y" * 8300, b"431", b"Delete the cookies of this"),
        ("GET /rendezvous HTTP/1.1\r\nX: " + "y" * 100_000, b"431", b"more than 8 KiB"),
        ("GET /rendezvous?user_code=" + "y" * 8300 + " HTTP/1.1", b"414", b"The link is too long"),
        ("GET /healthz HTTP/1.1\r\nCookie: z=" + "y" * 8100, b"200", b"ok"),
        ("GET  HTTP/1.1", b"400", b"not valid HTTP"),
    ],
)
async def test_head_that_is_too_long_says_so_and_what_to_do(
    listener: Listener, head: str, status: bytes, words: bytes
) -> None:
    answer = await ask(await listener.start(), f"{head}\r\nHost: 127.0.0.1\r\n\r\n".encode())
    assert answer[9:12] == status
    assert words in answer


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("app.example.com.", "http://app.example.com."),
        ("App.example.com.:80", "http://app.example.com"),
        ("[2001:db8:0:0:0:0:0:1]", "http://[2001:db8::1]"),
        ("[2001:DB8::1]:80", "http://[2001:0db8::1]:80"),
    ],
)
async def test_host_however_it_is_spelt_is_served_and_its_own_origin(
    listener: Listener, host: str, origin: str
) -> None:
    listener.node.pins = ["app.example.com", "2001:db8::1"]
    page = Page(listener, await listener.start())
    form = page.forms.seal("begin", BROWSER, "", b"", NOW)
    request = page.post("/begin", f"form={form}&kind=mfa").replace(
        b"Host: 127.0.0.1", f"Host: {host}".encode()
    )
    for said, status in ((origin, b"303"), ("http://evil.example", b"403"), (f"{origin}/x", b"403")):
        asked = request.replace(b"Origin: http://127.0.0.1", f"Origin: {said}".encode())
        assert (await ask(page.port, asked))[9:12] == status


def proxied() -> GatewaySettings:
    return replace(SETTINGS, trusted_proxies=("127.0.0.0/8",))


def at(host: str, path: str, cookie: str = "") -> bytes:
    return get(path, cookie).replace(b"Host: 127.0.0.1", f"Host: {host}".encode())


@pytest.mark.parametrize(
    ("url", "path", "link"),
    [
        (
            "https://app.example.com/login?next={return}&x=1",
            "/rendezvous?user_code=bcdfghjk",
            "https://app.example.com/login?next=http%3A%2F%2Fapp.example.com%3A81%2Frendezvous%3Fuser_code%3D"
            "BCDF-GHJK&amp;x=1",
        ),
        (
            "/login?next={return}",
            "/rendezvous?user_code=%22%3E//evil.example",
            "/login?next=http%3A%2F%2Fapp.example.com%3A81%2Frendezvous",
        ),
        ("https://login.example.com/", "/rendezvous?user_code=bcdfghjk", "https://login.example.com/"),
    ],
)
async def test_sign_in_link_brings_people_back_with_their_code_and_nowhere_else(
    listener: Listener, url: str, path: str, link: str
) -> None:
    listener.node.shared = ["app.example.com"]
    settings = GatewaySettings(trusted_proxies=(), metrics_clients=(), sign_in_url=url)
    port = await listener.start(settings)
    answer = await ask(port, at("app.example.com:81", path))
    assert b"<title>Sign in first</title>" in answer
    assert f'href="{link}"'.encode() in answer
    # The session ended while the form was open: the code that was typed comes along too.
    page = Page(listener, port)
    request = page.post("/rendezvous", "form=x&user_code=bcdf%E2%80%93ghjk")
    for old, new in (
        (b"Host: 127.0.0.1", b"Host: app.example.com:81"),
        (b"//127.0.0.1", b"//app.example.com:81"),
    ):
        request = request.replace(old, new)
    answer = await ask(port, request)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert (b"BCDF-GHJK&amp;x=1" in answer) == ("x=1" in url)


async def test_page_at_a_pin_without_a_session_goes_to_the_shared_host_and_stays_with_the_node(
    listener: Listener,
) -> None:
    listener.node.shared = ["app.example.com", "web.example.com"]
    listener.node.pins = ["app-1.example.com"]
    code = "?user_code=BCDF-GHJK"
    settings = GatewaySettings(trusted_proxies=(), metrics_clients=(), allowed_hosts=("own.example.com",))
    port = await listener.start(settings)
    pin, shared, own = "app-1.example.com:81", "app.example.com:81", "own.example.com:81"

    async def goes(host: str, path: str, cookie: str = "") -> tuple[str, list[str]]:
        answer = await ask(port, at(host, path, cookie))
        return location(answer), cookies_of(answer)

    assert await goes(pin, f"/rendezvous{code}") == (f"http://{shared}/r/n1{code}", [])
    assert await goes(pin, f"/r/n2{code}") == (f"http://{shared}/r/n2{code}", [])
    # There it stays, and the node that was named is chosen by the proxies' cookie; one that is away is not.
    for name in ("n1", "n2"):
        assert await goes(shared, f"/r/{name}{code}") == (f"../rendezvous{code}", [f"cyolo-node={name}"])
    assert b"Sign in first" in await ask(port, at(shared, f"/rendezvous{code}"))
    # Whoever has a session at a host stays there, whatever host that is.
    for host in (pin, shared, own):
        assert b"Enter the code" in await ask(port, at(host, f"/rendezvous{code}", "cyolo-sid=alice"))
        assert (await goes(host, f"/r/n2{code}", "cyolo-sid=alice"))[0] == f"../rendezvous{code}"
    # A host of the operator's own is no pin.
    assert b"Sign in first" in await ask(port, at(own, f"/rendezvous{code}"))
    assert await goes(own, f"/r/n2{code}") == (f"https://app-2.example.com/rendezvous{code}", [])
    # The sign-in link says which of the shared hosts has the sessions.
    settings = GatewaySettings(
        trusted_proxies=(), metrics_clients=(), sign_in_url="https://web.example.com/login"
    )
    port = await listener.start(settings)
    assert (await goes(pin, "/rendezvous"))[0] == "http://web.example.com:81/r/n1"


async def test_page_at_a_pin_where_nothing_is_shared_or_no_session_is_needed_stays(
    listener: Listener,
) -> None:
    listener.node.pins = ["app-1.example.com"]
    port = await listener.start()
    assert b"Sign in first" in await ask(port, at("app-1.example.com", "/rendezvous"))
    listener.node.shared = ["app.example.com"]
    port = await listener.start(
        GatewaySettings(trusted_proxies=(), metrics_clients=(), require_session=False)
    )
    assert b"Enter the code" in await ask(port, at("app-1.example.com", "/rendezvous"))


async def test_client_that_the_proxy_does_not_know_may_ask_and_reads_no_metrics(listener: Listener) -> None:
    settings = GatewaySettings(
        trusted_proxies=("127.0.0.1",), metrics_clients=("127.0.0.0/8",), require_session=False
    )
    port = await listener.start(settings)
    for said, status in (("unknown", b"403"), ("127.0.0.1", b"500"), ("127.0.0.1:5000", b"500")):
        request = get("/metrics").replace(b"Cookie: ", f"X-Forwarded-For: {said}\r\nCookie: ".encode())
        assert (await ask(port, request))[9:12] == status  # this node has no figures
    page = Page(listener, port)
    form = page.forms.seal("enter", BROWSER, "", b"", NOW)
    posted = page.post("/rendezvous", f"form={form}&user_code=BCDF-GHJK", "X-Forwarded-For: unknown\r\n")
    assert b"You answer from an unknown address" in await ask(port, posted)


async def test_host_that_is_not_ours_is_not_served_whoever_says_it(listener: Listener) -> None:
    listener.node.pins = ["app.example.com"]
    here, behind = await listener.start(), await listener.start(proxied())
    for host, status in (("app.example.com", b"200"), ("evil.example", b"421"), ("a b", b"400")):
        assert (await ask(here, at(host, "/rendezvous")))[9:12] == status
        said = f"Host: 127.0.0.1\r\nX-Forwarded-Host: {host}".encode()
        asked = get("/rendezvous").replace(b"Host: 127.0.0.1", said)
        assert (await ask(behind, asked))[9:12] == status
        assert (await ask(here, asked))[9:12] == b"200"  # a stranger's header says nothing
    twice = get("/rendezvous").replace(b"Host: ", b"Host: app.example.com\r\nHost: ")
    assert (await ask(here, twice))[9:12] == b"400"
    assert (await ask(here, at("evil.example", "/readyz")))[9:12] == b"200"


async def test_connections_of_proxies_have_a_bound_of_their_own(listener: Listener) -> None:
    port = await listener.start(proxied(), connections=2)
    kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    try:
        for reader, writer in kept:
            writer.write(HEAD + b"\r\n")
            assert b" 200 " in await reader.readline()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await ask(port, HEAD + b"\r\n")
    finally:
        for _, writer in kept:
            writer.close()


async def test_other_settings_count_from_the_next_request_on(listener: Listener) -> None:
    port = await listener.start()
    begin = b"GET /begin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    elsewhere = b"GET /rendezvous HTTP/1.1\r\nHost: app.example.com\r\n\r\n"
    forwarded = b"GET /rendezvous HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-Proto: ftp\r\n\r\n"
    sent = (begin, elsewhere, forwarded)
    assert [(await ask(port, each))[9:12] for each in sent] == [b"200", b"421", b"200"]
    listener.gateways[0].change(
        GatewaySettings(
            trusted_proxies=("127.0.0.0/8",),
            metrics_clients=(),
            allowed_hosts=("app.example.com",),
            sign_in_url="https://login.example.com/",
        )
    )
    assert [(await ask(port, each))[9:12] for each in sent] == [b"404", b"200", b"400"]
    assert b"https://login.example.com/" in await ask(port, elsewhere)
