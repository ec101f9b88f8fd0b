"""The leader's side of replication: which entries go to whom, and what their answers mean."""

from __future__ import annotations

import math
from typing import NamedTuple

from cyoloctl.errors import InternalError
from cyoloctl.raft.core import Core
from cyoloctl.raft.elections import Elections
from cyoloctl.raft.handover import Handover
from cyoloctl.raft.journal import Entry
from cyoloctl.raft.membership import Membership
from cyoloctl.raft.messages import Message
from cyoloctl.raft.progress import PROBE, REPLICATE, SNAPSHOT, Progress
from cyoloctl.raft.snapshotting import Snapshotting
from cyoloctl.raft.vendor import Node

__all__ = ["Replication"]

_ENTRY_OVERHEAD_BYTES = 32
_MAX_ENTRIES = 1024


class _Part(NamedTuple):
    """Entries on their way.  key: start and end, commit index and term.  size: bytes, for the window."""

    key: tuple[int, int, int, int]
    message: Message
    last_index: int
    size: int


class Replication:
    """Sends entries to the peers of one replica while it leads."""

    def __init__(
        self,
        core: Core,
        membership: Membership,
        snapshotting: Snapshotting,
        handover: Handover,
        elections: Elections,
    ) -> None:
        self._core = core
        self._membership = membership
        self._snapshotting = snapshotting
        self._handover = handover
        self._elections = elections
        self._notice_at = math.inf
        self._latest: _Part | None = None

    def reset(self) -> None:
        """Another leadership begins, or this one ended: nothing is known of any peer."""
        self._latest = None
        for progress in self._core.progress.values():
            progress.reset()
        self._core.acknowledged.clear()
        self._notice_at = math.inf

    def next_deadline(self) -> float:
        """When idle followers must be told of a new commit index; inf while they know it."""
        return self._notice_at

    def lead(self, now: float, commit_before: int) -> None:
        """As leader, in each tick: send what peers lack, and news of a commit that nothing else carries."""
        commit = self._core.engine.commit_index()
        if commit > commit_before:
            # Under load the next entries carry the news; the notice is for the last one.
            self._notice_at = now + self._core.timing.commit_notice_s
        self.replicate(heartbeat=False)
        if now >= self._notice_at:
            self._notice_at = math.inf
            for node in self._core.peers:
                if self._core.progress[node].told_commit < commit:
                    self.send(node, heartbeat=True)

    def replicate(self, *, heartbeat: bool) -> None:
        """Send every connected peer what it lacks; with heartbeat at least an empty message."""
        last = self._core.journal.last_index
        for node in self._core.peers:
            progress = self._core.progress[node]
            if heartbeat or progress.next_index <= last or progress.state is not REPLICATE:
                self.send(node, heartbeat=heartbeat)

    def send(self, node: Node, *, heartbeat: bool) -> None:
        """Send a connected peer what its state calls for; with heartbeat at least an empty message."""
        journal, progress = self._core.journal, self._core.progress[node]
        next_index = progress.next_index
        last = self._last_for(node, progress)
        if next_index <= journal.first_index:
            self._snapshotting.send(node, progress, heartbeat=heartbeat)
            return
        if progress.state is PROBE:
            # One message at a time until its log is known to match; again with each heartbeat.
            if progress.probed != next_index:
                progress.probed = next_index
                self._send_entries(node, progress, next_index - 1, self._slice(next_index, last))
            elif heartbeat:
                self._send_entries(node, progress, next_index - 1, [])
            return
        if progress.state is SNAPSHOT:
            progress.become_replicate()  # it has acknowledged what it was to be sent
        if next_index > last:
            if heartbeat:
                self._send_entries(node, progress, last, [])
            return
        sent = False
        while next_index <= last and progress.inflight_bytes < self._core.limits.window_bytes:
            part = self._part(next_index, last)
            progress.told_commit = part.message["leader_commit"]
            self._core.send(node, part.message)
            sent = True
            progress.sent(part.last_index, part.size)
            next_index = progress.next_index
        if heartbeat and not sent:
            self._send_entries(node, progress, max(progress.match_index, journal.first_index), [])

    def _last_for(self, node: Node, progress: Progress) -> int:
        """The last entry that this peer may have now."""
        withheld = self._membership.withheld_from(node.id)
        if withheld is None or progress.match_index >= withheld:
            return self._core.journal.last_index
        return withheld - 1

    def _part(self, start: int, last: int) -> _Part:
        """The message of entries from a start on; peers that are equally far get the same object of it."""
        engine = self._core.engine
        key = (start, last, engine.commit_index(), engine.term())
        if self._latest is None or self._latest.key != key:
            entries = self._slice(start, last)
            size = sum([len(entry[0]) + _ENTRY_OVERHEAD_BYTES for entry in entries])
            self._latest = _Part(key, self._message(start - 1, entries), entries[-1][1], size)
        return self._latest

    def _slice(self, start: int, last: int) -> list[Entry]:
        journal = self._core.journal
        position = start - journal.first_index
        entries: list[Entry] = []
        size = 0
        for entry in journal.entries[position : min(position + _MAX_ENTRIES, last + 1 - journal.first_index)]:
            size += len(entry[0]) + _ENTRY_OVERHEAD_BYTES
            if entries and size > self._core.limits.batch_bytes:
                break
            entries.append(entry)
        return entries

    def _send_entries(self, node: Node, progress: Progress, previous: int, entries: list[Entry]) -> None:
        message = self._message(previous, entries)
        progress.told_commit = message["leader_commit"]
        self._core.send(node, message)

    def _message(self, previous: int, entries: list[Entry]) -> Message:
        engine = self._core.engine
        entry = self._core.journal.entry(previous)
        if entry is None or not engine.is_leader():
            raise InternalError(f"entry {previous} cannot be sent: it is missing, or this node does not lead")
        return {
            "type": "append_entries",
            "term": engine.term(),
            "leader_commit": engine.commit_index(),
            "prev_log_index": previous,
            "prev_log_term": entry[2],
            "entries": entries,
        }

    def on_append_response(self, node: Node, message: Message) -> bool | None:
        """A peer acknowledges, or asks for other entries.  Returns False when that calls for no tick."""
        engine, journal = self._core.engine, self._core.journal
        if message["term"] > engine.term():
            self._elections.follow_term(node, message["term"])
            return None
        progress = self._core.progress.get(node)
        if message["term"] < engine.term() or not engine.is_leader() or progress is None:
            return None  # rows 8 and 20
        progress.last_heard = self._core.clock()
        asked = message["next_index"]
        if message["success"]:
            if asked - 1 > journal.last_index:
                return None  # claims what this leader never sent
            progress.acknowledged(asked - 1)
            match = progress.match_index
            if match > self._core.acknowledged.get(node.id, 0):
                self._core.acknowledged[node.id] = match
            progress.go_on()
            if progress.parting is not None:
                self._part_with(node, progress, progress.parting)
                return None
            # The second of two acknowledgements mostly commits nothing and calls for nothing.
            return (
                match > engine.commit_index()
                or progress.next_index <= journal.last_index
                or self._handover.is_going()
            )
        if message["reset"]:
            progress.rejected(asked)
        return None

    def _part_with(self, node: Node, progress: Progress, index: int) -> None:
        """Tell a removed node that its removal is committed, once it holds it; then send nothing further."""
        match = progress.match_index
        if match >= index:
            if match >= self._core.journal.first_index:
                self._send_entries(node, progress, match, [])
            progress.parting = None
            self._membership.derive_learners()
        elif progress.next_index <= self._core.journal.last_index:
            self.send(node, heartbeat=False)
