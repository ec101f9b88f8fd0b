"""The vendor's Raft core, with its holes closed from outside.

This is the only module that imports pysyncobj or touches its private
attributes.  Everything here was read in version 0.3.17; `VENDOR_SHA256` and
`OVERRIDDEN` pin that reading, and a test fails when the installed source
differs, so that a new release is read before it is trusted.

What stays the vendor's: elections (`_onTick`), the commit rule, the apply
loop, vote granting, log append and truncation.  What is replaced: how entries
are sent and acknowledged, configuration, snapshots, compaction, commands.
The numbered rows in comments are those of ``DESIGN.md``.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Protocol

import pysyncobj.syncobj as vendor
from pysyncobj.config import FAIL_REASON, SyncObjConf
from pysyncobj.node import Node as _VendorNode
from pysyncobj.transport import Transport

from cyoloctl.errors import InternalError
from cyoloctl.model import RaftId
from cyoloctl.raft.journal import Entry, Journal
from cyoloctl.raft.progress import Progress

__all__ = [
    "MEMBERSHIP",
    "NO_OP",
    "OVERRIDDEN",
    "REGULAR",
    "STAMPED",
    "SUCCESS",
    "VENDOR_SHA256",
    "EngineOwner",
    "Node",
    "VendorEngine",
    "decode_membership",
    "encode_membership",
]

VENDOR_SHA256 = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"

# Digest of the source of each method that is overridden, and of those whose inner order is relied on.
OVERRIDDEN: dict[str, str] = {
    "_SyncObj__applyLogEntries": "073db677773b5a2dddf17cc51f84ac8803ed456da0f0011e15240d6bd1600684",
    "_SyncObj__doApplyCommand": "1ea7aa506e950d0aecc7aa7ea750a6fc1164cbff9b208784fe4724dfe1ec91dc",
    "_SyncObj__doChangeCluster": "247d4d4101b8cd3ce82232ec9cf69d3556c78df7e6d0002a277d38676e630350",
    "_SyncObj__generateRaftTimeout": "92ed37d3620e781a15680bc5af8a1983a2c265c42aef4322d403001319bbb1a7",
    "_SyncObj__onBecomeLeader": "5a3fd97bc17dc1cf3070b007538b6a8d46adb71f0b6523f3922dc953420645e8",
    "_SyncObj__onLeaderChanged": "53b7685e1d897887fe7d32a74e2d02eacba30cc7bf916b1a4dbf100eba8f1ec0",
    "_SyncObj__onMessageReceived": "ddfe34b6c02821795146dc533fb7c0fcf6574a082a68a227b4c885c9e14be206",
    "_SyncObj__parseChangeClusterRequest": "b2d5d695b12e592fd32dc956415884096f7d13cd8f7b2cf69d4b8d3c2bb0178f",
    "_SyncObj__sendAppendEntries": "9cb9073128c392fa9e5efc4691420ba435bfafb4c74e83a34f931fa16aa760c6",
    "_SyncObj__sendNextNodeIdx": "68aaeefc267b8896bc1074280ac2aa014c3306d9f207949ed945569cef5d114c",
    "_SyncObj__setCurrentTerm": "0ad5bf456ac06bd314d2dbc8991c6b6240e63bf33aaa975620aa84a7079d5f39",
    "_SyncObj__tryLogCompaction": "c2f8a0ec14cc7312e3ff41a16cde9be71ff0f908bd66aec9e2673d97a775be2c",
    "__init__": "09df12cd7fd7d7270fee82c1a025acc1f3a68e98dafbad81be467947ab95cbf0",
    "_checkCommandsToApply": "a386a8079361d204f2c11f895416548c432a254671a9114258921c25108a966e",
    "_onTick": "cc9eb08232d005ba4e21a33ec453e5d02fe3537dadebda8571406c57f65a3c37",
}

REGULAR = b"\x00"  # commands in a log of release 0.1.0
NO_OP = b"\x01"
MEMBERSHIP = b"\x02"
STAMPED = b"\x03"  # commands, with the time at which the leader appended them
SUCCESS = FAIL_REASON.SUCCESS

_FOLLOWER, _CANDIDATE, _LEADER = 0, 1, 2  # pysyncobj.syncobj._RAFT_STATE

_MEMBERSHIP_OPERATIONS = ("add", "demote", "remove")


def encode_membership(operation: str, raft_id: RaftId) -> bytes:
    """A membership entry: operation is ``add``, ``demote`` or ``remove``."""
    if operation not in _MEMBERSHIP_OPERATIONS:
        raise InternalError(f"unknown membership operation {operation!r}")
    return MEMBERSHIP + json.dumps([operation, raft_id]).encode("ascii")


def decode_membership(command: bytes) -> tuple[str, RaftId] | None:
    """The operation and raft id of a membership entry, or None.

    Total: bytes that are no well-formed membership entry change nothing, on
    every node alike.
    """
    if command[:1] != MEMBERSHIP:
        return None
    try:
        operation, raft_id = json.loads(command[1:])
    except (ValueError, TypeError, RecursionError):
        return None
    if operation not in _MEMBERSHIP_OPERATIONS or not isinstance(raft_id, str):
        return None
    return operation, RaftId(raft_id)


class Node(_VendorNode):  # type: ignore[misc]  # the vendor is untyped
    """A member, as the vendor knows it.  One object for each raft id of a replica.

    The vendor's own spends a call of Python on every hash, comparison and
    look at the id, dozens of times per write; here they are the object's.
    """

    id = RaftId("")
    __hash__ = object.__hash__
    __eq__ = object.__eq__
    __ne__ = object.__ne__

    def __init__(self, raft_id: RaftId) -> None:
        super().__init__(raft_id)
        object.__setattr__(self, "id", raft_id)


class EngineOwner(Protocol):
    """The replica that drives the engine, as the engine calls it."""

    def send(self, node: Node, message: dict[str, Any]) -> None: ...
    def replicate(self, *, heartbeat: bool) -> None: ...
    def append_pending(self) -> None: ...
    def before_applying(self) -> None: ...
    def maybe_compact(self) -> None: ...
    def apply_entry(self, index: int, command: bytes) -> Any: ...
    def on_become_leader(self) -> None: ...
    def on_membership_logged(self) -> None: ...
    def on_truncated(self, index: int) -> None: ...


class _JournalView:
    """Our journal as the vendor spells it.

    The vendor addresses entries by list position; the journal by log index.
    """

    def __init__(self, journal: Journal, owner: EngineOwner) -> None:
        self._journal = journal
        self._owner = owner

    def add(self, command: bytes, idx: int, term: int) -> None:
        self._journal.append(idx, term, command)
        if command[:1] == MEMBERSHIP:
            self._owner.on_membership_logged()

    def deleteEntriesFrom(self, position: int) -> None:
        index = self._journal.first_index + position
        self._journal.truncate_from(index)
        self._owner.on_truncated(index)

    def __getitem__(self, item: Any) -> Any:
        return self._journal.entries[item]

    def __len__(self) -> int:
        return len(self._journal.entries)

    def setRaftCommitIndex(self, index: int) -> None:
        self._journal.set_commit_index(index)

    def getRaftCommitIndex(self) -> int:
        return self._journal.commit_index

    def setCurrentTerm(self, term: int, voted_for: str | None) -> None:
        self._journal.set_term(term, voted_for)

    def getCurrentTerm(self) -> int:
        return self._journal.term

    def getVotedForNodeId(self) -> str | None:
        return self._journal.vote

    def onOneSecondTimer(self) -> None:
        pass

    def _destroy(self) -> None:
        pass

    # Never called: compaction and snapshot install are ours (rows 5, 6, 7, 13).
    def clear(self) -> None:
        raise InternalError("the engine tried to clear the journal")

    def deleteEntriesTo(self, position: int) -> None:
        raise InternalError("the engine tried to compact the journal")


def _to_vendor(message: dict[str, Any]) -> dict[str, Any]:
    """A peer's message in the vendor's words."""
    kind = message["type"]
    if kind == "append_entries":
        theirs = {"type": kind, "term": message["term"], "commit_index": message["leader_commit"]}
        if "entries" in message:
            theirs["prevLogIdx"] = message["prev_log_index"]
            theirs["prevLogTerm"] = message["prev_log_term"]
            theirs["entries"] = message["entries"]
        return theirs
    if kind == "vote_response":
        return {"type": "response_vote", "term": message["term"]}
    return message  # request_vote and timeout_now: the same in both


def _from_vendor(message: dict[str, Any]) -> dict[str, Any]:
    """The vendor's own messages in our words: requests for votes, and votes."""
    if message["type"] == "response_vote":
        return {"type": "vote_response", "term": message["term"]}
    return message


