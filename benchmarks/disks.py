"""Slow disks: every sync of every member is delayed, while writers write and two clients read at the leader.

strace delays the system calls, since etcd, as a program in Go, makes them without the C library.  It stops a
member at its syncs only (--seccomp-bpf), and a delay holds up the thread that syncs, as a disk does.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.load import Result
from benchmarks.operations import PUT, READ, STALE, requests_of
from benchmarks.report import Figure, Report, Row, cell_of, say
from benchmarks.rounds import Load, Pace, leader_of, prepare, rounds_at_once
from benchmarks.systems import BenchmarkError, Measured

__all__ = ["WRITERS", "measure_disks", "slow_syncs"]

WRITERS = 20

Make = Callable[[Path, list[str]], Sequence[Measured]]
"""Makes the systems below a directory, with what stands before the command of each member."""


def slow_syncs(delay_ms: float) -> list[str]:
    """What stands before a command to delay each of its syncs; nothing for no delay."""
    if not delay_ms:
        return []
    strace = shutil.which("strace")
    if strace is None:
        raise BenchmarkError("strace is not installed; run apt-get install strace")
    calls = "fsync,fdatasync,sync_file_range,msync"
    delay = f"inject={calls}:delay_enter={round(delay_ms * 1000)}"
    # -D: the member is the process that is started, and strace ends with it.
    return [
        strace,
        "-D",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        f"trace={calls}",
        "-e",
        delay,
    ]


def measure_disks(report: Report, scratch: Path, make: Make, delays_ms: Sequence[float], pace: Pace) -> None:
    """Writers, one stale and one linearizable reader at once, with each delay on clusters of their own."""
    for delay_ms in delays_ms:
        say(f"disks: clusters start, {delay_ms:g} ms per sync")
        place = scratch / f"d{delay_ms:g}"
        place.mkdir()
        with ExitStack() as stack:
            systems = make(place, slow_syncs(delay_ms))
            for system in systems:
                stack.callback(system.close)
                system.start()
                prepare(system)
            _measure(report, systems, delay_ms, pace)


def _measure(report: Report, systems: Sequence[Measured], delay_ms: float, pace: Pace) -> None:
    kinds = {PUT: WRITERS, READ: 1, STALE: 1}
    results: dict[str, dict[str, list[Result]]] = {kind: {} for kind in kinds}
    for _ in range(pace.rounds):
        for system in systems:
            known = requests_of(system.name)
            asked = {kind: count for kind, count in kinds.items() if kind in known}
            loads = [Load(known[kind], count) for kind, count in asked.items()]
            done = rounds_at_once(system, loads, pace, at=leader_of(system))
            for kind, result in zip(asked, done, strict=True):
                results[kind].setdefault(system.name, []).append(result)
    for kind, count in kinds.items():
        cells = {name: cell_of(each) for name, each in results[kind].items()}
        report.add_row(Row("disks", kind, count, cells, delay_ms))
        if kind == PUT:
            for name, cell in cells.items():
                if cell.rate and cell.p50_ms < delay_ms:
                    raise BenchmarkError(
                        f"{name}: half of the writes took less than one sync of {delay_ms:g} ms"
                        f" ({cell.p50_ms:.2f} ms), so they did not wait for it"
                    )
        if delay_ms and "etcd" in cells and cells["etcd"].rate:
            writes = kind == PUT
            ours, theirs = cells["cyoloctl"], cells["etcd"]
            report.add(
                Figure(
                    f"{kind}, syncs of {delay_ms:g} ms",
                    ours.rate / theirs.rate if writes else ours.p50_ms,
                    "x etcd" if writes else "ms",
                    ">=" if writes else "",
                    1.0 if writes else 0.0,
                    f"{WRITERS} writers and two readers at the leader; p50 and p99 {ours.p50_ms:.2f} and"
                    f" {ours.p99_ms:.2f} ms beside {theirs.p50_ms:.2f} and {theirs.p99_ms:.2f} ms",
                )
            )
