"""What a run gives: figures beside targets, rows of tables, and the machine that they are from."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load import Result

__all__ = ["Cell", "Figure", "Report", "Row", "cell_of", "machine_facts", "plural", "say"]


@dataclass
class Figure:
    """One measured figure beside its target.  op is ``>=``, ``<`` or, without a target, empty."""

    name: str
    value: float
    unit: str
    op: str
    target: float
    what: str

    @property
    def ok(self) -> bool:
        """Whether the target is met; a figure without one is only reported."""
        if not self.op:
            return True
        return self.value >= self.target if self.op == ">=" else self.value < self.target


@dataclass
class Cell:
    """What one system gave: medians of its rounds.

    rate: operations per second.  cpu_ms: processor time that one operation cost all members together.
    rounds: the rate of each round.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    generator_cpu: float
    rounds: list[float]


@dataclass
class Row:
    """One operation on every system that has it.  sync_ms: what each sync was delayed by."""

    section: str
    operation: str
    clients: int
    cells: dict[str, Cell]
    sync_ms: float = 0.0


@dataclass
class Report:
    """Everything that was measured, for --json as it is."""

    machine: dict[str, Any] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def add(self, figure: Figure) -> None:
        """Keep a figure and show it."""
        self.figures.append(figure)
        mark = "MISSED" if not figure.ok else "ok    " if figure.op else "info  "
        wanted = f" (target {figure.op} {figure.target:g})" if figure.op else ""
        say(f"{mark}  {figure.name}: {figure.value:,.2f} {figure.unit}{wanted}")
        say(f"        {figure.what}")

    def add_row(self, row: Row) -> None:
        """Keep a row and show it."""
        self.rows.append(row)
        slow = f", {row.sync_ms:g} ms per sync" if row.sync_ms else ""
        say(f"{row.section}: {row.operation}, {plural(row.clients)}{slow}")
        for name, cell in row.cells.items():
            say(
                f"        {name:8} median {cell.rate:8,.0f}/s  p50 {cell.p50_ms:7.2f} ms"
                f"  p99 {cell.p99_ms:7.2f} ms  members' cpu {cell.cpu_ms:.2f} ms each"
                f"  generator {cell.generator_cpu:.0%} of a core"
                f"  rounds {' '.join(f'{rate:,.0f}' for rate in cell.rounds)}"
            )

    def note(self, text: str) -> None:
        """Keep a line that has to stand beside the figures, and show it."""
        self.notes.append(text)
        say(f"note: {text}")

    def as_json(self) -> dict[str, Any]:
        """One object with a schema version."""
        figures = [{**asdict(figure), "ok": figure.ok} for figure in self.figures]
        return {
            "schema_version": 1,
            "machine": self.machine,
            "notes": self.notes,
            "figures": figures,
            "rows": [asdict(row) for row in self.rows],
            "details": self.details,
        }


def say(text: str) -> None:
    """A line of the report; on stderr, so that ``--json -`` leaves stdout to the data."""
    print(text, file=sys.stderr, flush=True)


def plural(clients: int) -> str:
    """``1 client``, ``10 clients``."""
    return f"{clients} client{'s' if clients > 1 else ''}"


def cell_of(results: Sequence[Result]) -> Cell:
    """The medians of a system's rounds."""
    return Cell(
        rate=statistics.median(one.rate for one in results),
        p50_ms=statistics.median(one.p50_ms for one in results),
        p99_ms=statistics.median(one.p99_ms for one in results),
        cpu_ms=statistics.median(one.members_cpu_ms for one in results),
        generator_cpu=statistics.median(one.generator_cpu for one in results),
        rounds=[one.rate for one in results],
    )


def machine_facts(scratch: Path) -> dict[str, Any]:
    """Conditions of the figures: date, processor, kernel, load, file system, the disk's fsync."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    file_system, longest = "unknown", ""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if (f"{scratch}/".startswith(mount.rstrip("/") + "/")) and len(mount) >= len(longest):
            file_system, longest = kind, mount
    times = []
    probe = os.open(scratch / "probe", os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        for _ in range(200):
            began = time.perf_counter()
            os.write(probe, b"x" * 512)
            os.fdatasync(probe)
            times.append(time.perf_counter() - began)
    finally:
        os.close(probe)
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": len(os.sched_getaffinity(0)),
        "processor": model,
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "file_system": file_system,
        "fdatasync_median_ms": round(statistics.median(times) * 1000, 3),
    }
