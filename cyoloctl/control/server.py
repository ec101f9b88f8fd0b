"""The control API over a unix socket and over TLS connections that others accept.

Routing, bodies, roles and errors come from `table`; how HTTP is framed and bounded
is `web.connection`'s.

Order for every request: route, role, then the body.  Nobody without the role
gets a byte of the body read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from cyoloctl.caller import CALLER
from cyoloctl.control import table
from cyoloctl.control.batches import Batches
from cyoloctl.control.connection import CallerConnection, Guard, Guarded
from cyoloctl.control.direct import DirectWrites, error_of_the_end, overdue
from cyoloctl.control.unix_socket import bind_unix
from cyoloctl.control.watches import Watcher, Watches, next_of
from cyoloctl.errors import (
    AccessDenied,
    ClientTimeout,
    CyoloctlError,
    InternalError,
    InvalidInput,
    NotFound,
    Overloaded,
    Unavailable,
)
from cyoloctl.fastjson import compact_bytes, decode_flat_object
from cyoloctl.metrics.counts import Requests
from cyoloctl.metrics.families import by
from cyoloctl.web.connection import HttpServer
from cyoloctl.web.encoding import SCHEMA_VERSION, encode_error, encode_object
from cyoloctl.web.request import Answer, phrase_of, read_body
from cyoloctl.web.schema import Route, role_allows
from cyoloctl.web.strangers import Budget

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from cyoloctl.control.table import Node
    from cyoloctl.metrics.families import Figures
    from cyoloctl.web.listener import Guest
    from cyoloctl.web.request import Request, TooLong

__all__ = ["ControlServer", "Identify", "ServerLimits", "build_server"]


#: From the ssl_object of a connection (it may carry no certificate) to the
#: caller's (name, role, hash of the key), None for nobody.  May raise AccessDenied or
#: Unavailable: then the caller is told why.
Identify = Callable[[Any], tuple[str, str, str] | None]

# How long a request's body may take.
_BODY_S = 10.0
# Bytes of bodies on their way, in all; of one address or caller a quarter.
_STRANGER_BYTES = 2 << 20
_CALLER_BYTES = 64 << 20
# Joins of strangers at once, in all; of one address a quarter.  How long one may take.
_STRANGER_CALLS = 32
_STRANGER_S = 30.0
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
    wait_ready: waits until identify can tell, for this many seconds at most;
    called after it raised Unavailable.  limits: of identified callers.
    """
    return ControlServer(
        node, logger=logger, identify=identify, wait_ready=wait_ready, limits=limits or ServerLimits()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Bounds on identified callers of the network; those of the control socket have as much again.

    connections: at once, in all.  held: watches and long polls at once, in
    all.  Each also for one caller.
    """

    connections: int = 8192
    connections_each: int = 4096
    held: int = 4096
    held_each: int = 1024


class ControlServer(HttpServer[CallerConnection]):
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
        super().__init__()
        self._handlers: dict[Route[Node], Callable[..., Any]] = {
            route: route.handler(node) for route in table.routes() if route.handler is not None
        }
        self._batch = table.path_for("batch")[0]
        self._handlers[self._batch] = Batches(node, dict(self._handlers), self.internal_error).answer
        self._direct = DirectWrites(self, node)
        self._logger = self.logger = logger
        self._identify = identify
        self._wait_ready = wait_ready
        #: Unix sockets with their path and inode.
        self._unix: list[tuple[asyncio.Server, str, tuple[int, int]]] = []
        self._guards: set[Guarded] = set()
        self._guard_timer: asyncio.TimerHandle | None = None
        self._head_at = float("-inf")
        self._head = b""
        self._requests = Requests()
        self._labels = {route: _labels(route) for route in table.routes()}
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
        return CallerConnection(self, unix=None, guest=guest)

    async def start_unix(
        self, path: str | Path, *, role: str = "operator", group_id: int | None = None
    ) -> None:
        """Listen on a unix socket; whoever can open it has the role.

        Mode 0600, or with group_id 0660 and that group.  A socket that a dead
        process left is replaced.  Raises Conflict when a live process answers
        there or the path is something else, StorageError when it cannot be made.
        """
        text = os.fspath(path)
        sock, inode = bind_unix(text, group_id)
        # cleanup_socket (3.13) would remove whatever is there by then; close() looks first.
        cleans = sys.version_info >= (3, 13) and isinstance(self.loop, asyncio.BaseEventLoop)  # uvloop: no
        options: dict[str, Any] = {"cleanup_socket": False} if cleans else {}
        server = await self.loop.create_unix_server(
            lambda: CallerConnection(self, unix=role), sock=sock, backlog=1024, **options
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
        await super().close(timeout_s)

    @property
    def server(self) -> HttpServer[CallerConnection]:
        """This server, as the base of its connections sees it."""
        return self

    def figures(self) -> Figures:
        """The API's part of the metrics."""
        return {
            "api_requests": self._requests.counts(),
            "api_request_duration_seconds": self._requests.durations(),
            "api_connections": by(
                {"network": self.network_connections.total, "socket": self.local_connections.total}
            ),
            "api_open_watches": self._held.total + self._local_held.total,
        }

    def recheck(self) -> None:
        """Identify every caller again, and end the connections of those who are refused now.

        A running call is cancelled, a watch ends with the refusal as its last line.
        """
        for connection in list(self.connections):
            connection.recheck()

    def identify_peer(self, ssl_object: Any) -> tuple[str, str, str] | None:
        """Name, role and key hash of a TLS peer; None when nobody can tell.  Raises what `Identify` may."""
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

    def _answer(self, body: bytes, keep_alive: bool, media: str = "application/json") -> Answer:
        now = self.loop.time()
        if now - self._head_at >= 1.0:
            self._head_at = now
            self._head = _head("application/json")
        end = b"\r\n\r\n" if keep_alive else b"\r\nConnection: close\r\n\r\n"
        head = self._head if media == "application/json" else _head(media)
        return Answer(200, b"%b%d%b%b" % (head, len(body), end, body), keep_alive)

    def answer_error(
        self, error: CyoloctlError, *, keep_alive: bool, status: int = 0, extra: str = "", body: bool = True
    ) -> Answer:
        """The response for an error; status 0 means the error's own."""
        status = status or error.http_status
        data = encode_error(error)
        connection = "" if keep_alive else "Connection: close\r\n"
        head = (
            f"HTTP/1.1 {status} {phrase_of(status)}\r\nDate: {formatdate(usegmt=True)}\r\n{_COMMON}{extra}"
            f"{connection}Content-Length: {len(data)}\r\n\r\n"
        )
        return Answer(status, head.encode("ascii") + (data if body else b""), keep_alive)

    # --- requests -----------------------------------------------------------------------------

    async def respond(self, request: Request, connection: CallerConnection) -> Answer:
        """The answer to a request."""
        keep_alive = self.keeps(request)
        began = time.monotonic()
        path, _, query = request.target.partition("?")
        found = table.match(request.method, path)
        try:
            if found is None:
                answer = self._no_route(request.method, path, keep_alive)
            else:
                answer = await self._dispatch(request, connection, keep_alive, *found, query)
        except Exception as error:
            answer = self.answer_failure(error, request, connection, keep_alive)
        self.count(request, connection, None if found is None else found[0], answer.status, began)
        return answer

    def respond_directly(self, request: Request, connection: CallerConnection) -> Callable[[], None] | None:
        """See HttpServer."""
        return self._direct.respond(request, connection)

    def keeps(self, request: Request) -> bool:
        """Whether the connection outlives the answer: HTTP/1.0 clients would need another header for that."""
        return request.keep_alive and request.is_1_1 and not self.closing

    def answer_failure(
        self, error: Exception, request: Request, connection: CallerConnection, keep_alive: bool
    ) -> Answer:
        """The answer to a request that failed."""
        if isinstance(error, CyoloctlError):
            # After a body that was not read to its end, the next request cannot be found.
            return self.answer_error(
                error, keep_alive=keep_alive and request.complete and not connection.ended
            )
        what = f"{request.method} {table.shown_path(request.target)}"
        return self.answer_error(self.internal_error(what, error), keep_alive=False)

    def count(
        self,
        request: Request,
        connection: CallerConnection,
        route: Route[Node] | None,
        status: int,
        began: float,
    ) -> None:
        """A request was answered.  began: monotonic seconds."""
        took_s = time.monotonic() - began
        labels = _OTHER if route is None else self._labels[route]
        self._requests.observe(labels, status, None if route is not None and route.held else took_s)
        if self._logger.isEnabledFor(logging.DEBUG):
            self._logger.debug(
                "control: method=%s path=%s status=%d caller=%s ms=%.1f",
                request.method,
                table.shown_path(request.target),
                status,
                connection.caller,
                took_s * 1000,
            )

    def refuse_unreadable(self, error: BaseException | None, too_long: TooLong | None) -> Answer:
        """The answer to bytes that are not HTTP, in the API's shape."""
        refusal: CyoloctlError = InvalidInput("the request is not valid HTTP/1.1: check what is sending it")
        if too_long is not None:
            refusal = InvalidInput(f"the request's {too_long} is longer than 8 KiB: send less")
        if error is not None:
            refusal = self.internal_error("the HTTP layer failed", error)
        return self.answer_error(refusal, keep_alive=False)

    async def _dispatch(
        self,
        request: Request,
        connection: CallerConnection,
        keep_alive: bool,
        route: Route[Node],
        name: str,
        query_text: str,
    ) -> Answer:
        if route.role != "none" and not role_allows(connection.current_role(), route.role):
            if isinstance(connection.refusal, Unavailable) and self._wait_ready is not None:
                await self._wait_ready(_READY_S)
            if not role_allows(connection.current_role(), route.role):
                raise connection.refused(route)
        CALLER.set(connection.behalf)
        if request.complete:  # the usual case: the body came with the head
            raw = request.take()
        else:
            _refuse_pages(request, route)
            raw = await self._read_bounded(request, connection, route)
            if connection.ended:
                raise connection.refused(route)
        name, body, query = self.read(request, connection, route, name, query_text, raw)
        if route is self._batch:
            body["role"] = connection.role
        elif route.held:
            return await self._hold(request, connection, route, name, body, query, keep_alive)
        elif route.handler is None:
            return self._answer(_openapi(), keep_alive)
        if route.write and connection.stranger:
            return self._answer(
                await self._call_for_stranger(connection, route, name, body, query), keep_alive
            )
        return self._answer(await self._call(connection, route, name, body, query), keep_alive, route.media)

    def read(
        self,
        request: Request,
        connection: CallerConnection,
        route: Route[Node],
        name: str,
        query_text: str,
        raw: bytes,
    ) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Name, body and query of a request, of which raw is the body.  Raises InvalidInput, AccessDenied."""
        _refuse_pages(request, route)
        if route.has_name:
            if "%" in name:  # a client may quote anything; what no name has is refused after that
                name = unquote(name)
            route.check_name(name)
        query = route.read_query(query_text)
        if route.body:
            given = decode_flat_object(raw) if len(raw) <= route.max_body_bytes else None
            body = route.read_body(raw) if given is None else route.check_body(given)
        elif raw:
            raise InvalidInput("this request takes no body")
        else:
            body = {}
        for field in route.reserved:
            if body[field.name] and not role_allows(connection.role, "operator"):
                raise AccessDenied(field.operators_only)
        return name, body, query

    async def _read_bounded(
        self, request: Request, connection: CallerConnection, route: Route[Node]
    ) -> bytes:
        """A body that has not wholly arrived, if there is room for it.  Raises BodyTooLarge, Overloaded."""
        length = request.content_length
        limit = route.max_body_bytes if route.body else 0
        too_large = route.too_large() if route.body else InvalidInput("this request takes no body")
        if length is not None and length > limit:
            raise too_large
        budget = self._stranger_bytes if connection.stranger else self._body_bytes
        source, amount = connection.source, limit if length is None else length
        if connection.local:
            return await read_body(request, limit, _BODY_S, too_large)
        if not budget.take(source, amount):
            raise Overloaded("too many bodies are on their way here: try again, or ask another node")
        try:
            return await read_body(request, limit, _BODY_S, too_large)
        finally:
            budget.give_back(source, amount)

    async def _call_for_stranger(
        self,
        connection: CallerConnection,
        route: Route[Node],
        name: str,
        body: dict[str, Any],
        query: dict[str, Any],
    ) -> bytes:
        """A call that costs the cluster something, for a stranger: only a few run at once."""
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
        connection: CallerConnection,
        route: Route[Node],
        name: str,
        body: dict[str, Any],
        query: dict[str, Any],
    ) -> bytes:
        timeout_s = query["timeout_s"]
        task = connection.task  # the present one, of which asyncio would ask the system whose process this is
        assert task is not None
        guard = connection.guard = Guard(task)
        self.guard(guard, timeout_s)
        try:
            handler = self._handlers[route]
            answering = handler(name, **body, **query) if route.has_name else handler(**body, **query)
            value = await answering
            if route.is_text:
                return cast("str", value).encode()
            if route is self._batch:
                return cast("bytes", value)
        except asyncio.CancelledError:
            if not guard.expired or task.uncancel():
                raise
            if guard.refusal is not None:
                raise error_of_the_end(guard.refusal, route) from None
            if route.write:
                raise overdue(timeout_s) from None
            raise ClientTimeout(
                f"no answer in {timeout_s:g} s: try again, or with a longer timeout"
            ) from None
        finally:
            self.unguard(guard)
            connection.guard = None
        return _encoded(value, query)

    def answer_value(self, route: Route[Node], value: Any, query: dict[str, Any], keep_alive: bool) -> Answer:
        """The answer that a route's value, an object, makes."""
        return self._answer(_encoded(value, query), keep_alive, route.media)

    def guard(self, call: Guarded, timeout_s: float) -> None:
        """End a call that runs on a while after its time, or whose caller's certificate stops counting."""
        call.deadline = self.loop.time() + timeout_s + _GUARD_S
        self._guards.add(call)
        if self._guard_timer is None:
            self._guard_timer = self.loop.call_later(_GUARD_SWEEP_S, self._end_overdue)

    def unguard(self, call: Guarded) -> None:
        """The call has ended."""
        self._guards.discard(call)

    def _end_overdue(self) -> None:
        """Cancel the calls that outlived their guard, and look again while any run."""
        now = self.loop.time()
        for guard in [each for each in self._guards if now >= each.deadline and not each.expired]:
            guard.expired = True
            guard.expire()
        again = bool(self._guards)
        self._guard_timer = self.loop.call_later(_GUARD_SWEEP_S, self._end_overdue) if again else None

    def _no_route(self, method: str, path: str, keep_alive: bool) -> Answer:
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
        request: Request,
        connection: CallerConnection,
        route: Route[Node],
        name: str,
        body: dict[str, Any],
        query: dict[str, Any],
        keep_alive: bool,
    ) -> Answer:
        """A watch or a long poll, bounded in all and for each caller."""
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
            connection.waiting = connection.task
            return self._answer(await self._call(connection, route, name, body, query), keep_alive)
        finally:
            connection.waiting = None
            budget.give_back(caller)

    async def _watch(
        self,
        request: Request,
        connection: CallerConnection,
        route: Route[Node],
        name: str,
        timeout_s: float,
        keep_alive: bool,
    ) -> Answer:
        connection.gone = self.loop.create_future()
        watcher: Watcher | None = None
        try:
            # Until the first value is there the answer may still be a plain error.
            value = await self._first_value(connection, route, name, timeout_s)
            transport = connection.transport
            if transport is None:
                return Answer(200, b"", False)  # nobody is there
            chunked = request.is_1_1
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
            return Answer(200, watcher.last(last), keep_alive)
        finally:
            connection.gone = None
            if watcher is not None:
                await self._watches[route].leave(name, watcher)

    async def _first_value(
        self, connection: CallerConnection, route: Route[Node], name: str, timeout_s: float
    ) -> dict[str, Any]:
        gone = cast("asyncio.Future[None]", connection.gone)
        items = self._handlers[route](name)
        upcoming = asyncio.ensure_future(next_of(items))
        try:
            await asyncio.wait((upcoming, gone, self._closing), timeout=timeout_s, return_when=_FIRST)
            if self._closing.done():
                raise Unavailable("the node is stopping: watch on another node")
            if connection.ended:
                raise connection.refused(route)
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
#: Labels of requests that have no route.
_OTHER = ("other", "other", "other")


def _labels(route: Route[Node]) -> tuple[str, str, str]:
    """What names a route in the metrics."""
    return route.method, route.template, "write" if route.write else "read"


def _head(media: str) -> bytes:
    """The head of an answer, up to the length of its body."""
    return (
        f"HTTP/1.1 200 OK\r\nDate: {formatdate(usegmt=True)}\r\nContent-Type: {media}\r\n"
        "Cache-Control: no-store\r\nContent-Length: "
    ).encode("ascii")


def _refuse_pages(request: Request, route: Route[Node]) -> None:
    """A browser holding an operator certificate must not be steered here by another site."""
    if route.method == "POST" and request.headers.get("Origin") is not None:
        raise AccessDenied("requests from web pages are refused: use cyoloctl or a script")


def _encoded(value: dict[str, Any], query: dict[str, Any]) -> bytes:
    """The body of an answer."""
    if query.get("consistency") == "stale":
        value = {**value, "stale": True}
    if "schema_version" not in value:
        value = {"schema_version": SCHEMA_VERSION, **value}
    return compact_bytes(value)


def _openapi() -> bytes:
    with open(os.path.join(os.path.dirname(__file__), "openapi.json"), "rb") as file:
        return file.read()
