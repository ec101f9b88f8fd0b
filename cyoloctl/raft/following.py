"""What a follower believes of a peer that claims to lead: whether to follow it, and what becomes of the log.

Rows refer to DESIGN.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from cyoloctl.errors import CyoloctlError, InternalError, StorageError
from cyoloctl.model import RaftId, name_of
from cyoloctl.raft.core import Core
from cyoloctl.raft.elections import Elections
from cyoloctl.raft.journal import Entry
from cyoloctl.raft.messages import Message
from cyoloctl.raft.vendor import MEMBERSHIP, NO_OP, Node

__all__ = ["Following"]

_DISPUTE_SHOWN_S = 60.0
_TAIL_BYTES = 16 * 2**10
"""Entries for which a full disk finds room in its reserve, when a new leader needs them."""

_log = logging.getLogger("cyoloctl.raft")


class Following:
    """The follower's side of one replica."""

    def __init__(self, core: Core, elections: Elections, *, fail: Callable[[CyoloctlError], None]) -> None:
        """fail: silence this replica."""
        self._core = core
        self._elections = elections
        self._fail = fail
        self.on_entries: Callable[[], None] = lambda: None
        """Called before a leader's entries are appended."""
        self.disputed: tuple[RaftId, int, int] | None = None
        """A peer claimed to lead in a term, and its log contradicts what is committed here at an index."""
        self._disputed_at = 0.0
        self._left_out = False
        """Entries came for which the disk had no room: the leader takes them for on their way."""
        self._asked_in = -1
        """The term in which the leader was asked last, by a disk without room, where the logs match."""

    def sweep(self, now: float) -> None:
        """Once a second: forget a dispute that nobody brought up again."""
        if self.disputed is not None and now - self._disputed_at > _DISPUTE_SHOWN_S:
            self.disputed = None

    def follow(self, node: Node, term: int) -> bool:
        """Term, leader and timer of a leader's message, through the engine.

        False when it is stale, or of a peer that may not lead.
        """
        engine = self._core.engine
        if not self._elections.counts(node):
            return False
        if term < engine.term():
            # Row 8: tell a stale leader our term.
            engine.send_acknowledgement(node, next_index=engine.commit_index() + 1, success=False)
            return False
        if term == engine.term() and engine.is_leader():
            # Cannot come from a correct peer: its message must not count.
            _log.critical(
                "a peer claims to lead in this leader's term", extra={"peer": node.id, "term": term}
            )
            return False
        self._core.leader_seen_at = self._core.clock()
        self._elections.led()
        engine.hear(node, term)
        return True

    def on_append_entries(self, node: Node, message: Message) -> None:
        engine, journal = self._core.engine, self._core.journal
        if message["term"] >= engine.term() and self._contradicts(node, message):
            return
        if not self.follow(node, message["term"]):
            return
        self._core.heard_commit = max(self._core.heard_commit, message["leader_commit"])
        if self._asks_for_what_was_left_out(node):
            return
        previous, previous_term = message["prev_log_index"], message["prev_log_term"]
        entries: list[Entry] = message["entries"]
        last_of_message = previous + len(entries)
        # Rows 1 and 2: commit only what this message has shown to match.
        commit = min(message["leader_commit"], last_of_message)
        base = journal.first_index
        if last_of_message <= base:
            engine.send_acknowledgement(node, next_index=last_of_message + 1, success=True)
            return
        if previous < base:
            # Everything up to the base is committed, hence the same in the leader's log.
            entries = entries[base - previous :]
            previous, previous_term = base, journal.entries[0][2]
        own = journal.entry(previous)
        if self._finds_no_room(message["term"], own, entries):
            # Not taken, and not asked for.  The leader still counts this node as there.
            self._left_out = True
            engine.send_acknowledgement(node, next_index=1, success=False)
            return
        if own is None or own[2] != previous_term:
            self._ask(node)
            return
        # Row 1: skip what is there already; never cut a matching tail.
        known = 0
        for command, index, term in entries:
            own = journal.entry(index)
            if own is None or own[2] != term:
                break
            del command
            known += 1
        fresh = entries[known:]
        if not fresh:
            self._advance_commit(node, message["term"], commit)
            engine.send_acknowledgement(node, next_index=last_of_message + 1, success=True)
            return
        self.on_entries()
        if fresh[0][1] == journal.last_index + 1:
            engine.extend(node, fresh, commit)
        else:
            self._replace(node, message["term"], fresh, commit)

    def _replace(self, node: Node, term: int, fresh: list[Entry], commit: int) -> None:
        """Cut the end of the log, which differs, and log these in its place."""
        first = fresh[0][1]
        before = self._core.journal.entry(first - 1)
        if before is None:
            raise InternalError(f"entry {first - 1} is missing from this node's log")
        self._core.engine.deliver(
            node,
            {
                "type": "append_entries",
                "term": term,
                "leader_commit": commit,
                "prev_log_index": first - 1,
                "prev_log_term": before[2],
                "entries": fresh,
            },
        )

    def _asks_for_what_was_left_out(self, node: Node) -> bool:
        """Whether this node asks for entries that it had no room for, now that it has."""
        if not self._left_out or not self._core.has_room_for(0):
            return False
        self._left_out = False
        self._ask(node)
        return True

    def _ask(self, node: Node) -> None:
        """Row 16: ask for what follows the commit index: what is committed here matches any leader's log."""
        engine = self._core.engine
        engine.send_acknowledgement(node, next_index=engine.commit_index() + 1, success=False, reset=True)

    def _finds_no_room(self, term: int, before: Entry | None, entries: list[Entry]) -> bool:
        """Whether a disk that is short leaves these entries out.

        What a new leader needs to lead at all is taken: its no-op, and the
        little that may stand before it.  So is a change of the members.
        before: the entry below them, where it is here.
        """
        size = sum(len(entry[0]) for entry in entries)
        if self._core.has_room_for(size):
            return False
        if before is None:
            asked, self._asked_in = self._asked_in == term, term
            return asked  # asked for more than that once in each term, it would send all that is left out
        journal = self._core.journal
        held = journal.entry(entries[-1][1]) if entries else before
        if not entries or (held is not None and held[2] == entries[-1][2]):
            return False
        room = _TAIL_BYTES + (0 if journal.is_short() else self._core.limits.entry_bytes)
        return entries[-1][0][:1] not in (NO_OP, MEMBERSHIP) or size > room

    def _contradicts(self, node: Node, message: Message) -> bool:
        """Row 1: true for a log without what is committed here, which no leader of this term can have.

        Such a message is as if lost: nothing is followed, cut or acknowledged,
        so it harms nothing, and one peer's lie ends no other node.  Whether
        it is this node's log that is wrong, a majority of the voters decides: see
        `fail_disputed`.
        """
        journal, commit = self._core.journal, self._core.engine.commit_index()
        index = message["prev_log_index"]
        if index > commit:
            return False
        own = journal.entry(index)
        if own is None or own[2] == message["prev_log_term"]:
            for _, index, term in message["entries"]:  # the index is that of the conflict
                if index > commit:
                    return False
                own = journal.entry(index)
                if own is not None and own[2] != term:
                    break
            else:
                return False
        if not self._elections.counts(node):
            return True
        before, self.disputed = self.disputed, (node.id, message["term"], index)
        self._disputed_at = self._core.clock()
        if before != self.disputed:
            _log.critical(
                "a peer claims to lead and its log contradicts what is committed here: refused",
                extra={"peer": node.id, "term": message["term"], "index": index},
            )
            self._core.on_change()
        return True

    def fail_disputed(self) -> None:
        """A majority of the voters follows the peer of `disputed`: it is this node's log that is wrong."""
        if self.disputed is None or self._core.failed is not None:
            return
        peer, term, index = self.disputed
        self._fail(
            StorageError(
                f"the log of this node differs from that of {peer}, whom a majority follows in term {term}, "
                f"at committed index {index}: this disk is not this node's own, or an older copy was "
                f"written to; on a healthy node run `cyoloctl member remove {name_of(self._core.raft_id)}`, "
                "then join again under a new name with an empty data directory"
            )
        )

    def _advance_commit(self, node: Node, term: int, commit: int) -> None:
        if commit > self._core.engine.commit_index():
            self._core.engine.deliver(node, {"type": "append_entries", "term": term, "leader_commit": commit})

    def on_heartbeat(self, node: Node, message: Message) -> None:
        if self.follow(node, message["term"]):
            # The term alone: nothing is claimed about the log.
            self._core.engine.send_acknowledgement(node, next_index=1, success=False)

    def why_no_leader(self, was_role: str, was_leader: Node | None) -> str | None:
        """What ended the leadership that this node knew, for its log; None where a leader is known."""
        engine = self._core.engine
        if engine.leader() is not None:
            return None
        if was_role == "leader":
            return "no word from a majority of the voters, or one of a higher term"
        if was_leader is None:
            return None
        if was_leader not in engine.connected:
            return f"no link with the leader {was_leader.id}"
        silent_s = self._core.clock() - self._core.leader_seen_at
        if silent_s < self._core.timing.election_min_s:
            return "a higher term"
        return f"no word from the leader {was_leader.id} for {silent_s:.1f} s"
