"""Common state of the parts of one replica: its log, its peers, the vendor's core, time and the outbox."""

from __future__ import annotations

import random
from collections.abc import Callable

from cyoloctl.errors import CyoloctlError
from cyoloctl.model import RaftId
from cyoloctl.raft.disks import DiskState
from cyoloctl.raft.journal import Journal
from cyoloctl.raft.messages import Message
from cyoloctl.raft.progress import NEVER, Progress
from cyoloctl.raft.settings import Limits, Timing
from cyoloctl.raft.tally import Tally
from cyoloctl.raft.vendor import Node, VendorEngine

__all__ = ["Core"]


class Core:
    """Shared by the parts of one `Replica`, which makes it."""

    engine: VendorEngine
    """From `Replica.start` on."""

    def __init__(
        self,
        raft_id: RaftId,
        *,
        journal: Journal,
        clock: Callable[[], float],
        rng: random.Random,
        timing: Timing,
        limits: Limits,
    ) -> None:
        """clock: seconds, monotonic."""
        self.raft_id = raft_id
        self.me = Node(raft_id)
        self.journal = journal
        self.clock = clock
        self.rng = rng
        self.timing = timing
        self.limits = limits
        self.failed: CyoloctlError | None = None
        """The error that silenced this replica."""
        self.progress: dict[Node, Progress] = {}
        """Progress of every other voter and every learner."""
        self.peers: list[Node] = []
        """Those of them that are connected, in a fixed order."""
        self.acknowledged: dict[str, int] = {}
        """Raft id to the highest index that it acknowledged in this leadership, connected or not."""
        self.leader_seen_at = NEVER
        self.asked_to_lead_at = NEVER
        """When a leader asked this node last to stand for election in its place."""
        self.heard_commit = 0
        """The highest commit index that a leader told this node."""
        self.outbox: list[tuple[Node, Message]] = []
        self.tally = Tally()
        self.on_change: Callable[[], None] = lambda: None
        """Called after role, term, leader or membership changed."""
        self.stands_back: Callable[[RaftId], bool] = lambda raft_id: False
        """See `Replica`."""
        self._is_short = False
        self._free_bytes: int | None = None
        self._nodes: dict[str, Node] = {raft_id: self.me}

    def node(self, raft_id: RaftId) -> Node:
        """The one object for a raft id."""
        node = self._nodes.get(raft_id)
        if node is None:
            node = self._nodes[raft_id] = Node(raft_id)
        return node

    def send(self, node: Node, message: Message) -> None:
        """Queue a message; it leaves in this tick: see `Replica._turn`."""
        self.outbox.append((node, message))

    def set_space(self, *, is_short: bool, free_bytes: int | None) -> None:
        """How much space the node's disk has: is_short: too little for new entries."""
        self._is_short, self._free_bytes = is_short, free_bytes

    def is_short(self) -> bool:
        """True while this node's disk takes no new entries."""
        return self._is_short or self.journal.is_short()

    def has_room_for(self, size: int) -> bool:
        """Whether the disk takes entries of so many bytes, which go through the WAL into the journal."""
        return not self.is_short() and (self._free_bytes is None or 3 * size <= self._free_bytes)

    def disk(self) -> DiskState:
        """This node's own disk."""
        return DiskState(self.journal.sync_ms(), self.is_short(), self._free_bytes)

    def lead(self) -> int:
        """The term in which this node leads; 0: it does not."""
        return self.engine.term() if self.engine.is_leader() else 0

    def leader(self) -> RaftId | None:
        """The leader, this node too, as far as it knows; None when it was not heard from lately."""
        if self.engine.is_leader():
            return self.raft_id
        leader = self.live_leader()
        return None if leader is None else leader.id

    def live_leader(self) -> Node | None:
        """The other node that leads: there is a link with it, and it acted as leader recently.

        A leader that lost its majority falls silent without telling anybody.
        """
        engine = self.engine
        leader = engine.leader()
        if leader is None or leader == self.me or leader not in engine.connected:
            return None
        silent_s = self.clock() - self.leader_seen_at
        return leader if silent_s <= self.timing.leader_fallback_s else None

    def patience_s(self) -> float:
        """How much longer than other voters this one waits before it stands for election."""
        return self.timing.stand_back_s if self.stands_back(self.raft_id) else 0.0

    def follow_peer(self, node: Node) -> None:
        """Keep a progress of this voter or learner, if there is none yet."""
        if node not in self.progress:
            self.progress[node] = Progress(self.journal.last_index + 1)

    def forget_peer(self, node: Node) -> None:
        """It is no longer voter or learner, or it is gone."""
        self.progress.pop(node).reset_flow()
