"""The client of an event loop where it differs from the one that blocks: connections, TLS, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cyoloctl import AsyncClient
from cyoloctl.errors import AccessDenied, NotFound, Unreachable
from tests.support.live import Live, refusing, running
from tests.support.service import Authority


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short, for a socket's path is limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ctl") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def live(authority: Authority, directory: Path) -> AsyncIterator[Live]:
    async with running(authority, directory) as node:
        yield node


def secure(where: str, credentials: Path, timeout_s: float = 5.0) -> AsyncClient:
    return AsyncClient([where], credentials=credentials, timeout_s=timeout_s, retry=False)


@contextlib.asynccontextmanager
async def listening(answer: bytes | None) -> AsyncIterator[str]:
    """Something at a TCP port that answers so, whatever comes; None: nothing at all."""
    done = asyncio.Event()
    serving = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        if answer is None:
            await done.wait()
        else:
            await reader.read(65536)
            writer.write(answer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        done.set()
        server.close()
        await server.wait_closed()
        await asyncio.gather(*filter(None, serving))  # of which nothing may be left to the next test


async def test_every_kind_of_call_works_over_tls(live: Live, authority: Authority, directory: Path) -> None:
    client = secure(live.https, authority.credentials(directory))
    assert (await client.counters.incr("c", 3))["value"] == 3
    many = await asyncio.gather(*(client.counters.incr("c") for _ in range(20)))
    assert sorted(each["value"] for each in many) == list(range(4, 24))
    with pytest.raises(NotFound):
        await client.counters.get("nope")
    watch = client.counters.watch("c")
    assert (await anext(watch))["value"] == 23
    await client.counters.incr("c")
    assert (await anext(watch))["value"] == 24
    await watch.aclose()  # type: ignore[attr-defined]  # a generator
    async with asyncio.timeout(5):
        await live.service.watch_ended.wait()


async def test_large_bodies_and_answers_pass_through_tls(
    live: Live, authority: Authority, directory: Path
) -> None:
    client = secure(live.https, authority.credentials(directory))
    document = await client.call("openapi")
    assert len(str(document)) > 300_000
    value = bytes(range(256)) * 1024
    with contextlib.suppress(Exception):  # the memory service answers nothing of use
        await client.kv.put("k", value)
    [arguments] = [given for operation, given in live.service.calls if operation.startswith("kv")]
    assert len(arguments["value_base64"]) == -(-len(value) // 3) * 4


async def test_node_that_is_meant_and_no_other_is_told_anything(
    live: Live, authority: Authority, directory: Path
) -> None:
    credentials = authority.credentials(directory)
    good, bad = (live.https.replace("https://", f"https://{name}@") for name in ("a", "b"))
    assert (await secure(good, credentials).counters.incr("c"))["value"] == 1
    with pytest.raises(AccessDenied, match="a answers there, not b: nothing was sent"):
        await secure(bad, credentials).counters.incr("c")
    assert len(live.service.calls) == 1


async def test_credentials_of_another_cluster_are_access_denied(live: Live, directory: Path) -> None:
    with pytest.raises(AccessDenied, match="another cluster, or the credentials do"):
        await secure(live.https, Authority("1" * 32).credentials(directory)).counters.incr("c")
    assert live.service.calls == []


async def test_alert_that_refuses_our_certificate_is_access_denied(
    authority: Authority, directory: Path
) -> None:
    with (
        refusing(authority, directory) as endpoint,
        pytest.raises(AccessDenied, match="refuses our certificate"),
    ):
        await secure(endpoint, authority.credentials(directory)).counters.incr("c")


@pytest.mark.parametrize(
    ("role", "days", "says"),
    [("operator", 30, "does not name a node"), ("node", -1, "certificate of node a ended")],
)
async def test_server_that_is_no_valid_node_gets_nothing(
    authority: Authority, directory: Path, role: str, days: int, says: str
) -> None:
    context: ssl.SSLContext = authority.server_context(directory, role=role, days=days)
    async with running(authority, directory, context=context) as node:
        with pytest.raises(AccessDenied, match=says):
            await secure(node.https, authority.credentials(directory)).counters.incr("c")
        assert node.service.calls == []


async def test_what_speaks_no_tls_is_unreachable(authority: Authority, directory: Path) -> None:
    async with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as where:
        with pytest.raises(Unreachable, match="does not speak TLS"):
            await secure(where, authority.credentials(directory)).status()


async def test_what_says_nothing_is_unreachable_in_time(authority: Authority, directory: Path) -> None:
    async with listening(None) as where:
        with pytest.raises(Unreachable, match="timed out"):
            await secure(where, authority.credentials(directory), 0.2).counters.incr("c")


async def test_name_that_is_not_known_is_unreachable(authority: Authority, directory: Path) -> None:
    with pytest.raises(Unreachable):
        await secure("https://no-such-host.invalid:1", authority.credentials(directory), 2.0).status()


async def test_name_of_a_host_is_looked_up(live: Live, authority: Authority, directory: Path) -> None:
    where = live.https.replace("127.0.0.1", "localhost")
    assert (await secure(where, authority.credentials(directory)).counters.incr("c"))["value"] == 1


@pytest.mark.parametrize("over", ["unix", "https"])
async def test_cancelled_call_leaves_no_connection(
    live: Live, authority: Authority, directory: Path, over: str
) -> None:
    live.service.hang = True
    client = secure(getattr(live, over), authority.credentials(directory))
    task = asyncio.create_task(client.counters.incr("c"))
    async with asyncio.timeout(5):
        await live.service.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    live.service.release.set()
