"""Measure cyoloctl beside etcd: ``python -m benchmarks.compare`` or ``make bench``.

Both clusters (three members each) run at the same time on the same disk; rounds alternate between them
(A B A B ...), so that whatever else the machine does meets both alike, and figures are ratios of medians.
Every answer is checked, and at the end the counters must equal what was acknowledged: a fast wrong answer
is an error here (exit status 1), not a figure.  A missed target is printed as such; with --strict it is an
exit status of 1 too.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.load import Result, Spec
from benchmarks.systems import (
    ROOT,
    BenchmarkError,
    Cyoloctl,
    Etcd,
    Member,
    System,
    call,
    scratch_directory,
    until,
)

__all__ = ["main"]

SECTIONS = ("memory", "cli", "throughput", "tls", "failover")
COUNTER = "bench"


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
class Report:
    """Everything that was measured, for --json as it is."""

    machine: dict[str, Any] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def add(self, figure: Figure) -> None:
        """Keep a figure and show it."""
        self.figures.append(figure)
        mark = "MISSED" if not figure.ok else "ok    " if figure.op else "info  "
        wanted = f" (target {figure.op} {figure.target:g})" if figure.op else ""
        say(f"{mark}  {figure.name}: {figure.value:,.2f} {figure.unit}{wanted}")
        say(f"        {figure.what}")

    def as_json(self) -> dict[str, Any]:
        """One object with a schema version."""
        figures = [{**asdict(figure), "ok": figure.ok} for figure in self.figures]
        return {"schema_version": 1, "machine": self.machine, "figures": figures, "details": self.details}


def say(text: str) -> None:
    """A line of the report; on stderr, so that ``--json -`` leaves stdout to the data."""
    print(text, file=sys.stderr, flush=True)


def machine_facts(scratch: Path) -> dict[str, Any]:
    """Conditions of the figures: processor, kernel, file system, the disk's fsync."""
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
        "cores": len(os.sched_getaffinity(0)),
        "processor": model,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": file_system,
        "fdatasync_median_ms": round(statistics.median(times) * 1000, 3),
    }


def http_request(path: str, body: dict[str, Any]) -> bytes:
    """The bytes of one keep-alive POST."""
    payload = json.dumps(body, separators=(",", ":")).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


def leader_of(system: System) -> Member:
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


def cpu_s(system: System) -> float:
    """Processor time that the running members have used so far, in seconds."""
    ticks = 0
    for member in system.members:
        # After the command in parentheses, utime and stime are fields 14 and 15, proc(5).
        fields = Path(f"/proc/{member.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def load_round(
    system: System, clients: int, seconds: float, tls: tuple[str, Path, Path] | None = None
) -> Result:
    """One round of writes to the leader; raises BenchmarkError when any was not acknowledged."""
    return request_round(
        system, http_request(*system.write(COUNTER, None)), system.expect(), clients, seconds, tls
    )


def request_round(
    system: System,
    request: bytes,
    expect: str,
    clients: int,
    seconds: float,
    tls: tuple[str, Path, Path] | None = None,
) -> Result:
    """One round of the same request to the leader; raises BenchmarkError when any was no success.

    expect: text that each answer holds.
    """
    leader = leader_of(system)
    spec = Spec(
        target=f"tcp:{leader.address}" if tls else leader.target,
        request=base64.b64encode(request).decode(),
        expect=expect,
        clients=clients,
        seconds=seconds,
        ca_pem=tls[0] if tls else "",
        certificate_file=str(tls[1]) if tls else "",
        key_file=str(tls[2]) if tls else "",
    )
    cpu_before = cpu_s(system)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=json.dumps(asdict(spec)),
        capture_output=True,
        text=True,
        timeout=seconds + 90,
        check=True,
        cwd=ROOT,
    )
    result = Result(**json.loads(done.stdout))
    if result.errors:
        raise BenchmarkError(f"{system.name}, {clients} clients: not every write succeeded: {result.errors}")
    result.members_cpu_ms = (cpu_s(system) - cpu_before) * 1000 / result.acknowledged
    return result


