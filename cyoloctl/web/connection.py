"""HTTP/1.1 on an accepted connection, for both servers: aiohttp frames it, what bounds it is ours.

Below ``aiohttp.web.Application`` on purpose: with strict bodies, roles and a time
limit, an increment costs 38 to 40 us of CPU here; with Application,
``request.json()`` and ``json_response`` and none of those, 47 to 50 (aiohttp
3.14.5, Python 3.11, wrk -t1 -c100 over loopback).

This is the only module that bends aiohttp: it subclasses ``RequestHandler`` and
gives it answers that are no ``web.Response``.  `READ` pins the methods that were
read for that, and a test fails when the installed ones differ.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from cyoloctl.errors import InvalidInput

if TYPE_CHECKING:
    from cyoloctl.errors import CyoloctlError
    from cyoloctl.web.listener import Guest

__all__ = ["READ", "Answer", "Connection", "HttpServer", "TooLong", "read_body"]

#: SHA-256 of the source of each method of RequestHandler that is overridden, called or relied on.
READ: dict[str, str] = {
    "__init__": "46c577d1f419158f0c496ec69a813a99964d926163aec33ffaa37abdd2f913aa",
    "close": "84518f965e198ee33f28afab0f9627441cd524600e99dbc519b5ade6746c97ac",
    "connection_lost": "df2fe6e95fd04c7caf0611ecabbe58f85ee08e38b9a6ce24ef85e0c8dba5b86d",
    "connection_made": "44d50b5763b2c7e481c84b4abda1d4003325bd30938e68147644b9b02549e334",
    "finish_response": "b7eb53db8f4b30ca8e8c2015c72317eed4b58012a12ec6b903601ff86f0d88b0",
    "force_close": "38d0e1e798e4d3b7b9273ac3c20f13ba8d47576fc50526e47771f0f0b1c23088",
    "handle_error": "94962ffef500c17222910ffeb4dc46ab273ed0bce8622472138f316d4a5cb1f6",
    "start": "2e565fd40c8e04fb3afb481d5ba52691a61d28396573b4b8a4cf3b168782288e",
}


#: Bytes of a request's first line, and of a header with its name.  They differ so that what is said to be too
#: long (LineTooLong, by its limit) is known.
_MAX_LINE_BYTES = 8190
_MAX_FIELD_BYTES = 8192

TooLong = Literal["line", "header"]
"""The part of a request's head that is too long."""


class Answer:
    """A finished response, as bytes: one write instead of building a header map.

    Stands in for web.Response, of which RequestHandler uses prepare, write_eof
    and keep_alive (`start` and `finish_response`; `body_length` and `status` only
    for the access log, which is off).
    """

    __slots__ = ("data", "keep_alive", "status")

    def __init__(self, status: int, data: bytes, keep_alive: bool) -> None:
        self.status = status
        self.data = data
        self.keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write everything.  Raises ConnectionResetError when the client is gone."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError
        transport.write(self.data)
        if request.protocol.writing_paused:
            # The client sends requests and does not read answers.
            await request.writer.drain()

    async def write_eof(self) -> None:
        """Nothing is left to write."""

    def response(self) -> web.StreamResponse:
        """The answer, as aiohttp's types call it."""
        return cast("web.StreamResponse", self)


