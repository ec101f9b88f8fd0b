"""Periods and bounds of a replica."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_LIMITS", "DEFAULT_TIMING", "MAX_COMMAND_BYTES", "MAX_REMOVED", "Limits", "Timing"]

MAX_COMMAND_BYTES = 512 * 1024

MAX_REMOVED = 16_384
"""Raft ids in the list of a snapshot's message."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Periods in seconds."""

    heartbeat_s: float = 0.1
    election_min_s: float = 0.5
    election_max_s: float = 1.0
    leader_fallback_s: float = 1.5
    commit_notice_s: float = 0.003
    """How long an idle leader waits before it tells followers of a new commit index."""
    transfer_retry_s: float = 0.02
    transfer_limit_s: float = 5.0
    """How long an operator's transfer of leadership is tried."""
    transfer_silence_s: float = 0.75
    """A target that has not answered for so long is dead or cut off: writes wait for it no longer."""
    move_limit_s: float = 1.0
    """The same when a leader hands over by itself: writes wait meanwhile."""
    stand_back_s: float = 1.0
    """So much later a voter that stands back stands for election: the others have tried at least once."""
    lost_leader_spread_s: float = 0.15
    """After the connection to the leader broke: ask for pre-votes within this time."""
    refused_first_s: float = 1.0
    """After a peer refused the snapshot, it is sent again; the pause doubles each time."""
    refused_last_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on memory and messages."""

    entry_bytes: int = MAX_COMMAND_BYTES
    batch_bytes: int = 2**20
    window_bytes: int = 8 * 2**20
    """Entries sent to one peer and not yet acknowledged."""
    uncommitted_entries: int = 1
    pending_commands: int = 20_000
    pending_bytes: int = 64 * 2**20
    pending_reads: int = 20_000
    result_bytes: int = 2**20
    """Results of forwarded commands in one message."""
    term_step: int = 2**32
    """A message this far ahead of this node's term or log comes from no correct peer."""
    chunk_bytes: int = 256 * 1024
    install_at_once_bytes: int = 2**20
    """A received snapshot that is no larger is read at once, in some ten milliseconds; others in a thread."""
    compact_entries: int = 10_000
    compact_bytes: int = 8 * 2**20
    """A snapshot is saved when so many entries, or bytes of them, came since the last one."""
    compact_growth: int = 4
    """It waits until the log has grown by as many bytes as the last one has, so that a large state is not
    written again and again for a few values; for this many times compact_bytes at most."""
    keep_entries: int = 1_000
    """Entries kept below a snapshot, so that a peer that was briefly away needs none."""
    promote_lag: int = 64
    """A learner that trails by more entries is not made a voter."""


DEFAULT_TIMING = Timing()
DEFAULT_LIMITS = Limits()
