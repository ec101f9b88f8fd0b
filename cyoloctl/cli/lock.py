"""``cyoloctl lock``: run a command while a lock is held; who holds which."""

from __future__ import annotations

from typing import Annotated

from cyoloctl.cli import output
from cyoloctl.cli.invocation import (
    Invocation,
    Leaf,
    RequestIdOption,
    StaleOption,
    command,
    confirm,
    listed,
    parse_seconds,
)
from cyoloctl.cli.output import Column, rows_of, text_of
from cyoloctl.cli.parameters import Argument, Option
from cyoloctl.control.table import path_for

__all__ = ["COMMANDS"]

_MAX_S = 86_400
_FIELDS = ("name", "token", "owner", "by", "acquired_at", "expires_at")

NameArgument = Annotated[str, Argument(metavar="NAME", help="Name of the lock.")]


@command()
def run(
    invocation: Invocation,
    name: NameArgument,
    words: Annotated[
        list[str],
        Argument(metavar="COMMAND...", help="The command and its arguments, after --."),
    ],
    ttl: Annotated[
        str,
        Option(
            "--ttl", metavar="DURATION", help="Time after which the lock of a dead holder is free, 1s to 24h."
        ),
    ] = "15s",
    wait: Annotated[
        str,
        Option("--wait", metavar="DURATION", help="Time to wait for a lock that somebody has, up to 24h."),
    ] = "0s",
) -> int:
    """Run a command while the lock is held, and take its exit status.

    The command finds the lock in CYOLOCTL_LOCK and its fencing token in CYOLOCTL_FENCE.
    75: somebody else has the lock. 80: it was lost while the command ran, which was ended.
    126 and 127: the command cannot be run, as in a shell. TERM, INT and HUP go to the command.
    """
    from cyoloctl.cli import lease

    ttl_s = parse_seconds(ttl, "--ttl", minimum_s=1, maximum_s=_MAX_S)
    wait_s = parse_seconds(wait, "--wait", minimum_s=0, maximum_s=_MAX_S)
    path_for("lock_get", name)  # a bad name: before anything else
    client = invocation.client()  # so is an endpoint, or a data directory, that cannot be used
    refused = lease.not_runnable(words[0])
    if refused is not None:
        output.note(f"cyoloctl: {refused[1]}; the lock was not acquired")
        return refused[0]
    held = lease.acquire(client.caller, name, ttl_s=ttl_s, wait_s=wait_s)
    return lease.run(held, words, invocation.timeout_s)


@command()
def show(invocation: Invocation, name: NameArgument, stale: StaleOption = False) -> None:
    """Show who holds a lock, and until when; 3 when it is free."""
    found = invocation.read("lock_get", name, stale=stale)
    invocation.fields(found, rows_of(found, *_FIELDS))


@command()
def list_(invocation: Invocation, stale: StaleOption = False) -> None:
    """List the locks that are held."""
    found = invocation.client().locks.list(stale=stale)
    if stale:
        invocation.stale()
    if invocation.mode == "table":
        output.table(_COLUMNS, [[text_of(dict(lock)[field]) for field in _FIELDS] for lock in found])
    else:
        output.structured(listed("locks", found, stale), invocation.mode)


_COLUMNS = (
    Column("LOCK", identifier=True),
    Column("TOKEN", right=True),
    Column("OWNER"),
    Column("BY", drop=1),
    Column("ACQUIRED", drop=3),
    Column("EXPIRES", drop=2),
)


@command()
def release(
    invocation: Invocation,
    name: NameArgument,
    yes: Annotated[bool, Option("--yes", help="Do not ask for confirmation.")] = False,
    request_id: RequestIdOption = None,
) -> None:
    """Take a lock away from whoever holds it; 3 when it is free.

    `lock run` there notices within a third of its --ttl, and ends its command.
    Until then the command runs beside that of the next holder.
    """
    path_for("lock_break", name)
    confirm(yes, f"take lock {name} away from its holder?")
    found = invocation.client().locks.release(name, request_id=request_id)
    invocation.fields(found, rows_of(found, *_FIELDS))


COMMANDS: dict[str, Leaf] = {"run": run, "list": list_, "show": show, "release": release}
