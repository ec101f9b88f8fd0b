"""History of the clients' operations and answers, as it happened.

An answer of success has a value.  `refused` (statuses 69 and 75) says that the
write was certainly not applied: it is left out of what is checked, so if it was
applied after all, the counter jumps without an explanation and the check fails.
`unknown` (status 80, or a connection lost) stays open to the end, unless the
client repeats the write under the same request id until it is answered: then it
is one operation from the first time it was sent to its answer.
"""

from __future__ import annotations

import json
import math
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from tests.chaos.linearizability import Op

__all__ = ["History", "Record"]


@dataclass(slots=True)
class Record:
    """One operation of one client.

    by: what it adds, 0 for a read.  sends: (node, answer) for every time that it was
    sent, where the answer is "ok" or an error's code.  value: with outcome ok.
    Times are seconds on the monotonic clock since the run began.
    """

    client: str
    counter: str
    by: int
    request_id: str
    start_s: float
    end_s: float = math.inf
    outcome: Literal["open", "ok", "refused", "unknown"] = "open"
    value: int | None = None
    sends: list[tuple[str, str]] = field(default_factory=list)

    def op(self) -> Op | None:
        """For the checker; None when it says nothing."""
        label = f"{self.client} {self.request_id} via {' '.join('='.join(send) for send in self.sends)}"
        if self.outcome == "ok":
            return Op(self.counter, self.by, self.value, self.start_s, self.end_s, label)
        if self.outcome == "refused" or not self.by:
            return None
        return Op(self.counter, self.by, None, self.start_s, math.inf, label)


class History:
    """Every operation; filled by many threads."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.records: list[Record] = []
        self.anomalies: list[str] = []
        self._lock = threading.Lock()

    def now(self) -> float:
        return time.monotonic() - self.began

    def open(self, client: str, counter: str, by: int, request_id: str) -> Record:
        record = Record(client, counter, by, request_id, self.now())
        with self._lock:
            self.records.append(record)
        return record

    def anomaly(self, text: str) -> None:
        """Something that must not be said to a client, whatever the order of operations."""
        with self._lock:
            self.anomalies.append(f"{self.now():.3f} s: {text}")

    def ops(self) -> list[Op]:
        with self._lock:
            return [op for record in self.records if (op := record.op()) is not None]

    def write(self, path: Path) -> None:
        """One JSON object per line, in order of start."""
        with open(path, "w", encoding="utf-8") as file:
            for record in self.records:
                row = asdict(record)
                row["end_s"] = None if math.isinf(record.end_s) else round(record.end_s, 6)
                row["start_s"] = round(record.start_s, 6)
                file.write(json.dumps(row) + "\n")
