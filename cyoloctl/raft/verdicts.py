"""What a node believes of its peers and of its own place: see "What one peer's word is worth" in DESIGN.md.

Whose terms, votes and entries count, which process is a copy, who was removed,
and when this process must end: from its own log and state, or from a majority,
never from one peer's word.  Pure: the caller brings the time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from cyoloctl.model import RaftId, is_in_memory, majority, name_of
from cyoloctl.raft.peers import COPY, LEFT_BEHIND, OLDER, REMOVED, TOO_OLD, Hello, PeerInfo
from cyoloctl.raft.witnesses import Witnesses

__all__ = ["MembershipView", "Verdicts"]


class MembershipView(Protocol):
    """Nodes in the replicated state, as far as this node has applied it."""

    def is_removed(self, name: str) -> bool:
        """True when the name was removed from the cluster."""
        ...

    def is_left_behind(self, name: str) -> bool:
        """True when the cluster was recovered from a disk without it, and it may still live on."""
        ...

    def role(self, name: str) -> str | None:
        """``voter`` or ``learner``, as the node was admitted; None when it is unknown."""
        ...

    def stands_back(self, name: str) -> bool:
        """True for a voter that leads only where no other can."""
        ...

    def raft_id(self, name: str) -> RaftId | None:
        """The raft id that the node announced last; None when it is unknown."""
        ...

    def process(self, name: str) -> tuple[int, str, int] | None:
        """Boots and boot of the node's latest process, and an index that its disk held; None when unknown."""
        ...

    def level(self) -> int:
        """The level of the cluster: who understands less has no place in it."""
        ...


class OwnReplica(Protocol):
    """The node's own replica; see `Replica`."""

    @property
    def raft_id(self) -> RaftId: ...
    @property
    def disputed(self) -> tuple[RaftId, int, int] | None: ...
    def voters(self) -> frozenset[RaftId]: ...
    def removed_peers(self) -> frozenset[RaftId]: ...
    def forgot(self, raft_id: RaftId, term: int, last_index: int) -> bool: ...
    def fail_disputed(self) -> None: ...


class OwnLinks(Protocol):
    """The node's own links; see `Links`."""

    def peers(self) -> Mapping[str, PeerInfo]: ...
    def last_process(self, name: str) -> str | None: ...


class NobodyKnown:
    """The register of an engine without replicated members."""

    def is_removed(self, name: str) -> bool:
        """Nobody was removed."""
        return False

    def is_left_behind(self, name: str) -> bool:
        """Nobody was left behind."""
        return False

    def role(self, name: str) -> str | None:
        """Everybody may vote."""
        return "voter"

    def stands_back(self, name: str) -> bool:
        """Nobody stands back."""
        return False

    def raft_id(self, name: str) -> RaftId | None:
        """No raft id is known."""
        return None

    def process(self, name: str) -> tuple[int, str, int] | None:
        """No process is known."""
        return None

    def level(self) -> int:
        """Everybody understands everything."""
        return 1


