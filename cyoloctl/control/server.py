"""The control API over a unix socket and over TLS connections that others accept.

aiohttp parses and frames HTTP; routing, bodies, roles and errors are ours and
come from `table`.  Below `aiohttp.web.Application` on purpose: with
strict bodies, roles and a time limit, an increment costs 38 to 40 us of CPU here;
with Application, `request.json()` and `json_response` and none of those, 47 to 50
(aiohttp 3.14.5, Python 3.11, wrk -t1 -c100 over loopback).

Order for every request: route, role, then the body.  Nobody without the role
gets a byte of the body read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiohttp import web

from cyoloctl.caller import CALLER, Caller
from cyoloctl.control import table
from cyoloctl.control.watches import Watcher, Watches, next_of
from cyoloctl.errors import (
    AccessDenied,
    ClientTimeout,
    Conflict,
    CyoloctlError,
    InternalError,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    StorageError,
    Unavailable,
)
from cyoloctl.web.encoding import encode_error, encode_object
from cyoloctl.web.schema import Route, check_name, role_allows
from cyoloctl.web.strangers import Budget

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from cyoloctl.control.table import Node

__all__ = ["ControlServer", "Guest", "Identify", "ServerLimits", "build_server"]


class Guest(Protocol):
    """What a connection tells the listener that accepted it (`listener.Guest`)."""

    @property
    def source(self) -> str:
        """What the caller's address counts as."""

    def identified(self) -> None:
        """The caller is somebody."""

    def unidentified(self) -> None:
        """The caller is nobody, or not any more."""

    def asked(self) -> None:
        """A request's whole head is there."""

    def answered(self) -> None:
        """Its answer is ready."""

    def left(self) -> None:
        """The connection is closed."""


#: From the ssl_object of a connection (it may carry no certificate) to the
#: caller's (name, role), None for nobody.  May raise AccessDenied or
#: Unavailable: then the caller is told why.
Identify = Callable[[Any], tuple[str, str] | None]

# How long a connection may be idle, or dribble a request's head.
_IDLE_S = 60.0
# How long a request's body may take.
_BODY_S = 10.0
# Bytes of bodies on their way, in all; of one address or caller a quarter.
_STRANGER_BYTES = 2 << 20
_CALLER_BYTES = 64 << 20
# Joins of strangers at once, in all; of one address a quarter.  How long one may take.
_STRANGER_CALLS = 32
_STRANGER_S = 30.0
# How long what is left of a refused body is read and thrown away, so that the
# client gets to read the refusal.
_LINGER_S = 2.0
# How long a caller waits for a node that cannot tell yet whose credentials count.
_READY_S = 2.0
# How long past its timeout a call may run before the server gives up on it.
_GUARD_S = 1.0
# How often they are looked at: one timer for all costs a request less than a timer each (asyncio.timeout).
_GUARD_SWEEP_S = 0.25


