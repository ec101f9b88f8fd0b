"""The committed log of a run, applied once more: by another process, with other hashes of strings.

Nodes of one run share a process, and so the order in which Python walks a set
of strings.  What depends on it shows only between processes that were started
with another ``PYTHONHASHSEED``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256

from cyoloctl.raft.batch import decode_batch, stamp_of
from cyoloctl.replicated.requests import RequestLimits, TableLimits
from cyoloctl.state import ClusterState, StateLimits

__all__ = ["Recording", "answers_digest", "replay"]

_DIGEST_EVERY = 8  # indexes


@dataclass(frozen=True, slots=True)
class Recording:
    """The log of a run.

    limits: of the tables.  entries: by index, the committed ones.
    answers: by index, a digest of what the nodes of the run answered.
    """

    limits: StateLimits
    entries: dict[int, bytes]
    answers: dict[int, str]

    def to_json(self) -> str:
        """All of it but the answers, as text."""
        entries = {index: entry.hex() for index, entry in self.entries.items()}
        return json.dumps({"limits": asdict(self.limits), "entries": entries})

    @classmethod
    def from_json(cls, text: str) -> Recording:
        """What `to_json` gave."""
        given = json.loads(text)
        tables = given["limits"]
        of_requests = {kind: TableLimits(**table) for kind, table in tables.pop("requests").items()}
        real = StateLimits()
        others = {name: type(getattr(real, name))(**table) for name, table in tables.items()}
        limits = StateLimits(requests=RequestLimits(**of_requests), **others)
        entries = {int(index): bytes.fromhex(entry) for index, entry in given["entries"].items()}
        return cls(limits, entries, {})


def replay(recording: Recording, *, restored: bool) -> Iterator[tuple[int, str, str]]:
    """Index, digest of the answers and digest of the state of every entry that holds commands.

    The digest of the state is empty at most indexes.  restored: half way
    another state takes over, which was made of a snapshot of the first.
    """
    state = ClusterState(limits=recording.limits)
    half = len(recording.entries) // 2
    for number, (index, entry) in enumerate(sorted(recording.entries.items())):
        if restored and number == half:
            snapshot = b"".join(state.begin_snapshot()())
            state = ClusterState(limits=recording.limits)
            state.restore(snapshot)
        stamp = stamp_of(entry)
        if stamp is None:
            continue
        state.advance(stamp)
        results = [state.apply(index, item.command, item.after) for item in decode_batch(entry)]
        digest = state.digest() if number % _DIGEST_EVERY == 0 else ""
        yield index, answers_digest(results), digest


def answers_digest(results: list[bytes]) -> str:
    """One digest of the answers at an index."""
    return sha256(b"\n".join(results)).hexdigest()
