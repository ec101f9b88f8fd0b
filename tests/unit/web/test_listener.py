"""The accept loop on real sockets, on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from cyoloctl.web.listener import Guest, Listener
from cyoloctl.web.strangers import StrangerLimits, Visitors
from tests.support.service import Authority

LIMITS = StrangerLimits(connections=8, per_source=4, grace_s=0.0, handshake_s=1.0, head_s=1.0, idle_s=1.0)
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


class Echo(asyncio.Protocol):
    """Answers every piece; b"me" identifies the caller, b"who" takes it back."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        if data == b"me":
            self.guest.identified()
        if data == b"who":
            self.guest.unidentified()
        self.guest.asked()
        self.transport.write(data)
        self.guest.answered()

    def connection_lost(self, exc: Exception | None) -> None:
        self.guest.left()


class Stand:
    """A listener on loopback."""

    def __init__(self, limits: StrangerLimits, tls: ssl.SSLContext | None = None) -> None:
        sock = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = sock.getsockname()[1]
        self.visitors = Visitors(limits)
        self.tls = tls
        self.listener = Listener(
            sock,
            Echo,
            self.visitors,
            name="test",
            tls=None if tls is None else self._context,
        )
        self.listener.start()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Stand:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.listener.close()
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _context(self) -> ssl.SSLContext:
        assert self.tls is not None
        return self.tls

    async def connect(self, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **options)
        self._writers.append(writer)
        return reader, writer


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


async def closed(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            assert await reader.read(1) == b""


async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> None:
    writer.write(text)
    async with asyncio.timeout(10):
        assert await reader.readexactly(len(text)) == text


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def start(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(work)

    return start


Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = Authority().server_context(tmp_path)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return server, client


def open_sockets() -> int:
    return sum(1 for fd in os.listdir("/proc/self/fd") if _is_socket(fd))


def _is_socket(fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:
        return False


def test_listener_with_more_strangers_than_allowed_ends_the_oldest(run: Run) -> None:
    async def work() -> None:
        async with Stand(LIMITS) as stand:
            first = await stand.connect()
            await says(*first, b"hello")
            others = [await stand.connect() for _ in range(6)]
            await closed(first[0])
            await says(*others[-1], b"hello")
            assert len(stand.visitors) == 4

    run(work())


def test_listener_with_strangers_that_never_finish_a_handshake_ends_them(
    run: Run, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def work() -> None:
        async with Stand(LIMITS, contexts[0]) as stand:
            before = open_sockets()
            idle = [await stand.connect() for _ in range(20)]
            for reader, _ in idle:
                await closed(reader)
            for _, writer in idle:
                writer.close()
            await until(lambda: open_sockets() <= before and len(stand.visitors) == 0)

    run(work())


def test_listener_after_the_handshake_gives_a_stranger_a_moment_only(
    run: Run, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def work() -> None:
        async with Stand(LIMITS, contexts[0]) as stand:
            reader, writer = await stand.connect(ssl=contexts[1])
            await says(reader, writer, b"hello")
            started = asyncio.get_running_loop().time()
            await closed(reader)
            assert asyncio.get_running_loop().time() - started < 3
            await until(lambda: len(stand.visitors) == 0)

    run(work())


def test_identified_caller_stays_while_strangers_fill_every_place(
    run: Run, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def work() -> None:
        async with Stand(LIMITS, contexts[0]) as stand:
            known = await stand.connect(ssl=contexts[1])
            await says(*known, b"me")
            await until(lambda: len(stand.visitors) == 0)
            crowd = [await stand.connect() for _ in range(30)]
            # And whoever comes through them is let in.
            late = await stand.connect(ssl=contexts[1])
            await says(*late, b"me")
            for reader, _ in crowd:
                await closed(reader)
            await says(*known, b"still")
            await says(*late, b"still")

    run(work())


def test_listener_refuses_a_flood_instead_of_handshaking_with_it(run: Run) -> None:
    async def work() -> None:
        async with Stand(StrangerLimits(connections=8, per_source=4, grace_s=30.0)) as stand:
            crowd = [await stand.connect() for _ in range(20)]
            for reader, _ in crowd[4:]:
                await closed(reader)
            await says(*crowd[0], b"hello")

    run(work())


class Exhausted(socket.socket):
    """A listening socket whose accept fails for lack of descriptors until told otherwise."""

    lacking = True
    calls = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.calls += 1
        if self.lacking:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


def test_listener_without_descriptors_waits_and_goes_on(run: Run) -> None:
    async def work() -> None:
        listening = Exhausted(socket.AF_INET, socket.SOCK_STREAM)
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        visitors = Visitors(LIMITS)
        listener = Listener(listening, Echo, visitors, name="test", tls=None)
        listener.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", listening.getsockname()[1])
        await until(lambda: listening.calls >= 2)
        assert listening.calls < 10, "it spins"
        listening.lacking = False
        await says(reader, writer, b"hello")
        listener.close()
        writer.close()

    run(work())


def test_listener_with_a_new_certificate_shows_it_to_new_connections(run: Run, tmp_path: Path) -> None:
    async def work() -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        first, second = (Authority().server_context(tmp_path / name) for name in "ab")
        async with Stand(LIMITS, first) as stand:
            client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            client.check_hostname = False
            client.verify_mode = ssl.CERT_NONE
            old = await stand.connect(ssl=client)
            stand.tls = second
            new = await stand.connect(ssl=client)

            def shown(writer: asyncio.StreamWriter) -> Any:
                return writer.get_extra_info("ssl_object").getpeercert(binary_form=True)

            assert shown(old[1]) != shown(new[1])
            await says(*old, b"hello")

    run(work())


def test_listener_closed_amid_handshakes_ends_them(
    run: Run, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def work() -> None:
        async with Stand(LIMITS, contexts[0]) as stand:
            reader, _ = await stand.connect()
            await until(lambda: len(stand.visitors) == 1)
            stand.listener.close()
            stand.listener.close()
            await closed(reader)

    run(work())
    assert threading.active_count() < 50


def test_listener_wakes_the_loop_for_strangers_only(run: Run) -> None:
    async def work() -> None:
        async with Stand(LIMITS) as stand:
            assert not stand.listener.is_watching
            stranger = await stand.connect()
            await says(*stranger, b"hello")
            assert stand.listener.is_watching
            await says(*stranger, b"me")
            await until(lambda: not stand.listener.is_watching)
            await says(*stranger, b"still here")

    run(work())


def test_listener_watches_a_caller_who_is_a_stranger_again(run: Run) -> None:
    async def work() -> None:
        async with Stand(LIMITS) as stand:
            caller = await stand.connect()
            await says(*caller, b"me")
            await until(lambda: not stand.listener.is_watching)
            await says(*caller, b"who")
            assert stand.listener.is_watching
            await closed(caller[0])

    run(work())
