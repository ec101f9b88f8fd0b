"""Measure cyoloctl beside etcd and NATS JetStream: ``python -m benchmarks.compare`` or ``make bench``.

The clusters (three members each) run at the same time on the same disk; rounds alternate between them
(A B C A B C ...), so that whatever else the machine does meets all alike, and figures are ratios of medians.
Every answer is checked, and at the end the counters must equal what was acknowledged: a fast wrong answer
is an error here (exit status 1), not a figure.  A missed target is printed as such; with --strict it is an
exit status of 1 too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import tables
from benchmarks.disks import measure_disks, slow_syncs
from benchmarks.failover import measure_failover
from benchmarks.nats import Nats
from benchmarks.operations import COUNTER
from benchmarks.report import Report, machine_facts, say
from benchmarks.rounds import Pace, prepare
from benchmarks.sections import Loads, measure_cli, measure_memory, measure_tls
from benchmarks.systems import BenchmarkError, Cyoloctl, Etcd, Measured, scratch_directory
from cyoloctl.process import interrupt_on_termination

__all__ = ["main"]

SECTIONS = ("memory", "cli", *Loads.names, "tls", "failover", "disks")
PEERS = ("etcd", "nats")


def _peer(options: argparse.Namespace, name: str, place: Path, before: Sequence[str]) -> Etcd | Nats:
    if name == "etcd":
        return Etcd(place, transport=options.etcd_transport, before=before)
    return Nats(place, before=before)


def _describe(options: argparse.Namespace, report: Report, systems: Sequence[Measured]) -> None:
    for system in systems:
        report.machine[system.name] = system.version
        if isinstance(system, Nats):
            report.machine["nats_syncs"] = system.syncs
    if options.quick:
        report.note("rounds this short show that the program works; they are no figures")
    say("machine: " + ", ".join(f"{key} {value}" for key, value in report.machine.items()))
    if report.machine["file_system"] == "tmpfs":
        report.note("the data is in memory (tmpfs), so a sync costs nothing; use --scratch on a disk")
    for system in systems:
        if isinstance(system, Nats) and not system.syncs:
            report.note(
                f"{system.version} acknowledges writes that are on no disk: it has no `sync_interval: always`"
                " and made no sync at all for 2,680 puts that were watched. Its figures are not equal to the"
                " others', which sync each write on a majority; it is left out where syncs are slow"
            )
    say(
        "three members each, all clusters up all the time, rounds alternate; data on the same disk,"
        " mutual TLS between members; etcd: defaults, its v3 JSON gateway; NATS: a bucket with three"
        " replicas in files; every answer checked"
    )


def measure(options: argparse.Namespace, report: Report) -> None:
    """Start the systems, run the chosen sections, end every process."""
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_directory(options.scratch, options.keep))
        report.machine = machine_facts(scratch)
        ours = Cyoloctl(scratch)
        peers = [_peer(options, name, scratch, ()) for name in options.peers]
        if "disks" in options.only:
            slow_syncs(max(options.delays))  # a missing program is told before anything is measured
        _describe(options, report, [ours, *peers])
        if set(options.only) - {"disks"}:
            with ExitStack() as running:
                for system in (*peers, ours):
                    running.callback(system.close)
                    system.start()
                _measure_together(options, report, ours, peers)
        if "disks" in options.only:
            syncing = [p.name for p in peers if not isinstance(p, Nats) or p.syncs]

            def make(place: Path, before: list[str]) -> list[Measured]:
                return [Cyoloctl(place, before=before), *(_peer(options, n, place, before) for n in syncing)]

            measure_disks(report, scratch, make, options.delays, Pace(options.rounds, options.seconds))


def _measure_together(
    options: argparse.Namespace, report: Report, ours: Cyoloctl, peers: Sequence[Etcd | Nats]
) -> None:
    only, pace = set(options.only), Pace(options.rounds, options.seconds)
    if "memory" in only:
        measure_memory(report, [ours, *peers], options.idle)
    if "cli" in only:
        measure_cli(report, ours, options.pairs)
    loads = Loads(report, [ours, *peers], pace)
    if only & set(loads.names):
        for system in (ours, *peers):
            prepare(system)
    for name in loads.names:
        if name in only:
            loads.measure(name)
    acknowledged = loads.acknowledged
    if "tls" in only:
        acknowledged += measure_tls(report, ours, pace)
    if acknowledged:
        value = ours.value(COUNTER)
        if value != acknowledged:
            raise BenchmarkError(f"counter {COUNTER} is {value} after {acknowledged} acknowledged increments")
        say(f"        counter {COUNTER} equals the {acknowledged:,} acknowledged increments")
    if "failover" in only:
        etcd = next((peer for peer in peers if isinstance(peer, Etcd)), None)
        measure_failover(report, ours, etcd, options.failovers)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="benchmarks.compare", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION",
        help=f"what to measure: {', '.join(SECTIONS)} (default: all)")  # fmt: skip
    add("--quick", action="store_true", help="tiny rounds, to see whether everything works; no figures")
    add("--peers", nargs="*", choices=PEERS, default=list(PEERS), metavar="SYSTEM",
        help="what to measure beside: etcd, nats, nothing (default: both)")  # fmt: skip
    add("--rounds", type=int, default=3, help="rounds of each system (default 3)")
    add("--seconds", type=float, default=2.0, help="length of a round (default 2)")
    add("--failovers", type=int, default=12, help="leaders killed per system (default 12)")
    add("--pairs", type=int, default=20, help="processes timed of each command (default 20)")
    add("--idle", type=float, default=5.0, help="seconds before memory is read (default 5)")
    add("--delays", type=float, nargs="+", default=[0.0, 5.0, 20.0], metavar="MS",
        help="milliseconds that each sync is delayed by (default 0 5 20)")  # fmt: skip
    add("--etcd-transport", choices=("unix", "tcp"), default="unix",
        help="where etcd's clients connect (default unix, like cyoloctl's)")  # fmt: skip
    add("--scratch", type=Path, help="directory for the data, on the disk to measure")
    add("--keep", action="store_true", help="leave data and logs in the scratch directory")
    add("--json", metavar="FILE", help="write everything as JSON to FILE, - for stdout")
    add("--report", type=Path, metavar="DIR", help="write compare.json, a table and plots of it to DIR")
    add("--from", dest="source", type=Path, metavar="FILE",
        help="make the report of this JSON of an earlier run, and measure nothing")  # fmt: skip
    add("--strict", action="store_true", help="exit 1 when a target is missed")
    options = parser.parse_args(argv)
    if options.source and not options.report:
        parser.error("--from needs --report DIR, where the table and the plots are written")
    if options.quick:
        options.rounds, options.seconds, options.failovers = 1, 0.5, 1
        options.pairs, options.idle = 2, 0.2
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run; the exit status: 0 measured, 1 failed (with --strict: or a target missed), 130 interrupted."""
    options = parse(sys.argv[1:] if argv is None else argv)
    if options.source:
        tables.write_comparison(options.report, json.loads(options.source.read_text("utf-8")))
        return 0
    # An ended benchmark ends its members too.
    interrupt_on_termination()
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
    if options.report and status == 0:
        tables.write_comparison(options.report, report.as_json())
        say(f"written to {options.report}")
    if options.strict and not all(figure.ok for figure in report.figures):
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
