"""``cyoloctl sim``: clusters of this release in a deterministic simulation, under faults."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Annotated, Any

from cyoloctl.cli import output
from cyoloctl.cli.invocation import Invocation, Leaf, command, parse_int64, parse_seeds
from cyoloctl.cli.output import Cell, Column
from cyoloctl.cli.parameters import Option
from cyoloctl.errors import Conflict, Interrupted, UsageError

if TYPE_CHECKING:
    from cyoloctl.sim import Report, Violation

__all__ = ["COMMANDS"]

_MAX_NODES = 9
_MAX_JOBS = 1024
_SHOWN_TRACES = 3


def _faults(text: str, usual: tuple[str, ...], opt_in: tuple[str, ...]) -> tuple[str, ...]:
    """The named faults in the order of the table: the order on the command line changes nothing."""
    if text == "all":
        return usual
    known = (*usual, *opt_in)
    if text == "none":
        return ()
    wanted = [name.strip() for name in text.split(",")]
    for name in wanted:
        if name not in known:
            raise UsageError(f"--faults names {name[:40]!r}: use all, none, or some of {','.join(known)}")
    return tuple(name for name in known if name in wanted)


class _Tally:
    """Totals of the runs so far."""

    def __init__(self, replay: Callable[[int], str]) -> None:
        self._replay = replay
        self.seeds = self.operations = 0
        self.faults: Counter[str] = Counter()
        self.violations: list[dict[str, Any]] = []
        self.simulated_s = 0.0

    def add(self, report: Report) -> None:
        self.seeds += 1
        self.operations += report.operations
        self.faults.update(report.faults)
        self.simulated_s += report.simulated_s
        found = report.violation
        if found is not None:
            replay = self._replay(report.seed)
            self.violations.append(
                {"seed": found.seed, "kind": found.kind, "at_s": found.at_s, "replay": replay}
            )

    def document(self, elapsed_s: float) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "seeds": self.seeds,
            "violations": sorted(self.violations, key=lambda item: int(item["seed"])),
            "operations": self.operations,
            "faults": dict(sorted(self.faults.items())),
            "seeds_per_s": round(self.seeds / elapsed_s, 2) if elapsed_s else 0.0,
        }


def _run(reports: Generator[Report, None, None], tally: _Tally, total: int, *, stop_on_failure: bool) -> bool:
    """Add every report to the tally, and show progress and the first traces.  False when interrupted."""
    progress = output.Progress(total)
    began = time.monotonic()
    complete = True
    try:
        with contextlib.closing(reports):
            for report in reports:
                tally.add(report)
                elapsed_s = time.monotonic() - began
                if report.violation is not None and len(tally.violations) <= _SHOWN_TRACES:
                    progress.clear()
                    _show_trace(report.violation, tally.violations[-1]["replay"])
                text = f"{len(tally.violations)} violations, {tally.seeds / elapsed_s:.1f} seeds/s"
                progress.show(tally.seeds, elapsed_s, text)
                if report.violation is not None and stop_on_failure:
                    break
    except KeyboardInterrupt:
        complete = False
    progress.clear()
    return complete


def _show_trace(found: Violation, replay: str) -> None:
    for line in found.trace:
        output.note(f"  {line}")
    output.note(f"seed {found.seed} at {found.at_s:g} s: {found.kind}: {found.claim}\nreplay: {replay}")


def _show(invocation: Invocation, document: dict[str, Any], tally: _Tally, elapsed_s: float) -> None:
    if invocation.mode != "table":
        output.structured(document, invocation.mode)
        return
    violations = document["violations"]
    rows: list[tuple[Cell | str, Cell | str]] = [
        ("seeds", str(document["seeds"])),
        ("violations", Cell(str(len(violations)), "bad" if violations else "good")),
        ("operations answered", str(document["operations"])),
        ("faults injected", str(sum(document["faults"].values()))),
        *((f"  {name}", str(count)) for name, count in document["faults"].items()),
        ("simulated time", f"{tally.simulated_s:.0f} s"),
        ("real time", f"{elapsed_s:.1f} s"),
        ("seeds per second", f"{document['seeds_per_s']:.2f}"),
    ]
    output.table((Column("WHAT"), Column("COUNT", right=True)), rows)
    if violations:
        output.write("\n")
        output.table(
            (
                Column("SEED", identifier=True, right=True),
                Column("KIND"),
                Column("AT", right=True),
                Column("REPLAY", identifier=True),
            ),
            [(str(v["seed"]), Cell(v["kind"], "bad"), f"{v['at_s']:.3f} s", v["replay"]) for v in violations],
        )


@command(connects=False, data_dir=False, timeout_s=None)
def sim(
    invocation: Invocation,
    seeds: Annotated[str, Option("--seeds", metavar="A:B", help="Seeds A to B-1, one run each.")] = "0:100",
    faults: Annotated[
        str,
        Option(
            "--faults",
            metavar="LIST",
            help="Faults: all, none, or some of crash,disk,partition,slow,narrow,drop,pause,stall,clock,"
            "membership,transfer,compaction; or dishonest,releases,force,levels, which all leaves out.",
        ),
    ] = "all",
    nodes: Annotated[
        str | None,
        Option("--nodes", metavar="N", help="Voters at the start, 1 to 9. [default: chosen by the seed]"),
    ] = None,
    jobs: Annotated[
        str | None,
        Option("--jobs", metavar="N", help="Number of processes. [default: one per core]"),
    ] = None,
    stop_on_failure: Annotated[
        bool, Option("--stop-on-failure", help="Stop at the first run that breaks an invariant.")
    ] = False,
) -> None:
    """Look for lost, doubled or stale data in simulated clusters under faults.

    Each seed is one run of the engine, journal, snapshots and state machines of
    this release over a simulated clock, network and disk.  The same seed always
    gives the same run.  Needs no node and writes no file.  Exits 4 when a run
    broke an invariant, and shows a trace and the command that repeats the run.
    """
    wanted = parse_seeds(seeds)
    voters = None if nodes is None else parse_int64(nodes, "--nodes", 1, _MAX_NODES)
    processes = (os.cpu_count() or 1) if jobs is None else parse_int64(jobs, "--jobs", 1, _MAX_JOBS)
    from cyoloctl.sim import FAULTS, OPT_IN, replay_command, run_seeds

    chosen = _faults(faults, tuple(FAULTS), OPT_IN)
    tally = _Tally(lambda seed: replay_command(seed, faults=chosen, nodes=voters))
    reports = run_seeds(wanted, faults=chosen, nodes=voters, jobs=processes)
    began = time.monotonic()
    complete = _run(reports, tally, len(wanted), stop_on_failure=stop_on_failure)
    elapsed_s = time.monotonic() - began
    _show(invocation, tally.document(elapsed_s), tally, elapsed_s)
    if not complete:
        raise Interrupted(f"interrupted after {tally.seeds} of {len(wanted)} seeds")
    if tally.violations:
        count = f"{len(tally.violations)} of {tally.seeds}"
        raise Conflict(f"{count} runs broke an invariant: report it with the replay command")


COMMANDS: dict[str, Leaf] = {"sim": sim}
