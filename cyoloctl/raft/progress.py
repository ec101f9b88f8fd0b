"""A leader's knowledge of each peer, and what it sends to it next.  Pure.

A peer is in one of three states, as in etcd's tracker (`tracker/progress.go`):

- *probe*: whether its log matches is not known.  One message at a time, again
  with each heartbeat, until an acknowledgement shows where it matches.
- *replicate*: its log matches up to `Progress.match_index`.  Entries go out
  ahead of the acknowledgements, as many bytes as the window allows.
- *snapshot*: it lacks entries that are compacted here, and is being sent a
  snapshot instead, one chunk at a time.

A new leader probes everybody; so does a leader that has a new link with a
peer, or whose message was rejected.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

from cyoloctl.raft.snapshot import Transfer

__all__ = ["NEVER", "PROBE", "REPLICATE", "SNAPSHOT", "Progress", "RefusedSnapshot", "Sending", "State"]

NEVER = -1e9
"""A time before any that a replica's clock shows."""


class State(enum.Enum):
    """Ways to serve a peer: see the module."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


PROBE, REPLICATE, SNAPSHOT = State.PROBE, State.REPLICATE, State.SNAPSHOT


@dataclass(slots=True)
class Sending:
    """A snapshot on its way to the peer: the offset that it wants next, and when that was sent."""

    transfer: Transfer
    offset: int = 0
    sent_at: float = -1.0


@dataclass(frozen=True, slots=True)
class RefusedSnapshot:
    """The peer could not use the snapshot: why, and when it is sent again."""

    reason: str
    until: float
    pause_s: float


@dataclass(slots=True, eq=False)
class Progress:
    """Knowledge of one voter or learner, and the messages on their way to it.

    next_index: the entry to send next.  match_index: up to here its log is
    known to equal the leader's.  Both start again with each leadership.
    last_heard: when it last answered this leader.  probed: the index that a
    probe asked about last, 0 for none.  told_commit: the commit index that it
    was told last.  parting: it was removed, by the entry at this index, and
    is to be told so.  inflight_bytes: sent and not yet acknowledged.
    """

    next_index: int
    match_index: int = 0
    last_heard: float = NEVER
    state: State = PROBE
    probed: int = 0
    told_commit: int = 0
    parting: int | None = None
    sending: Sending | None = None
    refused: RefusedSnapshot | None = None
    inflight_bytes: int = 0
    _inflight: deque[tuple[int, int]] = field(default_factory=deque)  # last index and bytes of each message

    # States.

    def become_probe(self) -> None:
        """Find out again whether its log matches; messages on their way no longer count."""
        self.reset_flow()
        self.state = PROBE

    def become_replicate(self) -> None:
        """Its log is known to match."""
        self._close()
        self.state = REPLICATE
        self.probed = 0

    def become_snapshot(self, transfer: Transfer) -> Sending:
        """It lacks what is compacted here: send it this snapshot."""
        self._close()
        self.state = SNAPSHOT
        self.sending = Sending(transfer)
        return self.sending

    def stop_sending(self) -> None:
        """The snapshot does not arrive: the peer is gone, or refuses it."""
        if self.state is SNAPSHOT:
            self._close()
            self.state = PROBE

    def lose_certainty(self) -> None:
        """A voter became a learner: ask once where its log matches before more is sent."""
        if self.state is REPLICATE:
            self.state = PROBE

    def restart(self, last_index: int) -> None:
        """Begin again in a new link.

        What it held is where to look first, not what it holds: a disk that
        was damaged at its end may have lost some of it meanwhile.
        """
        self.next_index = self.match_index + 1 if self.match_index else last_index + 1
        self.match_index = 0
        self.become_probe()

    def reset(self) -> None:
        """Another leadership begins, or this one ended."""
        self.become_probe()
        self.refused = None

    def reset_flow(self) -> None:
        """Forget what is on its way."""
        self._close()
        self._inflight.clear()
        self.inflight_bytes = 0
        self.told_commit = 0
        self.probed = 0

    def count_as_voter(self, now: float) -> None:
        """It became a voter: as if it had answered now, if it never did."""
        if self.last_heard == NEVER:
            self.last_heard = now

    # What was sent, and what came back.

    def sent(self, last_index: int, size: int) -> None:
        """Entries up to last_index went out ahead of their acknowledgement; size in bytes."""
        self.next_index = last_index + 1
        self._inflight.append((last_index, size))
        self.inflight_bytes += size

    def acknowledged(self, index: int) -> None:
        """Its log matches up to index; an acknowledgement that was overtaken changes nothing."""
        if index > self.match_index:
            self.match_index = index
        if self.next_index <= self.match_index:
            self.next_index = self.match_index + 1
        self.refused = None

    def go_on(self) -> None:
        """After an acknowledgement: replicate from here, unless a snapshot that is sent holds more."""
        match = self.match_index
        holds_it = self.sending is None or match >= self.sending.transfer.meta.index
        if holds_it and self.state is not REPLICATE:
            self.become_replicate()
        while self._inflight and self._inflight[0][0] <= match:
            self.inflight_bytes -= self._inflight.popleft()[1]

    def rejected(self, wanted: int) -> None:
        """It asks for what follows another index.

        Rows 7 and 16: never below what is known to match, and never up.
        Entry 1 is the same everywhere.
        """
        wanted = max(self.match_index + 1, 2, min(self.next_index, wanted))
        if self.state is REPLICATE:
            self.become_probe()
        self.next_index = min(wanted, self.next_index)

    def refuse(self, reason: str, now: float, *, first_s: float, last_s: float) -> bool:
        """It cannot use the snapshot: a pause before the next one, doubling from first_s to last_s.

        Returns True when that, or its reason, is news.
        """
        before = self.refused
        pause_s = first_s if before is None else min(2 * before.pause_s, last_s)
        self.stop_sending()
        self.refused = RefusedSnapshot(reason, now + pause_s, pause_s)
        return before is None or before.reason != reason

    def _close(self) -> None:
        if self.sending is not None:
            self.sending.transfer.close()
            self.sending = None
