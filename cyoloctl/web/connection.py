"""HTTP/1.1 on an accepted connection, for both servers: llhttp reads it (httptools), what bounds it is ours.

One request after another: what follows in the pipeline is not read while one is
answered.  Bounded are: each line and header of a head, their number, a head in
all, the time for a head and between requests, what a chunked body may hold
beside the body, for how long what is left of a refused body is read, and how
long a client may read nothing of its answers.

Strict, as llhttp is by default: no bare line feeds, no folded headers, one
Content-Length, never one beside Transfer-Encoding.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from cyoloctl.web.repeats import Repeat
from cyoloctl.web.request import Answer, Headers, Request, TooLong

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from cyoloctl.web.listener import Guest

__all__ = ["Connection", "HttpServer"]

_MAX_LINE_BYTES = 8190
"""Of a request's target."""

_MAX_FIELD_BYTES = 8192
"""Of a header with its name."""

_MAX_HEAD_BYTES = 64 * 1024
"""Of a head that is not whole yet, beside what came with its first bytes."""

_MAX_UNREAD_BYTES = 64 * 1024
"""Of a body that nobody has taken yet: no more is read then."""

_PIECE_BYTES = 8 * 1024
"""Parsed at once.  One read may bring ten thousand requests, which take twenty times as much room."""

_FRAMING_FACTOR = 16
"""Chunks of one byte take six: more bytes than this for each of a body are an attack."""


class _Refused(Exception):
    """Ends the reading of a head that is not taken."""


class _Unreadable:
    """In the place of a request: bytes that are none.  too_long, error: why, where it is one of those."""

    __slots__ = ("error", "too_long")

    def __init__(self, error: BaseException | None, too_long: TooLong | None) -> None:
        self.error = error
        self.too_long = too_long