def build_server(
    node: Node,
    *,
    logger: logging.Logger,
    identify: Identify | None = None,
    wait_ready: Callable[[float], Awaitable[object]] | None = None,
    limits: ServerLimits | None = None,
) -> ControlServer:
    """A server for a node; call it inside the running loop.

    identify: see `Identify`; it must not block, and is asked again whenever
    `ControlServer.recheck` is called.  None: every network caller is nobody.
    wait_ready: waits until identify can tell, for so many seconds at most;
    called after it raised Unavailable.  limits: of identified callers.
    """
    return ControlServer(
        node, logger=logger, identify=identify, wait_ready=wait_ready, limits=limits or ServerLimits()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What identified callers of the network may take; the control socket's may take as much again.

    connections: at once, in all.  held: watches and long polls at once, in
    all.  Each also for one caller.
    """

    connections: int = 8192
    connections_each: int = 4096
    held: int = 4096
    held_each: int = 1024


@dataclass(slots=True, eq=False)
class _Guard:
    """The latest end of one service call, on the loop's clock."""

    task: asyncio.Task[Any]
    deadline: float
    expired: bool = False
    refusal: CyoloctlError | None = None  # the caller's certificate does not count any more


class _Answer:
    """A finished response, as bytes.

    Stands in for web.Response, of which aiohttp 3.14's RequestHandler uses
    prepare, write_eof and keep_alive (web_protocol.py, start and
    finish_response; `body_length` and `status` only for the access log, which
    is off).  One write of ready bytes instead of building a header map.
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


class _Connection(web.RequestHandler):
    """One connection: what aiohttp does, plus who the caller is and when it left."""

    __slots__ = (
        "_counted",
        "_guest",
        "_identified",
        "_local",
        "_owner",
        "_unix",
        "busy",
        "caller",
        "ended",
        "gone",
        "guard",
        "refusal",
        "role",
    )

    def __init__(
        self,
        owner: ControlServer,
        manager: web.Server,
        loop: asyncio.AbstractEventLoop,
        *,
        unix: str | None,
        guest: Guest | None = None,
    ):
        """unix: the role of whoever can open the unix socket; None for the network."""
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=_IDLE_S,
            access_log=None,  # type: ignore[arg-type]  # aiohttp tests it for truth and types it as a Logger
            lingering_time=_LINGER_S,
            # A compressed body could be a bomb; as it is, it is just not JSON.
            auto_decompress=False,
            logger=owner.quiet,
        )
        self._owner = owner
        self._unix = unix is not None
        # Those of the gateway's socket share with the network: they must not keep the operator out.
        self._local = unix == "operator"
        self._guest = guest
        # Whose share this connection counts against.
        self._counted: str | None = None
        self._identified = self._unix
        self.caller = "unix socket" if self._local else f"{unix} socket" if unix else "nobody"
        self.role: str | None = unix
        #: Why there is no role, where that can be said.
        self.refusal: CyoloctlError | None = None
        #: Its identity was accepted once and is not any more: nothing but the refusal is answered.
        self.ended = False
        #: Of the call that is being answered.
        self.guard: _Guard | None = None
        #: A request is being answered.
        self.busy = False
        #: Done when the connection is lost; made for watches only.
        self.gone: asyncio.Future[None] | None = None

    def current_role(self) -> str | None:
        """The caller's role, as of the last look; nobody is looked at again for each request."""
        if not self._identified:
            self.identify()
        return self.role

    def identify(self) -> None:
        """Ask who the caller is."""
        transport = self.transport
        ssl_object = None if transport is None else transport.get_extra_info("ssl_object")
        identity = None
        self.refusal = None
        if ssl_object is not None:
            try:
                identity = self._owner.identify_peer(ssl_object)
            except (AccessDenied, Unavailable) as error:
                self.refusal = error
        self.caller, self.role = identity or ("nobody", None)
        self._identified = identity is not None
        if self._guest is not None:
            if identity is None:
                self._guest.unidentified()
            else:
                self._guest.identified()
        self._count(None if identity is None else self.caller)

    def _count(self, caller: str | None) -> None:
        """Count the connection for a caller, or turn it away when that one has too many."""
        budget = self._owner.local_connections if self._local else self._owner.network_connections
        if caller == self._counted:
            return
        if self._counted is not None:
            budget.give_back(self._counted)
            self._counted = None
        if caller is None:
            return
        if budget.take(caller):
            self._counted = caller
        else:
            self._owner.logger.warning(
                "connection refused", extra={"caller": caller, "reason": "too many", "_seldom": True}
            )
            self.force_close()

    @property
    def local(self) -> bool:
        """Whether the caller came by the control socket."""
        return self._local

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

    @property
    def stranger(self) -> bool:
        """Whether nobody vouches for the caller."""
        return not self._unix and self.role is None

    @property
    def source(self) -> str:
        """What bounds hold for: the caller's name, a stranger's address."""
        if self.stranger:
            return f"address {'' if self._guest is None else self._guest.source}"
        return self.caller

    def recheck(self) -> None:
        """Ask again; a caller who may less than before loses the connection, and what runs on it."""
        if self._unix or not self._identified or self.ended:
            return
        before = self.role
        self.identify()
        if self.role == before:
            return
        self.ended = True
        refusal = self.refusal or AccessDenied(
            "the certificate is not accepted any more: use other credentials"
        )
        self.refusal, self.role = refusal, None
        if self.gone is not None:
            self.close()  # after its last line
            if not self.gone.done():
                self.gone.set_result(None)
        elif self.guard is not None:
            self.close()  # after its answer
            self.guard.refusal = refusal
            self.guard.expired = True
            self.guard.task.cancel()
        elif not self.busy:
            self.force_close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read; turn the caller away when the server is closing."""
        super().connection_made(transport)
        if self._owner.closing:
            self.force_close()
        elif self._unix:
            self._count(self.caller)
        else:
            tls = transport.get_extra_info("ssl_object")
            if tls is not None and tls.getpeercert(binary_form=True) is not None:
                # At once, not with the first request: who is identified is no stranger.
                self.current_role()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the watch of this connection."""
        super().connection_lost(exc)
        self._count(None)
        if self._guest is not None:
            self._guest.left()
        if self.gone is not None and not self.gone.done():
            self.gone.set_result(None)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is not HTTP, in the API's shape; without a log line, for anybody can send garbage."""
        error: CyoloctlError
        if status == 400:
            error = InvalidInput("the request is not valid HTTP/1.1: check what is sending it")
        else:
            error = self._owner.internal_error("the HTTP layer failed", exc)
        return self._owner.answer_error(error, keep_alive=False)


class ControlServer:
    """Serves connections handed over by a listener, and a unix socket.

    Made by `build_server`.
    """

    def __init__(
        self,
        node: Node,
        *,
        logger: logging.Logger,
        identify: Identify | None,
        wait_ready: Callable[[float], Awaitable[object]] | None,
        limits: ServerLimits,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        # aiohttp's own lines repeat what ours say, at error level and with tracebacks.
        self.quiet = logging.Logger("cyoloctl.control.aiohttp", logging.CRITICAL + 1)
        self._handlers: dict[Route[Node], Callable[..., Any]] = {
            route: route.handler(node) for route in table.routes() if route.handler is not None
        }
        self._logger = self.logger = logger
        self._identify = identify
        self._wait_ready = wait_ready
        self._http = web.Server(self._handle)
        #: Unix sockets with their path and inode.
        self._unix: list[tuple[asyncio.Server, str, tuple[int, int]]] = []
        self._running = 0
        self._guards: set[_Guard] = set()
        self._guard_timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing: asyncio.Future[None] = self.loop.create_future()
        self._head_at = float("-inf")
        self._head = b""
        self._stranger_bytes = Budget(in_all=_STRANGER_BYTES, each=_STRANGER_BYTES // 4)
        self._body_bytes = Budget(in_all=_CALLER_BYTES, each=_CALLER_BYTES // 4)
        self._stranger_calls = Budget(in_all=_STRANGER_CALLS, each=_STRANGER_CALLS // 4)
        self._watches = {
            route: Watches(handler, self.internal_error)
            for route, handler in self._handlers.items()
            if route.stream
        }
        # Whoever may open the control socket is bounded apart: nobody on the network takes its share.
        self._held = Budget(in_all=limits.held, each=limits.held_each)
        self._local_held = Budget(in_all=limits.held, each=limits.held)
        self.network_connections = Budget(in_all=limits.connections, each=limits.connections_each)
        self.local_connections = Budget(in_all=limits.connections, each=limits.connections)

    def protocol_factory(self, guest: Guest | None = None) -> asyncio.Protocol:
        """A protocol for one accepted connection (TLS is done, ALPN was http/1.1).

        The listener does transport.set_protocol(p); p.connection_made(transport).
        guest: hears who the caller is, and when it asks and leaves.
        """
        return _Connection(self, self._http, self.loop, unix=None, guest=guest)

    async def start_unix(
        self, path: str | Path, *, role: str = "operator", group_id: int | None = None
    ) -> None:
        """Listen on a unix socket; whoever can open it has the role.

        Mode 0600, or with group_id 0660 and that group.  A socket that a dead
        process left is replaced.  Raises Conflict when a live process answers
        there or the path is something else, StorageError when it cannot be made.
        """
        text = os.fspath(path)
        sock, inode = _bind_unix(text, group_id)
        # cleanup_socket (3.13) would remove whatever is there by then; close() looks first.
        cleans = sys.version_info >= (3, 13) and isinstance(self.loop, asyncio.BaseEventLoop)  # uvloop: no
        options: dict[str, Any] = {"cleanup_socket": False} if cleans else {}
        server = await self.loop.create_unix_server(
            lambda: _Connection(self, self._http, self.loop, unix=role), sock=sock, backlog=1024, **options
        )
        self._unix.append((server, text, inode))

    async def close(self, timeout_s: float = 2.0) -> None:
        """Stop accepting, end the watches, let running requests finish for up to timeout_s seconds.

        Idempotent.
        """
        if not self._closing.done():
            self._closing.set_result(None)
        if self._guard_timer is not None:
            self._guard_timer.cancel()
        while self._unix:
            server, path, inode = self._unix.pop()
            server.close()
            with contextlib.suppress(OSError):
                found = os.stat(path, follow_symlinks=False)
                if (found.st_dev, found.st_ino) == inode:
                    os.unlink(path)
        # Idle connections end now, busy ones after their answer.  web.Server's
        # pre_shutdown would leave the idle ones open until shutdown.
        for connection in cast("list[_Connection]", self._http.connections):
            if connection.busy:
                connection.close()
            else:
                connection.force_close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        await self._http.shutdown(0.1)

    @property
    def closing(self) -> bool:
        """Whether close() was called."""
        return self._closing.done()

    def recheck(self) -> None:
        """Ask again who every caller is, and end the connections of those who are refused now.

        A running call is cancelled, a watch ends with the refusal as its last line.
        """
        for connection in list(cast("list[_Connection]", self._http.connections)):
            connection.recheck()

    def identify_peer(self, ssl_object: Any) -> tuple[str, str] | None:
        """Who a TLS peer is; None when nobody can tell.  Raises what `Identify` may."""
        if self._identify is None:
            return None
        try:
            return self._identify(ssl_object)
        except (AccessDenied, Unavailable):
            raise
        except Exception as error:
            self._logger.warning("control: a peer could not be identified: %s", type(error).__name__)
            return None

    def internal_error(self, what: str, error: BaseException | None) -> InternalError:
        """An error for the client that only names a log line, and that log line."""
        incident = secrets.token_hex(4)
        self._logger.error("control: internal error %s: %s", incident, what, exc_info=error)
        return InternalError(
            f"internal error {incident}: a bug; report it with the lines of the node's log that name it"
        )

    # --- answers ------------------------------------------------------------------------------

    def _answer(self, body: bytes, keep_alive: bool) -> web.StreamResponse:
        now = self.loop.time()
        if now - self._head_at >= 1.0:
            self._head_at = now
            self._head = (
                f"HTTP/1.1 200 OK\r\nDate: {formatdate(usegmt=True)}\r\n{_COMMON}Content-Length: "
            ).encode("ascii")
        end = b"\r\n\r\n" if keep_alive else b"\r\nConnection: close\r\n\r\n"
        answer = _Answer(200, b"%b%d%b%b" % (self._head, len(body), end, body), keep_alive)
        return cast("web.StreamResponse", answer)

    def answer_error(
        self, error: CyoloctlError, *, keep_alive: bool, status: int = 0, extra: str = "", body: bool = True
    ) -> web.StreamResponse:
        """The response for an error; status 0 means the error's own."""
        status = status or error.http_status
        data = encode_error(error)
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:  # 499
            phrase = "Error"
        connection = "" if keep_alive else "Connection: close\r\n"
        head = (
            f"HTTP/1.1 {status} {phrase}\r\nDate: {formatdate(usegmt=True)}\r\n{_COMMON}{extra}{connection}"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        return cast(
            "web.StreamResponse", _Answer(status, head.encode("ascii") + (data if body else b""), keep_alive)
        )

    # --- requests -----------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        # HTTP/1.0 clients get one answer a connection: they would need another header.
        keep_alive = request.keep_alive and request.version == (1, 1) and not self._closing.done()
        started = time.monotonic() if self._logger.isEnabledFor(logging.DEBUG) else 0.0
        connection = cast("_Connection", request.protocol)
        connection.begin()
        self._running += 1
        self._idle.clear()
        try:
            answer = await self._dispatch(request, connection, keep_alive)
        except CyoloctlError as error:
            # After a body that was not read to its end, the next request cannot be found.
            keep_alive = keep_alive and request.content.is_eof() and not connection.ended
            answer = self.answer_error(error, keep_alive=keep_alive)
        except Exception as error:
            answer = self.answer_error(
                self.internal_error(f"{request.method} {table.shown_path(request.raw_path)}", error),
                keep_alive=False,
            )
        finally:
            # aiohttp writes the answer before anything else can run.
            connection.end()
            self._running -= 1
            if not self._running:
                self._idle.set()
        if started:
            self._logger.debug(
                "control: method=%s path=%s status=%d caller=%s ms=%.1f",
                request.method,
                table.shown_path(request.raw_path),
                answer.status,
                connection.caller,
                (time.monotonic() - started) * 1000,
            )
        return answer

    async def _dispatch(
        self, request: web.BaseRequest, connection: _Connection, keep_alive: bool
    ) -> web.StreamResponse:
        method = request.method
        path, mark, query_text = request.raw_path.partition("?")
        found = table.match(method, path)
        if found is None:
            return self._no_route(method, path, keep_alive)
        route, name = found
        if route.role != "none" and not role_allows(connection.current_role(), route.role):
            if isinstance(connection.refusal, Unavailable) and self._wait_ready is not None:
                await self._wait_ready(_READY_S)
            if not role_allows(connection.current_role(), route.role):
                raise _denied(connection, route)
        CALLER.set(Caller("client", connection.caller))
        if route.method == "POST" and "Origin" in request.headers:
            # A browser holding an operator certificate must not be steered here by another site.
            raise AccessDenied("requests from web pages are refused: use cyoloctl or a script")
        content = request.content
        if content.is_eof():
            # The usual case: the body came with the head.  read_nowait gives all of it.
            raw = content.read_nowait()
        else:
            raw = await self._read_bounded(request, connection, route)
            if connection.ended:
                raise _denied(connection, route)
        if route.has_name:
            check_name(name, route.what)
        query = route.read_query(query_text) if mark else route.query_defaults
        if route.body:
            body = route.read_body(raw)
        elif raw:
            raise InvalidInput("this request takes no body")
        else:
            body = {}
        if body.get("explain") and not role_allows(connection.role, "operator"):
            # Why a token is rejected is for whoever administers the keys: to others it is an oracle.
            raise AccessDenied("why a token is rejected is told to operators only: leave out `explain`")
        if route.held:
            return await self._hold(request, connection, route, name, body, query, keep_alive)
        if route.handler is None:
            return self._answer(_openapi(), keep_alive)
        if route.write and connection.stranger:
            return self._answer(
                await self._call_for_stranger(connection, route, name, body, query), keep_alive
            )
        return self._answer(await self._call(connection, route, name, body, query), keep_alive)

    async def _read_bounded(
        self, request: web.BaseRequest, connection: _Connection, route: Route[Node]
    ) -> bytes:
        """A body that has not wholly arrived, if there is room for it.  Raises BodyTooLarge, Overloaded."""
        length = request.content_length
        limit = route.max_body_bytes if route.body else 0
        if length is not None and length > limit:
            raise route.too_large() if route.body else InvalidInput("this request takes no body")
        budget = self._stranger_bytes if connection.stranger else self._body_bytes
        source, amount = connection.source, limit if length is None else length
        if connection.local:
            return await _read_body(request, route, limit)
        if not budget.take(source, amount):
            raise Overloaded("too many bodies are on their way here: try again, or ask another node")
        try:
            return await _read_body(request, route, limit)
        finally:
            budget.give_back(source, amount)

    async def _call_for_stranger(
        self,
        connection: _Connection,
        route: Route[Node],
        name: str,
        body: dict[str, Any],
        query: dict[str, Any],
    ) -> bytes:
        """A call that costs the cluster something, for somebody whom nobody vouches for: few at once."""
        source = connection.source
        if not self._stranger_calls.take(source):
            raise Overloaded("too many joins run here at once: try again in a moment, or ask another node")
        try:
            shorter = {**query, "timeout_s": min(query["timeout_s"], _STRANGER_S)}
            return await self._call(connection, route, name, body, shorter)
        finally:
            self._stranger_calls.give_back(source)

    async def _call(
        self,
        connection: _Connection,
        route: Route[Node],
        name: str,
        body: dict[str, Any],
        query: dict[str, Any],
    ) -> bytes:
        timeout_s = query["timeout_s"]
        task = asyncio.current_task()
        assert task is not None
        guard = _Guard(task, self.loop.time() + timeout_s + _GUARD_S)
        self._guards.add(guard)
        connection.guard = guard
        if self._guard_timer is None:
            self._guard_timer = self.loop.call_later(_GUARD_SWEEP_S, self._end_overdue)
        try:
            handler, arguments = self._handlers[route], {**body, **query}
            value = await (handler(name, **arguments) if route.has_name else handler(**arguments))
        except asyncio.CancelledError:
            if not guard.expired or task.uncancel():
                raise
            if guard.refusal is not None:
                raise _ended(guard.refusal, route) from None
            if route.write:
                raise OutcomeUnknown(
                    f"the write did not finish in {timeout_s:g} s: it may or may not have been applied; "
                    "read before retrying, or retry with the same request id"
                ) from None
            raise ClientTimeout(
                f"no answer in {timeout_s:g} s: try again, or with a longer timeout"
            ) from None
        finally:
            self._guards.discard(guard)
            connection.guard = None
        return encode_object(value)

    def _end_overdue(self) -> None:
        """Cancel the calls that outlived their guard, and look again while any run."""
        now = self.loop.time()
        for guard in self._guards:
            if now >= guard.deadline and not guard.expired:
                guard.expired = True
                guard.task.cancel()
        again = bool(self._guards)
        self._guard_timer = self.loop.call_later(_GUARD_SWEEP_S, self._end_overdue) if again else None

    def _no_route(self, method: str, path: str, keep_alive: bool) -> web.StreamResponse:
        allowed = table.allowed_methods(path)
        # The answer to HEAD has no body, and its length would be taken for one.
        head = method == "HEAD"
        if allowed:
            return self.answer_error(
                InvalidInput(f"the method is not allowed here: use {' or '.join(allowed)}"),
                keep_alive=keep_alive and not head,
                status=HTTPStatus.METHOD_NOT_ALLOWED,
                extra=f"Allow: {', '.join(allowed)}\r\n",
                body=not head,
            )
        return self.answer_error(
            NotFound("no such path: this node speaks API v1, see /v1/openapi.json"),
            keep_alive=keep_alive and not head,
            body=not head,
        )

    # --- watches ------------------------------------------------------------------------------

    async def _hold(
        self,
        request: web.BaseRequest,
        connection: _Connection,
        route: Route[Node],
        name: str,
        body: dict[str, Any],
        query: dict[str, Any],
        keep_alive: bool,
    ) -> web.StreamResponse:
        """A watch or a long poll: so many at once, in all and of one caller."""
        budget = self._local_held if connection.local else self._held
        caller = connection.caller
        if not budget.take(caller):
            each = budget.used_by(caller) >= budget.each
            raise Overloaded(
                f"{caller} has {budget.each} watches and long polls here, the most for one caller: "
                "end some, or ask another node"
                if each
                else f"{budget.in_all} watches and long polls run here, the most for one node: "
                "ask another node"
            )
        try:
            if route.stream:
                return await self._watch(request, connection, route, name, query["timeout_s"], keep_alive)
            return self._answer(await self._call(connection, route, name, body, query), keep_alive)
        finally:
            budget.give_back(caller)

    async def _watch(
        self,
        request: web.BaseRequest,
        connection: _Connection,
        route: Route[Node],
        name: str,
        timeout_s: float,
        keep_alive: bool,
    ) -> web.StreamResponse:
        connection.gone = self.loop.create_future()
        watcher: Watcher | None = None
        try:
            # Until the first value is there the answer may still be a plain error.
            value = await self._first_value(connection, route, name, timeout_s)
            transport = request.transport
            if transport is None:
                return cast(
                    "web.StreamResponse", _Answer(200, b"", False)
                )  # aiohttp sees that nobody is there
            chunked = request.version == (1, 1)
            watcher = Watcher(transport, chunked=chunked, index=int(value["index"]))
            head = (
                f"HTTP/1.1 200 OK\r\nDate: {formatdate(usegmt=True)}\r\n"
                "Content-Type: application/x-ndjson\r\nCache-Control: no-store\r\n"
                + ("Transfer-Encoding: chunked\r\n" if chunked else "")
                + ("" if keep_alive else "Connection: close\r\n")
                + "\r\n"
            )
            transport.write(head.encode("ascii") + watcher.frame(encode_object(value) + b"\n"))
            self._watches[route].join(name, watcher)
            await asyncio.wait((watcher.done, connection.gone, self._closing), return_when=_FIRST)
            last = None
            if watcher.done.done():
                last = watcher.done.result()
            elif connection.ended and connection.refusal is not None:
                last = encode_error(connection.refusal) + b"\n"
            elif self._closing.done():
                last = encode_error(Unavailable("the node is stopping: watch on another node")) + b"\n"
            return cast("web.StreamResponse", _Answer(200, watcher.last(last), keep_alive))
        finally:
            connection.gone = None
            if watcher is not None:
                await self._watches[route].leave(name, watcher)

    async def _first_value(
        self, connection: _Connection, route: Route[Node], name: str, timeout_s: float
    ) -> dict[str, Any]:
        gone = cast("asyncio.Future[None]", connection.gone)
        items = self._handlers[route](name)
        upcoming = asyncio.ensure_future(next_of(items))
        try:
            await asyncio.wait((upcoming, gone, self._closing), timeout=timeout_s, return_when=_FIRST)
            if self._closing.done():
                raise Unavailable("the node is stopping: watch on another node")
            if connection.ended:
                raise _denied(connection, route)
            if not upcoming.done():
                raise ClientTimeout(f"no answer in {timeout_s:g} s: try again, or with a longer timeout")
            try:
                return upcoming.result()
            except StopAsyncIteration:
                raise Unavailable("the watch ended: watch again") from None
        finally:
            if not upcoming.done():
                upcoming.cancel()
                await asyncio.wait((upcoming,))
            if not upcoming.cancelled():
                upcoming.exception()  # looked at, or asyncio complains about a failure nobody saw
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()


_FIRST = asyncio.FIRST_COMPLETED
_COMMON = "Content-Type: application/json\r\nCache-Control: no-store\r\n"


def _ended(refusal: CyoloctlError, route: Route[Node]) -> CyoloctlError:
    # A wait that is cut short has redeemed nothing, or the same redemption gives the answer again.
    if route.write and not route.held:
        return OutcomeUnknown(
            f"{refusal.message}; it ended while the write ran, which may or may not have been applied"
        )
    return refusal


def _denied(connection: _Connection, route: Route[Node]) -> CyoloctlError:
    if connection.refusal is not None:
        return connection.refusal
    if connection.role is None:
        return AccessDenied(
            f"this request needs a client certificate of this cluster with the role {route.role}: "
            "use --credentials FILE, or the control socket on the node"
        )
    return AccessDenied(
        f"this request needs the role {route.role}, the credentials {connection.caller} have the role "
        f"{connection.role}: use other credentials"
    )


async def _read_body(request: web.BaseRequest, route: Route[Node], limit: int) -> bytes:
    """A body that has not wholly arrived, of at most limit bytes.

    Raises BodyTooLarge before reading it all, InvalidInput when it dawdles.
    """
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    content = request.content
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            while chunk := await content.readany():
                body += chunk
                if len(body) > limit:
                    raise route.too_large() if route.body else InvalidInput("this request takes no body")
    except TimeoutError:
        raise InvalidInput(f"the body did not arrive in {_BODY_S:g} s: send it faster") from None
    except (web.RequestPayloadError, ConnectionError):
        # The client broke off: nobody reads this answer.
        raise InvalidInput("the body is not valid HTTP/1.1: check what is sending it") from None
    return bytes(body)


def _openapi() -> bytes:
    with open(os.path.join(os.path.dirname(__file__), "openapi.json"), "rb") as file:
        return file.read()


def _bind_unix(path: str, group_id: int | None = None) -> tuple[socket.socket, tuple[int, int]]:
    """A listening-to-be unix socket with mode 0600 (0660 for a group), and its (device, inode).

    Raises Conflict, StorageError.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        # The mode is set by the bind itself: a chmod after it would leave a
        # moment in which others could connect.  Another thread's files made
        # in this moment come out stricter, never laxer.
        previous = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(previous)
        if group_id is not None:
            os.chown(path, -1, group_id)
            os.chmod(path, 0o660)
        made = os.stat(path, follow_symlinks=False)
    except OSError as error:
        sock.close()
        raise StorageError(
            f"cannot make the control socket {path}: {error.strerror or error}; check the directory"
        ) from None
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock, (made.st_dev, made.st_ino)


def _remove_stale(path: str) -> None:
    try:
        mode = os.stat(path, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(f"{path} is in the way and is not a socket: move it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A live process with a full backlog makes connect() wait: that counts as live.
        probe.settimeout(0.5)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except TimeoutError:
            pass
    raise Conflict(f"another process answers on {path}: stop it first (cyoloctl node stop -d DIR)")
