"""The gateway's listener on a real socket, before a node in memory: slow and many clients, what is off."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cyoloctl.errors import Conflict, NotFound, TokenRejected
from cyoloctl.gateway import Gateway, GatewaySettings, Limits
from cyoloctl.gateway._forms import Begun, Forms

SETTINGS = GatewaySettings(trusted_proxies=(), metrics_clients=(), begin=("mfa",))
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

    def ready(self) -> bool:
        return True

    def facts(self) -> dict[str, Any]:
        return {}

    def form_keys(self) -> list[tuple[bytes, bytes]]:
        return [(b"key1", b"k" * 32)]

    def hosts(self) -> set[str]:
        return {"127.0.0.1"}

    def owner_url(self, name: str) -> str | None:
        raise NotFound("no such node")

    def page_url(self, host: str) -> str | None:
        return None

    async def subject(self, cookie: str, *, current: bool, timeout_s: float) -> str:
        raise TokenRejected(reason="no cookie")

    async def refresh(self, cookie: str, *, timeout_s: float) -> str:
        raise TokenRejected(reason="no cookie")

    async def find(self, user_code: str, *, caller: str, timeout_s: float) -> dict[str, Any]:
        raise NotFound("no such code")

    async def begin(
        self, kind: str, *, client: str, network: str, request_id: str, timeout_s: float
    ) -> dict[str, Any]:
        return {"id": "1" * 32, "user_code": "BCDF-GHJK"}

    async def look(self, id: str, *, timeout_s: float) -> dict[str, Any]:
        return self.record

    async def redeem(self, id: str, redemption: str, *, timeout_s: float) -> dict[str, Any]:
        raise Conflict("the rendezvous was already redeemed: start another")

    async def decide(self, operation: str, id: str, *, by: str, request_id: str, timeout_s: float) -> None:
        raise NotFound("no such record")


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
    begun = Begun("1" * 32, "2" * 32, "BCDF-GHJK").seal(
        Forms(listener.node.form_keys, bytes), int(time.time())
    )
    answer = await ask(port, get("/begin/wait", f"cyolo-begun={begun}"))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert f"<title>{title}</title>".encode() in answer
    assert (b"http-equiv" in answer) == (title == "Waiting for approval")
    assert (b"Max-Age=0" in answer) != kept
    assert b"<i>" not in answer
