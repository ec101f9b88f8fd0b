"""HTTP/1.1 on real sockets, with a server that says what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import socket
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any, cast

import pytest

from cyoloctl.errors import BodyTooLarge, CyoloctlError
from cyoloctl.web import connection as connection_module
from cyoloctl.web.connection import Connection, HttpServer
from cyoloctl.web.request import Answer, Headers, Request, TooLong, answer_bytes, read_body

LIMIT = 200_000


class Echo(HttpServer[Connection]):
    """Answers with what it was asked; the path /hold waits, /ignore leaves the body alone."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.errors: list[BaseException | None] = []
        self.release = asyncio.Event()
        self._changed = asyncio.Condition()

    async def is_asked(self, times: int) -> None:
        """Return once it was asked so often."""
        await self._until(lambda: len(self.asked) >= times)

    async def is_left(self) -> None:
        """Return once nobody is connected."""
        await self._until(lambda: not self.connections)

    async def _until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(true)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def disconnected(self, connection: Connection) -> None:
        super().disconnected(connection)
        self._telling = self.loop.create_task(self._tell())

    async def respond(self, request: Request, connection: Connection) -> Answer:
        self.asked.append(request.target)
        await self._tell()
        keep_alive = request.keep_alive and request.is_1_1
        body, status = b"", 200
        if request.target == "/hold":
            await self.release.wait()
        if request.target == "/large":
            return said(200, {"x": "y" * 4_000_000}, keep_alive)
        if request.target == "/hold-deaf":  # and takes nothing of the body
            await self.release.wait()
            return said(200, {}, keep_alive=False)
        if request.target == "/ignore":
            status = 413
        else:
            try:
                body = await read_body(request, LIMIT, 5.0, BodyTooLarge("too large"))
            except CyoloctlError as error:
                return said(error.http_status, {"said": error.message}, keep_alive=False)
        found = {
            "method": request.method,
            "target": request.target,
            "length": len(body),
            "body": body[:200].decode("latin-1"),
            "type": request.content_type,
            "x": request.headers.all("X"),
        }
        return said(status, found, keep_alive)

    def refuse_unreadable(self, error: BaseException | None, too_long: TooLong | None) -> Answer:
        self.errors.append(error)
        return said(400, {"too_long": too_long}, keep_alive=False)


def said(status: int, value: dict[str, Any], keep_alive: bool) -> Answer:
    return Answer(
        status, answer_bytes(status, [("A", "b")], json.dumps(value).encode(), body_too=True), keep_alive
    )


class Client:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, Any]]:
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            return int(head[9:12]), json.loads(await self.reader.readexactly(length))

    async def ended(self) -> bytes:
        """What still comes until the server closes."""
        async with asyncio.timeout(10):
            return await self.reader.read()


@pytest.fixture
async def server() -> AsyncIterator[Echo]:
    made = Echo()
    yield made
    made.release.set()
    await made.close(1.0)


