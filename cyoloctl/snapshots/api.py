"""The API of snapshots of the replicated state: routes, answers, and the operations behind them."""

from __future__ import annotations

from typing import Annotated, Protocol, TypedDict

from cyoloctl.web.schema import CONSISTENCY, Count, Field, Name, Route, Shape, Time

__all__ = ["ROUTES", "HasSnapshots", "SnapshotApi", "SnapshotBegun", "SnapshotPart"]

_ID_PATTERN = "[0-9a-f]{32}"


class SnapshotBegun(TypedDict):
    """A snapshot of the state of one moment, which this node holds for a minute"""

    id: Annotated[str, Shape(pattern=f"^{_ID_PATTERN}$")]
    cluster_id: Annotated[str, Shape(pattern="^[0-9a-f]{32}$")]
    cluster: Name
    node: Name
    release: str
    epoch: Count
    index: Count
    term: Count
    time_unix_ms: Count
    taken_at: Time
    total_bytes: Count
    sha256: Annotated[str, Shape(pattern="^[0-9a-f]{64}$")]


class SnapshotPart(TypedDict):
    """A part of a snapshot; next: the offset of the one after it, null after the last"""

    offset: Count
    data_base64: str
    next: Count | None


class SnapshotApi(Protocol):
    """Operations of a node for callers of this API."""

    async def begin(self, *, consistency: str, timeout_s: float) -> SnapshotBegun:
        """Take one.  Raises Overloaded while others are being read."""

    async def part(self, name: str, *, offset: int, timeout_s: float) -> SnapshotPart:
        """A part of it.  Raises NotFound once it is gone."""


class HasSnapshots(Protocol):
    """A node with the operations behind this API."""

    @property
    def snapshots(self) -> SnapshotApi:
        """The operations."""


ROUTES: tuple[Route[HasSnapshots], ...] = (
    Route(
        "POST",
        "/v1/snapshots",
        "operator",
        "snapshot_begin",
        "Take a snapshot of the replicated state, to be read in parts from this node",
        answer=SnapshotBegun,
        handler=lambda node: node.snapshots.begin,
        body=(),
        query=(CONSISTENCY,),
    ),
    Route(
        "GET",
        "/v1/snapshots/{name}",
        "operator",
        "snapshot_part",
        "A part of a snapshot, 512 KiB at most",
        answer=SnapshotPart,
        handler=lambda node: node.snapshots.part,
        what="snapshot id",
        name_pattern=_ID_PATTERN,
        name_rule="32 hexadecimal digits",
        query=(Field("offset", "integer", "where it begins, in bytes", default=0, minimum=0, maximum=2**40),),
        local=True,
    ),
)
