"""Calls of a client: which endpoint is asked next, and what is known after a failure.

As steps (`web.steps`), so that a client that blocks and one in an event loop
share every decision.  What is known decides what happens next:

- nothing, or not the whole request, was sent: the next endpoint is tried;
- the node says "certainly not applied" (503): the next endpoint is tried;
- the whole request was sent and no answer came: a read is repeated on the next
  endpoint; a write only when it carries a request id (or is idempotent by
  itself, like a join), so that it cannot apply twice;
- any other answer is the answer.

With `again`, all of that is repeated until the time of the call is over.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from cyoloctl.control.endpoints import UnixEndpoint
from cyoloctl.control.http1 import PLAIN, Deadline, Exchange, Json, Lost, NotSent, request_bytes, target
from cyoloctl.control.table import path_for
from cyoloctl.errors import (
    AccessDenied,
    AuthorizationPending,
    ClientTimeout,
    Conflict,
    CyoloctlError,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    SlowDown,
    Unavailable,
    Unreachable,
    UsageError,
    VersionMismatch,
)
from cyoloctl.web.schema import (
    KEEPALIVE_LINE_S,
    MAX_TIMEOUT_S,
    MIN_TIMEOUT_S,
    REQUEST_ID_PATTERN,
    REQUEST_ID_RULE,
    Route,
)
from cyoloctl.web.steps import Pause

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cyoloctl.control.endpoints import Endpoint
    from cyoloctl.control.idle import Idle
    from cyoloctl.control.table import Node
    from cyoloctl.web.steps import Steps

__all__ = ["Calls", "Lines", "check_timeout", "new_request_id"]

_MAX_LINE_BYTES = 1 << 20
# A node that says nothing in a watch for three keep-alive periods is gone.
_WATCH_SILENCE_S = 3 * KEEPALIVE_LINE_S
# Between two rounds of all endpoints.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
# Less is not worth another round.
_LAST_ROUND_S = 0.05


def new_request_id() -> str:
    """A fresh request id: 32 hex characters, 128 random bits."""
    return os.urandom(16).hex()


def check_timeout(timeout_s: float) -> None:
    """Raise UsageError unless calls may take so long."""
    if not MIN_TIMEOUT_S <= timeout_s <= MAX_TIMEOUT_S:
        raise UsageError(f"the timeout must be {MIN_TIMEOUT_S} to {MAX_TIMEOUT_S:.0f} seconds")


class Calls:
    """Implements `web.steps.Caller`.

    timeout_s: 0.1 to 300, for each call with all its attempts; for a stream, until its first line.
    again: whether endpoints are tried again, until the time is over.
    on_write: told the request id of each write, before it is sent.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        timeout_s: float,
        *,
        again: bool = False,
        on_write: Callable[[str], None] | None = None,
    ) -> None:
        check_timeout(timeout_s)
        self._endpoints = list(endpoints)
        self.timeout_s = timeout_s
        self._again = again
        self._on_write = on_write
        self._idle: Idle | None = None
        self.json: Json = PLAIN
        """How bodies are written and answers read."""

    @property
    def size(self) -> int:
        """Number of endpoints."""
        return len(self._endpoints)

    def within(self, timeout_s: float) -> Calls:
        """The same with another timeout.  Raises UsageError."""
        other = Calls(self._endpoints, timeout_s, again=self._again, on_write=self._on_write)
        other._idle, other.json = self._idle, self.json
        return other

    def keep_connections(self) -> Idle:
        """Keep connections between calls until what is given is closed."""
        from cyoloctl.control.idle import Idle

        self._idle = Idle()
        return self._idle

    def call(
        self,
        operation: str,
        name: str = "",
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        *,
        repeatable: bool = False,
        timeout_s: float | None = None,
        at: int | None = None,
    ) -> Steps[Any]:
        """The answer to an operation; see `web.steps.Caller.call`.

        An operation that takes a request id gets a fresh one where the body has none.
        """
        route, path = path_for(operation, name)
        if route.body:
            # What is refused here is not sent, and leaves no id behind.
            body = dict(body or {})
            if "request_id" in route.body_fields:
                body["request_id"] = request_id = _request_id(body.get("request_id"))
                route.check_body(body)
                if self._on_write is not None:
                    self._on_write(request_id)
            else:
                route.check_body(body)
        asked = _Asked(route, path, body, query or {}, repeatable=repeatable, idle=self._idle, json=self.json)
        endpoints = self._endpoints if at is None else self._endpoints[at : at + 1]
        deadline = Deadline(self.timeout_s if timeout_s is None else timeout_s)
        try:
            return (yield from asked.answer(endpoints, deadline, again=self._again and at is None))
        except CyoloctlError as error:
            error.request_id = error.request_id or asked.request_id
            raise

    def stream(self, operation: str, name: str) -> Steps[Lines]:
        """The open answer of the first endpoint that has one.  Raises what `call` does."""
        route, path = path_for(operation, name)
        deadline = Deadline(self.timeout_s)
        failures = _Failures(route, None)
        _look_up_all(self._endpoints)
        for position, endpoint in enumerate(self._endpoints):
            budget = deadline.left() / (len(self._endpoints) - position)
            share = Deadline(budget)
            try:
                exchange = yield from Exchange.open(endpoint, share, share)
                try:
                    yield from exchange.send(request_bytes(route, target(path, {}, budget), None))
                    status, headers = yield from exchange.head()
                    if status != 200 or headers.get("transfer-encoding", "").lower() != "chunked":
                        exchange.answer(status, headers, (yield from exchange.body(headers)))
                        raise exchange.not_a_node()
                    return Lines(endpoint.text, exchange, headers)
                except BaseException:
                    exchange.__exit__()
                    raise
            except (NotSent, Lost, Unavailable, AccessDenied, VersionMismatch) as error:
                failures.add(endpoint, error)
        raise failures.error()


