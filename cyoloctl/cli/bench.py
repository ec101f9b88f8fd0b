"""``cyoloctl bench``: load against a running cluster, from one process."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyoloctl.cli import output
from cyoloctl.cli.invocation import Invocation, Leaf, command, parse_choice, parse_int64, parse_seconds
from cyoloctl.cli.output import Cell, Column
from cyoloctl.cli.parameters import Option
from cyoloctl.errors import Interrupted, Unavailable

if TYPE_CHECKING:
    from cyoloctl.bench.latencies import Bar
    from cyoloctl.bench.run import Plan, Result

__all__ = ["COMMANDS"]

_OPERATIONS = ("incr", "get", "get-stale", "put", "mint", "inspect")
# Each has a connection, and a process that nobody allowed more has 1024 descriptors.
_MAX_CLIENTS = 500
_MAX_SECONDS = 3600
_MAX_RATE = 100_000
_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}
# With the other columns of the histogram, and its lines, no more than 80.
_BAR_WIDTH = 36
_BUSY = 0.9


def _document(invocation: Invocation, plan: Plan, clients: int, result: Result) -> dict[str, Any]:
    latencies = result.latencies
    return {
        "schema_version": 1,
        "op": plan.operation,
        "clients": clients,
        "seconds": round(result.seconds, 3),
        "endpoints": list(invocation.endpoints),
        "loop": "closed" if plan.rate is None else "open",
        "target_rate_per_s": plan.rate,
        "latency_from": "send" if plan.rate is None else "planned_start",
        "rate_per_s": round(result.rate, 1),
        "succeeded": result.succeeded,
        "failed": result.failed,
        "unsent": result.unsent,
        "errors": dict(sorted(result.errors.items())),
        "latency_ms": {
            **{name: latencies.percentile_ms(percent) for name, percent in _PERCENTILES.items()},
            "max": latencies.max_ms,
        },
        "histogram": [{"up_to_ms": bar.up_to_ms, "count": bar.count} for bar in latencies.bars()],
        "generator_cpu": round(result.cpu, 3),
        "complete": result.complete,
    }


def _latency(milliseconds: float | None) -> str:
    """Three digits and the unit: 0.42 ms, 12.3 ms, 1.23 s."""
    if milliseconds is None:
        return "-"
    number, unit = (milliseconds / 1000, "s") if milliseconds >= 1000 else (milliseconds, "ms")
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {unit}"


def _bar(count: int, most: int) -> str:
    """A bar of a histogram: to an eighth of a character where stdout takes block elements."""
    eighths = math.ceil(8 * _BAR_WIDTH * count / most)
    try:
        "█▏".encode(sys.stdout.encoding if sys.stdout is not None else "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#" * math.ceil(eighths / 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _show_histogram(bars: Sequence[Bar]) -> None:
    total, most = sum(bar.count for bar in bars), max(bar.count for bar in bars)
    output.table(
        (
            Column("UP TO", right=True),
            Column("COUNT", right=True),
            Column("SHARE", right=True),
            Column("DISTRIBUTION", drop=1),
        ),
        [
            (_latency(bar.up_to_ms), str(bar.count), f"{bar.count / total:.1%}", _bar(bar.count, most))
            for bar in bars
        ],
        everything="a wider terminal shows it",
    )


_CLOSED = (
    "{op}: {clients} for {seconds:g} s, in a closed loop: each sends once its last answer came. Latency "
    "counts from the sending. While the cluster stands still, each client has one slow answer, and what it "
    "would have sent is missing: --rate counts that too."
)
_OPEN = (
    "{op}: {rate} planned per second for {seconds:g} s, {clients}, in an open loop. Latency counts from the "
    "planned start, whatever kept it from being sent: what waits because the cluster stands still is late."
)


def _show(plan: Plan, clients: int, result: Result) -> None:
    """The figures for a person, with what they measure above and what spoils them below."""
    import textwrap

    latencies = result.latencies
    measured = (_CLOSED if plan.rate is None else _OPEN).format(
        op=plan.operation,
        clients="1 client" if clients == 1 else f"{clients} clients",
        seconds=round(result.seconds, 1),
        rate=plan.rate,
    )
    below: list[Cell | str] = []
    if result.errors:
        codes = ", ".join(f"{count} {code}" for code, count in result.errors.most_common())
        below.append(Cell(f"failed, and not among the latencies: {codes}", "bad"))
    if result.unsent:
        below.append(Cell(f"never sent, and counted with what they had waited: {result.unsent}", "bad"))
    if result.cpu >= _BUSY:
        below.append(
            Cell(f"this process used {result.cpu:.0%} of a core, and may be the limit itself", "warn")
        )
    row: list[Cell | str] = [
        Cell(f"{result.rate:.{0 if result.rate >= 10 else 1}f}/s", "bold"),
        *(_latency(latencies.percentile_ms(percent)) for percent in _PERCENTILES.values()),
        _latency(latencies.max_ms),
        str(result.succeeded),
        Cell(str(result.failed), "bad" if result.failed else ""),
    ]
    headings = ("RATE", "P50", "P90", "P99", "P99.9", "MAX", "OK", "FAILED")
    output.table(
        [Column(heading, right=True) for heading in headings],
        [row],
        title=textwrap.wrap(measured, 80),
        below=below,
    )
    if latencies.count:
        output.write("\n")
        _show_histogram(latencies.bars())


@command()
def bench(
    invocation: Invocation,
    operation: Annotated[
        str,
        Option("--op", metavar="|".join(_OPERATIONS), help="Operation to send."),
    ] = "incr",
    clients: Annotated[
        str,
        Option(
            "--clients", metavar="N", help="Number of clients, 1 to 500, each with a connection of its own."
        ),
    ] = "10",
    seconds: Annotated[
        str,
        Option("--seconds", metavar="DURATION", help="How long clients send, 0.1s to 1h."),
    ] = "10s",
    rate: Annotated[
        str | None,
        Option(
            "--rate",
            metavar="R",
            help="Operations per second, 1 to 100000, planned beforehand (open loop): latencies count from "
            "the planned start. [default: each client sends once its last answer came (closed loop)]",
        ),
    ] = None,
) -> None:
    """Load a running cluster from this process, and show its rate and latencies.

    The counter, the key and the subject are called `bench`: nothing else is
    written. Of several endpoints each client begins with another one. In the
    closed loop of the default, a cluster that stands still is sent less, so
    percentiles show little of it (coordinated omission); --rate counts every
    wait. Exits 69 when no node is reached, 75 when none answers.
    """
    parse_choice(operation, "--op", _OPERATIONS)
    count = parse_int64(clients, "--clients", 1, _MAX_CLIENTS)
    seconds_ = parse_seconds(seconds, "--seconds", minimum_s=0.1, maximum_s=_MAX_SECONDS)
    target = None if rate is None else parse_int64(rate, "--rate", 1, _MAX_RATE)
    from cyoloctl.bench.run import Plan, run

    plan = Plan(operation, seconds_, target)
    progress = output.Progress(max(1, round(seconds_)))

    def tell(elapsed_s: float, result: Result) -> None:
        done = min(int(elapsed_s), round(seconds_))
        progress.show(done, elapsed_s, f"s, {result.succeeded} answered, {result.failed} failed")

    urls = invocation.endpoints
    turns = [urls[n % len(urls) :] + urls[: n % len(urls)] for n in range(count)]
    result = run([invocation.loop_client(turn) for turn in turns], plan, tell)
    progress.clear()
    if result.seconds:
        if invocation.mode == "table":
            _show(plan, count, result)
        else:
            output.structured(_document(invocation, plan, count, result), invocation.mode)
    if not result.complete:
        raise Interrupted(f"interrupted after {result.seconds:.1f} of {seconds_:g} s")
    if not result.succeeded:
        raise Unavailable(f"no {operation} was answered: see `cyoloctl status`")


COMMANDS: dict[str, Leaf] = {"bench": bench}