def measure_throughput(
    report: Report, ours: Cyoloctl, theirs: Etcd, rounds: int, seconds: float, target: dict[int, float]
) -> int:
    """Rounds with 1 and 100 clients on both systems; returns the increments that we acknowledged."""
    acknowledged = 0
    for clients, wanted in target.items():
        results: dict[str, list[Result]] = {ours.name: [], theirs.name: []}
        for _ in range(rounds):
            for system in (ours, theirs):
                result = load_round(system, clients, seconds)
                results[system.name].append(result)
                if system is ours:
                    acknowledged += result.acknowledged
        rates = {name: statistics.median(one.rate for one in each) for name, each in results.items()}
        for name, each in results.items():
            say(
                f"        {name:8} {clients:3} clients: median {rates[name]:8,.0f}/s"
                f"  p50 {statistics.median(one.p50_ms for one in each):6.2f} ms"
                f"  p99 {statistics.median(one.p99_ms for one in each):6.2f} ms"
                f"  members' cpu {statistics.median(one.members_cpu_ms for one in each):.2f} ms per write"
                f"  generator {statistics.median(one.generator_cpu for one in each):.0%} of a core"
                f"  rounds {' '.join(f'{one.rate:,.0f}' for one in each)}"
            )
        report.details[f"throughput_{clients}"] = {
            name: [asdict(one) for one in each] for name, each in results.items()
        }
        report.add(
            Figure(
                f"increments, {clients} client{'s' if clients > 1 else ''}",
                rates[ours.name] / rates[theirs.name],
                "x etcd's puts",
                ">=",
                wanted,
                f"{rates[ours.name]:,.0f}/s beside {rates[theirs.name]:,.0f}/s: medians of {rounds} alternate"
                f" rounds of {seconds:g} s, one client program, keep-alive HTTP on each leader's"
                f" {'unix socket' if theirs.members[0].target.startswith('unix') else 'socket (etcd: TCP)'}",
            )
        )
    return acknowledged


def measure_tls(report: Report, ours: Cyoloctl, rounds: int, seconds: float) -> int:
    """100 clients with an operator certificate on the TLS port; returns the acknowledged increments."""
    credentials = ours.credentials()
    results = [load_round(ours, 100, seconds, credentials) for _ in range(rounds)]
    rate = statistics.median(one.rate for one in results)
    report.details["tls_100"] = [asdict(one) for one in results]
    report.add(
        Figure(
            "increments over mutual TLS, 100 clients",
            rate,
            "/s",
            ">=",
            4500,
            f"median of {rounds} rounds of {seconds:g} s on the leader's port,"
            f" p50 {statistics.median(one.p50_ms for one in results):.1f} ms,"
            f" p99 {statistics.median(one.p99_ms for one in results):.1f} ms,"
            f" generator {statistics.median(one.generator_cpu for one in results):.0%} of a core",
        )
    )
    return sum(one.acknowledged for one in results)


def memory_mb(pid: int) -> dict[str, float]:
    """Resident and proportional memory of a process in MB (10^6 bytes)."""
    wanted = {"Rss:": "rss", "Pss:": "pss"}
    found: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, *rest = line.split()
        if name in wanted:
            found[wanted[name]] = int(rest[0]) * 1024 / 1e6
    return found


def measure_memory(report: Report, ours: Cyoloctl, theirs: Etcd, idle_s: float) -> None:
    """Resident memory of every member after it did nothing for a while."""
    # Idle is a duration here, not a condition to wait for.
    time.sleep(idle_s)
    sizes = {system.name: [memory_mb(member.pid) for member in system.members] for system in (ours, theirs)}
    report.details["memory_idle_mb"] = sizes
    largest = {name: max(one["rss"] for one in each) for name, each in sizes.items()}
    report.add(
        Figure(
            "resident memory of an idle node",
            largest[ours.name],
            "MB",
            "<",
            70,
            f"largest of three (Rss in smaps_rollup, 10^6 bytes) {idle_s:g} s after forming;"
            f" proportional {max(one['pss'] for one in sizes[ours.name]):.0f} MB;"
            f" etcd {largest[theirs.name]:.0f} MB",
        )
    )


