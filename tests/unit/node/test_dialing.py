"""Dialling a peer by its name: every address gets its turn, and the last good one is kept."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from cyoloctl.node import dialing
from cyoloctl.node.dialing import Dialer
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.tls import TlsIdentity


class Names:
    """getaddrinfo(3) for one name, n2.example."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.answers = threading.Event()
        self.answers.set()
        self._real = socket.getaddrinfo

    def getaddrinfo(self, host: str, port: int, *args: Any, **options: Any) -> Any:
        if host != "n2.example":
            return self._real(host, port, *args, **options)
        if options.get("flags") == socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not numeric")
        self.answers.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in self.ports]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    yield made
    made.answers.set()


@pytest.fixture
def swallower() -> Iterator[int]:
    """A port of the loopback that answers nobody: its line is full."""
    with contextlib.ExitStack() as opened:
        full = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        yield full.getsockname()[1]


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> TlsIdentity:
    directory = tmp_path_factory.mktemp("n1")
    new_cluster(directory, name="n1", cluster="demo", now=datetime.now(UTC))
    return TlsIdentity(directory / "pki")


@pytest.fixture
async def peer(identity: TlsIdentity) -> AsyncIterator[int]:
    """A port at which a node shakes hands."""
    server = await asyncio.get_running_loop().create_server(
        asyncio.Protocol, "127.0.0.1", 0, ssl=identity.server
    )
    yield server.sockets[0].getsockname()[1]
    server.close()


async def _dial(dialer: Dialer) -> int:
    """The port at which the dialled peer answered."""
    async with asyncio.timeout(10.0):
        transport, _ = await dialer.connect("n2.example:1", asyncio.Protocol)
    port: int = transport.get_extra_info("peername")[1]
    assert transport.get_extra_info("ssl_object") is not None
    transport.abort()
    return port


async def test_address_that_swallows_everything_leaves_time_for_the_next(
    identity: TlsIdentity, names: Names, peer: int, swallower: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialing, "_PER_PLACE_S", 0.2)
    names.ports = [swallower, peer]
    assert await _dial(Dialer(identity)) == peer


async def test_last_good_address_is_dialled_while_no_name_server_answers(
    identity: TlsIdentity, names: Names, peer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialing, "_PER_PLACE_S", 0.2)
    names.ports = [peer]
    dialer = Dialer(identity)
    assert await _dial(dialer) == peer
    names.answers.clear()
    assert await _dial(dialer) == peer
    with pytest.raises(TimeoutError, match=r"n2\.example"):
        await Dialer(identity).connect("n2.example:1", asyncio.Protocol)


async def test_dial_that_is_given_up_stops_waiting_for_the_name_server_at_once(
    identity: TlsIdentity, names: Names
) -> None:
    names.answers.clear()
    dial = asyncio.create_task(Dialer(identity).connect("n2.example:1", asyncio.Protocol))
    await asyncio.sleep(0)
    began = time.monotonic()
    dial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dial
    assert time.monotonic() - began < 1.0


def test_dialling_an_address_loads_no_tables_of_unicode() -> None:
    program = (
        "import asyncio, sys, uvloop\nfrom cyoloctl.node.dialing import Dialer\n"
        "with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:\n"
        "    try: runner.run(Dialer(None).connect('127.0.0.1:1', asyncio.Protocol))\n"
        "    except OSError: print(sorted({'encodings.idna', 'unicodedata'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
