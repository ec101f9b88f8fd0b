"""``cyoloctl counter``: the replicated counters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from cyoloctl.cli import output
from cyoloctl.cli.invocation import (
    Invocation,
    Leaf,
    RequestIdOption,
    StaleOption,
    command,
    confirm,
    listed,
    parse_int64,
)
from cyoloctl.cli.output import Column
from cyoloctl.cli.parameters import Argument, Option
from cyoloctl.web.schema import check_name

__all__ = ["COMMANDS"]

NameArgument = Annotated[str, Argument(metavar="NAME", help="Name of the counter.")]
ByOption = Annotated[
    str, Option("--by", metavar="N", help="Amount, a signed 64-bit number; may be negative.")
]


def _bare(document: Mapping[str, Any]) -> str:
    return str(document.get("value_string", document["value"]))


def _add(invocation: Invocation, name: str, by: int, request_id: str | None) -> None:
    check_name(name, "counter")
    document = invocation.client().counters.incr(name, by, request_id=request_id)
    invocation.value(document, _bare(document))


@command()
def incr(
    invocation: Invocation,
    name: NameArgument = "default",
    by: ByOption = "1",
    request_id: RequestIdOption = None,
) -> None:
    """Add to a counter and print its new value.

    Overflow is refused (exit 65); nothing wraps.
    """
    _add(invocation, name, parse_int64(by, "--by"), request_id)


@command()
def decr(
    invocation: Invocation,
    name: NameArgument = "default",
    by: ByOption = "1",
    request_id: RequestIdOption = None,
) -> None:
    """Subtract from a counter and print its new value."""
    # The negative of the smallest number is out of range: parse_int64 says so.
    _add(invocation, name, parse_int64(str(-parse_int64(by, "--by")), "--by, negated,"), request_id)


@command()
def get(invocation: Invocation, name: NameArgument = "default", stale: StaleOption = False) -> None:
    """Print the value of a counter, linearizable unless --stale."""
    check_name(name, "counter")
    document = invocation.client().counters.get(name, stale=stale)
    invocation.value(document, _bare(document))


@command()
def list_(invocation: Invocation, stale: StaleOption = False) -> None:
    """List every counter with its value."""
    counters = invocation.client().counters.list(stale=stale)
    if invocation.mode == "table":
        rows = [(str(counter["name"]), _bare(counter)) for counter in counters]
        output.table((Column("COUNTER", identifier=True), Column("VALUE", right=True)), rows)
    else:
        output.structured(listed("counters", counters, stale), invocation.mode)


@command()
def reset(
    invocation: Invocation,
    name: Annotated[str, Argument(metavar="NAME", help="Name of the counter.")],
    yes: Annotated[bool, Option("--yes", help="Do not ask for confirmation.")] = False,
    request_id: RequestIdOption = None,
) -> None:
    """Reset a counter to 0 and print its new value.

    Asks for confirmation on a terminal; elsewhere it needs --yes.
    """
    check_name(name, "counter")
    confirm(yes, f"reset counter {name} to 0?")
    document = invocation.client().counters.reset(name, request_id=request_id)
    invocation.value(document, _bare(document))


@command()
def watch(invocation: Invocation, name: NameArgument = "default") -> None:
    """Print the value of a counter now and after every change, until interrupted.

    Exits 3 when there is no such counter, as `counter get` does.
    """
    check_name(name, "counter")
    for document in invocation.client().counters.watch(name, patience_s=0):
        invocation.value(document, _bare(document), stream=True)


COMMANDS: dict[str, Leaf] = {
    "incr": incr,
    "decr": decr,
    "get": get,
    "list": list_,
    "reset": reset,
    "watch": watch,
}
