"""``cyoloctl status``: the cluster at a glance.

The table answers, in this order: is it healthy, what may still fail, and
which member needs a look.  Whatever a narrow terminal leaves out of the
table, the warnings below it still say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from cyoloctl.cli import output
from cyoloctl.cli.invocation import Invocation, Leaf, command, parse_seconds
from cyoloctl.cli.output import Cell, Column, text_of
from cyoloctl.cli.parameters import Option
from cyoloctl.cli.screen import repeat
from cyoloctl.errors import Conflict, CyoloctlError, NoLeader
from cyoloctl.members.warnings import FSYNC_WARN_MS, warnings
from cyoloctl.text import parse_rfc3339

__all__ = ["COMMANDS", "duration", "member_table", "problem_lines", "show_status"]

# Where a figure turns into a warning.
_CLOCK_SKEW_WARN_MS = 1000
_LAG_WARN = 1000


def duration(seconds: float) -> str:
    """Two units at most: 4d 3h, 12m 5s."""
    left = int(abs(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size}{unit}")
            left %= size
        elif parts:
            break
    return " ".join(parts[:2])


def _expires_in_s(text: object, now_s: float) -> float | None:
    """Seconds until an RFC 3339 time; None when there is none or it cannot be read."""
    if not isinstance(text, str):
        return None
    try:
        return parse_rfc3339(text).timestamp() - now_s
    except ValueError:
        return None


def _certificate(member: Mapping[str, Any], now_s: float) -> Cell:
    left_s = _expires_in_s(member.get("certificate_expires_at"), now_s)
    if left_s is None:
        return Cell("-", "dim")
    if left_s <= 0:
        return Cell(f"expired {duration(left_s)} ago", "bad")
    days = f"{int(left_s // 86400)}d" if left_s >= 2 * 86400 else duration(left_s)
    return Cell(f"in {days}")  # too soon is a problem that the node tells: it knows how long they live


def _number(value: object, suffix: str = "", limit: float | None = None) -> Cell:
    if not isinstance(value, int | float):
        return Cell("-", "dim")
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    return Cell(text + suffix, "warn" if limit is not None and abs(value) > limit else "")


def _clock(member: Mapping[str, Any]) -> Cell:
    """Offset of the machine's clock: -2.7 ms, +9d."""
    skew = member.get("clock_skew_ms")
    if not isinstance(skew, int | float) or abs(skew) <= _CLOCK_SKEW_WARN_MS:
        return _number(skew, " ms")
    return Cell(f"{'+' if skew > 0 else '-'}{duration(skew / 1000)}", "warn")


_ROLE_STYLE = {"leader": "bold", "candidate": "warn", "learner": "dim", "witness": "dim"}

_COLUMNS: dict[str, Callable[[Mapping[str, Any], float], Cell]] = {
    "NAME": lambda m, now: Cell(str(m["name"]), "bold"),
    "ROLE": lambda m, now: Cell(text_of(m.get("role")), _ROLE_STYLE.get(str(m.get("role")), "")),
    "ADDRESS": lambda m, now: Cell(text_of(m.get("address"))),
    "UP": lambda m, now: (
        Cell("yes", "good")
        if m.get("reachable")
        else Cell("?" if m.get("reachable") is None else "no", "bad")
    ),
    "APPLIED": lambda m, now: _number(m.get("applied_index")),
    "LAG": lambda m, now: _number(m.get("lag"), limit=_LAG_WARN),
    "UPTIME": lambda m, now: (
        Cell(duration(m["uptime_s"])) if isinstance(m.get("uptime_s"), int | float) else Cell("-", "dim")
    ),
    "VERSION": lambda m, now: Cell(text_of(m.get("version"))),
    "STORAGE": lambda m, now: Cell(text_of(m.get("storage")), "warn" if m.get("storage") == "memory" else ""),
    "FSYNC P99": lambda m, now: _number(m.get("fsync_p99_ms"), " ms", FSYNC_WARN_MS),
    "CERTIFICATE": _certificate,
    "CLOCK": lambda m, now: _clock(m),
}
_RIGHT = frozenset({"APPLIED", "LAG", "UPTIME", "FSYNC P99", "CLOCK"})
#: Hidden first on a narrow terminal; the warnings cover what is out of the ordinary in each.
_DROPPED = ("STORAGE", "CLOCK", "VERSION", "CERTIFICATE", "FSYNC P99", "UPTIME", "APPLIED", "LAG")
_IDENTIFIERS = frozenset({"NAME", "ADDRESS"})


def _now_s(document: Mapping[str, Any]) -> float:
    """Cluster time in Unix seconds; this machine's clock where the node does not know it."""
    text = document["cluster"].get("time")
    return time.time() if not isinstance(text, str) else parse_rfc3339(text).timestamp()


def member_table(
    members: Sequence[Mapping[str, Any]],
    *,
    title: Sequence[Cell | str] = (),
    below: Sequence[Cell | str] = (),
    now_s: float | None = None,
    **hidden: str,
) -> None:
    """Write the members, one per line.  now_s: cluster time; None: this machine's.  hidden: see table()."""
    now_s = time.time() if now_s is None else now_s
    rows = [[column(member, now_s) for column in _COLUMNS.values()] for member in members]
    columns = [
        Column(
            heading,
            identifier=heading in _IDENTIFIERS,
            drop=_DROPPED.index(heading) + 1 if heading in _DROPPED else 0,
            right=heading in _RIGHT,
        )
        for heading in _COLUMNS
    ]
    output.table(columns, rows, title=title, below=below, **hidden)


