"""Rounds of load: on which member, by the load generator as a process of its own, every answer checked."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.load import Result, Spec
from benchmarks.operations import PUT, Request, requests_of
from benchmarks.report import Cell, cell_of
from benchmarks.systems import ROOT, BenchmarkError, Measured, Member, until

__all__ = [
    "Load",
    "Pace",
    "Tls",
    "alternate",
    "cpu_s",
    "follower_of",
    "leader_of",
    "prepare",
    "request_round",
    "rounds_at_once",
]

Tls = tuple[str, Path, Path]
"""CA (PEM), certificate file and key file of a client."""


@dataclass(frozen=True)
class Pace:
    """How often and how long.  rounds: of each system.  seconds: of a round, after its warm-up."""

    rounds: int
    seconds: float
    warmup_s: float = 0.3


@dataclass(frozen=True)
class Load:
    """Clients that do nothing but one request."""

    request: Request
    clients: int


def leader_of(system: Measured) -> Member:
    """The present leader; waits for one."""
    found: list[Member] = []

    def look() -> bool:
        system.check_alive()
        leader = system.leader()
        if leader is not None:
            found.append(leader)
        return leader is not None

    until(f"{system.name} has a leader", look)
    return found[-1]


def follower_of(system: Measured) -> Member:
    """A member that does not lead now."""
    leader = leader_of(system)
    return next(member for member in system.members if member is not leader)


def cpu_s(system: Measured) -> float:
    """Processor time that the running members have used so far, in seconds."""
    ticks = 0
    for member in system.members:
        # After the command in parentheses, utime and stime are fields 14 and 15, proc(5).
        fields = Path(f"/proc/{member.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def request_round(
    system: Measured, request: Request, clients: int, pace: Pace, *, at: Member, tls: Tls | None = None
) -> Result:
    """One round of the same request to a member; raises BenchmarkError when any was no success."""
    return rounds_at_once(system, [Load(request, clients)], pace, at=at, tls=tls)[0]


def rounds_at_once(
    system: Measured, loads: Sequence[Load], pace: Pace, *, at: Member, tls: Tls | None = None
) -> list[Result]:
    """Rounds at the same time, a process for each; the processor time is that of all operations together.

    Raises BenchmarkError when any request was no success.
    """
    before = cpu_s(system)
    running = [_start(load, pace, at, tls) for load in loads]
    try:
        results = [_result(process, pace) for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait()
    for load, result in zip(loads, results, strict=True):
        if result.errors:
            raise BenchmarkError(
                f"{system.name}, {load.clients} clients: not every request succeeded: {result.errors}"
            )
    spent_ms = (cpu_s(system) - before) * 1000
    for result in results:
        result.members_cpu_ms = spent_ms / sum(one.acknowledged for one in results)
    return results


def _start(load: Load, pace: Pace, at: Member, tls: Tls | None) -> subprocess.Popen[str]:
    spec = Spec(
        target=f"tcp:{at.address}" if tls else at.target,
        request=base64.b64encode(load.request.data).decode(),
        expect=load.request.expect,
        clients=load.clients,
        seconds=pace.seconds,
        warmup_s=pace.warmup_s,
        protocol=load.request.protocol,
        ca_pem=tls[0] if tls else "",
        certificate_file=str(tls[1]) if tls else "",
        key_file=str(tls[2]) if tls else "",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(spec)))
    process.stdin.close()
    process.stdin = None  # communicate() would write to it
    return process


def _result(process: subprocess.Popen[str], pace: Pace) -> Result:
    try:
        said, _ = process.communicate(timeout=pace.warmup_s + pace.seconds + 90)
    except subprocess.TimeoutExpired:
        raise BenchmarkError("the load generator did not end") from None
    if process.returncode != 0:
        raise BenchmarkError(f"the load generator ended with {process.returncode}")
    return Result(**json.loads(said))


def alternate(
    systems: Mapping[str, tuple[Measured, Member]], operation: str, clients: int, pace: Pace
) -> tuple[dict[str, Cell], dict[str, list[Result]]]:
    """Rounds that alternate between the systems which have the operation, and their medians.

    systems: by name, the system and the member that is asked.
    """
    results: dict[str, list[Result]] = {}
    for _ in range(pace.rounds):
        for name, (system, at) in systems.items():
            request = requests_of(name).get(operation)
            if request is not None:
                results.setdefault(name, []).append(request_round(system, request, clients, pace, at=at))
    return {name: cell_of(each) for name, each in results.items()}, results


def prepare(system: Measured) -> None:
    """Put the key that is read and compared."""
    request_round(system, requests_of(system.name)[PUT], 1, Pace(1, 0.05, 0.05), at=leader_of(system))
