"""``cyoloctl doctor``: what needs attention on this machine, in its data directory, and in the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from cyoloctl.cli import output
from cyoloctl.cli.invocation import Invocation, Leaf, command, parse_int64
from cyoloctl.cli.output import Cell
from cyoloctl.cli.parameters import Option
from cyoloctl.errors import Conflict

if TYPE_CHECKING:
    from cyoloctl.doctor.collecting import Ask
    from cyoloctl.doctor.facts import Facts
    from cyoloctl.doctor.findings import Finding

__all__ = ["COMMANDS", "asking", "look"]

_STYLES = {"ok": "good", "info": "", "warning": "warn", "error": "bad"}
_WORDS = {"info": ("info", "infos"), "warning": ("warning", "warnings"), "error": ("error", "errors")}
_INDENT = " " * 9
_MAX_WARN_DAYS = 3650


def _endpoint(invocation: Invocation) -> str:
    from cyoloctl.paths import control_socket_path

    return f"unix://{control_socket_path(invocation.data_dir)}"


def asking(invocation: Invocation) -> Ask:
    """A function that asks the node of the data directory, whatever endpoints the environment names."""
    endpoint = _endpoint(invocation)

    def ask(operation: str, query: Mapping[str, str]) -> dict[str, Any]:
        return invocation.client([endpoint]).call(operation, query=query)

    return ask


def look(invocation: Invocation) -> Facts:
    """The facts about the node of the data directory.  Raises ConfigError for a directory without one."""
    from cyoloctl.cli import launch
    from cyoloctl.doctor.collecting import collect

    launch.require_node(invocation.data_dir)
    pid = launch.process_of(invocation.data_dir) or launch.listener_pid(_endpoint(invocation))
    return collect(invocation.data_dir, ask=asking(invocation), pid=pid, timeout_s=invocation.timeout_s)


def _counted(findings: list[Finding]) -> str:
    """2 errors, 1 warning."""
    counts = dict.fromkeys(_WORDS, 0)
    for one in findings:
        if one["severity"] in counts:
            counts[one["severity"]] += 1
    return ", ".join(
        f"{count} {_WORDS[severity][count != 1]}" for severity, count in reversed(counts.items()) if count
    )


def _show(facts: Facts, findings: list[Finding], *, every: bool) -> None:
    well = sum(1 for one in findings if one["severity"] == "ok")
    directory = facts.directory
    who = directory.path if directory.name is None else f"{directory.name} of cluster {directory.cluster}"
    found = _counted(findings) or "nothing needs attention"
    rest = f"{well} checks are well" + ("" if every else " (--all shows them)")
    shown: list[Cell | str] = [Cell(f"{who}: {found}; {rest}", "bold")]
    for one in findings:
        if one["severity"] == "ok" and not every:
            continue
        member = "" if one["member"] is None else f" {one['member']}"
        text = f"{one['severity'].ljust(8)} {one['code']}{member}: {one['cause']}"
        shown.append(Cell(text, _STYLES[one["severity"]]))
        if one["command"] is not None:
            shown.append(Cell(_INDENT + one["command"], "dim"))
    output.lines(shown, _INDENT)


@command(connects=False)
def doctor(
    invocation: Invocation,
    every: Annotated[bool, Option("--all", help="Show what is well, too.")] = False,
    warn_days: Annotated[
        str | None,
        Option(
            "--warn-days",
            metavar="N",
            help="Tell of certificates, credentials and CAs that end within so many days, 0 to 3650. "
            "[default: 30, of shorter lives the last third]",
        ),
    ] = None,
) -> None:
    """Look for what needs attention: this machine, its node, the cluster.

    Whatever `status --check` knows, and what only this machine can tell: how
    fast the disk syncs (measured with a file that is removed again), space,
    files and their permissions, limits, host names, snapshots. Works while
    the node is down, and changes nothing. Exits 4 when there is a warning or
    an error.
    """
    days = None if warn_days is None else parse_int64(warn_days, "--warn-days", 0, _MAX_WARN_DAYS)
    from cyoloctl.doctor.cluster import as_document, find_all, needs_attention

    facts = look(invocation)
    findings = find_all(facts, warn_days=days, name_directory=invocation.data_dir_given)
    wrong = [one for one in findings if needs_attention(one)]
    if invocation.mode == "table":
        _show(facts, findings, every=every)
    else:
        output.structured(as_document(findings, every=every), invocation.mode)
    if wrong:
        raise Conflict(f"{_counted(wrong)}: see the findings")


COMMANDS: dict[str, Leaf] = {"doctor": doctor}
