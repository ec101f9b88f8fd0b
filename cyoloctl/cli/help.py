"""``cyoloctl help``: the help of every command, and reference texts."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import typer.core

from cyoloctl.cli import output
from cyoloctl.cli.invocation import Invocation, Leaf, command
from cyoloctl.cli.output import Column
from cyoloctl.cli.parameters import Argument
from cyoloctl.errors import UsageError, error_classes

__all__ = ["COMMANDS", "exit_code_table", "show"]

_COLUMNS = (
    Column("STATUS", identifier=True, right=True),
    Column("CODE", identifier=True),
    Column("HTTP", right=True),
    Column("MEANING"),
)


def exit_code_table() -> list[dict[str, Any]]:
    """Every status and string code with its HTTP status and meaning, by status."""
    done = {"exit_status": 0, "code": "ok", "http_status": 200, "meaning": "done"}
    return [
        done,
        *(
            {
                "exit_status": cls.exit_status,
                "code": cls.code,
                "http_status": cls.http_status,
                "meaning": cls.meaning,
            }
            for cls in error_classes()
        ),
    ]


@command(connects=False, data_dir=False, timeout_s=None)
def exit_codes(invocation: Invocation) -> None:
    """List the exit statuses with their codes, HTTP statuses and meanings."""
    codes = exit_code_table()
    if invocation.mode != "table":
        output.structured({"schema_version": 1, "exit_codes": codes}, invocation.mode)
        return
    output.table(
        _COLUMNS,
        [(str(c["exit_status"]), c["code"], str(c["http_status"]), c["meaning"]) for c in codes],
    )


@command(connects=False, data_dir=False, timeout_s=None)
def show(
    invocation: Invocation,
    context: typer.Context,
    words: Annotated[list[str], Argument(metavar="COMMAND...", help="Words of the command.")],
) -> None:
    """Show the help of a command or group; `cyoloctl help` alone shows that of the program."""
    found: Any = context.find_root()
    for word in words[1:] if words[0] == found.info_name else words:
        if not isinstance(found.command, typer.core.TyperGroup):
            raise UsageError(f"`{found.command_path}` has no sub-command {word[:80]!r}: leave it out")
        _, command, _ = found.command.resolve_command(found, [word])
        assert command is not None  # where there is none, typer says so
        found = typer.Context(command, parent=found, info_name=word)
    text = found.get_help()
    invocation.value({"schema_version": 1, "command": found.command_path, "help": text}, text)


COMMANDS: dict[str, Leaf] = {"exit-codes": exit_codes}
