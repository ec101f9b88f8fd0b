"""The voters, learners and removed nodes that the log names, committed or not (row 4).

The configuration is the snapshot's, then every membership entry above it.  A
connected node that is neither voter nor removed is a learner.  One change at a
time (row 3), and none before the no-op of its term is applied.  None either
before a majority of those that would vote then has answered: see `rollcall.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cyoloctl.errors import Conflict, CyoloctlError, NoLeader, NotFound
from cyoloctl.model import RaftId, is_in_memory, majority, name_of
from cyoloctl.raft.core import Core
from cyoloctl.raft.handover import Handover
from cyoloctl.raft.proposals import Done
from cyoloctl.raft.rollcall import RollCall
from cyoloctl.raft.snapshot import SnapshotMeta
from cyoloctl.raft.vendor import Node, decode_membership, encode_membership

__all__ = ["Configuration", "Membership"]

_log = logging.getLogger("cyoloctl.raft")


@dataclass(frozen=True, slots=True)
class Configuration:
    """Raft ids of the voters, and of the members that were removed."""

    voters: frozenset[RaftId]
    removed: frozenset[RaftId]

    def after(self, change: tuple[str, RaftId]) -> Configuration:
        """The configuration that a membership entry makes of this one; change: operation, raft id."""
        operation, raft_id = change
        if operation == "add":
            if raft_id in self.removed:
                return self  # a name is never reused
            return Configuration(self.voters | {raft_id}, self.removed)
        removed = self.removed
        if operation == "remove":
            removed = without_lives_of(raft_id, removed) | {raft_id}
        return Configuration(self.voters - {raft_id}, removed)


def without_lives_of(raft_id: RaftId, removed: frozenset[RaftId]) -> frozenset[RaftId]:
    """Drop a name's other raft ids ``name~boot``: one is kept for each name, however often it restarts.

    Nobody can add an earlier life again: its process forgot everything, ids
    are random, and only the id that the member announced last is made a voter.
    """
    if not is_in_memory(raft_id):
        return removed
    name = name_of(raft_id)
    return frozenset(other for other in removed if not (is_in_memory(other) and name_of(other) == name))


def one_life_each(removed: Iterable[RaftId]) -> frozenset[RaftId]:
    """The same for what release 0.1.0 wrote, which kept them all."""
    kept = {name_of(raft_id) if is_in_memory(raft_id) else raft_id + "~": raft_id for raft_id in removed}
    return frozenset(kept.values())


class Membership:
    """The configuration of one replica, and the changes of it that are under way."""

    def __init__(self, core: Core, genesis: frozenset[RaftId], handover: Handover) -> None:
        """genesis: voters before the first log entry."""
        self._core = core
        self._handover = handover
        self.base = Configuration(genesis, frozenset())
        """The configuration of the snapshot, or genesis."""
        self.base_index = 1
        self.current = self.base
        """The configuration in force: that of the last entry of the log."""
        self.applied = self.base
        """The configuration of the last applied entry."""
        self.voter_names: frozenset[str] = frozenset()
        self._changes: list[tuple[int, tuple[str, RaftId]]] = []  # above the base, by index
        self._waiting: dict[int, tuple[int, Done]] = {}  # by index: the term of the change, and who asked
        self.roll_call = RollCall(core)
        self.considered: frozenset[RaftId] = frozenset()
        """The voters if the change is made before which the roll is called; none otherwise."""

    def is_voter(self) -> bool:
        """True while its log makes this node a voter (rows 4 and 10)."""
        return self._core.raft_id in self.current.voters

    def is_changing(self) -> bool:
        """True while a change in its log is not applied yet."""
        return bool(self._changes) and self._changes[-1][0] > self._core.engine.applied_index()

    # What the log says.

    def load(self) -> None:
        """At the start: every membership entry above the base."""
        self._changes = [
            (index, change)
            for command, index, _ in self._core.journal.entries
            if index > self.base_index and (change := decode_membership(command)) is not None
        ]
        self.applied = self.base
        self.reconfigure()

    def logged(self, index: int, command: bytes) -> None:
        """A membership entry was appended to the log: it holds from now on."""
        change = decode_membership(command)
        if change is not None:
            self._changes.append((index, change))
            self.reconfigure()

    def truncated(self, index: int) -> None:
        """Entries from index on left the log: so do the configurations that they brought."""
        if self._changes and self._changes[-1][0] >= index:
            self._changes = [item for item in self._changes if item[0] < index]
            self.reconfigure()

    def replace(self, meta: SnapshotMeta) -> None:
        """A received snapshot takes the place of the log; `reconfigure` follows."""
        self._changes = []
        self.rebase(meta)
        self.applied = self.base

    def stop_leading(self) -> None:
        """This node stops telling others of removals."""
        parting = [progress for progress in self._core.progress.values() if progress.parting is not None]
        for progress in parting:
            progress.parting = None
        if parting:
            self.derive_learners()

    def abandon(self, error: CyoloctlError) -> None:
        """Answer whoever waits for a change with the error."""
        self.roll_call.end(NoLeader("the change of the members was not begun: try again"))
        waiting, self._waiting = self._waiting, {}
        for _, done in waiting.values():
            done(None, error)

    def rebase(self, meta: SnapshotMeta) -> None:
        self.base = Configuration(frozenset(meta.voters), one_life_each(sorted(meta.removed)))
        self.base_index = meta.index
        self._changes = [item for item in self._changes if item[0] > meta.index]

    def _configuration_at(self, index: int) -> Configuration:
        configuration = self.base
        for position, change in self._changes:
            if position > index:
                break
            configuration = configuration.after(change)
        return configuration

    def reconfigure(self) -> None:
        """Make the engine's set of voters what the log says."""
        engine = self._core.engine
        self.current = self._configuration_at(self._core.journal.last_index)
        others = {self._core.node(raft_id) for raft_id in self.current.voters} - {self._core.me}
        for node in others - engine.others():
            self._core.follow_peer(node)
            if engine.is_leader():
                self._core.progress[node].count_as_voter(self._core.clock())
        engine.set_others(others)
        self.voter_names = frozenset(name_of(raft_id) for raft_id in self.current.voters)
        self.derive_learners()

    def derive_learners(self) -> None:
        """Learners rule 2: connected, no voter, not removed by an applied entry."""
        engine = self._core.engine
        removed = self.applied.removed
        readonly = {
            node
            for node in engine.connected - engine.others()
            if node != self._core.me and (node.id not in removed or self._is_parting(node))
        }
        for node in readonly - engine.readonly():
            self._core.follow_peer(node)
            self._core.progress[node].lose_certainty()
        engine.set_readonly(readonly)
        for node in self._core.progress.keys() - readonly - engine.others():
            self._core.forget_peer(node)
        self._core.peers = sorted((engine.others() | readonly) & engine.connected, key=lambda node: node.id)

    def _is_parting(self, node: Node) -> bool:
        progress = self._core.progress.get(node)
        return progress is not None and progress.parting is not None

    def withheld_from(self, raft_id: RaftId) -> int | None:
        """The uncommitted entry that takes this voter's vote; it is sent that only once it is committed.

        Otherwise it might hold the longest log and, by that log, stand for no election: if the leader
        died then, nobody could be elected.
        """
        commit = self._core.engine.commit_index()
        for index, (operation, target) in reversed(self._changes):
            if index <= commit:
                return None
            if target == raft_id and operation != "add":
                return index
        return None

    def add_voter(self, raft_id: RaftId, callback: Done) -> None:
        """Make a learner that has caught up a voter.  Leader only.

        callback(index, error): Conflict when refused (a change is in progress,
        not connected, removed, an earlier life is a voter, too far behind, no answer),
        NoLeader when this is not the leader.
        """
        node = self._core.node(raft_id)
        engine = self._core.engine
        if raft_id in self.current.voters and raft_id in self.applied.voters:
            callback(engine.applied_index(), None)
            return
        if raft_id in self.current.removed:
            callback(None, Conflict(f"{raft_id} was removed: join again under a new name"))
            return
        if engine.is_leader() and node not in engine.readonly():
            callback(None, Conflict(f"{raft_id} is not connected to the leader"))
            return
        earlier = [each for each in self.current.voters if name_of(each) == name_of(raft_id)]
        if earlier and raft_id not in earlier:
            # It is dead: beside the new one, one more of the living would have to agree to everything.
            callback(None, Conflict(f"{earlier[0]}, an earlier life of it, is still a voter: it goes first"))
            return
        progress = self._core.progress.get(node)
        match = 0 if progress is None else progress.match_index
        lag = self._core.journal.last_index - match
        if engine.is_leader() and (match == 0 or lag > self._core.limits.promote_lag):
            callback(None, Conflict(f"{raft_id} has not caught up yet"))
            return
        self._change("add", raft_id, callback)

    def remove(self, raft_id: RaftId, callback: Done, *, force: bool = False) -> None:
        """Remove a voter or learner permanently.  Leader only; never the leader itself.

        Conflict, unless force: no majority of the voters that would be left
        answers, so that the removal could never be committed.
        """
        if raft_id in self.current.removed and raft_id in self.applied.removed:
            callback(self._core.engine.applied_index(), None)
            return
        self._change("remove", raft_id, callback, force=force)

    def demote(self, raft_id: RaftId, callback: Done) -> None:
        """Make a voter a learner.  Leader only; never the leader itself."""
        if raft_id not in self.current.voters and raft_id not in self.applied.voters:
            callback(None, NotFound(f"{raft_id} is not a voter"))
            return
        self._change("demote", raft_id, callback)

    def _change(self, operation: str, raft_id: RaftId, callback: Done, *, force: bool = False) -> None:
        """Make a change, after the roll was called unless it is forced or no voter's."""
        if not self._is_possible(raft_id, callback):
            return
        before, after = self.current.voters, self.current.after((operation, raft_id)).voters
        if force or before == after:
            self._append(operation, raft_id, callback)
            return
        others = {self._core.node(each) for each in after} - {self._core.me}
        added = others - {self._core.node(each) for each in before}
        if added:
            refusal = f"{raft_id} does not answer, or no majority of the voters does: try again"
        else:
            refusal = f"without {raft_id} no majority of the voters is reachable"

        def enough(answered: Collection[Node]) -> bool:
            return added.issubset(answered) and 1 + len(answered) >= majority(len(after))

        def called(error: CyoloctlError | None) -> None:
            self.considered = frozenset()
            if error is not None:
                callback(None, error)
            elif self._is_possible(raft_id, callback):
                self._append(operation, raft_id, callback)

        self.considered = after
        self.roll_call.begin(others, enough, called, refusal=Conflict(refusal))

    def _is_possible(self, raft_id: RaftId, callback: Done) -> bool:
        """False, and the callback called, when no change of this member may begin now."""
        engine = self._core.engine
        refusal: CyoloctlError | None = None
        if self._core.failed is not None:
            refusal = self._core.failed
        elif not engine.is_leader():
            refusal = NoLeader("this node is not the leader")
        elif raft_id == self._core.raft_id:
            refusal = Conflict("the leader cannot remove itself: transfer leadership first")
        elif self._handover.is_going():
            refusal = Conflict("leadership is being transferred: try again")
        elif (
            self.roll_call.is_open()
            or engine.applied_index() < engine.no_op_index()
            or (self._changes and self._changes[-1][0] > engine.applied_index())
        ):
            # Row 3: one change at a time, and none before the no-op of this term is applied.
            refusal = Conflict("another membership change is in progress: try again")
        if refusal is not None:
            callback(None, refusal)
        return refusal is None

    def _append(self, operation: str, raft_id: RaftId, callback: Done) -> None:
        engine = self._core.engine
        index = engine.append_command(encode_membership(operation, raft_id), None)
        self._waiting[index] = (engine.term(), callback)

    def apply(self, index: int) -> None:
        removed_before = self.applied.removed
        self.applied = self._configuration_at(index)
        if self._core.engine.is_leader():
            # A removed node believes the entry itself: it gets that, and nothing further.
            for raft_id in self.applied.removed - removed_before:
                node = self._core.node(raft_id)
                if node in self._core.engine.connected and node in self._core.progress:
                    self._core.progress[node].parting = index
        self.derive_learners()
        waiting = self._waiting.pop(index, None)
        if waiting is not None:
            term, callback = waiting
            entry = self._core.journal.entry(index)
            if entry is not None and entry[2] == term:
                callback(index, None)
            else:
                callback(None, NoLeader("another leader replaced the membership change: try again"))
        if self.applied.removed != removed_before:
            _log.info(
                "members removed",
                extra={"index": index, "removed": sorted(self.applied.removed - removed_before)},
            )
        self._core.on_change()
