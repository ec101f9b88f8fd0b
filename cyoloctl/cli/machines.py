"""``cyoloctl machine``: state machines of one's own."""

from __future__ import annotations

import os
import time
from typing import Annotated, Any

from cyoloctl.cli import output
from cyoloctl.cli.invocation import (
    Invocation,
    Leaf,
    RequestIdOption,
    StaleOption,
    command,
    parse_seeds,
    read_input,
)
from cyoloctl.cli.output import Column
from cyoloctl.cli.parameters import Argument, Option
from cyoloctl.control.table import path_for
from cyoloctl.errors import Conflict
from cyoloctl.machines.api import MAX_BODY_BYTES

__all__ = ["COMMANDS"]

NameArgument = Annotated[str, Argument(metavar="NAME", help="Name of the machine.")]
ArgumentsArgument = Annotated[
    str | None,
    Argument(
        metavar="[JSON | -]",
        help="Arguments by name, a JSON object; - reads it from stdin.",
        show_default=False,
    ),
]


def _arguments(given: str | None) -> dict[str, Any]:
    if given is None:
        return {}
    raw = read_input("-", "arguments", MAX_BODY_BYTES) if given == "-" else os.fsencode(given)
    from cyoloctl.web.encoding import decode_object

    return decode_object(raw, "arguments", MAX_BODY_BYTES)


def _bare(answer: Any) -> str:
    if isinstance(answer, str):
        return answer
    import json

    return json.dumps(answer, ensure_ascii=False)


@command()
def apply(
    invocation: Invocation,
    name: NameArgument,
    operation: Annotated[str, Argument(metavar="OPERATION", help="Name of the operation.")],
    arguments: ArgumentsArgument = None,
    request_id: RequestIdOption = None,
) -> None:
    """Carry out an operation of a machine once, and print its answer: text as it is, all else as JSON.

    Exits 4 when the operation refused, 70 when its code failed; either way
    nothing was changed.
    """
    path_for("machine_apply", name)
    machines = invocation.client().machines
    document = machines.apply(name, operation, _arguments(arguments), request_id=request_id)
    invocation.value(document, _bare(document["answer"]))


@command()
def query(
    invocation: Invocation,
    name: NameArgument,
    query: Annotated[str, Argument(metavar="QUERY", help="Name of the query.")],
    arguments: ArgumentsArgument = None,
    stale: StaleOption = False,
) -> None:
    """Ask a machine, and print the answer: text as it is, all else as JSON.  Linearizable unless --stale.

    A query that does not end within --timeout is ended there (exit 75).
    """
    path_for("machine_query", name)
    document = invocation.client().machines.query(name, query, _arguments(arguments), stale=stale)
    if stale:
        invocation.hint("stale: what the asked node knows, without asking a majority")
    invocation.value(document, _bare(document["answer"]))


@command()
def list_(invocation: Invocation, stale: StaleOption = False) -> None:
    """List the machines, and which members have not announced their code.

    A machine, or a newer version of one, is in force once every member has it.
    """
    found = invocation.read("machine_list", stale=stale)
    if invocation.mode != "table":
        output.structured(found, invocation.mode)
        return
    rows = [
        (
            each["name"],
            str(each["version"]),
            each["digest"][:16],
            str(each["rows"]),
            _standing(each),
            ", ".join((*each["operations"], *each["queries"])) or "-",
        )
        for each in found["machines"]
    ]
    output.table(_COLUMNS, rows)


def _standing(machine: dict[str, Any]) -> str:
    lacking = f", not on {', '.join(machine['lacking'])}" if machine["lacking"] else ""
    return ("in force" if machine["state"] == "in_force" else "waiting") + lacking


_COLUMNS = (
    Column("MACHINE", identifier=True),
    Column("VERSION", right=True),
    Column("CODE", drop=2),
    Column("ROWS", right=True),
    Column("STATE"),
    Column("METHODS", drop=1),
)


@command(connects=False, data_dir=False, timeout_s=None)
def check(
    invocation: Invocation,
    target: Annotated[
        str,
        Argument(metavar="MODULE:CLASS", help="The class; modules here and installed ones are found."),
    ],
    seeds: Annotated[
        str, Option("--seeds", metavar="A:B", help="Seeds A to B-1 for random operations and faults.")
    ] = "0:20",
) -> None:
    """Look for what would make nodes differ in a class that is to become a machine.  Needs no node.

    Reads what its module imports, and carries out random operations twice,
    once through snapshots, under two hash seeds and with every Python that is
    here.  Then the machine runs in a simulated cluster under faults, one for
    each seed.  Exits 4 when there is a problem; warnings alone are none.
    """
    wanted = parse_seeds(seeds)
    import sys

    from cyoloctl.machines.check import check as look
    from cyoloctl.machines.names import parse_target

    parse_target(target)

    sys.path.append(os.getcwd())
    found = look(target, wanted)
    if not found["problems"]:
        _simulate(found, target, wanted)
    if invocation.mode == "table":
        _show(found)
    else:
        output.structured({"schema_version": 1, **found}, invocation.mode)
    if found["problems"]:
        raise Conflict(f"{target} has {len(found['problems'])} problems: correct them before a node runs it")


def _simulate(found: dict[str, Any], target: str, seeds: range) -> None:
    """The machine in simulated clusters under faults, one for each seed."""
    from cyoloctl.machines.loading import load
    from cyoloctl.sim import run_seed

    code, carried_out = load(target), 0
    progress = output.Progress(len(seeds))
    began = time.monotonic()
    for number, seed in enumerate(seeds, 1):
        report = run_seed(seed, code=code)
        carried_out += report.applied.get("machines.apply", 0)
        progress.show(number, time.monotonic() - began, "simulated clusters")
        if report.violation is not None:
            broken = report.violation
            message = f"seed {seed}, simulated cluster at {broken.at_s:g} s: {broken.kind}: {broken.claim}"
            found["problems"].append({"kind": "simulation", "seed": seed, "message": message})
            break
    progress.clear()
    found["simulated_operations"] = carried_out


def _show(found: dict[str, Any]) -> None:
    for warning in found["warnings"]:
        output.note(f"warning: {warning}")
    rows = [
        ("machine", found["machine"]),
        ("version", str(found["version"])),
        ("code", found["digest"]),
        ("operations", str(found["operations"])),
        ("in simulated clusters", str(found["simulated_operations"])),
        *(("tried with", f"Python {run['python']}, hash seed {run['hash_seed']}") for run in found["runs"]),
        *((each["kind"], each["message"]) for each in found["problems"]),
        ("problems", str(len(found["problems"]))),
    ]
    output.write(output.fields(rows))


COMMANDS: dict[str, Leaf] = {"apply": apply, "query": query, "list": list_, "check": check}
