"""The API of the routes for reverse proxies: routes, answers, and the operations behind them."""

from __future__ import annotations

from typing import Literal, Protocol, TypedDict

from cyoloctl.errors import NotFound
from cyoloctl.text import Json
from cyoloctl.web.schema import CONSISTENCY, REQUEST_ID, Count, Field, Name, Route, host_field

__all__ = ["ROUTES", "Backend", "HasRouting", "RouteList", "RoutingApi", "SharedHost"]


class Backend(TypedDict):
    """A member as reverse proxies see it"""

    name: Name
    host: str | None
    address: str | None
    url: str | None
    alive: bool
    role: Literal["leader", "follower", "learner"]


class RouteList(TypedDict):
    """Members and host names"""

    backends: list[Backend]
    shared_hosts: list[str]
    index: Count
    epoch: Count


class SharedHost(TypedDict):
    """A host name that any member serves"""

    host: str
    shared: bool


class RoutingApi(Protocol):
    """Operations of a node for callers of this API."""

    async def list(self, *, consistency: str, timeout_s: float) -> RouteList:
        """The members as proxies see them."""

    async def share(self, *, host: str, shared: bool, request_id: str | None, timeout_s: float) -> Json:
        """Let every member serve a host name, or no longer."""


class HasRouting(Protocol):
    """A node with the operations behind this API."""

    @property
    def routing(self) -> RoutingApi:
        """The operations."""


ROUTES: tuple[Route[HasRouting], ...] = (
    Route(
        "GET",
        "/v1/routes",
        "viewer",
        "route_list",
        "The members as reverse proxies see them, and who serves which host name",
        answer=RouteList,
        handler=lambda node: node.routing.list,
        query=(CONSISTENCY,),
    ),
    Route(
        "POST",
        "/v1/routes/share",
        "operator",
        "route_share",
        "Let every member serve a host name, or no longer",
        answer=SharedHost,
        handler=lambda node: node.routing.share,
        body=(
            host_field("a host name"),
            Field("shared", "boolean", "false: no longer", default=True),
            REQUEST_ID,
        ),
        write=True,
        errors=(NotFound,),
    ),
)
