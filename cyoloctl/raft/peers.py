"""Peers as their links show them: what each says of itself, and what carries and what handles a link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from cyoloctl.model import RaftId

__all__ = [
    "COPY",
    "DISK_FAILED",
    "FAILURES",
    "LEFT_BEHIND",
    "NO_MEMORY",
    "OLDER",
    "PROTOCOL_VERSION",
    "REFUSALS",
    "REMOVED",
    "TOO_OLD",
    "Hello",
    "LinkHandler",
    "PeerIdentity",
    "PeerInfo",
    "Pong",
    "Refusal",
    "Wire",
]

PROTOCOL_VERSION = 3

REMOVED, COPY, OLDER, LEFT_BEHIND = "removed", "copy", "older disk", "left behind by a recovery"
TOO_OLD = "below the level of the cluster"
REFUSALS = {
    TOO_OLD: "its release does not understand the level of the cluster: install a newer one there",
    REMOVED: "it was removed from the cluster",
    LEFT_BEHIND: "the cluster was recovered without it: it may still live in the old history",
    COPY: "another process runs under its name: two processes must never share a disk's copy",
    OLDER: "its disk is an older copy: the node had acknowledged more than it holds",
}
"""Reasons of a goodbye that keep a process out, whichever node it asks, and what the log says of it."""

DISK_FAILED, NO_MEMORY = "its disk failed", "it ran out of memory"
FAILURES = (DISK_FAILED, NO_MEMORY)
"""Reasons of a goodbye by which a node that stops tells its peers what stopped it."""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Identity of this process towards its peers.

    boot: random, new with every process.  boots: how often this disk was
    started, the present start included; 0 where nobody counts.  level: the
    highest that its release understands.
    """

    name: str
    raft_id: RaftId
    cluster_id: str
    boot: str
    address: str
    release: str
    boots: int = 0
    level: int = 1


@dataclass(frozen=True, slots=True)
class Hello:
    """A peer's first message, about its process.

    term, last_index: of its log when the connection was made.  level: as in
    `PeerIdentity`.
    """

    name: str
    raft_id: RaftId
    boots: int
    boot: str
    address: str
    term: int
    last_index: int
    level: int = 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """A process that was kept out.  reason: one of `REFUSALS`.  at: on the clock."""

    name: str
    reason: str
    address: str
    at: float


@dataclass(slots=True)
class PeerInfo:
    """A connected peer's latest description of itself."""

    address: str
    release: str
    info: dict[str, Any] = field(default_factory=dict)
    round_trip_ms: float | None = None
    links: frozenset[str] = frozenset()
    """Names of the nodes that the peer has links with, and that answered it lately."""
    voters: frozenset[RaftId] = frozenset()
    """Raft ids of the voters in the peer's log."""
    boots: int = 0
    boot: str = ""
    """Of the peer's process, see `PeerIdentity`."""
    last_index: int = 0
    """Of its log when it said hello."""
    level: int = 1
    """The highest that its release understands."""
    dialled: bool = False
    """This node opened the connection."""
    silent: bool = False
    """It was not heard for a while: the link may be cut, or the peer stands still."""
    pongs: int = 0
    """How often the peer has answered a ping, once a second: from the first on `info`, `links` and
    `voters` are its own."""


class Pong(NamedTuple):
    """Readings of a peer's clocks when it answered a ping.

    wall_unix_ms: its wall clock.  epoch, cluster_unix_ms: cluster time as it
    knows it.  trip_s: seconds from the question to the answer, by our clock.
    """

    wall_unix_ms: int
    epoch: int
    cluster_unix_ms: int
    trip_s: float


class Wire(Protocol):
    """The connection under a link: what it needs of an `asyncio.Transport`.

    close: what was written still leaves.  abort: at once.  Neither returns
    with `Link.lost` called.
    """

    def write(self, data: bytes, /) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool: ...
    def get_write_buffer_size(self) -> int: ...


class LinkHandler(Protocol):
    """Owner of the links, as they call it.

    `on_peer_disconnected` is the last call about a link.
    """

    def on_peer_connected(self, raft_id: RaftId, /) -> None: ...
    def on_peer_disconnected(self, raft_id: RaftId, /) -> None: ...
    def on_peer_message(self, raft_id: RaftId, message: dict[str, Any], /) -> None: ...
    def removal(self, raft_id: RaftId, /) -> str | None:
        """`REMOVED` or `LEFT_BEHIND` for one that is no member any more."""

    def refusal(self, hello: Hello, /) -> str | None:
        """One of `REFUSALS` when this process must be kept out."""

    def on_refused(self, name: str, reason: str, /) -> None:
        """A peer keeps this process out.  It is one peer's word."""

    def progress(self) -> tuple[int, int]:
        """Term and last index of this node's log."""
        ...

    def voters(self) -> Sequence[str]:
        """Raft ids of the voters in this node's log."""
        ...

    def describe(self) -> dict[str, Any]: ...
    def cluster_time(self) -> tuple[int, int]: ...
    def on_pong(self, raft_id: RaftId, pong: Pong, /) -> None: ...