def _notes(document: Mapping[str, Any]) -> Iterator[str]:
    """What whoever knows the cluster should know besides: nothing that needs a hand."""
    if document["cluster"].get("storage") == "memory":
        yield "in memory: a power cut that takes a majority at once loses the whole state, permanently"
    levels = {member["name"]: member.get("level") or 1 for member in document["members"]}
    if (highest := max(levels.values(), default=1)) > min(levels.values(), default=1):
        lacking = ", ".join(name for name, level in levels.items() if level < highest)
        level = document["cluster"].get("level") or 1
        yield f"level {level}, two releases: {lacking} understands less than level {highest}"
    for broken in document.get("history", ())[-1:]:
        how = "recovered on" if broken["kind"] == "recovered" else "restored from a snapshot on"
        left = f", without {', '.join(broken['left_behind'])}" if broken["left_behind"] else ""
        yield f"epoch {broken['epoch']}: {how} {broken['by']} at {broken['at']}{left}"


def _links(document: Mapping[str, Any]) -> Iterator[str]:
    """Who dialled whom: n1 to n2, n3; n2 to n3."""
    dialled: dict[str, list[str]] = {}
    for link in document.get("links", ()):
        if link["dialled_by"] is not None:
            others = [name for name in link["members"] if name != link["dialled_by"]]
            dialled.setdefault(link["dialled_by"], []).extend(others)
    if dialled:
        yield "dialled: " + "; ".join(f"{name} to {', '.join(to)}" for name, to in sorted(dialled.items()))


def problem_lines(problems: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Each problem with the command that helps."""
    for problem in problems:
        command = f": {problem['command']}" if problem.get("command") else ""
        yield f"! {problem['message']}{command}"


def show_status(
    document: Mapping[str, Any], *, before: Callable[[], None] = lambda: None, **hidden: str
) -> None:
    """Write the summary, the members and the warnings.

    before runs when all is ready to be written.  hidden: see output.table().
    """
    cluster = document["cluster"]
    healthy = bool(cluster.get("healthy"))
    tolerance = cluster.get("failure_tolerance")
    voters, learners = text_of(cluster.get("voters")), cluster.get("learners") or 0
    membership = f"{voters} voters" if cluster.get("voters") != 1 else "1 voter"
    if cluster.get("witnesses"):
        membership += f" ({cluster['witnesses']} of them without keys)"
    if learners:
        membership += f", {learners} learner{'s' if learners != 1 else ''}"
    state = "NOT HEALTHY" if not healthy else "needs attention" if document.get("problems") else "healthy"
    title: list[Cell | str] = [
        Cell(
            f"{cluster['name']}: {state}, "
            f"{'may lose ' + str(tolerance) + ' more' if tolerance else 'no failure tolerated'}",
            {"NOT HEALTHY": "bad", "healthy": "good" if tolerance else "warn"}.get(state, "warn"),
        ),
        f"leader {cluster.get('leader') or '(none)'}, term {text_of(cluster.get('term'))}, "
        f"commit index {text_of(cluster.get('commit_index'))}"
        + (f", time {cluster['time']}" if cluster.get("time") else ""),
        f"{membership}, quorum {text_of(cluster.get('quorum'))}, "
        f"storage {text_of(cluster.get('storage'))}, cluster id {cluster.get('id')}",
        *_notes(document),
    ]
    now_s = _now_s(document)
    below: list[Cell | str] = [Cell(text, "dim") for text in _links(document)]
    below += [Cell(f"! {warned.message}", "warn") for warned in warnings(document)]
    below += [Cell(text, "bad") for text in problem_lines(document.get("problems", ()))]
    before()
    member_table(document["members"], title=title, below=below, now_s=now_s, **hidden)


def _raise_if_unhealthy(document: Mapping[str, Any], check: bool) -> None:
    cluster = document["cluster"]
    if not cluster.get("leader"):
        raise NoLeader("the asked node knows of no leader: look at the members that it cannot reach")
    problems = document.get("problems", ())
    if check and (problems or not cluster.get("healthy")):
        found = [str(problem["message"]) for problem in problems]
        found = found or [warned.message for warned in warnings(document)]
        raise Conflict(f"the cluster needs attention: {'; '.join(found) or 'see the members'}")


def _watch(invocation: Invocation, interval_s: float) -> None:
    """Show the status until interrupted; a node that does not answer is shown so, and asked again."""

    def show(document: Mapping[str, Any]) -> None:
        if invocation.mode == "table":
            show_status(document, before=output.clear_screen)
            output.write("\n" if not output.is_terminal() else "")
        else:
            output.structured(document, invocation.mode, stream=True)

    def failed(error: CyoloctlError) -> None:
        if output.is_terminal() and invocation.mode == "table":
            output.clear_screen()
        output.note(f"no status: {error.message}")

    def pause() -> bool:
        time.sleep(interval_s)
        return True

    repeat(invocation.client().status, show, failed, pause)


@command()
def status(
    invocation: Invocation,
    watch: Annotated[bool, Option("--watch", help="Repeat until interrupted.")] = False,
    interval: Annotated[
        str, Option("--interval", metavar="DURATION", help="Refresh interval for --watch, 0.2s to 1h.")
    ] = "2s",
    check: Annotated[bool, Option("--check", help="Exit 4 when anything needs attention.")] = False,
) -> None:
    """Show the cluster and its members.

    Exits 75 when there is no leader, and still prints what the asked node
    knows.
    """
    interval_s = parse_seconds(interval, "--interval", minimum_s=0.2, maximum_s=3600)
    if watch:
        _watch(invocation, interval_s)
        return
    document = invocation.client().status()
    if invocation.mode == "table":
        show_status(document)
    else:
        output.structured(document, invocation.mode)
    _raise_if_unhealthy(document, check)


COMMANDS: dict[str, Leaf] = {"status": status}
