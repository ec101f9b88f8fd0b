"""The node as the gateway sees it, its settings and its limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from cyoloctl.caller import Actor
from cyoloctl.metrics.families import Family, Figures
from cyoloctl.text import Json

__all__ = ["RETURN", "GatewayNode", "GatewaySettings", "Limits"]

#: What stands in sign_in_url for the link that brings people back.
RETURN = "{return}"


class GatewayNode(Protocol):
    """The node, as the gateway sees it.  Errors are errors.py's."""

    name: str

    def ready(self) -> bool:
        """Whether a request could be served now; never waits."""

    async def metrics(self, more: Iterable[Family], figures: Figures) -> str:
        """The text of /metrics: the node's own, and more with their figures."""

    def form_keys(self) -> list[tuple[bytes, bytes]]:
        """(id of 4 bytes, key of 32 bytes) to seal forms with, the one to use first; empty: none yet."""

    def hosts(self) -> set[str]:
        """Host names and IP addresses, in lower case, by which requests may ask for this node."""

    def owner_url(self, name: str) -> str | None:
        """The base of another member's links, None for this node or one that is away.  Raises NotFound."""

    def now_unix_s(self) -> int:
        """The cluster's time, in Unix seconds."""

    async def session(self, cookie: str, *, current: bool, timeout_s: float) -> Json:
        """sub, sid and claims of the session that the cookies hold.  Raises TokenRejected."""

    async def refresh(self, cookie: str, *, timeout_s: float) -> str:
        """The new session cookie, for Set-Cookie.  Raises TokenRejected."""

    async def find(
        self, user_code: str, *, client: str, actor: Actor, request_id: str, timeout_s: float
    ) -> Json:
        """The record of a code; wrong ones are counted, by person or by the client's address.

        The same request id counts the same code once, however it is written.
        Raises ApprovalRefused for whoever could not approve it, NotFound, SlowDown, InvalidInput.
        """

    def page_url(self, host: str) -> str | None:
        """The page for codes by the configured base of links, None when that is not at the host."""

    def shared_hosts(self) -> list[str]:
        """The host names that any member serves, in order."""

    def is_pin(self, host: str) -> bool:
        """Whether the host name is the one of a single member."""

    async def begin(
        self, kind: str, *, client: str, network: str, actor: Actor, request_id: str, timeout_s: float
    ) -> Json:
        """Start a rendezvous for the browser of a client; bounded for each network.

        The same request id begins once.  Raises SlowDown, Overloaded.
        """

    async def look(self, id: str, *, timeout_s: float) -> Json:
        """The record of an id.  Raises NotFound."""

    async def redeem(self, id: str, redemption: str, *, timeout_s: float) -> Json:
        """The answer, once; again for the same secret for 5 minutes.  Raises Conflict, Expired, NotFound."""

    async def decide(
        self, operation: str, id: str, *, by: str, actor: Actor, request_id: str, timeout_s: float
    ) -> None:
        """approve or deny; the same request id counts once.

        Raises ApprovalRefused, Conflict, Denied, Expired, NotFound.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Settings of the gateway: config.GatewayConfig without the addresses to listen on."""

    trusted_proxies: tuple[str, ...]
    metrics_clients: tuple[str, ...]
    allowed_hosts: tuple[str, ...] = ()
    require_session: bool = True
    sign_in_url: str | None = None
    begin: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on slow clients and on many of them.

    idle_s: between requests, and to dribble a request's head.  body_s: to send
    a body.  connections: of callers that are no trusted proxies, and again of
    those that are; client_connections: of one network, unless it is a proxy's
    that is trusted.  caller_requests: at once, of one person, or of one network
    without a session.
    """

    idle_s: float = 15.0
    body_s: float = 5.0
    connections: int = 1024
    client_connections: int = 128
    caller_requests: int = 32