class _Outbox(Transport):  # type: ignore[misc]  # the vendor is untyped
    """The vendor's way out: messages go to the owner, which persists before it sends."""

    ready = True

    def __init__(self, owner: EngineOwner) -> None:
        super().__init__(None, None, [])
        self._owner = owner

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self._owner.send(node, _from_vendor(message))
        return True

    def tryGetReady(self) -> None:
        pass

    def addNode(self, node: Node) -> None:
        pass

    def dropNode(self, node: Node) -> None:
        pass

    def destroy(self) -> None:
        pass


class _Column:
    """One field of the peers' progress, as the dictionary by node that the vendor keeps."""

    def __init__(self, progress: dict[Node, Progress], field: str) -> None:
        self._progress = progress
        self._read = attrgetter(field)
        self._field = field

    def __getitem__(self, node: Node) -> Any:
        return self._read(self._progress[node])

    def __setitem__(self, node: Node, value: Any) -> None:
        setattr(self._progress[node], self._field, value)

    def clear(self) -> None:
        """The vendor clears the times of the last answers when it becomes leader, and sets them again."""


class _NoPoller:
    """Sockets belong to asyncio; the vendor polls nothing."""

    def poll(self, timeout: float) -> None:
        pass


class _SyncObj(vendor.SyncObj):  # type: ignore[misc]  # the vendor is untyped
    """The vendor's class.  Its name makes ``self.__x`` mean the vendor's own ``__x``.

    Python spells a private name ``_Class__x`` after the class that the code
    stands in, without leading underscores: here ``_SyncObj__x``, as in the
    vendor's ``SyncObj``.
    """

    # Read in every turn, some of them dozens of times.
    __raftState: int
    __raftCurrentTerm: int
    __raftCommitIndex: int
    __raftLastApplied: int
    __raftLeader: Node | None
    __noopIDx: int
    __raftElectionDeadline: float
    __newAppendEntriesTime: float
    __transferInProgress: bool

    def __init__(
        self,
        me: Node,
        *,
        owner: EngineOwner,
        journal: Journal,
        clock: Callable[[], float],
        rng: random.Random,
        heartbeat_s: float,
        election_min_s: float,
        election_max_s: float,
        leader_fallback_s: float,
        progress: dict[Node, Progress],
        patience_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """progress: of every other voter and every learner, and of nobody else.

        patience_s: added to every election timeout.
        """
        self._owner = owner
        self._clock = clock
        self._rng = rng
        self._patience_s = patience_s
        conf = SyncObjConf(
            autoTick=False,
            dynamicMembershipChange=True,
            useFork=False,
            appendEntriesPeriod=heartbeat_s,
            raftMinTimeout=election_min_s,
            raftMaxTimeout=election_max_s,
            leaderFallbackTimeout=leader_fallback_s,  # row 15: stock keeps a cut-off leader for 30 s
            connectionTimeout=max(3.5, election_max_s),
            appendEntriesBatchSizeBytes=2**20,  # row 22: above the largest command
            journalFile=_JournalView(journal, owner),
        )
        self._set_time()
        stock_create_journal = vendor.createJournal
        vendor.createJournal = lambda view: view
        try:
            super().__init__(me, [], conf, transport=_Outbox(owner))
        finally:
            vendor.createJournal = stock_create_journal
        self._poller = _NoPoller()
        self.__needLoadDumpFile = False  # our snapshot store loads it, and refuses what is damaged (row 12)
        # The vendor changes these in place and never rebinds them.
        self.__raftNextIndex = _Column(progress, "next_index")
        self.__raftMatchIndex = _Column(progress, "match_index")
        self.__lastResponseTime = _Column(progress, "last_heard")
        self.connected: set[Node] = self.__connectedNodes
        self.waiting_commit: dict[int, list[tuple[int, Any]]] = self.__commandsWaitingCommit

    def _set_time(self) -> None:
        """The vendor reads the time through a module global: point it at this replica's clock.

        Before each call into vendor code that looks at the time; several replicas may share a process.
        """
        vendor.monotonicTime = self._clock

    # Plain methods, not properties: the vendor's constructor evaluates every attribute of the class.

    def is_leader(self) -> bool:
        return self.__raftState == _LEADER

    def is_candidate(self) -> bool:
        return self.__raftState == _CANDIDATE

    def term(self) -> int:
        return self.__raftCurrentTerm

    def leader(self) -> Node | None:
        return self.__raftLeader

    def commit_index(self) -> int:
        return self.__raftCommitIndex

    def applied_index(self) -> int:
        return self.__raftLastApplied

    def no_op_index(self) -> int:
        """Index of the no-op of this node's term (only while leader)."""
        return self.__noopIDx

    def others(self) -> set[Node]:
        """The other voters, as the log says."""
        return self.__otherNodes

    def readonly(self) -> set[Node]:
        return self.__readonlyNodes

    def set_others(self, nodes: set[Node]) -> None:
        self.__otherNodes = nodes

    def set_readonly(self, nodes: set[Node]) -> None:
        self.__readonlyNodes = nodes

    def election_deadline(self) -> float:
        return self.__raftElectionDeadline

    def set_election_deadline(self, at: float) -> None:
        self.__raftElectionDeadline = at

    def restart_election_timer(self) -> None:
        self.__raftElectionDeadline = self._clock() + self.__generateRaftTimeout()

    def heartbeat_due(self) -> float:
        return self.__newAppendEntriesTime

    def transfer_requested(self) -> bool:
        """True from a leader's timeout_now until the election that it asks for."""
        return self.__transferInProgress

    def set_applied(self, index: int) -> None:
        """After a snapshot was restored: everything up to index is applied and committed."""
        self.__raftLastApplied = index
        if self.commit_index() < index:
            self.__raftCommitIndex = index
            self.__raftLog.setRaftCommitIndex(index)

    def step_down(self, term: int) -> None:
        """Follow a higher term that a message showed (Raft paper, figure 2, rules for all servers)."""
        self.__setCurrentTerm(term, None)
        self.__setState(_FOLLOWER)
        self.__raftLeader = None
        self.restart_election_timer()

    def deliver(self, node: Node, message: dict[str, Any]) -> None:
        """Hand the vendor a message that the replica has checked and trimmed."""
        self._set_time()
        self.__onMessageReceived(node, _to_vendor(message))

    def hear(self, node: Node, term: int) -> None:
        """Follow the leader of a term, this one's or a later one: what a message without entries does."""
        if term == self.__raftCurrentTerm and node == self.__raftLeader and not self.__transferInProgress:
            self.restart_election_timer()  # all that is left of it, as it was heard before
        else:
            commit = self.__raftCommitIndex
            self.deliver(node, {"type": "append_entries", "term": term, "leader_commit": commit})

    def extend(self, node: Node, entries: list[Entry], commit: int) -> None:
        """Log what follows the last entry here, and acknowledge it to the leader, who was heard.

        As `deliver` does it, which asks first what is known by now.  commit: at most their last index.
        """
        for command, index, term in entries:
            self.__raftLog.add(command, index, term)
        self.__sendNextNodeIdx(node, nextNodeIdx=entries[-1][1] + 1, success=True)
        self.__leaderCommitIndex = commit
        if commit > self.__raftCommitIndex:
            self.__raftCommitIndex = commit
            self.__raftLog.setRaftCommitIndex(commit)

    def append_command(self, command: bytes, callback: Callable[[Any, int], None] | None) -> int:
        """Append to this node's log as leader; callback gets (result, FAIL_REASON) once it is settled."""
        index, term = self.__raftLog[-1][1] + 1, self.__raftCurrentTerm
        self.__raftLog.add(command, index, term)
        if callback is not None:
            self.__commandsWaitingCommit[index].append((term, callback))
        return int(index)

    def send_acknowledgement(
        self, node: Node, *, next_index: int, success: bool, reset: bool = False
    ) -> None:
        self.__sendNextNodeIdx(node, reset=reset, nextNodeIdx=next_index, success=success)

    def run_tick(self, *, may_campaign: bool) -> None:
        """One tick of the vendor.

        Row 26: the vendor compares the election deadline with the clock
        again, after we looked.  Unless an election was granted, the deadline
        is out of reach while it runs.
        """
        self._set_time()
        saved = self.__raftElectionDeadline
        if may_campaign:
            super()._onTick(0.0)
            return
        self.__raftElectionDeadline = math.inf
        try:
            super()._onTick(0.0)
        finally:
            if self.__raftElectionDeadline == math.inf:
                self.__raftElectionDeadline = saved

    # What the vendor calls, replaced.

    def _checkCommandsToApply(self) -> None:
        self._owner.append_pending()

    def __generateRaftTimeout(self) -> float:
        low, high = self.conf.raftMinTimeout, self.conf.raftMaxTimeout
        return float(low + (high - low) * self._rng.random()) + self._patience_s()

    def __sendNextNodeIdx(
        self, node: Node, reset: bool = False, nextNodeIdx: int | None = None, success: bool = False
    ) -> None:
        # Row 8: acknowledgements carry their term.
        if nextNodeIdx is None:
            nextNodeIdx = self.__raftLog[-1][1] + 1
        self._owner.send(
            node,
            {
                "type": "append_response",
                "term": self.__raftCurrentTerm,
                "next_index": nextNodeIdx,
                "reset": reset,
                "success": success,
            },
        )

    def __sendAppendEntries(self) -> None:
        self.__newAppendEntriesTime = self._clock() + self.conf.appendEntriesPeriod
        self._owner.replicate(heartbeat=True)

    def __tryLogCompaction(self) -> None:
        self._owner.maybe_compact()

    def __applyLogEntries(self) -> Any:
        self._owner.before_applying()
        return super().__applyLogEntries()

    def __doApplyCommand(self, command: bytes) -> Any:
        # Row 11: the owner's apply is total; the vendor would retry an exception endlessly.
        return self._owner.apply_entry(self.__raftLastApplied + 1, command)

    def __onBecomeLeader(self) -> None:
        self._owner.on_become_leader()
        super().__onBecomeLeader()

    # Row 4: configuration follows the log (Membership.reconfigure), never these.

    def __parseChangeClusterRequest(self, command: bytes) -> None:
        return None

    def __doChangeCluster(self, request: Any, reverse: bool = False) -> bool:
        return False

    def __onLeaderChanged(self) -> None:
        pass  # row 9: forwarding is the replica's own


VendorEngine = _SyncObj