class Verdicts:
    """The judgements of one process; `attach` what it looks at before the first.

    named: the other nodes in its configuration, whom it believes until its log holds its own place.
    """

    def __init__(
        self,
        name: str,
        boots: int,
        boot: str,
        *,
        register: MembershipView | None = None,
        stands_back: bool = False,
    ) -> None:
        """boots, boot: see `PeerIdentity`.  register: None: nobody is removed, and all may vote.

        stands_back: whether this node does, by its own configuration; the register may not be here yet.
        """
        self._stands_back = stands_back
        self._name, self._boots, self._boot = name, boots, boot
        self._register: MembershipView = register or NobodyKnown()
        self._witnesses = Witnesses()
        self._replica: OwnReplica
        self._links: OwnLinks
        self.named: frozenset[str] = frozenset()
        self._relayed: dict[str, frozenset[RaftId]] = {}

    def attach(self, replica: OwnReplica, links: OwnLinks) -> None:
        """Look at these from now on."""
        self._replica, self._links = replica, links

    def voter_names(self) -> frozenset[str]:
        """Names of the voters in this node's log."""
        return frozenset(name_of(raft_id) for raft_id in self._replica.voters())

    # Of peers.

    def may_lead(self, raft_id: RaftId) -> bool:
        """Whether a peer that is no voter in this node's log may be one by now."""
        if self._register.role(name_of(raft_id)) == "voter":
            return True
        peers = self._links.peers()
        # An earlier life of this very node, in memory, tells nothing.
        voters = self.voter_names() - {self._name}
        if any(raft_id in peers[name].voters for name in voters if name in peers):
            return True
        if (voters or self._replica.raft_id in self._replica.voters()) and not self._believes_named():
            return False
        said = sum(raft_id in self._voters_of(name, peers) for name in self.named)
        # Those that are as empty know nobody and have no say: members in memory that start together.
        empty = sum(
            bool(peers[name].pongs) and not peers[name].voters for name in self.named if name in peers
        )
        needed = majority(len(self.named) - empty)
        return not self.named or said >= needed

    def _believes_named(self) -> bool:
        """Whether the nodes that the configuration names are believed, though there is a log.

        The beginning of a log may name voters that are long gone, while the
        configuration is of the time when this node joined, or ran last.  Its
        own place in the log ends that time.
        """
        own = self._replica.raft_id
        has_place = own in self._replica.voters() or self._register.raft_id(self._name) == own
        return bool(self.named) and not has_place

    def _voters_of(self, name: str, peers: Mapping[str, PeerInfo]) -> frozenset[RaftId]:
        """The voters in the log of a node, by its own word: over a link, or signed and relayed."""
        return peers[name].voters if name in peers else self._relayed.get(name, frozenset())

    def unheard(self) -> list[str]:
        """Nodes that would be believed and have no link with this one, in order; none once it has a place."""
        return sorted(self.named - set(self._links.peers())) if self._believes_named() else []

    def relayed(self, name: str, voters: frozenset[RaftId]) -> None:
        """The voters in the log of a node without a link, which it has signed; none: its word is gone."""
        self._relayed[name] = voters

    def stands_back(self, raft_id: RaftId) -> bool:
        """Whether a voter, this node too, leads only where no other can."""
        name = name_of(raft_id)
        return (name == self._name and self._stands_back) or self._register.stands_back(name)

    def is_removed(self, raft_id: RaftId) -> bool:
        """True when a committed entry removed it, by its name or as this raft id.

        A node whose log is in memory has a new raft id with each start: the name holds for all of them.
        """
        return raft_id in self._replica.removed_peers() or self._register.is_removed(name_of(raft_id))

    def removal(self, raft_id: RaftId) -> str | None:
        """How a node that is no member any more lost its place: see `LinkHandler`."""
        if not self.is_removed(raft_id):
            return None
        return LEFT_BEHIND if self._register.is_left_behind(name_of(raft_id)) else REMOVED

    def refusal(self, hello: Hello) -> str | None:
        """Why a process must be kept out.

        Its disk is a copy, or older than what its node acknowledged, or its release is below the level.
        """
        if hello.level < self._register.level():
            return TOO_OLD
        if is_in_memory(hello.raft_id):
            return None
        known = self._register.process(hello.name)
        if known is not None:
            boots, boot, _ = known
            if hello.boots == boots and hello.boot != boot:
                return COPY
            if hello.boots < boots or _holds_less(known, hello.boot, hello.last_index):
                return OLDER
        if hello.boot != self._links.last_process(hello.name) and self._replica.forgot(
            hello.raft_id, hello.term, hello.last_index
        ):
            return OLDER
        return None

    def copies(self) -> Iterator[str]:
        """Names of connected peers whose process the register, as it is by now, knows to run on a copy.

        Two copies that started at once may each have found a peer that had not heard of the other.
        """
        for name, info in self._links.peers().items():
            if self._is_copy(name, info.boots, info.boot):
                yield name

    def doubtful(self) -> Iterator[str]:
        """Names of connected peers that said hello before the register knew that their disk had held more.

        Each has to say hello again: an honest one holds that much by now.  So has whoever went back to an
        earlier release while the level was raised.
        """
        level = self._register.level()
        for name, info in self._links.peers().items():
            if info.level < level:
                yield name
                continue
            known = self._register.process(name)
            if known is not None and info.boots and _holds_less(known, info.boot, info.last_index):
                yield name

    def _is_copy(self, name: str, boots: int, boot: str) -> bool:
        """Whether the register knows a later process, or another one that was counted the same."""
        known = self._register.process(name)
        if known is None or not boots:
            return False
        return known[0] > boots or (known[0] == boots and known[1] != boot)

    # Of this process.

    def took_in(self, name: str) -> None:
        """A peer has a link with this process."""
        self._witnesses.withdrawn(name)

    def kept_out_by(self, now: float) -> dict[str, str]:
        """Peers that keep this process out at present, and why; no majority yet."""
        return self._witnesses.said(now)

    def kept_out(self, peer: str, reason: str, now: float) -> str | None:
        """A peer keeps this process out: the reason to end, once a majority of the voters says so."""
        self._witnesses.heard(peer, reason, now)
        return self._witnesses.verdict(self._judges(), now)

    def _judges(self) -> Collection[str]:
        return self.voter_names() or self.named

    def settle_dispute(self) -> None:
        """Whose log is wrong, a majority of the voters decides: whom they follow (row 1)."""
        disputed = self._replica.disputed
        if disputed is None:
            return
        leader = name_of(disputed[0])
        peers, voters = self._links.peers(), self.voter_names()
        following = [
            name
            for name in voters
            if name in peers and (name == leader or peers[name].info.get("leader") == leader)
        ]
        if len(following) >= majority(len(voters)):
            self._replica.fail_disputed()

    def end(self) -> str | None:
        """Why this process has no place in the cluster, by what it has applied itself; None: it has one."""
        if self.is_removed(self._replica.raft_id):
            return REMOVED
        return COPY if self._is_copy(self._name, self._boots, self._boot) else None


def _holds_less(known: tuple[int, str, int], boot: str, last_index: int) -> bool:
    """Whether a process whose log ended there lacks what the register knows its disk to have held.

    What the registered process itself said when it dialled may arrive after it was registered.
    """
    return boot != known[1] and last_index < known[2]
