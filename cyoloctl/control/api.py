"""The API of the node itself: routes, answers, and the operations behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypedDict

from cyoloctl.errors import ConfigError
from cyoloctl.text import Json
from cyoloctl.web.schema import REQUEST_ID, Count, Field, Name, Route, Time

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from cyoloctl.replicated.proposer import Begun, Planned

__all__ = [
    "ROUTES",
    "Health",
    "LevelRaised",
    "NodeApi",
    "OpenAPI",
    "Reloaded",
    "Stopping",
    "TimeSet",
    "Understood",
]


class Health(TypedDict):
    """The node's own health"""

    status: Literal["ok", "no_leader"]
    name: Name
    role: Literal["leader", "follower", "candidate", "learner"]


TimeSet = TypedDict(
    "TimeSet",
    {
        "dry_run": bool,
        "from": Time,
        "to": Time,
        "moves_s": float,
        "epoch": Count,
        "affected": dict[str, Count],
    },
)
TimeSet.__doc__ = "The setting of cluster time, or its preview"


class Understood(TypedDict):
    """A member's release, null while it is away, and the highest level that it understands"""

    name: Name
    release: str | None
    level: Count


class LevelRaised(TypedDict):
    """The raising of the cluster's level, or its preview"""

    level: Count
    to: Count
    release: str | None
    changed: bool
    dry_run: bool
    waits_for: list[Name]
    members: list[Understood]


class Stopping(TypedDict):
    """The node is stopping"""

    stopping: bool


class Reloaded(TypedDict):
    """What a reload changed: keys of node.yaml, each in one of the lists"""

    reloaded: bool
    pid: Count
    applied: list[str]
    needs_restart: list[str]
    overridden: list[str]
    unchanged: list[str]


class OpenAPI(TypedDict):
    """OpenAPI 3.1"""


class NodeApi(Protocol):
    """Operations of a node for callers of this API."""

    async def health(self, *, timeout_s: float) -> Health:
        """The node's own health; never waits."""

    def begin(
        self,
        planned: Planned,
        *,
        request_id: str | None,
        timeout_s: float,
        done: Callable[[Any, Exception | None], None],
    ) -> Callable[[], None] | None:
        """Begin a write: done is called with its outcome; see `Proposer.begin`."""

    async def begin_all(
        self, writes: Sequence[tuple[Planned, str | None]], *, timeout_s: float, after: Begun | None
    ) -> Begun:
        """The writes of a batch on their way, in order; see `Proposer.begin_all`."""

    async def set_time(self, *, dry_run: bool, request_id: str | None, timeout_s: float) -> Json:
        """Set cluster time to what the members' clocks show.  Raises Conflict."""

    async def upgrade(self, *, dry_run: bool, request_id: str | None, timeout_s: float) -> Json:
        """Raise the cluster's level to what every member understands.  Raises VersionMismatch."""

    async def reload(self, *, timeout_s: float) -> Json:
        """Read node.yaml and the certificates again, and apply what can change while the node runs.

        Raises ConfigError, VersionMismatch, Unavailable; nothing was changed then.
        """

    async def stop(self, *, force: bool, timeout_s: float) -> Json:
        """Begin to stop; returns before the node has stopped."""


ROUTES: tuple[Route[NodeApi], ...] = (
    Route(
        "GET",
        "/v1/health",
        "none",
        "health",
        "Whether the node is alive and ready",
        answer=Health,
        handler=lambda node: node.health,
        local=True,
    ),
    Route(
        "POST",
        "/v1/cluster/set-time",
        "operator",
        "set_time",
        "Set cluster time to what a majority of the members' clocks show",
        answer=TimeSet,
        handler=lambda node: node.set_time,
        body=(
            Field("dry_run", "boolean", "only report what it would do", default=False),
            REQUEST_ID,
        ),
        write=True,
    ),
    Route(
        "POST",
        "/v1/cluster/upgrade",
        "operator",
        "cluster_upgrade",
        "Raise the cluster's level to the highest that every member understands",
        answer=LevelRaised,
        handler=lambda node: node.upgrade,
        body=(
            Field("dry_run", "boolean", "only report what it would do", default=False),
            REQUEST_ID,
        ),
        write=True,
    ),
    Route(
        "POST",
        "/v1/node/reload",
        "operator",
        "reload",
        "Read node.yaml and the certificates again, and apply what can change while the node runs",
        answer=Reloaded,
        handler=lambda node: node.reload,
        body=(),
        errors=(ConfigError,),
        write=True,
    ),
    Route(
        "POST",
        "/v1/node/stop",
        "operator",
        "stop",
        "Hand leadership over, then stop the node",
        answer=Stopping,
        handler=lambda node: node.stop,
        body=(Field("force", "boolean", "even if it ends a cluster that lives in memory", default=False),),
        write=True,
    ),
    Route(
        "GET",
        "/v1/openapi.json",
        "none",
        "openapi",
        "This document",
        answer=OpenAPI,
        handler=None,
        local=True,
    ),
)