class Connection(web.RequestHandler):
    """One connection: what aiohttp does, and what its listener must know.

    guest: hears when it asks, is answered and leaves; None on a unix socket.
    idle_s: between requests, and to dribble a request's head.  linger_s: for
    so long what is left of a refused body is read and thrown away, so that the
    client gets to read the refusal.  max_headers: in one request.
    """

    __slots__ = ("_guest", "_server", "busy")

    def __init__(
        self,
        server: HttpServer[Any],
        guest: Guest | None,
        *,
        idle_s: float,
        linger_s: float,
        max_headers: int = 128,
    ) -> None:
        super().__init__(
            server.http,
            loop=server.loop,
            keepalive_timeout=idle_s,
            access_log=None,  # type: ignore[arg-type]  # aiohttp tests it for truth and types it as a Logger
            lingering_time=linger_s,
            # A compressed body could be a bomb; as it is, it is just not what a route takes.
            auto_decompress=False,
            max_headers=max_headers,
            max_line_size=_MAX_LINE_BYTES,
            max_field_size=_MAX_FIELD_BYTES,
            logger=server.quiet,
        )
        self._server = server
        self._guest = guest
        #: A request is being answered.
        self.busy = False

    @property
    def stranger(self) -> bool:
        """Whether nobody vouches for the caller."""
        return self._guest is not None and self._guest.stranger

    def begin(self) -> None:
        """A request's whole head is there."""
        self.busy = True
        if self._guest is not None:
            self._guest.asked()

    def end(self) -> None:
        """Its answer is ready."""
        self.busy = False
        if self._guest is not None:
            self._guest.answered()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read; turn the caller away when the server is closing."""
        super().connection_made(transport)
        if self._server.closing:
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the listener."""
        super().connection_lost(exc)
        if self._guest is not None:
            self._guest.left()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not HTTP, or too long a head; without a log line, for anybody can send garbage."""
        too_long: TooLong | None = None
        if isinstance(exc, LineTooLong):
            too_long = "line" if exc.args[1] == _MAX_LINE_BYTES else "header"
        error = None if status == 400 else exc or RuntimeError(message)
        return self._server.refuse_unreadable(error, too_long)


C = TypeVar("C", bound="Connection")


class HttpServer(ABC, Generic[C]):
    """Connections that answer requests.  Belongs to the running loop."""

    def __init__(self, name: str) -> None:
        """name: of the logger that nobody reads."""
        self.loop = asyncio.get_running_loop()
        # aiohttp's own lines repeat what ours say, at error level and with tracebacks.
        self.quiet = logging.Logger(name, logging.CRITICAL + 1)
        self.http = web.Server(self._run)
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing: asyncio.Future[None] = self.loop.create_future()

    @abstractmethod
    async def respond(self, request: web.BaseRequest, connection: C) -> web.StreamResponse:
        """The answer to a request; raises nothing."""

    @abstractmethod
    def refuse_unreadable(self, error: BaseException | None, too_long: TooLong | None) -> web.StreamResponse:
        """The answer to what is not HTTP, or too long; error: what failed here, if something did."""

    @property
    def connections(self) -> list[C]:
        """Those that are open."""
        return cast("list[C]", self.http.connections)

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing.done()

    async def close(self, timeout_s: float = 2.0) -> None:
        """Let running requests finish for up to timeout_s seconds, end everything else.  Idempotent."""
        if not self._closing.done():
            self._closing.set_result(None)
        # Idle connections end now, busy ones after their answer.  web.Server's
        # pre_shutdown would leave the idle ones open until shutdown.
        for connection in self.connections:
            if connection.busy:
                connection.close()
            else:
                connection.force_close()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            pass
        await self.http.shutdown(0.1)

    async def _run(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast("C", request.protocol)
        connection.begin()
        self._running += 1
        self._idle.clear()
        try:
            return await self.respond(request, connection)
        finally:
            # aiohttp writes the answer before anything else can run.
            connection.end()
            self._running -= 1
            if not self._running:
                self._idle.set()


async def read_body(request: web.BaseRequest, limit: int, limit_s: float, too_large: CyoloctlError) -> bytes:
    """A body that has not wholly arrived, of at most limit bytes, within limit_s seconds.

    Raises too_large before reading it all, InvalidInput when it dawdles.
    """
    if (request.content_length or 0) > limit:
        raise too_large
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    try:
        async with asyncio.timeout(limit_s):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise InvalidInput(f"the body did not arrive in {limit_s:g} s: send it faster") from None
    except (web.RequestPayloadError, ConnectionError):
        # The client broke off: nobody reads this answer.
        raise InvalidInput("the body is not valid HTTP/1.1: check what is sending it") from None
    return bytes(body)