def measure_cli(report: Report, ours: Cyoloctl, pairs: int) -> int:
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
            2.0,
            f"{median['incr']:.0f} ms beside {median['typer']:.0f} ms (python -c 'import typer'):"
            f" medians of {pairs} alternating pairs, unix socket of the leader",
        )
    )
    if ours.value("cli") != pairs + 1:
        raise BenchmarkError(f"counter cli is {ours.value('cli')} after {pairs + 1} increments")
    return pairs + 1


def failover(system: System, request_id: str, how: signal.Signals) -> float:
    """Take the leader away by a signal; seconds until a survivor acknowledges the next write.

    Five workers a survivor, 100 ms apart, each with connections of its own, give up an attempt after half a
    second and pause 100 ms after a refusal: a request that went down with the leader does not hide that the
    next one would succeed, and the load stays small.  Every attempt carries the same request id.
    """
    victim = leader_of(system)
    survivors = [member for member in system.members if member is not victim]
    path, body = system.write("failover", request_id)
    acknowledged: list[float] = []
    done = threading.Event()

    def attempt_until_done(member: Member, delay_s: float) -> None:
        done.wait(delay_s)
        while not done.is_set():
            try:
                status, answer = call(member.target, "POST", path, body, timeout_s=0.5)
            except (OSError, http.client.HTTPException):
                continue
            if system.accepted(status, answer):
                acknowledged.append(time.perf_counter())
                done.set()
            else:
                done.wait(0.1)

    workers = [
        threading.Thread(target=attempt_until_done, args=(member, index * 0.1))
        for member in survivors
        for index in range(5)
    ]
    began = time.perf_counter()
    os.kill(victim.pid, how)
    for worker in workers:
        worker.start()
    done.wait(60)
    done.set()
    for worker in workers:
        worker.join()
    system.kill(victim)
    if not acknowledged:
        raise BenchmarkError(f"{system.name}: no write acknowledged within 60 s of the leader's end")
    system.start_member(victim)

    def back() -> bool:
        system.check_alive()
        return system.healthy()

    until(f"{system.name} healthy after {request_id}", back)
    return min(acknowledged) - began


