"""History of the clients' operations and answers, as it happened.

An answer of success has a value.  `refused` (statuses 69 and 75) says that the
write was certainly not applied: the check gives it no effect, so if it was
applied after all, the counter jumps without an explanation and the check fails.
`unknown` (status 80, or a connection lost) stays open to the end, unless the
client repeats the write under the same request id until it is answered: then it
is one operation from the first time it was sent to its answer.

For other judges the history is also written as EDN, see `History.write_edn`.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Literal, Protocol

from tests.chaos.linearizability import Op

__all__ = ["History", "Record", "Recorded", "write_edn"]


@dataclass(slots=True)
class Record:
    """One operation of one client.

    by: what it adds, 0 for a read.  sends: (node, answer) for every time that it was
    sent, where the answer is "ok" or an error's code.  value: with outcome ok.
    Times are seconds on the monotonic clock since the run began; end_s is infinite
    unless the outcome is ok or refused.
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

    def op(self) -> Op:
        """For the checker."""
        label = f"{self.client} {self.request_id} via {' '.join('='.join(send) for send in self.sends)}"
        call, given = ("add", (self.by,)) if self.by else ("get", ())
        outcome = "unknown" if self.outcome == "open" else self.outcome
        return Op(self.counter, call, given, self.value, self.start_s, self.end_s, outcome, label)

    @property
    def key(self) -> str:
        """What it is about."""
        return self.counter

    @property
    def f(self) -> str:
        """Which operation."""
        return "add" if self.by else "get"

    def edn(self, *, returned: bool) -> str:
        """Its value in the history: see `write_edn`."""
        shown = "nil" if not returned or self.value is None else str(self.value)
        return f"[{self.by} {shown}]" if self.by else shown

    def refuse(self, now_s: float) -> None:
        """It was certainly not applied."""
        self.outcome, self.end_s = "refused", now_s


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
            return [record.op() for record in self.records]

    def write(self, path: Path) -> None:
        """One JSON object per line, in order of start."""
        with open(path, "w", encoding="utf-8") as file:
            for record in self.records:
                row = asdict(record)
                row["end_s"] = None if math.isinf(record.end_s) else round(record.end_s, 6)
                row["start_s"] = round(record.start_s, 6)
                file.write(json.dumps(row) + "\n")

    def write_edn(self, path: Path) -> None:
        """See `write_edn`."""
        write_edn(path, self.records)


class Recorded(Protocol):
    """An operation of a history; see `Record`."""

    client: str
    start_s: float
    end_s: float
    outcome: Literal["open", "ok", "refused", "unknown"]

    @property
    def key(self) -> str: ...

    @property
    def f(self) -> str: ...

    def edn(self, *, returned: bool) -> str: ...


def write_edn(path: Path, records: Sequence[Recorded]) -> None:
    """One map of EDN per line, as Jepsen, Knossos, elle and the logs of porcupine's tests have them.

    ``{:process 0, :type :invoke, :f :add, :key "loose-1", :value [2 nil], :time 1500000, :index 0}``

    type: invoke, then ok, fail (certainly not applied) or info (unknown;
    these come last).  value: of an `add` what it adds and the value that
    it returned, of a `get` the value; nil where there is none.  time:
    nanoseconds since the run began.  A process has one operation at a
    time and none after an info: its client goes on as another process.
    """
    lines = _edn_lines(sorted(records, key=lambda record: record.start_s))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _edn_lines(records: Sequence[Recorded]) -> Iterator[str]:
    events: list[tuple[float, int, Recorded]] = [(record.start_s, 1, record) for record in records]
    # Of a return and a start at the same moment, the start comes first: they count as concurrent.
    events += [(record.end_s, 2, record) for record in records]
    fresh = count()
    processes: dict[str, int] = {}
    process_of: dict[int, int] = {}
    last_s = 0.0
    for index, (at_s, is_end, record) in enumerate(sorted(events, key=lambda event: event[:2])):
        last_s = last_s if math.isinf(at_s) else at_s
        kind = "invoke"
        if is_end == 1:
            if record.client not in processes:
                processes[record.client] = next(fresh)
            process_of[id(record)] = processes[record.client]
            if math.isinf(record.end_s):
                del processes[record.client]
        else:
            kind = {"ok": "ok", "refused": "fail"}.get(record.outcome, "info")
        yield (
            f"{{:process {process_of[id(record)]}, :type :{kind}, :f :{record.f}, "
            f":key {json.dumps(record.key)}, :value {record.edn(returned=is_end == 2)}, "
            f":time {round(last_s * 1e9)}, :index {index}}}"
        )