class Lines:
    """Implements `web.steps.Stream`: one JSON object per line, and blank lines between."""

    def __init__(self, endpoint: str, exchange: Exchange, headers: Mapping[str, str]) -> None:
        self._endpoint = endpoint
        self._exchange = exchange
        self._headers = headers
        self._lines: list[bytes] = []
        self._pending = b""

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._exchange.__exit__()

    def next(self) -> Steps[dict[str, Any]]:
        """The next object.  Raises Unavailable where the stream ended or went silent, and what it says."""
        exchange = self._exchange
        try:
            while True:
                while self._lines:
                    line = self._lines.pop(0)
                    if line.strip():
                        return exchange.answer(200, self._headers, line)
                yield from self._more()
        except Lost as error:
            raise Unavailable(f"{self._endpoint}: {error}; watch again") from None

    def _more(self) -> Steps[None]:
        self._exchange.deadline = Deadline(_WATCH_SILENCE_S)
        try:
            chunk = yield from self._exchange.chunk()
        except Lost as error:
            raise Unavailable(f"{self._endpoint}: the watch ended ({error}); watch again") from None
        if chunk is None:
            raise Unavailable(f"{self._endpoint}: the node ended the watch; watch again")
        *self._lines, self._pending = (self._pending + chunk).split(b"\n")
        if len(self._pending) > _MAX_LINE_BYTES:
            raise self._exchange.too_large()


def _request_id(given: str | None) -> str:
    if given is None:
        return new_request_id()
    if not re.fullmatch(REQUEST_ID_PATTERN, given):
        raise InvalidInput(f"the request id is not valid: use {REQUEST_ID_RULE}")
    return given


class _Failures:
    """Failures of each endpoint in a round, and the error that they add up to."""

    def __init__(self, route: Route[Node], request_id: str | None) -> None:
        self._route = route
        self._request_id = request_id
        self._seen: list[tuple[Endpoint, Exception]] = []
        self.unknown = False

    def next_round(self) -> None:
        """Forget what each endpoint said; what a lost answer left unknown stays so."""
        self._seen.clear()

    def add(self, endpoint: Endpoint, error: Exception) -> None:
        """Note a failure; a lost answer to a write makes the outcome unknown."""
        if isinstance(error, OutcomeUnknown) or (isinstance(error, Lost) and self._route.write):
            self.unknown = True
        self._seen.append((endpoint, error))

    def reasons(self) -> str:
        """Every endpoint with its reason."""
        parts = []
        for endpoint, error in self._seen:
            text = str(error)
            parts.append(text if text.startswith(endpoint.text) else f"{endpoint.text}: {text}")
        return "; ".join(parts)

    def error(self) -> CyoloctlError:
        """The error to raise: what is known about the outcome comes first."""
        if self.unknown:
            advice = (
                f"retry under the same request id (--request-id {self._request_id})"
                if self._request_id
                else "look at the state before you retry"
            )
            return OutcomeUnknown(f"the outcome is unknown ({self.reasons()}); {advice}")
        for kind in (Unavailable, AccessDenied, VersionMismatch):
            for _, error in self._seen:
                if isinstance(error, kind):
                    return error
        lost = [error for _, error in self._seen if isinstance(error, Lost)]
        if lost:
            text = f"{self.reasons()}; try again"
            return ClientTimeout(text) if lost[-1].timed_out else Unavailable(text)
        hints = list(dict.fromkeys(endpoint.hint() for endpoint, _ in self._seen))
        return Unreachable(f"no node could be reached: {self.reasons()}; {'; '.join(hints)}")


