"""Snapshots of a replica: saved in the background, sent in checked chunks, received and installed.

A snapshot is durable before the journal is cut to it, and before it is
acknowledged (rows 5, 6, 7 and 13).  A disk or memory that runs short ends
nothing: the log is whole without a new snapshot, only longer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from cyoloctl.errors import CyoloctlError, InternalError, InvalidInput, StorageError
from cyoloctl.model import RaftId
from cyoloctl.raft.clock import ClusterClock
from cyoloctl.raft.core import Core
from cyoloctl.raft.elections import Elections
from cyoloctl.raft.machine import StateMachine
from cyoloctl.raft.membership import Membership
from cyoloctl.raft.messages import Message
from cyoloctl.raft.progress import Progress
from cyoloctl.raft.settings import MAX_REMOVED
from cyoloctl.raft.snapshot import Receiver, SnapshotMeta, SnapshotStore, Transfer, is_shortage
from cyoloctl.raft.vendor import Node

__all__ = ["Snapshotting"]

_LONGEST_SAVE_PAUSE_S = 60.0

_TIMES = 3
"""A snapshot is worth it when the log has grown by so many times its bytes: at 8,000 puts per second the ids
of requests alone make it 13 MB, and writing that for as many bytes of log takes each node 6 % of its time."""
_LONG_SAVE_S = 1.0
_REST = 4
"""After a save that took long no other begins for so many times as long: a large state is written seldom."""
_MOST_WHILE_RESTING = 16
"""Unless the log has grown by so many times what makes it worth a snapshot."""

_log = logging.getLogger("cyoloctl.raft")


@dataclass(slots=True)
class _Receiving:
    source: Node
    key: tuple[int, int, int, str]
    receiver: Receiver


@dataclass(slots=True)
class _Installing:
    """A whole snapshot that is being read.  ready: commit or error is there."""

    node: Node
    receiver: Receiver
    commit: Callable[[], None] | None = None
    error: CyoloctlError | MemoryError | None = None
    ready: bool = False


class Snapshotting:
    """Snapshots of one replica: taken, sent and installed."""

    def __init__(
        self,
        core: Core,
        *,
        snapshots: SnapshotStore,
        machine: StateMachine,
        membership: Membership,
        cluster_clock: ClusterClock,
        elections: Elections,
        run_in_background: Callable[[Callable[[], None]], None],
        follow: Callable[[Node, int], bool],
    ) -> None:
        """run_in_background: see `Replica`.

        follow(node, term): take a leader's message; False when it is stale, or of a peer that may
        not lead.
        """
        self._core = core
        self._snapshots = snapshots
        self._machine = machine
        self._membership = membership
        self._cluster_clock = cluster_clock
        self._run_in_background = run_in_background
        self._follow = follow
        self._elections = elections
        self.unusable: tuple[RaftId, str] | None = None
        """Whose snapshot cannot be used here, and why."""
        self._receiving: _Receiving | None = None
        self._installing: _Installing | None = None
        self._saving = False
        self._saved: tuple[SnapshotMeta, CyoloctlError | MemoryError | None] | None = None
        self._save_pause_s = 0.0
        self._save_again_at = float("-inf")
        self._save_began = 0.0
        self._rest_until = float("-inf")
        self._bytes_mark = 0

    def disconnected(self, node: Node) -> None:
        """The link with a peer ended: a transfer ends with it (row 6)."""
        if self._receiving is not None and self._receiving.source == node:
            self._stop_receiving()

    def close(self) -> None:
        """Leave no file open."""
        for progress in self._core.progress.values():
            progress.stop_sending()
        self._stop_receiving()
        if self._installing is not None:
            self._installing.receiver.abort()
            self._installing = None

    def _stop_receiving(self) -> None:
        if self._receiving is not None:
            self._receiving.receiver.abort()
            self._receiving = None

    def send(self, node: Node, progress: Progress, *, heartbeat: bool) -> None:
        """Rows 6 and 23: one checked chunk at a time, the next when it was acknowledged."""
        now = self._core.clock()
        refused = progress.refused
        if refused is not None and now < refused.until:
            if heartbeat:
                self._core.send(node, {"type": "heartbeat", "term": self._core.engine.term()})
            return
        sending = progress.sending
        if sending is None:
            transfer = self._open_transfer(node)
            if transfer is None:
                if heartbeat:
                    self._core.send(node, {"type": "heartbeat", "term": self._core.engine.term()})
                return
            sending = progress.become_snapshot(transfer)
        if sending.sent_at >= 0 and not (
            heartbeat and now - sending.sent_at >= self._core.timing.heartbeat_s
        ):
            return
        transfer = sending.transfer
        sending.sent_at = now
        meta = transfer.meta
        self._core.send(
            node,
            {
                "type": "snapshot_chunk",
                "term": self._core.engine.term(),
                "index": meta.index,
                "snapshot_term": meta.term,
                "voters": list(meta.voters),
                "removed": list(meta.removed),
                "total": transfer.total,
                "digest": transfer.digest,
                "offset": sending.offset,
                "data": transfer.read(sending.offset, self._core.limits.chunk_bytes),
            },
        )

    def _open_transfer(self, node: Node) -> Transfer | None:
        """The present snapshot; None when there is none that can be sent: a later heartbeat tries again."""
        try:
            transfer = self._snapshots.open_transfer()
        except StorageError as error:
            if not is_shortage(error):
                raise
            _log.warning(
                "a snapshot cannot be sent now, it is tried again",
                extra={"peer": node.id, "error": error.message, "_seldom": True},
            )
            return None
        if transfer is None:
            return None
        too_long = len(transfer.meta.removed) > MAX_REMOVED
        if too_long:
            self.maybe_compact(force=True)  # release 0.1.0 wrote it: the next one lists fewer
        if too_long or transfer.meta.index < self._core.journal.first_index:
            transfer.close()
            return None
        return transfer

    def log_goes_on(self) -> None:
        """A leader's entries arrive: whatever snapshot could not be used is not needed."""
        self.unusable = None

    def on_snapshot_ack(self, node: Node, message: Message) -> None:
        """The peer took a chunk, and says at which offset it wants the next."""
        engine = self._core.engine
        if message["term"] > engine.term():
            self._elections.follow_term(node, message["term"])
            return
        progress = self._core.progress.get(node)
        if message["term"] < engine.term() or not engine.is_leader() or progress is None:
            return
        progress.last_heard = self._core.clock()
        sending = progress.sending
        if (
            sending is None
            or message["digest"] != sending.transfer.digest
            or not 0 <= message["offset"] < sending.transfer.total
            or message["offset"] == sending.offset
        ):
            return
        sending.offset = message["offset"]
        sending.sent_at = -1.0
        self.send(node, progress, heartbeat=False)

    def on_snapshot_refused(self, node: Node, message: Message) -> None:
        """The peer cannot use the snapshot: again later, and people are told."""
        engine, timing = self._core.engine, self._core.timing
        progress = self._core.progress.get(node)
        if message["term"] != engine.term() or not engine.is_leader() or progress is None:
            return
        now = progress.last_heard = self._core.clock()
        sending = progress.sending
        if sending is None or sending.transfer.digest != message["digest"]:
            return
        reason = message["reason"] if message["reason"].isprintable() else "it gave no readable reason"
        if progress.refuse(reason, now, first_s=timing.refused_first_s, last_s=timing.refused_last_s):
            _log.warning(
                "a peer refuses the snapshot", extra={"peer": node.id, "reason": reason, "_seldom": True}
            )
            self._core.on_change()

    def _refuse(self, node: Node, digest: str, error: CyoloctlError) -> None:
        """Tell the leader that its snapshot is of no use here, and people why."""
        self._stop_receiving()
        if self.unusable != (node.id, error.message):
            self.unusable = (node.id, error.message)
            _log.warning(
                "a received snapshot was refused",
                extra={"peer": node.id, "error": error.message, "_seldom": True},
            )
            self._core.on_change()
        self._core.send(
            node,
            {
                "type": "snapshot_refused",
                "term": self._core.engine.term(),
                "digest": digest,
                "reason": error.message[:1000],
            },
        )

    def on_snapshot_chunk(self, node: Node, message: Message) -> None:
        """A part of the leader's snapshot; the last one installs it."""
        try:
            self._take_chunk(node, message)
        except StorageError as error:
            if not is_shortage(error):
                raise
            # The leader sends it again.
            _log.warning(
                "a snapshot cannot be received now, it is tried again",
                extra={"peer": node.id, "error": error.message, "_seldom": True},
            )
            self._stop_receiving()
        except InvalidInput as error:
            # No correct leader sends it.  The leader begins again later, or another one does.
            self._refuse(node, message["digest"], error)

    def _take_chunk(self, node: Node, message: Message) -> None:
        engine, journal = self._core.engine, self._core.journal
        if not self._follow(node, message["term"]):
            return
        index, term = message["index"], message["snapshot_term"]
        if term > message["term"] or index - journal.last_index > self._core.limits.term_step:
            raise InvalidInput("it is of a term or index that no leader can have")
        own = journal.entry(index)
        if index <= engine.applied_index() or (own is not None and own[2] == term):
            # Row 7: nothing in it that is not here.
            engine.send_acknowledgement(node, next_index=index + 1, success=True)
            return
        if self._installing is not None:
            return  # one at a time: the leader sends this again
        meta = SnapshotMeta(index, term, tuple(message["voters"]), tuple(message["removed"]))
        key = (index, term, message["total"], message["digest"])
        receiving = self._receiving
        if receiving is None or receiving.key != key or receiving.source != node:
            self._stop_receiving()
            receiving = self._receiving = _Receiving(
                node, key, self._snapshots.begin_receive(meta, message["total"], message["digest"])
            )
        offset = receiving.receiver.write(message["offset"], message["data"])
        if offset < message["total"]:
            self._core.send(
                node,
                {
                    "type": "snapshot_ack",
                    "term": engine.term(),
                    "digest": message["digest"],
                    "offset": offset,
                },
            )
            return
        self._receiving = None
        self._begin_install(node, receiving.receiver)

    def _begin_install(self, node: Node, receiver: Receiver) -> None:
        """A snapshot came whole: it is read and verified, in another thread when it is large."""
        installing = self._installing = _Installing(node, receiver)

        def verify() -> None:
            try:
                installing.commit = receiver.verify(self._machine.prepare_restore)
            except (CyoloctlError, MemoryError) as failure:
                installing.error = failure
            installing.ready = True

        if receiver.total <= self._core.limits.install_at_once_bytes:
            verify()
            self._collect_installed()
            return
        try:
            self._run_in_background(verify)
        except (RuntimeError, MemoryError):  # no thread can be started: the leader sends it again
            receiver.abort()
            self._installing = None

    def collect(self) -> None:
        """What ended in the background takes effect."""
        self._collect_saved()
        self._collect_installed()

    def _collect_installed(self) -> None:
        """A snapshot was read: it becomes durable, then the journal is cut, then it is acknowledged."""
        installing = self._installing
        if installing is None or not installing.ready:
            return
        self._installing = None
        error = installing.error
        if error is None:
            self._finish_install(installing)  # whatever it raises ends the node: it may have changed half
        elif isinstance(error, MemoryError) or is_shortage(error):
            self._told_of_shortage(error)  # the leader sends it again
        elif isinstance(error, StorageError):
            raise error
        else:
            self._refuse(installing.node, installing.receiver.digest, error)

    def _finish_install(self, installing: _Installing) -> None:
        engine, journal = self._core.engine, self._core.journal
        node, receiver, meta = installing.node, installing.receiver, installing.receiver.meta
        if installing.commit is None:
            raise InternalError("a snapshot was read without a result")
        own = journal.entry(meta.index)
        if meta.index <= engine.applied_index() or (own is not None and own[2] == meta.term):
            receiver.abort()  # row 7: entries came meanwhile, and nothing in it is not here
            engine.send_acknowledgement(node, next_index=meta.index + 1, success=True)
            return
        try:
            if not receiver.install():
                raise InternalError("a newer snapshot is there than the log has reached")
        except StorageError as error:
            raise StorageError(error.message) from None  # the disk has half of it: this is not tried again
        installing.commit()
        self.unusable = None
        journal.reset(meta.index, meta.term)
        self._membership.replace(meta)
        engine.set_applied(meta.index)
        self._cluster_clock.applied(self._machine.stamp())
        self._bytes_mark = journal.byte_size
        self._membership.reconfigure()
        for position in sorted(engine.waiting_commit, reverse=True):
            for _, callback in engine.waiting_commit.pop(position):
                callback(None, None)
        _log.info("installed a snapshot", extra={"index": meta.index, "peer": node.id})
        engine.send_acknowledgement(node, next_index=meta.index + 1, success=True)
        self._core.on_change()

    def _told_of_shortage(self, error: CyoloctlError | MemoryError) -> None:
        _log.warning(
            "a snapshot cannot be received now, it is tried again",
            extra={
                "error": getattr(error, "message", None) or "no memory is left for it",
                "_seldom": True,
            },
        )

    def maybe_compact(self, *, force: bool = False) -> None:
        """Save a snapshot in the background when the log has grown by count or bytes."""
        engine, journal, limits = self._core.engine, self._core.journal, self._core.limits
        if self._saving or (self._core.clock() < self._save_again_at and not force):
            return
        applied = engine.applied_index()
        if applied <= self._membership.base_index:
            return
        grown = applied - self._membership.base_index >= limits.compact_entries
        heavier = journal.byte_size - self._bytes_mark
        if not (grown or heavier >= self._enough_bytes() or force):
            return
        resting = self._core.clock() < self._rest_until
        if resting and not force and heavier < _MOST_WHILE_RESTING * limits.compact_bytes:
            return
        entry = journal.entry(applied)
        if entry is None:
            raise InternalError(f"applied entry {applied} is missing from the log")
        members = self._membership.applied
        meta = SnapshotMeta(applied, entry[2], tuple(sorted(members.voters)), tuple(sorted(members.removed)))
        try:
            encode = self._machine.begin_snapshot()
        except MemoryError as failure:
            self._save_later(failure)
            return
        self._saving = True
        self._save_began = self._core.clock()
        store = self._snapshots

        def save() -> None:
            error: CyoloctlError | MemoryError | None = None
            try:
                store.save(meta, encode())
            except (CyoloctlError, MemoryError) as failure:
                error = failure
            self._saved = (meta, error)

        try:
            self._run_in_background(save)
        except (RuntimeError, MemoryError):  # no thread can be started
            self._saved = (meta, MemoryError())

    def _enough_bytes(self) -> int:
        """The growth of the log that is worth a snapshot."""
        limits = self._core.limits
        return max(
            limits.compact_bytes,
            min(_TIMES * self._snapshots.size_bytes, limits.compact_growth * limits.compact_bytes),
        )

    def _save_later(self, error: CyoloctlError | MemoryError) -> None:
        """The log is whole without a new snapshot, only longer: try again, with longer and longer pauses."""
        if not self._save_pause_s:
            _log.warning(
                "the snapshot cannot be saved now, it is tried again",
                extra={"error": getattr(error, "message", None) or "no memory or thread is left for it"},
            )
        self._save_pause_s = min(_LONGEST_SAVE_PAUSE_S, max(1.0, 2 * self._save_pause_s))
        self._save_again_at = self._core.clock() + self._save_pause_s

    def _collect_saved(self) -> None:
        """A background save ended: cut the journal to it (row 13: only with a durable snapshot)."""
        if self._saved is None:
            return
        (meta, error), self._saved, self._saving = self._saved, None, False
        if error is not None and is_shortage(error):
            self._save_later(error)
            return
        if error is not None:
            raise error
        self._save_pause_s = 0.0
        took_s = self._core.clock() - self._save_began
        if took_s >= _LONG_SAVE_S:
            self._rest_until = self._core.clock() + _REST * took_s
        current = self._snapshots.meta
        if current is None or current.index != meta.index or meta.index <= self._membership.base_index:
            return  # a newer one was installed meanwhile
        journal = self._core.journal
        self._membership.rebase(meta)
        keep_from, kept_bytes = meta.index, 0
        lowest = max(journal.first_index, meta.index - self._core.limits.keep_entries)
        while keep_from > lowest and kept_bytes < self._core.limits.compact_bytes // 4:
            keep_from -= 1
            entry = journal.entry(keep_from)
            kept_bytes += 0 if entry is None else len(entry[0])
        # A peer that is being sent an older snapshot goes on from there, if that costs little.
        sendings = [progress.sending for progress in self._core.progress.values()]
        oldest = min(
            [keep_from, *(sending.transfer.meta.index for sending in sendings if sending is not None)]
        )
        most = 3 * self._core.limits.compact_bytes + self._enough_bytes()
        if oldest >= journal.first_index and journal.byte_size < most:
            keep_from = oldest
        journal.compact_to(keep_from)
        self._bytes_mark = journal.byte_size
        self._membership.reconfigure()
        _log.info("compacted the log", extra={"index": meta.index, "first_index": keep_from})
