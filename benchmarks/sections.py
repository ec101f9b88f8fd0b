"""What is measured of clusters that run at the same time: writes, reads, memory, the command line."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.load import Result
from benchmarks.operations import INCREMENT, PUT, PUT_LARGE, READ, STALE, TRANSACTION, requests_of
from benchmarks.report import Cell, Figure, Report, Row, plural
from benchmarks.rounds import Pace, alternate, follower_of, leader_of, request_round
from benchmarks.systems import ROOT, BenchmarkError, Cyoloctl, Measured, Member

__all__ = ["Loads", "measure_cli", "measure_memory", "measure_tls"]

_TARGETS = {
    ("writes", INCREMENT, 1): 1.0,
    ("writes", INCREMENT, 100): 1.6,
    ("writes", INCREMENT, 500): 1.6,
    ("writes", PUT, 1): 1.0,
    ("writes", PUT, 100): 1.6,
    ("writes", PUT, 500): 1.6,
    ("followers", INCREMENT, 1): 1.0,
    ("followers", INCREMENT, 100): 1.0,
    ("reads", READ, 1): 1.0,
    ("reads", READ, 100): 2.0,
    ("reads", STALE, 1): 1.0,
    ("reads", STALE, 100): 2.0,
}
"""Times etcd's rate that an operation must reach; the others are reported."""

_SECTIONS: dict[str, tuple[Callable[[Measured], Member], tuple[str, ...], tuple[int, ...]]] = {
    "writes": (leader_of, (INCREMENT, PUT), (1, 10, 100, 500)),
    "followers": (follower_of, (INCREMENT, PUT), (1, 100)),
    "reads": (leader_of, (READ, STALE), (1, 100)),
    "values": (leader_of, (PUT_LARGE, TRANSACTION), (1, 100)),
}
"""By name: which member is asked, the operations, and with how many clients."""


class Loads:
    """Sections in which every client sends the same request.  acknowledged: increments of ours so far."""

    names = tuple(_SECTIONS)

    def __init__(self, report: Report, systems: Sequence[Measured], pace: Pace) -> None:
        self._report, self._systems, self._pace = report, systems, pace
        self.acknowledged = 0

    def measure(self, section: str) -> None:
        """Every operation of a section with every number of clients, in rounds that alternate."""
        member_of, operations, numbers = _SECTIONS[section]
        for operation in operations:
            for clients in numbers:
                at = {system.name: (system, member_of(system)) for system in self._systems}
                cells, results = alternate(at, operation, clients, self._pace)
                self._report.add_row(Row(section, operation, clients, cells))
                self._keep(section, operation, clients, results)
                self._judge(section, operation, clients, cells)
                if operation == INCREMENT:
                    self.acknowledged += sum(one.acknowledged for one in results["cyoloctl"])

    def _keep(self, section: str, operation: str, clients: int, results: dict[str, list[Result]]) -> None:
        self._report.details[f"{section}, {operation}, {clients}"] = {
            name: [asdict(one) for one in each] for name, each in results.items()
        }

    def _judge(self, section: str, operation: str, clients: int, cells: Mapping[str, Cell]) -> None:
        if "etcd" not in cells or not cells["etcd"].rate:
            return
        ours, theirs = cells["cyoloctl"], cells["etcd"]
        target = _TARGETS.get((section, operation, clients), 0.0)
        what = "through a follower, " if section == "followers" else ""
        self._report.add(
            Figure(
                f"{operation}, {what}{plural(clients)}",
                ours.rate / theirs.rate,
                "x etcd",
                ">=" if target else "",
                target,
                f"{ours.rate:,.0f}/s beside {theirs.rate:,.0f}/s: medians of {self._pace.rounds} alternate"
                f" rounds of {self._pace.seconds:g} s, one client program",
            )
        )


def measure_tls(report: Report, ours: Cyoloctl, pace: Pace) -> int:
    """100 clients with an operator certificate on the TLS port; returns the acknowledged increments."""
    request, credentials = requests_of(ours.name)[INCREMENT], ours.credentials()
    results = [
        request_round(ours, request, 100, pace, at=leader_of(ours), tls=credentials)
        for _ in range(pace.rounds)
    ]
    rate = statistics.median(one.rate for one in results)
    report.details["tls_100"] = [asdict(one) for one in results]
    report.add(
        Figure(
            "increments over mutual TLS, 100 clients",
            rate,
            "/s",
            ">=",
            4500,
            f"median of {pace.rounds} rounds of {pace.seconds:g} s on the leader's port,"
            f" p50 {statistics.median(one.p50_ms for one in results):.1f} ms,"
            f" p99 {statistics.median(one.p99_ms for one in results):.1f} ms,"
            f" generator {statistics.median(one.generator_cpu for one in results):.0%} of a core",
        )
    )
    return sum(one.acknowledged for one in results)


def _memory_mb(pid: int) -> dict[str, float]:
    """Resident and proportional memory of a process in MB (10^6 bytes)."""
    wanted = {"Rss:": "rss", "Pss:": "pss"}
    found: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, *rest = line.split()
        if name in wanted:
            found[wanted[name]] = int(rest[0]) * 1024 / 1e6
    return found


def measure_memory(report: Report, systems: Sequence[Measured], idle_s: float) -> None:
    """Resident memory of every member after it did nothing for a while.  systems: ours first."""
    # Idle is a duration here, not a condition to wait for.
    time.sleep(idle_s)
    sizes = {system.name: [_memory_mb(member.pid) for member in system.members] for system in systems}
    report.details["memory_idle_mb"] = sizes
    ours, *others = ((name, max(one["rss"] for one in each)) for name, each in sizes.items())
    report.add(
        Figure(
            "resident memory of an idle node",
            ours[1],
            "MB",
            "<",
            70,
            f"largest of three (Rss in smaps_rollup, 10^6 bytes) {idle_s:g} s after forming;"
            f" proportional {max(one['pss'] for one in sizes[ours[0]]):.0f} MB"
            + "".join(f"; {name} {largest:.0f} MB" for name, largest in others),
        )
    )


def measure_cli(report: Report, ours: Cyoloctl, pairs: int) -> None:
    """Whole process time of one increment, beside a process that only imports typer."""
    leader = leader_of(ours)
    commands = {
        "incr": [*ours.command, "counter", "incr", "cli", "-d", ours.data(leader)],
        "typer": [sys.executable, "-c", "import typer"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(pairs + 1):
        for name, argv in commands.items():
            began = time.perf_counter()
            done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
            took = time.perf_counter() - began
            if done.returncode != 0:
                raise BenchmarkError(f"{' '.join(argv)}: {done.returncode}\n{done.stderr}")
            if number:  # the first pair writes bytecode
                times[name].append(took)
    median = {name: statistics.median(each) * 1000 for name, each in times.items()}
    report.details["cli_s"] = times
    report.add(
        Figure(
            "cyoloctl counter incr, whole process",
            median["incr"] / median["typer"],
            "x importing typer",
            "<",
            1.0,
            f"{median['incr']:.0f} ms beside {median['typer']:.0f} ms (python -c 'import typer'):"
            f" medians of {pairs} alternating pairs, unix socket of the leader",
        )
    )
    if ours.value("cli") != pairs + 1:
        raise BenchmarkError(f"counter cli is {ours.value('cli')} after {pairs + 1} increments")