class Connection(asyncio.Protocol):
    """One connection of a server.

    guest: hears when it asks, is answered and leaves; None on a unix socket.
    idle_s: between requests, to dribble a request's head, and for a client to
    read something of what was written to it.  linger_s: for so long what is
    left of a refused body is read and thrown away, so that the client gets to
    read the refusal.  max_headers: in one request.
    """

    __slots__ = (
        "_began",
        "_between",
        "_body_bytes",
        "_drained",
        "_fed",
        "_fields",
        "_guest",
        "_idle_at",
        "_idle_s",
        "_idle_timer",
        "_length_before",
        "_linger_s",
        "_max_headers",
        "_no_more",
        "_parser",
        "_paused",
        "_receiving",
        "_repeat",
        "_server",
        "_target",
        "_too_long",
        "_unread",
        "_waiting",
        "_withdraw",
        "busy",
        "loop",
        "task",
        "transport",
    )

    def __init__(
        self,
        server: HttpServer[Any],
        guest: Guest | None,
        *,
        idle_s: float,
        linger_s: float,
        max_headers: int = 128,
    ) -> None:
        self._server = server
        self._guest = guest
        self.loop = server.loop
        self._idle_s = idle_s
        self._linger_s = linger_s
        self._max_headers = max_headers
        #: A request is being answered.
        self.busy = False
        #: Of the request that is being answered.
        self.task: asyncio.Task[None] | None = None
        #: None before and after its life.
        self.transport: asyncio.Transport | None = None
        self._parser: HttpRequestParser | None = None
        # What came and was not looked at yet.
        self._unread = b""
        # Of the head that is being read.
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._too_long: TooLong | None = None
        # No part of a request was read that is not whole yet.
        self._between = True
        self._repeat: Repeat | None = None
        self._length_before = 0
        # Bytes that came since a head or body began, and of them those of the body.
        self._began = False
        self._fed = 0
        self._body_bytes = 0
        self._receiving: Request | None = None  # its body is not wholly here
        self._waiting: deque[Request | _Unreadable] = deque()
        self._withdraw: Callable[[], None] | None = None  # what is answered without a task
        self._no_more = False  # the present answer is the last
        self._paused = False  # nothing is read
        self._drained: asyncio.Future[None] | None = None  # while answers are not read
        self._idle_at = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None

    @property
    def stranger(self) -> bool:
        """Whether nobody vouches for the caller."""
        return self._guest is not None and self._guest.stranger

    @property
    def remote(self) -> str:
        """The address of the other end, without its port; empty on a unix socket."""
        name = None if self.transport is None else self.transport.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) else ""

    def write(self, data: bytes) -> None:
        """Send bytes, if the connection is still there."""
        if self.transport is not None:
            self.transport.write(data)

    def close(self) -> None:
        """Close after the answer to the present request; at once when there is none."""
        self._no_more = True
        if not self.busy:
            self.force_close()

    def force_close(self) -> None:
        """Close at once; what was written is still sent, to a client that reads it."""
        self._no_more = True
        if self.transport is None or self.transport.is_closing():
            return
        self.transport.close()
        if self.transport.get_write_buffer_size():
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            self._idle_timer = self.loop.call_later(self._idle_s, self._abort)

    def read_on(self) -> None:
        """Read again after a pause."""
        if self._unread:
            self._read_pieces()
        if self._paused and self.transport is not None and not self._unread and not self._waiting:
            self._paused = False
            self.transport.resume_reading()

    def end_request(self) -> asyncio.Task[None] | None:
        """Close at once, and cancel what runs: that, where it is a task."""
        self.force_close()
        if self._withdraw is not None:
            self._withdraw()
            self._is_answered()
        if self._drained is not None and self.transport is not None:
            self.transport.abort()  # nobody reads what was written
        if self.task is not None:
            self.task.cancel()
        return self.task

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read; turn the caller away when the server is closing."""
        self.transport = cast("asyncio.Transport", transport)
        self._parser = HttpRequestParser(self)
        self._server.connected(self)
        self._wait_idle()
        if self._server.closing:
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the listener, and whoever reads the body."""
        self.transport = self._parser = None
        self._no_more = True
        self._unread = b""
        self._waiting.clear()
        if self._receiving is not None:
            self._receiving.break_off()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        self._server.disconnected(self)
        if self._guest is not None:
            self._guest.left()

    def eof_received(self) -> None:
        """The client sends no more: close, for nothing tells whether it still reads."""
        self.force_close()

    def pause_writing(self) -> None:
        """The client does not read answers."""
        if self._drained is None:
            self._drained = self.loop.create_future()

    def resume_writing(self) -> None:
        """It does again."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Read what came, and answer the first request of it."""
        if len(data) <= _PIECE_BYTES and not self._unread:  # the usual case
            self._read(data)
        else:
            self._unread += data
            self._read_pieces()
        if self._waiting or self._unread:
            self._pause()

    def _read_pieces(self) -> None:
        """Read until a request has to wait for the answer to another; the rest waits as it came."""
        data, at = self._unread, 0
        self._unread = b""
        while at < len(data) and not self._waiting:
            self._read(data[at : at + _PIECE_BYTES])
            at += _PIECE_BYTES
        self._unread = data[at:]

    def _read(self, data: bytes) -> None:
        parser = self._parser
        if parser is None or (self._no_more and self._receiving is None):
            return
        was_between, before = self._between, len(self._waiting)
        if was_between and self._repeat is not None:
            again = self._repeat.next(data, self)
            if again is not None:
                self._waiting.append(again)
                self._go_on()
                return
        self._began = False
        try:
            parser.feed_data(data)
        except HttpParserUpgrade:
            self._parser = None  # nothing else is spoken here: the request is answered, and is the last
        except HttpParserError as error:
            # What is raised by a method of ours, and is no refusal, is a bug.
            cause = error.__context__ if isinstance(error, HttpParserCallbackError) else None
            self._unreadable(None if isinstance(cause, _Refused) else cause)
        else:
            if self._receiving is not None or self._target:
                self._bound(len(data))
            if was_between and self._between and len(self._waiting) == before + 1:
                self._remember(data)
        self._go_on()

    def _remember(self, data: bytes) -> None:
        """data: nothing but the request that came last."""
        request = self._waiting[-1]
        if len(data) == self._length_before and isinstance(request, Request):
            self._repeat = Repeat.of(data, request)
        self._length_before = len(data)  # where lengths differ, heads do

    def _go_on(self) -> None:
        """Answer the first of what waits, if none is answered at present."""
        if self.transport is None or self.transport.is_closing():
            self._waiting.clear()  # came with the end of a body after whose refusal nothing is answered
        elif self._waiting and not self.busy:
            self._answer_next()

    # -- llhttp's side: what it raises here ends the reading

    def on_message_begin(self) -> None:
        """A head begins."""
        self._began = True
        self._between = False
        self._target = b""
        self._fields = []
        self._fed = self._body_bytes = 0

    def on_url(self, part: bytes) -> None:
        """More of its target."""
        self._target += part
        if len(self._target) > _MAX_LINE_BYTES:
            self._too_long = "line"
            raise _Refused

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or one after a chunked body, which nobody reads."""
        if len(name) + len(value) > _MAX_FIELD_BYTES:
            self._too_long = "header"
            raise _Refused
        self._fields.append((name, value))
        if len(self._fields) > self._max_headers:
            raise _Refused

    def on_headers_complete(self) -> None:
        """The head is whole."""
        parser = self._parser
        assert parser is not None
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise _Refused
        keep_alive = parser.should_keep_alive()
        headers = Headers(self._fields)
        if parser.should_upgrade():
            # llhttp takes what follows for another protocol, so that a body cannot be found.
            if headers.all("Content-Length") or headers.all("Transfer-Encoding"):
                raise _Refused
            keep_alive = False
        request = Request(
            self,
            parser.get_method().decode("ascii"),
            self._target.decode("utf-8", "surrogateescape"),
            headers,
            is_1_1=version == "1.1",
            keep_alive=keep_alive,
        )
        self._fields, self._target = [], b""
        self._receiving = request
        self._waiting.append(request)

    def on_body(self, chunk: bytes) -> None:
        """More of its body."""
        self._body_bytes += len(chunk)
        request = self._receiving
        assert request is not None
        request.arrived(chunk)
        if self._body_bytes > _MAX_UNREAD_BYTES and not request.dropped:
            self._pause()

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._between = True
        request = self._receiving
        if request is not None:
            self._receiving = None
            request.end()
            if request.dropped:
                self.force_close()  # the refusal was sent, and nothing was left to read

    # -- inside

    def _bound(self, length: int) -> None:
        """Count what came of a head or body that is not whole yet."""
        if self._began:
            return  # some of it was of the one before
        self._fed += length
        if self._fed > _MAX_HEAD_BYTES + _FRAMING_FACTOR * self._body_bytes:
            self._too_long = "header"
            self._unreadable()

    def _unreadable(self, error: BaseException | None = None) -> None:
        """What came is not HTTP, or too long: nothing more is read.  error: what failed here instead."""
        self._parser = None
        request, self._receiving = self._receiving, None
        if request is None:
            self._waiting.append(_Unreadable(error, self._too_long))
        else:  # whose body is never whole then, so that its answer is the last
            request.break_off()

    def _pause(self) -> None:
        if not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _wait_idle(self) -> None:
        """A whole head is due by `idle_s` from now."""
        self._idle_at = self.loop.time() + self._idle_s
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self._idle_s, self._end_idle)

    def _end_idle(self) -> None:
        self._idle_timer = None
        if self.busy or self.transport is None:
            return
        left_s = self._idle_at - self.loop.time()
        if left_s > 0:  # there were answers meanwhile; one timer serves them all
            self._idle_timer = self.loop.call_later(left_s, self._end_idle)
        else:
            self.force_close()

    def _answer_next(self) -> None:
        following = self._waiting.popleft()
        if isinstance(following, _Unreadable):
            self.write(self._server.refuse_unreadable(following.error, following.too_long).data)
            if following.too_long is None:
                self.force_close()
            else:  # the client is still sending it: what is not read would take the refusal from it
                self._no_more = True
                self.loop.call_later(self._linger_s, self.force_close)
            return
        self.busy = True
        if self._guest is not None:
            self._guest.asked()
        try:
            self._withdraw = self._server.respond_directly(following, self)
        except BaseException:  # a bug, or no memory: nobody is to wait for what never comes
            self._server.began()
            self.break_off()
            raise
        if self._withdraw is None:
            self.task = self.loop.create_task(self._serve(following))
        else:
            self._server.began()

    async def _serve(self, request: Request) -> None:
        self._server.began()
        answer: Answer | None = None
        try:
            answer = await self._server.respond(request, self)
        finally:
            if answer is None:
                self.break_off()
        self.answered(request, answer)

    def break_off(self) -> None:
        """The request that was being answered has no answer: close at once."""
        self._is_answered()
        self.force_close()

    def answered(self, request: Request, answer: Answer) -> None:
        """Write the answer to the request that was being answered, and go on with what waits."""
        self._is_answered()
        if self.transport is None:
            return
        self.transport.write(answer.data)
        if self._drained is not None:  # the client sends requests and does not read answers
            self.busy = True
            self.task = self.loop.create_task(self._after_reading(request, answer))
        else:
            self._next(request, answer)

    def _is_answered(self) -> None:
        self.busy = False
        self.task = self._withdraw = None
        self._server.ended()
        if self._guest is not None:
            self._guest.answered()

    async def _after_reading(self, request: Request, answer: Answer) -> None:
        try:
            await self._until_read()
        finally:
            self.busy = False
            self.task = None
        self._next(request, answer)

    def _next(self, request: Request, answer: Answer) -> None:
        """Go on after an answer that was written."""
        if not request.complete and answer.keep_alive and not self._no_more:
            answer.keep_alive = False
        if self._no_more or not answer.keep_alive:
            self._leave(request)
            return
        if self._waiting:
            self._answer_next()
        self.read_on()
        if not self.busy and not self._no_more:
            self._wait_idle()

    async def _until_read(self) -> None:
        """Wait until the client has read what was written; whoever reads none of it in `idle_s` is let go."""
        unread = -1
        while self._drained is not None and self.transport is not None:
            before, unread = unread, self.transport.get_write_buffer_size()
            if unread == before:
                self._no_more = True
                self.transport.abort()
            await asyncio.wait((self._drained,), timeout=self._idle_s)

    def _leave(self, request: Request) -> None:
        """The last answer was written: let the client read it before the connection closes."""
        self._no_more = True
        if request.complete or self.transport is None or self._server.closing:
            self.force_close()
            return
        request.take()
        request.dropped = True
        self.read_on()
        self.loop.call_later(self._linger_s, self.force_close)


C = TypeVar("C", bound="Connection")


class HttpServer(ABC, Generic[C]):
    """Connections that answer requests.  Belongs to the running loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._connections: dict[C, None] = {}
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing: asyncio.Future[None] = self.loop.create_future()

    def respond_directly(self, request: Request, connection: C) -> Callable[[], None] | None:
        """Begin to answer without a task: `Connection.answered` is called later, never before this returns.

        Gives what withdraws the request, after which that is not called.  None: nothing was begun, and the
        request is for `respond`.
        """
        return None

    @abstractmethod
    def respond(self, request: Request, connection: C) -> Coroutine[Any, Any, Answer]:
        """The answer to a request; raises nothing."""

    @abstractmethod
    def refuse_unreadable(self, error: BaseException | None, too_long: TooLong | None) -> Answer:
        """The answer to what is not HTTP, or too long; error: what failed here, if something did."""

    @property
    def connections(self) -> list[C]:
        """Those that are open."""
        return list(self._connections)

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing.done()

    def connected(self, connection: C) -> None:
        """A connection is open."""
        self._connections[connection] = None

    def disconnected(self, connection: C) -> None:
        """It is no longer.  Idempotent."""
        self._connections.pop(connection, None)

    def began(self) -> None:
        """A request is being answered."""
        self._running += 1
        if self._running == 1:
            self._idle.clear()

    def ended(self) -> None:
        """Its answer is ready."""
        self._running -= 1
        if not self._running:
            self._idle.set()

    async def close(self, timeout_s: float = 2.0) -> None:
        """Let running requests finish for up to timeout_s seconds, end everything else.  Idempotent."""
        if not self._closing.done():
            self._closing.set_result(None)
        # Idle connections end now, busy ones after their answer.
        for connection in self.connections:
            connection.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        running = [task for connection in self.connections if (task := connection.end_request()) is not None]
        if running:
            await asyncio.wait(running, timeout=0.1)
