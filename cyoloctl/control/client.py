"""The client of the control API, with the standard library only.

Every command imports this module, so it imports little: no ssl, asyncio,
pathlib or dataclasses.

What is known after a failure decides what happens next:

- nothing, or not the whole request, was sent: the next endpoint is tried;
- the node says "certainly not applied" (503): the next endpoint is tried;
- the whole request was sent and no answer came: a read is repeated on the next
  endpoint; a write only when it carries a request id (or is idempotent by
  itself, like a join), so that it cannot apply twice;
- any other answer is the answer.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from cyoloctl.control.endpoints import (
    Endpoint,
    PinnedEndpoint,
    PinnedTrust,
    UnixEndpoint,
    parse_endpoint,
    read_credentials,
)
from cyoloctl.control.http1 import Deadline, Exchange, Lost, NotSent, request_bytes, target
from cyoloctl.control.table import path_for
from cyoloctl.errors import (
    AccessDenied,
    ClientTimeout,
    Conflict,
    CyoloctlError,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
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
    check_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from cyoloctl.control.table import Node

__all__ = ["Client", "join_cluster", "new_request_id"]

_MAX_WATCH_LINE_BYTES = 1 << 20
# A node that says nothing in a watch for three keep-alive periods is gone.
_WATCH_SILENCE_S = 3 * KEEPALIVE_LINE_S


def new_request_id() -> str:
    """A fresh request id: 32 hex characters, 128 random bits."""
    return os.urandom(16).hex()


class Client:
    """A cluster, seen through one or several nodes' control endpoints.

    endpoints: ``unix:///PATH``, ``https://HOST:PORT`` or ``https://NAME@HOST:PORT``,
    tried in turn.  With a name exactly that node must answer, without one any
    of the members that the credentials file lists.
    credentials: the JSON file that an https endpoint needs (mode 0600).
    timeout_s: 0.1 to 300, for each call with all its attempts; for a watch,
    until its first line.  on_write: told the request id of each write, before it is sent.

    Raises UsageError (endpoints, timeout), ConfigError (credentials file).
    Every method returns the JSON object of the answer and raises the error
    that the node answered with, or one of:

    - Unreachable: no endpoint could be reached, nothing was sent;
    - Unavailable (ClientTimeout, NoLeader, Overloaded): not applied, try again;
    - OutcomeUnknown: a write was sent and may or may not have been applied;
    - AccessDenied: wrong cluster, certificate or role;
    - VersionMismatch: another version, or not a cyoloctl node.
    """

    def __init__(
        self,
        endpoints: list[str],
        *,
        credentials: Path | None,
        timeout_s: float,
        on_write: Callable[[str], None] | None = None,
        data_dir: Path | None = None,
    ) -> None:
        """data_dir: where the only endpoint, a socket, is from; for the advice when nobody answers there."""
        if not endpoints:
            raise UsageError("no endpoint: use --data-dir DIR or --endpoint URL")
        _check_timeout(timeout_s)
        trust = None
        if credentials is not None and any(text.startswith("https://") for text in endpoints):
            trust = read_credentials(credentials)
        self._endpoints = [parse_endpoint(text, trust, data_dir) for text in endpoints]
        self._timeout_s = timeout_s
        self._on_write = on_write

    def health(self) -> dict[str, Any]:
        """The health of the first node that answers."""
        return self._call("health")

    def status(self) -> dict[str, Any]:
        """The cluster and its members, as the asked node knows them."""
        return self._call("status")

    def member_list(self, *, stale: bool = False) -> dict[str, Any]:
        """Every member; with stale what the asked node has."""
        return self._call("member_list", query=_consistency(stale))

    def member_show(self, name: str, *, stale: bool = False) -> dict[str, Any]:
        """One member.  Raises NotFound."""
        return self._call("member_show", name, query=_consistency(stale))

    def member_invite(
        self,
        name: str,
        *,
        learner: bool = False,
        witness: bool = False,
        ttl_s: int = 3600,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """A single-use join token, good for ttl_s (60 to 604800) seconds; the same one per request id.

        It takes the place of an older one for this name, which admits nobody from now on.
        """
        body = {"name": name, "learner": learner, "ttl_s": ttl_s, "request_id": request_id}
        if witness:  # left out otherwise: earlier releases take no other field
            body["witness"] = True
        return self._call("member_invite", body=body)

    def member_invitations(self, *, stale: bool = False) -> dict[str, Any]:
        """Open invitations."""
        return self._call("member_invitations", query=_consistency(stale))

    def member_uninvite(self, name: str, *, request_id: str | None = None) -> dict[str, Any]:
        """Withdraw an invitation.  Raises NotFound, Conflict for a node that has joined."""
        return self._call("member_uninvite", name, body={"request_id": request_id})

    def member_remove(
        self, name: str, *, force: bool = False, dry_run: bool = False, request_id: str | None = None
    ) -> dict[str, Any]:
        """Remove a member, or only say what it would cost.  Raises NotFound, Conflict."""
        body = {"force": force, "dry_run": dry_run, "request_id": request_id}
        return self._call("member_remove", name, body=body)

    def transfer_leadership(
        self, to: str | None = None, *, dry_run: bool = False, request_id: str | None = None
    ) -> dict[str, Any]:
        """Hand leadership to a voter, None: to the most advanced one.  Raises NotFound, Conflict."""
        body = {"to": to, "dry_run": dry_run, "request_id": request_id}
        return self._call("transfer_leadership", body=body)

    def set_time(self, *, dry_run: bool, request_id: str | None = None) -> dict[str, Any]:
        """Set cluster time to what a majority of the members' clocks show.  Raises Conflict."""
        return self.call("set_time", body={"dry_run": dry_run, "request_id": request_id}, repeatable=True)

    def cluster_upgrade(self, *, dry_run: bool, request_id: str | None = None) -> dict[str, Any]:
        """Raise the cluster's level to what every member understands.  Raises VersionMismatch."""
        body = {"dry_run": dry_run, "request_id": request_id}
        return self.call("cluster_upgrade", body=body, repeatable=True)

    def counter_add(self, name: str, by: int, *, request_id: str | None = None) -> dict[str, Any]:
        """Add `by` (signed 64-bit, not 0) exactly once per request id.

        request_id: 1 to 128 printable ASCII characters; None makes a fresh one,
        so that a retry on another endpoint cannot apply twice.
        Raises CounterOverflow.
        """
        if type(by) is not int or not -(2**63) <= by <= 2**63 - 1 or by == 0:
            raise InvalidInput("by must be a signed 64-bit number other than 0")
        from cyoloctl.counters.api import route_to_add

        operation, amount = route_to_add(by)
        return self._call(operation, name, body={"by": amount, "request_id": request_id})

    def counter_reset(self, name: str, *, request_id: str | None = None) -> dict[str, Any]:
        """Set a counter to 0, once per request id.  Raises NotFound."""
        return self._call("counter_reset", name, body={"request_id": request_id})

    def counter_get(self, name: str, *, stale: bool = False) -> dict[str, Any]:
        """A counter: linearizable, or with stale what the asked node has.  Raises NotFound."""
        return self._call("counter_get", name, query=_consistency(stale))

    def counter_list(
        self, *, after: str | None = None, limit: int = 100, stale: bool = False
    ) -> dict[str, Any]:
        """A page of 1 to 1000 counters by name, after the name `after`."""
        if after is not None:
            check_name(after, "counter name")
        if type(limit) is not int or not 1 <= limit <= 1000:
            raise InvalidInput("limit must be 1 to 1000")
        return self._call("counter_list", query={"limit": limit, "after": after, **_consistency(stale)})

    def counter_watch(self, name: str) -> Iterator[dict[str, Any]]:
        """The present value, then every change that this node reports, until the caller stops.

        The request is made by the first `next`.  Raises NotFound; when the
        stream ends or goes silent for 30 s, Unavailable: watch again.
        """
        return self._watch("counter_watch", name)

    def call(
        self,
        operation: str,
        name: str = "",
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        *,
        repeatable: bool = False,
    ) -> dict[str, Any]:
        """Any operation of the API (token_mint, key_list...), with the fields of its body and query.

        An operation that takes a request id gets a fresh one where the body
        has none.  repeatable: sending it twice does no harm.
        """
        return self._call(operation, name, body=body, query=query, repeatable=repeatable)

    def stop(self, *, force: bool = False) -> dict[str, Any]:
        """Stop the node at the first endpoint, and only that one: never another in its stead.

        Raises Conflict when that would end a cluster in memory, unless force.
        """
        return self._call("stop", body={"force": force}, only_first=True)

    def _call(
        self,
        operation: str,
        name: str = "",
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        repeatable: bool = False,
        only_first: bool = False,
    ) -> dict[str, Any]:
        endpoints = self._endpoints[:1] if only_first else self._endpoints
        route = path_for(operation, name)[0]
        if route.body:
            body = dict(body or {})
            if "request_id" in route.body_fields:
                body["request_id"] = request_id = _request_id(body.get("request_id"))
                route.check_body(body)  # what is refused here is not sent, and leaves no id behind
                if self._on_write is not None:
                    self._on_write(request_id)
        return _call(
            endpoints, self._timeout_s, operation, name, body=body, query=query or {}, repeatable=repeatable
        )

    def _watch(self, operation: str, name: str) -> Iterator[dict[str, Any]]:
        route, path = path_for(operation, name)
        deadline = Deadline(self._timeout_s)
        failures = _Failures(route, None)
        _look_up_all(self._endpoints)
        exchange: Exchange | None = None
        for position, endpoint in enumerate(self._endpoints):
            budget = deadline.left() / (len(self._endpoints) - position)
            share = Deadline(budget)
            try:
                exchange = Exchange(endpoint, share, share)
                try:
                    exchange.send(request_bytes(route, target(path, {}, budget), None))
                    status, headers = exchange.head()
                    if status != 200 or headers.get("transfer-encoding", "").lower() != "chunked":
                        exchange.answer(status, headers, exchange.body(headers))
                        raise exchange.not_a_node()
                    break
                except BaseException:
                    exchange.__exit__()
                    raise
            except (NotSent, Lost, Unavailable, AccessDenied, VersionMismatch) as error:
                failures.add(endpoint, error)
        else:
            raise failures.error()
        with exchange:
            pending = b""
            chunks = exchange.chunks()
            while True:
                exchange.deadline = Deadline(_WATCH_SILENCE_S)
                try:
                    chunk = next(chunks, None)
                except Lost as error:
                    raise Unavailable(f"{endpoint.text}: the watch ended ({error}); watch again") from None
                if chunk is None:
                    raise Unavailable(f"{endpoint.text}: the node ended the watch; watch again")
                *lines, pending = (pending + chunk).split(b"\n")
                if len(pending) > _MAX_WATCH_LINE_BYTES:
                    raise exchange.too_large()
                for line in lines:
                    if line.strip():
                        try:
                            yield exchange.answer(200, headers, line)
                        except Lost as error:
                            raise Unavailable(f"{endpoint.text}: {error}; watch again") from None


