"""Real nodes under faults, clients through every node, and the verdict.

    python -m tests.chaos.run --nodes 3 --seconds 120 --seed 1 --report DIR

Needs root, network namespaces, /dev/net/tun and nftables; says so and exits 77
otherwise.  Exits 1 when a promise was broken; the report has the evidence.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.chaos import disks, netns
from tests.chaos.cluster import FaultCluster, stop_signal_is_interrupt
from tests.chaos.data import DataClients
from tests.chaos.history import History, write_edn
from tests.chaos.judging import judge
from tests.chaos.linearizability import check
from tests.chaos.nemesis import EVERYTHING, Nemesis
from tests.chaos.netns import sweep
from tests.chaos.promises import Keepers
from tests.chaos.recovery import RECOVER, recover
from tests.chaos.report import Outcome, write_report
from tests.chaos.transitions import TRANSITIONS, disagreements, went_on
from tests.chaos.workload import LAST, Clients, read
from tests.support.cluster import wait_until

__all__ = ["main", "missing", "run"]

_ANSWERED_S = 60.0
"""How long after the last fault every repeated write may take to be answered."""


_COUNTED = {
    '"compacted the log"': "logs cut by a snapshot",
    '"installed a snapshot"': "snapshots received from a leader",
    # Not a broken promise: a connection that was accepted while the node ended.
    ": ResourceWarning: unclosed": "left open when a node ended",
}


def missing() -> str:
    """Why this machine cannot do it; empty when it can."""
    return netns.missing() or disks.missing()


def run(
    *,
    nodes: int,
    seconds: float,
    seed: int,
    report: Path,
    faults: Sequence[str] = EVERYTHING,
    clients: int = 8,
    rate: float = 150.0,
    compact_entries: int = 1000,
    stale: bool = False,
) -> tuple[dict[str, Any], Outcome]:
    """One run: form, load, faults, heal, restart, check, report.  Raises RuntimeError without privilege."""
    if reason := missing():
        raise RuntimeError(reason)
    sweep()
    base = Path(tempfile.mkdtemp(prefix=f"cyofault-{os.getpid()}-"))
    try:
        raised = "upgrade" in faults
        with FaultCluster(base, nodes, compact_entries=compact_entries, next_release=raised) as cluster:
            return _run(cluster, base, nodes, seconds, seed, report, faults, clients, rate, stale)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _run(
    cluster: FaultCluster,
    base: Path,
    nodes: int,
    seconds: float,
    seed: int,
    report: Path,
    faults: Sequence[str],
    clients: int,
    rate: float,
    stale: bool,
) -> tuple[dict[str, Any], Outcome]:
    """The faults, the reads after them, and the verdict.

    More than 60 lines, because it is one order of events, and the last third names what the report holds.
    """
    history = History()
    endpoints = {name: node.endpoint for name, node in cluster.nodes.items()}
    load = Clients(history, endpoints, count=clients, rate=rate, seed=seed, stale=stale)
    keepers = Keepers(endpoints, seed=seed, now=history.now)
    data = DataClients(endpoints, seed=seed, now=history.now, stale=stale)
    nemesis = Nemesis(cluster, history, [fault for fault in faults if fault != RECOVER], seed)
    nemesis.transitions.counters = load.exact + load.loose
    nemesis.transitions.on_new_ca = keepers.forget_kept
    problems: list[str] = []
    notes: list[str] = []
    if "clock" in faults and not cluster.clocked:
        notes.append("CLOCK STEPS WERE NOT TESTED: libfaketime is not installed (apt-get install faketime)")
    load.start()
    keepers.start()
    data.start()
    try:
        nemesis.run(until_s=seconds)
        healed = time.monotonic()
    finally:
        answered = load.finish(_ANSWERED_S)
        keepers.finish()
        data.finish(_ANSWERED_S)
    if not answered:
        problems.append(f"a repeated write was not answered within {_ANSWERED_S:g} s after the last fault")
    problems += _settle(cluster, "after the faults ended")
    notes.append(f"healthy without lag {time.monotonic() - healed:.1f} s after the last fault ended")
    before = _final_reads(cluster, history, load)
    data.last_reads()
    problems += disagreements(cluster)
    cluster.restart_all()
    problems += _settle(cluster, "after all were killed and started again")
    problems += disagreements(cluster)
    after = _final_reads(cluster, history, load)
    problems += _end_of_data(data)
    redeemed = _redeem(cluster, base, keepers)
    if RECOVER in faults:
        lost, note = recover(cluster, base, seed, after)
        problems += lost
        notes.append(note)

    verdicts = check(history.ops())
    problems += [verdict.explain() for verdict in verdicts if not verdict.linearizable]
    on_registers, wrong = judge(data.notes, history.now())
    verdicts += on_registers
    problems += data.problems + wrong
    exactly_once = [_exactly_once(history, counter, before, after) for counter in load.exact]
    problems += [f"not exactly once: {row}" for row in exactly_once if not row["exact"]]
    problems += history.anomalies + nemesis.findings + keepers.problems
    problems += [f"a client failed: {error!r}" for error in load.errors]
    for name, node in cluster.nodes.items():
        problems += [f"in the log of {name}: {line}" for line in node.traces()]
    problems += [f"in the log of a new node: {line}" for line in cluster.guest.traces()]
    for text, meaning in _COUNTED.items():
        counts = {name: node.log().count(text) for name, node in cluster.nodes.items()}
        notes.append(f"{meaning}: {counts}")
    outcome = Outcome(
        nodes=nodes,
        seconds=history.now(),
        seed=seed,
        events=nemesis.events,
        verdicts=verdicts,
        exactly_once=exactly_once,
        promises=dict(sorted(keepers.counts.items())) | {"invitations redeemed at the end": redeemed},
        data=dict(sorted(data.counts.items())) | {"changes watched": len(data.notes.changes[0])},
        snapshots=cluster.snapshots(),
        transitions=went_on(nemesis.transitions.killed, history.records, _alone(nemesis)),
        problems=problems,
        notes=notes,
    )
    summary = write_report(report, history, outcome)
    write_edn(report / "data.edn", data.notes.calls)
    if problems:
        _keep_evidence(cluster, base, report)
    return summary, outcome


def _alone(nemesis: Nemesis) -> Callable[[float, float], bool]:
    """Whether nothing but a transition was on between two times."""
    others = [event for event in nemesis.events if event.fault not in TRANSITIONS]

    def alone(start_s: float, end_s: float) -> bool:
        return not any(event.start_s < end_s and (event.end_s or end_s) > start_s - 2.0 for event in others)

    return alone


def _settle(cluster: FaultCluster, when: str) -> list[str]:
    try:
        cluster.wait_settled()
    except AssertionError as error:
        tails = "\n".join(f"--- {name}\n{node.log_tail()}" for name, node in cluster.nodes.items())
        return [f"not healthy {when}: {error}\n{tails}"]
    return []


def _final_reads(cluster: FaultCluster, history: History, load: Clients) -> dict[str, set[int | None]]:
    """Every counter through every node: they belong to the history."""
    return {
        counter: {
            read(history, LAST, counter, name, node.endpoint, 10.0) for name, node in cluster.nodes.items()
        }
        for counter in load.exact + load.loose
    }


def _end_of_data(data: DataClients) -> list[str]:
    """The last reads of what is kept by key, and the ends of the watches."""
    data.last_reads()
    data.finish_watching()
    try:
        wait_until("every sealed value under the newest key", data.all_sealed_again)
    except AssertionError as error:
        return [str(error)]
    return []


def _redeem(cluster: FaultCluster, base: Path, keepers: Keepers) -> int:
    """Redeem the invitations that were kept since they were made under faults; how many were taken.

    Those that were withdrawn must be refused.  The nodes that are admitted never start: this comes last.
    """
    through = next(iter(cluster.nodes.values()))
    host = through.address.rpartition(":")[0]
    for port, (guest, token) in enumerate((keepers.kept | keepers.withdrawn).items(), 7701):
        place = ["-d", str(base / guest), "--name", guest, "--listen", f"{host}:{port}"]
        try:
            through.run("node", "join", *place, "--token-file", "-", stdin=token)
        except RuntimeError as refusal:
            if guest in keepers.kept:
                keepers.problems.append(f"the invitation of {guest} is not redeemed: {refusal}")
        else:
            if guest in keepers.withdrawn:
                keepers.problems.append(f"the invitation of {guest} is redeemed, and was withdrawn")
    return sum((base / guest / "node.yaml").exists() for guest in keepers.kept)


def _exactly_once(
    history: History, counter: str, before: dict[str, set[int | None]], after: dict[str, set[int | None]]
) -> dict[str, Any]:
    written = [record for record in history.records if record.counter == counter and record.by]
    ids = {record.request_id for record in written}
    values = sorted(record.value or 0 for record in written)
    exact = (
        all(record.outcome == "ok" for record in written)
        and values == list(range(1, len(ids) + 1))
        and before[counter] == after[counter] == {len(ids)}
    )
    return {
        "counter": counter,
        "ids": len(ids),
        "before": sorted(before[counter], key=str),
        "after": sorted(after[counter], key=str),
        "exact": exact,
    }


def _keep_evidence(cluster: FaultCluster, base: Path, report: Path) -> None:
    cluster.on_all(lambda node: node.kill())
    for name, node in cluster.nodes.items():
        node.disk.copy_evidence(report / "nodes" / name)
    for log in base.glob("*.log"):
        shutil.copy(log, report / "nodes" / log.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.run", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--nodes", type=int, default=3, help="3 or 5")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long faults are injected")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000, help="of every random choice")
    parser.add_argument("--report", type=Path, default=None, help="directory for the report")
    parser.add_argument("--faults", default=",".join(EVERYTHING), help="some of: %(default)s")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rate", type=float, default=150.0, help="maximum operations per second")
    parser.add_argument(
        "--compact", type=int, default=1000, metavar="ENTRIES", help="log entries between snapshots"
    )
    parser.add_argument(
        "--stale-reads", action="store_true", help="read without confirmation: the check must fail the run"
    )
    options = parser.parse_args(arguments)
    chosen = [name for name in options.faults.split(",") if name]
    unknown = [name for name in chosen if name not in EVERYTHING]
    if unknown or options.nodes < 3:
        parser.error(f"no such fault: {', '.join(unknown)}" if unknown else "--nodes must be at least 3")
    if reason := missing():
        print(f"NOT RUN: {reason}", file=sys.stderr)
        return 77
    stop_signal_is_interrupt()
    report = options.report or Path(tempfile.gettempdir(), f"cyofault-report-{options.nodes}-{options.seed}")
    summary, outcome = run(
        nodes=options.nodes,
        seconds=options.seconds,
        seed=options.seed,
        report=report,
        faults=chosen,
        clients=options.clients,
        rate=options.rate,
        compact_entries=options.compact,
        stale=options.stale_reads,
    )
    brief = {
        key: value for key, value in summary.items() if key not in ("events", "problems", "schema_version")
    }
    print(json.dumps(brief, indent=1))
    for problem in outcome.problems:
        print(f"PROBLEM: {problem}", file=sys.stderr)
    print(f"{'passed' if outcome.passed else 'FAILED'}; report: {report}/report.md", file=sys.stderr)
    return 0 if outcome.passed else 1


if __name__ == "__main__":
    sys.exit(main())
