"""Writes of one command, answered without a task each.

Nearly every write of a few KiB is one: checked as it is read, proposed at once,
answered when it was applied.  Nothing of that waits but the write itself, and a
task, its coroutines and a future to wake them by were a tenth of what a leader
does for it.  What has to wait for something first takes the ordinary way from
its beginning, and so does what is refused before it is proposed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from cyoloctl.caller import CALLER
from cyoloctl.control import table
from cyoloctl.errors import CyoloctlError, OutcomeUnknown
from cyoloctl.web.schema import role_allows

if TYPE_CHECKING:
    from collections.abc import Callable

    from cyoloctl.control.connection import CallerConnection, Guarded
    from cyoloctl.control.table import Node
    from cyoloctl.web.request import Answer, Request
    from cyoloctl.web.schema import Route

__all__ = ["Answering", "DirectWrites", "error_of_the_end", "overdue"]


class Answering(Protocol):
    """The server, as it reads and answers requests."""

    def keeps(self, request: Request) -> bool:
        """Whether the connection outlives the answer."""

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

    def guard(self, call: Guarded, timeout_s: float) -> None:
        """End a call that runs on a while after its time, or whose caller's certificate stops counting."""

    def unguard(self, call: Guarded) -> None:
        """The call has ended."""

    def answer_value(self, route: Route[Node], value: Any, query: dict[str, Any], keep_alive: bool) -> Answer:
        """The answer that a route's value makes."""

    def answer_failure(
        self, error: Exception, request: Request, connection: CallerConnection, keep_alive: bool
    ) -> Answer:
        """The answer to what failed."""

    def count(
        self,
        request: Request,
        connection: CallerConnection,
        route: Route[Node] | None,
        status: int,
        began: float,
    ) -> None:
        """A request was answered.  began: monotonic seconds."""


def error_of_the_end(refusal: CyoloctlError, route: Route[Node]) -> CyoloctlError:
    """What a caller is told whose certificate stopped counting while the route ran."""
    # A wait that is cut short has redeemed nothing, or the same redemption gives the answer again.
    if route.write and not route.held:
        return OutcomeUnknown(
            f"{refusal.message}; it ended while the write ran, which may or may not have been applied"
        )
    return refusal


def overdue(timeout_s: float) -> OutcomeUnknown:
    """What the caller of a write is told that did not end in its time."""
    return OutcomeUnknown(
        f"the write did not finish in {timeout_s:g} s: it may or may not have been applied; "
        "read before retrying, or retry with the same request id"
    )


class DirectWrites:
    """Begins such writes of a server, on a node."""

    def __init__(self, server: Answering, node: Node) -> None:
        self._server = server
        self._begin = node.begin
        self._plans = {
            route: route.plan(node)
            for route in table.routes()
            if route.plan is not None and len(route.query_fields) == 1  # the timeout
        }
        self._methods = {route.method for route in self._plans}

    def respond(self, request: Request, connection: CallerConnection) -> Callable[[], None] | None:
        """See `HttpServer.respond_directly`."""
        if request.method not in self._methods or not request.complete:
            return None
        began = time.monotonic()
        path, _, query_text = request.target.partition("?")
        found = table.match(request.method, path)
        plan = None if found is None else self._plans.get(found[0])
        if found is None or plan is None:
            return None
        route, name = found
        if connection.role is None or not role_allows(connection.role, route.role):
            return None
        raw = request.take()
        caller = CALLER.set(connection.behalf)
        write: _DirectWrite | None = None
        try:
            planned = None
            try:
                name, body, query = self._server.read(request, connection, route, name, query_text, raw)
                request_id = body.pop("request_id")
                planned = plan(name, **body) if route.has_name else plan(**body)
            except Exception:  # a refusal, or a bug: it is met again on the ordinary way, and answered there
                pass
            if planned is not None:
                new = _DirectWrite(self._server, request, connection, route, query, began)
                try:
                    withdraw = self._begin(
                        planned, request_id=request_id, timeout_s=query["timeout_s"], done=new.done
                    )
                except CyoloctlError:  # there is no such command: the same
                    withdraw = None
                if withdraw is not None:
                    write = new
                    write.run(withdraw)
        finally:
            CALLER.reset(caller)
        if write is None:
            request.arrived(raw)
            return None
        return write.withdraw


class _DirectWrite:
    """One write on its way."""

    __slots__ = (
        "_began",
        "_connection",
        "_query",
        "_request",
        "_route",
        "_server",
        "_withdraw",
        "deadline",
        "expired",
    )

    def __init__(
        self,
        server: Answering,
        request: Request,
        connection: CallerConnection,
        route: Route[Node],
        query: dict[str, Any],
        began: float,
    ) -> None:
        self._server = server
        self._request = request
        self._connection = connection
        self._route = route
        self._query = query
        self._began = began
        self._withdraw: Callable[[], None] | None = None  # before it runs, and when it is over
        self.deadline = 0.0
        self.expired = False

    def run(self, withdraw: Callable[[], None]) -> None:
        """It is on its way."""
        self._withdraw = withdraw
        self._server.guard(self, self._query["timeout_s"])
        self._connection.guard = self

    def done(self, value: Any, error: Exception | None) -> None:
        """Answer with what became of it, unless it is over."""
        if self._withdraw is None:
            return
        self._is_over()
        server, request, connection, route = self._server, self._request, self._connection, self._route
        keep_alive = server.keeps(request)
        is_ready = False
        try:
            if error is None:
                try:
                    answer = server.answer_value(route, value, self._query, keep_alive)
                except Exception as bug:
                    answer = server.answer_failure(bug, request, connection, keep_alive)
            else:
                answer = server.answer_failure(error, request, connection, keep_alive)
            server.count(request, connection, route, answer.status, self._began)
            is_ready = True
        finally:
            if not is_ready:
                connection.break_off()
        connection.answered(request, answer)

    def _is_over(self) -> None:
        self._withdraw = None
        self._server.unguard(self)
        self._connection.guard = None

    def withdraw(self) -> None:
        """Nobody waits: where it was not sent to anybody it never is, and it is not answered."""
        if self._withdraw is not None:
            self._withdraw()
            self._is_over()

    def end(self, refusal: CyoloctlError) -> None:
        """See Guarded."""
        self._fail(error_of_the_end(refusal, self._route))

    def expire(self) -> None:
        """See Guarded."""
        self._fail(overdue(self._query["timeout_s"]))

    def _fail(self, error: CyoloctlError) -> None:
        if self._withdraw is not None:
            self._withdraw()
            self.done(None, error)