def join_cluster(
    members: Sequence[tuple[str, str]],
    ca_sha256: str,
    cluster_id: str,
    body: Mapping[str, Any],
    timeout_s: float,
) -> dict[str, Any]:
    """Redeem a join token without a certificate of our own: the grant object.

    members: names with HOST:PORT, tried in turn; the node of that name, and no
    other, must answer there.  ca_sha256 and cluster_id come from the token,
    and pin whom we talk to before anything is sent.  No clock of ours decides
    anything.  body: name, public_key, signature, request_pem, sealing_key,
    address, ca_sha256.  timeout_s: 0.1 to 300, overall.  The same body may be sent again
    after any failure.

    Raises what Client raises, and InvitationRejected.
    """
    from cyoloctl.model import parse_address

    if not members:
        raise InvalidInput("the join token names no member; ask for a new one")
    _check_timeout(timeout_s)
    trust = PinnedTrust(ca_sha256, cluster_id, source="the join token")
    endpoints: list[Endpoint] = []
    for name, address in members:
        where = parse_address(address)
        endpoints.append(PinnedEndpoint(f"https://{name}@{where}", where.host, where.port, trust, name))
    return _call(endpoints, timeout_s, "join", "", body=body, query={}, repeatable=True)


def _check_timeout(timeout_s: float) -> None:
    if not MIN_TIMEOUT_S <= timeout_s <= MAX_TIMEOUT_S:
        raise UsageError(f"the timeout must be {MIN_TIMEOUT_S} to {MAX_TIMEOUT_S:.0f} seconds")


