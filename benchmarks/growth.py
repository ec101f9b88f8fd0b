"""What a write costs as a cluster grows: ``python -m benchmarks.growth``.

With more nodes, with more keys, with a longer history, and p99.9 while something else goes on: compaction,
``snapshot save``, the rotation of a key, the join of a node.  Every request of a round has to succeed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.growth_tables import write_growth
from benchmarks.large_state import Bench, fill
from benchmarks.operations import COUNTER, INCREMENT, PUT, requests_of
from benchmarks.report import Cell, cell_of, machine_facts, plural, say
from benchmarks.rounds import Pace, leader_of, prepare, request_round
from benchmarks.systems import BenchmarkError, Cyoloctl, scratch_directory, until
from cyoloctl.process import interrupt_on_termination

__all__ = ["main"]

SECTIONS = ("nodes", "keys", "history", "events")
_CLIENTS = (1, 100)
_ROTATIONS = 5


@dataclass(frozen=True)
class Sizes:
    """How far everything grows.  nodes: how many each cluster has.  keys: ascending, beside each size rounds
    are measured.  writes: the history, in increments.  history_s: after which that ends anyway.
    event_keys: what the cluster holds while other things go on; quiet_s: how long nothing does.
    """

    pace: Pace
    nodes: tuple[int, ...]
    keys: tuple[int, ...]
    writes: int
    history_s: float
    history_round_s: float
    event_keys: int
    quiet_s: float


WHOLE = Sizes(
    pace=Pace(2, 3.0),
    nodes=(3, 5, 7),
    keys=(1, 1_000, 10_000, 100_000, 1_000_000),
    writes=1_000_000,
    history_s=240.0,
    history_round_s=4.0,
    event_keys=1_000_000,
    quiet_s=20.0,
)
QUICK = Sizes(
    pace=Pace(1, 0.5),
    nodes=(3, 5),
    keys=(1, 300, 3_000),
    writes=3_000,
    history_s=30.0,
    history_round_s=0.5,
    event_keys=3_000,
    quiet_s=2.0,
)


@dataclass
class Growth:
    """Everything that was measured.  points: rows of (section, at, operation, clients, cell)."""

    machine: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)
    events: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, section: str, at: int, operation: str, clients: int, cell: Cell) -> None:
        """Keep a point and show it.  at: nodes, keys or writes."""
        self.points.append(
            {"section": section, "at": at, "operation": operation, "clients": clients, "cell": asdict(cell)}
        )
        say(
            f"{section} {at:,}: {operation}, {plural(clients)}: {cell.rate:,.0f}/s, p50 {cell.p50_ms:.2f} ms,"
            f" p99 {cell.p99_ms:.2f} ms, members' cpu {cell.cpu_ms * 1000:.0f} us each"
        )

    def note(self, text: str) -> None:
        """Keep a line that has to stand beside the figures."""
        self.notes.append(text)
        say(f"note: {text}")

    def as_json(self) -> dict[str, Any]:
        """One object with a schema version."""
        return {"schema_version": 1, **asdict(self)}


def _rounds(system: Cyoloctl, operation: str, clients: int, pace: Pace) -> Cell:
    request = requests_of(system.name)[operation]
    return cell_of(
        [request_round(system, request, clients, pace, at=leader_of(system)) for _ in range(pace.rounds)]
    )


@contextmanager
def _cluster(scratch: Path, name: str, nodes: int = 3) -> Iterator[Cyoloctl]:
    """A cluster below a directory while the block runs."""
    place = scratch / name
    place.mkdir()
    system = Cyoloctl(place, nodes=nodes)
    try:
        system.start()
        yield system
    finally:
        system.close()


def measure_nodes(found: Growth, scratch: Path, sizes: Sizes) -> None:
    """Increments at the leader of clusters of several sizes, one after another."""
    for nodes in sizes.nodes:
        with _cluster(scratch, f"n{nodes}", nodes) as system:
            for clients in _CLIENTS:
                found.add("nodes", nodes, INCREMENT, clients, _rounds(system, INCREMENT, clients, sizes.pace))


def measure_keys(found: Growth, scratch: Path, sizes: Sizes) -> None:
    """Puts of 100 bytes at the leader of three nodes that hold more and more keys."""
    with _cluster(scratch, "keys") as system:
        prepare(system)
        present = 0
        for keys in sizes.keys:
            took = fill(leader_of(system).target, keys, 100, 8, first=present)
            present = keys
            say(f"keys: {keys:,} are there, filled in {took:.1f} s")
            until("the followers have caught up", system.healthy)
            for clients in _CLIENTS:
                found.add("keys", keys, PUT, clients, _rounds(system, PUT, clients, sizes.pace))


def measure_history(found: Growth, scratch: Path, sizes: Sizes) -> None:
    """Rounds of increments by 100 clients until so many were acknowledged.

    An entry of the log holds the increments that came together, so there are fewer entries than increments.
    """
    with _cluster(scratch, "history") as system:
        deadline = time.monotonic() + sizes.history_s
        request, pace = requests_of(system.name)[INCREMENT], Pace(1, sizes.history_round_s, 0.1)
        written = 0
        while written < sizes.writes and time.monotonic() < deadline:
            result = request_round(system, request, 100, pace, at=leader_of(system))
            found.add("history", written, INCREMENT, 100, cell_of([result]))
            written += result.acknowledged
        if system.value(COUNTER) != written:
            raise BenchmarkError(f"counter {COUNTER} is {system.value(COUNTER)} after {written} increments")
        ended = "" if written >= sizes.writes else f", where the {sizes.history_s:g} s for it were over"
        found.note(f"{written:,} increments are {_last_index(system):,} entries of the log{ended}")


def _last_index(system: Cyoloctl) -> int:
    leader = leader_of(system)
    seen = system.status(leader).get("members", [])
    return int(next((one["applied_index"] or 0 for one in seen if one["name"] == leader.name), 0))


def measure_events(found: Growth, scratch: Path, sizes: Sizes) -> None:
    """One client that puts every ten milliseconds, while other things go on beside a large state."""
    with _cluster(scratch, "events") as system:
        bench = Bench(system, sizes.event_keys, 100)
        data = system.data(leader_of(system))

        def rotate() -> None:
            for _ in range(_ROTATIONS):
                system.cli("key", "rotate", "-d", data)

        bench.during("nothing else", lambda: time.sleep(sizes.quiet_s))
        bench.during("compaction", bench.compact)
        bench.during("snapshot save", bench.save)
        bench.during("key rotation", rotate)
        bench.during("join of a node", lambda: system.add(timeout_s=300))
        found.events = {name: said for name, said in bench.found["phases"].items() if name != "fill"}
        found.note(
            f"beside {sizes.event_keys:,} keys of 100 bytes; {_ROTATIONS} key rotations, one after another;"
            " p99.9 of fewer than 1,000 puts is the longest"
        )


_MEASURES = dict(zip(SECTIONS, (measure_nodes, measure_keys, measure_history, measure_events), strict=True))


def measure(options: argparse.Namespace) -> Growth:
    """The chosen sections, each on clusters of its own."""
    sizes = QUICK if options.quick else WHOLE
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_directory(options.scratch, options.keep))
        found = Growth({**machine_facts(scratch), "cyoloctl": Cyoloctl(scratch, nodes=0).version})
        say("machine: " + ", ".join(f"{key} {value}" for key, value in found.machine.items()))
        if found.machine["file_system"] == "tmpfs":
            found.note("the data is in memory (tmpfs), so a sync costs nothing; use --scratch on a disk")
        if options.quick:
            found.note("sizes this small show that the program works; they are no figures")
        for section in SECTIONS:
            if section in options.only:
                _MEASURES[section](found, scratch, sizes)
    return found


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="benchmarks.growth", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION",
        help=f"what to measure: {', '.join(SECTIONS)} (default: all)")  # fmt: skip
    add("--quick", action="store_true", help="small sizes, to see whether everything works; no figures")
    add("--scratch", type=Path, help="directory for the data, on the disk to measure")
    add("--keep", action="store_true", help="leave data and logs in the scratch directory")
    add("--json", type=Path, metavar="FILE", help="write everything as JSON to FILE")
    add("--report", type=Path, metavar="DIR", help="write growth.json, tables and plots of it to DIR")
    add("--from", dest="source", type=Path, metavar="FILE",
        help="make the report of this JSON of an earlier run, and measure nothing")  # fmt: skip
    options = parser.parse_args(argv)
    if options.source and not options.report:
        parser.error("--from needs --report DIR, where the tables and the plots are written")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run; the exit status: 0 measured, 1 failed, 130 interrupted."""
    options = parse(sys.argv[1:] if argv is None else argv)
    if options.source:
        write_growth(options.report, json.loads(options.source.read_text("utf-8")))
        return 0
    # An ended benchmark ends its members too.
    interrupt_on_termination()
    try:
        found = measure(options).as_json()
    except BenchmarkError as error:
        say(f"failed: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.report:
        write_growth(options.report, found)
        say(f"written to {options.report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