def measure_failover(report: Report, ours: Cyoloctl, theirs: Etcd, times: int) -> None:
    """Take leaders away in turn on both systems; each is back and caught up before the next.

    A killed process closes its connections, which tells the survivors at once.  A machine that loses power
    or its network does not: a stopped process (SIGSTOP) shows that case, without a target of its own.
    """
    frozen_times = max(1, times // 4)
    took: dict[str, dict[str, list[float]]] = {}
    for how, count in ((signal.SIGKILL, times), (signal.SIGSTOP, frozen_times)):
        took[how.name] = {ours.name: [], theirs.name: []}
        for number in range(count):
            for system in (ours, theirs):
                took[how.name][system.name].append(failover(system, f"{how.name}-{number}", how))
    report.details["failover_s"] = took

    def beside(how: str) -> str:
        etcd = took[how][theirs.name]
        return f"etcd alike: median {statistics.median(etcd):.2f} s, worst {max(etcd):.2f} s"

    killed, frozen = took["SIGKILL"][ours.name], took["SIGSTOP"][ours.name]
    what = f"{times} times SIGKILL of the leader until a survivor acknowledged a write; {beside('SIGKILL')}"
    report.add(Figure("failover, median", statistics.median(killed), "s", "<", 1.5, what))
    report.add(Figure("failover, worst", max(killed), "s", "<", 3.0, what))
    what = (
        f"{frozen_times} times SIGSTOP, connections stay open as when a machine loses power,"
        f" median {statistics.median(frozen):.2f} s; {beside('SIGSTOP')}"
    )
    report.add(Figure("failover of a frozen leader, worst", max(frozen), "s", "", 0, what))
    # Ten workers tried each write with one request id: exactly one increment each.
    if ours.value("failover") != times + frozen_times:
        raise BenchmarkError(
            f"counter failover is {ours.value('failover')} after {times + frozen_times} writes"
        )


def measure(options: argparse.Namespace, report: Report) -> None:
    """Start both systems, run the chosen sections, end every process."""
    only = set(options.only)
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_directory(options.scratch, options.keep))
        report.machine = machine_facts(scratch)
        theirs = Etcd(scratch, transport=options.etcd_transport)
        report.machine["etcd"] = theirs.version
        say("machine: " + ", ".join(f"{key} {value}" for key, value in report.machine.items()))
        if report.machine["file_system"] == "tmpfs":
            say("warning: the data is in memory (tmpfs), so fsync costs nothing; use --scratch on a disk")
        say(
            "three members each, both clusters up all the time, rounds alternate; data on the same disk,"
            " mutual TLS between members on both sides; etcd: defaults, put through its v3 JSON gateway;"
            " cyoloctl: POST .../increment; every answer checked"
        )
        ours = Cyoloctl(scratch)
        for system in (theirs, ours):
            stack.callback(system.close)
            system.start()
        acknowledged = 0
        if "memory" in only:
            measure_memory(report, ours, theirs, options.idle)
        if "cli" in only:
            measure_cli(report, ours, options.pairs)
        if "throughput" in only:
            targets = {1: 0.8, 100: 1.3}
            acknowledged += measure_throughput(report, ours, theirs, options.rounds, options.seconds, targets)
        if "tls" in only:
            acknowledged += measure_tls(report, ours, options.rounds, options.seconds)
        if acknowledged:
            value = ours.value(COUNTER)
            if value != acknowledged:
                raise BenchmarkError(
                    f"counter {COUNTER} is {value} after {acknowledged} acknowledged increments"
                )
            say(f"        counter {COUNTER} equals the {acknowledged:,} acknowledged increments")
        if "failover" in only:
            measure_failover(report, ours, theirs, options.failovers)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="benchmarks.compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION",
                        help=f"what to measure: {', '.join(SECTIONS)} (default: all)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each system (default 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a round (default 4)")
    parser.add_argument("--failovers", type=int, default=20, help="leaders killed per system (default 20)")
    parser.add_argument("--pairs", type=int, default=20, help="processes timed of each command (default 20)")
    parser.add_argument("--idle", type=float, default=5.0, help="seconds before memory is read (default 5)")
    parser.add_argument("--etcd-transport", choices=("unix", "tcp"), default="unix",
                        help="where etcd's clients connect (default unix, like cyoloctl's)")  # fmt: skip
    parser.add_argument("--scratch", type=Path, help="directory for the data, on the disk to measure")
    parser.add_argument("--keep", action="store_true", help="leave data and logs in the scratch directory")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON to FILE, - for stdout")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a target is missed")
    return parser.parse_args(argv)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run; the exit status: 0 measured, 1 failed (with --strict: or a target missed), 130 interrupted."""
    options = parse(sys.argv[1:] if argv is None else argv)
    # An ended benchmark ends its members too.
    signal.signal(signal.SIGTERM, _terminate)
    report = Report()
    status = 0
    try:
        measure(options, report)
    except BenchmarkError as error:
        say(f"failed: {error}")
        report.details["failed"] = str(error)
        status = 1
    except KeyboardInterrupt:
        return 130
    if options.json:
        text = json.dumps(report.as_json(), indent=1) + "\n"
        if options.json == "-":
            sys.stdout.write(text)
        else:
            Path(options.json).write_text(text, encoding="utf-8")
    if options.strict and not all(figure.ok for figure in report.figures):
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