def _request_id(given: str | None) -> str:
    if given is None:
        return new_request_id()
    if not re.fullmatch(REQUEST_ID_PATTERN, given):
        raise InvalidInput(f"the request id is not valid: use {REQUEST_ID_RULE}")
    return given


def _consistency(stale: bool) -> dict[str, str]:
    return {"consistency": "stale"} if stale else {}


class _Failures:
    """Failures of each endpoint, and the error that they add up to."""

    def __init__(self, route: Route[Node], request_id: str | None) -> None:
        self._route = route
        self._request_id = request_id
        self._seen: list[tuple[Endpoint, Exception]] = []
        self.unknown = False

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
                f"retry with --request-id {self._request_id}"
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


def _call(
    endpoints: Sequence[Endpoint],
    timeout_s: float,
    operation: str,
    name: str,
    *,
    body: Mapping[str, Any] | None,
    query: Mapping[str, Any],
    repeatable: bool,
) -> dict[str, Any]:
    route, path = path_for(operation, name)
    if body is not None:
        # The node would say the same, but only after it was reached.
        route.check_body(body)
    request_id = body.get("request_id") if body is not None else None
    repeatable = repeatable or not route.write or request_id is not None
    deadline = Deadline(timeout_s)
    failures = _Failures(route, request_id)
    _look_up_all(endpoints)
    for position, endpoint in enumerate(endpoints):
        # A node that hangs must leave time for the others; what cannot be
        # repeated elsewhere shares only the time to connect.
        share = Deadline(deadline.left() / (len(endpoints) - position))
        limit = share if repeatable else deadline
        try:
            with Exchange(endpoint, limit, share) as exchange:
                exchange.send(request_bytes(route, target(path, query, limit.left()), body))
                status, headers = exchange.head()
                raw = exchange.body(headers)
        except (NotSent, AccessDenied) as error:
            # TLS said no, in either direction: nothing was applied.
            failures.add(endpoint, error)
            continue
        except (Lost, VersionMismatch) as error:
            failures.add(endpoint, error)
            if repeatable:
                continue
            break
        try:
            return exchange.answer(status, headers, raw)
        except Unavailable as error:
            failures.add(endpoint, error)
        except (Lost, OutcomeUnknown, VersionMismatch) as error:
            failures.add(endpoint, error)
            if not repeatable:
                break
        except CyoloctlError as error:
            # The cluster's refusal of this very request id settles an earlier
            # attempt as well; a refusal by one node does not.
            if not failures.unknown or isinstance(error, (InvalidInput, Conflict, NotFound)):
                raise
            failures.add(endpoint, error)
    raise failures.error()