@contextlib.asynccontextmanager
async def connected(server: Echo, *, room: int | None = None, **bounds: float) -> AsyncIterator[Client]:
    """A client.  room: bytes of answers that the kernel holds, about."""
    ours, theirs = socket.socketpair()
    if room is not None:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
    given: dict[str, Any] = {"idle_s": 30.0, "linger_s": 5.0, **bounds}
    await server.loop.connect_accepted_socket(lambda: Connection(server, None, **given), theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def post(target: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {target} HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


CHUNKED = b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_requests_of_a_pipeline_are_answered_in_order(server: Echo) -> None:
    async with connected(server) as client:
        await client.send(
            b"\r\n" + post("/1", b"abc", "X: 1", "x: 2") + post("/2", b"") + b"GET /3 HTTP/1.1\r\n"
        )
        first, second = await client.answer(), await client.answer()
        await client.send(b"\r\n")
        third = await client.answer()
    assert [first[1]["target"], second[1]["target"], third[1]["target"]] == ["/1", "/2", "/3"]
    assert first[1]["length"] == 3
    assert first[1]["x"] == ["1", "2"]


async def test_same_head_is_parsed_once_and_its_bodies_are_their_own(
    server: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[object] = []
    whole = Connection.on_headers_complete
    monkeypatch.setattr(Connection, "on_headers_complete", lambda self: (heads.append(self), whole(self))[1])
    async with connected(server) as client:
        for body in (b"abc", b"abd", b"xyz", b"\r\n\r", b"GET"):
            await client.send(post("/1", body, "X: 1"))
            status, found = await client.answer()
            assert (status, found["target"], found["body"], found["x"]) == (200, "/1", body.decode(), ["1"])
        assert len(heads) == 2  # the length has to be the same before
        await client.send(post("/2", b"abc", "X: 1"))
        assert (await client.answer())[1]["target"] == "/2"
        assert len(heads) == 3
        for _ in range(4):
            await client.send(CHUNKED + b"3\r\nabc\r\n0\r\n\r\n")
            assert (await client.answer())[1]["body"] == "abc"


async def test_body_that_looks_like_the_request_before_is_a_body(server: Echo) -> None:
    again = post("/1", b"abc")
    async with connected(server) as client:
        for _ in range(3):
            await client.send(again)
            assert (await client.answer())[1]["target"] == "/1"
        outer = post("/2", again)
        await client.send(outer[: -len(again)])
        await server.is_asked(4)  # its head was read
        await client.send(again)
        found = (await client.answer())[1]
    assert (found["target"], found["body"]) == ("/2", again.decode())


REQUESTS = (
    post("/1", b"abc"),
    post("/1", b"abd"),
    post("/2", b"abc"),
    post("/1", b"abcd"),
    post("/3", b""),
    b"GET /4 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST /5 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"\r\n" + post("/6", b"abc"),
    post("/7", post("/1", b"abc")),
)


@pytest.mark.parametrize("seed", range(12))
async def test_requests_are_the_same_however_they_are_cut(server: Echo, seed: int) -> None:
    """Many that repeat each other, whole, in parts and several at once: each is answered for itself."""
    rng = random.Random(seed)
    wanted = [rng.choice(REQUESTS[: 2 + seed % 8]) for _ in range(60)]
    stream, cuts, at = b"".join(wanted), [0], 0
    for request in wanted:
        if rng.random() < 0.7:  # most end where a packet does
            cuts.append(at + len(request))
        elif rng.random() < 0.5:
            cuts.append(at + rng.randrange(len(request)))
        at += len(request)
    parts = [stream[start:end] for start, end in pairwise([*cuts, len(stream)])]
    async with connected(server) as client:
        answering = asyncio.create_task(_answers(client, len(wanted)))
        for part in parts:
            await client.send(part)
            await asyncio.sleep(0)
        found = await answering
    assert found == [(_target(each), _body(each)) for each in wanted]


async def _answers(client: Client, count: int) -> list[tuple[str, str]]:
    found = []
    for _ in range(count):
        status, said = await client.answer()
        assert status == 200
        found.append((said["target"], said["body"]))
    return found


def _target(request: bytes) -> str:
    return request.split(b" ")[1].decode()


def _body(request: bytes) -> str:
    body = request.lstrip(b"\r\n").partition(b"\r\n\r\n")[2].decode()
    return "abc" if body.startswith("3\r\n") else body


async def test_next_request_waits_for_the_answer_and_no_more_than_one_is_read_ahead(server: Echo) -> None:
    async with connected(server) as client:
        await client.send(post("/hold", b"") + post("/2", b""))
        await server.is_asked(1)
        client.writer.write(post("/3", b"z" * 150_000) * 30)
        with pytest.raises(TimeoutError):  # far more than the kernel holds
            async with asyncio.timeout(0.3):
                await client.writer.drain()
        assert server.asked == ["/hold"]
        server.release.set()
        targets = [(await client.answer())[1]["target"] for _ in range(32)]
    assert targets == ["/hold", "/2", *["/3"] * 30]


async def test_body_larger_than_is_read_ahead_arrives_whole(server: Echo) -> None:
    async with connected(server) as client:
        body = b"z" * LIMIT
        await client.send(post("/b", body)[:-1])
        await client.send(body[-1:])
        assert (await client.answer())[1]["length"] == LIMIT
        await client.send(post("/2", b""))
        assert (await client.answer())[1]["target"] == "/2"


async def test_client_that_does_not_read_gets_no_further_answers(server: Echo) -> None:
    async with connected(server) as client, connected(server) as other:
        await client.send(post("/large", b"") * 3)
        await server.is_asked(1)
        await other.send(post("/other", b""))
        await other.answer()
        assert server.asked == ["/large", "/other"]
        lengths = [len((await client.answer())[1]["x"]) for _ in range(3)]
    assert lengths == [4_000_000] * 3


async def test_client_that_reads_nothing_is_let_go(server: Echo) -> None:
    async with connected(server, idle_s=0.05) as client:
        await client.send(post("/large", b"") * 2)
        await server.is_asked(1)
        await server.is_left()
    assert server.asked == ["/large"]


async def test_client_that_does_not_read_its_last_answer_is_let_go(server: Echo) -> None:
    async with connected(server, room=4096, idle_s=0.05) as client:
        cast("asyncio.Transport", client.writer.transport).pause_reading()
        await client.send(post("/1", b"", "X: " + "x" * 8000) * 3)  # less than stops the answers
        await server.is_asked(3)
        await server.is_left()


class Slow(asyncio.Transport):
    """A transport whose client reads for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.unread = [4, 3, 2, 1, 1]
        self.aborted = asyncio.Event()

    def get_write_buffer_size(self) -> int:
        return self.unread.pop(0)

    def is_closing(self) -> bool:
        return self.aborted.is_set()

    def pause_reading(self) -> None:
        pass

    def write(self, data: Any) -> None:
        self.connection.pause_writing()

    def abort(self) -> None:
        self.aborted.set()
        self.connection.connection_lost(None)

    connection: Connection


async def test_client_that_reads_slowly_is_let_go_once_it_reads_nothing(server: Echo) -> None:
    connection, transport = Connection(server, None, idle_s=0.02, linger_s=1.0), Slow()
    transport.connection = connection
    connection.connection_made(transport)
    connection.data_received(post("/1", b""))
    async with asyncio.timeout(10):
        await transport.aborted.wait()
    assert transport.unread == []


async def test_thousands_of_requests_in_one_read_do_not_wait_as_requests(server: Echo) -> None:
    async with connected(server) as client:
        await client.send(post("/hold", b""))
        await server.is_asked(1)
        connection = server.connections[0]
        many = 10_000
        connection.data_received(b"GET /2 HTTP/1.1\r\n\r\n" * many)
        assert sum(isinstance(each, Request) for each in gc.get_objects()) < many / 10
        server.release.set()
        targets = [(await client.answer())[1]["target"] for _ in range(many + 1)]
    assert targets == ["/hold", *["/2"] * many]


async def test_pieces_of_one_read_are_joined(server: Echo) -> None:
    bodies = [b"z" * length for length in (1, 8000, 8192, 100_000, 8191, 30)]
    async with connected(server) as client:
        await client.send(b"GET / HTTP/1.1\r\n\r\n")
        await client.answer()
        server.connections[0].data_received(b"".join(post("/b", body) for body in bodies))
        assert [(await client.answer())[1]["length"] for _ in bodies] == list(map(len, bodies))


@pytest.mark.parametrize(
    "data",
    [
        b"GET /\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / HTTP/1.1\nHost: h\n\n",
        b"GET / HTTP/1.1\r\nA : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: x\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: \0\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc",
        # What follows would be taken for another protocol, and the body with it.
        b"POST / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 129 + b"\r\n",
        b"\x16\x03\x01\x00\x00",
    ],
)
async def test_what_is_no_request_is_refused_and_ends_the_connection(server: Echo, data: bytes) -> None:
    async with connected(server) as client:
        await client.send(data)
        assert await client.answer() == (400, {"too_long": None})
        assert await client.ended() == b""
    assert (server.asked, server.errors) == ([], [None])


async def test_what_follows_good_requests_and_is_none_is_refused_after_their_answers(server: Echo) -> None:
    async with connected(server) as client:
        await client.send(post("/1", b"") + b"nonsense\r\n\r\n" + post("/2", b""))
        assert (await client.answer())[1]["target"] == "/1"
        assert (await client.answer())[0] == 400
        assert await client.ended() == b""
    assert server.asked == ["/1"]


@pytest.mark.parametrize(
    ("sent", "too_long"),
    [
        ([b"GET /" + b"a" * 8190 + b" HTTP/1.1\r\n\r\n"], "line"),
        ([b"GET /" + b"a" * 5000, b"b" * 5000], "line"),
        ([b"GET / HTTP/1.1\r\nA: " + b"b" * 8192 + b"\r\n\r\n"], "header"),
        # A header that never ends, in pieces.
        ([b"GET / HTTP/1.1\r\nA: ", *[b"b" * 10_000] * 100], "header"),
    ],
    ids=["line", "line in pieces", "header", "header in pieces"],
)
async def test_head_that_is_too_long_is_refused(server: Echo, sent: list[bytes], too_long: str) -> None:
    async with connected(server) as client:
        with contextlib.suppress(ConnectionError):
            for piece in sent:
                await client.send(piece)
        assert await client.answer() == (400, {"too_long": too_long})


async def test_longest_line_and_header_are_taken(server: Echo) -> None:
    async with connected(server) as client:
        await client.send(b"GET /%b HTTP/1.1\r\nX: %b\r\n\r\n" % (b"a" * 8189, b"b" * 8191))
        status, value = await client.answer()
    assert (status, len(value["target"]), len(value["x"][0])) == (200, 8190, 8191)


async def test_head_of_any_number_of_pieces_is_read(server: Echo) -> None:
    async with connected(server) as client:
        for byte in post("/slow", b"ab", "X: y"):
            await client.send(bytes([byte]))
            await asyncio.to_thread(lambda: None)  # the server reads it meanwhile
        assert (await client.answer())[1] == {
            "method": "POST", "target": "/slow", "length": 2, "body": "ab", "type": "", "x": ["y"],
        }  # fmt: skip


async def test_trailers_and_chunk_extensions_are_read_over(server: Echo) -> None:
    async with connected(server) as client:
        await client.send(CHUNKED + b"3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n" + post("/2", b""))
        assert (await client.answer())[1]["length"] == 3
        assert (await client.answer())[1]["x"] == []


@pytest.mark.parametrize(
    ("first", "more"),
    [(b"", b"3;" + b"e" * 9000 + b"\r\nabc\r\n"), (b"0\r\nX: ", b"y" * 9000)],
    ids=["extensions", "a trailer"],
)
async def test_what_a_chunked_body_holds_beside_the_body_is_bounded(
    server: Echo, first: bytes, more: bytes
) -> None:
    async with connected(server) as client:
        await client.send(CHUNKED)
        await server.is_asked(1)
        with contextlib.suppress(ConnectionError):
            for piece in (first, *[more] * 100):
                await client.send(piece)
        status, value = await client.answer()
    assert (status, value["said"]) == (400, "the body is not valid HTTP/1.1: check what is sending it")


async def test_chunks_that_break_off_are_refused(server: Echo) -> None:
    async with connected(server, linger_s=0.05) as client:
        await client.send(CHUNKED + b"3\r\nabc\r\nnonsense")
        status, _ = await client.answer()
        assert (status, await client.ended()) == (400, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"GET /1 HTTP/1.1\r\nConnection: close\r\n\r\n" + post("/2", b""),
        b"GET /1 HTTP/1.0\r\n\r\n" + post("/2", b""),
        b"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + post("/2", b""),
        # A client that would like another protocol gets the answer in this one.
        b"GET /1 HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n" + post("/2", b""),
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n" + post("/2", b""),
    ],
)
async def test_last_request_is_answered_and_nothing_after_it(server: Echo, data: bytes) -> None:
    async with connected(server) as client:
        await client.send(data)
        assert (await client.answer())[0] == 200
        assert await client.ended() == b""
    assert len(server.asked) == 1


async def test_refusal_is_read_by_a_client_that_still_sends_its_body(server: Echo) -> None:
    async with connected(server) as client:
        await client.send(post("/ignore", b"z" * 3_000_000)[:200_000])
        assert (await client.answer())[0] == 413
        for _ in range(28):
            await client.send(b"z" * 100_000)
        assert await client.ended() == b""


async def test_nothing_is_done_after_a_refusal_whose_body_ends_later(server: Echo) -> None:
    async with connected(server) as client:
        await client.send(post("/ignore", b"z" * 1000)[:-10])
        assert (await client.answer())[0] == 413
        await client.send(b"z" * 10 + post("/2", b""))
        assert await client.ended() == b""
    assert server.asked == ["/ignore"]


async def test_requests_before_one_whose_body_breaks_off_are_answered(server: Echo) -> None:
    async with connected(server, linger_s=0.05) as client:
        await client.send(post("/1", b"") + post("/2", b"") + CHUNKED + b"nonsense" + post("/3", b""))
        assert [(await client.answer())[0] for _ in range(3)] == [200, 200, 400]
        assert await client.ended() == b""
    assert server.asked == ["/1", "/2", "/c"]


async def test_announced_length_of_thousands_of_digits_is_read(server: Echo) -> None:
    async with connected(server) as client:
        await client.send(b"POST /1 HTTP/1.1\r\nContent-Length: " + b"0" * 5000 + b"3 \r\n\r\n")
        await server.is_asked(1)
        await client.send(b"abc")
        assert (await client.answer())[1]["length"] == 3


@pytest.mark.parametrize(("version", "interim"), [("1.1", b"HTTP/1.1 100 Continue\r\n\r\n"), ("1.0", b"")])
async def test_body_is_asked_for_where_the_client_waits_for_that_and_knows_it(
    server: Echo, version: str, interim: bytes
) -> None:
    async with connected(server) as client:
        head = f"POST /1 HTTP/{version}\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        await client.send(head.encode())
        await server.is_asked(1)
        assert await client.reader.readexactly(len(interim)) == interim
        await client.send(b"abc")
        assert (await client.answer())[1]["length"] == 3


async def test_body_that_never_ends_is_not_read_for_ever_after_its_refusal(server: Echo) -> None:
    async with connected(server, linger_s=0.05) as client:
        await client.send(post("/ignore", b"z" * 1000)[:-10])
        assert (await client.answer())[0] == 413
        assert await client.ended() == b""


@pytest.mark.parametrize("sent", [b"", b"GET / HT", post("/1", b"")], ids=["nothing", "half", "one"])
async def test_connection_that_idles_is_closed(server: Echo, sent: bytes) -> None:
    async with connected(server, idle_s=0.05) as client:
        await client.send(sent)
        if sent.endswith(b"\r\n\r\n"):
            assert (await client.answer())[0] == 200
        assert await client.ended() == b""


async def test_request_that_takes_long_is_no_idling(server: Echo) -> None:
    async with connected(server, idle_s=0.02) as client:
        await client.send(post("/hold", b""))
        server.loop.call_later(0.1, server.release.set)
        assert (await client.answer())[0] == 200


async def test_failure_of_the_connection_itself_is_told_to_the_server(
    server: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = RuntimeError("a bug")

    def fails(*_: Any, **__: Any) -> Request:
        raise failure

    monkeypatch.setattr(connection_module, "Request", fails)
    async with connected(server) as client:
        await client.send(post("/1", b""))
        assert (await client.answer())[0] == 400
    assert server.errors == [failure]


async def test_client_that_leaves_in_its_body_is_let_go(server: Echo) -> None:
    async with connected(server) as client:
        await client.send(post("/1", b"abc")[:-1])
        await server.is_asked(1)
    await server.is_left()


async def test_close_ends_idle_connections_at_once_and_others_after_their_answer(server: Echo) -> None:
    async with connected(server) as idle, connected(server) as busy:
        await busy.send(post("/hold", b"") + post("/2", b""))
        await server.is_asked(1)
        closing = asyncio.ensure_future(server.close(5.0))
        assert await idle.ended() == b""
        server.release.set()
        assert (await busy.answer())[0] == 200
        assert await busy.ended() == b""
        await closing
    assert server.asked == ["/hold"]


async def test_close_cancels_what_takes_too_long_and_drops_what_nobody_reads(server: Echo) -> None:
    async with connected(server) as hung, connected(server) as deaf:
        await hung.send(post("/hold", b""))
        await deaf.send(post("/large", b""))
        await server.is_asked(2)
        await server.close(0.05)
        assert await hung.ended() == b""
        await server.is_left()


def test_headers_are_found_in_any_case_and_all_of_a_name() -> None:
    headers = Headers([(b"Host", b"a"), (b"COOKIE", b"1"), (b"cookie", b"\xff")])
    assert headers.all("Cookie") == ["1", "\udcff"]
    assert (headers.get("host"), headers.get("Hos")) == ("a", None)


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "a\0"])
def test_header_that_would_end_its_line_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="more than one line"):
        answer_bytes(200, [("A", value)], b"", body_too=True)


def test_answer_to_head_has_the_length_and_no_body() -> None:
    data = answer_bytes(499, [("A", "b")], b"abc", body_too=False)
    assert data == b"HTTP/1.1 499 Error\r\nA: b\r\nContent-Length: 3\r\n\r\n"


async def test_body_that_nobody_takes_is_not_read(server: Echo) -> None:
    async with connected(server) as client:
        await client.send(post("/hold-deaf", b"z" * 9_000_000)[:1000])
        await server.is_asked(1)
        client.writer.write(b"z" * 5_000_000)
        # What the kernel and this side hold is far less: writing goes on only as it is read.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.writer.drain()
        server.release.set()
        assert (await client.answer())[0] == 200
