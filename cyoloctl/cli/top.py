"""``cyoloctl top``: what every node does, live.

Each node is asked for its status and its metrics; what happened in between is
the difference.  Nodes that no endpoint names are asked at the addresses that
the status gives, where there are credentials for that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyoloctl.cli import output
from cyoloctl.cli.invocation import Invocation, Leaf, command, parse_int64, parse_seconds
from cyoloctl.cli.output import Cell, Column
from cyoloctl.cli.parameters import Option
from cyoloctl.cli.screen import live_screen, repeat
from cyoloctl.cli.status import duration, problem_lines
from cyoloctl.errors import CyoloctlError
from cyoloctl.members.warnings import FSYNC_WARN_MS
from cyoloctl.process import run_in_loop
from cyoloctl.text import rfc3339

if TYPE_CHECKING:
    from cyoloctl.control.survey import Moment
    from cyoloctl.metrics.reading import Doing

__all__ = ["COMMANDS"]

_LEAST_LIMIT_S = 1.0
_LAG_WARN = 1000


class _Nodes:
    """The nodes of a cluster, to be looked at again and again."""

    def __init__(self, invocation: Invocation, limit_s: float) -> None:
        from cyoloctl.control.survey import Survey

        self._survey = Survey(
            invocation.endpoints,
            lambda urls, credentials: invocation.loop_client(urls, credentials, timeout_s=limit_s),
            invocation.credentials_for_members(),
        )

    def look(self) -> Moment:
        """Ask every node that can be reached.  Raises what the first endpoint did where none answers."""
        return run_in_loop(self._survey.look())


def _rows(before: Moment | None, after: Moment) -> Iterator[dict[str, Any]]:
    """The members by name, each with what it did."""
    from cyoloctl.metrics.reading import doing

    for member in after.status["members"]:
        name = member["name"]
        now = after.nodes.get(name)
        then = None if before is None else before.nodes.get(name)
        did: Doing | None = None
        if now is not None and now.scrape and then is not None and then.scrape and now.at_s > then.at_s:
            did = doing(then.scrape, now.scrape, now.at_s - then.at_s)
        scrape = None if now is None else now.scrape
        yield {
            "name": name,
            "role": member["role"],
            "reachable": member["reachable"],
            "answered": now is not None,
            "silent_because": after.silent.get(name),
            **_rounded(did),
            "lag": member["lag"],
            "leader_changes": None
            if scrape is None
            else int(scrape.total("cyoloctl_raft_leader_changes_total")),
            "elections": None if scrape is None else int(scrape.total("cyoloctl_raft_elections_total")),
            "uptime_s": member["uptime_s"],
            "problems": sum(problem["member"] == name for problem in after.status["problems"]),
        }


def _rounded(did: Doing | None) -> dict[str, float | None]:
    names = ("writes_per_s", "reads_per_s", "commit_p50_ms", "commit_p99_ms", "sync_p99_ms")
    values = dict.fromkeys(names) if did is None else asdict(did)
    return {name: None if value is None else round(value, 2) for name, value in values.items()}


def _document(before: Moment | None, after: Moment, interval_s: float) -> dict[str, Any]:
    cluster = after.status["cluster"]
    return {
        "schema_version": 1,
        "at": rfc3339(time.time()),
        "interval_s": interval_s,
        "cluster": {
            name: cluster[name]
            for name in ("name", "leader", "term", "healthy", "failure_tolerance", "commit_index")
        },
        "nodes": list(_rows(before, after)),
        "problems": list(after.status["problems"]),
    }


def _figure(value: float | None, warn: float | None = None) -> Cell:
    """At most five characters: 0.4, 12, 1234, 56k."""
    if value is None:
        return Cell("-", "dim")
    text = f"{value:.1f}" if value < 9.95 else f"{value:.0f}" if value < 99_500 else f"{value / 1000:.0f}k"
    return Cell(text, "warn" if warn is not None and value > warn else "")


_COLUMNS: dict[str, Callable[[Mapping[str, Any]], Cell]] = {
    "NODE": lambda row: Cell(row["name"], "bold"),
    "ROLE": lambda row: Cell("away", "bad") if not row["reachable"] else Cell(row["role"]),
    "WR/S": lambda row: _figure(row["writes_per_s"]),
    "RD/S": lambda row: _figure(row["reads_per_s"]),
    "P50": lambda row: _figure(row["commit_p50_ms"]),
    "P99": lambda row: _figure(row["commit_p99_ms"]),
    "SYNC": lambda row: _figure(row["sync_p99_ms"], FSYNC_WARN_MS),
    "LAG": lambda row: _whole(row["lag"], _LAG_WARN),
    "LEADERS": lambda row: _whole(row["leader_changes"]),
    "UPTIME": lambda row: (
        Cell("-", "dim") if row["uptime_s"] is None else Cell(duration(row["uptime_s"]).replace(" ", ""))
    ),
    "BAD": lambda row: _whole(row["problems"], 0),
}
_DROPPED = ("BAD", "LEADERS", "UPTIME", "SYNC", "LAG")
_LEGEND = (
    "per second: WR writes, RD reads; milliseconds: P50 P99 of commits, SYNC 99% of syncs; "
    "LEADERS: changes of leader since the start; q ends"
)


def _whole(value: int | None, warn: int | None = None) -> Cell:
    if value is None:
        return Cell("-", "dim")
    return Cell(str(value), "warn" if warn is not None and value > warn else "")


def _state(document: Mapping[str, Any]) -> tuple[str, str]:
    """The state in words, with its style."""
    if not document["cluster"]["healthy"]:
        return "NOT HEALTHY", "bad"
    return ("needs attention", "warn") if document["problems"] else ("healthy", "good")


def _text(document: Mapping[str, Any], interval_s: float) -> str:
    """The screen."""
    import textwrap

    cluster, (state, style) = document["cluster"], _state(document)
    tolerance = cluster["failure_tolerance"]
    title: list[Cell | str] = [
        Cell(
            f"{cluster['name']}: {state}, "
            f"{f'may lose {tolerance} more' if tolerance else 'no failure tolerated'}",
            style,
        ),
        f"leader {cluster['leader'] or '(none)'}, term {cluster['term']}, commit index "
        f"{cluster['commit_index']}, {document['at']}, every {interval_s:g}s",
        "",
    ]
    width = output.terminal_width()
    below: list[Cell | str] = ["", *(Cell(line, "dim") for line in textwrap.wrap(_LEGEND, width))]
    for row in document["nodes"]:
        if row["silent_because"]:
            below.append(Cell(f"- {row['name']} tells no figures: {row['silent_because']}", "dim"))
    below += [
        Cell(line, "bad")
        for text in problem_lines(document["problems"])
        for line in textwrap.wrap(text, width, subsequent_indent="  ")
    ]
    columns = [
        Column(
            heading,
            identifier=heading == "NODE",
            drop=_DROPPED.index(heading) + 1 if heading in _DROPPED else 0,
            right=heading not in ("NODE", "ROLE"),
        )
        for heading in _COLUMNS
    ]
    rows = [[column(row) for column in _COLUMNS.values()] for row in document["nodes"]]
    return output.screen_table(columns, rows, title=title, below=below)


def _line(document: Mapping[str, Any]) -> str:
    """All of it in a line, for whoever reads no terminal."""
    nodes, cluster = document["nodes"], document["cluster"]

    def summed(name: str) -> str:
        return _figure(sum(row[name] or 0 for row in nodes)).text

    def worst(name: str) -> str:
        return _figure(max((row[name] for row in nodes if row[name] is not None), default=None)).text

    return (
        f"{document['at']} {cluster['name']} {_state(document)[0]}, leader {cluster['leader'] or '(none)'}, "
        f"{summed('writes_per_s')} writes/s, {summed('reads_per_s')} reads/s, "
        f"commit p50 {worst('commit_p50_ms')} ms, p99 {worst('commit_p99_ms')} ms, "
        f"sync p99 {worst('sync_p99_ms')} ms, lag {max((row['lag'] or 0 for row in nodes), default=0)}, "
        f"{len(document['problems'])} problems\n"
    )


def _show_lines(invocation: Invocation, nodes: _Nodes, interval_s: float, count: int | None) -> None:
    """A line per interval.  Raises what kept the last one away, where that was the last of them."""
    before, left = nodes.look(), count
    failure: CyoloctlError | None = None
    time.sleep(interval_s)

    def show(moment: Moment) -> None:
        nonlocal before, failure
        document = _document(before, moment, interval_s)
        if invocation.mode == "table":
            output.write(_line(document))
        else:
            output.structured(document, invocation.mode, stream=True)
        before, failure = moment, None

    def failed(error: CyoloctlError) -> None:
        nonlocal failure
        failure = error
        output.note(f"no figures: {error.message}")

    def pause() -> bool:
        nonlocal left
        left = None if left is None else left - 1
        if left == 0:
            return False
        time.sleep(interval_s)
        return True

    repeat(nodes.look, show, failed, pause)
    if failure is not None:
        raise failure


def _show_screen(nodes: _Nodes, interval_s: float, count: int | None) -> None:
    """The live screen, until q or Ctrl-C."""
    before, left = nodes.look(), count
    with live_screen() as screen:
        screen.show(_text(_document(None, before, interval_s), interval_s))

        def show(moment: Moment) -> None:
            nonlocal before
            screen.show(_text(_document(before, moment, interval_s), interval_s))
            before = moment

        def pause() -> bool:
            nonlocal left
            left = None if left is None else left - 1
            return left != 0 and screen.pause(interval_s)

        if screen.pause(interval_s):
            repeat(
                nodes.look, show, lambda error: screen.show(f"no figures: {error.message}\n\nq ends"), pause
            )


@command()
def top(
    invocation: Invocation,
    interval: Annotated[
        str, Option("--interval", metavar="DURATION", help="Time between two looks, 0.2s to 1h.")
    ] = "2s",
    count: Annotated[
        str | None,
        Option("--count", metavar="N", help="Intervals before it ends. [default: until q or Ctrl-C]"),
    ] = None,
) -> None:
    """Show what every node does, live.

    Writes and reads per second, latencies of commits and syncs, lag, changes
    of leader and problems, node by node. q or Ctrl-C ends it, with 0.

    Every endpoint is asked, and the other members at their addresses where
    there are credentials. Without a terminal, and with -o json, it prints a
    line per interval.
    """
    interval_s = parse_seconds(interval, "--interval", minimum_s=0.2, maximum_s=3600)
    looks = None if count is None else parse_int64(count, "--count", 1)
    nodes = _Nodes(invocation, min(invocation.timeout_s, max(_LEAST_LIMIT_S, interval_s)))
    if invocation.mode != "table" or not output.is_terminal():
        _show_lines(invocation, nodes, interval_s, looks)
        return
    try:
        _show_screen(nodes, interval_s, looks)
    except KeyboardInterrupt:
        return


COMMANDS: dict[str, Leaf] = {"top": top}