def _look_up_all(endpoints: Sequence[Endpoint]) -> None:
    """Begin to look up the names of all endpoints: those of the later ones meanwhile."""
    for endpoint in endpoints:
        if not isinstance(endpoint, UnixEndpoint):
            endpoint.look_up()


class _Asked:
    """One request, however often it is sent."""

    def __init__(
        self,
        route: Route[Node],
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, Any],
        *,
        repeatable: bool,
        idle: Idle | None,
        json: Json,
    ) -> None:
        self.request_id: str | None = body.get("request_id") if body is not None else None
        self._route, self._path, self._body, self._query = route, path, body, query
        self._repeatable = repeatable or not route.write or self.request_id is not None
        # A node may close a connection while a request is on its way there: only what may be sent again goes.
        self._idle = idle if self._repeatable else None
        self._json = json

    def answer(self, endpoints: Sequence[Endpoint], deadline: Deadline, *, again: bool) -> Steps[Any]:
        """The answer of the first endpoint that has one, in rounds until the deadline where it may be again.

        Raises what is known when the last round is over.
        """
        failures = _Failures(self._route, self.request_id)
        pause_s = _FIRST_PAUSE_S
        while True:
            found = yield from self._round(endpoints, deadline, failures)
            if found is not None:
                return found
            error = failures.error()
            if not (again and self._repeatable and _passes(error)):
                raise error
            if deadline.left() < pause_s + _LAST_ROUND_S:
                raise error
            yield Pause(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            failures.next_round()

    def _round(
        self, endpoints: Sequence[Endpoint], deadline: Deadline, failures: _Failures
    ) -> Steps[dict[str, Any] | None]:
        """The answer of the first endpoint that has one; None where each has failed."""
        _look_up_all(endpoints)
        for position, endpoint in enumerate(endpoints):
            # A node that hangs must leave time for the others; what cannot be
            # repeated elsewhere shares only the time to connect.
            share = Deadline(deadline.left() / (len(endpoints) - position))
            limit = share if self._repeatable else deadline
            try:
                status, headers, raw, exchange = yield from self._exchange(endpoint, limit, share)
            except (NotSent, AccessDenied) as error:
                # TLS said no, in either direction: nothing was applied.
                failures.add(endpoint, error)
                continue
            except (Lost, VersionMismatch) as error:
                failures.add(endpoint, error)
                if self._repeatable:
                    continue
                return None
            try:
                return exchange.answer(status, headers, raw, self._route.media, self._json)
            except Unavailable as error:
                failures.add(endpoint, error)
            except (Lost, OutcomeUnknown, VersionMismatch) as error:
                failures.add(endpoint, error)
                if not self._repeatable:
                    return None
            except CyoloctlError as error:
                # The cluster's refusal of this very request id settles an earlier
                # attempt as well; a refusal by one node does not.
                if not failures.unknown or isinstance(error, (InvalidInput, Conflict, NotFound)):
                    raise
                failures.add(endpoint, error)
        return None

    def _exchange(
        self, endpoint: Endpoint, limit: Deadline, share: Deadline
    ) -> Steps[tuple[int, dict[str, str], bytes, Exchange]]:
        idle = self._idle
        wire = None if idle is None else idle.take(endpoint)
        if wire is None:
            exchange = yield from Exchange.open(endpoint, limit, share)
        else:
            exchange = Exchange(endpoint, wire, limit)
        try:
            where = target(self._path, self._query, limit.left())
            data = request_bytes(self._route, where, self._body, keeps=idle is not None, json=self._json)
            yield from exchange.send(data)
            status, headers = yield from exchange.head()
            raw = yield from exchange.body(headers)
        except BaseException:
            exchange.__exit__()
            raise
        if idle is not None and exchange.again:
            idle.give(endpoint, exchange.wire)
        else:
            exchange.__exit__()
        return status, headers, raw, exchange


def _passes(error: CyoloctlError) -> bool:
    """Whether another round may end otherwise."""
    if isinstance(error, AuthorizationPending | SlowDown):
        return False  # answers, in truth
    return isinstance(error, Unavailable | Unreachable | OutcomeUnknown)
